"""Standard streams that are closed, full, gone, slow or in another encoding: real processes."""

from __future__ import annotations

import array
import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

PTOOL = f"{sys.executable} -m ptool"


def shell(command: str, **settings: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, **settings}
    return subprocess.run(["bash", "-c", command], capture_output=True, env=environment, stdin=subprocess.DEVNULL)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text('{"id":"a","text":"a cat"}\n{"id":"b","text":"a dog"}\n')
    return path


@pytest.mark.parametrize("command", ["--version", "--help", "--complete commands", "estimate-cost --table", "stats {}"])
@pytest.mark.parametrize(("stdout", "why"), [(">&-", "bad file descriptor"), (">/dev/full", "no space left on device")])
def test_a_product_that_cannot_be_written_is_one_line_and_a_failure(
    source: Path, command: str, stdout: str, why: str
) -> None:
    done = shell(f"{PTOOL} {command.format(source)} {stdout}")
    assert done.returncode == 1, done.stderr
    assert why in done.stderr.decode().splitlines()[-1]
    assert b"Traceback" not in done.stderr
    assert b"ignored" not in done.stderr


def test_closed_streams_do_no_harm_to_work_on_folders_and_files(tmp_path: Path, source: Path) -> None:
    closed = ">&- 2>&- <&-"
    work = f"cd {tmp_path} && {PTOOL} filter {source} --rule word-count:min=1 -o"
    assert shell(f"{work} a.zst").returncode == 0
    assert shell(f"{work} b.zst {closed}").returncode == 0
    assert (tmp_path / "a.zst").read_bytes() == (tmp_path / "b.zst").read_bytes()
    tokenize = f"cd {tmp_path} && {PTOOL} tokenize a.zst --tokenizer bytes -o"
    assert shell(f"{tokenize} a/").returncode == 0
    assert shell(f"{tokenize} b/ {closed}").returncode == 0
    assert (tmp_path / "a/manifest.json").read_bytes() == (tmp_path / "b/manifest.json").read_bytes()


def test_a_file_never_takes_the_number_of_a_stream_that_is_closed() -> None:
    script = (
        "import os, sys; from ptool.cli.descriptors import fill_missing; fill_missing()\n"
        "assert os.open('/dev/zero', os.O_RDONLY) > 2\n"
        "assert [os.get_inheritable(number) for number in range(3)] == [True] * 3\n"
        "os.write(2, b'what a library says'); print('nobody', file=sys.stderr)\n"
    )
    assert shell(f'{sys.executable} -c "{script}" <&- >&- 2>&-').returncode == 0


def test_a_run_goes_on_when_its_terminal_is_gone(tmp_path: Path) -> None:
    """As after `disown` and the end of an ssh session."""
    master, slave = pty.openpty()
    command = f"{PTOOL} filter --rule word-count:min=1 -o {tmp_path / 'out.jsonl'}"
    process = subprocess.Popen(
        ["bash", "-c", f"trap '' HUP; exec {command}"],
        stdin=subprocess.PIPE,
        stderr=slave,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(slave)
    assert process.stdin is not None
    batch = b'{"text":"' + b"word " * 1000 + b'"}\n'
    for number in range(30):
        process.stdin.write(batch * 200)
        process.stdin.flush()
        if number == 10:
            os.read(master, 1)  # something was drawn, or said
            os.close(master)
        time.sleep(0.01)
    process.stdin.close()
    assert process.wait(60) == 0
    assert (tmp_path / "out.jsonl").read_bytes().count(b"\n") == 30 * 200


def test_sigusr1_while_a_slow_reader_holds_up_a_notice(tmp_path: Path) -> None:
    script = (
        "from ptool.cli.app import _listen; from ptool.cli.output import current\n"
        "_listen(); current().notice('x' * 200_000); print('done')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    )
    assert process.stderr is not None
    waiting = array.array("i", [0])
    while waiting[0] < 65536:  # until the pipe is full
        fcntl.ioctl(process.stderr, termios.FIONREAD, waiting)
        assert process.poll() is None
    process.send_signal(signal.SIGUSR1)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, b"done\n"), error[-500:]
    assert b"nothing done yet" in error


def test_json_is_utf_8_and_tables_are_spelled_where_the_locale_is_another(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"id":"a","source":"中文","text":"a cat"}\n', encoding="utf-8")
    folder = tmp_path / "é中"
    done = shell(f"{PTOOL} tokenize {source} --tokenizer bytes -o {folder}", PYTHONIOENCODING="latin-1")
    assert json.loads(done.stdout)["artefact"] == str(folder)
    done = shell(f"{PTOOL} stats {source}", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert rb"\u4e2d\u6587" in done.stdout


def test_an_error_about_a_name_that_is_no_utf_8_is_json_too() -> None:
    done = shell(f"{PTOOL} stats $'no\\xff.jsonl' --json")
    assert done.returncode == 1
    assert json.loads(done.stderr)["error"]["where"] == r"no\udcff.jsonl"


def test_errors_are_json_where_the_variable_asks_for_it() -> None:
    done = shell(f"{PTOOL} nonsense", PTOOL_JSON="1")
    assert json.loads(done.stderr)["error"]["code"] == 2


def test_a_reader_that_leaves_a_coloured_table_is_a_closed_pipe(source: Path) -> None:
    done = shell(f"{PTOOL} stats {source} --color always -q | true; echo ${{PIPESTATUS[0]}}")
    assert done.stdout.split() == [b"141"]
