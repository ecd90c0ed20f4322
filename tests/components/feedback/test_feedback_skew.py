"""Skew, as TFDV measures it: what is shifted is found, and chance is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from components.feedback import skew

SCHEMA = """
feature { name: "fare" type: FLOAT drift_comparator { jensen_shannon_divergence { threshold: 0.05 } } }
feature { name: "kind" type: BYTES skew_comparator { infinity_norm { threshold: 0.1 } }
          drift_comparator { infinity_norm { threshold: 0.9 } } }
feature { name: "area" type: INT int_domain { is_categorical: true }
          drift_comparator { infinity_norm { threshold: 0.1 } } }
feature { name: "idle" type: FLOAT }
feature { name: "tips" type: FLOAT drift_comparator { jensen_shannon_divergence { threshold: 0.05 } } }
"""
COLUMNS = {"fare", "kind", "area", "idle"}


def schema() -> Any:
    return text_format.Parse(SCHEMA, schema_pb2.Schema())


def statistics(
    rows: int, seed: int, ends: Any = None, fare: float = 2.0, cash: float = 0.5, area: int = 10
) -> Any:
    import pandas as pd
    import tensorflow_data_validation as tfdv

    rng = np.random.default_rng(seed)
    columns = {
        "fare": rng.lognormal(fare, 1.5, rows),  # a heavy tail
        "kind": np.where(rng.random(rows) < cash, "cash", "card"),
        "area": rng.integers(0, area, rows),
        "idle": rng.random(rows) + seed,
        "tips": rng.random(rows) + seed,
    }
    table = pd.DataFrame(columns)
    if ends is not None:
        table["fare"] = skew.within(table["fare"], ends)
        table = pd.concat([table, table[:2].assign(fare=ends)])
    return tfdv.generate_statistics_from_dataframe(table, tfdv.StatsOptions(schema=schema()))


def found(rows: int, seed: int = 2, **change: Any) -> dict[str, skew.Skew]:
    import tensorflow_data_validation as tfdv

    learned, compared = statistics(2000, seed=1), skew.comparators(schema(), COLUMNS)
    asked = statistics(rows, seed, skew.ranges(learned)["fare"], **change)
    anomalies = tfdv.validate_statistics(
        learned, skew.with_comparators(schema(), compared), serving_statistics=asked
    )
    measured = skew.measure(anomalies, skew.values(asked), skew.values(learned))
    return {one.feature: one for one in measured}


def test_a_feature_is_measured_by_its_skew_comparator_or_else_by_that_of_drift() -> None:
    compared = skew.comparators(schema(), COLUMNS)
    assert set(compared) == {"fare", "kind", "area"}
    assert compared["kind"].infinity_norm.threshold == pytest.approx(0.1)
    changed = skew.with_comparators(schema(), compared)
    assert not any(feature.HasField("drift_comparator") for feature in changed.feature)
    assert {feature.name for feature in changed.feature if feature.HasField("skew_comparator")} == set(
        compared
    )


@pytest.mark.parametrize("rows", [40, 1000])
def test_the_same_distribution_is_not_skewed(rows: int) -> None:
    report = found(rows)
    assert set(report) == {"fare", "kind", "area"}
    assert not any(one.skewed for one in report.values()), report
    assert {one.measure for one in report.values()} == {"jsd", "linf"}


@pytest.mark.parametrize(
    ("shifted", "change"), [("fare", {"fare": 5.0}), ("kind", {"cash": 0.9}), ("area", {"area": 3})]
)
def test_a_shifted_column_is_and_the_others_are_not(shifted: str, change: dict[str, Any]) -> None:
    report = found(500, **change)
    assert [one.feature for one in report.values() if one.skewed] == [shifted]
    assert next(iter(report)) == shifted


def test_few_rows_are_not_called_skewed_for_what_chance_does() -> None:
    few = skew.Skew("kind", "linf", value=0.3, error=0.25, threshold=0.1)
    assert not few.skewed and skew.Skew("kind", "linf", 0.3, 0.05, 0.1).skewed
    assert few.to_json() == {
        "feature": "kind",
        "measure": "linf",
        "value": 0.3,
        "error": 0.25,
        "threshold": 0.1,
        "skewed": False,
    }


def test_the_error_of_chance_holds() -> None:
    """Of 15 samples of the same distribution none exceeds the threshold by more than its error."""
    values = [one for seed in range(2, 17) for one in found(60, seed).values()]
    assert not any(one.skewed for one in values)
    assert max(one.value for one in values if one.measure == "linf") > 0.1  # which is the threshold
