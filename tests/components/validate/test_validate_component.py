"""The decision over artifacts that TFDV and TFX's own validators made."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow_data_validation as tfdv
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.components.distribution_validator.executor import Executor as DistributionValidator
from tfx.components.example_validator.executor import Executor as ExampleValidator
from tfx.proto import distribution_validator_pb2
from tfx.types import standard_artifacts

from components.artifacts import Decision, Quarantine
from components.validate import logic
from components.validate.component import Executor

SCHEMA = """
    feature { name: "x" type: FLOAT presence { min_fraction: 1 min_count: 1 }
        drift_comparator { jensen_shannon_divergence { threshold: 0.05 } } }
    feature { name: "word" type: BYTES domain: "words" presence { min_fraction: 1 min_count: 1 }
        drift_comparator { infinity_norm { threshold: 0.1 } } }
    feature { name: "code" type: INT int_domain { is_categorical: true }
        drift_comparator { infinity_norm { threshold: 0.1 } } }
    string_domain { name: "words" value: "a" value: "b" }
"""
ROWS = 2000

UNCHECKED = {"max_label_shift": None, "max_duplicates": None, "reference": None, "released": []}


def frame(mean=0.0, share_of_a=0.5, words=("a", "b"), share_of_7=0.5):
    """2,000 rows: `x` normal, `word` one of two, `code` 7 or 8."""
    rng = np.random.default_rng(0)
    a, seven = (np.arange(ROWS) < ROWS * share for share in (share_of_a, share_of_7))
    return pd.DataFrame(
        {
            "x": rng.normal(mean, 1.0, ROWS).astype(np.float32),
            "word": np.where(a, *words),
            "code": np.where(rng.permutation(seven), 7, 8),
        }
    )


class Validation:
    """The stages around the decision, in a folder of their own."""

    def __init__(self, folder: Path, schema: str = SCHEMA) -> None:
        self.folder = folder
        self.schema = text_format.Parse(schema, schema_pb2.Schema())
        self.schema_artifact = self._artifact(standard_artifacts.Schema, "schema")
        Path(self.schema_artifact.uri, "schema.pbtxt").write_text(schema)
        self.quarantine = self._artifact(Quarantine, "quarantine")
        span = {"labels": {"rows": 2 * ROWS, "classes": {"0": 3000, "1": 1000}}, "repeated": 0.25}
        report = {"rows_kept": {"train": ROWS, "eval": ROWS}, "quarantined": 3, "per_span": {"5": span}}
        Path(self.quarantine.uri, "report.json").write_text(json.dumps(report))

    def _artifact(self, kind, name, split_names=None):
        artifact = kind()
        artifact.uri = str(self.folder / name)
        if split_names:
            artifact.split_names = split_names
        Path(artifact.uri).mkdir()
        return artifact

    def statistics(self, name, **splits):
        artifact = self._artifact(standard_artifacts.ExampleStatistics, name, json.dumps(list(splits)))
        for split, data in splits.items():
            statistics = tfdv.generate_statistics_from_dataframe(data, tfdv.StatsOptions(schema=self.schema))
            path = Path(artifact.uri, f"Split-{split}", "FeatureStats.pb")
            path.parent.mkdir()
            path.write_bytes(statistics.SerializeToString())
        return artifact

    def decide(self, new, base=None, **poisoning):
        """Decision.json and the artifact's `train`, over frames or a dict of split -> frame."""
        new = new if isinstance(new, dict) else {"train": new, "eval": new}
        statistics = self.statistics("new", **new)
        anomalies = self._artifact(standard_artifacts.ExampleAnomalies, "anomalies")
        ExampleValidator().Do(
            {"statistics": [statistics], "schema": [self.schema_artifact]},
            {"anomalies": [anomalies]},
            {"exclude_splits": "[]"},
        )
        inputs = {
            "schema": [self.schema_artifact],
            "quarantine": [self.quarantine],
            "anomalies": [anomalies],
        }
        if base is not None:
            inputs["drift"] = [self._drift(statistics, self.statistics("base", train=base, eval=base))]
        output = self._artifact(Decision, "decision")
        properties = {"forced": 0, "on_drift": 1, "min_rows": ROWS + 1, "severity": "error"}
        properties["poisoning"] = json.dumps(UNCHECKED | poisoning)
        Executor().Do(inputs, {"decision": [output]}, properties | {"cold_start": int(base is None)})
        return json.loads(Path(output.uri, "decision.json").read_text()), output.train

    def _drift(self, new, base):
        config = distribution_validator_pb2.DistributionValidatorConfig()
        for name, comparator in logic.comparators(self.schema).items():
            feature = config.default_slice_config.feature.add(distribution_comparator=comparator)
            feature.path.step.append(name)
        drift = self._artifact(standard_artifacts.ExampleAnomalies, "drift")
        DistributionValidator().Do(
            {"statistics": [new], "baseline_statistics": [base]},
            {"anomalies": [drift]},
            {"distribution_validator_config": config, "include_split_pairs": '[["train", "train"]]'},
        )
        return drift


@pytest.fixture
def validation(tmp_path):
    return Validation(tmp_path)


def test_no_drift_is_no_reason(validation):
    decision, train = validation.decide(frame(), frame())
    assert (decision["action"], train) == ("skip", 0)
    assert {d["feature"]: (d["measure"], d["value"], d["drifted"]) for d in decision["drift"]} == {
        "x": ("jsd", 0.0, False),
        "word": ("linf", 0.0, False),
        "code": ("linf", 0.0, False),
    }
    assert decision["rows"] == {"train": ROWS, "eval": ROWS, "quarantine": 3}


def test_drift_is_measured_and_named(validation):
    decision, train = validation.decide(frame(mean=1.0, share_of_a=0.8, share_of_7=0.55), frame())
    assert (decision["action"], train) == ("train", 1)
    drift = {d["feature"]: d for d in decision["drift"]}
    # Half of a normal distribution's mass moves: between a divergence of 0.05 and one of all of it, 1.
    assert drift["x"]["measure"] == "jsd" and 0.1 < drift["x"]["value"] < 0.25
    assert drift["word"]["value"] == pytest.approx(0.3) and drift["word"]["threshold"] == pytest.approx(0.1)
    assert drift["code"]["value"] == pytest.approx(0.05) and not drift["code"]["drifted"]
    (reason,) = decision["reasons"]
    assert reason == f"drift: x {drift['x']['value']:.3f} > 0.05 (jsd), word 0.300 > 0.1 (linf)"


def test_a_column_that_cannot_be_compared_is_told(validation):
    decision, _ = validation.decide(frame(), frame().drop(columns="code"))
    assert decision["drift"][-1] == {
        "feature": "code",
        "measure": "",
        "value": None,
        "threshold": pytest.approx(0.1),
        "drifted": False,
    }


def test_a_span_of_copies_is_not_trained_on_even_at_a_cold_start(validation):
    decision, train = validation.decide(frame(), max_duplicates=0.2)
    assert (decision["action"], train) == ("quarantine", 0)
    (reason,) = decision["reasons"]
    assert reason.startswith("span 5 is set aside: 25.0% of its rows repeat another one of it")
    assert list(decision["quarantine"]) == ["5"]
    assert decision["labels"] == {"5": {"rows": 2 * ROWS, "classes": {"0": 3000, "1": 1000}}}


def test_a_span_whose_labels_have_shifted_is_not_trained_on(validation):
    before = {"rows": 1000, "classes": {"0": 200, "1": 800}}
    decision, train = validation.decide(frame(mean=1.0), frame(), max_label_shift=0.3, reference=before)
    assert (decision["action"], train) == ("quarantine", 0) and "from 20.0% to 75.0%" in decision["reasons"][
        0
    ]


def test_a_released_span_is_trained_on_and_measured_all_the_same(validation):
    decision, train = validation.decide(frame(), max_duplicates=0.2, released=[5])
    assert (decision["action"], train) == ("train", 1)
    assert [(m["measure"], m["value"], m["exceeded"]) for m in decision["poison"]] == [
        ("label_shift", None, False),
        ("duplicates", 0.25, True),
    ]


def test_an_anomaly_refuses_even_a_cold_start(validation):
    decision, train = validation.decide({"train": frame(), "eval": frame(words=("a", "z"))})
    assert (decision["action"], train) == ("refuse", 0)
    (reason,) = decision["reasons"]
    assert reason.startswith("word: Unexpected string values") and "z (~50%)" in reason


def test_a_missing_column_refuses(validation):
    decision, train = validation.decide(frame().drop(columns="word"), frame())
    assert (decision["action"], train) == ("refuse", 0)
    assert decision["reasons"][0].startswith("word: Column dropped")


def test_a_split_without_examples_refuses(validation):
    decision, _ = validation.decide({"train": frame(), "eval": frame().iloc[:0]})
    assert decision["reasons"] == ["the eval split has no examples"]


def test_too_few_examples_for_the_schema_refuse(tmp_path):
    schema = SCHEMA + "dataset_constraints { min_examples_count: 3000 }"
    decision, _ = Validation(tmp_path, schema).decide(frame())
    (reason,) = decision["reasons"]
    assert reason.startswith("data: Low num examples in dataset") and str(ROWS) in reason
