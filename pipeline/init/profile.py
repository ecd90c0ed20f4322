"""What the columns of a table hold: one pass over the files, in bounded memory.

Types, counts and ranges are those of all rows. What needs the values side by side - how many there are, how
they are spread, what goes with what - is seen in a uniform sample of rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.errors import RetrainError
from components.expression import closest
from components.ingest.cells import Kind, parse_column
from pipeline.init.sample import Reservoir

SAMPLE_BYTES = 128 << 20
SAMPLE_CELLS = 10_000_000
MAX_UNREADABLE = 0.02  # with more, a column of numbers is one of text; `data.max_quarantine_share`'s default
LABEL_VALUES = 5_000  # different ones that are counted
_PROBE = 1_000  # cells that show whether a column is worth reading as numbers
_FEW = 20


@dataclass
class Column:
    """One column.

    Attributes:
        name: as in the file.
        kind: what ingest reads it as; None where no model can: a struct, a map.
        listed: its cells are lists.
        is_time: its type in the file says that it is a time.
        rows, missing: of the files.
        unreadable: cells that are not of the kind, whose rows are quarantined.
        example: one of those.
        low, high: the range of numbers.
        rising: no number is smaller than the one before it.
        shortest, longest: of lists with something in them.
        values: of the sampled rows, int64, float64 or string, or lists of those; null where missing.
    """

    name: str
    kind: Kind | None
    listed: bool = False
    is_time: bool = False
    rows: int = 0
    missing: int = 0
    unreadable: int = 0
    example: str = ""
    low: float = float("inf")
    high: float = float("-inf")
    rising: bool = True
    shortest: int = 0
    longest: int = 0
    values: Any = None

    @property
    def share(self) -> float:
        """Of the rows that have it, 0..1."""
        return 1.0 - self.missing / self.rows

    @cached_property
    def flat(self) -> pa.Array:
        """The sampled values without what is missing; those of lists one after the other."""
        values = pc.list_flatten(self.values) if self.listed else self.values
        return values.drop_null()

    @cached_property
    def counts(self) -> tuple[list[Any], np.ndarray]:
        """Different sampled values, and how often each was seen, most frequent first."""
        found = pc.value_counts(self.flat)
        counts = found.field("counts").to_numpy()
        order = np.argsort(-counts, kind="stable")
        return found.field("values").take(order).to_pylist(), counts[order]

    @property
    def distinct(self) -> int:
        """Different values in the sample."""
        return len(self.counts[0])

    @cached_property
    def distinct_everywhere(self) -> float:
        """Different values among all rows, estimated from how many of the sample's are alike."""
        seen, all_rows = len(self.flat), self.share * self.rows
        if self.distinct >= seen or seen >= all_rows:
            return all_rows if self.distinct >= seen else float(self.distinct)
        # Of D equally frequent values a share f of the rows shows D * (1 - (1 - f) ** (rows / D)).
        missed = np.log1p(-seen / all_rows)
        low, high = float(self.distinct), all_rows
        for _ in range(60):
            middle = (low + high) / 2
            if middle * -np.expm1(missed * all_rows / middle) < self.distinct:
                low = middle
            else:
                high = middle
        return low

    @cached_property
    def numbers(self) -> np.ndarray:
        """The sampled numbers, float64, without what is missing."""
        return self.flat.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


@dataclass
class Profile:
    """A table.

    Attributes:
        rows: of all files; `ragged` are those with a wrong number of cells, which are not among them.
        columns: by name, in the files' order.
        label_counts: different values of the label as text -> rows; None: more than `LABEL_VALUES`.
        places: of the sampled rows among all, int64 [sample], ascending.
    """

    rows: int
    ragged: int
    columns: dict[str, Column]
    label_counts: dict[str, int] | None
    places: np.ndarray

    @property
    def sampled(self) -> int:
        return len(self.places)


@dataclass
class Cells:
    """A column's part of a chunk.

    Attributes:
        values: string, int64 or float64, or lists of one of these.
        kind: what the file's type says; None where it is none of these.
        guess: the file has text only, so what it stands for is to be found out.
        is_time: the file's type is a time.
    """

    values: Any
    kind: Kind | None
    guess: bool = False
    is_time: bool = False

    @property
    def listed(self) -> bool:
        return pa.types.is_list(self.values.type)

    @property
    def described(self) -> str:
        return f"{'lists of ' if self.listed else ''}{'text of a CSV file' if self.guess else self.kind}"


def canonical(array: Any, text_only: bool) -> Cells:
    """A column of any type as one of few: see `Cells`.

    Args:
        array: as `components.ingest.tables` gives it.
        text_only: the format knows no types.
    """
    kind = array.type
    if pa.types.is_dictionary(kind):
        return canonical(array.dictionary_decode(), text_only)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _canonical_list(array)
    if text_only or pa.types.is_null(kind):
        return Cells(array.cast(pa.string()), "BYTES", guess=True)
    if pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale == 0):
        return Cells(array.cast(pa.int64(), safe=False), "INT")
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        values = array.cast(pa.float64(), safe=False)
        return Cells(pc.if_else(pc.is_nan(values), pa.scalar(None, pa.float64()), values), "FLOAT")
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        seconds = array.cast(pa.timestamp("s"), safe=False).cast(pa.int64())
        return Cells(seconds, "INT", is_time=True)
    if pa.types.is_boolean(kind):
        return Cells(array.cast(pa.string()), "BYTES")
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return Cells(_no_empty(array.cast(pa.string())), "BYTES")
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return Cells(_no_empty(_decoded(array)), "BYTES")
    return Cells(pa.nulls(len(array), pa.string()), None)


def _canonical_list(array: Any) -> Cells:
    """A list; a null one, an empty one and one of nulls alone are missing."""
    inner = canonical(pc.list_flatten(array), text_only=False)
    if inner.kind is None or inner.listed:
        return Cells(pa.nulls(len(array), pa.list_(pa.string())), None)
    parents = pc.list_parent_indices(array).to_numpy(zero_copy_only=False)
    there = inner.values.is_valid().to_numpy(zero_copy_only=False)
    lengths = np.bincount(parents[there], minlength=len(array))
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    lists = pa.ListArray.from_arrays(offsets, inner.values.drop_null(), mask=pa.array(lengths == 0))
    return Cells(lists, inner.kind, is_time=inner.is_time)


def _decoded(array: Any) -> pa.StringArray:
    """Bytes as text; those that are no UTF-8, such as an image's, with its mark for the unreadable."""
    try:
        return array.cast(pa.string())
    except pa.ArrowInvalid:
        texts = [None if item is None else item.decode("utf-8", "replace") for item in array.to_pylist()]
        return pa.array(texts, pa.string())


def _no_empty(texts: pa.StringArray) -> pa.StringArray:
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


@dataclass
class _Scan:
    """What is known of one column so far."""

    column: Column
    guess: bool
    present: int = 0
    said_missing: int = 0  # cells that say so, as NA does, if this is a column of numbers
    last: float = float("-inf")

    @classmethod
    def begin(cls, name: str, cells: Cells) -> _Scan:
        kind: Kind | None = "INT" if cells.guess else cells.kind
        return cls(Column(name, kind, cells.listed, cells.is_time), cells.guess)

    @property
    def kind(self) -> Kind | None:
        return self.column.kind

    def add(self, cells: Cells) -> None:
        self._check_type(cells)
        self.column.rows += len(cells.values)
        self.column.missing += cells.values.null_count
        self.present += len(cells.values) - cells.values.null_count
        if cells.listed:
            self._lengths(cells.values)
        if self.guess:
            if self.kind != "BYTES":
                self._read(cells.values)
        elif self.kind in ("INT", "FLOAT"):
            self._range(pc.list_flatten(cells.values) if cells.listed else cells.values)

    def _check_type(self, cells: Cells) -> None:
        """Numbers may be whole in one file and not in another; nothing else differs."""
        if (cells.guess, cells.listed) == (self.guess, self.column.listed):
            if self.guess or cells.kind == self.kind:
                return
            if {cells.kind, self.kind} == {"INT", "FLOAT"}:
                self.column.kind = "FLOAT"
                return
        raise RetrainError(
            f"column {self.column.name!r} is {cells.described}, and before it was "
            f"{'text of a CSV file' if self.guess else self.column.kind}; write all files with the same types"
        )

    def _lengths(self, lists: Any) -> None:
        span = pc.min_max(pc.list_value_length(lists))
        shortest, longest = span["min"].as_py(), span["max"].as_py()
        if longest is not None:
            self.column.shortest = min(self.column.shortest or shortest, shortest)
            self.column.longest = max(self.column.longest, longest)

    def _read(self, texts: pa.StringArray) -> None:
        """Reads text as numbers, and gives up where too much of it is none."""
        if self.present <= len(texts):  # the first that there are: a few tell
            probe = texts.drop_null().slice(0, _PROBE)
            self.column.kind = _first_kind(probe)
            if self.kind == "BYTES":
                return
        values, bad = parse_column(texts, self.kind or "INT")
        if bad is not None and self.kind == "INT":
            floats, bad = parse_column(texts, "FLOAT")
            if floats.null_count < values.null_count:
                self.column.kind, values = "FLOAT", floats
        bad_now = 0 if bad is None else pc.sum(bad).as_py() or 0
        if bad_now and not self.column.example:
            self.column.example = texts.filter(bad)[0].as_py()[:40]
        self.column.unreadable += bad_now
        self.said_missing += values.null_count - texts.null_count - bad_now
        if self.column.unreadable > max(self.present / 2, _PROBE):
            self.column.kind = "BYTES"
        self._range(values)

    def _range(self, values: Any) -> None:
        span = pc.min_max(values)
        if span["min"].as_py() is None:
            return
        self.column.low = min(self.column.low, span["min"].as_py())
        self.column.high = max(self.column.high, span["max"].as_py())
        if self.column.rising:
            there = values.drop_null().to_numpy(zero_copy_only=False)
            self.column.rising = bool(there[0] >= self.last and np.all(there[1:] >= there[:-1]))
            self.last = there[-1]

    def finish(self, sample: Any) -> Column:
        """The column, with its sample."""
        column = self.column
        if column.kind in ("INT", "FLOAT") and self.guess:
            if self.said_missing == self.present and not column.unreadable:
                column.kind = "BYTES"  # cells that only ever say NA
            elif column.unreadable > MAX_UNREADABLE * max(self.present - self.said_missing, 1):
                column.kind = "BYTES"
        if self.guess and column.kind in ("INT", "FLOAT"):
            column.missing += self.said_missing
            sample, _ = parse_column(sample, column.kind)
        elif self.guess:
            column.unreadable, column.example = 0, ""
        if self.guess and self.present == self.said_missing:
            column.missing = column.rows
            sample = pa.nulls(len(sample), pa.string())
        if column.listed and column.longest <= 1:  # a tf.Example has nothing but lists
            there = sample.is_valid().to_numpy(zero_copy_only=False)
            places = pa.array(np.cumsum(there) - 1, mask=~there)
            column.listed, sample = False, pc.list_flatten(sample).take(places)
        column.values = sample
        return column


def _first_kind(probe: pa.StringArray) -> Kind:
    """What some cells look like; later ones may show that whole numbers are not all there is."""
    _, bad = parse_column(probe, "FLOAT")
    if _leading_zeros(probe) or (bad is not None and pc.sum(bad).as_py() > len(probe) / 2):
        return "BYTES"
    few = probe.slice(0, _FEW)  # reading what are no integers as such is slow
    readable = parse_column(few, "FLOAT")[0].null_count
    return "INT" if parse_column(few, "INT")[0].null_count == readable else "FLOAT"


def _leading_zeros(texts: pa.StringArray) -> bool:
    """Whether digits begin with a zero too many to be a number: a code, such as 00501."""
    return bool(pc.any(pc.match_substring_regex(texts, r"^\s*0[0-9]+\s*$")).as_py())


class TableScan:
    """Gathers a profile from the pieces of a table.

    Args:
        label: the column whose values are counted.
        sample_rows: most rows in the sample.
        seed: of the sample.
    """

    def __init__(self, label: str, sample_rows: int, seed: int = 0):
        self._label, self._sample_rows, self._seed = label, sample_rows, seed
        self._scans: dict[str, _Scan] = {}
        self._reservoir: Reservoir | None = None
        self._counter = _LabelCounter()
        self.rows = 0

    def add(self, columns: dict[str, Cells]) -> None:
        """Looks at some rows; every piece has the same columns.

        Raises:
            RetrainError: a column has another type than before.
        """
        if self._reservoir is None:
            self._scans = {name: _Scan.begin(name, cells) for name, cells in columns.items()}
            fitting = max(SAMPLE_CELLS // len(columns), 1)
            self._reservoir = Reservoir(min(self._sample_rows, fitting), SAMPLE_BYTES, self._seed)
        for name, scan in self._scans.items():
            scan.add(columns[name])
        self._counter.add(columns[self._label].values)
        self._reservoir.add(pa.table({name: columns[name].values for name in self._scans}))
        self.rows += len(columns[self._label].values)

    def finish(self, ragged: int = 0) -> Profile:
        """The profile of all that was added.

        Args:
            ragged: rows that were left out, as they have a wrong number of cells.

        Raises:
            RetrainError: there was no row.
        """
        if self._reservoir is None:
            raise RetrainError("there is no row; name files with rows")
        sample, places = self._reservoir.rows()
        columns = {}
        for name, scan in self._scans.items():
            columns[name] = scan.finish(sample.column(name).combine_chunks())
            sample = sample.drop_columns([name])  # the text of a column of numbers is of no more use
        return Profile(self.rows, ragged, columns, self._counter.of(columns[self._label]), places)


def profile(files: Sequence[Path], label: str, sample_rows: int, needed: Sequence[str] = ()) -> Profile:
    """Reads all files once.

    Args:
        files: of one table; the same columns in each.
        label: the column whose values are counted.
        sample_rows: most rows in the sample.
        needed: other columns that must be there.

    Raises:
        RetrainError: a file cannot be read, has columns twice or others than the first one, or not the
            label; or a column is of different types in two files.
    """
    from components.ingest.tables import open_table

    scan = TableScan(label, sample_rows)
    names: list[str] = []
    ragged = 0
    for path in files:
        table = open_table(path)
        _check_names(table.names, [label, *needed], path)
        names = names or list(table.names)
        if set(names) != set(table.names):
            odd = sorted(set(names) ^ set(table.names))
            raise RetrainError(
                f"{path}: the columns are not those of {files[0]} (different: {_listed(odd)}); name files of "
                "one table"
            )
        text_only = table.format.startswith("csv")
        for _, batch in table.batches():
            cells = {name: canonical(batch.column(name), text_only) for name in batch.schema.names}
            try:
                scan.add(cells)
            except RetrainError as error:
                raise RetrainError(f"{path}: {error}") from None
        ragged += table.ragged
    try:
        return scan.finish(ragged)
    except RetrainError as error:
        raise RetrainError(f"{files[0]}: {error}") from None


class _LabelCounter:
    """Counts different values, as the file has them, as long as they are few."""

    def __init__(self) -> None:
        self._counts: Counter[Any] | None = Counter()

    def add(self, values: Any) -> None:
        if self._counts is None:
            return
        flat = pc.list_flatten(values) if pa.types.is_list(values.type) else values
        found = pc.value_counts(flat.drop_null())
        self._counts.update(
            dict(zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True))
        )
        if len(self._counts) > LABEL_VALUES:
            self._counts = None

    def of(self, column: Column) -> dict[str, int] | None:
        """By the value as text, most frequent first: `1` and `1.0` are one value of a column of numbers."""
        if self._counts is None or not self._counts:
            return None if self._counts is None else {}
        keys = pa.array(list(self._counts))
        if pa.types.is_string(keys.type) and column.kind in ("INT", "FLOAT"):
            keys, _ = parse_column(keys, column.kind)
        merged: Counter[str] = Counter()
        for key, count in zip(keys.to_pylist(), self._counts.values(), strict=True):
            if key is not None:
                merged[str(key)] += count
        return dict(merged.most_common())


def _check_names(names: Sequence[str], wanted: Sequence[str], path: Path) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise RetrainError(
            f"{path}: the columns {_listed(twice)} are there more than once; give every column a name of its "
            "own, or remove the copies"
        )
    for name in wanted:
        if name not in names:
            hint = ""
            if len(names) == 1 and (other := next((c for c in ";\t|" if c in names[0]), None)):
                hint = (
                    f". The file seems to be separated by {other!r}, and only commas are read: write it "
                    "again with commas"
                )
            raise RetrainError(
                f"{path}: there is no column {name!r}{closest(name, names)}; it has {_listed(names)}{hint}"
            )


def _listed(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(map(repr, names[:most])) + (
        f" and {len(names) - most} more" if len(names) > most else ""
    )
