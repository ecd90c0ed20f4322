"""What one call of `retrain feedback` came to."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.feedback.join import COUNTS
from components.feedback.records import Cursor
from pipeline.feedback.ledger import NewSpan


@dataclass(frozen=True)
class Summary:
    """What one call came to.

    Attributes:
        counts: as `components.feedback.join.COUNTS` names them.
        bad: reason -> how many rows of the labels cannot be used for it.
        log: records that could not be read: `torn`, `corrupt`, and `other`, which are no predictions.
        read, known: how many files of labels were read, and how many had been before.
        span: that was written, or would be; None: no row waits, or too few do.
        rows_waiting: joined rows that are in no span yet.
        why: they wait.
        quarantine: the file with the rows that cannot be used; None: there is none.
        finished: a span that an earlier call had decided on, and that this one has put into its place.
        dry: whether nothing was written.
    """

    counts: dict[str, int]
    bad: dict[str, int]
    log: dict[str, int]
    read: int
    known: int
    span: NewSpan | None
    rows_waiting: int
    why: str
    quarantine: Path | None
    finished: NewSpan | None
    dry: bool

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "quarantine": str(self.quarantine) if self.quarantine else None}


def summarize(
    counts: Counter[str],
    read: int,
    known: int,
    span: NewSpan | None,
    waiting: int,
    why: str,
    quarantine: Path | None,
    dry: bool,
) -> Summary:
    """What a call came to, of what it counted."""
    prefix = "bad: "
    return Summary(
        counts={name: counts[name] for name in COUNTS},
        bad={name.removeprefix(prefix): count for name, count in counts.items() if name.startswith(prefix)},
        log={name: counts[name] for name in Cursor().to_json()},
        read=read,
        known=known,
        span=span,
        rows_waiting=waiting,
        why=why,
        quarantine=quarantine,
        finished=None,
        dry=dry,
    )
