"""The limits: what each says of the two pools in one step, and how sure that is. Reads and writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.canary import sequential
from pipeline.canary.tally import Pool, Step, latency_edge, latency_quantile
from pipeline.config.sections.canary import Canary

_P99 = 0.99


@dataclass(frozen=True)
class Check:
    """One limit in one step.

    Attributes:
        limit: its key in the configuration.
        percent: of the step.
        allowed: the limit's value.
        canary, stable: what was measured; None: nothing was.
        value: what the limit is about, as measured: a difference, a ratio, a divergence.
        least: what it is at least, for certain; None: nothing is certain.
        most: what it is at most, for certain; None: it was not asked for.
        seen: how much of the challenger's it rests on.
        broken: whether it is certainly above the limit.
        doubtful: whether it looks as if it were, and is not certain: more is waited for.
    """

    limit: str
    percent: float
    allowed: float
    canary: float | None
    stable: float | None
    value: float | None
    least: float | None
    seen: int
    broken: bool
    doubtful: bool
    most: float | None = None

    def waits(self) -> str:
        """What is waited for where it is doubtful, for a person."""
        seen = f"{self.seen} {_SEEN[self.limit]} of the challenger's"
        return (
            f"{self.limit}: {self.value:.4g} over {seen}, allowed is {self.allowed:g}, and neither is certain"
        )

    def describe(self) -> str:
        """Why it is broken, for a person."""
        unit = " ms" if self.limit.startswith("max_p99") else ""
        stable = "" if self.stable is None else f" against the champion's {self.stable:.4g}{unit}"
        measured = self.value if self.canary is None else self.canary
        canary = "" if measured is None else f"{measured:.4g}{unit}{stable}, "
        return (
            f"{self.limit}: {canary}for certain {self.least:.4g} or more over {self.seen} "
            f"{_SEEN[self.limit]}, allowed is {self.allowed:g} (at {self.percent:g} % of the requests)"
        )


def judge(steps: Sequence[Step], step: Step, canary: Canary) -> list[Check]:
    """Every limit that is set, in one step; what needs labels, only where labels can come."""
    limits = {
        "max_error_rate": canary.max_error_rate,
        "max_p99_ms": canary.max_p99_ms,
        "max_p99_ratio": canary.max_p99_ratio,
        "max_divergence": canary.max_divergence,
        "max_loss_rise": canary.max_loss_rise if canary.labels else None,
    }
    wanted = {name: allowed for name, allowed in limits.items() if allowed is not None}
    alpha = (1 - canary.confidence) / (len(wanted) * len(canary.steps))
    reference = _reference(steps, step)
    return [
        _check(name, step, allowed, _MEASURES[name](step, reference, canary, alpha))
        for name, allowed in wanted.items()
    ]


@dataclass(frozen=True)
class _Measured:
    """What a limit is about, in one step: `canary` to `most` as `Check` has them.

    Attributes:
        matters: whether what is certain, and what was measured, is enough of it to be held against anybody.
    """

    canary: float | None
    stable: float | None
    value: float | None
    least: float | None
    seen: int
    most: float | None = None
    matters: tuple[bool, bool] = (True, True)


def _check(limit: str, step: Step, allowed: float, told: _Measured) -> Check:
    broken = told.matters[0] and told.least is not None and told.least > allowed
    looks = told.matters[1] and told.value is not None and told.value > allowed
    return Check(
        limit=limit,
        percent=step.percent,
        allowed=allowed,
        canary=told.canary,
        stable=told.stable,
        value=told.value,
        least=told.least,
        seen=told.seen,
        broken=broken,
        doubtful=looks and not broken,
        most=told.most,
    )


def _reference(steps: Sequence[Step], step: Step) -> Pool:
    """The champion's requests: of the same step, or, where it gets none, of the last that had some."""
    earlier = [s.stable for s in steps if s.started < step.started and s.stable.requests]
    return earlier[-1] if step.percent >= 100 and earlier else step.stable


def _errors(step: Step, reference: Pool, canary: Canary, alpha: float) -> _Measured:
    mine, other = step.canary, reference
    least, _ = sequential.share_bounds(mine.errors, mine.requests, alpha / 2)
    _, most = sequential.share_bounds(other.errors, other.requests, alpha / 2)
    value = _difference(mine.error_rate, other.error_rate)
    return _Measured(mine.error_rate, other.error_rate, value, least - most, mine.requests)


def _p99_ms(step: Step, reference: Pool, canary: Canary, alpha: float) -> _Measured:
    least, _ = sequential.quantile_bounds(step.canary.latency, latency_edge, _P99, alpha)
    mine, other = (_in_ms(latency_quantile(pool, _P99)) for pool in (step.canary, reference))
    return _Measured(mine, other, mine, 1000 * least, step.canary.answered)


def _p99_ratio(step: Step, reference: Pool, canary: Canary, alpha: float) -> _Measured:
    least, _ = sequential.quantile_bounds(step.canary.latency, latency_edge, _P99, alpha / 2)
    _, most = sequential.quantile_bounds(reference.latency, latency_edge, _P99, alpha / 2)
    mine, other = (_in_ms(latency_quantile(pool, _P99)) for pool in (step.canary, reference))
    value = mine / other if mine is not None and other is not None else None
    # What is too short to matter is not held against it.
    matters = 1000 * least > canary.p99_floor_ms, mine is not None and mine > canary.p99_floor_ms
    return _Measured(mine, other, value, least / most, step.canary.answered, matters=matters)


def _divergence(step: Step, reference: Pool, canary: Canary, alpha: float) -> _Measured:
    mine, other = step.canary.predictions, step.stable.predictions
    least = sequential.least_divergence(mine, other, alpha)
    value = sequential.likely_divergence(mine, other) if sum(mine) and sum(other) else None
    return _Measured(None, None, value, least, sum(mine))


def _loss(step: Step, reference: Pool, canary: Canary, alpha: float) -> _Measured:
    mine, other = step.canary.losses, step.stable.losses
    means = [losses.mean if losses.n else None for losses in (mine, other)]
    value = _difference(*means)
    if value is None:
        return _Measured(means[0], means[1], None, None, mine.n)
    away = sequential.mean_radius(mine, alpha / 2) + sequential.mean_radius(other, alpha / 2)
    return _Measured(means[0], means[1], value, max(value - away, -1.0), mine.n, min(value + away, 1.0))


def _difference(mine: float | None, other: float | None) -> float | None:
    return mine - other if mine is not None and other is not None else None


def _in_ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds


_MEASURES: dict[str, Callable[[Step, Pool, Canary, float], _Measured]] = {
    "max_error_rate": _errors,
    "max_p99_ms": _p99_ms,
    "max_p99_ratio": _p99_ratio,
    "max_divergence": _divergence,
    "max_loss_rise": _loss,
}
_SEEN = {
    "max_error_rate": "requests",
    "max_p99_ms": "requests",
    "max_p99_ratio": "requests",
    "max_divergence": "predictions",
    "max_loss_rise": "labels",
}
