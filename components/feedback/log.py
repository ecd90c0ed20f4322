"""The prediction log, row by row: who asked, what with, which version answered, and what.

Written by the embedded server (`serving/prediction_log.py`), or by any TensorFlow Serving whose request log
has `predict_log` records. Reading takes no TensorFlow, and goes on while the log is written and rotated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from components.feedback import wire
from components.feedback.records import Cursor, new_records
from components.names import CLASSES, MISSING_INT, PREDICTIONS, SCORES

Value = int | float | bytes | list[int] | list[float] | list[bytes] | None
"""Of one column in one row: None where it is missing, a list where there are several."""

_EXAMPLES = frozenset({"serving_default", "classify", "regress"})
"""Signatures that take serialized tf.Examples; the others take one tensor a column."""
_BINARY = [b"0", b"1"]  # classes of a binary model's `classify`
_REGRESSED = "outputs"  # of `regress`


@dataclass(frozen=True)
class Logged:
    """One row of one request that was answered.

    Attributes:
        key: of the row; empty where the request had none.
        time: when it was answered, in unix seconds.
        version: that answered.
        inputs: by raw column; empty where they were not asked for. A float32 is read as the shortest decimal
            that stands for it, so that 7.45 is 7.45 again, and not 7.449999809265137.
        prediction: a probability, a class, or a number in the label's unit.
        scores: class -> its probability, where the answer had them.
    """

    key: str
    time: float
    version: int
    inputs: Mapping[str, Value]
    prediction: float | str
    scores: Mapping[str, float] | None = None


def read(
    folder: Path,
    since: float = 0.0,
    *,
    model: str | None = None,
    columns: Mapping[str, str] = MappingProxyType({}),
    inputs: bool = True,
    cursor: Cursor | None = None,
    only: str | None = None,
) -> Iterator[Logged]:
    """The rows of a log, oldest file first.

    Args:
        folder: of the log; without it there are no rows.
        since: rows answered before the second of this time are left out, in unix seconds.
        model: only this one's; None: any.
        columns: name in a request to `serving_raw` -> raw column, where these differ.
        inputs: whether they are wanted; without them it is quicker.
        cursor: where the last call with it has ended, so that only what is new is read. It counts what
            could not be read; None: from the beginning.
        only: the one file to read, by its name once it is closed; None: all.
    """
    from google.protobuf.message import DecodeError

    cursor = Cursor() if cursor is None else cursor
    for record in new_records(folder, cursor, since, only):
        try:
            message = wire.message("PredictionLog").FromString(record)
            if not _wanted(message, since, model):
                continue
            answers = _answers(message.predict_log.response.outputs)
            asked = _inputs(message, len(answers), columns) if inputs and answers else [{}] * len(answers)
        except (DecodeError, ValueError, KeyError):
            cursor.corrupt += 1
            continue
        cursor.other += not answers
        metadata, answered = message.log_metadata, message.predict_log.response.model_spec
        version = answered.version.value or metadata.model_spec.version.value
        keys = row_keys(metadata.request_origin, len(answers))
        for key, given, (prediction, scores) in zip(keys, asked, answers, strict=True):
            yield Logged(key, float(metadata.timestamp_secs), version, given, prediction, scores)


def row_keys(key: str, rows: int) -> list[str]:
    """The keys of the rows of a request.

    >>> row_keys("a7", 1), row_keys("a7", 2), row_keys("a7, b8", 2), row_keys("", 2)
    (['a7'], ['a7/0', 'a7/1'], ['a7', 'b8'], ['', ''])
    """
    if not key or rows == 1:
        return [key] * rows
    parts = [part.strip() for part in key.split(",")]
    return parts if len(parts) == rows and all(parts) else [f"{key}/{row}" for row in range(rows)]


def _wanted(message: Any, since: float, model: str | None) -> bool:
    name = message.log_metadata.model_spec.name or message.predict_log.request.model_spec.name
    return (model is None or name == model) and message.log_metadata.timestamp_secs >= math.floor(since)


def _answers(outputs: Any) -> list[tuple[float | str, dict[str, float] | None]]:
    """(prediction, scores) of every row; empty where the outputs are no predictions of a label."""
    scored: list[dict[str, float]] = []
    if CLASSES in outputs and SCORES in outputs:
        classes, scores = wire.to_array(outputs[CLASSES]).tolist(), wire.to_array(outputs[SCORES]).tolist()
        scored = [
            {name.decode(): score for name, score in zip(*row, strict=True)}
            for row in zip(classes, scores, strict=True)
        ]
    if PREDICTIONS in outputs or _REGRESSED in outputs:
        values = wire.to_array(outputs[PREDICTIONS if PREDICTIONS in outputs else _REGRESSED])
        plain = values.reshape(values.shape[0], -1)[:, 0].tolist()
        predictions = [value.decode() if isinstance(value, bytes) else value for value in plain]
        of_each: list[Any] = scored or [None] * len(predictions)
        return list(zip(predictions, of_each, strict=True))
    if scored and all(row == _BINARY for row in classes):
        return [(row["1"], row) for row in scored]
    return [(max(row, key=lambda name: row[name]), row) for row in scored]


def _inputs(message: Any, rows: int, columns: Mapping[str, str]) -> list[dict[str, Value]]:
    """Raw column -> value, of every row."""
    request = message.predict_log.request
    signature = message.log_metadata.model_spec.signature_name or request.model_spec.signature_name
    arrays = {name: wire.to_array(tensor) for name, tensor in request.inputs.items()}
    if (signature or "serving_default") in _EXAMPLES:
        (serialized,) = arrays.values()
        found = [_of_example(one) for one in serialized.ravel().tolist()]
    else:
        values = [_column(array) for array in arrays.values()]
        names = [columns.get(name, name) for name in arrays]
        found = [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]
    if len(found) != rows:
        raise ValueError(f"{len(found)} rows were asked, and {rows} answered")
    return found


def _column(array: np.ndarray) -> list[Value]:
    """The value of every row of a tensor, [rows] or [rows, values]."""
    if array.dtype == np.float32:
        array = array.astype(np.str_).astype(np.float64)
    if array.ndim == 1:
        return [None if _is_missing(value) else value for value in array.tolist()]
    lists = array.reshape(len(array), -1).tolist()
    return [_one_or_all([value for value in row if not _is_missing(value)]) for row in lists]


def _of_example(serialized: bytes) -> dict[str, Value]:
    features = wire.message("Example").FromString(serialized).features.feature
    kept: dict[str, Value] = {}
    for name, feature in features.items():
        for kind in ("float_list", "int64_list", "bytes_list"):
            if feature.HasField(kind):
                values = getattr(feature, kind).value
                values = map(_shortest, values) if kind == "float_list" else values
                kept[name] = _one_or_all([value for value in values if not _is_missing(value)])
    return kept


def _shortest(value: float) -> float:
    return float(str(np.float32(value)))


def _one_or_all(values: list[Any]) -> Value:
    if not values:
        return None
    return values[0] if len(values) == 1 else values


def _is_missing(value: Any) -> bool:
    """Whether it stands for a missing one in a request: NaN, an empty text, or `MISSING_INT`."""
    return value in (b"", MISSING_INT) or (isinstance(value, float) and math.isnan(value))
