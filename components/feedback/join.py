"""Labels that come later, joined with the predictions that they belong to.

What becomes of the predictions and the labels of one key is one pure function, `match`; `retrain feedback`
applies it to a whole log in Beam, and `Losses` to what is new, for who watches a canary.

- A key is of one row. Where it comes several times in the log, as when a client asks again, the first
  prediction counts.
- The first label of a key counts, by its time and then in the order of the files: what is in a span cannot
  be taken back, and the result does not depend on how often the command runs.
- A label is late that comes more than the window after its prediction, and so is one whose prediction has
  been counted as expired. One without a prediction waits for it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from components.feedback.log import Logged, Value


@dataclass(frozen=True)
class LabelRow:
    """A row of the labels.

    Attributes:
        key: of the row that was predicted.
        time: of the label, in unix seconds.
        values: raw column -> value.
        seen: when a command first read it, in unix seconds.
        file, line: where it stands.
    """

    key: str
    time: float
    values: Mapping[str, Value]
    seen: float
    file: str
    line: int

    @property
    def id(self) -> str:
        """The same for the same row of the same file, whenever it is read."""
        values = sorted((name, value) for name, value in self.values.items() if value is not None)
        text = repr((self.file, self.line, self.key, values))
        return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Done:
    """What is remembered of a key that was joined.

    Attributes:
        key: of the row.
        time: of its prediction, in unix seconds.
        label: id of its label.
    """

    key: str
    time: float
    label: str


@dataclass(frozen=True)
class Clock:
    """What time it is for a join, in unix seconds.

    Attributes:
        now: the present.
        window: the longest time from a prediction to its label.
        wait: how long a label waits for its prediction, from when it was seen.
        horizon: predictions up to then were counted as expired before.
    """

    now: float
    window: float
    wait: float
    horizon: float = 0.0


@dataclass
class Match:
    """What becomes of one key.

    Attributes:
        joined: the prediction and its label.
        waiting: the label that waits for its prediction.
        counts: of rows: joined, waiting_labels, waiting_predictions, expired, late, duplicates, repeated,
            unknown.
    """

    joined: tuple[Logged, LabelRow] | None = None
    waiting: LabelRow | None = None
    counts: Counter[str] = field(default_factory=Counter)


COUNTS = {
    "joined": "rows joined",
    "waiting_labels": "labels that wait for their prediction",
    "waiting_predictions": "predictions that wait for their label",
    "expired": "predictions whose label has not come in time",
    "late": "labels that came too late",
    "duplicates": "labels of a key that had one",
    "repeated": "predictions of a key that had one",
    "unknown": "labels whose prediction is not in the log",
    "keyless": "predictions without a key",
}
"""What is counted, in words."""


def match(
    predictions: Iterable[Logged], labels: Iterable[LabelRow], done: Done | None, clock: Clock
) -> Match:
    """What becomes of the predictions and labels of one key.

    Args:
        predictions: in the log.
        labels: that were read now, or wait.
        done: it was joined before.
        clock: what time it is.
    """
    found = Match()
    asked = sorted(predictions, key=lambda one: one.time)
    given = _once(labels)
    if done is not None:
        found.counts["duplicates"] = sum(label.id != done.label for label in given)
        return found
    still_open = [one for one in asked if one.time > clock.horizon]
    if given:
        found.counts["duplicates"] = len(given) - 1
        _settle(found, asked, still_open, given[0], clock)
    if still_open:
        found.counts["repeated"] = len(still_open) - 1
    if still_open and found.joined is None:
        over = still_open[0].time <= clock.now - clock.window
        found.counts["expired" if over else "waiting_predictions"] = 1
    return found


def _once(labels: Iterable[LabelRow]) -> list[LabelRow]:
    """In order, the same row read twice but once: a file that has grown is read again."""
    rows: dict[str, LabelRow] = {}
    for label in sorted(labels, key=lambda label: (label.time, label.seen, label.file, label.line)):
        rows.setdefault(label.id, label)
    return list(rows.values())


def _settle(
    found: Match, asked: Sequence[Logged], still_open: Sequence[Logged], label: LabelRow, clock: Clock
) -> None:
    """What becomes of the label that counts."""
    in_time = [one for one in still_open if label.time - one.time <= clock.window]
    if in_time:
        found.joined = in_time[0], label
        found.counts["joined"] = 1
    elif asked:
        found.counts["late"] = 1
    elif clock.now - label.seen <= clock.wait:
        found.waiting = label
        found.counts["waiting_labels"] = 1
    else:
        found.counts["unknown"] = 1
