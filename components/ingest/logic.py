"""Rows of any format to examples' columns: values, label, split, ids, and the rows that are rejected."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components import expression
from components.ingest.format import Reason, Rows
from components.ingest.measures import Contents, Labels, count_labels
from components.ingest.recipe import Recipe, Source
from components.ingest.split import EVAL, TRAIN, is_eval, mix, row_hashes
from components.ingest.values import ARTICLES, as_lists, only_values, read_values, why_bad
from components.names import EXAMPLE_ID, SPAN

QUARANTINE_TEXT_BYTES = 2048
QUARANTINE_ROWS_PER_REASON = 100  # stored, in a span; all are counted

_ARROW = {"INT": pa.int64(), "FLOAT": pa.float32(), "BYTES": pa.large_binary()}


@dataclass(frozen=True)
class Rejected:
    """A row that is kept out of the examples.

    Attributes:
        line: from 1, its first physical line in a CSV file, and its number in any other.
        text: the row as it stands in a CSV file, and else as JSON; cut off at `QUARANTINE_TEXT_BYTES`.
    """

    span: int
    file: str
    line: int
    reason: str
    text: str


@dataclass
class Parsed:
    """What came out of some rows.

    Attributes:
        batches: by split, the rows that are good: a list column for every feature of the examples.
        by_reason: how many rows were rejected, by generalised reason.
        rejected: the first of them, by generalised reason.
        labels: of the good rows.
        contents: of the good rows.
    """

    batches: dict[str, pa.RecordBatch]
    by_reason: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, list[Rejected]] = field(default_factory=dict)
    labels: Labels = field(default_factory=Labels)
    contents: Contents = field(default_factory=Contents)


def to_examples(recipe: Recipe, source: Source, rows: Rows) -> Parsed:
    """Turns rows into examples' columns, and sorts out those that cannot be.

    Args:
        rows: with the recipe's columns, in its order.
    """
    values, faults = _read(recipe, rows.batch)
    good = np.ones(rows.batch.num_rows, dtype=bool)
    good[list(faults)] = False
    hashes = row_hashes((values[column.name] for column in recipe.columns), len(good))
    parsed = Parsed(
        _batches(recipe, source, values, rows.numbers, good, is_eval(hashes, recipe.eval_share)),
        labels=count_labels(recipe, values[recipe.label].filter(pa.array(good))),
        contents=Contents.of(hashes[good]),
    )
    reasons = rows.faults | {int(rows.numbers[row]): reason for row, reason in faults.items()}
    if reasons:
        _reject(parsed, reasons, source, rows)
    return parsed


def example_ids(span: int, name: str, numbers: np.ndarray) -> np.ndarray:
    """Ids of the rows of these numbers, from 0, in a file: int64 of shape [rows], in 0 .. 2^63 - 1.

    A 64-bit hash of the span and the file's name, and a bijection over it and the number: within a file only
    the dropped bit can make two ids alike.
    """
    seed = hashlib.blake2b(f"{span}\x1f{name}".encode(), digest_size=8).digest()
    with np.errstate(over="ignore"):
        mixed = np.uint64(int.from_bytes(seed)) + numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return (mix(mixed) >> np.uint64(1)).astype(np.int64)


_parse = functools.lru_cache(expression.parse)


def _read(recipe: Recipe, batch: pa.RecordBatch) -> tuple[dict[str, pa.Array], dict[int, Reason]]:
    """Values by feature, label included; and of the rows that have a fault, the first one's reasons."""
    values: dict[str, pa.Array] = {}
    faults: dict[int, Reason] = {}
    for column, cells in zip(recipe.columns, batch.columns, strict=True):
        name = column.name
        values[name], bad = read_values(cells, column.kind)
        general = f"{name}: not {ARTICLES[column.kind]}"
        for row in _places(bad):
            faults.setdefault(row, (f"{name}: {why_bad(cells, row, column.kind)}", general))
        if name in recipe.single:
            values[name], several = only_values(values[name])
            for row in _places(several):
                faults.setdefault(row, _several_reason(recipe, name))
    if recipe.label_expression:
        values[recipe.label] = _parse(recipe.label_expression).evaluate(values)
    for row in _places(values[recipe.label].is_null()):
        if row not in faults:
            faults[row] = _label_reason(recipe, values, row)
    for name, unfit, wanted in _rules(recipe, values):
        for row in _places(unfit):
            reason = f"{name}: {values[name][row].as_py()!r} is not {wanted}", f"{name}: not {wanted}"
            faults.setdefault(row, reason)
    return values, faults


def _rules(recipe: Recipe, values: Mapping[str, pa.Array]) -> Iterator[tuple[str, pa.BooleanArray, str]]:
    """What label and weight must be: column, where it is not, and what it must be."""
    label = values[recipe.label]
    if recipe.task == "binary":
        yield recipe.label, pc.invert(pc.is_in(label, pa.array([0, 1], label.type))), "0 or 1"
    if recipe.log:
        yield (
            recipe.label,
            pc.fill_null(pc.less_equal(label, -1), False),
            "more than -1, as label.log wants it",
        )
    if recipe.weight:
        weight = values[recipe.weight]
        yield recipe.weight, pc.fill_null(pc.less(weight, 0), True), "a weight of 0 or more"


def _places(mask: pa.BooleanArray | None) -> list[int]:
    return [] if mask is None else np.flatnonzero(mask.to_numpy(zero_copy_only=False)).tolist()


def _several_reason(recipe: Recipe, name: str) -> Reason:
    what = f"the label {recipe.label!r} is computed from" if recipe.label_expression else "a label is"
    if name == recipe.weight:
        what = "a weight is"
    reason = f"{name}: several values, and {what} one"
    return reason, reason


def _label_reason(recipe: Recipe, values: Mapping[str, pa.Array], row: int) -> Reason:
    if not recipe.label_expression:
        return f"{recipe.label}: the label is missing", f"{recipe.label}: the label is missing"
    missing = [name for name in _parse(recipe.label_expression).columns if not values[name][row].is_valid]
    why = f"{', '.join(missing)} missing" if missing else "a division by zero, or a result beyond a FLOAT"
    general = f"{recipe.label}: the label cannot be computed"
    return f"{general} ({why})", general


def _reject(parsed: Parsed, reasons: Mapping[int, Reason], source: Source, rows: Rows) -> None:
    """Counts every rejected row, and keeps the first ones of every reason."""
    kept: list[int] = []
    for number in sorted(reasons):
        _, general = reasons[number]
        count = parsed.by_reason[general] = parsed.by_reason.get(general, 0) + 1
        if count <= QUARANTINE_ROWS_PER_REASON:
            kept.append(number)
    for number, text in zip(kept, rows.texts(kept), strict=True):
        reason, general = reasons[number]
        cut = text.encode()[:QUARANTINE_TEXT_BYTES].decode("utf-8", errors="ignore")
        rejected = Rejected(source.span, source.name, number + 1, reason, cut)
        parsed.rejected.setdefault(general, []).append(rejected)


def _batches(
    recipe: Recipe,
    source: Source,
    values: Mapping[str, pa.Array],
    numbers: np.ndarray,
    good: np.ndarray,
    in_eval: np.ndarray,
) -> dict[str, pa.RecordBatch]:
    """The good rows by split, as the columns of tf.Examples."""
    columns = {column.name: _cast(values[column.name], _ARROW[column.kind]) for column in recipe.columns}
    columns[recipe.label] = _cast(values[recipe.label], _ARROW[recipe.label_kind])
    columns[SPAN] = pa.array(np.full(len(numbers), source.span, dtype=np.int64))
    columns[EXAMPLE_ID] = pa.array(example_ids(source.span, source.name, numbers))
    batch = pa.RecordBatch.from_pydict(columns)
    masks = {TRAIN: good & ~in_eval, EVAL: good & in_eval}
    return {split: _as_features(batch.filter(pa.array(mask))) for split, mask in masks.items()}


def _cast(values: pa.Array, kind: pa.DataType) -> pa.Array:
    return values.cast(pa.list_(kind) if pa.types.is_list(values.type) else kind, safe=False)


def _as_features(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A list in every cell, null where it is missing, as tfx_bsl encodes."""
    arrays = [
        column
        if pa.types.is_list(column.type)
        else as_lists(column, column.is_valid().to_numpy(zero_copy_only=False))
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(arrays, batch.schema.names)
