import json
import shlex
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptool.cli.commands import COMMANDS
from ptool.cli.reference import describe
from ptool.costing.estimate import estimate_cost
from ptool.costing.report import as_json, as_text
from ptool.costing.tables import gpus
from ptool.units import Band, parse_band, parse_count


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "ptool", "estimate-cost", *arguments], capture_output=True, text=True, timeout=60
    )


@given(
    params=st.integers(10**6, 10**13),
    ratio=st.floats(1.01, 90_000),
    gpu=st.sampled_from(sorted(gpus())),
    mfu=st.none() | st.just(Band(0.45, 0.45, 0.45)) | st.just(Band(0.123456, 0.3, 0.6)),
    price=st.none() | st.just(Band(0, 0, 0)) | st.just(Band(1.2345, 10, 999.99)),
)
def test_the_page_fits_a_terminal_and_is_plain_ascii(params, ratio, gpu, mfu, price):
    text = as_text(estimate_cost(params, int(params * ratio) + 1, gpu=gpu, mfu=mfu, price=price))
    assert text.isascii()
    assert "\x1b" not in text
    assert len(text.splitlines()) <= 24
    for line in text.splitlines():
        assert len(line) <= 80, line


def test_single_values_give_a_single_column_without_a_second_opinion():
    text = as_text(
        estimate_cost(70 * 10**9, 2 * 10**12, mfu=Band(0.45, 0.45, 0.45), goodput=Band(1, 1, 1), price=Band(2, 2, 2))
    )
    assert "GPU-hours             524,000\n" in text
    assert "cost                   $1.05M\n" in text
    assert "expected" not in text
    assert "textbook" not in text


def test_where_the_defaults_differ_from_the_usual_arithmetic_one_line_gives_both():
    text = as_text(estimate_cost(70 * 10**9, 2 * 10**12))
    line = next(line for line in text.splitlines() if "textbook" in line)
    assert "524,000 h, $1.05M at 45 %, no losses, $2" in line
    assert "1.8x" in line


@pytest.mark.parametrize("change", [{"mfu": 0.3}, {"goodput": 0.9}, {"price": 3.0}])
def test_one_value_that_is_not_the_usual_one_brings_the_second_opinion_back(change):
    values = {"mfu": 0.45, "goodput": 1.0, "price": 2.0} | change
    bands = {name: Band(value, value, value) for name, value in values.items()}
    assert "textbook" in as_text(estimate_cost(70 * 10**9, 2 * 10**12, **bands))


def test_the_json_is_in_base_units_with_the_keys_that_scripts_rely_on():
    found = as_json(estimate_cost(70 * 10**9, 2 * 10**12, num_gpus=2048))
    assert list(found) == [
        "schema", "inputs", "flops", "hardware", "efficiency", "gpu_hours", "wall_seconds", "cost_usd", "energy_kwh",
        "memory", "checkpoint", "scaling", "inversion", "usual_arithmetic", "neighbours", "sensitivity", "assumptions",
        "excluded", "warnings", "reproduce",
    ]  # fmt: skip
    assert found["schema"] == "ptool.estimate-cost/1"
    assert found["hardware"]["peak_dense_flops"] == 989.4e12
    assert found["hardware"]["mem_bytes"] == 80 * 2**30
    assert set(found["cost_usd"]) >= {"low", "mid", "high", "price_source", "price_as_of"}
    assert found["efficiency"]["mfu"]["convention"] == "6nd"
    assert found["neighbours"][0].keys() >= {"id", "tokens", "gpu", "gpu_hours", "implied_mfu", "url"}
    origins = {row["key"]: row["origin"] for row in found["assumptions"]}
    assert origins["params"] == origins["gpus"] == "flag"
    assert origins["gpu"] == "default"
    assert origins["mfu"] == origins["price"] == "reference"
    json.dumps(found, allow_nan=False)


def test_sensitivity_is_what_the_estimate_does_when_one_input_moves():
    base = estimate_cost(70 * 10**9, 2 * 10**12)
    rows = as_json(base)["sensitivity"]
    assert [abs(row["cost_delta"]) for row in rows] == sorted((abs(row["cost_delta"]) for row in rows), reverse=True)
    for row in rows:
        field = row["field"]
        middle = base.price.band.mid if field == "price" else getattr(base.efficiency, field).mid
        moved = Band(*([middle + row["delta"]] * 3))
        again = estimate_cost(70 * 10**9, 2 * 10**12, **{field: moved})
        assert again.cost_usd.mid - base.cost_usd.mid == pytest.approx(row["cost_delta"])


@given(params=st.integers(1, 10**13), ratio=st.floats(1.01, 90_000), gpu=st.sampled_from(sorted(gpus())))
def test_the_reproduce_line_gives_the_same_figures(params, ratio, gpu):
    found = estimate_cost(params, int(params * ratio) + 1, gpu=gpu)
    words = shlex.split(as_json(found)["reproduce"])
    assert words[:2] == ["ptool", "estimate-cost"]
    flags = dict(zip(words[2::2], words[3::2], strict=True))
    bands = {name: parse_band(flags[f"--{name}"]) for name in ("mfu", "goodput", "price") if f"--{name}" in flags}
    again = estimate_cost(
        parse_count(flags["--params"]), parse_count(flags["--tokens"]), gpu=flags["--gpu"],
        num_gpus=parse_count(flags["--gpus"]), **bands,
    )  # fmt: skip
    assert again.gpu_hours == pytest.approx(found.gpu_hours)
    assert again.wall_seconds == pytest.approx(found.wall_seconds)
    assert again.cost_usd == (pytest.approx(found.cost_usd) if found.cost_usd else None)


def test_the_command_works_with_exactly_two_arguments():
    done = run("--params", "70e9", "--tokens", "2e12")
    assert done.returncode == 0, done.stderr
    assert "8.40e23 FLOP by 6ND" in done.stdout
    assert "h100-sxm" in done.stdout
    assert "Llama 2 70B" in done.stdout
    assert "not included" in done.stdout


def test_the_command_prints_one_object_with_json():
    done = run("--params", "70e9", "--tokens", "2e12", "--mfu", "45%", "--goodput", "1", "--price", "2", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert round(found["gpu_hours"]["mid"], -3) == 524_000
    assert f"{found['cost_usd']['mid']:.3g}" == "1.05e+06"
    assert done.stderr == ""


@pytest.mark.parametrize("example", describe(COMMANDS["estimate-cost"]).examples)
def test_the_examples_of_the_command_run(example):
    command = shlex.split(example.partition("|")[0])
    assert command[:2] == ["ptool", "estimate-cost"]
    done = run(*command[2:])
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--params", "70e9"], "--tokens"),
        (["--params", "70e9", "--model", "7b", "--tokens", "2e12"], "exclude each other"),
        (["--model", "7b", "--tokens", "2e12", "--gpus", "64", "--tp", "16"], "[tensor-beyond-node]"),
        (["--params", "7B", "--tokens", "2e12", "--peak-tflops", "1979"], "[sparse-peak]"),
        (["--params", "7B", "--tokens", "2e12", "--mfu-convention", "full"], "[needs-shape]"),
        (["--params", "7B", "--tokens", "2e12", "--fail-if", "cots>3"], "did you mean"),
        (["--params", "7B", "--tokens", "2e12", "--fail-if", "cost 3"], "is no condition"),
        (["--params", "70e9", "--tokens", "nan"], "'nan' is not a count"),
        (["--params", "70e9", "--tokens", "2e12", "--gpu", "h10"], "did you mean"),
        (["--params", "70e9", "--tokens", "2e12", "--mfu", "0.7"], "above 65 %"),
        (["--params", "2e12", "--tokens", "70e9"], "tokens per parameter"),
    ],
)
def test_a_wrong_call_exits_2_with_the_reason_on_stderr(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stdout == ""


def test_the_command_imports_nothing_heavy():
    code = (
        "import sys; from ptool.cli.app import main;"
        "code = main(['estimate-cost', '--params', '70e9', '--tokens', '2e12', '--price', '2']);"
        "heavy = {'torch', 'numpy', 'numba', 'pydantic', 'rich', 'msgspec', 'orjson', 'click'} & set(sys.modules);"
        "sys.exit(f'{heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
