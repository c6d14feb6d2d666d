"""Where compiled kernels are kept, seen from fresh processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
from ptool.text.batch import Batch
batch = Batch.from_texts(["one two three"])
print(batch.words.num_words.tolist())
from ptool.text import words, compiled
kernel = words._split
print(sum(kernel.stats.cache_hits.values()), sum(kernel.stats.cache_misses.values()))
print(compiled.cache_folder())
"""


def run(program: str = PROGRAM, **environment: str) -> list[str]:
    clean = {key: value for key, value in os.environ.items() if key not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=clean | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_second_process_loads_what_the_first_compiled(tmp_path: Path) -> None:
    first = run(XDG_CACHE_HOME=str(tmp_path))
    assert first[0] == "[3]"
    assert first[1] == "0 1"
    assert Path(first[2]).is_relative_to(tmp_path / "ptool" / "kernels")
    assert run(XDG_CACHE_HOME=str(tmp_path))[1] == "1 0"


def test_without_a_folder_to_write_kernels_are_compiled_in_memory(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    found = run(XDG_CACHE_HOME=str(blocked), TMPDIR=str(tmp_path), TEMP=str(tmp_path))
    assert found[0] == "[3]"
    assert found[2].startswith(str(tmp_path / "ptool-"))


def test_a_folder_that_others_can_write_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "ptool").mkdir()
    (tmp_path / "ptool").chmod(0o777)
    other = tmp_path / "other"
    other.mkdir()
    found = run(XDG_CACHE_HOME=str(tmp_path), TMPDIR=str(other))
    assert found[0] == "[3]"
    assert found[2].startswith(str(other))


def test_a_disk_that_fills_up_while_a_kernel_is_stored_ends_nothing(tmp_path: Path) -> None:
    program = "import numba.core.caching as c\n" + (
        "def full(self, name, data): raise OSError(28, 'No space left on device')\n"
        "c.IndexDataCacheFile._save_data = full\n" + PROGRAM
    )
    assert run(program, XDG_CACHE_HOME=str(tmp_path))[0] == "[3]"


def test_numbas_own_setting_is_left_as_it_was(tmp_path: Path) -> None:
    program = "import numba\nbefore = numba.config.CACHE_DIR\n" + PROGRAM + "assert numba.config.CACHE_DIR == before\n"
    assert run(program, XDG_CACHE_HOME=str(tmp_path))[0] == "[3]"
    own = tmp_path / "own"
    run(NUMBA_CACHE_DIR=str(own), XDG_CACHE_HOME=str(tmp_path / "unused"))
    assert any(own.rglob("*.nbi"))


def test_a_kernel_is_compiled_anew_when_one_that_it_calls_changes_in_another_file(tmp_path: Path) -> None:
    package = tmp_path / "room"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "outer.py").write_text(
        "from ptool.text.compiled import kernel\nfrom room.inner import inner\n@kernel\ndef outer(): return inner()\n"
    )
    for value in (1, 2):
        (package / "inner.py").write_text(
            f"from ptool.text.compiled import kernel\n@kernel\ndef inner(): return {value}\n"
        )
        program = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nfrom room.outer import outer\nprint(outer())\n"
        assert run(program, XDG_CACHE_HOME=str(tmp_path), PYTHONDONTWRITEBYTECODE="1") == [str(value)]
