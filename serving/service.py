"""What both protocols do with a request: find the version, ask it, count it, log it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from serving.catalog import Catalog
from serving.inference import Run
from serving.metrics import Metrics
from serving.models import LoadedModel
from serving.prediction_log import PredictionLog

Spec = tuple[str, int | None, str | None]
"""Which version: the model's name and a version, a label or neither, which is the highest."""


class Service:
    """The models, the metrics and the log of a server."""

    def __init__(self, catalog: Catalog, metrics: Metrics, prediction_log: PredictionLog | None) -> None:
        self.catalog = catalog
        self.metrics = metrics
        self._log = prediction_log

    @contextmanager
    def use(self, spec: Spec, api: str, entrypoint: str) -> Iterator[LoadedModel]:
        """Lends a version for one request, which it counts.

        Args:
          spec: which version.
          api: Predict, Classify, Regress or MultiInference, in the protocol's spelling.
          entrypoint: GRPC or REST.

        Raises:
          RequestError: there is no such version.
        """
        with self.metrics.answering(spec[0], api, entrypoint), self.catalog.use(*spec) as model:
            yield model

    def answered(self, model: LoadedModel, method: str, run: Run, key: str | None) -> None:
        """Takes note of what was answered, and with what.

        Args:
          model: the version that answered.
          method: predict, classify or regress.
          run: of the signature.
          key: of the request.
        """
        self.metrics.ran(model.name, method.capitalize(), run.seconds)
        if self._log is not None:
            self._log.record(model.name, model.version, run.signature, method, run.inputs, run.outputs, key)
