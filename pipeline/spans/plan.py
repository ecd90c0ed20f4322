"""What there is to learn: the spans on disk, less what is known, in runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from components.errors import RetrainError
from components.promote.registry import Version, lineage

_NEVER = {"when": -math.inf}


@dataclass(frozen=True)
class Pending:
    """What of the spans on disk is not learned.

    Attributes:
        spans: the spans to learn, ascending.
        set_aside: span -> why it is left out.
        late: spans that came when the champion had learned later ones; only learned when asked for.
    """

    spans: tuple[int, ...]
    set_aside: Mapping[int, str]
    late: tuple[int, ...] = ()


def learned(versions: Iterable[Version], champion: Version | None) -> dict[int, Version]:
    """Every span that the champion or an ancestor learned -> the one of them that learned it last."""
    line = lineage(versions, champion.number if champion else None)
    return {span: version for version in reversed(line) for span in version.spans}


def pending(
    spans: Iterable[int],
    champion: Version | None,
    versions: Sequence[Version],
    retry: bool,
    until: int | None,
    quarantined: Mapping[int, str] = MappingProxyType({}),
    released: Mapping[int, Mapping[str, Any]] = MappingProxyType({}),
    second_attempts: bool = False,
) -> Pending:
    """The spans that the champion's line has not learned, sorted by what is to become of them.

    A span is set aside when a version that learned it was rejected by the gate or rolled back:
    learning it again with the same data would end in the same place, and bring back what was rolled
    back. It is set aside, too, when it is in quarantine. A person who releases a span takes back whatever had
    set it aside until then. A span that nobody learned is late when the champion's watermark has passed it.

    Args:
        spans: what is on disk.
        champion: the served version.
        versions: all versions.
        retry: learn what was set aside, too.
        until: the last span to learn.
        quarantined: span -> why it looks poisoned, as the registry tells it.
        released: span -> `when` a person released it, as the registry tells it.
        second_attempts: what was rejected for forgetting alone is tried once more.
    """
    watermark = champion.watermark if champion else -1
    reasons = dict(quarantined)
    for version in versions:
        why = version.set_aside or _rejection(version)
        if second_attempts and not version.set_aside and _half_done(version, champion, versions):
            why = ""
        if why:
            since = (span for span in version.spans if version.created > released.get(span, _NEVER)["when"])
            reasons |= dict.fromkeys(since, why)
    known = learned(versions, champion)
    unknown = [span for span in sorted(spans) if span not in known and (until is None or span <= until)]
    looked_at = reasons.keys() | released.keys()
    late = tuple(span for span in unknown if span <= watermark and span not in looked_at)
    left_out = {} if retry else {span: reasons[span] for span in unknown if span in reasons}
    return Pending(
        tuple(span for span in unknown if span not in left_out and span not in late), left_out, late
    )


def _rejection(version: Version) -> str:
    """Why the gate keeps others from learning what a version learned; a shadow learned nothing new."""
    if version.blessed or version.kind == "shadow":
        return ""
    reasons = version.record.get("gate", {}).get("reasons", [])
    # That the data harms what is known says most of the data.
    reasons = [why for why in reasons if "max_influence" in why] or reasons
    return f"version {version.number} was rejected by the gate" + (f": {reasons[0]}" if reasons else "")


def _half_done(version: Version, champion: Version | None, versions: Sequence[Version]) -> bool:
    """Whether a second attempt was to follow a rejected version, and its process was killed before."""
    if not _only_forgot(version) or version.parent != (champion.number if champion else None):
        return False
    return not any(
        (other.parent, other.spans, other.fingerprint) == (version.parent, version.spans, version.fingerprint)
        and other.record.get("attempt", {}).get("number") == 2
        for other in versions
    )


def _only_forgot(version: Version) -> bool:
    first = version.record.get("attempt", {}).get("number") == 1
    return first and bool(version.record.get("gate", {}).get("only_forgetting"))


def asked_for(
    span: int, known: Mapping[int, Version], found: Pending, again: bool, changed: bool
) -> tuple[int, ...]:
    """The run of a person who names one span: that span, or nothing where nothing is left to do.

    Args:
        span: that is on disk.
        known: as `learned` gives it.
        found: what is pending.
        again: learn it although it is learned.
        changed: its files are not those that were learned, or it shall be learned all the same.

    Raises:
        RetrainError: it is learned and changed, and `again` was not said.
    """
    if span in found.set_aside:
        return ()
    if span not in known:
        return (span,)
    if changed and not again:
        raise RetrainError(
            f"--span {span}: version {known[span].number} learned it already; add --again to learn it again"
        )
    return (span,) if changed else ()


def watermark(
    champion: Version | None, known: Iterable[int], spans: Iterable[int], waiting: Iterable[int]
) -> int:
    """Up to where nothing waits any more, when `spans` are learned; it never falls.

    What is learned beyond a span that still waits does not count: that span would be late otherwise.

    Args:
        champion: what the run starts from.
        known: what its line has learned.
        spans: of the run.
        waiting: what is pending, the run's own spans included or not.

    >>> watermark(None, [], [3], waiting=[1, 2, 3]), watermark(None, [3], [1, 2], waiting=[])
    (-1, 3)
    """
    spans = set(spans)
    first = min(set(waiting) - spans, default=None)
    done = (span for span in spans | set(known) if first is None or span < first)
    return max([champion.watermark if champion else -1, *done])


def next_run(waiting: Sequence[int], skipped: int, together: bool) -> tuple[int, ...]:
    """The spans of the next run.

    Args:
        waiting: pending spans, ascending, at least one.
        skipped: how many of them, from the first, were looked at and gave no reason to train.
        together: all at once.

    Returns:
        The skipped spans and one more, so that nothing that was skipped is lost.

    >>> next_run([4, 5, 6], 0, together=False), next_run([4, 5, 6], 1, together=False)
    ((4,), (4, 5))
    """
    return tuple(waiting) if together else tuple(waiting[: skipped + 1])
