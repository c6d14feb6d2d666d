"""Texts made equal where they differ in nothing that matters: case, digits, punctuation, white space, accents.

The steps and their order are those of datatrove's `simplify_text` with its defaults, so that both tools compare the
same characters (its repository, utils/text.py):

1. lower case;
2. every number, one decimal part included, becomes 0;
3. punctuation and control characters become spaces;
4. runs of white space become one space, none at the edges;
5. combining marks are removed after canonical decomposition (e with an acute accent becomes e).

Only what is compared is simplified; what is written out is the document as it came. Plain Python and its regular
expressions: 5 to 10 MB a second and core, so it is off unless asked for.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

import numpy as np

from ptool.text.hashing import Bytes, Offsets

# As datatrove lists them: punctuation of many scripts, then control characters.
_PUNCTUATION = "!/—”:％１〈&(、━\\【#%「」，】；+^]~“《„';’{|∶´[=-`*．（–？！：$～«〉,><》)?）。…@_.\"}►»"
_CONTROLS = "".join(
    chr(code) for first, last in ((0, 9), (11, 13), (13, 32), (127, 160)) for code in range(first, last)
)
_TO_SPACE = str.maketrans(dict.fromkeys(_PUNCTUATION + _CONTROLS, " "))
_NUMBER = re.compile(r"\d+([.,،٫⎖⎗⎘]\d+)?")
_WHITESPACE = re.compile(r"\s+")


def simplify(text: str) -> str:
    """The text as it is compared with `--normalize`."""
    text = _NUMBER.sub("0", text.lower()).translate(_TO_SPACE)
    text = _WHITESPACE.sub(" ", text.strip())
    if text.isascii():
        return text
    decomposed = unicodedata.normalize("NFD", text)
    return "".join(character for character in decomposed if unicodedata.category(character) != "Mn").strip()


def simplify_texts(text: Bytes, offsets: Offsets) -> tuple[Bytes, Offsets]:
    """`simplify` for n texts, text i being the UTF-8 at `text[offsets[i]:offsets[i + 1]]`."""
    whole = text.tobytes()
    bounds = offsets.tolist()
    simplified = [simplify(whole[start:end].decode()).encode() for start, end in pairwise(bounds)]
    found = np.zeros(len(offsets), dtype=np.int64)
    np.cumsum([len(one) for one in simplified], out=found[1:])
    return np.frombuffer(b"".join(simplified), dtype=np.uint8), found
