"""The gate's judgement, over literal metrics."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.evaluate.logic import (
    METRICS,
    Check,
    judge,
    judge_influence,
    measured,
    only_defined,
)

LIMITS = {"min_value": 0.7, "max_drop": 0.03, "max_past_drop": 0.05, "max_slice_drop": 0.1}


def values(auc, examples=500, label_variance=0.24, **more):
    return {"example_count": float(examples), "label_variance": label_variance, "auc": auc, **more}


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
        "auc on overall went from 0.8 to 0.769 (max_drop 0.03)",
    ),
    "overall fell by what is allowed": ({"overall": values(0.77)}, None),
    "the new span fell": (
        {"span=3": values(0.76)},
        "auc on span=3 went from 0.8 to 0.76 (max_drop 0.03)",
    ),
    "a past span fell": (
        {"span=2": values(0.7)},
        "auc on span=2 went from 0.8 to 0.7 (max_past_drop 0.05)",
    ),
    "a past span fell by what is allowed": ({"span=1": values(0.75)}, None),
    "a slice fell": ({"word=a": values(0.6)}, "auc on word=a went from 0.8 to 0.6 (max_slice_drop 0.1)"),
    "a small slice fell": ({"word=a": values(0.1, examples=99)}, None),
    "a small past span fell": ({"span=1": values(0.1, examples=99)}, None),
    "NaN": ({"span=2": values(math.nan)}, "auc on span=2 could not be measured (max_past_drop 0.05)"),
    "infinite": ({"word=a": values(math.inf)}, "auc on word=a could not be measured (max_slice_drop 0.1)"),
    "metric missing": (
        {"span=1": {"example_count": 500.0, "label_variance": 0.24}},
        "auc on span=1 could not be measured (max_past_drop 0.05)",
    ),
    "a slice with one label": ({"word=a": {"example_count": 500.0, "label_variance": 0.0}}, None),
    "a past span with one label": ({"span=1": {"example_count": 500.0, "label_variance": 0.0}}, None),
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
        "relative": False,
        "fall": pytest.approx(0.1),
    }


def test_several_metrics_and_failures_are_each_told():
    losses = {"log_loss": {"min_value": 0.5, "max_drop": 0.1, "max_past_drop": 0.1}}
    candidate = {"span=1": values(0.8, log_loss=0.65), "span=2": values(0.6, log_loss=0.45)}
    candidate |= {"overall": values(0.8, log_loss=0.1), "span=3": values(0.65, log_loss=0.51)}
    champion = {name: values(0.8, log_loss=0.45) for name in candidate}
    assert judged(candidate, champion, {"auc": LIMITS} | losses).reasons == [
        "auc on span=3 is 0.65, required 0.7 (min_value)",
        "auc on span=3 went from 0.8 to 0.65 (max_drop 0.03)",
        "auc on span=2 went from 0.8 to 0.6 (max_past_drop 0.05)",
        # A loss is worse where it is larger.
        "log_loss on span=3 is 0.51, required 0.5 (min_value)",
        "log_loss on span=1 went from 0.45 to 0.65 (max_past_drop 0.1)",
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
    one_label = only_defined(values(0.0, label_variance=0.0))
    assert "auc" not in one_label and one_label["example_count"] == 500
    verdict = judged(*both({"span=3": one_label}))
    assert verdict.reasons == ["auc on span=3 could not be measured (min_value 0.7)"]


def test_only_what_compares_labels_needs_different_ones():
    kept = {"example_count": 500.0, "label_variance": 0.0, "accuracy": 0.9, "log_loss": 0.1, "mae": 3.0}
    assert only_defined(kept | {"auc": 0.0, "pr_auc": 0.0, "r2": math.nan}) == kept
    assert "auc" in only_defined(values(0.5, label_variance=1e-9))


@pytest.mark.parametrize(("positives", "outcome"), [(9, "not judged"), (10, "failed"), (491, "not judged")])
def test_a_fall_of_auc_on_a_handful_of_one_class_is_noise(positives: int, outcome: str):
    share = positives / 500
    few = {"label_variance": share * (1 - share)}
    verdict = judged(*both({"word=a": values(0.1, **few)}))
    assert [c.outcome for c in verdict.checks if c.slice == "word=a"] == [outcome]


@pytest.mark.parametrize("unknown", [{}, {"label_variance": math.nan}], ids=["missing", "NaN"])
def test_where_it_is_not_known_whether_labels_differ_nothing_is_excused(unknown):
    measures = {"example_count": 500.0, "r2": math.nan, **unknown}
    assert only_defined(measures) == pytest.approx(measures, nan_ok=True)
    verdict = judged({"span=3": measures}, {"span=3": measures}, {"r2": {"max_drop": 0.1}}, past=())
    assert "r2 on span=3 could not be measured (max_drop 0.1)" in verdict.reasons


# Metric -> of the champion, of a candidate that is 10 % worse, and of one that is 12 % worse.
TEN_PERCENT = {
    "rmse": (1500.0, 1650.0, 1680.0),
    "mae": (2e-3, 2.2e-3, 2.24e-3),
    "r2": (0.5, 0.45, 0.44),
    "log_loss": (2.0, 2.2, 2.24),
}


@pytest.mark.parametrize("metric", TEN_PERCENT)
@pytest.mark.parametrize("gate", ["max_drop", "max_past_drop", "max_slice_drop"])
def test_a_relative_drop_is_a_share_of_the_champions_value(metric, gate):
    base, allowed, too_much = TEN_PERCENT[metric]
    name = {"max_drop": "span=3", "max_past_drop": "span=2", "max_slice_drop": "word=a"}[gate]

    def of(value):
        champion = {slice: values(0.8, **{metric: base}) for slice in both()[0]}
        gates = {metric: {gate: 0.1, "relative": True}}
        return judged(champion | {name: values(0.8, **{metric: value})}, champion, gates)

    assert of(allowed).blessed and of(base).blessed
    (reason,) = of(too_much).reasons
    assert reason.startswith(f"{metric} on {name} went from ")
    assert reason.endswith(f", 12 % worse ({gate} 10 %)")


def test_a_relative_drop_of_a_negative_value_and_of_none():
    """The share is of its size; of 0 nothing may be lost."""
    gates = {"r2": {"max_drop": 0.1, "relative": True}}

    def of(candidate, champion):
        both = ({"overall": values(0.8, r2=r2)} for r2 in (candidate, champion))
        return judged(*both, gates, new=(), past=())

    assert of(-2.2, -2.0).blessed and not of(-2.3, -2.0).blessed
    assert of(0.0, 0.0).blessed and not of(-0.01, 0.0).blessed
    assert of(-0.01, 0.0).reasons == ["r2 on overall went from 0 to -0.01 (max_drop 10 %)"]


def test_a_floor_is_never_relative():
    gates = {"rmse": {"min_value": 10.0, "relative": True}}
    verdict = judged({"span=3": values(0.8, rmse=12.0)}, None, gates)
    assert verdict.reasons == ["rmse on span=3 is 12, required 10 (min_value)"]
    assert verdict.checks[0].relative is False


def test_what_is_measured_says_whether_labels_differ_where_that_counts():
    assert measured("binary", ["accuracy"]) == {"accuracy": "BinaryAccuracy"}
    for task, metric in {"binary": "auc", "regression": "r2"}.items():
        assert measured(task, [metric]).keys() == {metric, "label_variance"}
    for task in ("binary", "multiclass", "regression"):
        assert any(task in metric.tasks for metric in METRICS.values())


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
    assert check.describe() == "auc on span=3 is 0.65, required 0.7 (min_value)"
    check = Check("max_drop", "auc", "overall", None, 0.8, 0.03, 500, "failed")
    assert check.describe() == "auc on overall could not be measured (max_drop 0.03)" and check.fall is None
    check = Check("max_drop", "rmse", "overall", None, 0.8, 0.15, 500, "failed", relative=True)
    assert check.describe() == "rmse on overall could not be measured (max_drop 15 %)"


@pytest.mark.parametrize(
    ("metric", "champion", "candidate", "line"),
    [
        ("rmse", 1523.4, 1702.9, "rmse on word=a went from 1523 to 1703"),
        ("rmse", 9.87654321e6, 1.2e7, "rmse on word=a went from 9876543 to 12000000"),
        ("mae", 0.00012341, 0.0002, "mae on word=a went from 0.0001234 to 0.0002"),
        ("r2", 0.41234, -0.5, "r2 on word=a went from 0.4123 to -0.5"),
        ("log_loss", 2.31491, 2.31512, "log_loss on word=a went from 2.3149 to 2.3151"),
        ("auc", 0.75, 0.75, "auc on word=a went from 0.75 to 0.75"),
    ],
    ids=["thousands", "millions", "small", "negative", "close", "equal"],
)
def test_lines_read_well_whatever_the_size(metric, champion, candidate, line):
    check = Check("max_slice_drop", metric, "word=a", candidate, champion, 0.0, 500, "failed")
    assert check.describe() == f"{line} (max_slice_drop 0)"


def test_a_fall_is_positive_where_the_candidate_is_worse():
    assert Check("max_drop", "auc", "overall", 0.7, 0.8, 0.05, 500, "failed").fall == pytest.approx(0.1)
    assert Check("max_drop", "rmse", "overall", 7.0, 8.0, 0.05, 500, "passed").fall == -1.0


numbers = st.sampled_from([None, math.nan, math.inf, -math.inf, 0.0, 0.5, 0.8, 1.0])
SLICES = ("overall", "span=1", "span=2", "span=3", "word=a")
metrics = st.dictionaries(
    st.sampled_from(SLICES),
    st.builds(
        lambda auc, log_loss, examples, label_variance: {
            k: v for k, v in values(auc, examples, label_variance, log_loss=log_loss).items() if v is not None
        },
        numbers,
        numbers,
        st.sampled_from([0, 99, 100, 500]),
        st.sampled_from([0.0, 0.24, math.nan]),
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
            one_label = check.metric == "auc" and mine.get("label_variance") == 0.0
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


# Against the line, not only the champion.


def row(learned=0.8, best=0.9, metric="auc"):
    """What is known of spans 1 and 2."""
    return {f"span={span}": {metric: {"learned": learned, "best": best}} for span in (1, 2)}


def of_line(limits, line, changed=None, metric="auc", **options):
    candidate, champion = both({name: values(0.8, **more) for name, more in (changed or {}).items()})
    if metric != "auc":
        candidate, champion = (
            {name: {**of, metric: of.get(metric, 0.5)} for name, of in metrics.items()}
            for metrics in (candidate, champion)
        )
    return judge(candidate, champion, {metric: limits}, (3,), (1, 2), 100, line, **options)


def test_a_slow_loss_is_held_against_the_best_of_the_line():
    # Not one version lost more than max_past_drop allows; together they did.
    limits = {"max_past_drop": 0.05, "max_forgetting": 0.08}
    verdict = of_line(limits, row(best=0.89))
    assert not verdict.blessed and verdict.only_forgetting
    assert verdict.reasons == [
        f"auc on span={span} went from 0.89, the best of its line, to 0.8 (max_forgetting 0.08)"
        for span in (1, 2)
    ]
    assert of_line(limits, row(best=0.88)).blessed
    check = of_line(limits, row(best=0.89)).checks[-1]
    assert (check.gate, check.champion, round(check.fall, 3)) == ("max_forgetting", 0.89, 0.09)


def test_a_relative_loss_against_the_best():
    limits = {"max_forgetting": 0.1, "relative": True}
    assert of_line(limits, row(best=0.88)).blessed
    assert of_line(limits, row(best=0.9)).reasons[0] == (
        "auc on span=1 went from 0.9, the best of its line, to 0.8, 11.11 % worse (max_forgetting 10 %)"
    )


def test_a_loss_that_grew_over_the_line():
    limits, low = {"max_forgetting": 0.1}, row(best=0.35, metric="log_loss")
    assert not of_line(limits, low, metric="log_loss").blessed
    assert of_line(limits, row(best=0.45, metric="log_loss"), metric="log_loss").blessed


def test_the_mean_over_past_spans_of_what_was_lost_since_they_were_learned():
    line = row() | {"span=2": {"auc": {"learned": 0.85, "best": 0.85}}}
    assert of_line({"min_bwt": -0.025}, line).blessed  # 0 and -0.05
    verdict = of_line({"min_bwt": -0.024}, line)
    assert verdict.only_forgetting and verdict.reasons == [
        "auc on past spans is 0.025 worse on average than when learned (min_bwt -0.024)"
    ]
    (check,) = verdict.checks
    assert (check.slice, check.examples, check.limit, check.fall) == ("past spans", 1000, -0.024, None)
    assert check.candidate == pytest.approx(-0.025)
    assert of_line({"min_bwt": 0.0}, row(learned=0.8)).blessed


def test_a_relative_transfer_and_one_of_a_loss():
    limits = {"min_bwt": -0.1, "relative": True}
    assert of_line(limits, row(learned=0.88)).blessed
    assert of_line(limits, row(learned=1.0)).reasons == [
        "auc on past spans is 20 % worse on average than when learned (min_bwt -10 %)"
    ]
    assert of_line(limits, row(learned=0.48, metric="log_loss"), metric="log_loss").blessed
    assert not of_line(limits, row(learned=0.4, metric="log_loss"), metric="log_loss").blessed


def test_small_past_spans_have_no_part_in_the_transfer():
    line = row() | {"span=2": {"auc": {"learned": 1.0, "best": 1.0}}}
    limits = {"min_bwt": -0.01, "min_value": 0.5}
    assert not of_line(limits, line).blessed
    verdict = of_line(limits, line, {"span=2": {"examples": 99}})
    assert verdict.blessed and verdict.checks[-1].examples == 500
    verdict = of_line(limits, line, {"span=1": {"examples": 99}, "span=2": {"examples": 99}})
    assert verdict.blessed and verdict.checks[-1].outcome == "not judged"


@pytest.mark.parametrize("limits", [{"max_forgetting": 0.5}, {"min_bwt": -0.5}], ids=["forgetting", "bwt"])
def test_a_past_span_that_is_not_measured_or_not_known_fails(limits):
    candidate, champion = both()
    del candidate["span=2"]
    assert not judge(candidate, champion, {"auc": limits}, (3,), (1, 2), 100, row()).blessed
    assert not judge(*both({"span=2": values(math.nan)}), {"auc": limits}, (3,), (1, 2), 100, row()).blessed
    assert not judge(*both(), {"auc": limits}, (3,), (1, 2), 100, {}).blessed


def test_a_cold_start_has_forgotten_nothing():
    limits = {"min_value": 0.7, "max_forgetting": 0.0, "min_bwt": 1.0}
    verdict = judge(both()[0], None, {"auc": limits}, (3,), (), 100)
    assert verdict.blessed and [check.gate for check in verdict.checks] == ["min_value"]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, False),
        ({"span=1": values(0.7)}, True),
        ({"span=1": values(0.7), "word=a": values(0.6)}, False),
        ({"span=3": values(0.76)}, False),
    ],
    ids=["blessed", "a past span", "a past span and a slice", "the new span"],
)
def test_whether_nothing_but_forgetting_was_wrong(changed, expected):
    assert judged(*both(changed)).only_forgetting is expected


# The influence of the new data.


def influence(with_it, without, examples=500):
    return {"past": {"with": 0.5, "without": 0.5, "examples": 900}} | {
        "span=1": {"with": with_it, "without": without, "examples": examples}
    }


def test_data_that_harms_what_is_known_is_refused():
    checks = judge_influence(influence(0.45, 0.40), 0.1, 100)
    assert [(c.gate, c.metric, c.slice, c.outcome) for c in checks] == [
        ("max_influence", "loss", "past", "passed"),
        ("max_influence", "loss", "span=1", "failed"),
    ]
    verdict = judge(*both(), {"auc": LIMITS}, (3,), (1, 2), 100, influence=checks)
    assert not verdict.blessed and not verdict.only_forgetting  # more replay is no cure for poison
    assert verdict.reasons == ["loss on span=1 is 0.45 with the new data, 0.4 without (max_influence 10 %)"]
    assert verdict.to_json()["checks"][-1]["fall"] == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("measured", "outcome"),
    [
        (influence(0.44, 0.40), "passed"),
        (influence(0.30, 0.40), "passed"),
        (influence(9.0, 0.40, examples=99), "not judged"),
        (influence(math.nan, 0.40), "failed"),
    ],
    ids=["as much as is allowed", "less", "too few examples", "not a number"],
)
def test_the_rise_of_the_loss_is_a_share_of_it(measured, outcome):
    assert judge_influence(measured, 0.1, 100)[-1].outcome == outcome
