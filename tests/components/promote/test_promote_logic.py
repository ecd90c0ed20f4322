"""The summary that goes into the registry's tags."""

import json
import math

from components.promote.logic import chart_metrics, summarize, worst_past


def check(gate="max_past_drop", slice="span=1", candidate=0.7, champion=0.8, **more):
    given = {"gate": gate, "metric": "auc", "slice": slice, "candidate": candidate, "champion": champion}
    fall = None if None in (candidate, champion) else champion - candidate
    return given | {"fall": fall, "limit": 0.05, "examples": 500, "outcome": "passed"} | more


def test_summary():
    drift = [{"feature": "x", "measure": "jsd", "value": 0.3, "threshold": 0.1, "drifted": True}]
    decision = {"action": "train", "reasons": ["forced"], "drift": drift, "rows": {"train": 9}}
    worst = check(slice="span=2", candidate=0.6, outcome="failed")
    verdict = {
        "blessed": False,
        "reasons": ["auc on span=2 fell"],
        "checks": [check("min_value", "span=3"), check(), worst, check(slice="span=0", outcome="not judged")],
        "candidate": {
            "overall": {"auc": 0.7},
            "span=1": {"auc": 0.6},
            "span=3": {"auc": 0.5},
            "a=b": {"auc": 0},
        },
        "champion": {"overall": {"auc": 0.8}, "span=3": {"auc": 0.4}},
    }
    assert summarize(decision, verdict, [3]) == {
        "reasons": ["forced"],
        "rows": {"train": 9},
        "drift": drift,
        "gate": {
            "reasons": ["auc on span=2 fell"],
            "only_forgetting": False,
            "passed": 2,
            "failed": 1,
            "not judged": 1,
        },
        "metrics": {
            "candidate": {"overall": {"auc": 0.7}, "span=3": {"auc": 0.5}},
            "champion": {"overall": {"auc": 0.8}, "span=3": {"auc": 0.4}},
        },
        "worst_past": {"auc": worst},
        "learning": {},
    }


def largest(count):
    """A decision and a verdict with so many of everything, after learning so many spans at once."""
    features = [f"a_rather_long_name_of_a_feature_{i}" for i in range(count)]
    drift = [
        {"feature": name, "measure": "jsd", "value": 1 / 3, "threshold": 0.1, "drifted": True}
        for name in features
    ]
    reasons = [f"{name} 0.333 > 0.1 (jsd)" for name in features]
    values = dict.fromkeys(("auc", "pr_auc", "accuracy", "log_loss", "example_count", "mean_label"), 1 / 3)
    metrics = {"overall": values} | {f"{kind}={i}": values for kind in ("span", "word") for i in range(count)}
    checks = [
        check(slice=name, metric=metric, candidate=1 / 3, champion=2 / 3)
        for name in metrics
        for metric in values
    ]
    decision = {"reasons": ["drift: " + ", ".join(reasons)], "drift": drift, "rows": {"train": 1}}
    verdict = {"reasons": reasons, "checks": checks, "candidate": metrics, "champion": metrics}
    return decision, verdict, range(count)


def test_the_summary_does_not_grow():
    sizes = [len(json.dumps(summarize(*largest(count)))) for count in (100, 1000)]
    told = {"warm_start": {"fresh": ["x" * 9999] * 999, "grown": {str(i): {"kept": 1} for i in range(999)}}}
    sizes += [len(json.dumps(summarize(*largest(100), told)))]
    assert max(sizes) < 60_000 and sizes[1] - sizes[0] < 1000
    summary = summarize(*largest(1000))
    assert "overall" in summary["metrics"]["candidate"] and "span=999" in summary["metrics"]["candidate"]


def test_a_cold_start_has_no_champion_to_summarize():
    decision = {"reasons": ["cold start"], "drift": [], "rows": {}}
    verdict = {"reasons": [], "checks": [], "candidate": {"overall": {"auc": 0.7}}, "champion": None}
    summary = summarize(decision, verdict, [1])
    assert summary["metrics"] == {"candidate": {"overall": {"auc": 0.7}}, "champion": {}}
    assert summary["worst_past"] == {}


def test_the_past_span_that_fell_most():
    loss = {"metric": "log_loss", "champion": 0.5}
    checks = [
        check(slice="span=1", candidate=0.75),
        check(slice="span=2", candidate=0.5, outcome="failed"),
        check(slice="span=3", candidate=0.1, outcome="not judged"),
        check(slice="span=4", candidate=math.nan, fall=None, outcome="failed"),
        check(slice="span=5", candidate=None, outcome="failed"),
        check("max_drop", "span=9", candidate=0.1),
        # A loss that grew fell: the gate knows which way is down.
        check(slice="span=1", candidate=0.25, fall=-0.25, **loss),
        check(slice="span=2", candidate=0.625, fall=0.125, **loss),
    ]
    for order in (checks, checks[::-1]):
        worst = worst_past(order)
        assert {metric: (c["slice"], round(c["fall"], 3)) for metric, c in worst.items()} == {
            "auc": ("span=2", 0.3),
            "log_loss": ("span=2", 0.125),
        }


def test_where_nothing_fell_the_smallest_gain_is_the_worst():
    checks = [check(slice=f"span={i}", candidate=value) for i, value in enumerate([0.9, 0.85, 0.95])]
    assert worst_past(checks)["auc"]["slice"] == "span=1"


def test_what_the_stages_told_is_kept_in_short():
    grown = {f"feature {i}": {"kept": i} for i in range(21)}
    told = {
        "transform": {"action": "reused", "reasons": ["r" * 600, "s"], "reuses": 2},
        "warm_start": {"carried": 7, "grown": grown, "fresh": list("abcdefghijklmnopqrstuvwxyz")},
    }
    summary = summarize(*largest(1), told)
    assert summary["transform"] == {"action": "reused", "reasons": ["r" * 500, "s"], "reuses": 2}
    assert summary["warm_start"] == {
        "carried": 7,
        "grown": {"entries": 21},
        "fresh": list("abcdefghijklmnopqrst"),
    }


def test_names_of_charts():
    metrics = {"overall": {"auc": 0.7, "log_loss": 0.4}, "span=3,word=a//b é": {"auc": 0.6}}
    assert chart_metrics(metrics) == {
        "auc/overall": 0.7,
        "log_loss/overall": 0.4,
        "auc/span_3_word_a__b _": 0.6,
    }


def test_what_is_not_known_has_no_chart():
    learning = {"auc": {"acc": 0.9, "bwt": -0.01, "fwt": None, "worst": {"slice": "span=1", "drop": 0.1}}}
    assert chart_metrics({}, learning) == {"retention/acc/auc": 0.9, "retention/bwt/auc": -0.01}
