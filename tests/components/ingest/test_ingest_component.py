"""The component on small real files, through its executor and in-memory Beam."""

import gzip
import io
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tfx.examples
from google.protobuf import text_format
from tensorflow.core.example import example_pb2
from tensorflow.data import TFRecordDataset
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.types import channel_utils, standard_artifacts

from components.artifacts import Quarantine
from components.errors import RetrainError
from components.ingest import beam as ingest_beam
from components.ingest import component
from tests.components.ingest.conftest import example, write_records

TAXI = Path(tfx.examples.__path__[0]) / "chicago_taxi_pipeline/data/simple/data.csv"
LABEL = json.dumps({"name": "big", "expression": "x > n"})
# An image is named so that TFX does not package itself for remote workers, which takes 2 s.
BEAM = ["--direct_running_mode=in_memory", "--direct_num_workers=1", "--sdk_container_image=unused"]


class Run:
    """One execution of the component in a folder of its own."""

    def __init__(self, folder: Path, schema: schema_pb2.Schema, spans: dict[int, list], **properties):
        self.examples, self.quarantine, given = (
            standard_artifacts.Examples(),
            Quarantine(),
            standard_artifacts.Schema(),
        )
        for name, artifact in [
            ("examples", self.examples),
            ("quarantine", self.quarantine),
            ("schema", given),
        ]:
            artifact.uri = str(folder / name)
            os.makedirs(artifact.uri)
        Path(given.uri, "schema.pbtxt").write_text(text_format.MessageToString(schema))
        properties = {
            "spans": json.dumps(
                [{"span": n, "files": [str(f) for f in files]} for n, files in spans.items()]
            ),
            "label": LABEL,
            "eval_share": 0.3,
            "max_quarantine_share": 0.01,
            "fingerprint": "",
        } | properties
        executor = component.Executor(component.Executor.Context(beam_pipeline_args=list(BEAM)))
        outputs = {"examples": [self.examples], "quarantine": [self.quarantine]}
        executor.Do({"schema": [given]}, outputs, properties)

    def read(self, split):
        files = sorted(Path(self.examples.uri, f"Split-{split}").iterdir())
        records = TFRecordDataset([str(f) for f in files], "GZIP").as_numpy_iterator()
        return [example_pb2.Example.FromString(record) for record in records]

    @property
    def report(self):
        return json.loads(Path(self.quarantine.uri, "report.json").read_text())

    @property
    def rejected(self):
        return [json.loads(line) for line in Path(self.quarantine.uri, "rows.jsonl").read_text().splitlines()]


def values(example, name):
    kind = example.features.feature[name].WhichOneof("kind")
    return list(getattr(example.features.feature[name], kind).value) if kind else []


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_labels_and_repeated_rows_are_counted_by_span_over_files(tmp_path, schema):
    once = "n,x,word\n" + "".join(f"{n},1,a\n" for n in range(20))
    files = {
        1: [write(tmp_path / "1/a.csv", once), write(tmp_path / "1/b.csv", once + "x,1,rejected\n")],
        2: [write(tmp_path / "2/a.csv", once)],
    }
    label = '{"name": "big", "expression": "n > 14", "task": "binary"}'
    spans = Run(tmp_path / "out", schema, files, max_quarantine_share=0.5, label=label).report["per_span"]
    assert (spans["1"]["repeated"], spans["2"]["repeated"]) == (0.5, 0.0)
    assert spans["1"]["labels"] == {"rows": 40, "classes": {"0": 30, "1": 10}}
    assert spans["2"]["labels"] == {"rows": 20, "classes": {"0": 15, "1": 5}}


def test_spans_become_examples(tmp_path, schema):
    plain = write(tmp_path / "1/a.csv", "\ufeffn,x,word\n" + "".join(f"{n},{n}.5,w{n}\n" for n in range(50)))
    zipped = write(tmp_path / "2/a.csv.gz", gzip.compress(b"word,x,n,more\n,0.25,3,z\nb,,4,z\n"))
    more = write(tmp_path / "2/b.csv", "x,n,word\r\n7,8,c\r\n")
    run = Run(tmp_path / "out", schema, {1: [plain], 2: [zipped, more]}, max_quarantine_share=0.5)

    by_split = {split: run.read(split) for split in ("train", "eval")}
    everything = by_split["train"] + by_split["eval"]
    assert sorted((values(e, "span"), values(e, "n")) for e in everything) == sorted(
        [([1], [n]) for n in range(50)] + [([2], [3]), ([2], [8])]
    )
    missing = next(e for e in everything if values(e, "span") == [2] and values(e, "n") == [3])
    assert values(missing, "word") == [] and values(missing, "x") == [0.25] and values(missing, "big") == [0]
    assert len({values(e, "example_id")[0] for e in everything}) == 52
    for split, examples in by_split.items():
        order = [(values(e, "span"), values(e, "n")) for e in examples]
        assert order == sorted(order) and len(order) == run.report["rows_kept"][split]

    assert run.examples.splits == ["train", "eval"]
    assert run.examples.get_string_custom_property("payload_format") == "FORMAT_TF_EXAMPLE"
    assert run.examples.get_int_custom_property("rows_eval") == len(by_split["eval"])
    files = sorted(
        str(f.relative_to(run.examples.uri)) for f in Path(run.examples.uri).rglob("*") if f.is_file()
    )
    assert files == [f"Split-{split}/data_tfrecord-00000-of-00001.gz" for split in ("eval", "train")]

    assert run.report["rows_read"] == 53 and run.report["per_span"]["2"]["quarantined"] == 1
    assert [span["repeated"] for span in run.report["per_span"].values()] == [0.0, 0.0]
    assert run.report["unknown_columns"] == {"more": 1}
    assert run.rejected == [
        {
            "span": 2,
            "file": "a.csv.gz",
            "line": 3,
            "reason": "big: the label cannot be computed (x missing)",
            "text": "b,,4,z",
        }
    ]


@pytest.mark.parametrize("compressed", [False, True])
def test_many_blocks_and_shards_give_what_one_block_gives(tmp_path, schema, monkeypatch, compressed):
    rows = [f'{n},{n if n % 7 else "?"},"w\n{n}"' if n % 3 else f"{n},{n},w" for n in range(400)]
    text = ("n,x,word\n" + "\n".join(rows)).encode()
    file = write(tmp_path / "a.csv", gzip.compress(text) if compressed else text)
    whole = Run(tmp_path / "one", schema, {1: [file]}, max_quarantine_share=0.5)
    monkeypatch.setattr(ingest_beam, "PARTS_PER_SHARD", 3)
    monkeypatch.setattr(ingest_beam.CutIntoParts.__init__, "__defaults__", (200,))
    cut = Run(tmp_path / "many", schema, {1: [file]}, max_quarantine_share=0.5)
    assert len(list(Path(cut.examples.uri, "Split-train").iterdir())) > 3
    for split in ("train", "eval"):
        assert cut.read(split) == whole.read(split)
    assert cut.report == whole.report and cut.rejected == whole.rejected
    assert whole.report["quarantined"] == len([n for n in range(400) if n % 3 and n % 7 == 0])


def test_a_split_without_rows_has_an_empty_file(tmp_path, schema):
    run = Run(tmp_path / "out", schema, {1: [write(tmp_path / "a.csv", "n,x,word\n1,2,a\n")]}, eval_share=0.0)
    assert run.read("eval") == [] and len(run.read("train")) == 1


def write_parquet(path: Path, columns: dict, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return path


def content(example):
    """All that the model learns from."""
    return {name: values(example, name) for name in ("n", "x", "word", "big")}


def test_the_same_rows_are_the_same_examples_in_every_format(tmp_path, schema):
    rows = [(n, n / 4 if n % 20 else None, f"w{n}" if n % 3 else None) for n in range(300)]
    ints, floats, words = (list(column) for column in zip(*rows, strict=True))
    text = "n,x,word\n" + "".join(f"{n},{'' if x is None else x},{w or ''}\n" for n, x, w in rows)
    records = [
        example(n=[n], x=[] if x is None else [x], word=[] if w is None else [w.encode()]) for n, x, w in rows
    ]
    files = [
        write(tmp_path / "a.csv", text),
        write(tmp_path / "b.csv.gz", gzip.compress(text.encode())),
        write_parquet(tmp_path / "c.parquet", {"word": words, "n": ints, "x": floats}, row_group_size=70),
        write_records(tmp_path / "d.tfrecord", records),
        write_records(tmp_path / "e.gz", records, "GZIP"),
    ]
    run = Run(tmp_path / "out", schema, {1: files}, max_quarantine_share=0.3)
    for split in ("train", "eval"):
        examples = [content(e) for e in run.read(split)]
        one = len(examples) // len(files)
        assert len(examples) == one * len(files) > 0
        assert all(examples[i * one : (i + 1) * one] == examples[:one] for i in range(len(files)))
        ids = [values(e, "example_id")[0] for e in run.read(split)]
        assert len(set(ids)) == len(ids)
    assert run.report["by_reason"] == {"big: the label cannot be computed": 15 * len(files)}
    assert [(row["file"], row["line"], row["text"]) for row in run.rejected if row["line"] < 7] == [
        ("a.csv", 2, "0,,"),
        ("b.csv.gz", 2, "0,,"),
        ("c.parquet", 1, '{"n":0,"x":null,"word":null}'),
        ("d.tfrecord", 1, '{"n":[0],"x":null,"word":null}'),
        ("e.gz", 1, '{"n":[0],"x":null,"word":null}'),
    ]


def test_typed_rows_that_cannot_be_used_are_set_aside(tmp_path, schema):
    schema.feature.add(name="tags", type=schema_pb2.BYTES)
    parquet = write_parquet(
        tmp_path / "a.parquet",
        {
            "n": [1.0, 2.5, 3.0, 4.0, 5.0],
            "x": ["8", "8", "1e999", None, "8"],
            "word": [["a"], ["a"], ["a"], ["a"], ["a", "b"]],
            "tags": [["p", None, "q"], [], [], [], None],
        },
    )
    good = example(n=[2], x=[8.0], word=[b"a"], tags=[b"p"])
    records = write_records(
        tmp_path / "b.tfrecord", [good, b"\xff\xff\xff", example(n=[1, 2], x=[3.0], word=[b"a"], tags=[b"p"])]
    )
    run = Run(tmp_path / "out", schema, {1: [parquet, records]}, max_quarantine_share=0.9, eval_share=0.0)
    assert [(row["file"], row["line"], row["reason"]) for row in run.rejected] == [
        ("a.parquet", 2, "n: 2.5 is not an INT"),
        ("a.parquet", 3, "x: '1e999' is not a FLOAT"),
        ("a.parquet", 4, "big: the label cannot be computed (x missing)"),
        ("b.tfrecord", 2, "the record is not a tf.Example"),
        ("b.tfrecord", 3, "n: several values, and the label 'big' is computed from one"),
    ]
    found = [(values(e, "n"), values(e, "word"), values(e, "tags")) for e in run.read("train")]
    assert found == [([1], [b"a"], [b"p", b"q"]), ([5], [b"a", b"b"], []), ([2], [b"a"], [b"p"])]


@pytest.mark.parametrize("kind", ["csv", "parquet", "tfrecord"])
def test_a_label_may_be_text(tmp_path, schema, kind):
    words = ["a", "b", "", None]
    if kind == "csv":
        text = "n,x,word\n" + "".join(f"1,{i},{word or ''}\n" for i, word in enumerate(words))
        file = write(tmp_path / "a.csv", text)
    elif kind == "parquet":
        file = write_parquet(tmp_path / "a.parquet", {"n": [1] * 4, "x": [0, 1, 2, 3], "word": words})
    else:
        records = [example(n=[1], x=[1.0], word=[] if w is None else [w.encode()]) for w in words]
        file = write_records(tmp_path / "a.tfrecord", records)
    label = json.dumps({"name": "word", "expression": None, "task": "multiclass"})
    run = Run(tmp_path / "out", schema, {1: [file]}, label=label, max_quarantine_share=0.5, eval_share=0.0)
    assert [values(e, "word") for e in run.read("train")] == [[b"a"], [b"b"]]
    assert run.report["by_reason"] == {"word: the label is missing": 2}


def test_a_label_is_computed_from_the_text_of_records(tmp_path, schema):
    file = write_records(
        tmp_path / "a", [example(n=[1], x=[2.0], word=[word]) for word in (b"a", b"b", b"\xff")]
    )
    label = json.dumps({"name": "is_a", "expression": "word == 'a'"})
    run = Run(tmp_path / "out", schema, {1: [file]}, label=label, eval_share=0.0)
    assert [values(e, "is_a") for e in run.read("train")] == [[1], [0], [0]]


def test_columns_that_only_records_of_other_files_have(tmp_path, schema):
    schema.feature.add(name="rare", type=schema_pb2.INT)  # the schema wants it in no row
    schema.feature.add(name="usual", type=schema_pb2.INT).presence.min_count = 1
    good = write_records(tmp_path / "a", [example(n=[1], x=[2.0], usual=[1], more=[1])] * 3)
    run = Run(tmp_path / "out", schema, {1: [good]}, eval_share=0.0)
    assert values(run.read("train")[0], "rare") == [] and run.report["unknown_columns"] == {"more": 1}
    bad = write_records(tmp_path / "b", [example(n=[1], x=[2.0], Usual=[1])] * 3)
    said = rf"^span 1, {bad}: 1 of the 1 columns .*: 'usual' \(did you mean 'Usual'\?\)\. Its records have"
    with pytest.raises(RetrainError, match=said):
        Run(tmp_path / "again", schema, {1: [good, bad]})


def parquet_bytes(**columns) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


ROW = b"n,x,word\n1,2,a\n"
RECORD = bytes.fromhex("000000000000000029039807d8ea82a2")  # one, of no bytes
FOLDER, NO_FILE = object(), object()
BAD_FILES = {
    "zero bytes": ("a.csv", b"", "is empty (0 bytes)"),
    "header only": ("a.csv", b"n,x,word\n\n", "has a header and no row"),
    "blank lines": ("a.csv", b"\n\r\n", "has only blank lines"),
    "no gzip": ("a.csv.gz", ROW, "not gzip, although its name ends in .gz"),
    "damaged gzip": ("a.csv.gz", gzip.compress(ROW)[:-6] + b"\0\0\0\0\0\0", "gzip file is damaged"),
    "truncated gzip": ("a.csv.gz", gzip.compress(ROW)[:-12], "gzip file is truncated"),
    "not UTF-8": ("a.csv", ROW + "1,2,café\n".encode("latin-1"), "not UTF-8 on line 3"),
    "UTF-16": ("a.csv", ROW.decode().encode("utf-16"), "not UTF-8 on line 1"),
    "missing column": ("a.csv", b"n,X,word\n1,2,a\n", "'x' (did you mean 'X'?)"),
    "open quote": ("a.csv", ROW + b'1,2,"a\n', "line 3 does not end"),
    "cut Parquet": ("a.parquet", parquet_bytes(n=[1], x=[1], word=["a"])[:-9], "Parquet file is truncated"),
    "no rows": ("b.parquet", parquet_bytes(n=[], x=[], word=[]), "has columns and no row"),
    "struct": (
        "c.parquet",
        parquet_bytes(n=[{"a": 1}], x=[1], word=["a"]),
        "column 'n' is of type struct<a: int64>",
    ),
    "no column": ("d.parquet", parquet_bytes(n=[1], X=[1], word=["a"]), "'x' (did you mean 'X'?)"),
    "a wrong name": ("e.csv", parquet_bytes(n=[1]), "not CSV, although its name ends in .csv"),
    "no record": ("f.tfrecord.gz", gzip.compress(RECORD[:-1]), "truncated: it ends within record 1"),
    "damaged record": ("g.tfrecord", RECORD[:-1] + b"?", "the checksum of record 1"),
    "folder": ("a.csv", FOLDER, "this is a folder"),
    "no file": ("a.csv", NO_FILE, "cannot be opened"),
}


def test_files_that_cannot_be_ingested_are_each_told(tmp_path, schema, monkeypatch):
    monkeypatch.setattr(component.report, "PROBLEMS_TOLD", 100)
    spans, facts = {}, []
    for span, (name, content, fact) in enumerate(BAD_FILES.values()):
        path = tmp_path / str(span) / name
        if content is FOLDER:
            path.mkdir(parents=True)
        elif content is not NO_FILE:
            write(path, content)
        spans[span] = [path]
        facts.append((f"span {span}, {path}: ", fact))
    with pytest.raises(RetrainError) as error:
        Run(tmp_path / "out", schema, spans)
    told = str(error.value).splitlines()
    assert len(told) == len(facts)
    for line, (where, fact) in zip(told, facts, strict=True):
        assert line.startswith(where) and fact in line


def test_too_many_bad_rows_stop_the_run_and_are_kept_outside(tmp_path, schema):
    file = write(tmp_path / "a.csv", "n,x,word\n" + "one,2,a\n" * 30 + "1,2,a\n" * 70)
    kept = tmp_path / "quarantine"
    with pytest.raises(RetrainError) as error:
        Run(tmp_path / "out", schema, {7: [file]}, quarantine_dir=str(kept))
    facts = [
        "span 7: 30 of 100 rows (30.00%)",
        "allows 1.00%",
        "n: not an INT (30 rows)",
        "line 2, n: 'one' is not an INT",
    ]
    assert all(fact in str(error.value) for fact in [*facts, str(kept / "7.jsonl")]), str(error.value)
    assert [f.name for f in kept.iterdir()] == ["7.jsonl"]
    assert len((kept / "7.jsonl").read_text().splitlines()) == 30
    write(file, "n,x,word\n1,2,a\n")
    Run(tmp_path / "again", schema, {7: [file]}, quarantine_dir=str(kept))
    assert list(kept.iterdir()) == []  # mended


def test_the_same_input_gives_the_same_output_and_stays_as_it_is(tmp_path, schema):
    file = write(tmp_path / "a.csv", "n,x,word\n" + "".join(f"{n},{n % 7},w{n}\n" for n in range(100)))
    before = file.read_bytes()
    a, b = (Run(tmp_path / name, schema, {1: [file]}) for name in "ab")
    assert [a.read(s) for s in ("train", "eval")] == [b.read(s) for s in ("train", "eval")]
    assert file.read_bytes() == before


def test_real_data(tmp_path):
    schema = schema_pb2.Schema()
    ints = "area|tract|month|hour|day|timestamp|seconds"
    for name in TAXI.open().readline().strip().split(","):
        kind = schema_pb2.BYTES if name in ("company", "payment_type") else schema_pb2.FLOAT
        schema.feature.add(
            name=name, type=schema_pb2.INT if any(i in name for i in ints.split("|")) else kind
        )
    label = json.dumps({"name": "big_tipper", "expression": "tips > 0.2 * fare"})
    run = Run(tmp_path, schema, {1: [TAXI]}, label=label)
    assert run.report["rows_read"] == 15002 and run.report["quarantined"] == 0
    assert 0.285 < run.report["rows_kept"]["eval"] / 15002 < 0.315  # four standard deviations
    assert {len(e.features.feature) for e in run.read("eval")} == {21}


def channel():
    return channel_utils.as_channel([standard_artifacts.Schema()])


GOOD = {
    "spans": '[{"span": 1, "files": ["a.csv"]}]',
    "label": LABEL,
    "eval_share": 0.3,
    "max_quarantine_share": 0.01,
    "fingerprint": "f",
}


def test_component():
    ingest = component.Ingest(channel(), **GOOD)
    assert set(ingest.outputs) == {"examples", "quarantine"}
    assert ingest.exec_properties == GOOD | {"quarantine_dir": None}
    assert ingest.outputs["quarantine"].type is Quarantine


@pytest.mark.parametrize(
    ("wrong", "fact"),
    [
        ({"eval_share": 1.5}, "eval_share: got 1.5"),
        ({"max_quarantine_share": -1}, "max_quarantine_share: got -1"),
        ({"spans": "[]"}, "nothing to ingest"),
        ({"label": '{"name": "y", "expression": "f(x)"}'}, r"'f\(x\)' is not allowed"),
    ],
)
def test_parameters_are_checked_before_anything_runs(wrong, fact):
    with pytest.raises(RetrainError, match=fact):
        component.Ingest(channel(), **GOOD | wrong)
