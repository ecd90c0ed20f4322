"""The component on small real files, through its executor and in-memory Beam."""

import gzip
import json
import os
from pathlib import Path

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
    monkeypatch.setattr(ingest_beam, "BLOCKS_PER_SHARD", 3)
    monkeypatch.setattr(ingest_beam.CutIntoBlocks.__init__, "__defaults__", (200,))
    cut = Run(tmp_path / "many", schema, {1: [file]}, max_quarantine_share=0.5)
    assert len(list(Path(cut.examples.uri, "Split-train").iterdir())) > 3
    for split in ("train", "eval"):
        assert cut.read(split) == whole.read(split)
    assert cut.report == whole.report and cut.rejected == whole.rejected
    assert whole.report["quarantined"] == len([n for n in range(400) if n % 3 and n % 7 == 0])


def test_a_split_without_rows_has_an_empty_file(tmp_path, schema):
    run = Run(tmp_path / "out", schema, {1: [write(tmp_path / "a.csv", "n,x,word\n1,2,a\n")]}, eval_share=0.0)
    assert run.read("eval") == [] and len(run.read("train")) == 1


ROW = b"n,x,word\n1,2,a\n"
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
    assert 0.29 < run.report["rows_kept"]["eval"] / 15002 < 0.31
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


def test_a_schema_artifact_without_a_schema(tmp_path):
    with pytest.raises(RetrainError, match=r"schema\.pbtxt: there is no such file"):
        component._read_schema(str(tmp_path))
