"""A version's run in MLflow: its metrics, for the charts, and a copy of its SavedModel."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from typing import Any

from components.names import EDGE_MODEL
from components.promote.version import Version

_LONGEST_TOLD = 500  # characters
_COPY = "model"  # of the SavedModel, among the run's artifacts


def keep(
    client: Any,
    name: str,
    artifacts: str | None,
    version: Version,
    saved_model: str,
    metrics: Mapping[str, float],
) -> str:
    """The id of the MLflow run of a version: a new one, or the one that a killed process began.

    Args:
        client: MLflow's.
        name: of the experiment; the registered model's.
        artifacts: where MLflow keeps the models of a new experiment; None: where its server says.
        version: what it is.
        saved_model: the folder to keep a copy of.
        metrics: for MLflow's charts.
    """
    from mlflow.entities import Metric, Param

    experiment = client.get_experiment_by_name(name)
    experiment_id = (
        experiment.experiment_id
        if experiment
        else client.create_experiment(name, artifact_location=artifacts)
    )
    # Hashed, because a path may hold quotes, and MLflow's filters have no escapes.
    key = hashlib.sha256(version.key.encode()).hexdigest()
    begun = client.search_runs([experiment_id], f"tags.`retrain.key` = '{key}'", max_results=1)
    run = (
        begun[0]
        if begun
        else client.create_run(experiment_id, run_name=_run_name(version), tags={"retrain.key": key})
    )
    run_id = str(run.info.run_id)
    now = int(time.time() * 1000)
    client.log_batch(
        run_id,
        metrics=[Metric(name, value, now, version.watermark) for name, value in metrics.items()],
        params=[Param("spans", told(version.spans)), Param("parent", str(version.parent))],
    )
    client.log_artifacts(run_id, saved_model, _COPY)
    edge = version.uris.get("edge")
    if edge and os.path.exists(os.path.join(edge, EDGE_MODEL)):
        client.log_artifacts(run_id, edge, "edge")
    client.set_terminated(run_id)
    return run_id


def copied_bytes(client: Any, run_id: str) -> int:
    """How large the copy of the SavedModel is; 0: there is none."""

    def below(folder: str) -> int:
        found = client.list_artifacts(run_id, folder)
        return sum(below(file.path) if file.is_dir else file.file_size or 0 for file in found)

    return below(_COPY)


def remove_copy(client: Any, run_id: str) -> None:
    """Removes the copy of the SavedModel; the run and its metrics stay."""
    # MLflow's client has no call for it.
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    if client.list_artifacts(run_id, _COPY):
        where = client.get_run(run_id).info.artifact_uri
        get_artifact_repository(where, client.tracking_uri).delete_artifacts(_COPY)


def told(spans: tuple[int, ...]) -> str:
    """Spans, where MLflow limits the length."""
    if not spans:
        return "no spans"
    text = f"spans {', '.join(map(str, spans))}"
    return text if len(text) <= _LONGEST_TOLD else f"{len(spans)} spans, {spans[0]} to {spans[-1]}"


def _run_name(version: Version) -> str:
    spans = f"spans {version.spans[0]}-{version.spans[-1]}" if version.spans else ""
    return " ".join(filter(None, ["" if version.kind == "run" else version.kind, spans]))
