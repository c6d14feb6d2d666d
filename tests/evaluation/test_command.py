"""`ptool eval` as a person or a pipe runs it."""

import json
import os
import pty
import subprocess
import sys

import pytest

from ptool.cli.app import main
from ptool.formats.artefacts import artefact_line
from ptool.formats.manifests import new_manifest
from tests.evaluation.runs import SmallRun, make_run


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> SmallRun:
    return make_run(tmp_path_factory.mktemp("eval") / "with space")


def test_a_pipe_gets_one_json_object_and_takes_the_line_of_train(made):
    line = artefact_line(made.run, new_manifest("train", {}))
    done = subprocess.run([sys.executable, "-m", "ptool", "eval"], input=line, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    assert done.stdout.count(b"\n") == 1
    assert found["run"] == str(made.run)
    assert found["step"] == 10
    assert set(found["sources"]) == {"-", "manual", "poem", "web"}


def test_a_terminal_gets_a_table(made):
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "ptool", "eval", str(made.run), "--color", "never"]
    with subprocess.Popen(command, stdout=slave, stderr=subprocess.PIPE) as process:
        os.close(slave)
        shown = b""
        try:
            while piece := os.read(master, 65536):
                shown += piece
        except OSError:  # Linux ends a terminal with EIO
            pass
        said = process.stderr.read().decode()
    os.close(master)
    lines = shown.decode().splitlines()
    assert lines[0].split() == ["source", "documents", "tokens", "bytes", "loss", "perplexity", "bits/byte"]
    assert [line.split()[0] for line in lines[1:]] == ["-", "manual", "poem", "web", "total"]
    assert "step 10 (640 tokens) on held-out documents" in said
    assert "\x1b" not in shown.decode()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-", "-"], 2, "stdin can be read once"),
        (["RUN", "--checkpoint", "3"], 2, "no checkpoint of step 3"),
        (["RUN", "--batch-tokens", "nan"], 2, "nan"),
        (["RUN", "--device", "tpu"], 2, "tpu"),
        (["RUN", "absent.jsonl"], 1, "absent.jsonl"),
        (["/no/such/run"], 1, "no such folder"),
    ],
)
def test_a_wrong_call_is_one_line_and_its_exit_code(made, capfd, arguments, code, message):
    assert main(["eval", *(str(made.run) if word == "RUN" else word for word in arguments)]) == code
    seen = capfd.readouterr()
    assert seen.out == ""
    assert message in seen.err
    assert "Traceback" not in seen.err


def test_errors_are_json_when_json_is_asked_for(made, capfd):
    assert main(["eval", str(made.run), "--checkpoint", "3", "--json"]) == 2
    error = json.loads(capfd.readouterr().err)["error"]
    assert error["code"] == 2
    assert "2, 10" in error["hint"]
