"""What one run came to, for a person and as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.promote.registry import Kind


@dataclass(frozen=True)
class Outcome:
    """What one run came to.

    Attributes:
        spans: the spans looked at.
        label: these spans for a person, with the dates that they stand for.
        dates: of each span; empty where spans are numbers.
        files: their files' names.
        decision: `decision.json` of the decide stage.
        version: what was registered; None where nothing was trained.
        parent: the version that the run started from, or that a shadow is held against; None: a cold start.
        warm_start: whether the parent's weights were the start.
        verdict: `verdict.json` of the gate; None where nothing was trained.
        served: the version served after the run.
        seconds: stage -> its duration.
        log: what libraries printed.
        kind: how the version came to be, as the registry has it.
        attempt: 2 where the first one was rejected for forgetting alone.
        replay_ratio: the share of replayed examples in a batch.
        debt: of a shadow, what the champion lacks and has saved, as `pipeline.shadow.debt` gives it.
        challenger: whether the version is to be tested on requests now, before it may be promoted.
    """

    spans: tuple[int, ...]
    label: str
    dates: tuple[str, ...]
    files: tuple[str, ...]
    decision: Mapping[str, Any]
    version: int | None
    parent: int | None
    warm_start: bool
    verdict: Mapping[str, Any] | None
    served: int | None
    seconds: Mapping[str, float]
    log: str
    kind: Kind = "run"
    attempt: int = 1
    replay_ratio: float | None = None
    debt: Mapping[str, Any] | None = None
    challenger: bool = False

    @property
    def action(self) -> str:
        return str(self.decision["action"])

    @property
    def blessed(self) -> bool | None:
        return None if self.verdict is None else bool(self.verdict["blessed"])

    @property
    def only_forgot(self) -> bool:
        """Whether it was rejected, and for nothing but what it has forgotten; a shadow has not forgotten."""
        return self.kind == "run" and bool((self.verdict or {}).get("only_forgetting"))

    def to_json(self) -> dict[str, Any]:
        """One line of `retrain run --json`."""
        verdict = self.verdict or {"candidate": None, "champion": None, "reasons": [], "checks": []}
        return {
            "span": self.spans[-1],
            "spans": list(self.spans),
            "dates": list(self.dates),
            "files": list(self.files),
            "decision": self.action,
            "reasons": self.decision["reasons"],
            "rows": self.decision["rows"],
            "drift": self.decision["drift"],
            "poison": self.decision["poison"],
            "version": self.version,
            "kind": self.kind,
            "parent": self.parent,
            "warm_start": self.warm_start,
            "attempt": self.attempt,
            "replay_ratio": self.replay_ratio,
            "blessed": self.blessed,
            "gate": verdict["reasons"],
            "checks": verdict["checks"],
            "learning": verdict.get("learning", {}),
            "debt": self.debt,
            "served": self.served,
            "challenger": self.challenger,
            "metrics": by_age(verdict["candidate"], self.spans),
            "baseline_metrics": by_age(verdict["champion"], self.spans),
            "seconds": {**self.seconds, "total": round(sum(self.seconds.values()), 2)},
            "log": self.log,
        }


def by_age(metrics: Mapping[str, Any] | None, new: tuple[int, ...]) -> dict[str, Any] | None:
    """Metrics by slice, sorted into `overall`, `new` and `past` spans (by number), and `slices`."""
    if metrics is None:
        return None
    sorted_in: dict[str, Any] = {"overall": metrics.get("overall"), "new": {}, "past": {}, "slices": {}}
    for name, values in metrics.items():
        if name.startswith("span=") and "," not in name:
            span = name.removeprefix("span=")
            sorted_in["new" if int(span) in new else "past"][span] = values
        elif name != "overall":
            sorted_in["slices"][name] = values
    return sorted_in
