"""The file of a new span: its number, its name, its formats, and how it comes to its place."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from components.errors import RetrainError
from components.feedback.join import LabelRow
from components.feedback.log import Logged
from components.ingest.recipe import Column
from components.ingest.tables import open_table
from components.ingest.values import read_values
from pipeline.config.sections import Data
from pipeline.feedback.ledger import Current, Ledger, NewSpan
from pipeline.feedback.new_span import SpanMaker
from pipeline.feedback.rows import Columns, values_type
from pipeline.feedback.span_file import format_of, install, number_of_span, path_of_span, write_rows
from tests.pipeline.conftest import Shop

COLUMNS = (
    Column("n", "INT"),
    Column("Unit Price", "FLOAT"),
    Column("word", "BYTES"),
    Column("gone", "INT", False),
)
NOON = 1_706_702_400.0  # 2024-01-31 12:00 UTC, day 19753


def data(pattern: str) -> Data:
    return Data(path=Path("data"), pattern=pattern)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("{SPAN}/*", "7/feedback-3.csv"),
        ("{SPAN}/*.csv", "7/feedback-3.csv"),
        ("{SPAN}.csv.gz", "7.csv.gz"),
        ("spans/span-{SPAN}/part-*.parquet", "spans/span-7/part-feedback-3.parquet"),
        ("{SPAN}/**", "7/feedback-3.csv"),
        ("{SPAN}/**/*.tfrecord", "7/feedback-3.tfrecord"),
        ("{SPAN}/v{VERSION}/*", "7/v1/feedback-3.csv"),
    ],
)
def test_the_name_of_a_file(pattern: str, path: str) -> None:
    assert path_of_span(data(pattern), 7, "feedback-3", ".csv") == path


def test_the_name_of_a_date() -> None:
    assert path_of_span(data("{YYYY}/{MM}/{DD}/*"), 19753, "f", ".parquet") == "2024/01/31/f.parquet"
    hourly = data("{YYYY}-{MM}-{DD}T{HH}.csv")
    number = number_of_span(hourly.pattern, [], NOON)
    assert number is not None and path_of_span(hourly, number, "f", ".csv") == "2024-01-31T12.csv"


def test_a_name_that_nobody_can_make_up() -> None:
    with pytest.raises(RetrainError, match=r"cannot make up a name for it; write \* there"):
        path_of_span(data("{SPAN}/[ab].csv"), 7, "f", ".csv")


def test_the_next_number_or_the_date_if_it_is_free() -> None:
    assert number_of_span("{SPAN}/*", [], NOON) == 1
    assert number_of_span("{SPAN}/*", [1, 2, 9], NOON) == 10
    daily = "{YYYY}{MM}{DD}/*"
    assert number_of_span(daily, [19752], NOON) == 19753
    assert number_of_span(daily, [19753], NOON) is None
    assert number_of_span(daily, [19754], NOON) is None


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.txt", "a.parquet", "a.tfrecord", "a.tfrecord.gz"])
def test_ingest_reads_back_what_is_written(tmp_path: Path, name: str) -> None:
    kinds = {column.name: column.kind for column in COLUMNS}
    rows = [
        {"n": [2**60], "Unit Price": [7.45], "word": [b'a, "b"\nc'], "gone": None},
        {"n": None, "Unit Price": None, "word": None, "gone": None},
        {"n": [-1], "Unit Price": [0.1], "word": ["Zoë".encode()], "gone": None},
    ]
    batches = [
        pa.RecordBatch.from_struct_array(pa.array(some, values_type(kinds))) for some in (rows[:2], rows[2:])
    ]
    written = tmp_path / "payload"
    write_rows(written, name, iter(batches), COLUMNS)
    written = written.rename(tmp_path / name)
    found: dict[str, list[Any]] = {column: [] for column in kinds}
    for part in open_table(written).rows():
        assert not part.faults
        for column, kind in kinds.items():
            if column in part.batch.schema.names:
                values, bad = read_values(part.batch.column(column), kind)
                assert bad is None
                found[column] += values.to_pylist()
    flat = {
        column: [value[0] if isinstance(value, list) else value for value in values]
        for column, values in found.items()
    }
    assert flat["n"] == [2**60, None, -1]
    exact = "tfrecord" not in name  # which holds float32
    assert flat["Unit Price"] == [
        7.45 if exact else pytest.approx(7.45),
        None,
        0.1 if exact else pytest.approx(0.1),
    ]
    texts = [text.decode() if isinstance(text, bytes) else text for text in flat["word"]]
    assert texts == ['a, "b"\nc', None, "Zoë"]


def test_lists_are_written_where_the_format_has_them(tmp_path: Path) -> None:
    columns = (Column("tags", "BYTES"),)
    batch = pa.RecordBatch.from_struct_array(
        pa.array([{"tags": [b"a", b"b"]}, {"tags": [b"c"]}], values_type({"tags": "BYTES"}))
    )
    for name in ("a.parquet", "a.tfrecord"):
        write_rows(tmp_path / name, name, iter([batch]), columns)
        (part,) = open_table(tmp_path / name).rows()
        assert part.batch.column("tags").to_pylist() == [[b"a", b"b"], [b"c"]]
    assert format_of("part-*") == ".csv" and format_of("a.tfrecord.gz") == ".tfrecord"


def test_a_row_takes_each_column_from_where_it_is() -> None:
    columns = Columns(COLUMNS, frozenset({"n", "word"}), flat=True)
    asked = Logged("k", 0.0, 1, {"n": 1, "word": None, "gone": 9, "Unit Price": 1.0}, 0.5)
    label = LabelRow("k", 0.0, {"n": 2, "word": b"w", "Unit Price": 3}, 0.0, "f", 1)
    # What is missing in the request is missing: the model did not see it.
    assert columns.row(asked, label) == {"n": [1], "Unit Price": [3.0], "word": None, "gone": None}
    lists = Logged("k", 0.0, 1, {"n": [1, 2]}, 0.5)
    assert "n: a list, which CSV cannot hold" in str(columns.row(lists, label))
    bytes_ = Logged("k", 0.0, 1, {"n": 1, "word": b"\xff"}, 0.5)
    assert str(columns.row(bytes_, label)).startswith("word: 'utf-8' codec")
    assert str(columns.row(Logged("k", 0.0, 1, {"n": 1.5}, 0.5), label)) == "n: 1.5 is not INT"


def test_a_file_comes_to_its_place_with_its_folders_and_once(tmp_path: Path) -> None:
    payload = tmp_path / "payload"
    payload.write_text("rows")
    root = tmp_path / "data"
    root.mkdir()
    for _ in range(2):
        assert install(root, "2024/01/31/f.csv", payload)
    assert [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()] == ["2024/01/31/f.csv"]
    payload.write_text("others")
    assert not install(root, "2024/01/31/f.csv", payload)  # somebody else's
    assert install(root, "2024/02.csv", payload)


def test_somebody_makes_the_same_span_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    payload = tmp_path / "payload"
    payload.write_text("rows")
    rename = Path.rename

    def late(self: Path, target: Path) -> Path:
        Path(target).mkdir()
        (Path(target) / "theirs.csv").write_text("")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    assert not install(tmp_path, "2/f.csv", payload)
    assert [path.name for path in tmp_path.rglob("*.csv")] == ["theirs.csv"]

    def full(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space left"):
        install(tmp_path, "3/f.csv", payload)
    assert not list(tmp_path.glob(".3*"))


def committed(shop: Shop) -> tuple[SpanMaker, Ledger]:
    """A generation that has decided on span 2, of a process that was killed right then."""
    ledger = Ledger(shop.state / "feedback")
    draft = ledger.draft()
    (draft / "span").write_text("n,x,word,y\n")
    ledger.commit(draft, Current(1, 0.0, {}, NewSpan(2, "2/feedback-1.csv", 3, 0.0, 1.0, {"1": 3})))
    return SpanMaker(shop.deployment, ledger, [1]), ledger


def test_what_an_earlier_call_decided_on_is_done_by_the_next_one(shop: Shop) -> None:
    shop.span(1)
    maker, ledger = committed(shop)
    span = maker.finish()
    assert span is not None and span.number == 2 and maker.finish() is None
    assert (shop.folder / "data/2/feedback-1.csv").read_text() == "n,x,word,y\n"
    assert ledger.current == Current(1, 0.0, {}, None) and not ledger.payload(ledger.current).exists()


def test_a_span_that_somebody_else_has_made_meanwhile_is_left_alone(shop: Shop) -> None:
    shop.span(1)
    maker, _ = committed(shop)
    shop.span(2)
    span = maker.finish()
    assert span is not None and (span.number, span.path) == (3, "3/feedback-1.csv")
    assert [path.name for path in (shop.folder / "data/2").iterdir()] == ["rows.csv"]
    assert (shop.folder / "data/3/feedback-1.csv").exists()


def test_a_memory_that_is_damaged_is_told(shop: Shop) -> None:
    _, ledger = committed(shop)
    (shop.state / "feedback" / "current.json").write_text("{")
    with pytest.raises(
        RetrainError, match=r"current.json is damaged .*; restore .*feedback, or move it away"
    ):
        assert ledger.current
