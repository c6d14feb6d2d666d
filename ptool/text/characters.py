"""What each character is to the kernels: one byte of flags per code point.

Spaces and letters are Python's (`str.isspace`, `str.isalpha`), so that a kernel and its plain-Python twin cannot
differ, and neither can ptool and a reference written in Python. Letters follow the Unicode version of the running
Python, which manifests therefore record as `UNICODE_VERSION`.

The table is built in 15 ms per process and takes 1.1 MB, of which text touches a few cache lines.
"""

from __future__ import annotations

import sys
import unicodedata
from functools import cache

import numpy as np
import numpy.typing as npt

SPACE = 1  # str.isspace: where str.split() cuts
LETTER = 2  # str.isalpha
SYMBOL = 4  # SYMBOLS below
CJK = 8  # an ideograph or kana: a word of its own
JOINING = 16  # stays with the ideograph or kana before it
LINE_BREAK = 32  # where str.splitlines() cuts
WORD_PART = 64  # letters, digits, marks, underscore; only in word_flags()

UNICODE_VERSION = unicodedata.unidata_version

# Unicode blocks and scripts: Han (with the iteration mark, ideographic zero, Suzhou numerals and compatibility forms;
# planes 2 and 3 are reserved for ideographs), then Hiragana and Katakana (with length mark and half-width forms).
_CJK = """
3005-3007 3021-3029 3038-303B 3400-4DBF 4E00-9FFF F900-FAFF 20000-2FFFD 30000-3FFFD
3041-3096 309D-309F 30A1-30FA 30FC-30FF 31F0-31FF FF66-FF9D 1AFF0-1AFFF 1B000-1B16F
"""

# Combining and half-width voicing marks, variation selectors, ideographic variation selectors.
_JOINING = "3099-309A FF9E-FF9F FE00-FE0F E0100-E01EF"

# The documentation of str.splitlines().
_LINE_BREAKS = "A-D 1C-1E 85 2028-2029"

# What datatrove 0.10.1 counts as symbols (utils/text.py, PUNCTUATION_SET). First ASCII punctuation, controls but tab
# and newline, and marks of European and Chinese typography (it takes the full-width digit one for a mark); then what
# ends a sentence in any script, by Unicode's Sentence_Terminal property.
_SYMBOLS = """
0-8 B-1F 21-2F 3A-40 5B-60 7B-7E 7F-9F AB B4 BB 2013-2014 2019 201C-201E 2026 2236 2501 25BA 3001-3002 3008-300B
300C-300D 3010-3011 FF01 FF05 FF08-FF09 FF0C FF0E FF11 FF1A-FF1B FF1F FF5E
589 61D-61F 6D4 700-702 7F9 837 839 83D-83E 964-965 104A-104B 1362 1367-1368 166E 1735-1736 17D4-17D6 17D9-17DA 1803
1809 1944-1945 1AA8-1AAB 1B5A-1B5B 1B5E-1B5F 1B7D-1B7E 1C3B-1C3C 1C7E-1C7F 203C-203D 2047-2049 2E2E 2E3C 2E53-2E54
A4FF A60E-A60F A6F3 A6F7 A876-A877 A8CE-A8CF A92F A9C8-A9C9 AA5D-AA5F AAF0-AAF1 ABEB FE52 FE56-FE57 FF61 10A56-10A57
10F55-10F59 10F86-10F89 11047-11048 110BE-110C1 11141-11143 111C5-111C6 111CD 111DE-111DF 11238-11239 1123B-1123C 112A9
1144B-1144C 115C2-115C3 115C9-115D7 11641-11642 1173C-1173E 11944 11946 11A42-11A43 11A9B-11A9C 11C41-11C42 11EF7-11EF8
11F43-11F44 16A6E-16A6F 16AF5 16B37-16B38 16B44 16E98 1BC9F 1DA88
"""

# Planes 4 to 13 have no characters, 15 and 16 no letters; a test compares all code points.
_LAST_LETTER = 0x3FFFF


@cache
def character_flags() -> npt.NDArray[np.uint8]:
    """The flags of every code point, as uint8[0x110000], read-only."""
    flags = np.zeros(sys.maxunicode + 1, dtype=np.uint8)
    characters = [chr(point) for point in range(_LAST_LETTER + 1)]
    flags[: len(characters)] |= np.fromiter(map(str.isalpha, characters), dtype=bool) * np.uint8(LETTER)
    flags[: len(characters)] |= np.fromiter(map(str.isspace, characters), dtype=bool) * np.uint8(SPACE)
    for ranges, flag in ((_CJK, CJK), (_JOINING, JOINING), (_LINE_BREAKS, LINE_BREAK), (_SYMBOLS, SYMBOL)):
        for one in ranges.split():
            first, _, last = one.partition("-")
            flags[int(first, 16) : int(last or first, 16) + 1] |= flag
    flags.flags.writeable = False
    return flags


@cache
def word_flags() -> npt.NDArray[np.uint8]:
    """`character_flags` with WORD_PART, for words cut at punctuation; another 40 ms per process."""
    flags = character_flags().copy()
    for code in range(_LAST_LETTER + 1):
        if chr(code).isalnum() or unicodedata.category(chr(code)).startswith("M"):
            flags[code] |= WORD_PART
    flags[0xE0100:0xE01F0] |= WORD_PART  # ideographic variation selectors
    flags[ord("_")] |= WORD_PART
    flags.flags.writeable = False
    return flags
