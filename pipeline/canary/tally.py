"""What was seen of the two pools in one step: counts, however many requests there were."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.canary.sequential import Moments

BUCKETS = 100
"""So many classes of keys are told apart; enough to notice that all requests have the same key."""
_FINEST, _GROWTH = 0.001, 1.05  # seconds; bins of latencies grow by 5 %


@dataclass(frozen=True)
class Request:
    """One request that nginx gave to a pool.

    Attributes:
        time: when it was answered, seconds since the epoch.
        canary: whether the pool was the challenger's.
        failed: whether that pool failed to answer it well, whoever answered it then.
        seconds: how long the pool took; None: it did not answer.
        bucket: of the request's key, in [0, BUCKETS).
    """

    time: float
    canary: bool
    failed: bool
    seconds: float | None
    bucket: int


@dataclass
class Pool:
    """What was seen of one pool.

    Attributes:
        requests: that it was given.
        errors: of these, those that it failed.
        latency: bin -> how many of the others took so long; see `latency_edge`.
        keys: one bit a bucket of keys that was seen.
        predictions: how many fell into each bin of the trial.
        losses: of the predictions whose labels have come.
    """

    requests: int = 0
    errors: int = 0
    latency: dict[int, int] = field(default_factory=dict)
    keys: int = 0
    predictions: list[int] = field(default_factory=list)
    losses: Moments = field(default_factory=Moments)

    def add(self, request: Request) -> None:
        """Counts one request."""
        self.requests += 1
        self.errors += request.failed
        self.keys |= 1 << request.bucket
        if not request.failed and request.seconds is not None:
            found = latency_bin(request.seconds)
            self.latency[found] = self.latency.get(found, 0) + 1

    def add_predictions(self, bins: Iterable[int], size: int) -> None:
        """Counts predictions by bin, of `size` bins."""
        self.predictions = self.predictions or [0] * size
        for found in bins:
            self.predictions[found] += 1

    @property
    def error_rate(self) -> float | None:
        """The share of requests that failed; None: there was none."""
        return self.errors / self.requests if self.requests else None

    @property
    def answered(self) -> int:
        """The requests whose latency is known."""
        return sum(self.latency.values())

    @property
    def buckets(self) -> int:
        """How many different buckets of keys were seen."""
        return self.keys.bit_count()

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Pool:
        """What `asdict` made, and JSON has carried."""
        latency = {int(found): count for found, count in data["latency"].items()}
        return cls(**{**data, "latency": latency, "losses": Moments(**data["losses"])})


@dataclass
class Step:
    """A share of the requests for the challenger, and what was seen while it held.

    Attributes:
        percent: of the requests, in (0, 100].
        started: seconds since the epoch.
        stable: the champion's pool.
        canary: the challenger's.
    """

    percent: float
    started: float
    stable: Pool = field(default_factory=Pool)
    canary: Pool = field(default_factory=Pool)

    def pool(self, canary: bool) -> Pool:
        """One of the two."""
        return self.canary if canary else self.stable

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Step:
        """What `to_json` made."""
        pools = {name: Pool.from_json(data[name]) for name in ("stable", "canary")}
        return cls(data["percent"], data["started"], **pools)


def step_of(steps: list[Step], time: float) -> Step | None:
    """The step in which a moment lies; None: it was before the first."""
    return next((step for step in reversed(steps) if step.started <= time), None)


def latency_bin(seconds: float) -> int:
    """The bin of a latency: 0 up to a millisecond, and from there on 5 % wide.

    >>> latency_bin(0.0), latency_bin(0.001), latency_bin(0.0011), latency_bin(1.0)
    (0, 0, 2, 142)
    """
    return max(math.ceil(math.log(max(seconds, _FINEST) / _FINEST) / math.log(_GROWTH) - 1e-9), 0)


def latency_edge(found: int) -> float:
    """The longest latency of a bin, in seconds; 0 below the first.

    >>> latency_edge(-1), latency_edge(0), round(latency_edge(142), 2)
    (0.0, 0.001, 1.02)
    """
    return _FINEST * _GROWTH**found if found >= 0 else 0.0


def latency_quantile(pool: Pool, quantile: float) -> float | None:
    """A quantile of the latencies that were seen, in seconds, at most 5 % too long; None: there are none."""
    left = quantile * pool.answered
    for found in sorted(pool.latency):
        left -= pool.latency[found]
        if left <= 1e-9:
            return latency_edge(found)
    return None
