"""`retrain rollback`: an older version is served again, and what was learned since is set aside."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from components.errors import RetrainError
from components.promote.registry import Version, lineage
from pipeline.champion import check_servable, confirm_servers, open_registry, promote
from pipeline.config import Deployment
from pipeline.spans.pattern import spans_text


@dataclass(frozen=True)
class Rollback:
    """What a rollback did.

    Attributes:
        left: the version that was served.
        served: the version that is served now.
        reason: of the person.
        spans: what only the versions left behind had learned, ascending.
        set_aside: whether these spans are not to be learned again.
        challenger: the version that was under test and is not any more, as it came from what was left.
    """

    left: Version
    served: Version
    reason: str
    spans: tuple[int, ...]
    set_aside: bool
    challenger: int | None

    def to_json(self) -> dict[str, Any]:
        """What `retrain rollback --json` says."""
        return {
            "served": self.served.number,
            "left": self.left.number,
            "reason": self.reason,
            "set_aside": list(self.spans) if self.set_aside else [],
            "to_learn_again": [] if self.set_aside else list(self.spans),
            "challenger_left": self.challenger,
        }

    def describe(self) -> str:
        """The same for a person."""
        left, served = self.left.number, self.served.number
        told = f"version {served} is served in place of {left}; the next run starts from it"
        if self.spans and self.set_aside:
            told += (
                f". What had been learned since is set aside: span {spans_text(self.spans)} (`retrain run "
            )
            told += "--retry` learns it again)"
        elif self.spans:
            told += f", and learns span {spans_text(self.spans)} again, which makes the same model unless "
            told += "data or configuration change"
        if self.challenger is not None:
            told += f". Version {self.challenger} is no challenger any more: it came from version {left}"
        return told


def rollback(
    deployment: Deployment,
    number: int | None,
    reason: str,
    on_step: Callable[[str], None] = lambda _: None,
    *,
    keep_spans: bool = False,
    force: bool = False,
) -> Rollback:
    """Moves the alias back, and sets the spans aside that only what is rolled back had learned.

    Args:
        deployment: the configuration.
        number: the version to go back to; None: the champion's parent.
        reason: kept with the versions that are rolled back.
        on_step: told what begins.
        keep_spans: the next run learns the spans again, from the older version.
        force: as for `promote`.

    Raises:
        RetrainError: nothing is served, there is nothing to go back to, or what there is is not to be served.
    """
    registry = open_registry(deployment)
    champion = registry.champion()
    if champion is None:
        raise RetrainError("rollback: no version is served yet; `retrain run` makes the first one")
    goal = _goal(champion, number)
    target, versions, challenger = registry.get(goal), registry.versions(), registry.challenger()
    check_servable(registry, target, force, "rollback")
    confirm_servers(deployment, target, on_step)  # where they refuse, nothing is marked
    kept = {version.number for version in lineage(versions, goal)}
    left = [version for version in lineage(versions, champion.number) if version.number not in kept]
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime())
    # Before the alias: killed in between, the spans of the champion's own line count as learned.
    for version in left:
        why = f"version {version.number} was rolled back on {when}: {reason}"
        registry.tag(version.number, rolled_back=why, set_aside="" if keep_spans else why)
    told = f"rolled back from version {champion.number}: {reason}"
    promote(deployment, goal, on_step, why=told, force=force)
    learned = {span for version in lineage(versions, goal) for span in version.spans}
    spans = tuple(sorted({span for version in left for span in version.spans} - learned))
    turned = challenger.number if challenger and registry.challenger() is None else None
    return Rollback(champion, target, reason, spans, not keep_spans, turned)


def _goal(champion: Version, number: int | None) -> int:
    """The version that a rollback goes to."""
    goal = champion.parent if number is None else number
    if goal is None:
        raise RetrainError(
            f"rollback: version {champion.number} was a cold start and has no parent; name the "
            "version to serve (`retrain history`)"
        )
    if goal == champion.number:
        raise RetrainError(
            f"rollback: version {goal} is the one that is served; name another (`retrain history`)"
        )
    return goal
