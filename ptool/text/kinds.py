"""A second byte per code point: what format rules and sentence splitting ask of a character.

    low four bits    flags: DIGIT, UPPER, TERMINAL, BROKEN
    high four bits   the script of a letter, as an index into SCRIPTS; MARK for combining marks, 0 for all the rest

Digits and capitals are Unicode's (Nd, Lu), of the running Python's version, as in characters.py. Scripts are told by
block, which is right for all but a handful of letters and takes a tenth of the time of a look-up by name. The table is
built in 40 ms per process, when a rule first asks for it.
"""

from __future__ import annotations

import sys
import unicodedata
from functools import cache

import numpy as np
import numpy.typing as npt

from ptool.text.characters import LETTER, character_flags

DIGIT = 1  # category Nd: what `\d` matches
UPPER = 2  # category Lu
TERMINAL = 4  # ends a sentence in some script, see _TERMINAL
BROKEN = 8  # no text: controls but tab and line ends, U+FFFD, private use, noncharacters

SCRIPT_SHIFT = 4
SCRIPTS = (
    "none", "latin", "greek", "cyrillic", "hebrew", "arabic", "devanagari", "other-indic", "thai", "hangul", "cjk",
    "armenian", "georgian", "ethiopic", "other",
)  # fmt: skip
MARK = 15  # in place of a script: categories Mn, Mc, Me

_BLOCKS = {
    "latin": "41-5A 61-7A AA BA C0-24F 250-2AF 1D00-1D25 1D2C-1D5C 1D62-1D65 1D6B-1D77 1D79-1DBE 1E00-1EFF 2071-207F "
    "2090-209C 212A-212B 2132 214E 2160-2188 2C60-2C7F A722-A787 A78B-A7FF AB30-AB5A AB5C-AB64 FB00-FB06 FF21-FF3A "
    "FF41-FF5A 10780-107BF 1DF00-1DFFF",
    "greek": "370-3FF 1F00-1FFF 2126 AB65 10140-1018F",
    "cyrillic": "400-52F 1C80-1C8F 1D2B 1D78 2DE0-2DFF A640-A69F 1E030-1E08F",
    "hebrew": "591-5F4 FB1D-FB4F",
    "arabic": "600-6FF 750-77F 870-8FF FB50-FDFF FE70-FEFE 10EC0-10EFF 1EE00-1EEFF",
    "devanagari": "900-97F A8E0-A8FF 1CD0-1CFF 11B00-11B5F",
    "other-indic": "980-DFF",
    "thai": "E00-E7F",
    "hangul": "1100-11FF 3130-318F A960-A97F AC00-D7FF FFA0-FFDC",
    "cjk": "2E80-2FDF 3005-3007 3021-3029 3031-303C 3040-30FF 3100-312F 31A0-31BF 31F0-31FF 3400-4DBF 4E00-9FFF "
    "F900-FAFF FF66-FF9F 16FE0-18D8F 1AFF0-1B2FF 20000-3FFFF",
    "armenian": "530-58F FB13-FB17",
    "georgian": "10A0-10FF 1C90-1CBF 2D00-2D2F",
    "ethiopic": "1200-139F 2D80-2DDF AB01-AB2F 1E7E0-1E7FF",
}

# datatrove 0.10.1, utils/text.py, TERMINAL_PUNCTUATION: Unicode's Sentence_Terminal property and the ideographic stops.
_TERMINAL = """
21 2E 3F 589 61D-61F 6D4 700-702 7F9 837 839 83D-83E 964-965 104A-104B 1362 1367-1368 166E 1735-1736 17D4-17D6 17D9-17DA
1803 1809 1944-1945 1AA8-1AAB 1B5A-1B5B 1B5E-1B5F 1B7D-1B7E 1C3B-1C3C 1C7E-1C7F 203C-203D 2047-2049 2E2E 2E3C 2E53-2E54
3002 A4FF A60E-A60F A6F3 A6F7 A876-A877 A8CE-A8CF A92F A9C8-A9C9 AA5D-AA5F AAF0-AAF1 ABEB FE52 FE56-FE57 FF01 FF0E FF1F
FF61 10A56-10A57 10F55-10F59 10F86-10F89 11047-11048 110BE-110C1 11141-11143 111C5-111C6 111CD 111DE-111DF 11238-11239
1123B-1123C 112A9 1144B-1144C 115C2-115C3 115C9-115D7 11641-11642 1173C-1173E 11944 11946 11A42-11A43 11A9B-11A9C
11C41-11C42 11EF7-11EF8 11F43-11F44 16A6E-16A6F 16AF5 16B37-16B38 16B44 16E98 1BC9F 1DA88
"""

_BROKEN = "0-8 B-C E-1F 7F-84 86-9F E000-F8FF FDD0-FDEF FFFD-FFFF F0000-10FFFF"

_LAST_ASSIGNED = 0x3FFFF  # planes 4 to 13 are empty, 14 has tags, 15 and 16 are private


@cache
def character_kinds() -> npt.NDArray[np.uint8]:
    """The flags and script of every code point, as uint8[0x110000], read-only."""
    kinds = np.zeros(sys.maxunicode + 1, dtype=np.uint8)
    marks = np.zeros(len(kinds), dtype=np.bool_)
    marks[0xE0100:0xE01F0] = True
    for code in range(_LAST_ASSIGNED + 1):
        category = unicodedata.category(chr(code))
        marks[code] = category[0] == "M"
        if category == "Nd":
            kinds[code] = DIGIT
        elif category == "Lu":
            kinds[code] = UPPER
    letters = character_flags() & LETTER != 0
    scripts = np.full(len(kinds), SCRIPTS.index("other"), dtype=np.uint8)
    for script, blocks in _BLOCKS.items():
        for span in _spans(blocks):
            scripts[span] = SCRIPTS.index(script)
    scripts[marks] = MARK
    kinds |= np.where(letters | marks, scripts, 0).astype(np.uint8) << np.uint8(SCRIPT_SHIFT)
    for ranges, flag in ((_TERMINAL, TERMINAL), (_BROKEN, BROKEN)):
        for span in _spans(ranges):
            kinds[span] |= flag
    kinds.flags.writeable = False
    return kinds


def _spans(ranges: str) -> list[slice]:
    pairs = [one.partition("-") for one in ranges.split()]
    return [slice(int(first, 16), int(last or first, 16) + 1) for first, _, last in pairs]
