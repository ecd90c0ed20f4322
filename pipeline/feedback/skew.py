"""Whether what is asked of the served version looks like what it learned (`retrain check`)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import RetrainError
from components.features import request_names
from components.feedback.log import Logged, read
from components.feedback.records import log_files
from components.promote.registry import Version
from pipeline.champion import open_registry
from pipeline.config import Deployment
from pipeline.feedback.prediction_log import hidden_columns, log_folder

if TYPE_CHECKING:
    from tensorflow_metadata.proto.v0 import schema_pb2

    from components.feedback.skew import Skew

MOST_ROWS = 20_000
"""Of the log that are compared, from its newest files."""


@dataclass(frozen=True)
class SkewReport:
    """What the log says of the champion's inputs.

    Attributes:
        version: the champion.
        rows: of the log that were compared.
        since: they were answered, in unix seconds.
        features: that could be compared.
        anomalies: what the schema does not allow of a request, such as a column that is always missing.
    """

    version: int
    rows: int
    since: float
    features: tuple[Skew, ...]
    anomalies: tuple[str, ...]

    @property
    def skewed(self) -> list[str]:
        """The names of those that are."""
        return [skew.feature for skew in self.features if skew.skewed]

    def to_json(self) -> dict[str, Any]:
        told = {"version": self.version, "rows": self.rows, "since": self.since, "skewed": self.skewed}
        features = [skew.to_json() for skew in self.features]
        return {**told, "anomalies": list(self.anomalies), "features": features}


def find_skew(deployment: Deployment) -> SkewReport | None:
    """Compares what was asked since the champion came to be with what it was trained on.

    Also writes it for Prometheus, as `STATE/metrics/skew.prom` in the text format that node_exporter's
    textfile collector reads.

    Returns:
        None where there is no log, or no champion.

    Raises:
        RetrainError: the champion's statistics are gone.
    """
    folder = log_folder(deployment)
    if not folder.is_dir():
        return None
    champion = open_registry(deployment).champion()
    if champion is None:
        return None
    rows = _newest_rows(deployment, folder, champion.created)
    features, anomalies = _compare(deployment, champion, rows) if rows else ([], [])
    report = SkewReport(champion.number, len(rows), champion.created, tuple(features), tuple(anomalies))
    _write_metrics(deployment, report)
    return report


def _newest_rows(deployment: Deployment, folder: Path, since: float) -> list[Logged]:
    """The rows of the newest files, until there are enough."""
    requests = {name: column for column, name in request_names(deployment.columns).items()}
    rows: list[Logged] = []
    for name in reversed(log_files(folder, since)):
        found = read(folder, since, model=deployment.name, columns=requests, only=name)
        rows += islice(found, MOST_ROWS - len(rows))
        if len(rows) >= MOST_ROWS:
            break
    return rows


def _compare(
    deployment: Deployment, champion: Version, rows: Sequence[Logged]
) -> tuple[list[Skew], list[str]]:
    """The skew, and what the schema does not allow of a request."""
    import tensorflow_data_validation as tfdv

    from components.feedback import skew
    from components.validate.logic import problems
    from pipeline.config.schema import complete_schema, read_schema

    file = os.path.join(champion.uris["statistics"], "Split-train", "FeatureStats.pb")
    if not os.path.exists(file):
        raise RetrainError(
            f"skew: the statistics of version {champion.number}, {file}, are not there; restore them, or "
            "promote another version"
        )
    learned = tfdv.load_stats_binary(file)
    schema = complete_schema(deployment, read_schema(deployment.schema_path))
    asked = deployment.columns.keys() - hidden_columns(deployment).keys()
    for feature in [feature for feature in schema.feature if feature.name not in asked]:
        # Not in TFDV's environment SERVING, which a schema need not have, or not in the log.
        schema.feature.remove(feature)
    compared = skew.comparators(schema, asked)
    plain = skew.with_comparators(schema, {})
    whole = _statistics(rows, plain, {})
    anomalies = problems({"log": tfdv.validate_statistics(whole, plain)}, "error")
    ends = {name: pair for name, pair in skew.ranges(learned).items() if name in compared}
    measured = tfdv.validate_statistics(
        learned, skew.with_comparators(schema, compared), serving_statistics=_statistics(rows, plain, ends)
    )
    return skew.measure(measured, skew.values(whole), skew.values(learned)), anomalies


def _statistics(
    rows: Sequence[Logged], schema: schema_pb2.Schema, ends: Mapping[str, tuple[float, float]]
) -> Any:
    """TFDV's statistics of the rows; numbers within `ends`, with these among them."""
    import pyarrow as pa
    from tensorflow_data_validation.statistics import stats_impl, stats_options
    from tensorflow_metadata.proto.v0 import schema_pb2

    from components.feedback.skew import within

    types = {schema_pb2.INT: pa.int64(), schema_pb2.FLOAT: pa.float32(), schema_pb2.BYTES: pa.binary()}
    columns = {}
    for feature in schema.feature:
        values = [row.inputs.get(feature.name) for row in rows]
        lists: list[Any] = [one if one is None or isinstance(one, list) else [one] for one in values]
        if feature.name in ends:
            pair = ends[feature.name]
            lists = [None if some is None else within(some, pair) for some in lists]
            lists += [[pair[0]], [pair[1]]]
        elif ends:
            lists += [None, None]
        columns[feature.name] = pa.array(lists, pa.list_(types[feature.type]))
    options = stats_options.StatsOptions(schema=schema)
    return stats_impl.generate_statistics_in_memory(pa.RecordBatch.from_pydict(columns), options)


def _write_metrics(deployment: Deployment, report: SkewReport) -> None:
    from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

    registry = CollectorRegistry()
    labels = ["model", "feature", "measure"]
    distance = Gauge(
        "retrain_skew", "Distance of what is asked from what was learned.", labels, registry=registry
    )
    threshold = Gauge(
        "retrain_skew_threshold", "Largest distance that is no skew.", labels, registry=registry
    )
    skewed = Gauge("retrain_skewed", "1: beyond the threshold, and not by chance.", labels, registry=registry)
    wrong = Gauge(
        "retrain_request_anomalies",
        "Columns of requests that the schema refuses.",
        ["model"],
        registry=registry,
    )
    wrong.labels(deployment.name).set(len(report.anomalies))
    rows = Gauge("retrain_skew_rows", "Rows of the log compared.", ["model", "version"], registry=registry)
    rows.labels(deployment.name, str(report.version)).set(report.rows)
    for one in report.features:
        of = (deployment.name, one.feature, one.measure)
        distance.labels(*of).set(one.value)
        threshold.labels(*of).set(one.threshold)
        skewed.labels(*of).set(one.skewed)
    file = deployment.state / "metrics" / "skew.prom"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_to_textfile(str(file), registry)  # aside, then renamed
