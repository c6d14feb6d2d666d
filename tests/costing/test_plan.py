import json
import os
import pty
import subprocess
import sys
import tomllib
from importlib.resources import files

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptool.costing.guide import as_text as guide_text
from ptool.costing.guide import guide
from ptool.costing.inputs import read_model
from ptool.costing.layouts import Wanted, plan
from ptool.costing.memory import Setting, estimate_memory, usable_bytes
from ptool.costing.planning import build_plan
from ptool.costing.planreport import all_rows, as_json, as_text, runnable
from ptool.costing.shapes import named_shape
from ptool.costing.tables import find_gpu
from ptool.costing.traffic import Cluster, all_gather, step_time
from ptool.costing.trainconfig import train_config
from ptool.errors import UsageError
from ptool.training.resolving import settings_table

SCHEMA = json.loads(files("ptool.costing").joinpath("plan.schema.json").read_text())


def planned(**given):
    return build_plan(given)[0]


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "ptool", "plan", *arguments], capture_output=True, text=True, timeout=60, **options
    )


def test_70b_on_1000_gpus_uses_992_and_its_batch_is_a_multiple_of_31():
    best = planned(model="70b", gpus=1000, tp=8, pp=4).best[0]
    assert (best.layout.data, best.layout.gpus, best.idle_gpus) == (31, 992, 8)
    assert best.rows % 31 == 0
    assert best.rows_multiple % 31 == 0
    text = as_text(planned(model="70b", gpus=1000, tp=8, pp=4))
    assert "992 GPUs work, 8 idle" in text
    assert "a multiple of 31" in text


def test_70b_on_128_gpus_has_24_gb_of_states_and_zero_2_is_refused_by_deepspeeds_pipeline():
    found = planned(model="70b", gpus=128, tp=8, pp=2)
    one = next(c for c in found.candidates if c.layout.zero == 1 and c.memory)
    assert one.layout.data == 8
    assert one.memory.states / 1e9 == pytest.approx(24.1, rel=0.02)  # this 70b has 69.0e9 parameters
    for candidate in found.candidates:
        if candidate.layout.zero >= 2:
            assert candidate.code == "deepspeed-pipeline-zero"
            assert not candidate.on_deepspeed


@settings(max_examples=25)
@given(
    size=st.sampled_from(["125m", "1b", "7b", "13b", "70b"]),
    gpus=st.integers(1, 700),
    per_node=st.sampled_from([1, 4, 8]),
    gpu=st.sampled_from(["h100", "a100-40gb", "rtx-4090", "b200"]),
    seq=st.sampled_from([512, 4096]),
)
def test_every_candidate_is_judged_and_every_judgement_can_be_checked(size, gpus, per_node, gpu, seq):
    device = find_gpu(gpu)
    cluster = Cluster(device, gpus, per_node, device.link_bytes, device.network_bytes)
    wanted = Wanted(named_shape(size), cluster, Setting(seq_len=seq), 2**22, {})
    found = plan(wanted)
    assert len(found.best) <= 3
    speeds = []
    for one in found.candidates:
        assert (one.code is None) == (one in found.best)
        assert one.reason or one.code is None
        if one.memory:
            again = estimate_memory(wanted.shape, one.layout, one.setting)
            assert one.memory == again
            assert (one.code == "memory") == (again.total > usable_bytes(device.memory_bytes))
        if one.code in (None, "slower"):
            layout = one.layout
            assert layout.tensor <= per_node
            assert layout.gpus + one.idle_gpus == gpus
            assert one.rows % (layout.data * one.setting.micro_rows) == 0
            assert not (layout.pipeline > 1 and layout.zero > 1)
            speeds.append(one.step.tokens_per_second)
    if found.best:
        assert found.best[0].step.tokens_per_second >= max(speeds) / 1.031  # within 3 % the simplest wins
    else:
        assert not speeds


def test_the_lowest_stage_that_fits_wins():
    found = planned(model="7b", gpus=8, tp=1, pp=1, micro_rows=1)
    codes = {one.layout.zero: one.code for one in found.candidates}
    assert codes == {0: "memory", 1: None, 2: "lower-zero-fits", 3: "lower-zero-fits"}


def test_recomputation_is_taken_only_where_nothing_fits_without():
    with_it = planned(model="70b", gpus=16, gpu="h200")
    assert {one.setting.recompute for one in planned(model="7b", gpus=64).best} == {"none"}
    for one in with_it.candidates:
        if one.setting.recompute == "full" and one.memory:
            without = one.setting._replace(recompute="none")
            needed = estimate_memory(with_it.wanted.shape, one.layout, without).total
            assert needed > usable_bytes(find_gpu("h200").memory_bytes)


def test_a_mixture_may_spread_its_experts():
    arch = "layers=32,hidden=4096,heads=32,kv_heads=8,ffn_hidden=14336,experts=8,active_experts=2,tie_embeddings=false"
    found = planned(arch=arch, gpus=64)
    assert any(one.layout.expert > 1 for one in found.candidates if one.code in (None, "slower"))
    assert all(one.layout.expert == 1 for one in planned(model="7b", gpus=64).candidates)
    assert any(one.code == "experts" for one in planned(arch=arch, gpus=24, ep=5).candidates)


def test_what_is_sent_takes_as_long_as_a_ring_needs():
    assert all_gather(8e9, 1, 100e9) == 0
    assert all_gather(8e9, 8, 100e9) == pytest.approx(7 * (10e-6 + 1e9 / 80e9))


def test_175b_on_96_h100s_is_near_megatrons_47_percent():
    shape = read_model(arch="layers=96,hidden=12288,heads=96,ffn_hidden=49152,vocab_size=51200").shape
    shape = shape._replace(gated=False)
    gpu = find_gpu("h100")
    cluster = Cluster(gpu, 96, 8, gpu.link_bytes, gpu.network_bytes)
    found = plan(Wanted(shape, cluster, Setting(seq_len=2048), 2048 * 1536, {}))
    assert found.best[0].step.mfu == pytest.approx(0.47, abs=0.05)
    again = step_time(shape, found.best[0].layout, found.best[0].setting, cluster, found.best[0].rows)
    assert again == found.best[0].step


def test_the_settings_for_train_are_settings_that_train_takes(tmp_path):
    for asked in ({"model": "1b", "gpus": 8}, {"arch": "layers=12,hidden=768,heads=12", "gpus": 4, "seq": 512}):
        best, config = runnable(planned(**asked), asked.get("model"))
        (tmp_path / "plan.toml").write_text(config.text)
        table = settings_table(tmp_path / "plan.toml")
        assert table["parallel"]["ranks"] == best.layout.gpus
        assert table["parallel"]["zero"] == best.layout.zero
        assert table["batch"]["micro_rows"] == best.setting.micro_rows
        assert table["batch"]["tokens"] == best.rows * best.setting.seq_len
        assert table["model"] == tomllib.loads(config.text)["model"]
        assert "execution" not in table


def test_a_layout_that_recomputes_is_trained_so(tmp_path):
    wanted = planned(model="1b", gpus=8)
    best, _ = runnable(wanted, "1b")
    full = best._replace(setting=best.setting._replace(recompute="full"))
    (tmp_path / "plan.toml").write_text(train_config(wanted.wanted, full, size="1b").text)
    assert settings_table(tmp_path / "plan.toml")["execution"] == {"recompute": "full"}


def test_a_layout_that_train_cannot_run_says_why():
    found, size = build_plan({"model": "70b", "gpus": 128})
    reasons = [best["train_reason"] for best in as_json(found, size)["best"]]
    assert any("Megatron-LM" in reason or "copies" in reason for reason in reasons)
    ours = planned(model="7b", gpus=8, engine="deepspeed")
    assert {one.layout.tensor for one in ours.best} == {1}
    assert ours.rejected_by()["engine"] > 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gpus": 8}, "a shape is missing"),
        ({"model": "7b"}, "--gpus is missing"),
        ({"model": "7b", "gpus": 64, "tp": 16}, "tensor-beyond-node"),
        ({"model": "7b", "gpus": 0}, "at least 1"),
        ({"model": "7b", "gpus": 8, "seq": 0}, "at least 1"),
        ({"model": "8b", "gpus": 8}, "unknown model size"),
    ],
)
def test_a_question_that_cannot_be_answered_is_refused(given, message):
    with pytest.raises(UsageError) as raised:
        build_plan(given)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    "given", [{"model": "70b", "gpus": 128}, {"model": "7b", "gpus": 1}, {"model": "70b", "gpus": 8}]
)
def test_the_json_is_as_the_schema_says(given):
    found, size = build_plan(given)
    as_object = json.loads(json.dumps(as_json(found, size), allow_nan=False))
    jsonschema.validate(as_object, SCHEMA)
    assert len(as_object["candidates"]) == len(all_rows(found)[1])
    assert as_text(found, size)


def test_where_nothing_works_the_command_says_what_is_nearest_and_ends_with_4():
    done = run("--model", "70b", "--gpus", "8")
    assert done.returncode == 4
    assert "no layout works" in done.stdout
    assert "nearest" in done.stdout


def test_the_guide_asks_and_answers_six_questions_in_order():
    found = guide({"gpus": 64, "budget": 2e5, "unique_tokens": 10**11, "tokens": 10**12})
    topics = ["deployment", "budget and data", "interconnect", "memory", "data quality", "recovery"]
    assert [answer.topic for answer in found.answers] == topics
    assert all(answer.follows for answer in found.answers)
    text = guide_text(found)
    assert "10 passes over the data" in text
    assert "Young/Daly" in text
    asked = []
    typed = {"How many GPUs": "16", "Filtered and deduplicated (yes, no)": "yes"}

    def ask(question, default):
        asked.append(question)
        return typed.get(question, "")

    personal = guide({"gpu": "h200"}, ask)
    assert personal.planned.wanted.cluster.gpus == 16
    assert personal.planned.wanted.cluster.gpu.name == "h200"
    assert "Which GPU" not in asked
    assert "person" in personal.answers[0].origin
    assert not any("deduplicate first" in line for line in personal.answers[4].follows)


def test_the_guide_refuses_what_it_would_not_use():
    with pytest.raises(UsageError, match="named size"):
        guide({"gpus": 8, "arch": "layers=2,hidden=8,heads=2"})
    with pytest.raises(UsageError, match="neither yes nor no"):
        guide({}, lambda question, default: "maybe" if "yes, no" in question else "")


def test_the_guide_asks_nobody_unless_both_ends_are_a_terminal():
    done = run("--guide", "--gpus", "8", "--budget", "10K", "--json", stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    as_object = json.loads(done.stdout)
    jsonschema.validate(as_object, SCHEMA)
    assert len(as_object["guide"]) == 6
    controller, terminal = pty.openpty()
    try:  # stdin is a terminal, stderr is not: it must not wait
        done = run("--guide", "--gpus", "8", "--budget", "10K", stdin=terminal)
        assert done.returncode == 0, done.stderr
        os.write(controller, b"16\n\n\n\n\n\n\n\n\n\n\n")
        asked = subprocess.run(
            [sys.executable, "-m", "ptool", "plan", "--guide", "--budget", "10K"],
            stdin=terminal, stderr=terminal, stdout=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
        assert asked.returncode == 0
        assert "gpus 16, gpu h100-sxm (person, default)" in asked.stdout
    finally:
        os.close(controller)
        os.close(terminal)


def test_planning_imports_nothing_heavy():
    code = (
        "import sys; from ptool.cli.app import main;"
        "code = main(['plan', '--model', '7b', '--gpus', '64']);"
        "heavy = {'torch', 'numpy', 'numba', 'pydantic', 'rich', 'msgspec', 'orjson', 'click'} & set(sys.modules);"
        "sys.exit(f'{heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
