"""What Prometheus reads: TF Serving's metrics under its names, and what the server knows beside."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric, UntypedMetricFamily
from prometheus_client.registry import Collector

from serving.catalog import Catalog
from serving.errors import Code, RequestError
from serving.prediction_log import PredictionLog

PATH = "/monitoring/prometheus/metrics"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_TF = ":tensorflow:serving:"
_OURS = "retrain_serving_"
# TF Serving's: microseconds, from 10 on, 33 of them.
_BUCKETS = [10 * 1.8**power for power in range(33)]
_NO_MODEL = "-"  # For requests to models that are not configured, whose names anybody may make up.


class Metrics:
    """The metrics of one server, in a registry of their own. All methods may be called from any thread."""

    def __init__(self, catalog: Catalog, prediction_log: PredictionLog | None = None) -> None:
        disable_created_metrics()
        self._catalog = catalog
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            f"{_TF}request_count", "The total number of requests.", ["model_name", "status"], registry=None
        )
        registry.register(_Untyped(self._requests))
        self._request_latency = Histogram(
            f"{_TF}request_latency",
            "Distribution of wall time (in microseconds) for a request that was answered.",
            ["model_name", "API", "entrypoint"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self._runtime_latency = Histogram(
            f"{_TF}runtime_latency",
            "Distribution of wall time (in microseconds) for Tensorflow runtime.",
            ["model_name", "API", "runtime"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self._in_flight = Gauge(
            f"{_OURS}requests_in_flight", "Requests that are being answered.", registry=registry
        )
        self._rejected = Counter(
            f"{_OURS}requests_rejected",
            "Requests that were refused before anything was done for them.",
            ["entrypoint", "reason"],
            registry=registry,
        )
        registry.register(_Versions(catalog))
        if prediction_log is not None:
            registry.register(_Logged(prediction_log))
        ProcessCollector(registry=registry)

    @contextmanager
    def answering(self, model: str, api: str, entrypoint: str) -> Iterator[None]:
        """Counts and times what is done in it as one request; an error is counted with its code."""
        if model not in self._catalog.names():
            model = _NO_MODEL
        begin, code = time.perf_counter(), Code.INTERNAL
        self._in_flight.inc()
        try:
            yield
            code = Code.OK
            elapsed = (time.perf_counter() - begin) * 1e6
            self._request_latency.labels(model, api, entrypoint).observe(elapsed)
        except RequestError as error:
            code = error.code
            raise
        finally:
            self._in_flight.dec()
            self._requests.labels(model, code.name).inc()

    def ran(self, model: str, api: str, seconds: float) -> None:
        """Counts one run of a signature."""
        self._runtime_latency.labels(model, api, "TF1").observe(seconds * 1e6)

    def rejected(self, entrypoint: str, reason: str) -> None:
        """Counts a request that was refused unread: `concurrency`, `size`, `timeout`, ..."""
        self._rejected.labels(entrypoint, reason).inc()

    def page(self) -> bytes:
        """Returns all of it in Prometheus' text format."""
        return generate_latest(self._registry)


class _Untyped(Collector):
    """A counter whose name does not end in `_total`: that is Prometheus' own rule, and not TF Serving's."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter

    def collect(self) -> Iterator[Metric]:
        for metric in self._counter.collect():
            family = UntypedMetricFamily(metric.name, metric.documentation)
            for sample in metric.samples:
                family.add_sample(metric.name, sample.labels, sample.value)
            yield family


class _Versions(Collector):
    """The state of every version, read when it is asked for."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def collect(self) -> Iterator[Metric]:
        loaded = GaugeMetricFamily(
            f"{_OURS}loaded_versions", "Versions that answer requests.", labels=["model_name"]
        )
        for name in sorted(self._catalog.names()):
            loaded.add_metric([name], len(self._catalog.serving(name).versions))
        states = GaugeMetricFamily(
            f"{_OURS}model_version_state",
            "1 for the state that a version is in.",
            labels=["model_name", "version", "state"],
        )
        for name, version, status in self._catalog.all_statuses():
            states.add_metric([name, str(version), "FAILED" if status.failed else status.state.name], 1)
        yield loaded
        yield states


class _Logged(Collector):
    """What the prediction log has done."""

    def __init__(self, log: PredictionLog) -> None:
        self._log = log

    def collect(self) -> Iterator[Metric]:
        for name, what in (
            ("logged", "Requests written to the prediction log."),
            ("dropped", "Requests that the prediction log has missed."),
            ("bytes", "Bytes written to the prediction log."),
        ):
            family = UntypedMetricFamily(f"{_OURS}prediction_log_{name}_total", what)
            family.add_metric([], getattr(self._log, name))
            yield family
