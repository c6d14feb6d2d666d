r"""C4's editing of lines, and other edits of whole buffers: text in, text out, one pass.

`edit_lines` is the line part of C4 (Raffel et al. 2020, section 2.2) in the reading of datatrove 0.10.1
(C4QualityFilter), which follows the original code: lines are those of `str.splitlines()`, stripped; one goes if it has
a word of more than 1000 characters, lacks terminal punctuation, has fewer than 3 words, mentions JavaScript or holds a
policy phrase; citations (`[12]`, `[edit]`, `[citation needed]`) are cut out of the rest. The tests come in that order,
the first and third on the line as it was, the others on the line without citations. Comparison without case is that of
`str.lower`: beside A to Z, the Kelvin sign is a k.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ptool.text.characters import SPACE, character_flags
from ptool.text.compiled import kernel
from ptool.text.kinds import DIGIT, character_kinds
from ptool.text.lines import LineSpans
from ptool.text.utf8 import character_at

_LOREM = 1
_JAVASCRIPT = 2
_POLICY = 4
# c4_filters.py, POLICY_SUBSTRINGS; the first two are tests of their own.
# Each is looked for by a letter that is rare in text: its position in the phrase comes first.
_PHRASES = (
    (7, "lorem ipsum", _LOREM),
    (0, "javascript", _JAVASCRIPT),
    (7, "terms of use", _POLICY),
    (3, "privacy policy", _POLICY),
    (3, "cookie policy", _POLICY),
    (8, "uses cookies", _POLICY),
    (10, "use of cookies", _POLICY),
    (7, "use cookies", _POLICY),
)
_CITATIONS = (b"[edit]", b"[citation needed]")

Column = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]


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
    letters = [np.frombuffer(phrase.encode(), dtype=np.uint8) for _, phrase, _ in _PHRASES]
    bounds = np.cumsum([0, *(len(phrase) for phrase in letters)])
    bits = np.array([bit for _, _, bit in _PHRASES], dtype=np.uint8)
    at = np.array([position for position, _, _ in _PHRASES], dtype=np.int64)
    rare = np.zeros(256, dtype=np.bool_)
    for position, phrase, _ in _PHRASES:
        rare[[ord(phrase[position]), ord(phrase[position].upper())]] = True
    rare[0xE2] = True  # the Kelvin sign, for k
    out = np.empty(len(lines.text) + len(lines.doc_offsets), dtype=np.uint8)
    offsets = np.zeros_like(lines.doc_offsets)
    size = _edit(
        lines.text, lines.stripped_starts, lines.stripped_ends, lines.doc_offsets, character_flags(), character_kinds(),
        terminal, citations, min_words, max_word_chars, javascript, policy,
        np.concatenate(letters), bounds, bits, at, rare, _lower_case(),
        np.frombuffer(_CITATIONS[0], dtype=np.uint8), np.frombuffer(_CITATIONS[1], dtype=np.uint8), out, offsets,
    )  # fmt: skip
    return out[:size], offsets


def strip_edges(text: Column, offsets: Offsets) -> tuple[Column, Offsets]:
    """`str.strip` of n texts."""
    out = np.empty_like(text)
    stripped = np.zeros_like(offsets)
    size = _strip(text, offsets, character_flags(), out, stripped)
    return out[:size], stripped


def differ(text: Column, offsets: Offsets, other: Column, other_offsets: Offsets) -> npt.NDArray[np.bool_]:
    """bool[n]: which of n texts are not the same bytes in both buffers."""
    return _differ(text, offsets, other, other_offsets)


def _lower_case() -> Column:
    return np.frombuffer(bytes(range(256)).lower(), dtype=np.uint8)


@kernel
def _edit(
    text: Column,
    starts: npt.NDArray[np.signedinteger],
    ends: npt.NDArray[np.signedinteger],
    doc_offsets: Offsets,
    table: Column,
    kinds: Column,
    terminal: bool,
    citations: bool,
    min_words: int,
    max_word_chars: int,
    javascript: bool,
    policy: bool,
    letters: Column,
    bounds: npt.NDArray[np.int64],
    bits: Column,
    at: npt.NDArray[np.int64],
    rare: npt.NDArray[np.bool_],
    lower: Column,
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
            num_words, longest, bracket = _measure_words(text, starts[line], ends[line], table)
            if max_word_chars >= 0 and longest > max_word_chars:
                continue
            start = end + (1 if num_kept else 0)
            stop = _copy(
                text, starts[line], ends[line], kinds, citations and bracket, edit_mark, needed_mark, out, start
            )
            if terminal and not _ends_a_sentence(out, start, stop):
                continue
            if num_words < min_words:
                continue
            found = _find_phrases(out, start, stop, letters, bounds, bits, at, rare, lower)
            if not found & _LOREM:
                if javascript and found & _JAVASCRIPT:
                    continue
                if policy and found & _POLICY and not _has_byte(out, start, stop, 0x7B):
                    continue
            if num_kept:
                out[end] = 0x0A
            end = stop
            num_kept += 1
        offsets[document] = first
        offsets[document + 1] = end
    return end


@kernel
def _measure_words(text: Column, start: int, stop: int, table: Column) -> tuple[int, int, bool]:
    """Words of `str.split()`, the code points of the longest, and whether there is a square bracket."""
    num_words = 0
    longest = 0
    begin = 0  # characters before the word
    chars = 0
    bracket = False
    inside = False
    position = int(start)
    while position < stop:
        code, size = character_at(text, position)
        position += size
        bracket |= code == 0x5B
        if table[code] & SPACE:
            if inside:
                longest = max(longest, chars - begin)
            inside = False
        elif not inside:
            num_words += 1
            begin = chars
            inside = True
        chars += 1
    if inside:
        longest = max(longest, chars - begin)
    return num_words, longest, bracket


@kernel
def _copy(
    text: Column,
    start: int,
    stop: int,
    kinds: Column,
    citations: bool,
    edit: Column,
    needed: Column,
    out: Column,
    to: int,
) -> int:
    """Copy a line without its citations; where it ends in `out`."""
    position = int(start)
    if not citations:
        while position < stop:
            out[to] = text[position]
            to += 1
            position += 1
        return to
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
def _has_byte(out: Column, start: int, stop: int, byte: int) -> bool:
    position = start
    while position < stop and out[position] != byte:
        position += 1
    return position < stop


@kernel
def _find_phrases(
    out: Column,
    start: int,
    stop: int,
    letters: Column,
    bounds: npt.NDArray[np.int64],
    bits: Column,
    at: npt.NDArray[np.int64],
    rare: npt.NDArray[np.bool_],
    lower: Column,
) -> int:
    found = 0
    for position in range(start, stop):
        if not rare[out[position]]:
            continue
        for phrase in range(len(bits)):
            begin = position - at[phrase]
            if begin >= start and _phrase_at(out, begin, stop, letters, bounds[phrase], bounds[phrase + 1], lower):
                found |= bits[phrase]
    return found


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


@kernel
def _strip(text: Column, offsets: Offsets, table: Column, out: Column, stripped: Offsets) -> int:
    end = 0
    for document in range(len(offsets) - 1):
        start = offsets[document]
        stop = offsets[document + 1]
        while start < stop:
            code, size = character_at(text, start)
            if not table[code] & SPACE:
                break
            start += size
        while stop > start:
            last = stop - 1
            while text[last] & 0xC0 == 0x80:
                last -= 1
            code, _ = character_at(text, last)
            if not table[code] & SPACE:
                break
            stop = last
        for position in range(start, stop):
            out[end] = text[position]
            end += 1
        stripped[document + 1] = end
    return end


@kernel
def _differ(text: Column, offsets: Offsets, other: Column, other_offsets: Offsets) -> npt.NDArray[np.bool_]:
    found = np.zeros(len(offsets) - 1, dtype=np.bool_)
    for document in range(len(found)):
        size = offsets[document + 1] - offsets[document]
        if other_offsets[document + 1] - other_offsets[document] != size:
            found[document] = True
            continue
        for index in range(size):
            if text[offsets[document] + index] != other[other_offsets[document] + index]:
                found[document] = True
                break
    return found
