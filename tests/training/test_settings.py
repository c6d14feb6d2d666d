"""From what a person types to a resolved configuration."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptool.errors import UsageError
from ptool.models.config import ModelConfig
from ptool.training.phases import FolderFacts
from ptool.training.resolving import DataFacts, MachineFacts, check, overlay, parse_setting, resolve, settings_table
from ptool.training.settings_text import as_tables, from_toml, read_config, settings, to_toml, toml_value
from tests.training import plans

FOLDER = FolderFacts(
    packed="/data/packed", fingerprint="xxh3-128:00", seq_len=512, num_rows=10_000, num_tokens=5_120_000
)
DATA = DataFacts(folders=(FOLDER,), vocab_size=8000)
LAPTOP = MachineFacts(device="cpu", num_gpus=0, num_cpus=2, fast_bf16=False)
NODE = MachineFacts(device="cuda", num_gpus=8, num_cpus=64, fast_bf16=False)


def resolved(machine=LAPTOP, **tables):
    return resolve(check(tables), DATA, machine)


def test_nothing_given_is_the_small_model_for_one_pass_on_two_gloo_ranks():
    c = resolved()
    assert c.model_config.layers == 9
    assert (c.model_config.vocab_size, c.model_config.max_seq_len) == (8000, 512)
    assert (c.parallel.ranks, c.parallel.device, c.parallel.precision, c.parallel.zero) == (2, "cpu", "fp32", 2)
    assert c.run.max_steps == 10_000 // c.phase[0].rows
    assert (c.optimizer.beta1, c.optimizer.beta2, c.optimizer.eps, c.optimizer.weight_decay) == (0.9, 0.95, 1e-8, 0.1)
    assert (c.optimizer.clip, c.checkpoint.every_steps, c.checkpoint.keep_last) == (1.0, 500, 3)


def test_a_machine_with_gpus_gets_a_rank_each_and_bf16():
    c = resolved(NODE)
    assert (c.parallel.ranks, c.parallel.device, c.parallel.precision, c.parallel.threads) == (8, "cuda", "bf16", 8)


def test_a_cpu_that_was_measured_fast_at_bf16_uses_it():
    fast = MachineFacts(device="cpu", num_gpus=0, num_cpus=2, fast_bf16=True)
    assert resolved(fast).parallel.precision == "bf16"
    assert resolved(fast, parallel={"precision": "fp32"}).parallel.precision == "fp32"


@pytest.mark.parametrize(("steps", "warmup"), [(1_000, 20), (100_000, 2_000), (1_000_000, 2_000), (10, 1)])
def test_warm_up_is_two_thousand_steps_or_two_percent_whichever_is_shorter(steps, warmup):
    assert resolved(run={"max_steps": steps}).schedule.warmup_steps == warmup


@given(st.integers(1, 1 << 20), st.integers(1, 9), st.integers(0, 5))
def test_the_batch_is_micro_times_accumulation_times_ranks_times_length(tokens, ranks, micro_rows):
    c = resolved(batch={"tokens": tokens, "micro_rows": micro_rows}, parallel={"ranks": ranks})
    (phase,) = c.phase
    assert c.batch.tokens == phase.batch_tokens == phase.micro_rows * phase.accumulation(ranks) * ranks * 512
    assert abs(c.batch.tokens - tokens) <= 512 * ranks * max(1, micro_rows)


def test_tokens_give_the_steps():
    assert resolved(run={"tokens": 1_000_000}, batch={"tokens": 16_384}).run.max_steps == 62


def test_a_shape_of_ones_own_takes_the_rates_of_the_nearest_named_size():
    c = resolved(model={"layers": 12, "hidden": 768, "heads": 12})
    assert c.optimizer.peak_lr == 6e-4
    assert c.model_config.ffn_size == 2048


def test_part_of_a_named_size_can_be_replaced():
    c = resolved(model={"size": "10m", "hidden": 256, "heads": 4})
    assert (c.model_config.layers, c.model_config.hidden, c.model_config.num_kv_heads) == (9, 256, 4)
    assert c.model_config.ffn_size == 704


@pytest.mark.parametrize(
    ("tables", "hint"),
    [
        ({"optimiser": {}}, "optimizer"),
        ({"optimizer": {"peak_rl": 1}}, "peak_lr"),
        ({"model": {"layer": 2}}, "layers"),
        ({"checkpoint": {"every_step": 2}}, "every_steps"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_and_the_valid_ones(tables, hint):
    with pytest.raises(UsageError) as raised:
        check(tables, where="run.toml")
    assert f"did you mean {hint}?" in str(raised.value)
    assert "valid: " in str(raised.value)
    assert "run.toml" in str(raised.value)


@pytest.mark.parametrize(
    "tables",
    [
        {"parallel": {"zero": 4}},
        {"checkpoint": {"keep_last": 1}},
        {"optimizer": {"peak_lr": "fast"}},
        {"optimizer": {"clip": float("nan")}},
        {"optimizer": {"peak_lr": float("inf")}},
        {"run": {"max_steps": -1}},
        {"run": {"max_steps": 1.5}},
        {"run": 3},
        {"parallel": {"device": "tpu"}},
    ],
)
def test_a_value_out_of_range_or_of_the_wrong_kind_is_a_usage_error(tables):
    with pytest.raises(UsageError):
        check(tables)


def test_numbers_are_read_in_the_forms_people_type():
    assert check({"run": {"tokens": "2T"}})["run"]["tokens"] == 2 * 10**12
    assert check({"run": {"tokens": 2e12}})["run"]["tokens"] == 2 * 10**12
    assert parse_setting("batch.tokens=64K") == {"batch": {"tokens": "64K"}}
    assert parse_setting("optimizer.peak_lr=3e-4") == {"optimizer": {"peak_lr": 3e-4}}
    for text in ("a", "a=1", "a.b.c=1", ".b=1", "a.=1"):
        with pytest.raises(UsageError, match="setting"):
            parse_setting(text)


def test_a_setting_beats_a_flag_and_a_flag_beats_the_file(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("[run]\nseed = 1\nmax_steps = 10\n[parallel]\nzero = 1\n")
    flags = {"run": {"seed": 2, "max_steps": None, "tokens": 500}, "parallel": {"zero": None}}
    table = settings_table(file, flags, ["run.seed=3"])
    assert table == {"run": {"seed": 3, "tokens": 500}, "parallel": {"zero": 1}}
    assert settings_table(file, {"run": {"seed": 2}})["run"] == {"seed": 2, "max_steps": 10}
    with pytest.raises(UsageError, match="exclude each other"):
        settings_table(flags={"run": {"max_steps": 1, "tokens": 1}})


def test_a_resolved_configuration_is_read_back_from_its_toml(tmp_path):
    c = resolved(data={}, faults={"bad_batch_at": 3}, model={"size": "30m"})
    path = tmp_path / "config.toml"
    path.write_text(to_toml(c))
    assert from_toml(path) == c
    assert tomllib.loads(to_toml(c)) == as_tables(c)


@given(st.text())
def test_any_path_survives_the_toml(text):
    assert tomllib.loads(f"x = {toml_value(text)}")["x"] == text


def test_every_setting_has_a_meaning_for_the_manual():
    table = list(settings())
    assert all(meaning for _, _, meaning in table)
    defaults = {name: default for name, default, _ in table}
    assert (defaults["optimizer.clip"], defaults["model.size"], defaults["model.hidden"]) == (
        "1.0",
        '"10m"',
        "the size's",
    )
    assert {f"model.{name}" for name in ModelConfig.__struct_fields__} <= defaults.keys()


def test_laying_tables_over_one_another_goes_key_by_key():
    assert overlay({"a": {"x": 1, "y": 1}}, {"a": {"y": 2}}, {"b": {"z": 3}}) == {"a": {"x": 1, "y": 2}, "b": {"z": 3}}


def test_what_is_measured_of_the_held_out_rows_follows_the_batch_unless_it_is_asked_for() -> None:
    assert plans.resolved(batch={"tokens": 4096}).validation.tokens == 40_960
    assert plans.resolved(batch={"tokens": 512_000}).validation.tokens == 1_000_000
    assert plans.resolved(validation={"tokens": "2M"}).validation.tokens == 2_000_000


def test_with_deterministic_kernels_a_rerun_must_give_the_same_bits():
    assert resolved(parallel={"deterministic": True}).spike.rerun_tolerance == 0.0
    assert resolved().spike.rerun_tolerance == 1e-3


def test_a_folder_whose_name_is_not_utf_8_is_refused_in_words():
    with pytest.raises(UsageError, match="not UTF-8"):
        to_toml(plans.resolved(plans.facts(plans.folder("caf\udce9"))))


def test_a_settings_file_may_begin_with_the_mark_that_some_editors_write(tmp_path):
    file = tmp_path / "run.toml"
    file.write_bytes(b"\xef\xbb\xbf[batch]\ntokens = 256\n")
    assert read_config(file) == {"batch": {"tokens": 256}}
