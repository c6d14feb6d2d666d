"""What every command promises, seen from outside: real processes, real pipes, real signals."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest

from ptool.cli.commands import COMMANDS, names_of

PTOOL = [sys.executable, "-m", "ptool"]


def ptool(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    settings: dict[str, object] = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL, **options}
    if "input" in settings:
        del settings["stdin"]
    return subprocess.run([*PTOOL, *arguments], **settings)  # type: ignore[call-overload, no-any-return]


def modules_after(*arguments: str) -> set[str]:
    script = (
        "import sys; from ptool.cli.app import main\n"
        f"code = main({list(arguments)!r})\n"
        "print('\\n'.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return set(done.stderr.split())


def documents(path: Path, count: int = 3000) -> Path:
    words = "the cat that sat on a mat is not and will never be of any use to people with dogs in their house "
    with path.open("w") as file:
        for number in range(count):
            file.write(json.dumps({"id": str(number), "text": f"{number} " + words * 4 + str(number)}) + "\n")
    return path


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["--complete", "commands"], ["--complete", "rules"], ["--complete", "gpus"]],
)
def test_quick_answers_come_before_typer_is_imported(arguments: list[str]) -> None:
    loaded = modules_after(*arguments)
    assert "ptool.cli.commands" in loaded
    assert not loaded & {"typer", "rich", "numpy", "numba", "torch", "pydantic", "msgspec", "zstandard", "orjson"}


def test_estimate_cost_needs_no_heavy_library() -> None:
    loaded = modules_after("estimate-cost", "--params", "70e9", "--tokens", "2e12")
    assert "ptool.costing.estimate" in loaded
    assert not loaded & {"rich", "numpy", "numba", "torch", "pydantic"}


@pytest.mark.parametrize("command", list(COMMANDS.values()), ids=lambda command: command.name)
def test_every_row_of_the_table_is_a_command_with_that_summary(command: object) -> None:
    function = getattr(import_module(command.module), command.function)  # type: ignore[attr-defined]
    assert function.__doc__.splitlines()[0] == command.summary  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_has_a_purpose_and_three_examples_of_which_one_is_a_pipe(command: str) -> None:
    done = ptool(command, "--help")
    assert done.returncode == 0, done.stderr
    assert COMMANDS[command].summary in done.stdout
    examples = [line for line in done.stdout.split("Examples:")[1].splitlines() if line.startswith("      ")]
    assert len(examples) >= 3, done.stdout
    assert any(" | " in line for line in examples), done.stdout
    assert "\x1b" not in done.stdout


def test_no_arguments_show_the_overview_and_fail() -> None:
    done = ptool()
    assert done.returncode == 2
    assert done.stdout == ptool("--help").stdout


@pytest.mark.parametrize(
    ("arguments", "near", "listed"),
    [
        (["fliter"], "did you mean filter?", "estimate-cost"),
        (["filter", "--presett", "x"], "did you mean --preset?", "--rejects"),
        (["filter", "--preset", "gofer-quality", "x"], "did you mean gopher-quality?", "gopher-quality"),
        (["filter", "--rule", "word-cont", "x"], "did you mean word-count?", "stop-words"),
        (["estimate-cost", "--params", "7B", "--tokens", "1T", "--gpu", "h100-smx"], "h100-sxm", "a100"),
        (["--verson"], "", "filter"),
    ],
)
def test_a_typo_gets_the_nearest_name_and_the_valid_ones(arguments: list[str], near: str, listed: str) -> None:
    done = ptool(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert near in done.stderr
    assert listed in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("value", ["2X", "nan", "inf", "-1", "1e400", ""])
def test_a_bad_number_names_its_option_and_the_forms_that_are_read(value: str) -> None:
    done = ptool("filter", "--max-errors", value, "x")
    assert done.returncode == 2
    assert done.stderr.startswith("ptool: --max-errors: ")
    assert "hint:" in done.stderr


def test_errors_are_json_where_json_was_asked_for() -> None:
    for arguments, code in ((["status", "/nowhere", "--json"], 1), (["status", "--bogus", "--json"], 2)):
        done = ptool(*arguments)
        assert done.returncode == code
        error = json.loads(done.stderr)["error"]
        assert error["code"] == code
        assert error["message"]


def test_notices_go_to_stderr_and_quiet_silences_them(tmp_path: Path) -> None:
    source = documents(tmp_path / "in 文.jsonl", 50)
    loud = ptool("filter", str(source), "--compress", "none")
    quiet = ptool("filter", str(source), "--compress", "none", "-q")
    assert loud.stdout == quiet.stdout
    assert [json.loads(line)["id"] for line in loud.stdout.splitlines()] == [str(n) for n in range(50)]
    assert "kept" in loud.stderr
    assert quiet.stderr == ""


@pytest.mark.parametrize("setting", [{"FORCE_COLOR": "1"}, {"GITHUB_ACTIONS": "1"}, {"CLICOLOR_FORCE": "1"}, {}])
def test_no_escape_byte_reaches_a_pipe(tmp_path: Path, setting: dict[str, str]) -> None:
    source = documents(tmp_path / "in.jsonl", 50)
    for arguments in (["filter", str(source), "--dry-run"], ["filter", "--help"], ["filter", "--bogus"]):
        done = ptool(*arguments, env={**os.environ, "TERM": "xterm-256color", **setting})
        assert "\x1b" not in done.stdout + done.stderr


def test_a_reader_that_leaves_ends_the_process_by_sigpipe(tmp_path: Path) -> None:
    source = documents(tmp_path / "in.jsonl", 20_000)
    rejects = tmp_path / "rejects.zst"
    process = subprocess.Popen(
        [*PTOOL, "filter", str(source), "--compress", "none", "--rejects", str(rejects), "-q"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == -signal.SIGPIPE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl"], "nothing unfinished is kept"


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts `ptool filter` on a stdin that never ends, with output and rejects open, and gives it some documents."""
    started = []

    def start(**options: object) -> subprocess.Popen[bytes]:
        command = [*PTOOL, "filter", "--preset", "gopher-quality", "-o", str(tmp_path / "out.zst")]
        process = subprocess.Popen(
            [*command, "--rejects", str(tmp_path / "rejects.zst")],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,  # type: ignore[call-overload]
        )
        started.append(process)
        assert process.stdin is not None
        process.stdin.write(b'{"text":"a short one"}\n')
        process.stdin.flush()
        deadline = time.monotonic() + 30
        while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stderr):
            if pipe is not None:
                pipe.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_announced_and_leaves_nothing(
    tmp_path: Path, waiting: Callable[..., subprocess.Popen[bytes]], number: signal.Signals
) -> None:
    process = waiting(preexec_fn=lambda: signal.signal(number, signal.SIG_DFL))  # nohup leaves SIGHUP ignored
    process.send_signal(number)
    assert process.wait(20) == -number
    assert process.stderr is not None
    error = process.stderr.read().decode()
    assert number.name in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_a_signal_stops_also_what_nobody_listens_to(
    tmp_path: Path, waiting: Callable[..., subprocess.Popen[bytes]]
) -> None:
    process = waiting()
    assert process.stderr is not None
    process.stderr.close()  # as `2> >(head -1)` has it
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == -signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_sigusr1_prints_progress_and_goes_on(waiting: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = waiting()
    process.send_signal(signal.SIGUSR1)
    assert process.stderr is not None
    assert select.select([process.stderr], [], [], 20)[0]
    assert b"ptool:" in os.read(process.stderr.fileno(), 1000)
    assert process.poll() is None


def test_a_signal_ignored_by_the_caller_stays_ignored(waiting: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = waiting(preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGUSR1)
    assert process.stderr is not None
    assert select.select([process.stderr], [], [], 20)[0]
    assert process.poll() is None


def test_a_terminal_is_never_waited_for_nor_filled_with_binary(tmp_path: Path) -> None:
    source = documents(tmp_path / "in.jsonl", 10)
    for arguments, word in ((["filter"], "stdin is a terminal"), (["filter", str(source)], "stdout is a terminal")):
        master, slave = pty.openpty()
        done = subprocess.run([*PTOOL, *arguments], stdin=slave, stdout=slave, stderr=subprocess.PIPE, timeout=60)
        os.close(slave)
        os.close(master)
        assert done.returncode == 2
        assert word in done.stderr.decode()
        assert ("ptool filter crawl" in done.stderr.decode()) == (word == "stdin is a terminal")


def test_a_dead_upstream_fails_every_stage_behind_it(tmp_path: Path) -> None:
    source = documents(tmp_path / "in.jsonl", 2000)
    whole = subprocess.run([*PTOOL, "filter", str(source), "-q"], stdout=subprocess.PIPE, check=True).stdout
    for cut in (0, len(whole) // 2, len(whole) - 1):
        done = subprocess.run(
            [*PTOOL, "filter", "-o", str(tmp_path / "out.zst")], input=whole[:cut], capture_output=True
        )
        assert done.returncode == 1
        assert b"Traceback" not in done.stderr
        assert not (tmp_path / "out.zst").exists()


def test_environment_variables_stand_between_flags_and_defaults(tmp_path: Path) -> None:
    source = documents(tmp_path / "in.jsonl", 20)
    quiet = ptool("filter", str(source), "--compress", "none", env={**os.environ, "PTOOL_QUIET": "1"})
    assert quiet.stderr == ""
    plain = ptool("filter", str(source), "-q", env={**os.environ, "PTOOL_FILTER_COMPRESS": "none"})
    assert plain.stdout == quiet.stdout


@pytest.mark.parametrize(("module", "torn_down"), [("torch", ""), ("json", "torn down")])
def test_an_interpreter_with_torch_in_it_is_not_torn_down(module: str, torn_down: str) -> None:
    script = (
        f"import atexit, sys, types; sys.modules.setdefault({module!r}, types.ModuleType({module!r}))\n"
        "from ptool.cli import app\n"
        "atexit.register(lambda: print('torn down', end=''))\n"
        "app.main = lambda: 75\n"
        "print('product', file=sys.stderr, end='')\n"
        "app.entry()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (75, torn_down, "product")


def test_completion_names_what_exists() -> None:
    assert names_of("commands") == list(COMMANDS)
    assert "word-count" in names_of("rules")
    assert "gopher-quality" in names_of("presets")
    assert "10m" in names_of("models")
    assert "h100-sxm" in names_of("gpus")
    assert names_of("nothing") == []
