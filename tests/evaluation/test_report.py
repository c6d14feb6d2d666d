from ptool.evaluation.report import HEADER, EvalReport
from ptool.evaluation.scores import Tally


def report(**sources: Tally) -> EvalReport:
    total = Tally()
    for tally in sources.values():
        total.add(tally)
    scores = {name: tally.score() for name, tally in sources.items()}
    return EvalReport(
        step=1500, trained_tokens=64_000, data="holdout", digest="d", window=32, total=total.score(), sources=scores
    )


def test_rows_are_one_for_each_source_and_the_total():
    web = Tally(num_documents=1200, num_tokens=10, num_bytes=40, loss_sum=20.0)
    unknown = Tally(num_documents=1, num_tokens=0, num_bytes=None)
    rows = report(web=web, unknown=unknown).rows()
    assert rows[0] == ("web", "1,200", "10", "40", "2.0000", "7.39", "0.7213")
    assert rows[1] == ("unknown", "1", "0", "-", "-", "-", "-")
    assert rows[2] == ("total", "1,201", "10", "-", "2.0000", "7.39", "-")
    assert {len(row) for row in rows} == {len(HEADER)}


def test_one_source_needs_no_row_beside_the_total():
    assert [row[0] for row in report(web=Tally(num_documents=1)).rows()] == ["total"]


def test_json_has_every_figure_and_null_where_there_is_none():
    found = report(web=Tally(num_documents=1)).as_json()
    assert set(found) == {"step", "trained_tokens", "data", "digest", "window", "total", "sources"}
    assert found["sources"]["web"] == found["total"]
    assert found["total"] == {
        "num_documents": 1,
        "num_tokens": 0,
        "num_bytes": 0,
        "loss": None,
        "perplexity": None,
        "bits_per_byte": None,
    }
