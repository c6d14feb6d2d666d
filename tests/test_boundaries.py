"""Which room may see which, and what is loaded before it is needed."""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import ptool

ROOT = Path(__file__).parents[1]

# Modules that exist to hold torch or numba code: importing them is asking for it.
HEAVY = {"torch", "deepspeed", "numba", "matplotlib", "sentencepiece", "tensorboard", "rich", "pydantic"}


def loaded_by(module: str) -> set[str]:
    script = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_every_contract_of_the_house_is_kept() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command; lint_imports_command()",
            "--no-cache",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


def test_importing_ptool_costs_nothing() -> None:
    assert not loaded_by("ptool") & (HEAVY | {"numpy", "msgspec", "typer", "zstandard"})


@pytest.mark.parametrize(
    "package", sorted(info.name for info in pkgutil.iter_modules(ptool.__path__, "ptool.") if info.ispkg)
)
def test_a_package_loads_nothing_heavy_by_itself(package: str) -> None:
    assert not loaded_by(package) & HEAVY


@pytest.mark.parametrize("module", ["ptool.formats.stages", "ptool.formats.artefacts", "ptool.formats.packed"])
def test_formats_load_numpy_at_most(module: str) -> None:
    assert not loaded_by(module) & HEAVY


@pytest.mark.parametrize(
    "module", ["ptool.models.config", "ptool.training.config", "ptool.training.launch", "ptool.training.spikes"]
)
def test_what_is_promised_to_be_torch_free_is(module: str) -> None:
    assert not loaded_by(module) & HEAVY


def test_every_command_module_is_light_until_its_command_runs() -> None:
    from ptool.cli.commands import COMMANDS

    loaded = loaded_by(", ".join(command.module for command in COMMANDS.values()))
    assert not loaded & HEAVY
