"""The file of a new span: what it is called, what is in it, and how it comes to be there whole."""

from __future__ import annotations

import errno
import filecmp
import gzip
import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import RetrainError
from components.ingest.recipe import Column
from components.ingest.values import only_values
from pipeline.spans import pattern as patterns
from pipeline.spans.find import find_spans

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.config.sections import Data

_SPEC = re.compile(r"\{([A-Z]+)\}")
_FORMATS = (".csv", ".parquet", ".pq", ".tfrecord", ".tfrecords")


def number_of_span(pattern: str, taken: Collection[int], newest: float) -> int | None:
    """The span that rows become; None: the date of the newest one is taken already, so they wait.

    Args:
        pattern: `data.pattern`.
        taken: spans that are on disk, or were learned.
        newest: time of the newest prediction among the rows, in unix seconds.
    """
    parsed, last = patterns.parse(pattern), max(taken, default=0)
    if not parsed.units:
        return last + 1
    moment = datetime.fromtimestamp(newest, UTC)
    number = parsed.number(
        {"YYYY": f"{moment:%Y}", "MM": f"{moment:%m}", "DD": f"{moment:%d}", "HH": f"{moment:%H}"}
    )
    return number if number > last else None


def path_of_span(data: Data, span: int, name: str, suffix: str) -> str:
    """Where a file of a new span goes, below `data.path`.

    Args:
        data: the configuration.
        span: its number.
        name: of the file, where the pattern leaves it open.
        suffix: of the file, where the pattern leaves it open.

    Raises:
        RetrainError: the pattern asks for a name that nobody can make up.

    >>> from pipeline.config.sections import Data
    >>> path_of_span(Data(path=Path("data"), pattern="day={YYYY}-{MM}-{DD}/*"), 19753, "feedback-3", ".csv")
    'day=2024-01-31/feedback-3.csv'
    """
    parsed = patterns.parse(data.pattern)
    digits = {"SPAN": str(span), "VERSION": "1"}
    if parsed.units:
        written = re.split(r"[-T]", parsed.date(span))
        digits |= dict(zip(("YYYY", "MM", "DD", "HH"), written, strict=False))
    parts = [part for part in _SPEC.sub(lambda spec: digits[spec[1]], data.pattern).split("/") if part]
    parts = [*(part for part in parts[:-1] if part != "**"), "*" if parts[-1] == "**" else parts[-1]]
    parts = [part.replace("*", name) for part in parts]
    if data.pattern.endswith("*"):
        parts[-1] += suffix
    path = "/".join(parts)
    if re.search(r"[\[\]?]", path):
        raise RetrainError(
            f"data.pattern: {data.pattern} has [ ] or ?, and `retrain feedback` cannot make up a name for "
            "it; write * there"
        )
    return path


def format_of(name: str) -> str:
    """The suffix that says what a file of this name holds; `.csv` where it says nothing."""
    plain = name.removesuffix(".gz")
    return next((suffix for suffix in _FORMATS if plain.endswith(suffix)), ".csv")


def write_rows(path: Path, name: str, batches: Iterator[pa.RecordBatch], columns: Sequence[Column]) -> None:
    """Writes rows in the format that a name says.

    Args:
        path: the file.
        name: what it is going to be called.
        batches: a column of lists for every one of `columns`, null where a value is missing; for CSV of
            one value each, and text in UTF-8.
        columns: in order.
    """
    suffix = format_of(name)
    if suffix in (".parquet", ".pq"):
        _write_parquet(path, batches, columns)
        return
    write = _write_tfrecord if suffix.startswith(".tfrecord") else _write_csv
    with gzip.open(path, "wb") if name.endswith(".gz") else open(path, "wb") as file:
        write(file, batches, columns)


def _write_csv(file: Any, batches: Iterator[pa.RecordBatch], columns: Sequence[Column]) -> None:
    from pyarrow import csv

    header = True
    for batch in batches:
        table = _flat(batch, columns)
        csv.write_csv(table, file, csv.WriteOptions(include_header=header, quoting_style="needed"))
        header = False


def _write_parquet(path: Path, batches: Iterator[pa.RecordBatch], columns: Sequence[Column]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    writer = None
    try:
        for batch in batches:
            # Nobody knows of the rows to come whether one of them has a list.
            table = pa.Table.from_batches([batch.select([column.name for column in columns])])
            writer = writer or parquet.ParquetWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _write_tfrecord(file: Any, batches: Iterator[pa.RecordBatch], columns: Sequence[Column]) -> None:
    import pyarrow as pa
    from tfx_bsl.coders.example_coder import RecordBatchToExamplesEncoder

    from serving.log_files import framed

    encoder = RecordBatchToExamplesEncoder()
    for batch in batches:
        arrays = [
            array.cast(pa.list_(pa.float32())) if column.kind == "FLOAT" else array
            for column in columns
            for array in [batch.column(column.name)]
        ]
        names = [column.name for column in columns]
        for example in encoder.encode(pa.RecordBatch.from_arrays(arrays, names=names)):
            file.write(framed(example))


def _flat(batch: pa.RecordBatch, columns: Sequence[Column]) -> pa.Table:
    """One value a cell."""
    import pyarrow as pa

    flat = {}
    for column in columns:
        values, _ = only_values(batch.column(column.name))
        flat[column.name] = values.cast(pa.string()) if column.kind == "BYTES" else values
    return pa.table(flat)


def install(root: Path, path: str, payload: Path) -> bool:
    """Copies a file into a new span, with the folders that it needs: all at once, or not at all.

    Done again after a kill it finds its own file, and leaves it.

    Args:
        root: `data.path`.
        path: the file, below it.
        payload: its content.

    Returns:
        Whether it is there; false: another file has taken the place.
    """
    target = root / path
    if target.exists():
        return target.is_file() and filecmp.cmp(payload, target, shallow=False)
    first = target
    while not first.parent.exists():
        first = first.parent
    aside = first.with_name(f".{first.name}.feedback")
    remove(aside)
    written = aside / target.relative_to(first)
    written.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(payload, written)
    try:
        aside.rename(first)
    except OSError as error:  # somebody has made the folder meanwhile, with something in it
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR):
            raise
        return False
    finally:
        remove(aside)
    return True


def remove(path: Path) -> None:
    """Removes a file, or a folder with all that is in it, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def spans_taken(data: Data, learned: Collection[int]) -> set[int]:
    """The spans that are on disk, and those that were learned and may be gone from there."""
    there = (data.path / patterns.parse(data.pattern).head).is_dir()
    return {*(find_spans(data) if there else ()), *learned}
