"""One block of CSV text to examples' columns: values, label, split, ids, and the rows that are rejected."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import farmhash
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.ingest import expression, rows
from components.ingest.cells import parse_column, read_cells
from components.ingest.recipe import Column, Layout, Recipe, Source
from components.names import EXAMPLE_ID, SPAN

TRAIN, EVAL = SPLITS = ("train", "eval")
SPLIT_BUCKETS = 10_000

QUARANTINE_TEXT_BYTES = 2048
QUARANTINE_ROWS_PER_REASON = 100  # stored, in a span; all are counted
_CELL_CHARACTERS = 60  # of a cell that a reason quotes

_ARTICLES = {"INT": "an INT", "FLOAT": "a FLOAT"}
_ARROW = {"INT": pa.int64(), "FLOAT": pa.float32(), "BYTES": pa.large_binary()}


@dataclass(frozen=True)
class Rejected:
    """A row that is kept out of the examples; `line` is its first physical line in the file, from 1."""

    span: int
    file: str
    line: int
    reason: str
    text: str


@dataclass
class Parsed:
    """What came out of one block.

    Attributes:
        batches: by split, the rows that are good: a list column for every feature of the examples.
        by_reason: how many rows were rejected, by generalised reason.
        rejected: the first of them, by generalised reason.
    """

    batches: dict[str, pa.RecordBatch]
    by_reason: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, list[Rejected]] = field(default_factory=dict)


def parse_block(recipe: Recipe, source: Source, layout: Layout, text: bytes, first_line: int) -> Parsed:
    """Turns whole rows of CSV text into examples' columns, and sorts out the rows that cannot be.

    Args:
        text: rows without the header.
        first_line: the physical line in the file that `text` begins on, from 0.

    Raises:
        RetrainError: the text is not UTF-8; the message does not name the file.
    """
    rows.check_utf8(text, first_line)
    texts, ragged = read_cells(text, layout.width, layout.positions)
    cells = pa.RecordBatch.from_arrays(texts, [column.name for column in recipe.columns])
    count = cells.num_rows + len(ragged)
    place = np.delete(np.arange(count), list(ragged))  # of every row in `cells`, among all rows
    values, faults = _parse_cells(recipe, cells)
    good = np.ones(cells.num_rows, dtype=bool)
    good[list(faults)] = False
    lines = rows.row_lines(text, count)
    batches = _batches(recipe, source, cells, values, first_line + lines[place], good)
    parsed = Parsed(batches)
    reasons = {row: _ragged_reason(width, layout) for row, width in ragged.items()}
    reasons |= {int(place[row]): reason for row, reason in faults.items()}
    if reasons:
        _reject(parsed, reasons, source, text, first_line)
    return parsed


def is_eval(cells: pa.RecordBatch, eval_share: float) -> np.ndarray:
    """Which rows belong to the eval split, bool of shape [rows].

    A row's split is a hash of its cells' text alone: the same row has the same split in every file, span and
    run, so no row is ever trained on and evaluated on.
    """
    content = pc.binary_join_element_wise(
        *cells.columns, "\x1f", null_handling="replace", null_replacement=""
    )
    texts = content.to_numpy(zero_copy_only=False)  # several times faster than to_pylist
    hashes = np.fromiter(map(farmhash.fingerprint64, texts), dtype=np.uint64, count=len(texts))
    return hashes % SPLIT_BUCKETS < round(eval_share * SPLIT_BUCKETS)


def example_ids(span: int, name: str, lines: np.ndarray) -> np.ndarray:
    """Ids of the rows on these physical lines of a file, int64 of shape [rows], in 0 .. 2^63 - 1.

    A 64-bit hash of the span and the file's name, and SplitMix64's finaliser over it and the line
    (Steele, Lea and Flood 2014), a bijection: within a file only the dropped bit can make two ids alike.
    """
    seed = hashlib.blake2b(f"{span}\x1f{name}".encode(), digest_size=8).digest()
    with np.errstate(over="ignore"):
        mixed = np.uint64(int.from_bytes(seed)) + lines.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)


_parse = functools.lru_cache(expression.parse)


def _parse_cells(
    recipe: Recipe, cells: pa.RecordBatch
) -> tuple[dict[str, pa.Array], dict[int, tuple[str, str]]]:
    """Values by feature, label included; and of the rows that have a fault, the first one's reasons."""
    values: dict[str, pa.Array] = {}
    faults: dict[int, tuple[str, str]] = {}
    for column, texts in zip(recipe.columns, cells.columns, strict=True):
        values[column.name], bad = parse_column(texts, column.kind)
        for row in _indices(bad):
            faults.setdefault(row, _cell_reason(column, texts[row].as_py()))
    if recipe.label_expression:
        label = _parse(recipe.label_expression).evaluate(values)
        values[recipe.label] = label
    for row in _indices(values[recipe.label].is_null()):
        if row not in faults:
            faults[row] = _label_reason(recipe, values, row)
    return values, faults


def _indices(mask: pa.BooleanArray | None) -> list[int]:
    return [] if mask is None else np.flatnonzero(mask.to_numpy(zero_copy_only=False)).tolist()


def _cell_reason(column: Column, cell: str) -> tuple[str, str]:
    kind = _ARTICLES[column.kind]
    return f"{column.name}: {cell[:_CELL_CHARACTERS]!r} is not {kind}", f"{column.name}: not {kind}"


def _ragged_reason(width: int, layout: Layout) -> tuple[str, str]:
    return f"{width} cells, and the header has {layout.width}", "wrong number of cells"


def _label_reason(recipe: Recipe, values: Mapping[str, pa.Array], row: int) -> tuple[str, str]:
    if not recipe.label_expression:
        return f"{recipe.label}: the label is missing", f"{recipe.label}: the label is missing"
    used = _parse(recipe.label_expression).columns
    missing = [name for name in used if not values[name][row].is_valid]
    why = f"{', '.join(missing)} missing" if missing else "a division by zero, or a result beyond a FLOAT"
    general = f"{recipe.label}: the label cannot be computed"
    return f"{general} ({why})", general


def _reject(
    parsed: Parsed, reasons: Mapping[int, tuple[str, str]], source: Source, text: bytes, first_line: int
) -> None:
    """Counts every rejected row, and keeps the first ones of every reason."""
    spans = rows.row_spans(text)
    for row in sorted(reasons):
        reason, general = reasons[row]
        parsed.by_reason[general] = parsed.by_reason.get(general, 0) + 1
        kept = parsed.rejected.setdefault(general, [])
        if len(kept) < QUARANTINE_ROWS_PER_REASON:
            begin, end, line = spans[row]
            raw = text[begin : min(end, begin + QUARANTINE_TEXT_BYTES)].decode("utf-8", errors="ignore")
            kept.append(Rejected(source.span, source.name, first_line + line + 1, reason, raw))


def _batches(
    recipe: Recipe,
    source: Source,
    cells: pa.RecordBatch,
    values: Mapping[str, pa.Array],
    lines: np.ndarray,
    good: np.ndarray,
) -> dict[str, pa.RecordBatch]:
    """The good rows by split, as the columns of tf.Examples."""
    columns = {
        column.name: values[column.name].cast(_ARROW[column.kind], safe=False) for column in recipe.columns
    }
    columns[recipe.label] = values[recipe.label].cast(_ARROW[recipe.label_kind], safe=False)
    columns[SPAN] = pa.array(np.full(len(lines), source.span, dtype=np.int64))
    columns[EXAMPLE_ID] = pa.array(example_ids(source.span, source.name, lines))
    flat = pa.RecordBatch.from_pydict(columns)
    in_eval = is_eval(cells, recipe.eval_share)
    masks = {TRAIN: good & ~in_eval, EVAL: good & in_eval}
    return {split: _as_lists(flat.filter(pa.array(mask))) for split, mask in masks.items()}


def _as_lists(flat: pa.RecordBatch) -> pa.RecordBatch:
    """A list of one value in every cell, null where it is missing, as tfx_bsl encodes."""
    arrays = []
    for column in flat.columns:
        offsets = np.zeros(len(column) + 1, dtype=np.int32)
        np.cumsum(column.is_valid().to_numpy(zero_copy_only=False), out=offsets[1:])
        mask = column.is_null() if column.null_count else None
        arrays.append(pa.ListArray.from_arrays(pa.array(offsets), column.drop_null(), mask=mask))
    return pa.RecordBatch.from_arrays(arrays, flat.schema.names)
