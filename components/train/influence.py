"""What new data does to what was known: a candidate beside a control that learned without them.

The influence of a group of examples by retraining, as Koh and Liang (2017, arXiv:1703.04730) define what they
approximate: the difference of the loss on held-out rows between a model trained with the group and one
trained without. The control starts where the candidate did and takes as many steps, on replayed examples.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from components import expression
from components.names import SPAN

INFLUENCE = "influence.json"
PAST, TRUSTED = "past", "trusted"


def slices(
    past: Sequence[bytes], new: Sequence[bytes], trusted: str | None, spec: Mapping[str, Any]
) -> dict[str, list[bytes]]:
    """Held-out rows by what they tell: `past`, `span=3` of each past span, and `trusted`.

    Args:
        past, new: serialized examples of past and of new spans.
        trusted: an expression that holds for rows whose labels are known to be good, past or new.
        spec: raw column -> how it is parsed, sparse.
    """
    found: dict[str, list[bytes]] = {PAST: list(past)}
    of_span = defaultdict(list)
    spans = tf.io.parse_example(tf.constant(past, tf.string), {SPAN: tf.io.FixedLenFeature([], tf.int64)})
    for row, span in zip(past, spans[SPAN].numpy().tolist(), strict=True):
        of_span[span].append(row)
    found |= {f"span={span}": of_span[span] for span in sorted(of_span)}
    if trusted:
        rows = [*past, *new]
        found[TRUSTED] = [row for row, holds in zip(rows, _holds(rows, trusted, spec), strict=True) if holds]
    return {name: rows for name, rows in found.items() if rows}


def _holds(rows: Sequence[bytes], condition: str, spec: Mapping[str, Any]) -> list[bool]:
    import pyarrow as pa

    wanted = expression.parse(condition)
    columns = {}
    parsed = tf.io.parse_example(tf.constant(rows, tf.string), {n: spec[n] for n in wanted.columns})
    for name, sparse in parsed.items():
        values: list[Any] = [None] * len(rows)
        for (row, place), value in zip(sparse.indices.numpy(), sparse.values.numpy(), strict=True):
            if place == 0:
                values[row] = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
        kind = {tf.string: pa.string(), tf.int64: pa.int64()}.get(spec[name].dtype, pa.float64())
        columns[name] = pa.array(values, kind)
    return [value == 1 for value in wanted.evaluate(columns).to_pylist()]


def compare(
    rows: Mapping[str, Sequence[bytes]],
    candidate: Callable[[Sequence[bytes]], float],
    control: Callable[[Sequence[bytes]], float],
) -> dict[str, Any]:
    """What `influence.json` says.

    Args:
        rows: slice -> its rows.
        candidate, control: rows -> mean loss.
    """
    return {
        "metric": "loss",
        "slices": {
            name: {"with": candidate(some), "without": control(some), "examples": len(some)}
            for name, some in rows.items()
        },
    }
