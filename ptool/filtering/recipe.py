"""A recipe: which rules and edits, in which order, with which bounds, on which words.

It is one plain table, the same in a preset file, in a manifest's config and in Python, so that any of them can be
copied into another and repeats the run:

    words = "cjk"
    [[steps]]
    rule = "word-count"
    min = 50
    max = 100_000        # "none" lifts a bound that the rule has by default
    [[steps]]
    edit = "c4-lines"    # what follows measures the edited text
    terminal = false

The order decides which rule a dropped document is counted under, and what an edit has changed before a measurement;
every document is measured by all rules.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, get_args

import msgspec

from ptool import plugins
from ptool.errors import UsageError
from ptool.filtering.protocol import Edit, Rule
from ptool.filtering.rule_text import BOUNDS, FIELD, NO_BOUND, parse_rule
from ptool.formats.manifests import Manifest, decode_manifest
from ptool.formats.streams import read_trailer
from ptool.reporting import SILENT, Reporter
from ptool.text.batch import WordRule

RULES = "ptool.filtering.rules"
ASKED = "ptool.filtering.asked"
"""Rules that need something from whoever asks for them: a field, a list, languages."""
EDITS = "ptool.filtering.edits"
PRESETS = "ptool.filtering.presets"
DEFAULT_PRESET = "gopher-quality"

Kind = TypeVar("Kind", Rule, Edit)


class Step(msgspec.Struct, frozen=True):
    """A rule under the name it was asked for."""

    name: str
    rule: Rule

    def config(self) -> dict[str, Any]:
        """The step as a recipe file has it, every bound and parameter spelled out."""
        default = _new_rule(self.name)
        config: dict[str, Any] = {"rule": self.name}
        for side in BOUNDS:
            bound = getattr(self.rule.accept, side)
            if bound is not None or getattr(default.accept, side) is not None:
                config[side] = NO_BOUND if bound is None else bound
        hidden = {"accept"} | (set() if self.rule.keep_fraction else {"keep_fraction"}) | _implied(self.name)
        return config | _spelled_out(self.rule, hidden)


class EditStep(msgspec.Struct, frozen=True):
    """An edit under the name it was asked for."""

    name: str
    edit: Edit

    def config(self) -> dict[str, Any]:
        """The step as a recipe file has it, every parameter spelled out."""
        return {"edit": self.name} | _spelled_out(self.edit, set())


class Recipe(msgspec.Struct, frozen=True):
    """Steps in order: rules claim dropped documents in it, edits change what the steps after them see."""

    steps: tuple[Step | EditStep, ...]
    words: WordRule = "cjk"
    description: str = ""

    @property
    def rules(self) -> list[tuple[int, Step]]:
        """The steps that are rules, with their positions."""
        return [(position, step) for position, step in enumerate(self.steps) if isinstance(step, Step)]

    @property
    def edits(self) -> list[tuple[int, EditStep]]:
        """The steps that are edits, with their positions."""
        return [(position, step) for position, step in enumerate(self.steps) if isinstance(step, EditStep)]

    def config(self) -> dict[str, Any]:
        """What determines the decisions, for the manifest; `read_recipe` reads it again."""
        return {"words": self.words, "steps": [step.config() for step in self.steps]}


def rule_names() -> list[str]:
    """All rules, sorted."""
    return plugins.names(RULES)


def preset_names() -> list[str]:
    """All presets, sorted."""
    return sorted(file.name.removesuffix(".toml") for file in files(PRESETS).iterdir() if file.name.endswith(".toml"))


def edit_names() -> list[str]:
    """All edits, sorted."""
    return plugins.names(EDITS)


@cache
def load_rule(name: str) -> type[Rule]:
    """The rule called `name`. Raises UsageError with the nearest name and the valid ones."""
    if name.startswith(FIELD):
        name = FIELD[:-1]
    if name in plugins.names(ASKED):
        return _only(plugins.load(ASKED, name, kind="rule"), Rule)
    return _only(plugins.load(RULES, name, kind="rule"), Rule)


@cache
def load_edit(name: str) -> type[Edit]:
    """The edit called `name`. Raises UsageError with the nearest name and the valid ones."""
    return _only(plugins.load(EDITS, name, kind="edit"), Edit)


def _only(module: ModuleType, kind: type[Kind]) -> type[Kind]:
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, kind) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise UsageError(f"{module.__name__} holds {len(found)} {kind.__name__.lower()}s", hint="a file holds one")
    return found[0]


def _new_rule(name: str) -> Rule:
    """The rule with its defaults; the rule of a field knows its field."""
    kind = load_rule(name)
    given: dict[str, Any] = {"field": name.removeprefix(FIELD)} if name.startswith(FIELD) else {}
    return kind(**given)


def _implied(name: str) -> set[str]:
    """Parameters that the name says already."""
    return {"field"} if name.startswith(FIELD) else set()


def _spelled_out(step: Rule | Edit, hidden: set[str]) -> dict[str, Any]:
    # As a manifest on disk has them: tuples are lists there, and both are compared.
    parameters = msgspec.json.decode(msgspec.json.encode(step))
    return {key.replace("_", "-"): value for key, value in parameters.items() if key not in hidden}


def describe(name: str) -> str:
    """The first line of the rule's or edit's file, without its full stop."""
    package = EDITS if name in edit_names() else ASKED if name in plugins.names(ASKED) else RULES
    document = plugins.load(package, name, kind="rule").__doc__ or ""
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


def load_recipe_file(path: Path) -> Recipe:
    """The recipe in a TOML file, in a manifest.json, or in the manifest that a filtered stream carries.

    Raises UsageError where there is none.
    """
    if not path.is_file():
        raise UsageError("no such recipe file", where=str(path), hint="--preset NAME takes one by name")
    with path.open("rb") as file:
        start = file.read(1)
    if start == b"{":
        manifest: Manifest | None = decode_manifest(path.read_bytes(), where=str(path))
    else:
        manifest = read_trailer(path)
    if manifest is None:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UsageError("neither a recipe nor a manifest", where=str(path)) from error
        return parse_recipe(text, where=str(path))
    chain = [manifest]
    for one in chain:
        if one.stage == "filter" and isinstance(one.config.get("recipe"), dict):
            return read_recipe(one.config["recipe"], where=str(path))
        chain.extend(one.upstream)
    raise UsageError("no run of ptool filter in this manifest", where=str(path))


def choose_recipe(
    preset: str | None,
    rules: Sequence[str] = (),
    *,
    recipe_file: Path | None = None,
    first: Sequence[Step] = (),
    words: str | None = None,
    edits: bool = True,
    reporter: Reporter = SILENT,
) -> Recipe:
    """The recipe that a command line asks for: a preset or a file, changed by `rules`, or the rules alone.

    With none of them, it is DEFAULT_PRESET, and a notice says so. `first` run before everything. Without `edits`, a
    recipe that has any is refused.
    """
    if preset is not None and recipe_file is not None:
        raise UsageError("--preset and --recipe exclude each other", hint="copy the preset's file and edit that")
    if preset is None and recipe_file is None and not rules and not first:
        reporter.notice(f"no --preset and no --rule: using --preset {DEFAULT_PRESET}")
        preset = DEFAULT_PRESET
    chosen = load_preset(preset) if preset is not None else None
    if recipe_file is not None:
        chosen = load_recipe_file(recipe_file)
    if rules or chosen is not None:
        chosen = with_rules(chosen, rules)
    recipe = Recipe(steps=tuple(first)) if chosen is None else chosen
    if chosen is not None and first:
        recipe = msgspec.structs.replace(chosen, steps=(*first, *chosen.steps))
    if not edits and recipe.edits:
        found = ", ".join(step.name for _, step in recipe.edits)
        raise UsageError(f"the recipe edits documents ({found}) and --no-edits is given", hint="choose another recipe")
    return recipe if words is None else msgspec.structs.replace(recipe, words=read_words(words))


def with_rules(recipe: Recipe | None, texts: Sequence[str]) -> Recipe:
    """`recipe` changed by `NAME[:PARAMETER=VALUE,...]` texts, as `--rule` takes them.

    A rule that is in the recipe gets the new values where it stands; any other is added at the end. Without a recipe
    the texts are the whole of it.
    """
    steps = list(recipe.steps) if recipe is not None else []
    for text in texts:
        name, values = parse_rule(text)
        where = f"--rule {text}"
        at = [index for index, step in enumerate(steps) if step.name == name]
        if not at:
            steps.append(Step(name, _changed(_new_rule(name), values, where, name)))
        for index in at:
            step = steps[index]
            if isinstance(step, EditStep):
                raise UsageError(f"'{name}' is an edit of the recipe, not a rule", where=where, hint="copy the recipe")
            steps[index] = Step(name, _changed(step.rule, values, where, name))
    if not steps:
        raise UsageError("no rules", hint=f"for example --preset {DEFAULT_PRESET} or --rule word-count:min=50")
    changed = tuple(steps)
    return Recipe(steps=changed) if recipe is None else msgspec.structs.replace(recipe, steps=changed)


def make_rule(name: str, **values: Any) -> Step:
    """A step from Python: the rule `name` with bounds (min, max) and parameters."""
    return Step(name, _changed(_new_rule(name), values, name, name))


def _read_step(table: Mapping[str, Any], where: str) -> Step | EditStep:
    values = {key if key in BOUNDS else key.replace("-", "_"): value for key, value in table.items()}
    if "edit" in values and "rule" not in values:
        name = values.pop("edit")
        if not isinstance(name, str):
            raise UsageError("the step names no edit", where=where, hint='edit = "c4-lines"')
        return EditStep(name, _changed_edit(load_edit(name)(), values, where, name))
    name = values.pop("rule", None)
    if not isinstance(name, str):
        raise UsageError("the step names no rule", where=where, hint='rule = "word-count"')
    return Step(name, _changed(_new_rule(name), values, where, name))


def _changed(rule: Rule, values: Mapping[str, Any], where: str, name: str) -> Rule:
    """`rule` with the bounds and parameters of `values`, checked against its fields."""
    implied = _implied(name)
    parameters = [field.name for field in msgspec.structs.fields(rule) if field.name not in {"accept", *implied}]
    shown = [parameter.replace("_", "-") for parameter in parameters]
    for key in values:
        if key not in (*BOUNDS, *parameters):
            raise plugins.unknown(f"parameter of {name}", key, (*BOUNDS, *shown))
    bounds = {side: values.get(side, getattr(rule.accept, side)) for side in BOUNDS}
    table = {
        **{key: getattr(rule, key) for key in implied},
        **{key: values.get(key, getattr(rule, key)) for key in parameters},
        "accept": {side: None if bound == NO_BOUND else bound for side, bound in bounds.items()},
    }
    try:
        return msgspec.convert(table, type(rule), strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(str(error), where=where) from error


def _changed_edit(edit: Edit, values: Mapping[str, Any], where: str, name: str) -> Edit:
    """`edit` with the parameters of `values`, checked against its fields."""
    parameters = [field.name for field in msgspec.structs.fields(edit)]
    for key in values:
        if key not in parameters:
            raise plugins.unknown(f"parameter of {name}", key, [one.replace("_", "-") for one in parameters])
    try:
        return msgspec.convert({**msgspec.to_builtins(edit), **values}, type(edit))
    except msgspec.ValidationError as error:
        raise UsageError(str(error), where=where) from error
