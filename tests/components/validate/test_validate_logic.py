"""The decision as a table, and what is read of TFDV's reports."""

import pytest
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2

from components.validate import logic
from components.validate.logic import Drift

SCHEMA = text_format.Parse(
    """
    feature { name: "x" drift_comparator { jensen_shannon_divergence { threshold: 0.25 } } }
    feature { name: "word" drift_comparator { infinity_norm { threshold: 0.5 } } }
    feature { name: "free" }
    feature { name: "both" drift_comparator {
        infinity_norm { threshold: 0.125 } jensen_shannon_divergence { threshold: 0.5 } } }
    feature { name: "gone" drift_comparator { infinity_norm { threshold: 0.75 } } }
    """,
    schema_pb2.Schema(),
)


def anomalies(text):
    return text_format.Parse(text, anomalies_pb2.Anomalies())


def test_comparators_and_their_thresholds():
    found = logic.comparators(SCHEMA)
    assert {name: logic.threshold(comparator) for name, comparator in found.items()} == {
        "x": ("jsd", 0.25),
        "word": ("linf", 0.5),
        "both": ("jsd", 0.5),
        "gone": ("linf", 0.75),
    }


def test_drift_is_sorted_by_its_share_of_the_threshold():
    report = anomalies("""
        drift_skew_info { path { step: "x" }
            drift_measurements { type: JENSEN_SHANNON_DIVERGENCE value: 0.125 threshold: 0.25 } }
        drift_skew_info { path { step: "word" }
            drift_measurements { type: L_INFTY value: 0.75 threshold: 0.5 } }
        drift_skew_info { path { step: "both" }
            drift_measurements { type: L_INFTY value: 0.25 threshold: 0.125 }
            drift_measurements { type: JENSEN_SHANNON_DIVERGENCE value: 0.0 threshold: 0.5 } }
    """)
    drift = logic.measure_drift(report, logic.comparators(SCHEMA))
    assert drift == [
        Drift("both", "linf", 0.25, 0.125),
        Drift("word", "linf", 0.75, 0.5),
        Drift("x", "jsd", 0.125, 0.25),
        Drift("both", "jsd", 0.0, 0.5),
        Drift("gone", "", None, 0.75),
    ]
    assert [d.drifted for d in drift] == [True, True, False, False, False]


def test_at_the_threshold_nothing_has_drifted():
    assert not Drift("x", "jsd", 0.25, 0.25).drifted and Drift("x", "jsd", 0.2500001, 0.25).drifted


REPORTS = {
    "train": anomalies("""
        anomaly_info { key: "b" value {
            severity: ERROR short_description: "Gone." description: "b is gone" } }
        anomaly_info { key: "a" value {
            severity: WARNING short_description: "Odd" description: "a is odd" } }
    """),
    "eval": anomalies("""
        data_missing: true
        anomaly_info { key: "b" value {
            severity: ERROR short_description: "Other" description: "told already" } }
    """),
}


def test_problems_by_severity():
    errors = ["b: Gone (b is gone)", "the eval split has no examples"]
    assert logic.problems(REPORTS, "error") == errors
    assert logic.problems(REPORTS, "warning") == ["a: Odd (a is odd)", *errors]
    assert logic.problems({"train": anomalies("")}, "warning") == []


def test_a_problem_of_the_whole_data_set():
    report = anomalies(
        'dataset_anomaly_info { severity: ERROR short_description: "Few" description: "9 < 10" }'
    )
    assert logic.problems({"train": report}, "error") == ["data: Few (9 < 10)"]


DRIFTED = Drift("x", "jsd", 0.3, 0.25)
STEADY = Drift("word", "linf", 0.2, 0.5)
UNKNOWN = Drift("gone", "", None, 0.5)
USUAL = {
    "cold_start": False,
    "forced": False,
    "on_drift": True,
    "min_rows": 100,
    "problems": [],
    "drift": [STEADY],
    "rows": {"train": 50, "eval": 5, "quarantine": 0},
}
EVERY_REASON = {"cold_start": True, "forced": True, "drift": [DRIFTED], "min_rows": 1}
NO_TRAIN_ROWS = {"train": 0, "eval": 5, "quarantine": 55}
SKIP = ["no drift, and 50 new training examples < 100 (trigger.min_rows)"]
CASES = {
    "problems refuse": (EVERY_REASON | {"problems": ["a: odd", "b: gone"]}, "refuse", ["a: odd", "b: gone"]),
    "no rows refuse": (
        EVERY_REASON | {"rows": NO_TRAIN_ROWS, "min_rows": 0},
        "refuse",
        ["no training example in the new spans"],
    ),
    "cold start": ({"cold_start": True}, "train", ["cold start: no version is served yet"]),
    "forced": ({"forced": True}, "train", ["forced"]),
    "drift": (
        {"drift": [DRIFTED, STEADY, Drift("word", "linf", 0.75, 0.5)]},
        "train",
        ["drift: x 0.300 > 0.25 (jsd), word 0.750 > 0.5 (linf)"],
    ),
    "drift is no reason": ({"drift": [DRIFTED], "on_drift": False}, "skip", SKIP),
    "not comparable is not drift": ({"drift": [UNKNOWN, STEADY]}, "skip", SKIP),
    "volume": ({"min_rows": 50}, "train", ["volume: 50 new training examples >= 50"]),
    "one row short": (
        {"min_rows": 51},
        "skip",
        ["no drift, and 50 new training examples < 51 (trigger.min_rows)"],
    ),
    "every reason is told": (
        EVERY_REASON,
        "train",
        [
            "cold start: no version is served yet",
            "forced",
            "drift: x 0.300 > 0.25 (jsd)",
            "volume: 50 new training examples >= 1",
        ],
    ),
    "skip": ({}, "skip", SKIP),
    "poison is set aside, whatever the reasons": (
        EVERY_REASON | {"quarantine": {3: "odd labels", 4: "copies"}},
        "quarantine",
        ["span 3 is set aside: odd labels", "span 4 is set aside: copies"],
    ),
    "what is refused is not set aside": (
        {"problems": ["a: odd"], "quarantine": {3: "odd labels"}},
        "refuse",
        ["a: odd"],
    ),
}


@pytest.mark.parametrize(("changed", "action", "reasons"), CASES.values(), ids=CASES.keys())
def test_decisions(changed, action, reasons):
    given = USUAL | changed
    decision = logic.decide(**given)
    assert (decision.action, decision.reasons) == (action, reasons)
    assert decision.drift == given["drift"] and decision.rows == given["rows"]


def test_as_data():
    assert logic.decide(**USUAL | {"drift": [DRIFTED]}).to_json() == {
        "action": "train",
        "reasons": ["drift: x 0.300 > 0.25 (jsd)"],
        "drift": [{"feature": "x", "measure": "jsd", "value": 0.3, "threshold": 0.25, "drifted": True}],
        "rows": {"train": 50, "eval": 5, "quarantine": 0},
        "poison": [],
        "quarantine": {},
    }
