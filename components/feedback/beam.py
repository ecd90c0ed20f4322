"""The log joined with the labels, in Beam: `match` for every key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput

from components.feedback.join import Clock, match
from components.feedback.log import Logged, read
from components.feedback.records import Cursor

JOINED, WAITING, COUNTS = "joined", "waiting", "counts"


class ReadLog(beam.PTransform):
    """Names of a log's files to `Logged` rows that have a key, and `COUNTS`: (what, how many).

    Args:
        folder: of the log, as the workers see it.
        since: rows answered before are left out, in unix seconds.
        model: whose rows.
        columns: name in a request -> raw column, where these differ.
    """

    def __init__(self, folder: str, since: float, model: str, columns: Mapping[str, str]):
        super().__init__()
        self.folder, self.since, self.model, self.columns = folder, since, model, dict(columns)

    def expand(self, names: Any) -> Any:
        return (
            names
            | "Spread" >> beam.Reshuffle()
            | "Read" >> beam.FlatMap(self._read).with_outputs(COUNTS, main="rows")
        )

    def _read(self, name: str) -> Iterator[Logged | TaggedOutput]:
        cursor, keyless = Cursor(), 0
        rows = read(
            Path(self.folder), self.since, model=self.model, columns=self.columns, cursor=cursor, only=name
        )
        for row in rows:
            keyless += not row.key
            if row.key:
                yield row
        for what, count in {**cursor.to_json(), "keyless": keyless}.items():
            yield TaggedOutput(COUNTS, (what, count))


class JoinLabels(beam.PTransform):
    """`{"predictions": Logged, "labels": LabelRow, "done": Done}` to what becomes of them.

    Gives three collections: `JOINED`, pairs of a `Logged` and its `LabelRow`; `WAITING`, the `LabelRow`s that
    wait for their prediction; and `COUNTS`, (what, how many), as `join.COUNTS` names them.

    Args:
        clock: what time it is.
    """

    def __init__(self, clock: Clock):
        super().__init__()
        self.clock = clock

    def expand(self, rows: Mapping[str, Any]) -> Any:
        keyed = {
            name: some | f"Key_{name}" >> beam.Map(lambda row: (row.key, row)) for name, some in rows.items()
        }
        return (
            keyed
            | "Group" >> beam.CoGroupByKey()
            | "Match" >> beam.FlatMap(_match, self.clock).with_outputs(WAITING, COUNTS, main=JOINED)
        )


def _match(keyed: tuple[str, Mapping[str, Any]], clock: Clock) -> Iterator[Any]:
    _, rows = keyed
    found = match(rows["predictions"], rows["labels"], next(iter(rows["done"]), None), clock)
    if found.joined is not None:
        yield found.joined
    if found.waiting is not None:
        yield TaggedOutput(WAITING, found.waiting)
    for what, count in found.counts.items():
        if count:
            yield TaggedOutput(COUNTS, (what, count))
