"""Spans that must not be learned, as tags of the registered model: no version could carry the mark."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

from components.promote.mlflow_model import MlflowModel, explained

_QUARANTINED, _RELEASED = "quarantined.", "released."  # before a span
# Characters, each: where MLflow keeps its tables in MySQL or PostgreSQL such a tag has room for 5,000.
_LONGEST_REASON = 2000


class Quarantine(MlflowModel):
    """What is told of spans."""

    def quarantined(self) -> dict[int, str]:
        """Span -> why it must not be learned, ascending."""
        return {span: str(told["reason"]) for span, told in self._told_of(_QUARANTINED).items()}

    def released(self) -> dict[int, Mapping[str, Any]]:
        """Span -> what `release` was told of it, with `when` (seconds since the epoch), ascending."""
        return self._told_of(_RELEASED)

    @explained
    def quarantine(self, spans: Iterable[int], reason: str) -> None:
        """Marks spans as not to be learned, until they are released."""
        self._create_model()
        told = json.dumps({"reason": reason[:_LONGEST_REASON], "when": time.time()}, ensure_ascii=False)
        for span in spans:
            self._client.set_registered_model_tag(self.name, f"{_QUARANTINED}{span}", told)
            self._untag(f"{_RELEASED}{span}")

    @explained
    def release(self, spans: Iterable[int], reason: str, **more: Any) -> None:
        """Takes spans out of the quarantine, and keeps why.

        Args:
            spans: where one is not in quarantine, only the reason is kept.
            reason: of the person who says so.
            more: what else is to be kept with each, as plain data.
        """
        self._create_model()
        short = {
            name: value[:_LONGEST_REASON] if isinstance(value, str) else value for name, value in more.items()
        }
        told = {"reason": reason[:_LONGEST_REASON], "when": time.time(), **short}
        for span in spans:
            # In this order: killed in between, the span is still in quarantine.
            text = json.dumps(told, ensure_ascii=False)
            self._client.set_registered_model_tag(self.name, f"{_RELEASED}{span}", text)
            self._untag(f"{_QUARANTINED}{span}")

    @explained
    def _told_of(self, prefix: str) -> dict[int, Any]:
        tags = self._model_tags()
        found = {
            int(key.removeprefix(prefix)): json.loads(v) for key, v in tags.items() if key.startswith(prefix)
        }
        return dict(sorted(found.items()))
