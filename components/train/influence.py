"""What new data does to what was known: a candidate beside a control that learned without them.

The influence of a group of examples by retraining, as Koh and Liang (2017, arXiv:1703.04730) define what they
approximate: the difference of the loss on held-out rows between a model trained with the group and one
trained without. The control starts where the candidate did and takes as many steps, on replayed examples.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras
import tensorflow as tf

from components import expression
from components.names import SPAN
from components.train import lesson
from components.train.carryover.warm_start import Started
from components.train.examples import heldout
from components.train.fit import fitting
from components.train.fit.callbacks import Arrays, assign
from components.train.fit.place import variables
from components.train.material import Material

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


def is_wanted(material: Material) -> bool:
    """Whether the influence of the new examples is to be measured, and can be."""
    wanted = material.config["poisoning"]["max_influence"] is not None
    return wanted and material.champion is not None and material.records.old_rows > 0


def measure(
    material: Material, started: Started, held: lesson.Importances, done: fitting.Lesson, start: Arrays
) -> dict[str, Any]:
    """What `influence.json` says: the candidate beside a control that learned from replayed examples.

    Args:
        material, held: of the candidate's training.
        started: whose model has been trained.
        done: the lesson that it was trained in.
        start: its variables before that.
    """
    control = material.build(material.state)
    assign(variables(control), start)
    parse = material.parser(started.model, lesson.is_regularized(material, started))
    alone = replace(
        done,
        epochs=1,
        steps=int(started.optimizer.iterations) - int(control[1].iterations),
        stream=functools.partial(material.replayed_batches, parse),
        max_seconds=None,
    )
    lesson.fit(material, started, held, control, alone)
    held_out = material.held_out()
    rows = slices(
        list(held_out.old.as_numpy_iterator()),
        heldout.draw([held_out.new]),
        material.config["poisoning"]["trusted"],
        material.graph.spec,
    )

    def loss_on(model: keras.Model) -> Callable[[Sequence[bytes]], float]:
        model.compile(loss=done.loss)
        loss, parse = heldout.HeldOutLoss(model), material.parser(model)
        return lambda some: loss(heldout.parsed(some, parse))

    return compare(rows, loss_on(started.model), loss_on(control[0]))
