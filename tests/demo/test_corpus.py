"""The demo's documents: real text, the same every time, from sources that are only read."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

import orjson
import pytest

from ptool.demo import corpus


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation with one module that must not run, one that is broken, and one that is a test."""
    library, packages = tmp_path / "lib", tmp_path / "packages"
    for folder in (library, packages / "apack", library / "test"):
        folder.mkdir(parents=True)
    (library / "mod.py").write_text(
        '"""About mod."""\nimport sys\nsys.exit("it ran")\n'
        'class A:\n    """About A."""\n    def f(self):\n        "About f."\n'
    )
    (library / "broken.py").write_text('"""Never closed')
    (library / "odd.py").write_text('"""A lone \\ud800 surrogate."""')
    (library / "test" / "test_mod.py").write_text('"""A test."""')
    (packages / "apack" / "__init__.py").write_text('"""A package.\n\n    Indented 文.\n"""')
    paths = {"stdlib": str(library), "purelib": str(packages), "platlib": str(packages)}
    monkeypatch.setattr(corpus.sysconfig, "get_paths", lambda: paths)
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", type(sys)("topics"))
    sys.modules["pydoc_data.topics"].topics = {"assert": "  The assert statement.  "}  # type: ignore[attr-defined]
    return tmp_path


def test_docstrings_are_taken_with_their_names_and_nothing_runs(installation: Path) -> None:
    assert [tuple(orjson.loads(line).values()) for line in corpus.lines()] == [
        ("topics:assert", "The assert statement.", "topics"),
        ("mod", "About mod.", "stdlib"),
        ("mod.A", "About A.", "stdlib"),
        ("mod.A.f", "About f.", "stdlib"),
        ("apack.__init__", "A package.\n\nIndented 文.", "apack"),
    ]


def test_the_corpus_stops_at_its_size(installation: Path) -> None:
    assert [orjson.loads(line)["id"] for line in corpus.lines(max_bytes=35)] == ["topics:assert", "mod"]


def test_this_python_has_real_prose() -> None:
    first = list(islice(corpus.lines(), 300))
    assert first == list(islice(corpus.lines(), 300))
    assert sum(len(orjson.loads(line)["text"]) for line in first) > 100_000
