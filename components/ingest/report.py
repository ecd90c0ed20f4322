"""What a run of ingest found, added up over blocks: counts, rejected rows, problems; and how it is told."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from components.errors import RetrainError
from components.ingest.logic import QUARANTINE_ROWS_PER_REASON, Parsed, Rejected
from components.ingest.measures import Contents, Labels
from components.ingest.recipe import Recipe, Source, match_records
from components.ingest.split import SPLITS

PROBLEMS_TOLD = 5
REASONS_TOLD = 3
SAMPLES_TOLD = 3


@dataclass
class SpanCount:
    """One span's rows. `rejected` holds the first `QUARANTINE_ROWS_PER_REASON` of every reason; `labels` and
    `contents` are of the rows that are kept."""

    kept: Counter[str] = field(default_factory=Counter)  # by split
    by_reason: Counter[str] = field(default_factory=Counter)
    rejected: dict[str, list[Rejected]] = field(default_factory=dict)
    labels: Labels = field(default_factory=Labels)
    contents: Contents = field(default_factory=Contents)

    @property
    def quarantined(self) -> int:
        return self.by_reason.total()

    @property
    def read(self) -> int:
        return self.kept.total() + self.quarantined

    def add(self, other: SpanCount) -> None:
        self.kept.update(other.kept)
        self.by_reason.update(other.by_reason)
        self.labels.add(other.labels)
        self.contents.add(other.contents)
        for reason, rejected in other.rejected.items():
            both = self.rejected.get(reason, []) + rejected
            both.sort(key=lambda row: (row.file, row.line))  # the same rows, whatever order blocks come in
            self.rejected[reason] = both[:QUARANTINE_ROWS_PER_REASON]

    def rows(self) -> list[Rejected]:
        """The rejected rows that are stored, in the files' order."""
        return sorted(
            (row for rows in self.rejected.values() for row in rows), key=lambda r: (r.file, r.line)
        )


@dataclass(frozen=True, order=True)
class Shard:
    """A file of examples. `first` is (order of the source, number) of the row that it was begun with."""

    first: tuple[int, int]
    split: str
    path: str


@dataclass
class Summary:
    """Everything about a run but the examples. `add` is associative and commutative.

    Attributes:
        spans: rows by span.
        unknown: columns that the schema does not know, and in how many files.
        problems: (order of the source, message) of every file that cannot be ingested.
        shards: the files written.
        names: by order of the source, the columns that its rows have, of a file without a header.
    """

    spans: dict[int, SpanCount] = field(default_factory=dict)
    unknown: Counter[str] = field(default_factory=Counter)
    problems: list[tuple[int, str]] = field(default_factory=list)
    shards: list[Shard] = field(default_factory=list)
    names: dict[int, set[str]] = field(default_factory=dict)

    @classmethod
    def of_rows(cls, source: Source, parsed: Parsed, names: Iterable[str] | None) -> Summary:
        """That of some rows; `names` are their columns if the file has no header."""
        kept = Counter({split: batch.num_rows for split, batch in parsed.batches.items()})
        span = SpanCount(kept, Counter(parsed.by_reason), parsed.rejected, parsed.labels, parsed.contents)
        return cls({source.span: span}, names={} if names is None else {source.order: set(names)})

    def add(self, other: Summary) -> Summary:
        """Takes in another summary, and returns itself."""
        for number, span in other.spans.items():
            self.spans.setdefault(number, SpanCount()).add(span)
        self.unknown.update(other.unknown)
        self.problems = sorted(self.problems + other.problems)
        self.shards = sorted(self.shards + other.shards)
        for order, names in other.names.items():
            self.names.setdefault(order, set()).update(names)
        return self

    def to_json(self) -> str:
        return json.dumps(self, default=_plain)

    @classmethod
    def from_json(cls, text: str) -> Summary:
        """The other direction of `to_json`."""
        data = json.loads(text)
        spans = {
            int(number): SpanCount(
                Counter(span["kept"]),
                Counter(span["by_reason"]),
                {reason: [Rejected(**row) for row in rows] for reason, rows in span["rejected"].items()},
                Labels(**span["labels"] | {"classes": Counter(span["labels"]["classes"])}),
                Contents.from_json(span["contents"]),
            )
            for number, span in data["spans"].items()
        }
        shards = [Shard(tuple(shard["first"]), shard["split"], shard["path"]) for shard in data["shards"]]
        problems = [(order, message) for order, message in data["problems"]]
        names = {int(order): set(names) for order, names in data["names"].items()}
        return cls(spans, Counter(data["unknown"]), problems, shards, names)


def _plain(value: Any) -> Any:
    if isinstance(value, set):
        return sorted(value)
    return value.to_json() if isinstance(value, Contents) else vars(value)


def to_report(summary: Summary) -> dict[str, Any]:
    """The content of report.json.

    `rows_read` = `rows_kept` (by split) + `quarantined`, in all and in every span of `per_span`, which has
    `labels` (how they are distributed) and `repeated` (the share of rows that repeat another one), too;
    `unknown_columns` says in how many files a column is that the schema does not know.
    """
    whole = SpanCount()
    for span in summary.spans.values():
        whole.add(span)
    return _counts(whole) | {
        "per_span": {
            str(number): _counts(span)
            | {"labels": span.labels.to_report(), "repeated": span.contents.repeated()}
            for number, span in sorted(summary.spans.items())
        },
        "unknown_columns": dict(sorted(summary.unknown.items())),
    }


def to_lines(rejected: Iterable[Rejected]) -> str:
    """JSON lines: `span`, `file`, `line`, `reason` and `text` of every row."""
    return "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rejected)


def match_names(summary: Summary, sources: Iterable[Source], recipe: Recipe) -> None:
    """Holds the columns of files without a header against the recipe's, once all their rows are known: adds
    what is unknown, and a problem where one is missing."""
    known_problems = {order for order, _ in summary.problems}
    for source in sources:
        names = summary.names.get(source.order)
        if names and source.order not in known_problems:  # without any, no row could be read, which is told
            try:
                summary.unknown.update(match_records(names, recipe))
            except RetrainError as error:
                summary.problems.append((source.order, f"{source}: {error}"))
    summary.problems.sort()


def check_files(summary: Summary) -> None:
    """Raises RetrainError if there is a file that cannot be ingested."""
    messages = [message for _, message in summary.problems]
    if messages:
        more = len(messages) - PROBLEMS_TOLD
        rest = [f"and {more} more such files"] if more > 0 else []
        raise RetrainError("\n".join(messages[:PROBLEMS_TOLD] + rest))


def check_quarantine(summary: Summary, max_share: float, written: Mapping[int, str]) -> None:
    """Holds every span's share of rejected rows against the limit.

    Args:
        summary: of all spans.
        max_share: 0..1, of the rows read in a span.
        written: by span, where its rejected rows can be found.

    Raises:
        RetrainError: a span has more, or no row that is good.
    """
    messages = [
        _excess(number, span, max_share, written.get(number))
        for number, span in sorted(summary.spans.items())
        if span.quarantined > max_share * span.read or not span.kept.total()
    ]
    if messages:
        raise RetrainError("\n".join(messages))


def _counts(span: SpanCount) -> dict[str, Any]:
    return {
        "rows_read": span.read,
        "rows_kept": {split: span.kept[split] for split in SPLITS},
        "quarantined": span.quarantined,
        "by_reason": dict(span.by_reason.most_common()),
    }


def _excess(number: int, span: SpanCount, max_share: float, written: str | None) -> str:
    told = [
        f"  {reason} ({count:,} rows): {_samples(span.rejected[reason])}"
        for reason, count in span.by_reason.most_common(REASONS_TOLD)
    ]
    if (more := len(span.by_reason) - REASONS_TOLD) > 0:
        told.append(f"  and {more} more reasons")
    limit = f"max_quarantine_share allows {max_share:.2%}" if span.kept.total() else "none is left"
    where = f"in {written}" if written else "gone with this run; set quarantine_dir to keep them"
    return (
        f"span {number}: {span.quarantined:,} of {span.read:,} rows ({span.quarantined / span.read:.2%}) "
        f"cannot be used, and {limit}:\n" + "\n".join(told) + f"\nThe rejected rows are {where}. "
        "Mend the file or the schema, or allow a larger share"
    )


def _samples(rejected: list[Rejected]) -> str:
    return "; ".join(f"{row.file} line {row.line}, {row.reason}" for row in rejected[:SAMPLES_TOLD])
