"""What there is to learn: the spans on disk, less what is known, in runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from components.errors import RetrainError
from components.promote.registry import Version
from pipeline.config import Data


@dataclass(frozen=True)
class Pending:
    """What a deployment has not learned yet.

    Attributes:
        spans: the spans to learn, ascending.
        set_aside: span -> why it is left out.
    """

    spans: tuple[int, ...]
    set_aside: Mapping[int, str]


def find_spans(data: Data) -> dict[int, list[Path]]:
    """Every span on disk with its files, both ascending; a span's folder may be empty.

    Files and folders whose name begins with a dot or an underscore, or ends with .tmp, are left
    alone: they are being written.

    Raises:
        RetrainError: the folder is missing, or two names stand for one span.
    """
    before, _, after = data.pattern.partition("{SPAN}")
    head, _, tail = before.rpartition("/")
    name, _, rest = after.partition("/")
    parent = data.path / head
    if not parent.is_dir():
        raise RetrainError(
            f"data.path: no folder {parent}. Put the spans into {data.path}, as {data.pattern} "
            "(`retrain split` makes them of a table with a time column)"
        )
    pattern = re.compile(re.escape(tail) + r"(\d+)" + re.escape(name).replace(r"\*", "[^/]*"))
    found: dict[int, list[Path]] = {}
    names: dict[int, str] = {}
    for entry in sorted(parent.iterdir()):
        match = pattern.fullmatch(entry.name)
        if not match or _unfinished(entry.name) or entry.is_dir() != bool(rest):
            continue
        span = int(match[1])
        if span in names and (rest or "*" not in name):
            raise RetrainError(
                f"span {span} is there twice: {names[span]} and {entry.name} in {parent}; remove one"
            )
        names[span] = entry.name
        files = sorted(entry.glob(rest)) if rest else [entry]
        found.setdefault(span, []).extend(
            f for f in files if f.is_file() and not any(map(_unfinished, f.relative_to(parent).parts))
        )
    return dict(sorted(found.items()))


def _unfinished(name: str) -> bool:
    return name[0] in "._" or name.endswith(".tmp")


def pending(
    spans: Iterable[int],
    champion: Version | None,
    versions: Sequence[Version],
    retry: bool,
    until: int | None,
) -> Pending:
    """The spans after the champion's watermark, without those that were set aside.

    A span is set aside when a version that learned it was rejected by the gate or rolled back:
    learning it again with the same data would end in the same place, and bring back what was rolled
    back.

    Args:
        spans: what is on disk.
        champion: the served version.
        versions: all versions.
        retry: learn what was set aside, too.
        until: the last span to learn.
    """
    watermark = champion.watermark if champion else -1
    reasons: dict[int, str] = {}
    for version in versions:
        why = version.set_aside or (
            "" if version.blessed else f"version {version.number} was rejected by the gate"
        )
        if why:
            reasons |= dict.fromkeys(version.spans, why)
    after = [span for span in sorted(spans) if span > watermark and (until is None or span <= until)]
    left_out = {} if retry else {span: reasons[span] for span in after if span in reasons}
    return Pending(tuple(span for span in after if span not in left_out), left_out)


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
