import json

import pytest

from ptool.costing.actual import actual_rows, read_actual
from ptool.costing.shapes import named_shape
from ptool.costing.tables import gpus
from ptool.errors import InputError
from ptool.models.config import load_size
from ptool.training.config import Data, Parallel, RunConfig
from ptool.training.settings_text import to_toml
from ptool.units import Band


def make_run(folder, device="cuda", steps=20, slow=()):
    """A run of 1,000 tokens a step at 500 tokens/s, stopped after half its steps and resumed a day later."""
    folder.mkdir()
    config = RunConfig(
        model=load_size("10m").model.as_table(),
        data=Data(packed=("web", "long"), fingerprints=("a", "b"), seq_lens=(512, 2048)),
        parallel=Parallel(ranks=4, device=device),
    )
    (folder / "config.toml").write_text(to_toml(config))  # what train itself writes
    speeds = [100.0 if step in slow else 500.0 for step in range(1, steps + 1)]
    lines = [{"step": n, "tokens": n * 1000, "tokens_per_second": speed} for n, speed in enumerate(speeds, 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 9')
    half = steps / 2 * 2
    times = [("start", 0.5), ("save", 0.5 + half + 10), ("start", 86_400.0), ("save", 86_400.0 + half + 10)]
    events = "".join(json.dumps({"event": event, "time": time + 1000}) + "\n" for event, time in times)
    (folder / "events.jsonl").write_text(events)
    return folder


def test_a_run_says_its_speed_its_goodput_and_its_mfu(tmp_path):
    found = read_actual(make_run(tmp_path / "run", slow={3, 7}), gpu="h100")
    assert found.tokens_per_second == 500
    assert found.steady_hours == pytest.approx(20_000 / 500 * 4 / 3600)
    assert found.paid_hours == pytest.approx(
        60 * 4 / 3600
    )  # 20 steps of 2 s, twice 10 s of saving; not the day between
    assert found.goodput == pytest.approx(40 / 60)
    params = named_shape("10m").num_parameters()
    assert found.mfu == pytest.approx(6 * params * 500 / 4 / gpus()["h100-sxm"].peak_flops)
    rows = dict(actual_rows(found))
    assert "--mfu" in rows["calibration"]
    assert "unfinished" in rows["run"]


def test_on_a_cpu_there_is_no_peak_to_compare_with(tmp_path):
    found = read_actual(make_run(tmp_path / "run", device="cpu"), gpu="h100")
    assert found.mfu is None
    assert found.gpu is None
    assert "--peak-tflops" in dict(actual_rows(found))["calibration"]


def test_a_calibration_from_one_run_predicts_another(tmp_path):
    first = read_actual(make_run(tmp_path / "first", device="cpu"))
    peak = first.flops_per_second_per_rank * 2
    bands = {"mfu": Band(0.5, 0.5, 0.5), "goodput": Band(first.goodput, first.goodput, first.goodput)}
    second = read_actual(make_run(tmp_path / "second", device="cpu"), peak_flops=peak, **bands)
    assert second.estimated_hours == pytest.approx(second.paid_hours)
    assert second.mfu == pytest.approx(0.5)
    assert "1.00 times" in dict(actual_rows(second))["estimate"]


@pytest.mark.parametrize("missing", ["config.toml", "metrics.jsonl", "events.jsonl"])
def test_a_folder_that_is_no_run_is_refused(missing, tmp_path):
    run = make_run(tmp_path / "run")
    (run / missing).unlink()
    with pytest.raises(InputError, match="no run here"):
        read_actual(run)


def test_a_run_without_a_step_is_refused(tmp_path):
    with pytest.raises(InputError):
        read_actual(make_run(tmp_path / "run", steps=0))
