"""What of a champion carries over to its successor, found from what the two know."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from components import features as feature_specs
from components import models
from components.features import Bucketized, Identity
from components.train.carryover import keys
from components.train.carryover.carry import Carry, is_kernel
from components.train.carryover.keys import Fold, Move
from components.train.model.blueprint import MISSING, VALUE, deep_table, layer_of, wide_table
from components.train.model.networks import first_layers
from components.train.model.state import TrainingState, redefined

Shapes = Mapping[str, tuple[int, ...]]


def plan(
    before: TrainingState,
    now: TrainingState,
    old_shapes: Shapes,
    shapes: Shapes,
    heads: Collection[str],
    new_terms: str,
) -> Carry:
    """What carries over, and how.

    Args:
        before, now: what the champion and the new model know.
        old_shapes, shapes: of their variables, by path.
        heads: variables whose last axis is the classes, where these are others now.
        new_terms: of the section `warm_start`.
    """
    others = redefined(before.features, now.features)
    rows = table_rows(before, now, new_terms)
    tables = {make(name): move for name, move in rows.items() for make in (wide_table, deep_table)}
    inputs, unknown = _input_rows(before, now, others, old_shapes, shapes)
    unknown |= {make(name) for name in others for make in (wide_table, deep_table)}
    classes = _classes(before, now)
    moves = {}
    for path in old_shapes.keys() & shapes.keys():
        layer, old, new = layer_of(path), old_shapes[path], shapes[path]
        found: dict[int, Move] = {}
        if layer in tables:
            found[0] = tables[layer]
        if path.startswith(deep_table("")) and path.endswith("/embeddings") and old[1] != new[1]:
            found[1] = keys.by_key(range(old[1]), range(new[1]))
        if layer in inputs and is_kernel(path):
            found[0] = inputs[layer][1]
        if classes is not None and path in heads:
            found[len(new) - 1] = classes
        if layer not in unknown and _fits(old, new, found):
            moves[path] = found
    folds = {layer: _fold(before, now, of_rows, move) for layer, (of_rows, move) in inputs.items()}
    return Carry(moves, folds, classes, shapes)


def table_rows(before: TrainingState, now: TrainingState, new_terms: str) -> dict[str, Move]:
    """Feature -> the rows of its tables, of those whose rows have keys: terms, values, buckets.

    Of the others - hashes, and parts of a time - a row stays where it is.
    """
    olds = {feature.name: feature for feature in feature_specs.from_json(before.features)}
    moves = {}
    for feature in feature_specs.from_json(now.features):
        name, old = feature.name, olds.get(feature.name)
        if old is None or old.type != feature.type:
            continue
        if feature.has_vocabulary:
            moves[name] = keys.by_term(
                before.vocabularies[name],
                old.oov_buckets,
                now.vocabularies[name],
                feature.oov_buckets,
                functools.partial(hash_bucket, buckets=old.oov_buckets),
                new_terms,
            )
        elif isinstance(feature, Identity):
            values, new_values = (range(spec.min, spec.max + 1) for spec in (old, feature))
            # What is out of range shares a row with what is missing.
            moves[name] = keys.by_term(values, 1, new_values, 1, lambda unknown: np.zeros(len(unknown), int))
        elif isinstance(feature, Bucketized):
            moves[name] = keys.by_mass(
                before.fit["buckets"][name], old.buckets, now.fit["buckets"][name], feature.buckets
            )
    return moves


def hash_bucket(terms: Sequence[str], buckets: int) -> np.ndarray:
    """The out-of-vocabulary bucket of each term, as TensorFlow Transform's graph assigns it."""
    encoded = tf.constant([term.encode("utf-8", "surrogateescape") for term in terms], tf.string)
    return tf.strings.to_hash_bucket_fast(encoded, buckets).numpy()


def _input_rows(
    before: TrainingState,
    now: TrainingState,
    others: Collection[str],
    old_shapes: Shapes,
    shapes: Shapes,
) -> tuple[dict[str, tuple[list[Any], Move]], set[str]]:
    """Layer -> the keys of its new rows, and their move; and the layers of which one model alone has keys."""
    layers = [
        first_layers(feature_specs.from_json(state.features), models.from_json(state.model))
        for state in (before, now)
    ]
    inputs = {}
    for layer in layers[0].keys() & layers[1].keys():
        path = f"{layer}/kernel"
        if path not in old_shapes or path not in shapes:  # no feature is a number
            continue
        old, new = (
            [*found[layer], *_behind(of[path][0] - len(found[layer]))]
            for found, of in zip(layers, (old_shapes, shapes), strict=True)
        )
        known = [(key, "of another feature") if key[0] in others else key for key in old]
        inputs[layer] = new, keys.by_key(known, new)
    return inputs, set(layers[0].keys() ^ layers[1].keys())


def _behind(rows: int) -> list[tuple[str, int, int]]:
    """The keys of the rows behind the features', a flattened image: those of another size are others."""
    return [("", rows, i) for i in range(rows)]


def _fold(before: TrainingState, now: TrainingState, of_rows: Sequence[Any], move: Move) -> Fold:
    ratio, shift, folded = np.ones(move.size), np.zeros(move.size), set()
    row_of = {key: row for row, key in enumerate(of_rows)}
    for row in np.flatnonzero(move.kept).tolist():
        key = of_rows[row]
        old, new = _moments(before, key), _moments(now, key)
        if old and new:
            ratio[row], shift[row] = keys.rescaling(old, new)
            folded.add(key[0])
    missing = {row: row_of[key[0], MISSING] for key, row in row_of.items() if key[1:] == (VALUE,)}
    return Fold(ratio, shift, missing, frozenset(folded))


def _moments(state: TrainingState, key: Sequence[Any]) -> tuple[float, float] | None:
    """Mean and scale of a number that a first layer takes; None where its row is no z-score."""
    name, *what = key
    if what == [VALUE]:
        fit = state.fit["numeric"][name]
        return fit["mean"], fit["scale"]
    if name in state.fit["tensor"] and len(what) == 1:
        fit = state.fit["tensor"][name]
        return fit["mean"][what[0]], fit["scale"][what[0]]
    return None


def _classes(before: TrainingState, now: TrainingState) -> Move | None:
    old, new = before.label["classes"], now.label["classes"]
    return None if old == new else keys.by_key(old, new)


def _fits(old: tuple[int, ...], new: tuple[int, ...], moves: Mapping[int, Move]) -> bool:
    if len(old) != len(new):
        return False
    sizes = {axis: (move.old_size, move.size) for axis, move in moves.items()}
    return all(
        (before, now) == sizes.get(axis, (now, now))
        for axis, (before, now) in enumerate(zip(old, new, strict=True))
    )
