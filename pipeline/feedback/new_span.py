"""The span that a call of `retrain feedback` makes: its number, its file, and its place."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import Deployment
from pipeline.feedback import ledger
from pipeline.feedback.ledger import Ledger, NewSpan
from pipeline.feedback.rows import Columns, read_batches, values_type
from pipeline.feedback.span_file import install, number_of_span, path_of_span, spans_taken, write_rows

if TYPE_CHECKING:
    import pyarrow as pa


class SpanMaker:
    """Makes spans of a deployment.

    Args:
        deployment: the configuration.
        remembered: what earlier calls have left.
        learned: spans that were learned, whether they are on disk or not.
    """

    def __init__(self, deployment: Deployment, remembered: Ledger, learned: Collection[int]) -> None:
        self._data, self._min_rows = deployment.data, deployment.feedback.min_rows
        self._has_lists = any(deployment.columns.values())
        self._ledger, self._learned = remembered, learned

    def finish(self) -> NewSpan | None:
        """Puts the span of the last generation into its place, if it is not."""
        current, data = self._ledger.current, self._data
        if current.span is None:
            return None
        payload = self._ledger.payload(current)
        while True:
            span = current.span
            taken = spans_taken(data, self._learned)
            ours = (data.path / span.path).exists()
            if (ours or span.number not in taken) and install(data.path, span.path, payload):
                self._ledger.placed(current)
                return span
            # Somebody else has made a span of that number meanwhile.
            number = number_of_span(data.pattern, taken, span.last)
            number = max(taken) + 1 if number is None else number
            path = self.path(number, current.generation)
            current = self._ledger.move_span(current, replace(span, number=number, path=path))
            assert current.span is not None

    def path(self, number: int, generation: int) -> str:
        """Where the file of a span goes, below `data.path`."""
        suffix = ".parquet" if self._has_lists else ".csv"
        return path_of_span(self._data, number, f"feedback-{generation}", suffix)

    def make(self, draft: Path, columns: Columns) -> tuple[NewSpan | None, int, str]:
        """Writes the file of the span that a draft makes, of its rows and those that have waited.

        Returns:
            The span; or, where there is none yet, how many rows wait, and why.
        """
        rows = [*self._ledger.files(ledger.ROWS), *sorted(draft.glob(f"{ledger.ROWS}-*"))]
        times, versions = _times_and_versions(rows)
        if not times:
            return None, 0, ""
        current, data = self._ledger.current, self._data
        taken = spans_taken(data, self._learned) | ({current.span.number} if current.span else set())
        number = number_of_span(data.pattern, taken, max(times))
        why = ""
        if len(times) < self._min_rows:
            why = f"feedback.min_rows is {self._min_rows}"
        elif number is None:
            newest = time.strftime("%Y-%m-%d %H:%M", time.gmtime(max(times)))
            why = f"the span of {newest}, the newest of them, or a later one is there already"
        if why or number is None:
            for i, path in enumerate(self._ledger.files(ledger.ROWS)):
                shutil.copyfile(path, draft / f"{ledger.ROWS}-kept-{i}-{path.name}")
            return None, len(times), why
        generation = current.generation + 1
        place = self.path(number, generation)
        write_rows(draft / ledger.SPAN, Path(place).name, _batches(rows, columns), columns.all)
        for done in draft.glob(f"{ledger.ROWS}-*"):
            done.unlink()
        told = {str(version): count for version, count in sorted(versions.items())}
        return NewSpan(number, place, len(times), min(times), max(times), told), 0, ""


def _times_and_versions(files: Sequence[Path]) -> tuple[list[float], Counter[int]]:
    """When the rows of some files were predicted, and by which versions."""
    times: list[float] = []
    versions: Counter[int] = Counter()
    for file in files:
        for batch in read_batches(file, ["time", "version"]):
            times += batch.column("time").to_pylist()
            versions.update(batch.column("version").to_pylist())
    return times, versions


def _batches(files: Sequence[Path], columns: Columns) -> Iterator[pa.RecordBatch]:
    """The rows of some files: a column of lists for each raw column."""
    import pyarrow as pa

    kinds = {column.name: column.kind for column in columns.all}
    for file in files:
        for batch in read_batches(file):
            found = pa.RecordBatch.from_struct_array(batch.column("values"))
            # Rows that have waited may be of an older schema.
            yield pa.RecordBatch.from_arrays(
                [
                    found.column(field.name).cast(field.type)
                    if field.name in found.schema.names
                    else pa.nulls(len(found), field.type)
                    for field in values_type(kinds)
                ],
                names=list(kinds),
            )
