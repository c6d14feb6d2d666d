r"""C4's editing of lines: text in, text out, one pass.

`edit_lines` is the line part of C4 (Raffel et al. 2020, section 2.2) in the reading of datatrove 0.10.1
(C4QualityFilter), which follows the original code: lines are those of `str.splitlines()`, stripped; one goes if it has
a word of more than 1000 characters, lacks terminal punctuation, has fewer than 3 words, mentions JavaScript or holds a
policy phrase; citations (`[12]`, `[edit]`, `[citation needed]`) are cut out of the rest. The tests come in that order,
the first and third on the line as it was, the others on the line without citations. Comparison without case is that of
`str.lower`: beside A to Z, the Kelvin sign is a k.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ptool.text.compiled import kernel
from ptool.text.kinds import DIGIT, character_kinds
from ptool.text.lines import LineSpans
from ptool.text.marks import characters_before, first_one_from, first_zero, last_one
from ptool.text.utf8 import character_at
from ptool.text.vectors import bytes_between, eight_at, first_one, put_eight

_LOREM = 1
_JAVASCRIPT = 2
_POLICY = 4
# c4_filters.py, POLICY_SUBSTRINGS; the first two are tests of their own. Each is looked for by three letters in a row
# that are rare in text: where these stand in the phrase comes first. None is a k, which the Kelvin sign is too.
_PHRASES = (
    (8, "lorem ipsum", _LOREM),  # sum
    (0, "javascript", _JAVASCRIPT),  # jav
    (3, "terms of use", _POLICY),  # ms and a space
    (3, "privacy policy", _POLICY),  # vac
    (0, "cookie policy", _POLICY),  # coo
    (5, "uses cookies", _POLICY),  # coo
    (7, "use of cookies", _POLICY),  # coo
    (4, "use cookies", _POLICY),  # coo
)
_CITATIONS = (b"[edit]", b"[citation needed]")

Column = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]
Bits = npt.NDArray[np.uint64]


class _Phrases(NamedTuple):
    """Phrases end to end, where each begins, its bit, where its rare letters stand, and a table of lower case."""

    letters: Column
    bounds: npt.NDArray[np.int64]
    bits: Column
    at: npt.NDArray[np.int64]
    lower: Column


def edit_lines(
    lines: LineSpans,
    *,
    terminal: bool = True,
    citations: bool = True,
    min_words: int = 3,
    max_word_chars: int = 1000,
    javascript: bool = True,
    policy: bool = True,
) -> tuple[Column, Offsets]:
    """The texts that `lines` were split from with C4's lines only, joined by newlines: uint8[total], int64[n + 1].

    A line with "lorem ipsum" or a curly bracket for which C4 drops the whole document is left in, for a rule to find.
    """
    marks = lines.marks
    letters = [np.frombuffer(phrase.encode(), dtype=np.uint8) for _, phrase, _ in _PHRASES]
    phrases = _Phrases(
        np.concatenate(letters),
        np.cumsum([0, *(len(phrase) for phrase in letters)]),
        np.array([bit for _, _, bit in _PHRASES], dtype=np.uint8),
        np.array([position for position, _, _ in _PHRASES], dtype=np.int64),
        np.frombuffer(bytes(range(256)).lower(), dtype=np.uint8),
    )
    out = np.zeros(len(lines.text) + len(lines.doc_offsets) + 64, dtype=np.uint8)
    offsets = np.zeros_like(lines.doc_offsets)
    size = _edit(
        lines.text, lines.stripped_starts, lines.stripped_ends, lines.doc_offsets, marks.spaces, marks.leads,
        marks.before, character_kinds(), terminal, citations, min_words, max_word_chars, javascript, policy,
        phrases, np.frombuffer(_CITATIONS[0], dtype=np.uint8), np.frombuffer(_CITATIONS[1], dtype=np.uint8), out,
        offsets,
    )  # fmt: skip
    return out[:size], offsets


@kernel
def _edit(
    text: Column,
    starts: npt.NDArray[np.signedinteger],
    ends: npt.NDArray[np.signedinteger],
    doc_offsets: Offsets,
    spaces: Bits,
    leads: Bits,
    before: npt.NDArray[np.int64],
    kinds: Column,
    terminal: bool,
    citations: bool,
    min_words: int,
    max_word_chars: int,
    javascript: bool,
    policy: bool,
    phrases: _Phrases,
    edit_mark: Column,
    needed_mark: Column,
    out: Column,
    offsets: Offsets,
) -> int:
    end = 0
    for document in range(len(doc_offsets) - 1):
        first = end
        num_kept = 0
        for line in range(doc_offsets[document], doc_offsets[document + 1]):
            begin, until = int(starts[line]), int(ends[line])
            if max_word_chars >= 0 and _has_longer_word(spaces, leads, before, begin, until, max_word_chars):
                continue
            start = end + (1 if num_kept else 0)
            if citations and _holds(text, begin, until, 0x5B):
                stop = _copy_without_citations(text, begin, until, kinds, edit_mark, needed_mark, out, start)
            else:
                stop = _copy(text, begin, until, out, start)
            if terminal and not _ends_a_sentence(out, start, stop):
                continue
            if not _has_words(spaces, begin, until, min_words):
                continue
            found = _find_phrases(out, start, stop, phrases)
            if found and not found & _LOREM:
                if javascript and found & _JAVASCRIPT:
                    continue
                if policy and found & _POLICY and not _holds(out, start, stop, 0x7B):
                    continue
            if num_kept:
                out[end] = 0x0A
            end = stop
            num_kept += 1
        offsets[document] = first
        offsets[document + 1] = end
    return end


@kernel
def _has_words(spaces: Bits, start: int, stop: int, least: int) -> bool:
    """Whether a stripped line has as many words of `str.split()`."""
    position = start
    for _ in range(least):
        if position >= stop:
            return False
        position = first_zero(spaces, first_one_from(spaces, position, stop), stop)
    return True


@kernel
def _has_longer_word(
    spaces: Bits, leads: Bits, before: npt.NDArray[np.int64], start: int, stop: int, most: int
) -> bool:
    """Whether a word of a line has more than `most` characters; most lines are not even as long."""
    position = start
    while stop - position > most:
        # A word of more characters that begins here reaches beyond position + most; else the next one follows a space.
        last = last_one(spaces, position, position + most + 1)
        if last < position:
            end = first_one_from(spaces, position, stop)
            if characters_before(leads, before, end) - characters_before(leads, before, position) > most:
                return True
            last = end
        position = last + 1
    return False


@kernel
def _holds(text: Column, start: int, stop: int, byte: int) -> bool:
    """Whether a byte is among start <= position < stop."""
    position = start
    while position + 64 <= stop:
        if bytes_between(text, position, byte, byte):
            return True
        position += 64
    if position + 64 <= len(text):
        inside = (np.uint64(1) << np.uint64(stop - position)) - np.uint64(1)
        return bool(bytes_between(text, position, byte, byte) & inside != 0)
    while position < stop and text[position] != byte:
        position += 1
    return position < stop


@kernel
def _copy(text: Column, start: int, stop: int, out: Column, to: int) -> int:
    """Copy a line; where it ends in `out`, which has room for 64 bytes more."""
    position = start
    end = to + stop - start
    while position + 32 <= len(text) and position < stop:
        for step in range(0, 32, 8):
            put_eight(out, to + step, eight_at(text, position + step))
        position += 32
        to += 32
    while position < stop:
        out[to] = text[position]
        to += 1
        position += 1
    return end


@kernel
def _copy_without_citations(
    text: Column, start: int, stop: int, kinds: Column, edit: Column, needed: Column, out: Column, to: int
) -> int:
    """Copy a line without its citations; where it ends in `out`."""
    position = start
    while position < stop:
        if text[position] == 0x5B:
            size = _citation(text, position, stop, kinds, edit, needed)
            if size:
                position += size
                continue
        out[to] = text[position]
        to += 1
        position += 1
    return to


@kernel
def _citation(text: Column, start: int, stop: int, kinds: Column, edit: Column, needed: Column) -> int:
    r"""Bytes of the citation that begins at `start`: `\[\d*]|\[edit]|\[citation needed]`; 0 for none."""
    position = start + 1
    while position < stop:
        code, size = character_at(text, position)
        if not kinds[code] & DIGIT:
            if code == 0x5D:
                return position + 1 - start
            break
        position += size
    if _matches(text, start, stop, edit):
        return len(edit)
    return len(needed) if _matches(text, start, stop, needed) else 0


@kernel
def _matches(text: Column, start: int, stop: int, wanted: Column) -> bool:
    if stop - start < len(wanted):
        return False
    matched = 0
    while matched < len(wanted) and text[start + matched] == wanted[matched]:
        matched += 1
    return matched == len(wanted)


@kernel
def _ends_a_sentence(out: Column, start: int, stop: int) -> bool:
    """Ends in . ? ! " or ' but not in three dots."""
    if stop <= start:
        return False
    last = out[stop - 1]
    if last in (0x3F, 0x21, 0x22, 0x27):
        return True
    return last == 0x2E and not (stop - start >= 3 and out[stop - 2] == 0x2E and out[stop - 3] == 0x2E)


@kernel
def _find_phrases(out: Column, start: int, stop: int, phrases: _Phrases) -> int:
    """The bits of the phrases in a line; `out` goes on for 64 bytes after it."""
    found = 0
    position = start
    while position < stop:
        a, c, m = _letter(out, position, 0x61), _letter(out, position, 0x63), _letter(out, position, 0x6D)
        o, s, v = _letter(out, position, 0x6F), _letter(out, position, 0x73), _letter(out, position, 0x76)
        j, u = _letter(out, position, 0x6A), _letter(out, position, 0x75)
        space = bytes_between(out, position, 0x20, 0x20)
        here = (
            _in_row(j, a, v) | _in_row(v, a, c) | _in_row(c, o, o) | _in_row(s, u, m) | _in_row(m, s, space)
        )  # fmt: skip
        while here:
            at = position + first_one(here)
            here &= here - np.uint64(1)
            for phrase in range(len(phrases.bits)):
                begin = at - phrases.at[phrase]
                if begin >= start and _phrase_at(
                    out, begin, stop, phrases.letters, phrases.bounds[phrase], phrases.bounds[phrase + 1], phrases.lower
                ):
                    found |= phrases.bits[phrase]
        position += 62  # three in a row begin at the first 62 of 64
    return found


@kernel
def _letter(out: Column, position: int, letter: int) -> np.uint64:
    """Where an ASCII letter stands among 64 bytes, large or small."""
    return bytes_between(out, position, letter, letter) | bytes_between(out, position, letter - 32, letter - 32)


@kernel
def _in_row(first: np.uint64, second: np.uint64, third: np.uint64) -> np.uint64:
    return first & second >> np.uint64(1) & third >> np.uint64(2)


@kernel
def _phrase_at(out: Column, position: int, stop: int, letters: Column, first: int, last: int, lower: Column) -> bool:
    at = position
    for index in range(first, last):
        if at >= stop:
            return False
        if letters[index] == lower[out[at]]:
            at += 1
        elif letters[index] == 0x6B and out[at] == 0xE2 and out[at + 1] == 0x84 and out[at + 2] == 0xAA:
            at += 3  # the Kelvin sign, whose lower case is k
        else:
            return False
    return True
