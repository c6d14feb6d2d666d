"""Keep the lines that C4 keeps, without citations.

Source: C4 (Raffel et al. 2020, section 2.2), in the reading of datatrove 0.10.1 (C4QualityFilter): see
ptool/text/line_edits.py. FineWeb uses it with `terminal = false`: lines need no punctuation at their end.
"""

from __future__ import annotations

from typing import ClassVar

from ptool.filtering.protocol import Edit
from ptool.text.batch import Batch, Columns


class C4Lines(Edit, frozen=True):
    """Takes menus, buttons, cookie notices and citation marks out of a page.

    -1 switches `min_words` or `max_word_chars` off.
    """

    terminal: bool = True
    citations: bool = True
    min_words: int = 3
    max_word_chars: int = 1000
    javascript: bool = True
    policy: bool = True

    changes: ClassVar = (
        ("Home\nA whole sentence.[1]\nPlease enable JavaScript.", "A whole sentence."),
        ("We use cookies, you know.\r\n\r\n  It is late now.  ", "It is late now."),
    )
    leaves: ClassVar = ("One whole sentence.\nAnd another one!", "")

    def apply(self, batch: Batch) -> Columns:
        """The kept lines of each text, joined by newlines."""
        from ptool.text.line_edits import edit_lines  # numba starts with the first edit

        return edit_lines(
            batch.text_lines,
            terminal=self.terminal,
            citations=self.citations,
            min_words=self.min_words,
            max_word_chars=self.max_word_chars,
            javascript=self.javascript,
            policy=self.policy,
        )
