"""A batch of documents as columns: the lines themselves, one UTF-8 buffer of all texts, and offsets.

Everything that looks at text works on this shape: a kernel walks one buffer and returns one array for all documents,
so Python's cost per document is that of decoding its line (msgspec, typed: 0.4 to 1.4 GB/s, the slow end for documents
of 300 bytes). Words and lines are split once per batch, when first asked for, and shared by all rules.

Decoding is strict, because a line that is quietly half understood is lost without a trace: every line is a document,
a `BadLine` with the reason, or blank. Nothing is serialised again: a document keeps the bytes of its line, and one
without an id has `"id":"<file>#<line>",` spliced in after its opening brace.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from ptool.errors import UsageError
from ptool.formats.streams import Lines
from ptool.text.document_lines import document_decoder, is_utf8, lines_of, splice_start, string_or_none, why_bad

if TYPE_CHECKING:
    from ptool.text.lines import LineSpans
    from ptool.text.marks import Marks
    from ptool.text.packed_words import PackedWords
    from ptool.text.profile import Profile
    from ptool.text.repetition import Repeated
    from ptool.text.segments import Segments
    from ptool.text.words import Words

WordRule = Literal["cjk", "whitespace", "unicode"]
"""How text is cut into words: words.py."""

Columns = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]
"""Texts end to end, uint8[total], and where each begins, int64[n + 1]."""

_DERIVED = (
    "marks", "words", "num_words", "text_lines", "num_chars", "profile", "newline_lines", "repeated_runs",
    "repeated_paragraphs", "filled_lines", "packed_words",
)  # fmt: skip

_LARGE = 16 << 20  # bytes of text; batches are of 4 MiB, unless a document is longer

_JSON_WHITESPACE = b" \t\r\n"


class Keys(msgspec.Struct, frozen=True):
    """What the fields are called; a foreign schema is mapped by `--text-key`, `--id-key`, `--source-key`."""

    text: str = "text"
    id: str = "id"
    source: str = "source"

    def __post_init__(self) -> None:
        if len({self.text, self.id, self.source}) < 3:
            message = f"text, id and source need three different keys, got '{self.text}', '{self.id}', '{self.source}'"
            raise UsageError(message, hint="for example --text-key content --id-key url")


class BadLine(msgspec.Struct, frozen=True):
    """A line that is not a document: its number in the input (from 1), its bytes without the newline, and why."""

    number: int
    raw: bytes
    message: str


class Batch:
    """Documents as columns.

    lines        bytes           the lines to write out, each ending in a newline; ids that were missing are in them
    line_starts  int64[n + 1]    where each document's line begins in `lines`
    ids          list[str]       not necessarily unique
    sources      list[str|None]  None where the field is missing or no string
    text         uint8[total]    the texts, UTF-8, one after another
    offsets      int64[n + 1]    where each text begins in `text`
    numbers      int64[n]        line numbers in the input, from 1
    """

    def __init__(
        self,
        *,
        lines: bytes,
        line_starts: npt.NDArray[np.int64],
        ids: list[str],
        sources: list[str | None],
        text: npt.NDArray[np.uint8],
        offsets: npt.NDArray[np.int64],
        numbers: npt.NDArray[np.int64],
        word_rule: WordRule = "cjk",
    ) -> None:
        self.lines = lines
        self.line_starts = line_starts
        self.ids = ids
        self.sources = sources
        self.text = text
        self.offsets = offsets
        self.numbers = numbers
        self.word_rule: WordRule = word_rule
        self._fields: dict[str, list[Any]] = {}

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def from_texts(
        cls, texts: Sequence[str], *, word_rule: WordRule = "cjk", lines: list[bytes] | None = None
    ) -> Batch:
        """A batch of bare texts, without lines unless given. Raises UnicodeEncodeError for a lone surrogate."""
        text, offsets = columns_of([one.encode() for one in texts])
        return cls(
            lines=b"".join(lines or []),
            line_starts=_offsets([len(line) for line in lines or [b""] * len(texts)]),
            ids=[""] * len(texts),
            sources=[None] * len(texts),
            text=text,
            offsets=offsets,
            numbers=np.arange(1, len(texts) + 1, dtype=np.int64),
            word_rule=word_rule,
        )

    @cached_property
    def marks(self) -> Marks:
        """Bitmaps of the texts, made on first use."""
        from ptool.text.marks import mark  # numba starts with the first measurement

        return mark(self.text, self.offsets, cjk_apart=self.word_rule == "cjk")

    @cached_property
    def words(self) -> Words:
        """The words of all documents, split by `word_rule` on first use."""
        from ptool.text.words import split_words

        if self.is_large:
            self.__dict__.pop("packed_words", None)
        return split_words(self.text, self.offsets, self.word_rule, self.marks)

    @cached_property
    def num_words(self) -> npt.NDArray[np.int64]:
        """int64[n]: words of each text; cheaper than `words` where nothing else is asked of them."""
        from ptool.text.words import count_words

        if "words" in self.__dict__:
            return self.words.num_words
        return count_words(self.text, self.offsets, self.word_rule, self.marks)

    @cached_property
    def text_lines(self) -> LineSpans:
        """The lines of all texts, split on first use."""
        from ptool.text.lines import split_lines

        return split_lines(self.text, self.offsets, self.marks)

    @cached_property
    def num_chars(self) -> npt.NDArray[np.int64]:
        """int64[n]: code points of each text (`len`)."""
        from ptool.text.marks import count_in

        return count_in(self.marks.leads, self.offsets)

    @cached_property
    def profile(self) -> Profile:
        """What kinds of characters each text is made of."""
        from ptool.text.profile import profile

        return profile(self.text, self.offsets)

    @cached_property
    def newline_lines(self) -> Segments:
        r"""`text.split("\n")` of all texts."""
        from ptool.text.segments import newline_lines

        return newline_lines(self.text, self.offsets, self.marks)

    @cached_property
    def repeated_runs(self) -> tuple[npt.NDArray[np.int64], Repeated]:
        r"""Pieces of `re.split(r"\n+", text)`: how many (int64[n]), and those that repeat an earlier one."""
        from ptool.text.repetition import repeated_segments
        from ptool.text.segments import runs_of_lines

        runs = runs_of_lines(self.newline_lines)
        return runs.counts, repeated_segments(runs)

    @cached_property
    def repeated_paragraphs(self) -> tuple[npt.NDArray[np.int64], Repeated]:
        """Paragraphs: how many (int64[n]), and those that repeat an earlier one."""
        from ptool.text.repetition import repeated_segments
        from ptool.text.segments import paragraphs

        found = paragraphs(self.newline_lines)
        return found.counts, repeated_segments(found)

    @cached_property
    def filled_lines(self) -> Segments:
        """The newline lines that are not whitespace alone."""
        return self.newline_lines.where(~self.newline_lines.blank)

    @cached_property
    def packed_words(self) -> PackedWords:
        """The words end to end, for n-grams; made on first use."""
        from ptool.text.packed_words import pack_marked, pack_words

        if not self.is_large or self.word_rule == "unicode":
            packed = pack_words(self.words)
        else:
            packed = pack_marked(self.text, self.offsets, self.marks.starts, self.marks.spaces)
        if self.is_large:  # counting n-grams takes room: the bitmaps and spans are quickly made again
            for name in ("words", "marks", "text_lines"):
                self.__dict__.pop(name, None)
        return packed

    @property
    def is_large(self) -> bool:
        """Whether it has a document of many megabytes: then it keeps no more than it must."""
        return len(self.text) > _LARGE

    def count(self, wanted: str) -> npt.NDArray[np.int64]:
        """int64[n]: how often `wanted` occurs in each text, without overlap (`str.count`)."""
        from ptool.text.counts import count_substring

        return count_substring(self.text, self.offsets, wanted)

    def with_texts(self, columns: Columns) -> Batch:
        """The same documents with other texts; their lines stay as they are."""
        text, offsets = columns
        return Batch(
            lines=self.lines,
            line_starts=self.line_starts,
            ids=self.ids,
            sources=self.sources,
            text=text,
            offsets=offsets,
            numbers=self.numbers,
            word_rule=self.word_rule,
        )

    def forget(self) -> None:
        """Let go of everything that was split or counted; it is made again when asked for."""
        for name in _DERIVED:
            self.__dict__.pop(name, None)

    def fields(self, path: str) -> list[Any]:
        """What stands under `path` in each document's line (`scores.toxicity`: nested); None where nothing does."""
        from ptool.text.fields import read_fields

        if path not in self._fields:
            self._fields[path] = read_fields(self.lines, self.line_starts, path)
        return self._fields[path]

    def line(self, index: int) -> bytes:
        """The line of document `index` as it is to be written, with its newline."""
        return self.lines[self.line_starts[index] : self.line_starts[index + 1]]

    def text_of(self, index: int) -> bytes:
        """The text of document `index`, UTF-8."""
        return self.text[self.offsets[index] : self.offsets[index + 1]].tobytes()

    def select(self, keep: npt.NDArray[np.bool_]) -> bytes:
        """The lines of the documents where `keep` (bool[n]) holds, in order; neighbours are copied as one piece."""
        if keep.all():
            return self.lines
        edges = np.flatnonzero(np.diff(keep.astype(np.int8), prepend=0, append=0))
        view = memoryview(self.lines)
        starts = self.line_starts
        pairs = zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
        return b"".join([view[starts[first] : starts[last]] for first, last in pairs])


def decode(lines: Lines, keys: Keys | None = None, *, word_rule: WordRule = "cjk") -> tuple[Batch, list[BadLine]]:
    """Documents and bad lines among `lines`, each in input order. Blank lines are neither."""
    keys = keys or Keys()
    read = document_decoder(keys).decode
    all_utf8 = is_utf8(lines.data)
    spliced = splice_start(keys, lines.origin)
    pieces: list[bytes] = []
    texts: list[bytes] = []
    ids: list[str] = []
    sources: list[str | None] = []
    numbers: list[int] = []
    bad: list[BadLine] = []
    known_sources: dict[bytes, str | None] = {}
    changed = not lines.data.endswith(b"\n")  # or a line was left out, or got an id
    for number, line in enumerate(lines_of(lines.data), start=lines.first_number):
        try:
            if not all_utf8:
                line.decode()  # msgspec does not look into the fields it skips
            document = read(line)
            raw_source = bytes(document.source)
            if raw_source not in known_sources:
                known_sources[raw_source] = string_or_none(raw_source)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            changed = True
            if line.strip(_JSON_WHITESPACE):
                bad.append(BadLine(number=number, raw=line, message=why_bad(line, keys, error)))
            continue
        identity = document.id
        if identity is None:
            identity = f"{lines.origin}#{number}"
            changed = True
            brace = line.index(b"{") + 1
            line = b"".join((line[:brace], spliced, str(number).encode(), b'",', line[brace:]))
        pieces.append(line)
        texts.append(document.text.encode())
        ids.append(identity)
        sources.append(known_sources[raw_source])
        numbers.append(number)
    text, offsets = columns_of(texts)
    pieces.append(b"")  # so that the last line ends in a newline too
    batch = Batch(
        lines=b"\n".join(pieces) if changed else lines.data,
        line_starts=_offsets([len(piece) + 1 for piece in pieces[:-1]]),
        ids=ids,
        sources=sources,
        text=text,
        offsets=offsets,
        numbers=np.array(numbers, dtype=np.int64),
        word_rule=word_rule,
    )
    return batch, bad


def columns_of(texts: Sequence[bytes]) -> Columns:
    """Texts (UTF-8) as columns."""
    return np.frombuffer(b"".join(texts), dtype=np.uint8), _offsets([len(text) for text in texts])


def _offsets(lengths: list[int]) -> npt.NDArray[np.int64]:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(np.array(lengths, dtype=np.int64), out=offsets[1:])
    return offsets
