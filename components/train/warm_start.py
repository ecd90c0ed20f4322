"""Starting from the champion: its weights, optimizer slots and step, row by row where terms moved.

A vocabulary is refitted from run to run, so row 7 of an embedding may belong to another term than
it did. Every row of a new table therefore names the old row it starts from:

- a term the champion knew starts from that term's row, wherever it stood;
- a term new to it starts from the out-of-vocabulary row that the champion served it from;
- an out-of-vocabulary bucket starts from the champion's bucket.

So before its first step the new model answers as the champion does, as far as the two transform
graphs read a value alike.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from components.errors import RetrainError
from components.features import from_json
from components.label import STATE_FILE
from components.train.blueprint import deep_table, wide_table
from components.train.state import WHAT_TO_DO, TrainingState

CHECKPOINT = "weights"


def row_sources(
    old_terms: Sequence[str],
    old_buckets: int,
    new_terms: Sequence[str],
    new_buckets: int,
    bucket_of: Callable[[Sequence[str]], np.ndarray],
) -> np.ndarray:
    """The old row that every new row starts from.

    Args:
        old_terms, new_terms: terms in the order of their rows.
        old_buckets, new_buckets: out-of-vocabulary buckets behind the terms.
        bucket_of: terms -> the old bucket of each, 0 to old_buckets - 1.

    Returns:
        int64, shape [len(new_terms) + new_buckets].

    >>> row_sources(["a", "b"], 1, ["b", "c", "a"], 1, lambda terms: np.zeros(len(terms), int))
    array([1, 2, 0, 2])
    """
    old_row = {term: row for row, term in enumerate(old_terms)}
    unknown = [term for term in new_terms if term not in old_row]
    bucket = dict(zip(unknown, bucket_of(unknown).tolist(), strict=True)) if unknown else {}
    rows = [old_row[term] if term in old_row else len(old_terms) + bucket[term] for term in new_terms]
    rows += [len(old_terms) + i % old_buckets for i in range(new_buckets)]
    return np.asarray(rows, dtype=np.int64)


def hash_bucket(terms: Sequence[str], buckets: int) -> np.ndarray:
    """The out-of-vocabulary bucket of each term, as TensorFlow Transform's graph assigns it."""
    encoded = tf.constant([term.encode("utf-8", "surrogateescape") for term in terms], tf.string)
    return tf.strings.to_hash_bucket_fast(encoded, buckets).numpy()


def table_sources(
    old: TrainingState, new_features: Sequence[Mapping[str, Any]], new_terms: Mapping[str, Sequence[str]]
) -> dict[str, np.ndarray]:
    """`row_sources` for every vocabulary-indexed layer, by the layer's name."""
    old_buckets = {feature["name"]: feature.get("oov_buckets", 0) for feature in old.features}
    sources = {}
    for feature in from_json(new_features):
        if not feature.has_vocabulary:
            continue
        name, buckets = feature.name, old_buckets[feature.name]
        rows = row_sources(
            old.vocabularies[name],
            buckets,
            new_terms[name],
            feature.oov_buckets,
            functools.partial(hash_bucket, buckets=buckets),
        )
        sources[wide_table(name)] = sources[deep_table(name)] = rows
    return sources


def carry_over(
    old: keras.Model,
    old_optimizer: keras.optimizers.Optimizer,
    new: keras.Model,
    new_optimizer: keras.optimizers.Optimizer,
    sources: Mapping[str, np.ndarray],
    outputs: tuple[int, int] = (1, 1),
) -> None:
    """Copies every weight of a model and every variable of its optimizer into others of the same kind.

    Classes that came since the champion are last; what belongs to them stays as it was initialised.

    Args:
        old, new: models whose variables have the same paths; tables may differ in rows.
        old_optimizer, new_optimizer: built, of one kind.
        sources: layer -> the old row of every new row, for each vocabulary-indexed layer.
        outputs: how wide the outputs of the old and of the new model are.

    Raises:
        RetrainError: the variables do not pair up, or a shape differs that no vocabulary explains.
    """
    tables = {f"{layer}/embeddings": rows for layer, rows in sources.items()}
    weights = {weight.path.replace("/", "_"): weight.path for weight in new.trainable_weights}

    def rows_of_slot(path: str) -> np.ndarray | None:
        # A slot is named after its weight and its kind; the name of one weight can begin another's.
        slot = path.rsplit("/", maxsplit=1)[-1]
        owner = max((name for name in weights if slot.startswith(f"{name}_")), key=len, default=None)
        return None if owner is None else tables.get(weights[owner])

    _copy(old.weights, new.weights, tables.get, outputs)
    _copy(old_optimizer.variables, new_optimizer.variables, rows_of_slot, outputs)


def _copy(
    old: Sequence[Any],
    new: Sequence[Any],
    rows_of: Callable[[str], np.ndarray | None],
    outputs: tuple[int, int],
) -> None:
    paths = [[_NUMBER.sub("", variable.path) for variable in variables] for variables in (old, new)]
    if paths[0] != paths[1]:
        raise RetrainError(
            "warm start: the champion's variables do not pair up with the new model's: "
            f"{_difference(*paths)}. {WHAT_TO_DO}"
        )
    for source, target in zip(old, new, strict=True):
        value, rows = np.asarray(source), rows_of(target.path)
        if rows is not None:
            value = value[rows]
        if outputs[0] < outputs[1] and (value.shape[-1:], target.shape[-1:]) == (
            (outputs[0],),
            (outputs[1],),
        ):
            value = np.concatenate([value, np.asarray(target)[..., outputs[0] :]], axis=-1)
        if tuple(value.shape) != tuple(target.shape):
            raise RetrainError(
                f"warm start: {target.path} has shape {tuple(value.shape)} in the champion and "
                f"{tuple(target.shape)} in the new model. {WHAT_TO_DO}"
            )
        target.assign(value)


# Keras numbers variables without a name through the whole process; Nadam has one.
_NUMBER = re.compile(r"(?<=^variable)_\d+$")


def _difference(old: list[Any], new: list[Any]) -> str:
    gone, come = [x for x in old if x not in new], [x for x in new if x not in old]
    return f"only in the champion: {gone or 'nothing'}; only in the new one: {come or 'nothing'}"


def save(
    folder: Path, model: keras.Model, optimizer: keras.optimizers.Optimizer, state: TrainingState
) -> None:
    """Writes the checkpoint that the next version starts from: weights, slots, step and `state`."""
    folder.mkdir(parents=True, exist_ok=True)
    tf.train.Checkpoint(model=model, optimizer=optimizer).write(str(folder / CHECKPOINT))
    (folder / STATE_FILE).write_text(json.dumps(state.__dict__))


def restore(folder: Path, model: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
    """Reads weights, BatchNorm statistics, slots and step.

    Raises:
        RetrainError: there is no checkpoint, or it lacks one of them, or has more.
    """
    try:
        status = tf.train.Checkpoint(model=model, optimizer=optimizer).read(str(folder / CHECKPOINT))
        status.assert_consumed()
        status.assert_existing_objects_matched()
    except (tf.errors.OpError, AssertionError, ValueError, IndexError) as error:
        raise RetrainError(
            f"warm start: the champion's checkpoint in {folder} is not whole: "
            f"{str(error).strip().splitlines()[0][:200]}. Restore it, serve another version "
            "(`retrain promote VERSION`), or start afresh with `warm_start: {enabled: false}`"
        ) from error
