"""Five presets decide as datatrove 0.10.1 does: its frozen decisions, reasons and edited texts.

`tests/benchmarks/filter_oracle.py --freeze` made them, given the same words and sentences.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest

from ptool.filtering.decisions import judge
from ptool.filtering.recipe import choose_recipe
from ptool.formats.streams import StreamReader
from ptool.text.batch import decode

GOLDEN = json.loads((Path(__file__).parent / "golden" / "decisions.json").read_text())
FILES = sorted({file for files in GOLDEN.values() for file in files})
RECIPES = {
    name: choose_recipe(None, ["long-lines"], words="whitespace")
    if name == "c4-paragraphs"
    else choose_recipe(name, words="whitespace")
    for name in GOLDEN
}


@pytest.mark.parametrize("file", FILES)
def test_every_decision_on_real_text_is_datatroves(file: str, shared: Path) -> None:
    reasons: dict[str, list[str]] = {name: [] for name in RECIPES}
    texts = {name: hashlib.sha256() for name in RECIPES}
    for lines in StreamReader([shared / file], allow_empty=True):
        batch, _ = decode(lines, word_rule="whitespace")
        for name, recipe in RECIPES.items():
            verdicts = judge(batch, recipe)
            for index, step in enumerate(verdicts.failed.tolist()):
                reasons[name].append("kept" if step < 0 else recipe.steps[step].name)
                if step < 0:
                    texts[name].update(hashlib.sha256(verdicts.batch.text_of(index)).digest())
    for name, found in reasons.items():
        frozen = GOLDEN[name][file]
        assert dict(sorted(Counter(found).items())) == frozen["reasons"], name
        assert hashlib.sha256("\n".join(found).encode()).hexdigest()[:16] == frozen["digest"], name
        assert texts[name].hexdigest()[:16] == frozen["texts"], name
