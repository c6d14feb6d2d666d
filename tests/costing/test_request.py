import io
import json

import pytest

from ptool.costing.checks import failed_check, parse_condition
from ptool.costing.estimate import estimate
from ptool.costing.request import build_request, parse_money
from ptool.errors import CheckFailed, InputError, UsageError
from ptool.units import Band

FULL = {"mfu": Band(0.45, 0.45, 0.45), "goodput": Band(1, 1, 1), "price": "2"}


@pytest.fixture
def packed(tmp_path):
    """A packed folder's manifest: 3 documents of 10, 20 and 70 tokens in rows of 128."""
    splits = {"train": {"tokens": 100, "sum_squared_pieces": 10**2 + 20**2 + 70**2}}
    details = {"layout": {"splits": splits, "seq_len": 128, "vocab_size": 50}}
    folder = tmp_path / "packed data"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"stage": "pack", "details": details}))
    return folder


ARCH = "layers=1,hidden=2,heads=1,ffn_hidden=2,vocab_size=3"


def test_packed_data_brings_its_tokens_its_row_and_its_squared_lengths(packed):
    for path in (packed, packed / "manifest.json"):
        asked = build_request({"packed": str(path), "arch": ARCH})
        assert asked.num_tokens == 100
        assert asked.setting.seq_len == 128
        assert estimate(asked).parts.mean_span == pytest.approx(54.0)
    more = build_request({"packed": str(packed), "arch": ARCH, "tokens": 400})
    assert (more.num_tokens, more.corpus.mean_span) == (400, 54.0)


def test_a_named_size_takes_the_vocabulary_of_the_data(packed):
    asked = build_request({"packed": str(packed), "model": "10m", "tokens": 10**8})
    assert asked.model.shape.vocab_size == 50


def test_packs_line_on_stdin_is_read(packed, monkeypatch):
    line = json.dumps({"artefact": str(packed), "manifest": json.loads((packed / "manifest.json").read_text())})
    monkeypatch.setattr("sys.stdin", io.StringIO(line + "\n"))
    assert build_request({"packed": "-", "arch": ARCH}).num_tokens == 100
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(InputError, match="upstream failed"):
        build_request({"packed": "-", "arch": ARCH})


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"details": {"layout": {"splits": {}}}}', "not json"])
def test_another_manifest_is_refused(text, tmp_path):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError):
        build_request({"packed": str(tmp_path), "arch": ARCH})


def test_a_budget_stands_in_for_what_is_left_out():
    both = estimate(build_request({"budget": 2e6}))
    assert both.cost_usd.mid == pytest.approx(2e6, rel=1e-3)
    assert both.optimal[0].params == pytest.approx(both.asked.params, rel=1e-3)
    tokens = estimate(build_request({"budget": 2e6, "params": 7 * 10**9}))
    assert tokens.cost_usd.mid == pytest.approx(2e6, rel=1e-3)
    size = estimate(build_request({"budget": 2e6, "tokens": 10**12}))
    assert size.cost_usd.mid == pytest.approx(2e6, rel=1e-3)
    assert size.asked.num_tokens == 10**12


def test_a_budget_and_a_deadline_are_turned_round():
    given = {"params": 70 * 10**9, "tokens": 2 * 10**12, **FULL, "budget": 2e6, "deadline": 30 * 86_400.0}
    found = estimate(build_request(given))
    assert found.inversion.within_budget == "always"
    again = estimate(build_request({**given, "tokens": round(found.inversion.budget_tokens.mid)}))
    assert again.cost_usd.mid == pytest.approx(2e6)
    assert found.inversion.deadline_gpus.mid == 728  # 524 k hours over 720 hours, rounded up
    assert found.num_gpus % 8 == 0
    assert found.wall_seconds.mid <= 30 * 86_400
    assert estimate(build_request({**given, "budget": 1e5})).inversion.within_budget == "never"


def test_a_price_list_of_ones_own_is_read_with_its_date(tmp_path):
    path = tmp_path / "our prices.toml"
    path.write_text('[h100-sxm]\nlow = 1\nmid = 2\nhigh = 3\nas_of = 2026-11-01\nsource = "contract"\n')
    asked = build_request({"params": 7 * 10**9, "tokens": 10**12, "price": str(path)})
    assert asked.price.band == Band(1, 2, 3)
    assert asked.price.source == "contract"
    with pytest.raises(UsageError, match="no price of h200"):
        build_request({"params": 7 * 10**9, "tokens": 10**12, "price": str(path), "gpu": "h200"})
    path.write_text("[h100-sxm]\nlow = 1\n")
    with pytest.raises(InputError, match="not a price list"):
        build_request({"params": 7 * 10**9, "tokens": 10**12, "price": str(path)})


@pytest.mark.parametrize(("text", "dollars"), [("2M", 2e6), ("$12,400", 12_400), ("1e6", 1e6)])
def test_money_is_read_as_people_write_it(text, dollars):
    assert parse_money(text) == dollars


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("cost.high>3e6", True), ("cost.low > 3M", False), ("gpu_hours.mid>=1", True), ("wall>365d", False),
        ("warnings==1", None), ("memory.per_gpu.total>80GiB", None), ("efficiency.mfu.mid<50%", True),
    ],
)  # fmt: skip
def test_conditions_compare_a_key_of_the_json(text, holds):
    as_object = {
        "cost_usd": {"low": 1e6, "mid": 2e6, "high": 4e6}, "gpu_hours": {"low": 1, "mid": 2, "high": 3},
        "wall_seconds": {"low": 1, "mid": 2, "high": 3}, "warnings": [], "memory": None,
        "efficiency": {"mfu": {"mid": 0.4}},
    }  # fmt: skip
    condition = parse_condition(text)
    if holds is None:
        with pytest.raises(UsageError):
            condition.holds(as_object)
        return
    assert condition.holds(as_object) == holds
    failed = failed_check([text], as_object)
    assert isinstance(failed, CheckFailed) == holds
    if failed:
        assert failed.exit_code == 4


@pytest.mark.parametrize("option", ["gpu_mtbf", "storage_rate", "deadline", "budget"])
def test_nothing_is_refused_where_it_would_be_divided_by(option):
    with pytest.raises(UsageError, match=f"--{option.replace('_', '-')} must be more than nothing"):
        estimate(build_request({"params": 70 * 10**9, "tokens": 2 * 10**12, option: 0}))
