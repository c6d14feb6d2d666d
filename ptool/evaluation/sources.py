"""The documents to score: the held-out ones of the run's packed data, or a stream tokenised the same way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ptool.errors import BadDocument, InputError
from ptool.evaluation.perplexity import Document
from ptool.formats.packed import PackedDataset, PackedSplit
from ptool.formats.streams import StreamReader
from ptool.reporting import SILENT, Reporter
from ptool.text.batch import Keys, decode
from ptool.tokenizers.loading import Tokenizer


class HeldOut:
    """The held-out documents of a packed folder, without the EOD that packing put at their ends.

    `digest` is that of the packed data's manifest. Raises `InputError` where no document was held out.
    """

    def __init__(self, packed: PackedDataset) -> None:
        self._split: PackedSplit = packed.holdout
        self._eod_id = packed.eod_id
        ends = 0 if packed.eod_id is None else packed.holdout.num_documents
        self.total_tokens: int | None = packed.holdout.num_tokens - ends
        self.digest = packed.fingerprint
        if packed.holdout.num_documents == 0:
            raise InputError(
                "no documents were held out",
                where=str(packed.folder),
                hint="give a document stream: ptool eval RUN STREAM; or pack with a larger --holdout",
            )

    def __iter__(self) -> Iterator[Document]:
        for found in self._split.documents():
            tokens = found.tokens
            if self._eod_id is not None and len(tokens) and tokens[-1] == self._eod_id:
                tokens = tokens[:-1]
            yield Document(found.id, found.source, found.num_bytes, tokens)


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
