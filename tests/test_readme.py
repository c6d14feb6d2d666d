"""The README's commands run as they stand, in one folder from top to bottom; only training is cut short."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = re.findall(r"^```sh\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
STEPS = 3


def test_setting_up_is_exactly_two_commands() -> None:
    setup = [line for line in README.splitlines() if line.startswith("python3 -m venv")]
    assert setup == [
        "python3 -m venv .venv && . .venv/bin/activate && pip install . && ptool demo",
        "python3 -m venv .venv && . .venv/bin/activate && pip install '.[test]' && pytest",
    ]


def test_ci_runs_the_readmes_test_command() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    pattern = re.search(r"sed -n '([^']+)'", script)
    assert pattern is not None
    found = subprocess.run(["sed", "-n", pattern[1], "README.md"], cwd=ROOT, capture_output=True, text=True)
    assert found.stdout == "python3 -m venv .venv && . .venv/bin/activate && pip install '.[test]' && pytest\n"


def test_the_commands_of_the_readme_run(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    if shutil.which("ptool", path=path) is None:
        pytest.skip("the ptool command is not installed beside this Python")
    assert len(SHELL) > 10
    for block in SHELL:
        if any(tool in block and shutil.which(tool) is None for tool in ("zstdcat", "jq")):
            continue  # those lines are about other people's tools
        script = re.sub(r"--max-steps \d+", f"--max-steps {STEPS}", block)
        done = subprocess.run(
            ["bash", "-e", "-c", script],
            cwd=tmp_path,
            env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        assert "Traceback" not in done.stderr, done.stderr
    assert (tmp_path / "runs/b/manifest.json").exists()


def test_the_python_example_runs() -> None:
    for example in re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL):
        subprocess.run([sys.executable, "-c", example], check=True, cwd=ROOT)
    assert "```python" in README
