"""Every decision of five presets beside datatrove 0.10.1: python tests/benchmarks/filter_oracle.py [--freeze FILE]

    pip install '.[bench]'
    python tests/benchmarks/filter_oracle.py

Both are given the same words (`str.split`) and sentences (the rule of datatrove's own `WhitespaceTokenizer`). Compared
are kept or dropped, the first reason, and for C4 the edited text, on all documents of the shared data (PTOOL_SHARED,
default ../shared) and on generated nasty text. Exit status 1 and a line for each difference, if there is one.

`--freeze` also writes what the normal tests compare with: for each preset and file the documents, how many each rule
drops, and digests of the decisions and of the edited texts. Numbers only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ptool.filtering.decisions import judge
from ptool.filtering.recipe import Recipe, choose_recipe
from ptool.formats.streams import StreamReader
from ptool.text.batch import Batch, decode

SHARED = Path(os.environ.get("PTOOL_SHARED", Path(__file__).parents[2] / "../shared"))
KEPT = "kept"

REPETITION = {
    "empty": "text-length",
    "dup_para_frac": "repeated-paragraphs",
    "dup_para_char_frac": "repeated-paragraph-characters",
    "dup_line_frac": "repeated-lines",
    "dup_line_char_frac": "repeated-line-characters",
    **{f"top_{n}_gram": f"top-{n}-gram" for n in (2, 3, 4)},
    **{f"duplicated_{n}_n_grams": f"repeated-{n}-grams" for n in range(5, 11)},
}
QUALITY = {
    "gopher_short_doc": "word-count",
    "gopher_long_doc": "word-count",
    "gopher_below_avg_threshold": "mean-word-length",
    "gopher_above_avg_threshold": "mean-word-length",
    "gopher_too_many_hashes": "hash-symbols",
    "gopher_too_many_ellipsis": "ellipsis-symbols",
    "gopher_too_many_bullets": "bullet-lines",
    "gopher_too_many_end_ellipsis": "ellipsis-lines",
    "gopher_below_alpha_threshold": "alphabetic-words",
    "gopher_enough_stop_words": "stop-words",
}
C4 = {"lorem_ipsum": "lorem-ipsum", "curly_bracket": "curly-brackets", "too_few_sentences": "sentence-count"}
FINEWEB = {
    "empty": "terminal-lines",
    "line_punct_ratio": "terminal-lines",
    "short_line_ratio": "short-lines",
    "char_dup_ratio": "repeated-line-share",
    "list_ratio": "newlines-per-word",
}

Decision = tuple[str, str]
"""A rule's name or KEPT, and the text as the filter leaves it ("" for a dropped document)."""


def references() -> dict[str, Callable[[str], Decision]]:
    """datatrove's filters, one function for each preset."""
    from datatrove.data import Document
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )
    from datatrove.pipeline.filters.c4_filters import C4ParagraphFilter
    from datatrove.utils.word_tokenizers import WhitespaceTokenizer

    class Words(WhitespaceTokenizer):
        """Its own sentences, and the words of str.split."""

        def word_tokenize(self, text: str) -> list[str]:
            return text.split()

    words = Words()
    repetition = (GopherRepetitionFilter(language=words), REPETITION)
    quality = (GopherQualityFilter(language=words), QUALITY)
    c4 = (C4QualityFilter(language=words), C4)
    fineweb_c4 = (C4QualityFilter(language=words, filter_no_terminal_punct=False), C4)
    fineweb = (FineWebQualityFilter(language=words), FINEWEB)
    paragraphs = (C4ParagraphFilter(), {"< 3 paragraphs": "long-lines"})
    chains: dict[str, list[tuple[Any, dict[str, str]]]] = {
        "gopher-repetition": [repetition],
        "gopher-quality": [quality],
        "c4": [c4],
        "fineweb-quality": [fineweb],
        "fineweb": [repetition, quality, fineweb_c4, fineweb],
        "c4-paragraphs": [paragraphs],
    }

    def judged(chain: list[tuple[Any, dict[str, str]]]) -> Callable[[str], Decision]:
        def decide(text: str) -> Decision:
            document = Document(text=text, id="")
            for one, names in chain:
                verdict = one.filter(document)
                if verdict is not True:
                    return names[verdict[1]], ""
            return KEPT, document.text

        return decide

    return {name: judged(chain) for name, chain in chains.items()}


def recipe_of(name: str) -> Recipe:
    """ptool's side, on the same words."""
    if name == "c4-paragraphs":
        return choose_recipe(None, ["long-lines"], words="whitespace")
    return choose_recipe(name, words="whitespace")


def decisions(batch: Batch, recipe: Recipe) -> list[Decision]:
    """What ptool decides."""
    verdicts = judge(batch, recipe)
    return [
        (KEPT, verdicts.batch.text_of(index).decode()) if step < 0 else (recipe.steps[step].name, "")
        for index, step in enumerate(verdicts.failed.tolist())
    ]


def real_batches() -> Iterator[tuple[str, list[Batch]]]:
    """All documents of the shared data, by file."""
    for path in sorted(SHARED.glob("data/**/*.jsonl.zst")):
        batches = []
        for lines in StreamReader([path], allow_empty=True):
            batch, _ = decode(lines, word_rule="whitespace")
            if len(batch):
                batches.append(batch)
        if batches:
            yield path.relative_to(SHARED).as_posix(), batches


PIECES = [
    "\n", "\n\n", "\r\n", " ", "\u2028", "\x85", "\x00", "\x0c", "\u3000", "\ufeff", "the ",
    "be to of and ", "word ", "that have with ", "a line of some more words here", "short",
    "Dr. J. Smith. ", "中文。", "中文 字 ", "🙂", "é", "e\u0301", "...", "…", "- ", "• ", "#", "?", "!", '."',
    ".'", "?”", "[1]", "[１２]", "[edit]", "[citation needed]", "javascript ", "JavaScript",
    "Lorem Ipsum", "{", "}", "terms of use ", "coo\u212aie policy ", "use of cookies", "\u0130",
    "x" * 1001, "one two three four five six seven eight nine ten eleven. ", "1 2 3 ", "ǅ. ", "Ⅷ. ",
    "।",
]  # fmt: skip


def nasty_texts(count: int, seed: int = 0) -> Iterator[str]:
    """Generated texts that meet every branch, and the extremes."""
    yield from ["", "\n" * 10_000, " ", "x" * 100_000, "word " * 200_000, "the\n" * 50_000, "e" + "\u0301" * 1000]
    yield "and the of " * 4_600_000  # a line of 50 MB
    chance = random.Random(seed)
    for _ in range(count):
        some = chance.sample(PIECES, chance.randint(1, 12))
        yield "".join(chance.choice(some) for _ in range(chance.randint(1, 150)))


def groups(texts: Iterable[str], size: int = 500) -> Iterator[list[str]]:
    """Texts by the hundreds."""
    group: list[str] = []
    for text in texts:
        group.append(text)
        if len(group) == size:
            yield group
            group = []
    yield group


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--freeze", type=Path)
    parser.add_argument("--nasty", type=int, default=20_000)
    options = parser.parse_args(arguments)
    try:
        reference = references()
    except ImportError as error:
        print(f"skipped: {error}; pip install '.[bench]'")
        return 0
    frozen: dict[str, dict[str, Any]] = {name: {} for name in reference}
    compared = differing = 0
    nasty = ("nasty", [Batch.from_texts(texts, word_rule="whitespace") for texts in groups(nasty_texts(options.nasty))])
    for file, batches in [*real_batches(), nasty]:
        for name, decide in reference.items():
            recipe = recipe_of(name)
            theirs = [decide(batch.text_of(index).decode()) for batch in batches for index in range(len(batch))]
            ours = [decision for batch in batches for decision in decisions(batch, recipe)]
            different = [index for index, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]]
            for index in different[:5]:
                print(f"DIFFERENT {name} {file} document {index}: {ours[index]!r:.200} not {theirs[index]!r:.200}")
            compared += len(ours)
            differing += len(different)
            if file != "nasty":
                frozen[name][file] = summary(theirs)
        print(f"{file:<50} {sum(map(len, batches)):>8,} documents compared", flush=True)
    print(f"{compared:,} decisions compared, {differing:,} differ")
    if options.freeze:
        options.freeze.write_text(json.dumps(frozen, indent=1) + "\n")
    return 1 if differing else 0


def summary(found: list[Decision]) -> dict[str, Any]:
    """Numbers that tell two sequences of decisions apart."""
    reasons = "\n".join(reason for reason, _ in found)
    texts = hashlib.sha256()
    for reason, text in found:
        if reason == KEPT:
            texts.update(hashlib.sha256(text.encode()).digest())
    return {
        "documents": len(found),
        "reasons": dict(sorted(Counter(reason for reason, _ in found).items())),
        "digest": hashlib.sha256(reasons.encode()).hexdigest()[:16],
        "texts": texts.hexdigest()[:16],
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
