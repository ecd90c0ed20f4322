"""The decision stage: reads what the stock validators found, and stops or opens the way to train."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from tensorflow_metadata.proto.v0 import anomalies_pb2
from tfx import types
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import artifact_utils, standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.artifacts import Decision, Quarantine, read_json, read_schema, write_json
from components.errors import RetrainError
from components.validate import logic, poison

DECISION_FILE = "decision.json"
_ANOMALIES_FILE = "SchemaDiff.pb"


class Executor(base_executor.BaseExecutor):
    """Reads the reports, decides, writes `decision.json` and the artifact's `train` property."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        schema_uri = artifact_utils.get_single_uri(input_dict["schema"])
        schema = read_schema(schema_uri)
        anomalies = artifact_utils.get_single_instance(input_dict["anomalies"])
        splits = artifact_utils.decode_split_names(anomalies.split_names)
        found = {
            split: _read(os.path.join(anomalies.uri, f"Split-{split}", _ANOMALIES_FILE)) for split in splits
        }

        drift: list[logic.Drift] = []
        if input_dict.get("drift"):
            report = artifact_utils.get_single_instance(input_dict["drift"])
            (pair,) = artifact_utils.decode_split_names(report.split_names)
            drift = logic.measure_drift(
                _read(os.path.join(report.uri, f"SplitPair-{pair}", _ANOMALIES_FILE)),
                logic.comparators(schema),
            )
        report = read_json(artifact_utils.get_single_uri(input_dict["quarantine"]), "report.json")
        limits = json.loads(exec_properties["poisoning"])
        released, reference = limits.pop("released"), limits.pop("reference")
        spans = {int(span): counts for span, counts in report["per_span"].items()}
        measures = poison.measure(spans, reference, **limits)
        decision = logic.decide(
            cold_start=bool(exec_properties["cold_start"]),
            forced=bool(exec_properties["forced"]),
            on_drift=bool(exec_properties["on_drift"]),
            min_rows=exec_properties["min_rows"],
            problems=logic.problems(found, exec_properties["severity"]),
            drift=drift,
            rows={**report["rows_kept"], "quarantine": report["quarantined"]},
            poison=measures,
            quarantine=poison.guilty(measures, released),
        )
        output = artifact_utils.get_single_instance(output_dict["decision"])
        output.train = int(decision.action == "train")
        # The labels are what the next span's are compared with.
        labels = {str(span): counts["labels"] for span, counts in spans.items()}
        write_json(output.uri, DECISION_FILE, decision.to_json() | {"labels": labels})


def _read(path: str) -> anomalies_pb2.Anomalies:
    with open(path, "rb") as file:
        return anomalies_pb2.Anomalies.FromString(file.read())


class DecideSpec(ComponentSpec):
    PARAMETERS = {
        "cold_start": ExecutionParameter(type=int),
        "forced": ExecutionParameter(type=int),
        "on_drift": ExecutionParameter(type=int),
        "min_rows": ExecutionParameter(type=int),
        "severity": ExecutionParameter(type=str),
        "poisoning": ExecutionParameter(type=str),
    }
    INPUTS = {
        "schema": ChannelParameter(type=standard_artifacts.Schema),
        "quarantine": ChannelParameter(type=Quarantine),
        "anomalies": ChannelParameter(type=standard_artifacts.ExampleAnomalies),
        "drift": ChannelParameter(type=standard_artifacts.ExampleAnomalies, optional=True),
    }
    OUTPUTS = {"decision": ChannelParameter(type=Decision)}


class Decide(base_component.BaseComponent):
    """Anomalies, drift, row counts, signs of poison -> train, skip, refuse or quarantine, with the reasons.

    Stock validators record and never stop a run; here is where the run stops. A cold start is an
    input of its own, because DistributionValidator approves whatever has no baseline.

    Args:
        schema: for the drift comparators.
        quarantine: the ingest stage's report, for the row counts, labels and duplicates.
        anomalies: ExampleValidator's.
        drift: DistributionValidator's, over the train split; none at a cold start.
        cold_start: there is no champion.
        forced: train whatever the triggers say (never what validation refuses).
        on_drift: drift is a reason to train.
        min_rows: new training examples that are a reason to train.
        severity: `warning` or `error`: anomalies from there on refuse the data.
        max_label_shift, max_duplicates: of any one span; None: any (see `poison`).
        reference_labels: how the labels of the newest span learned are distributed, as a `decision.json` says
            it of its spans; None: nothing is learned, or it is not known.
        released: spans that a person has released from quarantine.

    Outputs:
    - `decision`: a `Decision`.

    Raises:
        RetrainError: `severity` is neither.
    """

    SPEC_CLASS = DecideSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        schema: types.BaseChannel,
        quarantine: types.BaseChannel,
        anomalies: types.BaseChannel,
        cold_start: bool,
        forced: bool,
        on_drift: bool,
        min_rows: int,
        severity: str,
        drift: types.BaseChannel | None = None,
        max_label_shift: float | None = None,
        max_duplicates: float | None = None,
        reference_labels: Mapping[str, Any] | None = None,
        released: Sequence[int] = (),
    ) -> None:
        if severity not in ("warning", "error"):
            raise RetrainError(f"severity: got {severity!r}, expected one of warning, error")
        poisoning = {
            "max_label_shift": max_label_shift,
            "max_duplicates": max_duplicates,
            "reference": reference_labels,
            "released": sorted(released),
        }
        super().__init__(
            DecideSpec(
                schema=schema,
                quarantine=quarantine,
                anomalies=anomalies,
                drift=drift,
                cold_start=int(cold_start),
                forced=int(forced),
                on_drift=int(on_drift),
                min_rows=min_rows,
                severity=severity,
                poisoning=json.dumps(poisoning),
                decision=types.Channel(type=Decision),
            )
        )
