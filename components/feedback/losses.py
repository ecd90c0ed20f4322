"""How wrong a version was, prediction by prediction, as labels come in: what a canary is judged by.

The loss of one prediction is between 0 (right) and 1, so that tests for bounded means apply:

- binary: the Brier score, (p - y)^2, of the probability p of class 1 (Brier, 1950);
- multiclass: 1 less the probability of the true class; 1 where the model does not know it;
- regression: |prediction - label| in standard deviations of the label, at most 1; of the logarithms
  log(1 + y) where these are learned.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from components.errors import RetrainError
from components.expression import parse
from components.feedback.join import LabelRow
from components.feedback.log import Logged, Value, read
from components.feedback.records import Cursor
from components.label import Label

MAX_WAITING = 1_000_000
"""Most predictions, and most labels, that wait for each other; the oldest go."""


@dataclass(frozen=True)
class Judged:
    """One prediction whose label is known.

    Attributes:
        version: that answered.
        time: when, in unix seconds.
        loss: how wrong it was, from 0 to 1.
    """

    version: int
    time: float
    loss: float


@dataclass
class Losses:
    """The losses of what was answered, as the labels come; each call reads only what is new.

    Predictions and labels find each other as `join.match` has it, and wait for each other in memory.

    Args:
        folder: of the prediction log.
        label: what is predicted.
        since: predictions from this time on, in unix seconds.
        model: only this one's; None: any.
        columns: name in a request to `serving_raw` -> raw column, where these differ.
        window: a label that comes later than this after its prediction does not count, in seconds.
        scale: of a regression: the standard deviation of the label, or of its logarithm where that is
            learned (`components.label.LabelState.scale`).

    Attributes:
        cursor: counts what of the log could not be read.
        late: labels that came too late.
        unlabelled: labels that lack a column that the label is made of, or have no such value.
    """

    folder: Path
    label: Label
    since: float = 0.0
    model: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    window: float = 7 * 86_400.0
    scale: float = 1.0
    cursor: Cursor = field(default_factory=Cursor)
    late: int = 0
    unlabelled: int = 0
    _asked: dict[str, Logged] = field(default_factory=dict, repr=False)
    _given: dict[str, LabelRow] = field(default_factory=dict, repr=False)
    _done: dict[str, None] = field(default_factory=dict, repr=False)

    def new(self, labels: Iterable[LabelRow] = ()) -> list[Judged]:
        """The predictions whose label is known since the last call.

        Args:
            labels: those that are new; one that was given before does not count again.

        Raises:
            RetrainError: the label's expression does not fit the values.
        """
        touched: dict[str, None] = {}
        for row in self._read():
            if row.key and row.key not in self._done:
                self._asked.setdefault(row.key, row)
                touched[row.key] = None
        for given in labels:
            if given.key not in self._done:
                self._given.setdefault(given.key, given)
                touched[given.key] = None
        pairs = [
            (self._asked.pop(key), self._given.pop(key))
            for key in touched
            if key in self._asked and key in self._given
        ]
        self._done.update((asked.key, None) for asked, _ in pairs)
        for waiting in (self._asked, self._given, self._done):
            for key in list(waiting)[: max(0, len(waiting) - MAX_WAITING)]:
                del waiting[key]  # type: ignore[attr-defined]
        return self._judge(pairs)

    def _read(self) -> Iterator[Logged]:
        """What is new in the log, with no more of the inputs than the label is made of."""
        of_label = parse(self.label.expression).columns if self.label.expression else ()
        rows = read(
            self.folder,
            self.since,
            model=self.model,
            columns=self.columns,
            inputs=bool(of_label),
            cursor=self.cursor,
        )
        for row in rows:
            yield replace(row, inputs={name: row.inputs.get(name) for name in of_label})

    def _judge(self, pairs: Sequence[tuple[Logged, LabelRow]]) -> list[Judged]:
        in_time = [pair for pair in pairs if pair[1].time - pair[0].time <= self.window]
        self.late += len(pairs) - len(in_time)
        truths = label_values(self.label, [{**row.inputs, **given.values} for row, given in in_time])
        judged = []
        for (row, _), truth in zip(in_time, truths, strict=True):
            wrong = None if truth is None else loss(self.label, row, truth, self.scale)
            if wrong is None:
                self.unlabelled += 1
            else:
                judged.append(Judged(row.version, row.time, wrong))
        return judged


def losses(folder: Path, labels: Iterable[LabelRow], label: Label, **options: Any) -> list[Judged]:
    """The losses of all predictions in a log whose label is among `labels`; options are those of `Losses`."""
    return Losses(folder, label, **options).new(labels)


def loss(label: Label, row: Logged, truth: float | str, scale: float) -> float | None:
    """How wrong a prediction was, from 0 to 1; None where the label is none of the task.

    >>> binary = Label(name="late")
    >>> loss(binary, Logged("k", 0.0, 1, {}, prediction=0.9), truth=1.0, scale=1.0)
    0.009999999999999998
    """
    match label.task:
        case "multiclass":
            right = (row.scores or {str(row.prediction): 1.0}).get(str(truth), 0.0)
            return min(1.0, max(0.0, 1.0 - right))
        case "binary":
            return (float(row.prediction) - float(truth)) ** 2 if truth in (0, 1) else None
    predicted, true = float(row.prediction), float(truth)
    if label.log:
        if min(predicted, true) <= -1.0:
            return None if true <= -1.0 else 1.0
        predicted, true = math.log1p(predicted), math.log1p(true)
    return min(1.0, abs(predicted - true) / scale) if math.isfinite(predicted) else 1.0


def label_values(label: Label, rows: Sequence[Mapping[str, Value]]) -> list[float | str | None]:
    """The label of each row, made of its raw columns; None where one of them is missing or a list.

    Raises:
        RetrainError: the label's expression does not fit the columns' types.
    """
    columns = parse(label.expression).columns if label.expression else (label.name,)
    whole = [i for i, row in enumerate(rows) if all(_is_plain(row.get(name)) for name in columns)]
    values: list[Any] = [None] * len(rows)
    if not whole:
        return values
    cells = {name: [_text(rows[i][name]) for i in whole] for name in columns}
    found = cells[label.name] if label.expression is None else _computed(label.expression, cells)
    for i, value in zip(whole, found, strict=True):
        values[i] = str(value) if label.task == "multiclass" else _number(value)
    return values


def _computed(expression: str, cells: Mapping[str, list[Any]]) -> list[Any]:
    import pyarrow as pa

    try:
        arrays = {name: pa.array(values) for name, values in cells.items()}
    except pa.ArrowInvalid as error:
        raise RetrainError(
            f"expression {expression!r}: a column holds text and numbers ({error}); mend the labels"
        ) from None
    return list(parse(expression).evaluate(arrays).to_pylist())


def _is_plain(value: Value) -> bool:
    return value is not None and not isinstance(value, list)


def _text(value: Any) -> Any:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def _number(value: Any) -> float | None:
    return None if value is None or isinstance(value, str) else float(value)
