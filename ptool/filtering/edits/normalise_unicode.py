"""Write characters in Unicode's composed form.

Source: Unicode Standard Annex 15. NFC changes no meaning and makes equal words equal bytes; NFKC also turns full-width
letters, ligatures and superscripts into plain ones, which loses something.
"""

from __future__ import annotations

import unicodedata
from typing import ClassVar, Literal

from ptool.filtering.protocol import Edit
from ptool.text.batch import Batch, Columns, columns_of


class NormaliseUnicode(Edit, frozen=True):
    """Makes the two ways to write é one."""

    form: Literal["NFC", "NFKC"] = "NFC"

    changes: ClassVar = (("cafe\u0301", "café"),)
    leaves: ClassVar = ("café", "ﬁne１", "文", "")

    def apply(self, batch: Batch) -> Columns:
        """Each text in normal form `form`."""
        texts = [batch.text_of(index) for index in range(len(batch))]
        return columns_of([text if text.isascii() else self._normal(text) for text in texts])

    def _normal(self, text: bytes) -> bytes:
        decoded = text.decode()
        return (
            text
            if unicodedata.is_normalized(self.form, decoded)
            else unicodedata.normalize(self.form, decoded).encode()
        )
