"""The documents to score: the held-out ones of the run's packed data, or a stream tokenised the same way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import xxhash

from ptool.errors import BadDocument, InputError
from ptool.evaluation.perplexity import Document
from ptool.formats.packed import PackedDataset
from ptool.formats.streams import StreamReader
from ptool.reporting import SILENT, Reporter
from ptool.text.batch import Keys, decode
from ptool.tokenizers.loading import Tokenizer


class HeldOut:
    """The held-out documents of packed folders, without the EOD that packing put at their ends.

    `digest` is that of the packed data's manifest, of several the digest of theirs. Raises `InputError` where no
    document was held out.
    """

    def __init__(self, packed: Sequence[PackedDataset]) -> None:
        self._packed = packed
        self.total_tokens: int | None = sum(one.holdout.num_tokens - self._ends(one) for one in packed)
        self.digest = packed[0].fingerprint
        if len(packed) > 1:
            together = "\n".join(one.fingerprint for one in packed)
            self.digest = f"xxh3-128:{xxhash.xxh3_128_hexdigest(together)}"
        if not any(one.holdout.num_documents for one in packed):
            raise InputError(
                "no documents were held out",
                where=", ".join(str(one.folder) for one in packed),
                hint="give a document stream: ptool eval RUN STREAM; or pack with a larger --holdout",
            )

    def __iter__(self) -> Iterator[Document]:
        for one in self._packed:
            for found in one.holdout.documents():
                tokens = found.tokens
                if one.eod_id is not None and len(tokens) and tokens[-1] == one.eod_id:
                    tokens = tokens[:-1]
                yield Document(found.id, found.source, found.num_bytes, tokens)

    @staticmethod
    def _ends(packed: PackedDataset) -> int:
        """How many of the held-out tokens are EODs."""
        return 0 if packed.eod_id is None else packed.holdout.num_documents


class Streamed:
    """The documents of a stream (a path, or "-" for stdin), tokenised as they come; iterate once.

    Raises `BadDocument`, with file and line, for a line that is no document, and what `StreamReader` raises for a
    damaged stream. `digest` is known after the end.
    """

    def __init__(self, stream: str | Path, tokenizer: Tokenizer, *, keys: Keys, reporter: Reporter = SILENT) -> None:
        self._reader = StreamReader([stream], reporter=reporter)
        self._tokenizer = tokenizer
        self._keys = keys
        self.total_tokens: int | None = None

    @property
    def digest(self) -> str:
        """xxh3-128 of the uncompressed lines."""
        return self._reader.digest

    def __iter__(self) -> Iterator[Document]:
        for lines in self._reader:
            batch, bad = decode(lines, self._keys)
            for line in bad:
                raise BadDocument(line.message, where=f"{lines.path}:{line.number}")
            texts = [batch.text_of(index) for index in range(len(batch))]
            encoded = self._tokenizer.encode_batch([text.decode("utf-8") for text in texts])
            for index, (text, tokens) in enumerate(zip(texts, encoded, strict=True)):
                yield Document(batch.ids[index], batch.sources[index], len(text), tokens)
