import datetime
import gzip
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.errors import RetrainError
from components.ingest import rows
from pipeline.spans import split
from pipeline.spans.periods import NO_DAY, Calendar, days_of
from pipeline.spans.split import SpanPart, split_files

EPOCH = datetime.date(1970, 1, 1)


def files(folder: Path) -> dict[str, bytes]:
    """Everything under a folder, by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_csv_rows_keep_their_bytes_and_order(tmp_path):
    head = "\ufeffid,at,x\r\n"
    text = '7,2013-07-01,"1,\r\n0"\r\n1,2013-01-05,1.50\r\n\r\n2,2013-03-31T23:59:59,"é"\r\n3,2013-01-01,1e5'
    result = split_files(
        [write(tmp_path / "a.csv", head + text)], "quarter", tmp_path / "out", time_column="at"
    )
    assert files(tmp_path / "out") == {
        "1/2013-Q1.csv": (
            head + '1,2013-01-05,1.50\r\n2,2013-03-31T23:59:59,"é"\r\n3,2013-01-01,1e5\r\n'
        ).encode(),
        "3/2013-Q3.csv": (head + '7,2013-07-01,"1,\r\n0"\r\n').encode(),
    }
    assert result.parts == [
        SpanPart(1, "2013-Q1", 3, (tmp_path / "out/1/2013-Q1.csv",)),
        SpanPart(3, "2013-Q3", 1, (tmp_path / "out/3/2013-Q3.csv",)),
    ]
    assert (result.unreadable, result.unreadable_paths) == (0, ())


def test_gzip_stays_gzip(tmp_path):
    file = write(tmp_path / "a.csv.gz", gzip.compress(b"at\n2013-01-01\n2014-01-01\n", mtime=0))
    split_files([file], "year", tmp_path / "out", time_column="at")
    unpacked = {name: gzip.decompress(content) for name, content in files(tmp_path / "out").items()}
    assert unpacked == {"1/2013.csv.gz": b"at\n2013-01-01\n", "2/2014.csv.gz": b"at\n2014-01-01\n"}


def test_parquet_keeps_types_and_order(tmp_path):
    table = pa.table(
        {
            "x": pa.array(["a", "b", None, "d"]).dictionary_encode(),
            "at": pa.array([datetime.datetime(2013, m, 2) for m in (1, 2, 1, 2)], pa.timestamp("ns", "UTC")),
            "l": pa.array([[1], [], None, [2, 3]], pa.list_(pa.int8())),
        }
    )
    pa.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    result = split_files([tmp_path / "a.parquet"], "month", tmp_path / "out", time_column="at")
    assert [(part.span, part.label, part.rows) for part in result.parts] == [
        (1, "2013-01", 2),
        (2, "2013-02", 2),
    ]
    first, second = (pa.parquet.read_table(part.paths[0]) for part in result.parts)
    assert first.schema == table.schema
    assert first.to_pylist() == table.take([0, 2]).to_pylist()
    assert second.to_pylist() == table.take([1, 3]).to_pylist()


@pytest.mark.parametrize(
    ("every", "label"),
    [
        ("day", "2014-12-31"),
        ("week", "2015-W01"),
        ("month", "2014-12"),
        ("quarter", "2014-Q4"),
        ("year", "2014"),
    ],
)
def test_labels(tmp_path, every, label):
    file = write(tmp_path / "a.csv", "at\n2014-12-31 23:59:59\n")
    (part,) = split_files([file], every, tmp_path / "out", time_column="at").parts
    assert (part.span, part.label) == (1, label)


def test_more_than_a_hundred_spans_in_any_order(tmp_path):
    days = [(EPOCH + datetime.timedelta(i)).isoformat() for i in range(120)]
    file = write(tmp_path / "a.csv", "at\n" + "\n".join(reversed(days)))
    parts = split_files([file], "day", tmp_path / "out", time_column="at").parts
    assert [(part.span, part.label) for part in parts] == list(enumerate(days, 1))
    assert sorted(os.listdir(tmp_path / "out"), key=int) == [str(i) for i in range(1, 121)]


def test_a_later_file_continues_the_numbers(tmp_path):
    first = write(tmp_path / "a.csv", "at\n2013-02-10\n2013-03-10\n")
    second = write(tmp_path / "b.csv", "at\n2013-05-10\n2013-04-10\n")
    split_files([first], "month", tmp_path / "out", time_column="at")
    parts = split_files([second], "month", tmp_path / "out", time_column="at", origin="2013-02-20").parts
    assert [part.span for part in parts] == [3, 4]
    assert sorted(os.listdir(tmp_path / "out")) == ["1", "2", "3", "4"]
    with pytest.raises(RetrainError, match=r"rows of 2013-02, and the origin makes 2013-03 span 1"):
        split_files([first], "month", tmp_path / "other", time_column="at", origin="2013-03-01")


def test_unreadable_rows_are_kept_and_counted(tmp_path):
    text = "at,x\n2013-01-01,1\nsoon,2\n,3\n2013-01-02\nnan,4\n"
    result = split_files([write(tmp_path / "a.csv", text)], "year", tmp_path / "out", time_column="at")
    assert result.unreadable == 4 and result.unreadable_paths == (tmp_path / "out/unreadable.csv",)
    assert result.unreadable_paths[0].read_text() == "at,x\nsoon,2\n,3\n2013-01-02\nnan,4\n"
    table = pa.table({"at": [1e9, None, float("inf")], "x": [1, 2, 3]})
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    result = split_files([tmp_path / "a.parquet"], "year", tmp_path / "more", time_column="at")
    assert pa.parquet.read_table(result.unreadable_paths[0]).column("x").to_pylist() == [2, 3]


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
def test_a_file_in_many_blocks(tmp_path, monkeypatch, kind):
    days = [(EPOCH + datetime.timedelta(i * 37 % 200)).isoformat() for i in range(500)]
    table = pa.table({"at": days, "x": list(range(500))})
    if kind == "parquet":
        pa.parquet.write_table(table, tmp_path / "a.parquet")
        monkeypatch.setattr(split, "ROWS_AT_ONCE", 7)
    else:
        pa.csv.write_csv(table, tmp_path / "a.csv")
        if kind == "csv.gz":
            write(tmp_path / "a.csv.gz", gzip.compress((tmp_path / "a.csv").read_bytes()))
        monkeypatch.setattr(rows.blocks, "__defaults__", (100,))
    parts = split_files([tmp_path / f"a.{kind}"], "week", tmp_path / "out", time_column="at").parts
    read = pa.parquet.read_table if kind == "parquet" else pa.csv.read_csv
    found = [read(part.paths[0]).column("x").to_pylist() for part in parts]
    assert [len(x) for x in found] == [part.rows for part in parts] and all(x == sorted(x) for x in found)
    assert sorted(x for part in found for x in part) == list(range(500))
    assert not [name for name in os.listdir(tmp_path / "out") if name.startswith(".")]


def test_a_span_that_is_there_is_refused_or_replaced(tmp_path):
    file = write(tmp_path / "a.csv", "at\n2013-01-01\n2014-01-01\n")
    out = tmp_path / "out"
    (out / "2").mkdir(parents=True)
    write(out / "2/old.csv", "old")
    before = files(out)
    with pytest.raises(RetrainError, match=r"1 of 2 targets are already there: .*out/2;"):
        split_files([file], "year", out, time_column="at")
    assert files(out) == before and os.listdir(out) == ["2"]
    split_files([file], "year", out, time_column="at", force=True)
    assert sorted(files(out)) == ["1/2013.csv", "2/2014.csv"]


def test_a_failure_while_publishing_undoes_everything(tmp_path, monkeypatch):
    file = write(tmp_path / "a.csv", "at\n2013-01-01\n2014-01-01\n")
    out = tmp_path / "out"
    split_files([file], "year", out, time_column="at")
    write(out / "1/more.csv", "more")
    before = files(out)
    rename = Path.rename

    def fail(path, target):
        if Path(target) == out / "2":
            monkeypatch.setattr(Path, "rename", rename)
            raise OSError("disk")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="disk"):
        split_files([file], "year", out, time_column="at", force=True)
    assert files(out) == before


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        (b"", ["empty (0 bytes)"]),
        (b"at,x\n", ["there is no row"]),
        (b"\n\n", ["only blank lines"]),
        (b"time,x\n1,2\n", ["column 'at' is not in the file", "'time', 'x'"]),
        (b"at,at\n1,2\n", ["column 'at' is more than once"]),
        (b"at,x\n03/09/2013,1\n04/09/2013,1\n", ["'03/09/2013', '04/09/2013'", "ISO dates"]),
        (b"at,x\n2013-01-01,\xe9\n", ["not UTF-8 on line 2"]),
        (gzip.compress(b"at\n2013-01-01\n", mtime=0)[:-9], ["truncated"]),
        (b"PAR1 and no more", ["the Parquet file cannot be read"]),
        (b'at\n"2013-01-01\n', ["never closed"]),
    ],
)
def test_files_that_cannot_be_split(tmp_path, content, facts):
    file = write(tmp_path / "a.csv", content)
    with pytest.raises(RetrainError) as error:
        split_files([file], "year", tmp_path / "out", time_column="at")
    assert all(fact in str(error.value) for fact in [str(file), *facts]), str(error.value)
    assert not (tmp_path / "out").exists() or not os.listdir(tmp_path / "out")


def test_other_mistakes(tmp_path):
    file = write(tmp_path / "a.csv", "at\n2013-01-01\n")
    with pytest.raises(RetrainError, match="got 'hour', expected one of day, week, month, quarter, year"):
        split_files([file], "hour", tmp_path / "out", time_column="at")
    with pytest.raises(RetrainError, match="origin: got 'May'"):
        split_files([file], "day", tmp_path / "out", time_column="at", origin="May")
    with pytest.raises(RetrainError, match="Is a directory"):
        split_files([tmp_path], "day", tmp_path / "out", time_column="at")
    with pytest.raises(RetrainError, match="No such file"):
        split_files([tmp_path / "b.csv"], "day", tmp_path / "out", time_column="at")
    pa.parquet.write_table(pa.table({"at": [True]}), tmp_path / "a.parquet")
    with pytest.raises(RetrainError, match="time column has the type bool"):
        split_files([tmp_path / "a.parquet"], "day", tmp_path / "out", time_column="at")


DAY = (datetime.date(2013, 3, 9) - EPOCH).days


@pytest.mark.parametrize(
    "times",
    [
        ["2013-03-09", "2013-03-09 00:00", "2013-03-09T23:59:59.999999", " 2013-03-09 "],
        ["2013-03-09T12:00:00Z", "2013-03-10T01:00:00+02:00", "2013-03-08T23:30:00-01:00", "20130309T120000"],
        ["1362787200", "1362873599.9", "1362787200000", "1362873599999", "1.3627872e9"],
        [1362787200, 1362873599, 1362787200000, 1362873599999],
        [1362787200.0, 1362873599.5, 1362787200000.0],
        [datetime.date(2013, 3, 9)],
        [datetime.datetime(2013, 3, 9, 23, 59, 59, 999999)],
        pa.array([1362787200, 1362873599], pa.timestamp("s")),
        pa.array([1362787200 * 10**9], pa.timestamp("ns", "America/Chicago")),
        pa.array([1362787200000], pa.date64()),
        pa.array(["2013-03-09"], pa.large_string()),
        pa.array(["2013-03-09", "1362787200"]).dictionary_encode(),
    ],
)
def test_times_in_every_form(times):
    assert days_of(pa.array(times)).tolist() == [DAY] * len(times)


@pytest.mark.parametrize(
    "times",
    [
        ["", "soon", "2013-13-01", "nan", "inf", "12:00", "1e99", "-", None],
        [None, float("nan"), float("inf"), 1e18],
        pa.array([None], pa.timestamp("us")),
        pa.array([None], pa.date32()),
    ],
)
def test_times_that_cannot_be_read(times):
    assert days_of(pa.array(times)).tolist() == [NO_DAY] * len(times)


def test_times_before_1970():
    assert days_of(pa.array([-1, -86400, -86401])).tolist() == [-1, -1, -2]
    assert days_of(pa.array(["1969-12-31 23:00", "1969-12-31T23:00:00Z"])).tolist() == [-1, -1]


@given(st.dates(), st.dates(), st.sampled_from(["day", "week", "month", "quarter", "year"]))
def test_periods_are_contiguous_and_labels_are_those_of_the_calendar(a, b, every):
    calendar = Calendar(every)
    labels = {
        "day": lambda d: d.isoformat(),
        "week": lambda d: f"{d.isocalendar().year:04d}-W{d.isocalendar().week:02d}",
        "month": lambda d: f"{d.year:04d}-{d.month:02d}",
        "quarter": lambda d: f"{d.year:04d}-Q{(d.month + 2) // 3}",
        "year": lambda d: f"{d.year:04d}",
    }
    period_a, period_b = calendar.period(a.isoformat()), calendar.period(b.isoformat())
    assert calendar.label(period_a) == labels[every](a)
    assert (period_a < period_b) == (a < b and labels[every](a) != labels[every](b))
    if a < datetime.date.max:
        tomorrow = calendar.period((a + datetime.timedelta(1)).isoformat())
        assert tomorrow - period_a in (0, 1)


times = st.sampled_from(
    ["2013-01-01", "2013-02-01", "1370000000", "2014-06-01T00:00:00Z", "", "soon", '"2013-01-01"']
)
table = st.lists(st.tuples(times, st.sampled_from(["1", '"a\nb"', "", "1,2"])), min_size=1, max_size=15)


@given(table, st.sampled_from(["day", "month", "year"]))
def test_no_row_is_lost(tmp_path_factory, table, every):
    folder = tmp_path_factory.mktemp("split")
    given_rows = [f"{time},{x}" for time, x in table]
    file = write(folder / "a.csv", "at,x\n" + "\n".join(given_rows))
    try:
        result = split_files([file], every, folder / "out", time_column="at")
    except RetrainError as error:
        assert "no time" in str(error)
        return
    paths = [part.paths[0] for part in result.parts] + list(result.unreadable_paths)
    found = []
    for path in paths:
        text = path.read_bytes()
        found += [text[begin:end].decode() for begin, end, _ in rows.row_spans(text)[1:]]
    assert Counter(found) == Counter(given_rows)
    assert sum(part.rows for part in result.parts) + result.unreadable == len(given_rows)


def test_imports_nothing_heavy():
    code = (
        "import sys; import pipeline.spans.split;"
        "sys.exit(bool({'pyarrow', 'apache_beam', 'tfx', 'tensorflow', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_rows_are_counted_through_all_files(tmp_path):
    one = write(tmp_path / "a.csv", "x\n1\n2\n3\n")
    two = write(tmp_path / "b.csv", "x\n4\n5\n")
    result = split_files([one, two], "2rows", tmp_path / "out")
    assert files(tmp_path / "out") == {
        "1/rows-1-2-1.csv": b"x\n1\n2\n",
        "2/rows-3-4-1.csv": b"x\n3\n",
        "2/rows-3-4-2.csv": b"x\n4\n",
        "3/rows-5-6-2.csv": b"x\n5\n",
    }
    assert [(part.span, part.rows, len(part.paths)) for part in result.parts] == [
        (1, 2, 1),
        (2, 2, 2),
        (3, 1, 1),
    ]


def test_files_of_one_table_share_the_calendar(tmp_path):
    late = write(tmp_path / "late.csv", "at\n2013-02-10\n2013-01-10\n")
    early = write(tmp_path / "early.csv", "at\nsoon\n2012-12-10\n2013-01-11\n")
    result = split_files([late, early], "month", tmp_path / "out", time_column="at")
    assert [(part.span, part.label, part.rows) for part in result.parts] == [
        (1, "2012-12", 1),
        (2, "2013-01", 2),
        (3, "2013-02", 1),
    ]
    assert result.unreadable_paths == (tmp_path / "out/unreadable-2.csv",)


@pytest.mark.parametrize("compression", ["", "GZIP"])
@pytest.mark.parametrize("by", ["time", "rows"])
def test_tfrecord_records_keep_their_bytes(tmp_path, compression, by):
    import tensorflow as tf

    def example(at):
        times = [] if at is None else [at.encode()]
        feature = {"at": tf.train.Feature(bytes_list=tf.train.BytesList(value=times))}
        return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()

    records = [example(at) for at in ("2013-01-05", "2013-02-01", None, "2013-01-07")] + [b"no example"]
    path = tmp_path / f"a.tfrecord{'.gz' if compression else ''}"
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for record in records:
            writer.write(record)

    def read(path):
        return [item.numpy() for item in tf.data.TFRecordDataset(str(path), compression)]

    out = tmp_path / "out"
    if by == "rows":
        result = split_files([path], "3rows", out)
        assert [read(part.paths[0]) for part in result.parts] == [records[:3], records[3:]]
        return
    result = split_files([path], "month", out, time_column="at")
    assert [read(part.paths[0]) for part in result.parts] == [[records[0], records[3]], [records[1]]]
    assert read(result.unreadable_paths[0]) == [records[2], records[4]]
    assert all(part.paths[0].name.endswith(path.name.removeprefix("a")) for part in result.parts)


@pytest.mark.parametrize(
    ("every", "options", "message"),
    [
        ("0rows", {}, "at least 1 row"),
        ("5rows", {"time_column": "at"}, "rows are counted without"),
        ("5rows", {"origin": "2013-01-01"}, "rows are counted without"),
        ("day", {}, "name it with --time"),
        ("5 apples", {}, "a number of rows, such as 500rows"),
    ],
)
def test_how_spans_are_told_apart_must_be_clear(tmp_path, every, options, message):
    file = write(tmp_path / "a.csv", "at\n2013-01-01\n")
    with pytest.raises(RetrainError, match=message):
        split_files([file], every, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
