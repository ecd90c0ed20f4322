"""The gate's judgement, over literal metrics."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.evaluate.logic import Check, judge, only_defined

LIMITS = {"min_value": 0.7, "max_drop": 0.03, "max_past_drop": 0.05, "max_slice_drop": 0.1}


def values(auc, examples=500, mean_label=0.4, **more):
    return {"example_count": float(examples), "mean_label": mean_label, "auc": auc, **more}


def both(changed=None):
    """Candidate and champion: the same everywhere, but for `changed`: slice -> the candidate's values."""
    champion = {name: values(0.8) for name in ("overall", "span=1", "span=2", "span=3", "word=a")}
    return champion | (changed or {}), champion


def judged(candidate, champion, gates=None, new=(3,), past=(1, 2), min_examples=100):
    return judge(candidate, champion, gates or {"auc": LIMITS}, new, past, min_examples)


# What changed in the candidate -> the one reason; none: blessed.
CASES = {
    "as good": ({}, None),
    "better": ({name: values(0.9) for name in ("overall", "span=1", "span=2", "span=3", "word=a")}, None),
    "overall fell": (
        {"overall": values(0.769)},
        "auc on overall went from 0.800 to 0.769 (max_drop 0.03)",
    ),
    "overall fell by what is allowed": ({"overall": values(0.77)}, None),
    "the new span fell": (
        {"span=3": values(0.76)},
        "auc on span=3 went from 0.800 to 0.760 (max_drop 0.03)",
    ),
    "a past span fell": (
        {"span=2": values(0.7)},
        "auc on span=2 went from 0.800 to 0.700 (max_past_drop 0.05)",
    ),
    "a past span fell by what is allowed": ({"span=1": values(0.75)}, None),
    "a slice fell": ({"word=a": values(0.6)}, "auc on word=a went from 0.800 to 0.600 (max_slice_drop 0.1)"),
    "a small slice fell": ({"word=a": values(0.1, examples=99)}, None),
    "a small past span fell": ({"span=1": values(0.1, examples=99)}, None),
    "NaN": ({"span=2": values(math.nan)}, "auc on span=2 could not be measured (max_past_drop 0.05)"),
    "infinite": ({"word=a": values(math.inf)}, "auc on word=a could not be measured (max_slice_drop 0.1)"),
    "metric missing": (
        {"span=1": {"example_count": 500.0, "mean_label": 0.4}},
        "auc on span=1 could not be measured (max_past_drop 0.05)",
    ),
    "a slice with one label": ({"word=a": {"example_count": 500.0, "mean_label": 1.0}}, None),
    "a past span with one label": ({"span=1": {"example_count": 500.0, "mean_label": 0.0}}, None),
}


@pytest.mark.parametrize(("changed", "reason"), CASES.values(), ids=CASES.keys())
def test_one_change(changed, reason):
    verdict = judged(*both(changed))
    assert verdict.blessed == (reason is None)
    if reason:
        assert verdict.reasons == [reason]
    else:
        passed = [c.outcome for c in verdict.checks].count("passed")
        assert verdict.reasons == [f"all {passed} checks passed"]


def test_every_number_that_decided_is_told():
    candidate, champion = both({"span=2": values(0.7), "word=a": values(0.2, examples=99)})
    checks = judged(candidate, champion).checks
    assert [(c.gate, c.slice, c.candidate, c.examples, c.outcome) for c in checks] == [
        ("min_value", "span=3", 0.8, 500, "passed"),
        ("max_drop", "overall", 0.8, 500, "passed"),
        ("max_drop", "span=3", 0.8, 500, "passed"),
        ("max_past_drop", "span=1", 0.8, 500, "passed"),
        ("max_past_drop", "span=2", 0.7, 500, "failed"),
        ("max_slice_drop", "word=a", 0.2, 99, "not judged"),
    ]
    assert all((c.metric, c.champion, c.limit) == ("auc", 0.8, LIMITS[c.gate]) for c in checks)
    assert judged(candidate, champion).to_json()["checks"][4] == {
        "gate": "max_past_drop",
        "metric": "auc",
        "slice": "span=2",
        "candidate": 0.7,
        "champion": 0.8,
        "limit": 0.05,
        "examples": 500,
        "outcome": "failed",
    }


def test_several_metrics_and_failures_are_each_told():
    losses = {"log_loss": {"min_value": 0.5, "max_drop": 0.1, "max_past_drop": 0.1}}
    candidate = {"span=1": values(0.8, log_loss=0.65), "span=2": values(0.6, log_loss=0.45)}
    candidate |= {"overall": values(0.8, log_loss=0.1), "span=3": values(0.65, log_loss=0.51)}
    champion = {name: values(0.8, log_loss=0.45) for name in candidate}
    assert judged(candidate, champion, {"auc": LIMITS} | losses).reasons == [
        "auc on span=3 is 0.650, required 0.7 (min_value)",
        "auc on span=3 went from 0.800 to 0.650 (max_drop 0.03)",
        "auc on span=2 went from 0.800 to 0.600 (max_past_drop 0.05)",
        # A loss is worse where it is larger.
        "log_loss on span=3 is 0.510, required 0.5 (min_value)",
        "log_loss on span=1 went from 0.450 to 0.650 (max_past_drop 0.1)",
    ]


def test_a_cold_start_has_only_a_floor():
    candidate, _ = both({"span=3": values(0.7)})
    verdict = judged(candidate, None, past=())
    assert verdict.blessed and [(c.gate, c.champion) for c in verdict.checks] == [("min_value", None)]
    assert not judged(candidate | {"span=3": values(0.699)}, None, past=()).blessed


def test_a_cold_start_without_a_floor_is_refused():
    candidate, _ = both()
    verdict = judged(candidate, None, {"auc": LIMITS | {"min_value": None}}, past=())
    assert not verdict.blessed
    assert verdict.reasons == ["no gate applies: set at least one metric's min_value under gates.metrics"]


@pytest.mark.parametrize("gates", [{}, {"auc": {}}, {"auc": dict.fromkeys(LIMITS)}])
def test_without_a_gate_nothing_is_blessed(gates):
    assert not judge(*both(), gates, (3,), (1, 2), 100).blessed


def test_where_nothing_is_large_enough_nothing_is_blessed():
    verdict = judged(*both(), min_examples=501)
    assert not verdict.blessed
    assert verdict.reasons == [
        "every slice has fewer held-out examples than gates.min_examples = 501 (the largest has 500), "
        "so nothing could be judged"
    ]


def test_a_new_span_with_one_label_cannot_reach_a_floor():
    one_label = only_defined(values(0.0, mean_label=1.0))
    assert "auc" not in one_label and one_label["example_count"] == 500
    verdict = judged(*both({"span=3": one_label}))
    assert verdict.reasons == ["auc on span=3 could not be measured (min_value 0.7)"]


def test_only_what_ranks_needs_both_labels():
    assert only_defined(values(0.0, mean_label=0.0, pr_auc=0.0, accuracy=0.9, log_loss=0.1)) == {
        "example_count": 500.0,
        "mean_label": 0.0,
        "accuracy": 0.9,
        "log_loss": 0.1,
    }
    assert "auc" in only_defined(values(0.5, mean_label=0.002))


def test_a_past_span_that_was_not_measured_fails():
    candidate, champion = both()
    del candidate["span=1"], champion["span=1"]
    assert judged(candidate, champion).reasons == ["auc on span=1 could not be measured (max_past_drop 0.05)"]


def test_what_the_champion_could_not_be_measured_on_fails():
    candidate, champion = both()
    champion["span=2"] = values(math.nan)
    del champion["word=a"]
    assert judged(candidate, champion).reasons == [
        "auc of the champion on span=2 could not be measured (max_past_drop)",
        "auc of the champion on word=a could not be measured (max_slice_drop)",
    ]


def test_the_lines_for_a_person():
    check = Check("min_value", "auc", "span=3", 0.65, None, 0.7, 500, "failed")
    assert check.describe() == "auc on span=3 is 0.650, required 0.7 (min_value)"
    check = Check("max_drop", "auc", "overall", None, 0.8, 0.03, 500, "failed")
    assert check.describe() == "auc on overall could not be measured (max_drop 0.03)"


numbers = st.sampled_from([None, math.nan, math.inf, -math.inf, 0.0, 0.5, 0.8, 1.0])
SLICES = ("overall", "span=1", "span=2", "span=3", "word=a")
metrics = st.dictionaries(
    st.sampled_from(SLICES),
    st.builds(
        lambda auc, log_loss, examples, mean_label: {
            k: v for k, v in values(auc, examples, mean_label, log_loss=log_loss).items() if v is not None
        },
        numbers,
        numbers,
        st.sampled_from([0, 99, 100, 500]),
        st.sampled_from([0.0, 0.4, 1.0]),
    ),
)
limit = st.none() | st.sampled_from([0.0, 0.05, 0.7])
gates = st.dictionaries(
    st.sampled_from(["auc", "log_loss"]), st.dictionaries(st.sampled_from(sorted(LIMITS)), limit)
)


def satisfied(check):
    """What the setting of a check says, computed again."""
    if check.candidate is None or not math.isfinite(check.candidate):
        return False
    sign = -1 if check.metric == "log_loss" else 1
    if check.gate == "min_value":
        return sign * check.candidate >= sign * check.limit
    if check.champion is None or not math.isfinite(check.champion):
        return False
    return sign * (check.champion - check.candidate) <= check.limit + 1e-9


@given(metrics, st.none() | metrics, gates)
def test_the_gate_fails_closed(candidate, champion, settings):
    verdict = judge(candidate, champion, settings, (3,), (1, 2), 100)
    outcomes = [check.outcome for check in verdict.checks]
    assert verdict.blessed == ("passed" in outcomes and "failed" not in outcomes)
    assert verdict.reasons
    for check in verdict.checks:
        mine = candidate.get(check.slice, {})
        assert check.candidate is mine.get(check.metric) and check.examples == mine.get("example_count", 0)
        if check.outcome == "passed":
            assert check.examples >= 100 and satisfied(check)
        elif check.outcome == "failed":
            assert not satisfied(check)
        else:  # not judged: there is a reason to be seen in the data
            one_label = check.metric == "auc" and mine.get("mean_label") in (0.0, 1.0)
            assert check.examples < 100 or (one_label and check.gate != "min_value")
            assert mine or check.gate != "max_past_drop"
    # Every limit that is set was looked at, on everything that it is about.
    others = [name for name in candidate if name == "word=a"]
    about = {
        "min_value": ["span=3"],
        "max_drop": ["overall", "span=3"],
        "max_past_drop": ["span=1", "span=2"],
    }
    assert {(c.metric, c.gate, c.slice) for c in verdict.checks} == {
        (metric, gate, name)
        for metric, limits in settings.items()
        for gate, bound in limits.items()
        if bound is not None and (champion is not None or gate == "min_value")
        for name in about.get(gate, others)
    }
