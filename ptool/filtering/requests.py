"""The steps that a command line asks for before the recipe: URL lists, languages, word lists, in FineWeb's order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ptool.errors import UsageError
from ptool.filtering.lists import list_digest
from ptool.filtering.recipe import Step, make_rule

_MOST_LETTERS = 3  # of a language's code


def steps_before(
    *,
    langs: str | None = None,
    lang_threshold: float = 0.65,
    domains: Sequence[Path] = (),
    urls: Sequence[Path] = (),
    url_words: Sequence[Path] = (),
    url_key: str = "url",
    blocklists: Sequence[str] = (),
    keep_fraction: float = 0.0,
) -> list[Step]:
    """The steps, each with its list's digest. Raises InputError for a list that cannot be read, UsageError."""
    steps = [
        make_rule(name, file=str(file), digest=list_digest(file), url_key=url_key)
        for name, files in (("blocked-domains", domains), ("blocked-urls", urls), ("blocked-url-words", url_words))
        for file in files
    ]
    if langs is not None:
        steps.append(make_rule("language", min=lang_threshold, langs=_codes(langs)))
    for given in blocklists:
        lang, colon, path = given.partition(":")
        is_code = bool(colon) and lang.isalpha() and len(lang) <= _MOST_LETTERS
        file = Path(path if is_code else given)
        steps.append(
            make_rule(
                "blocklist",
                file=str(file),
                digest=list_digest(file),
                lang=lang if is_code else "",
                keep_fraction=keep_fraction,
            )
        )
    return steps


def _codes(text: str) -> list[str]:
    codes = [code.strip().lower() for code in text.split(",")]
    for code in codes:
        if not (code.isascii() and code.isalpha() and 2 <= len(code) <= _MOST_LETTERS):
            raise UsageError(
                f"'{code}' is no language code", hint="two or three letters each, for example --lang en,zh"
            )
    return codes
