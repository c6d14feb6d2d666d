"""Real prose that every machine has: the documentation inside the installed Python.

Docstrings of the standard library and of the installed packages, and the language reference that `help()` shows
(`pydoc_data.topics`): a few megabytes of English by many hands, with natural duplicates (wrapped functions, vendored
modules) and natural junk (signatures, tables, one-liners). Sources are parsed, never imported, so nothing runs. The
same installation gives the same documents in the same order; about 6 s for 6 MB.
"""

from __future__ import annotations

import ast
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import orjson

MAX_BYTES = 6_000_000
"""Text taken at most: enough for a tokenizer and a run of minutes."""

_LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "site-packages", "__pycache__"}


class Document(NamedTuple):
    """`id` is `module:qualified.name`; `source` is `stdlib`, `topics` or the package's name."""

    id: str
    text: str
    source: str


def lines(max_bytes: int = MAX_BYTES) -> Iterator[bytes]:
    """The corpus as document lines, up to about `max_bytes` of text: topics, standard library, packages."""
    taken = 0
    for document in _documents():
        taken += len(document.text.encode())
        if taken > max_bytes:
            return
        yield orjson.dumps(document._asdict(), option=orjson.OPT_APPEND_NEWLINE)


def _documents() -> Iterator[Document]:
    from pydoc_data.topics import topics

    for name, text in sorted(topics.items()):
        yield Document(f"topics:{name}", text.strip(), "topics")
    paths = sysconfig.get_paths()
    yield from _docstrings(Path(paths["stdlib"]), "stdlib")
    packages = {Path(paths["purelib"]), Path(paths["platlib"])}
    for folder in sorted(packages):
        yield from _docstrings(folder, None)


def _docstrings(root: Path, source: str | None) -> Iterator[Document]:
    """Every docstring of the modules below `root`; without `source`, the top folder's name is the source."""
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root)
        if _LEFT_OUT.intersection(place.parts[:-1]):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # invalid escapes in other people's strings
                tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError, RecursionError):
            continue
        module = ".".join(place.with_suffix("").parts)
        for name, text in _walk(tree, module):
            yield Document(name, text, source or place.parts[0].removesuffix(".py"))


def _walk(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node)
        if text and _is_text(text):
            yield name, text
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _walk(child, f"{name}.{child.name}")


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate, written as an escape
        return False
    return True
