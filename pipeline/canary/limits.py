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
    """Every limit that is set, in one step."""
    limits = {
        "max_error_rate": canary.max_error_rate,
        "max_p99_ms": canary.max_p99_ms,
        "max_p99_ratio": canary.max_p99_ratio,
        "max_divergence": canary.max_divergence,
        "max_loss_rise": canary.max_loss_rise,
    }
    wanted = {name: allowed for name, allowed in limits.items() if allowed is not None}
    alpha = (1 - canary.confidence) / (len(wanted) * len(canary.steps))
    reference = _reference(steps, step)
    return [_CHECKS[name](step, reference, canary, allowed, alpha) for name, allowed in wanted.items()]


def _reference(steps: Sequence[Step], step: Step) -> Pool:
    """The champion's requests: of the same step, or, where it gets none, of the last that had some."""
    earlier = [s.stable for s in steps if s.started < step.started and s.stable.requests]
    return earlier[-1] if step.percent >= 100 and earlier else step.stable


def _errors(step: Step, reference: Pool, canary: Canary, allowed: float, alpha: float) -> Check:
    mine, other = step.canary, reference
    least, _ = sequential.share_bounds(mine.errors, mine.requests, alpha / 2)
    _, most = sequential.share_bounds(other.errors, other.requests, alpha / 2)
    value, certain = _difference(mine.error_rate, other.error_rate), least - most
    return Check(
        limit="max_error_rate",
        percent=step.percent,
        allowed=allowed,
        canary=mine.error_rate,
        stable=other.error_rate,
        value=value,
        least=certain,
        seen=mine.requests,
        **_verdict(value, certain, allowed),
    )


def _p99_ms(step: Step, reference: Pool, canary: Canary, allowed: float, alpha: float) -> Check:
    least, _ = sequential.quantile_bounds(step.canary.latency, latency_edge, _P99, alpha)
    mine, other = (_in_ms(latency_quantile(pool, _P99)) for pool in (step.canary, reference))
    return Check(
        limit="max_p99_ms",
        percent=step.percent,
        allowed=allowed,
        canary=mine,
        stable=other,
        value=mine,
        least=1000 * least,
        seen=step.canary.answered,
        **_verdict(mine, 1000 * least, allowed),
    )


def _p99_ratio(step: Step, reference: Pool, canary: Canary, allowed: float, alpha: float) -> Check:
    least, _ = sequential.quantile_bounds(step.canary.latency, latency_edge, _P99, alpha / 2)
    _, most = sequential.quantile_bounds(reference.latency, latency_edge, _P99, alpha / 2)
    mine, other = (_in_ms(latency_quantile(pool, _P99)) for pool in (step.canary, reference))
    value = mine / other if mine is not None and other is not None else None
    certain = least / most
    # What is too short to matter is not held against it.
    matters = 1000 * least > canary.p99_floor_ms, mine is not None and mine > canary.p99_floor_ms
    return Check(
        limit="max_p99_ratio",
        percent=step.percent,
        allowed=allowed,
        canary=mine,
        stable=other,
        value=value,
        least=certain,
        seen=step.canary.answered,
        **_verdict(value if matters[1] else None, certain if matters[0] else None, allowed),
    )


def _divergence(step: Step, reference: Pool, canary: Canary, allowed: float, alpha: float) -> Check:
    mine, other = step.canary.predictions, step.stable.predictions
    least = sequential.least_divergence(mine, other, alpha)
    value = sequential.likely_divergence(mine, other) if sum(mine) and sum(other) else None
    return Check(
        limit="max_divergence",
        percent=step.percent,
        allowed=allowed,
        canary=None,
        stable=None,
        value=value,
        least=least,
        seen=sum(mine),
        **_verdict(value, least, allowed),
    )


def _loss(step: Step, reference: Pool, canary: Canary, allowed: float, alpha: float) -> Check:
    mine, other = step.canary.losses, step.stable.losses
    means = [losses.mean if losses.n else None for losses in (mine, other)]
    value = _difference(*means)
    away = sequential.mean_radius(mine, alpha / 2) + sequential.mean_radius(other, alpha / 2)
    least = None if value is None else max(value - away, -1.0)
    return Check(
        limit="max_loss_rise",
        percent=step.percent,
        allowed=allowed,
        canary=means[0],
        stable=means[1],
        value=value,
        least=least,
        most=None if value is None else min(value + away, 1.0),
        seen=mine.n,
        **_verdict(value, least, allowed),
    )


def _verdict(value: float | None, least: float | None, allowed: float) -> dict[str, bool]:
    """What a measured value and its certain least say of a limit."""
    broken = least is not None and least > allowed
    return {"broken": broken, "doubtful": not broken and value is not None and value > allowed}


def _difference(mine: float | None, other: float | None) -> float | None:
    return mine - other if mine is not None and other is not None else None


def _in_ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds


_CHECKS: dict[str, Callable[[Step, Pool, Canary, float, float], Check]] = {
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
