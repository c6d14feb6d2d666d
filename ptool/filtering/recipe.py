"""A recipe: which rules, in which order, with which bounds, on which words.

It is one plain table, the same in a preset file, in a manifest's config and in Python, so that any of them can be
copied into another and repeats the run:

    words = "cjk"
    [[steps]]
    rule = "word-count"
    min = 50
    max = 100_000        # "none" lifts a bound that the rule has by default

The order decides which rule a dropped document is counted under, and nothing else: every document is measured by all.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, get_args

import msgspec

from ptool import plugins
from ptool.errors import UsageError
from ptool.filtering.protocol import Rule
from ptool.reporting import SILENT, Reporter
from ptool.text.batch import WordRule
from ptool.units import parse_count, parse_fraction, parse_number

RULES = "ptool.filtering.rules"
PRESETS = "ptool.filtering.presets"
DEFAULT_PRESET = "gopher-quality"
NO_BOUND = "none"

_BOUNDS = ("min", "max")


class Step(msgspec.Struct, frozen=True):
    """A rule under the name it was asked for."""

    name: str
    rule: Rule

    def config(self) -> dict[str, Any]:
        """The step as a recipe file has it, every bound and parameter spelled out."""
        default = type(self.rule)()
        config: dict[str, Any] = {"rule": self.name}
        for side in _BOUNDS:
            bound = getattr(self.rule.accept, side)
            if bound is not None or getattr(default.accept, side) is not None:
                config[side] = NO_BOUND if bound is None else bound
        parameters = msgspec.to_builtins(self.rule)
        return config | {key: value for key, value in parameters.items() if key != "accept"}


class Recipe(msgspec.Struct, frozen=True):
    """Steps in the order in which they claim a dropped document."""

    steps: tuple[Step, ...]
    words: WordRule = "cjk"
    description: str = ""

    def config(self) -> dict[str, Any]:
        """What determines the decisions, for the manifest; `read_recipe` reads it again."""
        return {"words": self.words, "steps": [step.config() for step in self.steps]}


def rule_names() -> list[str]:
    """All rules, sorted."""
    return plugins.names(RULES)


def preset_names() -> list[str]:
    """All presets, sorted."""
    return sorted(file.name.removesuffix(".toml") for file in files(PRESETS).iterdir() if file.name.endswith(".toml"))


@cache
def load_rule(name: str) -> type[Rule]:
    """The rule called `name`. Raises UsageError with the nearest name and the valid ones."""
    module = plugins.load(RULES, name, kind="rule")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Rule) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise UsageError(f"{module.__name__} holds {len(found)} rules", hint="a file holds one subclass of Rule")
    return found[0]


def describe(name: str) -> str:
    """The first line of the rule's file, without its full stop."""
    document = plugins.load(RULES, name, kind="rule").__doc__ or ""
    return document.strip().partition("\n")[0].rstrip(".")


def load_preset(name: str) -> Recipe:
    """The preset called `name`. Raises UsageError with the nearest name and the valid ones."""
    if name not in preset_names():
        raise plugins.unknown("preset", name, preset_names())
    return parse_recipe(files(PRESETS).joinpath(f"{name}.toml").read_text(encoding="utf-8"), where=f"{name}.toml")


def parse_recipe(text: str, *, where: str) -> Recipe:
    """A recipe from TOML; `where` names its file in errors."""
    try:
        return read_recipe(tomllib.loads(text), where=where)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"not TOML: {error}", where=where) from error


def read_recipe(table: Mapping[str, Any], *, where: str = "recipe") -> Recipe:
    """A recipe from its table, as in a preset or in a manifest's config."""
    valid = ("description", "words", "steps")
    for key in table:
        if key not in valid:
            raise plugins.unknown("recipe key", key, valid)
    steps = table.get("steps")
    if not isinstance(steps, list) or not steps or not all(isinstance(step, dict) for step in steps):
        raise UsageError("a recipe needs at least one step", where=where, hint='[[steps]] and rule = "word-count"')
    return Recipe(
        steps=tuple(_read_step(step, f"{where}, step {number}") for number, step in enumerate(steps, start=1)),
        words=read_words(table.get("words", "cjk")),
        description=str(table.get("description", "")),
    )


def read_words(name: str) -> WordRule:
    """A word splitter by name."""
    valid: tuple[WordRule, ...] = get_args(WordRule)
    for rule in valid:
        if rule == name:
            return rule
    raise plugins.unknown("word splitter", name, valid)


def choose_recipe(
    preset: str | None, rules: Sequence[str] = (), *, words: str | None = None, reporter: Reporter = SILENT
) -> Recipe:
    """The recipe that a command line asks for: a preset, changed by `rules`, or the rules alone.

    With neither, it is DEFAULT_PRESET, and a notice says so.
    """
    if preset is None and not rules:
        reporter.notice(f"no --preset and no --rule: using --preset {DEFAULT_PRESET}")
        preset = DEFAULT_PRESET
    recipe = with_rules(None if preset is None else load_preset(preset), rules)
    return recipe if words is None else msgspec.structs.replace(recipe, words=read_words(words))


def with_rules(recipe: Recipe | None, texts: Sequence[str]) -> Recipe:
    """`recipe` changed by `NAME[:PARAMETER=VALUE,...]` texts, as `--rule` takes them.

    A rule that is in the recipe gets the new values where it stands; any other is added at the end. Without a recipe
    the texts are the whole of it.
    """
    steps = list(recipe.steps) if recipe is not None else []
    for text in texts:
        name, _, rest = text.partition(":")
        values = _parse_parameters(name, rest)
        at = next((index for index, step in enumerate(steps) if step.name == name), None)
        if at is None:
            steps.append(Step(name, _changed(load_rule(name)(), values, f"--rule {text}", name)))
        else:
            steps[at] = Step(name, _changed(steps[at].rule, values, f"--rule {text}", name))
    if not steps:
        raise UsageError("no rules", hint=f"for example --preset {DEFAULT_PRESET} or --rule word-count:min=50")
    changed = tuple(steps)
    return Recipe(steps=changed) if recipe is None else msgspec.structs.replace(recipe, steps=changed)


def _read_step(table: Mapping[str, Any], where: str) -> Step:
    values = dict(table)
    name = values.pop("rule", None)
    if not isinstance(name, str):
        raise UsageError("the step names no rule", where=where, hint='rule = "word-count"')
    return Step(name, _changed(load_rule(name)(), values, where, name))


def _changed(rule: Rule, values: Mapping[str, Any], where: str, name: str) -> Rule:
    """`rule` with the bounds and parameters of `values`, checked against its fields."""
    parameters = [field.name for field in msgspec.structs.fields(rule) if field.name != "accept"]
    for key in values:
        if key not in (*_BOUNDS, *parameters):
            raise plugins.unknown(f"parameter of {name}", key, (*_BOUNDS, *parameters))
    bounds = {side: values.get(side, getattr(rule.accept, side)) for side in _BOUNDS}
    table = {
        **{key: values.get(key, getattr(rule, key)) for key in parameters},
        "accept": {side: None if bound == NO_BOUND else bound for side, bound in bounds.items()},
    }
    try:
        return msgspec.convert(table, type(rule), strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(str(error), where=where) from error


def _parse_parameters(name: str, text: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for pair in text.split(",") if text else []:
        key, equals, value = pair.partition("=")
        if not equals or not value:
            raise UsageError(f"'{pair}' is not PARAMETER=VALUE", hint=f"for example --rule {name}:min=0.5,max=10")
        if key in values:
            raise UsageError(f"'{key}' is given twice in --rule {name}:{text}", hint="give it once")
        values[key] = _parse_bound(value) if key in _BOUNDS else value
    return values


def _parse_bound(text: str) -> float | str:
    """A bound as people type it: `0.3`, `30%`, `100_000`, `100k`, or `none`."""
    if text == NO_BOUND:
        return text
    if text.endswith("%"):
        return parse_fraction(text)
    if text[-1:] in tuple("KMBTkmbt"):
        return float(parse_count(text))
    return parse_number(text)
