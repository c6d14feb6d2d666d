"""What is to be estimated, from what people have at hand: a number, a named size, a file, packed data, a price list."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from ptool.costing.configs import read_config
from ptool.costing.shapes import Shape, named_shape, parse_shape
from ptool.costing.tables import Price, find_gpu, price_rows
from ptool.errors import InputError, UsageError
from ptool.units import Band, parse_band


class Model(NamedTuple):
    """How large the model is; `option` is how the caller said it, for the line that reproduces the estimate."""

    params: int
    active_params: int
    shape: Shape | None
    option: str
    doubt: str | None = None


class Corpus(NamedTuple):
    """What it is trained on. `mean_span`: sum of squared document lengths over their sum, in tokens (None: unknown)."""

    num_tokens: int
    mean_span: float | None = None
    seq_len: int | None = None
    vocab_size: int | None = None
    option: str = ""


def read_model(
    *,
    params: int | None = None,
    active_params: int | None = None,
    name: str | None = None,
    config: Path | None = None,
    arch: str | None = None,
) -> Model | None:
    """The model that one of the four ways names, or None where none is given. Raises UsageError for two at once."""
    given = {"--params": params, "--model": name, "--config": config, "--arch": arch}
    named = [option for option, value in given.items() if value is not None]
    if len(named) > 1:
        raise UsageError(f"{' and '.join(named)} exclude each other", hint="each of them gives the model's size")
    if active_params is not None and params is None:
        raise UsageError("--active-params goes with --params", hint="a shape says by itself what is active")
    if params is not None:
        if active_params is not None and not 0 < active_params <= params:
            raise UsageError(f"--active-params {active_params} of {params} parameters")
        return Model(params, active_params or params, None, "")
    doubt = None
    if name is not None:
        shape, option = named_shape(name), f"--model {name}"
    elif config is not None:
        shape, doubt = read_config(config)
        option = f"--config {_quoted(str(config))}"
    elif arch is not None:
        shape, option = parse_shape(arch), f"--arch {arch}"
    else:
        return None
    return Model(shape.num_parameters(), shape.num_parameters(active=True), shape, option, doubt)


def read_corpus(packed: str, *, tokens: int | None = None) -> Corpus:
    """Real token counts of a packed folder (its path, its manifest, or `-` for the line that `pack` printed).

    `tokens` replaces the count (several passes over the data); document lengths stay those of the data.
    """
    where, manifest = _manifest(packed)
    try:
        layout = manifest["details"]["layout"]
        train = layout["splits"]["train"]
        real, squares = int(train["tokens"]), float(train["sum_squared_pieces"])
        seq_len, vocab_size = int(layout["seq_len"]), int(layout["vocab_size"])
    except (KeyError, TypeError, ValueError) as error:
        message = f"not the manifest of a packed folder: {type(error).__name__} {error}"
        raise InputError(message, where=where, hint="give the folder that `ptool pack` wrote") from error
    if real < 1:
        raise InputError("no tokens in its training split", where=where)
    return Corpus(tokens or real, squares / real, seq_len, vocab_size, f"--packed {_quoted(where)}")


def read_price(text: str, gpu: str) -> Price:
    """`LOW:MID:HIGH`, one value, or a TOML file with rows like those of prices.toml."""
    path = Path(text)
    if path.suffix != ".toml" and not path.is_file():
        return Price(parse_band(text), None, "--price")
    try:
        rows = price_rows(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"cannot read: {(error.strerror or str(error)).lower()}", where=text) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError) as error:
        hint = '[GPU] with low, mid, high, as_of = 2026-11-01 and source = "..."'
        raise InputError(f"not a price list: {error}", where=text, hint=hint) from error
    name = find_gpu(gpu).name
    if name not in rows:
        raise UsageError(f"no price of {name} in it", where=text, hint=f"there: {', '.join(rows) or 'none'}")
    band = rows[name].band
    if not 0 <= band.low <= band.mid <= band.high:
        raise UsageError(f"the {name} price does not rise from low to high", where=text)
    return rows[name]


def typical_spans(shape: Shape, seq_len: int | None) -> float:
    """The span where the data is unknown: whole rows of the given or the model's own length."""
    return float(seq_len or shape.max_seq_len)


def single(value: float) -> Band:
    """A band of one value."""
    return Band(value, value, value)


def _manifest(packed: str) -> tuple[str, dict[str, Any]]:
    if packed == "-":
        where, text = "-", sys.stdin.readline()
        if not text.strip():
            raise InputError("upstream failed: it wrote nothing", where="-")
    else:
        path = Path(packed)
        path = path / "manifest.json" if path.is_dir() else path
        where = str(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read: {error}", where=where) from error
    try:
        table = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error}", where=where) from error
    if isinstance(table, dict) and isinstance(table.get("manifest"), dict):
        where, table = str(table.get("artefact", where)), table["manifest"]
    if not isinstance(table, dict):
        raise InputError("not a manifest", where=where)
    return where, table


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)
