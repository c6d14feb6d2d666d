"""Freeze what datatrove decides about the shared corpus: run by hand, in an environment of its own.

    pip install 'datatrove==0.10.1' 'xxhash<4' regex zstandard
    python tests/filtering/freeze_gopher_decisions.py ../shared > tests/filtering/golden/gopher_quality.json

datatrove's filter is given whitespace words (its own splitter is spaCy, which no other program reproduces). Only
numbers are kept: for each file the documents, how many each rule drops, and a digest of the decision sequence.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
from pathlib import Path

STEPS = {
    "gopher_short_doc": 0,
    "gopher_long_doc": 0,
    "gopher_below_avg_threshold": 1,
    "gopher_above_avg_threshold": 1,
    "gopher_too_many_hashes": 2,
    "gopher_too_many_ellipsis": 3,
    "gopher_too_many_bullets": 4,
    "gopher_too_many_end_ellipsis": 5,
    "gopher_below_alpha_threshold": 6,
    "gopher_enough_stop_words": 7,
}
KEPT = 255


def main(shared: Path) -> None:
    import datatrove.pipeline.filters.gopher_quality_filter as gopher
    import zstandard
    from datatrove.data import Document

    gopher.split_into_words = lambda text, language: text.split()
    rules = gopher.GopherQualityFilter()
    frozen = {}
    for path in sorted([*shared.glob("data/corpus/*.zst"), shared / "data/labelled/langid.jsonl.zst"]):
        decisions = bytearray()
        with path.open("rb") as file:
            for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8"):
                verdict = rules.filter(Document(text=json.loads(line)["text"], id=""))
                decisions.append(KEPT if verdict is True else STEPS[verdict[1]])
        frozen[path.relative_to(shared).as_posix()] = {
            "documents": len(decisions),
            "drops": [decisions.count(step) for step in range(8)],
            "digest": hashlib.sha256(decisions).hexdigest()[:16],
        }
    sys.stdout.write(json.dumps(frozen, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
