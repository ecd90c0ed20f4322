"""Advance, hold or revert: from what was seen, and the limits. Reads and writes nothing.

A limit is broken when that is certain, not when it looks so: each limit has in each step a bound that holds
at all moments together (`sequential`), with an equal part of 1 - confidence. So a challenger that keeps to
all limits is turned back with probability 1 - confidence at most, over all steps, however often one looks.

Steps are judged one by one: within a step the two pools get their requests by chance and at the same time,
over steps they do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pipeline.canary.limits import Check, judge
from pipeline.canary.tally import Step
from pipeline.config.sections.canary import Canary

Action = Literal["hold", "advance", "promote", "revert"]


@dataclass(frozen=True)
class Decision:
    """What is to be done.

    Attributes:
        action: hold (stay at this step), advance (to the next), promote (after the last) or revert.
        reasons: why.
        checks: every limit in the present step, and those of earlier steps that are broken.
    """

    action: Action
    reasons: tuple[str, ...]
    checks: tuple[Check, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def decide(steps: Sequence[Step], canary: Canary, now: float) -> Decision:
    """What is to be done after a look.

    Args:
        steps: those begun, the present one last.
        canary: the limits.
        now: seconds since the epoch.
    """
    checks = [check for step in steps[:-1] for check in judge(steps, step, canary) if check.broken]
    checks += judge(steps, steps[-1], canary)
    broken = [check for check in checks if check.broken]
    if broken:
        return Decision("revert", tuple(check.describe() for check in broken), tuple(checks))
    waits = [*waits_for(steps[-1], canary, now), *(check.waits() for check in checks if check.doubtful)]
    if waits:
        return Decision("hold", tuple(waits), tuple(checks))
    last = steps[-1]
    done = f"{last.percent:g} % for {now - last.started:.0f} s, {last.canary.requests} requests"
    action: Action = "advance" if last.percent < 100 else "promote"
    blind = [check.limit for check in checks if not check.seen]
    but = f"; nothing was measured of {', '.join(blind)}" if blind else ""
    return Decision(action, (f"{done}: every limit is kept{but}",), tuple(checks))


def waits_for(step: Step, canary: Canary, now: float) -> list[str]:
    """What a step lacks before it may end."""
    lacks = []
    left = step.started + canary.step_seconds - now
    if left > 0:
        lacks.append(f"{left:.0f} of {canary.step_seconds:g} seconds are left")
    for name, seen, wanted in (
        ("requests", step.canary.requests, canary.step_requests),
        ("labels", step.canary.losses.n, canary.step_labels),
    ):
        if seen < wanted:
            lacks.append(f"{seen} of {wanted} {name} of the challenger's have come")
    together = step.canary.requests + step.stable.requests
    if lacks and together >= canary.step_requests and (step.canary.keys | step.stable.keys).bit_count() == 1:
        lacks.append(f"all {together} requests have one key, or one address: send {canary.key_header}")
    return lacks
