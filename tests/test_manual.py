import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from ptool.cli.commands import COMMANDS
from ptool.cli.manual import generate, main, stale
from ptool.cli.reference import describe, describe_all, read_parameter
from ptool.cli.roff import body, page

ROOT = Path(__file__).resolve().parents[1]
BASH = ROOT / "completions" / "ptool.bash"


def needs(program):
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


@pytest.fixture(scope="module")
def descriptions():
    return describe_all()


def test_the_committed_files_are_what_the_commands_say_today(descriptions):
    assert stale(ROOT, generate(descriptions)) == [], "run python -m ptool.cli.manual"


def test_check_fails_for_a_file_that_differs_is_missing_or_is_left_over(descriptions, tmp_path):
    files = generate(descriptions)
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    assert stale(tmp_path, files) == []
    (tmp_path / "man/ptool.1").write_text("old")
    (tmp_path / "completions/_ptool").unlink()
    (tmp_path / "man/ptool-gone.1").write_text("left over")
    assert stale(tmp_path, files) == ["completions/_ptool", "man/ptool-gone.1", "man/ptool.1"]


def test_a_wrong_argument_is_a_usage_error():
    assert main(["--cheque"]) == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_help_with_its_purpose_and_three_examples_of_which_one_is_a_pipe(name):
    found = describe(COMMANDS[name])
    assert found.paragraphs.splitlines()[0] == COMMANDS[name].summary
    assert len(found.examples) == 3
    assert any(" | " in example for example in found.examples)
    assert all("ptool " in example for example in found.examples)
    for parameter in (*found.arguments, *found.options, *found.common):
        assert parameter.help, f"{name} {parameter.names or parameter.metavar} has no help"
        assert parameter.is_argument or any(spelling.startswith("--") for spelling in parameter.names)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_of_a_command_use_options_that_exist(name):
    for example in describe(COMMANDS[name]).examples:
        for words in re.findall(r"ptool ([a-z-]+)([^|)]*)", example):
            assert words[0] in COMMANDS, example
            parameters = describe(COMMANDS[words[0]])
            known = {spelling for option in (*parameters.options, *parameters.common) for spelling in option.names}
            used = {word.partition("=")[0] for word in words[1].split() if re.match(r"--?[a-z]", word)}
            assert used <= known, f"{example}: {used - known}"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_a_manual_page_that_names_its_options(name):
    text = (ROOT / f"man/ptool-{name}.1").read_text(encoding="utf-8").replace(r"\-", "-")
    for option in describe(COMMANDS[name]).options:
        assert all(rf"\fB{spelling}\fR" in text for spelling in option.names)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_a_section_in_the_readme(name):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"^#+ `?ptool {name}`?", readme, re.MULTILINE), f"README.md has no heading for ptool {name}"


def test_the_overview_page_has_the_exit_codes_and_the_variables():
    text = (ROOT / "man/ptool.1").read_text(encoding="utf-8")
    status = text.split('.SH "EXIT STATUS"')[1].split(".SH")[0]
    assert re.findall(r"^\\fB(\S+)\\fR$", status, re.MULTILINE) == ["0", "1", "2", "3", "4", "75", "128+N"]
    assert "NO_COLOR" in text
    assert "PTOOL_JOBS" in text


@needs("mandoc")
def test_mandoc_has_nothing_to_complain_about():
    pages = sorted(map(str, (ROOT / "man").iterdir()))
    done = subprocess.run(["mandoc", "-Tlint", *pages], capture_output=True, text=True)
    assert done.stdout + done.stderr == ""
    assert done.returncode == 0


@needs("mandoc")
def test_text_that_roff_would_take_for_its_own_arrives_as_it_was_written():
    nasty = [
        r".jsonl.zst at the start, back\slash, \fBno font\fR, \n and \(em",
        "'quoted' at the start; tilde~, caret^, --long-option, -q, 中文 and …",
        "`.code` with `'quotes'` and `back\\slash` and `a --flag=b`",
    ]
    examples = [r".leading dot", "'leading quote", r"printf '%s\n' \"$x\" | ptool -q --json ~/a^b `c` # 中文"]
    text = (
        "NAME\n\nx - y\n\nDESCRIPTION\n\n" + "\n\n".join(nasty) + "\n\n" + "\n".join(f"    {line}" for line in examples)
    )
    source = page("x", 1, date="2026-11-22", version="1", lines=body(text))
    assert source.isascii()
    lint = subprocess.run(["mandoc", "-Tlint"], input=source, capture_output=True, text=True)
    assert lint.stdout == ""
    shown = subprocess.run(["mandoc", "-Tutf8", "-Owidth=200"], input=source, capture_output=True, text=True).stdout
    plain = re.sub(".\b", "", shown)
    for line in [line.replace("`", "") for line in nasty] + examples:
        assert line in plain


@pytest.mark.parametrize(
    ("name", "metavar", "values", "choices"),
    [
        ("--zero", "0|1|2|3", "choice", ("0", "1", "2", "3")),
        ("--eod", "auto|none|ID", "free", ()),
        ("--output", "FILE|FOLDER/", "file", ()),
        ("--state", "FOLDER/", "folder", ()),
        ("--rule", "NAME[:PARAMETER=VALUE]", "rules", ()),
    ],
)
def test_what_completes_follows_from_the_declaration(name, metavar, values, choices):
    app = typer.Typer(rich_markup_mode=None)
    app.command()(lambda value: None)
    parameter = typer.main.get_command(app).params[0]
    parameter.param_type_name, parameter.opts, parameter.metavar = "option", [name], metavar
    parameter.secondary_opts = []
    found = read_parameter(parameter)
    assert (found.names, found.values, found.choices) == ((name,), values, choices)


def complete(tmp_path, *words):
    """What bash offers for the last of `words`, in a folder with some files."""
    for name in ("clean.jsonl.zst", "two words.jsonl", "文档.jsonl"):
        (tmp_path / name).touch()
    (tmp_path / "runs").mkdir(exist_ok=True)
    program = tmp_path / "bin" / "ptool"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m ptool "$@"\n')
    program.chmod(0o755)
    script = 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _ptool; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(
        ["bash", "--norc", "-c", script, "bash", str(BASH), str(program), *words],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if line]


def test_bash_completes_commands(tmp_path):
    assert complete(tmp_path, "") == [*COMMANDS, "--help", "--version"]
    assert complete(tmp_path, "train") == ["train-tokenizer", "train"]


def test_bash_completes_the_options_of_the_command_alone(tmp_path):
    assert complete(tmp_path, "filter", "--pre") == ["--preset"]
    assert complete(tmp_path, "estimate-cost", "--pr") == ["--precision", "--price"]
    assert complete(tmp_path, "estimate-cost", "--rej") == []
    assert "--json" in complete(tmp_path, "eval", "--j")


def test_bash_completes_choices_with_and_without_an_equals_sign(tmp_path):
    assert complete(tmp_path, "filter", "--on-error", "") == ["fail", "reject"]
    assert complete(tmp_path, "filter", "--on-error", "=", "re") == ["reject"]
    assert complete(tmp_path, "filter", "--on-error", "=") == ["fail", "reject"]


def test_bash_asks_ptool_for_names(tmp_path):
    assert complete(tmp_path, "filter", "--preset", "gopher-q") == ["gopher-quality"]
    assert "word-count" in complete(tmp_path, "filter", "--rule", "")
    assert complete(tmp_path, "estimate-cost", "--gpu", "h100-s") == ["h100-sxm"]
    assert "10m" in complete(tmp_path, "train", "--model", "1")


def test_bash_completes_paths_with_spaces_and_in_any_script(tmp_path):
    assert set(complete(tmp_path, "filter", "")) == {"clean.jsonl.zst", "two words.jsonl", "文档.jsonl", "runs", "bin"}
    assert complete(tmp_path, "dedup", "two") == ["two words.jsonl"]
    assert complete(tmp_path, "filter", "-o", "文") == ["文档.jsonl"]
    assert set(complete(tmp_path, "status", "")) == {"runs", "bin"}
    assert complete(tmp_path, "estimate-cost", "--params", "") == []


@pytest.mark.parametrize(("shell", "script"), [("bash", "ptool.bash"), ("zsh", "_ptool"), ("fish", "ptool.fish")])
def test_a_completion_script_parses(shell, script):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([shell, "-n", ROOT / "completions" / script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@needs("fish")
def test_fish_completes_commands_options_and_choices(tmp_path):
    def offered(line):
        script = f"source '{ROOT}/completions/ptool.fish'; complete -C '{line}'"
        env = {**os.environ, "HOME": str(tmp_path)}
        done = subprocess.run(
            ["fish", "--no-config", "-c", script], capture_output=True, text=True, timeout=60, env=env
        )
        return [found.split("\t")[0] for found in done.stdout.splitlines()]

    assert offered("ptool estim") == ["estimate-cost"]
    assert offered("ptool filter --pres") == ["--preset"]
    assert offered("ptool filter --on-error ") == ["fail", "reject"]
