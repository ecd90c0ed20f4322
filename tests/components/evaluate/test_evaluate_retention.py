"""What a line has kept: rows of the R matrix, and their measures, over literal metrics."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.evaluate.retention import extend, ignorant, inherit, learning

METRICS = ("auc", "log_loss")


def values(examples=500, **metrics):
    return {"example_count": float(examples), **metrics}


def step(row, candidate, champion, new, relearned=(), metrics=("auc",), min_examples=100):
    """One version more in a line: its row, and the measures."""
    names = [f"span={span}" for span in new]
    before = inherit(row, champion, names, {*row, *candidate}, metrics, min_examples)
    unseen = [f"span={span}" for span in new if span not in relearned]
    extended = extend(before, candidate, champion, unseen, metrics, min_examples)
    return extended, learning(extended, before, metrics, classes=2)


def spans(**aucs):
    """`s1=0.8` -> the metrics of `span=1`."""
    return {f"span={name[1:]}": values(auc=auc) for name, auc in aucs.items()}


# R: what each version scored on each span. Version 2 gains on span 1, version 3 loses on both.
LINE = [
    ((1,), spans(s1=0.80), None),
    ((2,), spans(s1=0.85, s2=0.90), spans(s1=0.80, s2=0.70)),
    ((3,), spans(s1=0.82, s2=0.86, s3=0.75), spans(s1=0.85, s2=0.90, s3=0.65)),
]


def fold():
    row, measured = {}, []
    for new, candidate, champion in LINE:
        row, of = step(row, candidate, champion, new)
        measured.append(of["auc"])
    return row, measured


def test_the_rows_of_a_line():
    row, _ = fold()
    assert {name: entries["auc"] for name, entries in row.items()} == {
        "span=1": {"learned": 0.80, "before": None, "best": 0.85, "now": 0.82},
        "span=2": {"learned": 0.90, "before": 0.70, "best": 0.90, "now": 0.86},
        "span=3": {"learned": 0.75, "before": 0.65, "best": 0.75, "now": 0.75},
    }


def test_the_measures_are_those_of_the_literature():
    first, second, third = fold()[1]
    assert first == {"acc": 0.8, "bwt": None, "fwt": None, "forgetting": None, "worst": None, "spans": 0}
    assert second["bwt"] == pytest.approx(0.85 - 0.80)
    assert second["forgetting"] == pytest.approx(0.80 - 0.85)  # the best of the versions before
    assert third["acc"] == pytest.approx((0.82 + 0.86 + 0.75) / 3)
    assert third["bwt"] == pytest.approx(((0.82 - 0.80) + (0.86 - 0.90)) / 2)
    assert third["forgetting"] == pytest.approx(((0.85 - 0.82) + (0.90 - 0.86)) / 2)
    assert third["fwt"] == pytest.approx(((0.70 - 0.5) + (0.65 - 0.5)) / 2)
    assert third["worst"] == {"slice": "span=2", "best": 0.90, "now": 0.86, "drop": pytest.approx(0.04)}
    assert third["spans"] == 2


@given(
    st.integers(2, 6).flatmap(
        lambda n: st.lists(st.lists(st.floats(0, 1), min_size=n, max_size=n), min_size=n, max_size=n)
    )
)
def test_the_measures_agree_with_the_whole_matrix(r):
    """Row by row, knowing only the parent's row, as the definitions over all of R have it."""
    row, count = {}, len(r)
    for i in range(count):
        candidate = {f"span={j}": values(auc=r[i][j]) for j in range(i + 1)}
        champion = {f"span={j}": values(auc=r[i - 1][j]) for j in range(i + 1)} if i else None
        row, measured = step(row, candidate, champion, (i,))
    last, past = count - 1, range(count - 1)
    expected = {
        "acc": sum(r[last]) / count,
        "bwt": sum(r[last][j] - r[j][j] for j in past) / last,
        "forgetting": sum(max(r[i][j] for i in range(j, last)) - r[last][j] for j in past) / last,
        "fwt": sum(r[j - 1][j] - 0.5 for j in range(1, count)) / last,
    }
    assert {name: measured["auc"][name] for name in expected} == pytest.approx(expected, abs=1e-9)


def test_of_a_loss_less_is_better():
    first = {"span=1": values(log_loss=0.5)}
    row, _ = step({}, first, None, (1,), metrics=METRICS)
    candidate = {"span=1": values(log_loss=0.6), "span=2": values(log_loss=0.4)}
    champion = {"span=1": values(log_loss=0.5), "span=2": values(log_loss=0.9)}
    row, measured = step(row, candidate, champion, (2,), metrics=METRICS)
    assert row["span=1"]["log_loss"]["best"] == 0.5
    assert measured["log_loss"]["bwt"] == pytest.approx(-0.1)
    assert measured["log_loss"]["forgetting"] == pytest.approx(0.1)
    assert measured["log_loss"]["fwt"] == pytest.approx(math.log(2) - 0.9)


def test_a_line_goes_on_from_a_version_that_kept_no_row():
    candidate, champion = spans(s1=0.7, s2=0.9), spans(s1=0.8, s2=0.6)
    row, measured = step({}, candidate, champion, (2,))
    assert row["span=1"]["auc"] == {"learned": 0.8, "before": None, "best": 0.8, "now": 0.7}
    assert measured["auc"]["bwt"] == pytest.approx(-0.1)


def test_a_metric_that_is_new_in_the_configuration_starts_with_the_champions_value():
    row, _ = step({}, spans(s1=0.8), None, (1,))
    both = {"span=1": values(auc=0.8, log_loss=0.4), "span=2": values(auc=0.9, log_loss=0.3)}
    row, measured = step(row, both, both, (2,), metrics=METRICS)
    assert row["span=1"]["log_loss"]["learned"] == 0.4 and measured["log_loss"]["bwt"] == 0.0
    assert row["span=1"]["auc"]["learned"] == 0.8


def test_a_span_that_is_learned_again_starts_anew():
    row, _ = fold()
    candidate, champion = spans(s1=0.6, s2=0.9, s3=0.8), spans(s1=0.5, s2=0.9, s3=0.8)
    row, measured = step(row, candidate, champion, (1,), relearned=(1,))
    # No value from before it was learned: the champion knew it.
    assert row["span=1"]["auc"] == {"learned": 0.6, "before": None, "best": 0.6, "now": 0.6}
    assert measured["auc"]["spans"] == 2 and measured["auc"]["worst"]["slice"] != "span=1"


def test_a_shadow_goes_on_with_the_rows_of_the_line():
    row, _ = fold()
    candidate, champion = spans(s1=0.9, s2=0.9, s3=0.9), spans(s1=0.82, s2=0.86, s3=0.75)
    row, measured = step(row, candidate, champion, ())
    assert row["span=1"]["auc"] == {"learned": 0.80, "before": None, "best": 0.9, "now": 0.9}
    assert row["span=3"]["auc"]["before"] == 0.65
    assert measured["auc"]["bwt"] == pytest.approx((0.1 + 0.0 + 0.15) / 3)


@pytest.mark.parametrize("left", [{}, {"span=1": values(examples=99, auc=0.2)}], ids=["none", "too few"])
def test_a_span_without_held_out_examples_is_in_no_mean(left):
    row, _ = fold()
    candidate = {**left, **spans(s2=0.9, s3=0.75, s4=0.8)}
    row, measured = step(row, candidate, candidate, (4,))
    assert row["span=1"]["auc"] == {"learned": 0.80, "before": None, "best": 0.85, "now": None}
    assert measured["auc"]["spans"] == 2
    assert measured["auc"]["acc"] == pytest.approx((0.9 + 0.75 + 0.8) / 3)
    # It comes back with what was known of it.
    row, _ = step(row, spans(s1=0.5, s5=0.5), spans(s1=0.9, s5=0.5), (5,))
    assert row["span=1"]["auc"] == {"learned": 0.80, "before": None, "best": 0.85, "now": 0.5}


def test_what_is_not_a_number_is_not_kept():
    row, measured = step({}, {"span=1": values(auc=math.nan), "span=2": values()}, None, (1, 2))
    assert row == {"span=1": {}, "span=2": {}} and measured["auc"]["acc"] is None


def test_slices_have_rows_and_the_overall_value_has_none():
    metrics = {"overall": values(auc=0.8), "word=a": values(auc=0.7), "span=1,word=a": values(auc=0.6)}
    row, measured = step({}, metrics | spans(s1=0.9), None, (1,))
    assert set(row) == {"word=a", "span=1,word=a", "span=1"}
    assert measured["auc"]["acc"] == 0.9  # the spans only


def test_what_a_model_that_knows_nothing_comes_to():
    assert ignorant("auc", 2) == 0.5 and ignorant("balanced_accuracy", 10) == 0.1
    assert ignorant("log_loss", 4) == pytest.approx(math.log(4))
    assert ignorant("pr_auc", 2) is None and ignorant("mae", None) is None
