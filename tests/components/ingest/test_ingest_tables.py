"""Every format as a stream: the same rows, in bounded pieces, and clear words about damaged files."""

import gzip
import io
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.errors import RetrainError
from components.ingest import parquet_file, tfrecord_file
from components.ingest.format import Block
from components.ingest.parquet_file import ParquetFile
from components.ingest.tables import open_format, open_table
from components.ingest.tfrecord_file import TFRecordFile
from tests.components.ingest.conftest import example, write_records

ROWS = 500


def parquet(columns, **options) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, **options)
    return file.getvalue()


def columns():
    return {"n": list(range(ROWS)), "word": [f"w{n}" for n in range(ROWS)]}


def records():
    return [example(n=[n], word=[f"w{n}".encode()]) for n in range(ROWS)]


def content(format_, tmp_path) -> bytes:
    match format_:
        case "csv" | "csv.gz":
            text = b"n,word\n" + b"".join(b"%d,w%d\n" % (n, n) for n in range(ROWS))
            return text if format_ == "csv" else gzip.compress(text)
        case "parquet":
            return parquet(columns(), row_group_size=90)
        case _:
            kind = "GZIP" if format_ == "tfrecord.gz" else ""
            return write_records(tmp_path / "written", records(), kind).read_bytes()


FORMATS = ["csv", "csv.gz", "parquet", "tfrecord", "tfrecord.gz"]


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("named", [True, False])
def test_every_format_is_known_by_its_content_and_streamed_in_pieces(tmp_path, format_, named):
    path = tmp_path / (f"rows.{format_}" if named else "rows")
    path.write_bytes(content(format_, tmp_path))
    table = open_table(path, block_bytes=700)
    assert (table.format, table.names) == (format_, ["n", "word"])
    for _ in range(2):  # as often as it is asked
        pieces = list(table.batches())
        assert len(pieces) > 3 and table.ragged == 0
        firsts = [first for first, _ in pieces]
        assert firsts == np.cumsum([1, *(batch.num_rows for _, batch in pieces)])[:-1].tolist()
        whole = pa.Table.from_batches([batch for _, batch in pieces])
        kind = {"csv": str, "csv.gz": str, "parquet": int}.get(format_, lambda n: [n])
        assert whole.column("n").to_pylist() == [kind(n) for n in range(ROWS)]


def test_csv_keeps_columns_as_they_are_named_and_counts_ragged_rows(tmp_path):
    (path := tmp_path / "a.csv").write_text("\ufeff\ufeffa,a, ,\n1,2,3,4\nonly\n5,,7,8\n")
    table = open_table(path)
    ((first, batch),) = table.batches()
    assert table.names == batch.schema.names == ["a", "a", " ", ""] and (first, table.ragged) == (1, 1)
    assert [column.to_pylist() for column in batch.columns] == [
        ["1", "5"],
        ["2", None],
        ["3", "7"],
        ["4", "8"],
    ]


def test_parquet_keeps_its_types(tmp_path):
    given = pa.table(
        {
            "list": [[1, None], None],
            "coded": pa.array(["x", None]).dictionary_encode(),
            "deep": [{"a": 1}, None],
            "a.b": [1, 2],
        }
    )
    pq.write_table(given, path := tmp_path / "a.parquet")
    ((_, batch),) = open_table(path).batches()
    assert batch.to_pylist() == given.to_pylist() and pa.types.is_dictionary(batch.column("coded").type)


def test_parquet_reads_only_the_columns_asked_for_though_others_share_a_beginning():
    file = io.BytesIO(parquet({"a.b": [1], "a": [2], "c": [3]}))
    form = ParquetFile.open(file)
    (block,) = form.blocks(file, 1 << 20)
    (rows,) = form.read(file, block, ["c", "a"])
    assert rows.batch.to_pydict() == {"c": [3], "a": [2]}


def test_parquet_batches_are_bounded_whatever_a_row_group_holds(monkeypatch):
    monkeypatch.setattr(parquet_file, "BLOCK_BYTES", 800)
    file = io.BytesIO(parquet({"x": [1.0] * 1000, "y": [2.0] * 1000}))
    form = ParquetFile.open(file)
    (block,) = form.blocks(file, 1 << 20)
    pieces = list(form.read(file, block, ["y"]))
    assert max(piece.batch.num_rows for piece in pieces) <= 100
    assert np.concatenate([piece.numbers for piece in pieces]).tolist() == list(range(1000))


def test_small_row_groups_share_a_block_and_empty_ones_have_none():
    file = io.BytesIO()
    with pq.ParquetWriter(file, pa.schema([("n", pa.int64())])) as writer:
        for count in (0, 3, 0, 4, 5, 0):
            writer.write_table(pa.table({"n": pa.array(range(count), pa.int64())}))
    form = ParquetFile.open(file)
    many, one = (list(form.blocks(file, size)) for size in (1, 1 << 20))
    assert [block.first for block in many] == [0, 3, 7] and len(one) == 1
    for blocks in (many, one):
        found = [
            n
            for block in blocks
            for piece in form.read(file, block, None)
            for n in piece.batch["n"].to_pylist()
        ]
        assert found == [*range(3), *range(4), *range(5)]


def test_records_of_all_shapes(tmp_path):
    given = [
        example(a=[1], b=[b"x", b"y"]),
        b"",
        example(a=[], c=[0.5]),
        b"\xff\xff\xff",
        example(a=[2, 3]),
    ]
    table = open_table(write_records(tmp_path / "a.tfrecord", given))
    ((first, batch),) = table.batches()
    assert batch.to_pydict() == {
        "a": [[1], None, None, [2, 3]],
        "b": [[b"x", b"y"], None, None, None],
        "c": [None, None, [0.5], None],
    }
    assert (table.names, table.ragged, first) == (["a", "b", "c"], 1, 1)


def test_a_feature_of_several_kinds_is_text(tmp_path):
    given = [example(a=[1]), example(a=[0.1]), example(a=[b"x"]), example()]
    ((_, batch),) = open_table(write_records(tmp_path / "a.tfrecord", given)).batches()
    assert batch["a"].to_pylist() == [[b"1"], [b"0.1"], [b"x"], None]


def test_columns_that_only_later_records_have_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(tfrecord_file, "SNIFFED_RECORDS", 5)
    monkeypatch.setattr(tfrecord_file, "_SNIFFED_BYTES", 64)
    given = [example(a=[1])] * 50 + [example(late=[1], a=[2])] * 50
    table = open_table(write_records(tmp_path / "a.tfrecord", given), block_bytes=64)
    batches = [batch for _, batch in table.batches()]
    assert table.names == ["a"] and {tuple(batch.schema.names) for batch in batches} == {("a",)}
    assert sum(batch.num_rows for batch in batches) == 100 and list(table.added) == ["late"]


def test_a_batch_without_a_column_has_nulls_of_its_type(tmp_path):
    given = [example(a=[1], b=[1.5])] * 20 + [example(a=[1])] * 20
    table = open_table(write_records(tmp_path / "a.tfrecord", given), block_bytes=64)
    assert {batch.schema.field("b").type for _, batch in table.batches()} == {pa.list_(pa.float32())}


def damage(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


def of_records(tmp_path, compression="") -> bytes:
    return write_records(tmp_path / "good", [example(n=[n]) for n in range(3)], compression).read_bytes()


# By name: the content made of that of a good TFRecord file, and what is said.
BAD = {
    "not there.csv": (None, "cannot be opened"),
    "empty.csv": (lambda _: b"", r"is empty \(0 bytes\)"),
    "empty.csv.gz": (lambda _: gzip.compress(b""), r"is empty \(0 bytes\)"),
    "blank.csv": (lambda _: b"\n\n", "only blank lines"),
    "text.parquet": (lambda _: b"a,b\n1,2\n", "not Parquet, although its name ends in .parquet.*like CSV"),
    "text.tfrecord": (lambda _: b"a,b\n1,2\n3,4\n", "not TFRecord, although its name ends in .tfrecord"),
    "parquet.csv": (lambda _: parquet({"a": [1]}), "not CSV, although its name ends in .csv.*like Parquet"),
    "records.csv": (lambda good: good, "not CSV.*like TFRecord"),
    "plain.tfrecord.gz": (lambda good: good, "not gzip, although its name ends in .gz"),
    "zipped": (lambda _: gzip.compress(parquet({"a": [1]})), "gunzip it"),
    "book.xlsx": (lambda _: b"PK\x03\x04" + b"\0" * 30, "a ZIP archive or a spreadsheet, which is not read"),
    "cut.parquet": (
        lambda _: parquet({"a": [1]})[:-9],
        "Parquet file is truncated or damaged .*write it again",
    ),
    "magic.parquet": (lambda _: b"PAR1", "Parquet file is truncated or damaged"),
    "cut.tfrecord": (lambda good: good[:-5], "truncated: it ends within record 3"),
    "length.tfrecord": (lambda good: damage(good, len(good) // 3), "the checksum of record 2"),
    "record.tfrecord": (lambda good: damage(good, 20), "the checksum of record 1"),
    "first.tfrecord": (lambda good: damage(good, 3), "not TFRecord, although its name"),
    "cut.tfrecord.gz": (lambda good: gzip.compress(good)[:-12], "gzip file is truncated"),
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_cannot_be_read_say_why(tmp_path, name):
    make, said = BAD[name]
    if make:
        (tmp_path / name).write_bytes(make(of_records(tmp_path)))
    with pytest.raises(RetrainError, match=rf"(?s)^{tmp_path / name}: .*{said}"):
        list(open_table(tmp_path / name).batches())


def test_damage_within_a_parquet_file_is_told():
    data = parquet({"a": list(range(10_000))}, compression="snappy", use_dictionary=False)
    form = ParquetFile.open(io.BytesIO(data))
    broken = io.BytesIO(data[:100] + b"\xff" * 2000 + data[2100:])
    with pytest.raises(RetrainError, match="Parquet file is truncated or damaged"):
        [list(form.read(broken, block, None)) for block in form.blocks(broken, 1 << 20)]


def test_text_in_parquet_that_is_not_utf8_is_told():
    text = pa.array([b"caf\xe9"]).view(pa.string())
    file = io.BytesIO(parquet({"a": text}))
    form = ParquetFile.open(file)
    with pytest.raises(RetrainError, match=r"(?i)utf8"):
        [list(form.read(file, block, None)) for block in form.blocks(file, 1 << 20)]


def test_a_record_without_end_is_not_read_into_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(tfrecord_file, "MAX_RECORD_BYTES", 100)
    path = write_records(tmp_path / "a.tfrecord", [b"", b"x" * 5000])
    with path.open("rb") as raw, pytest.raises(RetrainError, match="record 2 has 5,000 bytes"):
        list(TFRecordFile(False).blocks(raw, 64))


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("size", [1, 100, 1 << 20])
def test_blocks_are_read_alone_and_lose_nothing(tmp_path, format_, size):
    raw = io.BytesIO(content(format_, tmp_path))
    form = open_format(raw, "rows")
    blocks = list(form.blocks(raw, size))
    assert all(isinstance(block, Block) for block in blocks)
    pieces = [piece for block in reversed(blocks) for piece in form.read(raw, block, ["word"])]
    words = [word for piece in pieces for word in piece.batch["word"].to_pylist()]
    flat = {(word[0].decode() if isinstance(word, list) else word) for word in words}
    assert len(words) == ROWS and flat == {f"w{n}" for n in range(ROWS)}
    numbers = np.concatenate([piece.numbers for piece in pieces])
    assert sorted(numbers) == list(range(format_.startswith("csv"), ROWS + format_.startswith("csv")))


def test_the_text_of_a_row(tmp_path):
    raw = io.BytesIO(
        parquet({"t": pa.array([0, 1], pa.timestamp("s")), "b": [b"\xff", b"x"], "l": [[1], None]})
    )
    form = ParquetFile.open(raw)
    (rows,) = form.read(raw, next(iter(form.blocks(raw, 1))), None)
    assert rows.texts([1]) == ['{"t":"1970-01-01T00:00:01","b":"x","l":null}']
    assert rows.texts([0]) == ['{"t":"1970-01-01T00:00:00","b":"\\\\xff","l":[1]}']
    given = [b"\xff\xff", example(n=[1])]
    with write_records(tmp_path / "a", given).open("rb") as raw:
        form = TFRecordFile(False)
        (rows,) = form.read(raw, next(iter(form.blocks(raw, 1))), None)
        assert rows.faults[0][0] == "the record is not a tf.Example"
        assert rows.texts([0]) == [r"'\xff\xff'"]


def test_neither_beam_nor_tensorflow_is_needed(tmp_path):
    pq.write_table(pa.table({"n": [1]}), tmp_path / "a.parquet")
    records = write_records(tmp_path / "a.tfrecord", [example(n=[1])])
    code = (
        "import sys; from components.ingest.tables import open_table\n"
        f"for path in ({str(tmp_path / 'a.parquet')!r}, {str(records)!r}): list(open_table(path).batches())\n"
        "print([m for m in ('tensorflow', 'apache_beam', 'tfx', 'pandas') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
