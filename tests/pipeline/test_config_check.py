"""`retrain config check`: what a run would stumble over, found without running anything."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml
from typer.testing import CliRunner

from components.errors import RetrainError
from components.features import Bucketized, Categorical, Cross, Identity, Numeric, Tensor
from components.label import Label
from pipeline.cli import app
from pipeline.config import check, load, row_checks
from pipeline.config.row_checks import Finding, Rows

ROOT = Path(__file__).parents[2]
SCHEMA = """
feature { name: "n" type: INT }
feature { name: "x" type: FLOAT }
feature { name: "word" type: BYTES }
feature { name: "y" type: INT }
"""
BASE: dict[str, Any] = {
    "name": "shop",
    "schema": "schema.pbtxt",
    "state": "state",
    "data": {"path": "data"},
    "label": {"name": "y"},
    "preprocessing": {"features": {"x": {"type": "numeric"}, "word": {"type": "categorical"}}},
    "gates": {"min_examples": 1},
}
ROWS = [(i % 5, i / 8, "abc"[i % 3], i % 2) for i in range(100)]
HEADER = "n,x,word,y"

Deploy = Callable[..., Path]


def csv(rows: Any = ROWS, header: str = HEADER) -> str:
    return "\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n"


@pytest.fixture
def deploy(tmp_path: Path) -> Deploy:
    """Writes a deployment whose spans have these files: name below the data folder -> content."""

    def write(files: dict[str, str | bytes] | None = None, schema: str = SCHEMA, **sections: Any) -> Path:
        (tmp_path / "schema.pbtxt").write_text(schema)
        (tmp_path / "data").mkdir(exist_ok=True)
        for name, content in ({"1/a.csv": csv()} if files is None else files).items():
            path = tmp_path / "data" / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        (tmp_path / "shop.yaml").write_text(yaml.safe_dump({**BASE, **sections}, sort_keys=False))
        return tmp_path / "shop.yaml"

    return write


def found(config: Path, **options: Any) -> list[str]:
    return [str(finding) for finding in check.check(load(config), **options).findings]


def parquet(**columns: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def test_a_sound_deployment_has_no_findings(deploy: Deploy) -> None:
    report = check.check(load(deploy({"1/a.csv": csv(), "2/a.csv": csv(), "3/a.csv": csv()})))
    assert report.findings == []
    assert [sample.source.span for sample in report.samples] == [1, 3]
    assert report.label == "0 50.0%, 1 50.0%"
    assert check.to_text(report).splitlines() == [
        "shop: binary label y, 2 features, model wide_and_deep",
        f"3 spans in {report.deployment.data.path}: 1 to 3; 3 files",
        "  span 1, 1/a.csv (csv): 100 rows looked at",
        "  span 3, 3/a.csv (csv): 100 rows looked at",
        "  y: 0 50.0%, 1 50.0%",
        "0 errors, 0 warnings",
    ]


def test_all_files_are_looked_at_when_asked_for(deploy: Deploy) -> None:
    config = deploy({f"{span}/{name}.csv": csv() for span in (1, 2, 3) for name in "ab"})
    report = check.check(load(config), every=True)
    assert len(report.samples) == 6 and report.findings == []


def test_every_format_is_read_as_ingest_reads_it(deploy: Deploy) -> None:
    n, x, word, y = (list(column) for column in zip(*ROWS, strict=True))
    config = deploy(
        {"1/a.csv.gz": gzip.compress(csv().encode()), "2/a.parquet": parquet(n=n, x=x, word=word, y=y)}
    )
    report = check.check(load(config))
    assert [(sample.format, sample.read) for sample in report.samples] == [("csv.gz", 100), ("parquet", 100)]
    first, second = (sample.rows.select(["n", "x", "word", "y"]) for sample in report.samples)
    assert sorted(map(str, first.to_pylist())) == sorted(map(str, second.to_pylist()))
    assert report.findings == []


def test_only_the_first_rows_of_a_large_file_are_read(deploy: Deploy) -> None:
    rows = [(i % 5, i / 8, "abc"[i % 3], i % 2) for i in range(150_000)]
    config = deploy({"1/a.csv": csv(rows)})
    report = check.check(load(config), rows=1000)
    (sample,) = report.samples
    assert not sample.whole and 1000 <= sample.read < 100_000
    assert sample.expected == pytest.approx(150_000, rel=0.1)
    assert re.search(r"rows of about 1[3-6]0,000 looked at", check.to_text(report))


def test_of_many_files_not_all_rows_are_kept(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "_MOST_ROWS", 250)
    bad = [(1, "?", "w", 2) for _ in range(100)]
    config = deploy({f"{span}/a.csv": csv(ROWS if span < 4 else bad) for span in (1, 2, 3, 4)})
    report = check.check(load(config), every=True)
    assert [sample.rows.num_rows for sample in report.samples] == [100, 100, 0, 0]
    assert [finding.where for finding in report.findings] == ["span 4, 4/a.csv"]  # looked at all the same


def test_contradictions_of_the_schema_are_told_and_the_spans_all_the_same(deploy: Deploy) -> None:
    config = deploy(
        preprocessing={"features": {"wort": {"type": "categorical"}, "word": {"type": "numeric"}}}
    )
    report = check.check(load(config))
    assert [str(finding) for finding in report.findings] == [
        "error: preprocessing.features.wort: got 'wort', which is no feature of the schema; did you mean "
        "word?",
        "error: preprocessing.features.word: type is numeric, but word is text in the schema; use "
        "categorical",
    ]
    assert list(report.spans) == [1] and report.samples == []


def test_what_the_log_cannot_drop_or_hash_is_told(deploy: Deploy) -> None:
    log = {"drop": ["wort"], "hash": ["n", "word"], "salt_env": "SALT"}
    first, second = found(deploy(serving={"prediction_log": log}))
    assert "prediction_log.drop: got 'wort', which is no feature of the schema; did you mean word?" in first
    assert "prediction_log.hash: n is INT in the schema, and a hash is text" in second


def test_a_folder_of_labels_that_is_not_there_is_told(deploy: Deploy, tmp_path: Path) -> None:
    canary = {"servers": [{"grpc": "c:1", "rest": "c:2"}], "labels": "arrived"}
    config = deploy(serving={"prediction_log": {}, "canary": canary})
    (told,) = found(config)
    assert told.startswith("warning: serving.canary.labels: ")
    assert told.endswith("arrived is not there; until it is, max_loss_rise is not judged")
    (tmp_path / "arrived").mkdir()
    assert found(config) == []


@pytest.mark.parametrize(("required", "severity"), [(False, "warning"), (True, "error")])
def test_features_that_tflite_has_no_operations_for_are_told(
    deploy: Deploy, required: bool, severity: str
) -> None:
    features = {"x": {"type": "numeric"}, "word": {"type": "categorical"}, "n": {"type": "hashed"}}
    features["both"] = {"type": "cross", "columns": ["n", "word"]}
    (told,) = found(deploy(preprocessing={"features": features}, edge={"required": required}))
    assert told.startswith(severity) and "no operations of its own for n (hashed), both (cross)" in told
    del features["n"], features["both"]
    assert found(deploy(preprocessing={"features": features}, edge={})) == []


def test_a_module_of_ones_own_that_is_not_there_is_told(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    config = deploy(model={"type": "custom", "module": "no_such_module_of_mine"})
    (problem,) = found(config)
    assert problem.startswith("error: model.module: there is no module 'no_such_module_of_mine'")


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({}, "error: data: no file in {data} as {{SPAN}}/*; put the spans there"),
        (
            {"1/a.csv": csv(), "2/.part": ""},
            "warning: data: no file as {{SPAN}}/* in span 2; a run that gets there stops",
        ),
        (
            {"1/a.csv": csv(header="n,x,wort,y")},
            "error: span 1, 1/a.csv: 1 of the 4 columns that the schema requires are missing: 'word' "
            "(did you mean 'wort'?). The header has 'n', 'x', 'wort', 'y'; unknown to the schema: 'wort'. "
            "Mend the file, or mark the feature in the schema as DEPRECATED",
        ),
        (
            {"1/a.csv": csv([(*row, 0) for row in ROWS], "n,x,word,y,z")},
            "warning: span 1, 1/a.csv: left out, as the schema does not know them: z",
        ),
        (
            {"1/a.csv": csv([(*row, 0) for row in ROWS], "n,x,word,y,x")},
            "error: span 1, 1/a.csv: the header has 'x' more than once; name every column once",
        ),
        (
            {"1/a.csv": csv([(*row[:3], "?" if i < 3 else row[3]) for i, row in enumerate(ROWS)])},
            "error: span 1, 1/a.csv: 3 of 100 rows cannot be used, and data.max_quarantine_share allows "
            "2.0%. y: not an INT (3 rows: line 2, y: '?' is not an INT; line 3, y: '?' is not an INT). Mend "
            "the file or the schema, or allow a larger share",
        ),
        (
            {"1/a.csv": b"PK\x03\x04 a sheet"},
            "error: span 1, 1/a.csv: not CSV, although its name ends in .csv",
        ),
        ({"1/a.csv": HEADER + "\n"}, "error: span 1, 1/a.csv: the file has a header and no row"),
        ({"1/a.csv": ""}, "error: span 1, 1/a.csv: the file is empty (0 bytes)"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_files_is_told(
    deploy: Deploy, files: dict[str, str | bytes], problem: str
) -> None:
    config = deploy(files)
    (said,) = found(config)
    assert said.startswith(problem.format(data=config.parent / "data"))


def test_a_row_that_cannot_be_read_is_counted_and_no_finding(deploy: Deploy) -> None:
    rows = [("a", 1.0, "w", 1), *ROWS]
    report = check.check(load(deploy({"1/a.csv": csv(rows)})))
    assert report.findings == []
    assert "101 rows looked at, 1 would be quarantined" in check.to_text(report)


def test_a_folder_that_is_not_there_is_told(deploy: Deploy, tmp_path: Path) -> None:
    config = deploy(data={"path": "gone"})
    (problem,) = found(config)
    assert problem.startswith(f"error: data.path: no folder {tmp_path / 'gone'}")


def test_spans_that_hold_out_too_few_to_judge_by(deploy: Deploy) -> None:
    tail = (
        "too few to judge a candidate by, so none is served; lower it, raise data.eval_share, or make the "
        "spans longer"
    )
    config = deploy({"1/a.csv": csv(), "2/a.csv": csv(ROWS * 10)}, gates={"min_examples": 100})
    (problem,) = found(config)
    assert problem == f"warning: gates.min_examples: got 100, and held out are about 20 of span 1: {tail}"
    config = deploy({"1/b.csv": csv()}, gates={"min_examples": 300})  # a second file of span 1
    (problem,) = found(config)
    told = "about 40 of span 1, about 200 of span 2"
    assert problem == f"error: gates.min_examples: got 300, and held out are {told}: {tail}"


def test_what_the_rows_say_is_told(deploy: Deploy) -> None:
    rows = [(7, "", "w", 1) for _ in range(100)]
    config = deploy(
        {"1/a.csv": csv(rows)},
        preprocessing={
            "features": {
                "n": {"type": "identity", "max": 5},
                "x": {"type": "numeric"},
                "word": {"type": "categorical"},
            }
        },
        label={"name": "y"},
        slices=[["word"]],
        gates={"min_examples": 20},
    )
    assert found(config) == [
        "error: label.name: y is 1 in all 100 rows; there is nothing to learn",
        "warning: preprocessing.features.n: n is 7 in all 100 rows",
        "warning: preprocessing.features.n: n is not from 0 to 5 in 100 of all 100 rows, and taken for "
        "missing there; it goes from 7 to 7",
        "warning: preprocessing.features.x: x is missing in all 100 rows",
        "warning: preprocessing.features.word: word is w in all 100 rows",
    ]


# Rows by themselves.


def rows(whole: bool = True, **columns: list[Any]) -> Rows:
    lists = {
        name: [None if value is None else value if isinstance(value, list) else [value] for value in values]
        for name, values in columns.items()
    }
    return Rows(pa.table(lists), whole)


def texts(findings: Any) -> list[str]:
    return [str(finding) for finding in findings]


@pytest.mark.parametrize(
    ("label", "values", "problem"),
    [
        ({}, [0, 1], None),
        ({}, [0.0, 1.0], None),
        (
            {},
            [0, 1, 2, 2],
            "error: label.task: y is 2 in 2 of all 4 rows, and a binary label is 0 or 1; give an expression "
            "such as 'y > 0', or another task",
        ),
        ({}, [1, 1], "error: label.name: y is 1 in all 2 rows; there is nothing to learn"),
        (
            {"expression": "a > 3"},
            [0, 0],
            "error: label.expression: y is 0 in all 2 rows; there is nothing to learn",
        ),
        ({"task": "multiclass"}, [b"a", b"b", b"c"], None),
        (
            {"task": "multiclass", "max_classes": 2},
            [b"a", b"b", b"c"],
            "error: label.max_classes: y has 3 classes in all 3 rows, and 2 are allowed; it looks like an "
            "id, or free text: predict another column, or allow more",
        ),
        ({"task": "multiclass", "class_weights": {"a": 2.0}}, [b"a", b"b"], None),
        (
            {"task": "multiclass", "class_weights": {"A": 2.0, "b": 3.0}},
            [b"a", b"b", b"a"],
            "error: label.class_weights: no class A in all 3 rows; there are a, b",
        ),
        ({"task": "regression"}, [0.5, 7.25], None),
        (
            {"task": "regression"},
            [0.5, 0.5],
            "error: label.name: y is 0.5 in all 2 rows; there is nothing to learn",
        ),
        (
            {"task": "regression", "log": True},
            [-1.0, 3.0, -2.0],
            "warning: label.log: y is -1 or less in 2 of all 3 rows, where log(1 + y) is not defined; it is "
            "learned as if just above -1 there",
        ),
    ],
)  # fmt: skip
def test_labels(label: dict[str, Any], values: list[Any], problem: str | None) -> None:
    found = texts(row_checks.check_label(Label(name="y", **label), rows(y=values)))
    assert found == ([problem] if problem else [])


def test_what_is_not_known_of_all_rows_is_no_error() -> None:
    (finding,) = row_checks.check_label(Label(name="y"), rows(whole=False, y=[1, 1]))
    assert finding == Finding(
        "warning", "label.name", "y is 1 in the 2 rows looked at; there is nothing to learn"
    )


def test_a_labels_distribution_in_words() -> None:
    many = rows(y=[b"a", b"b", b"b", b"c", b"d", b"e", b"f", b"f", b"f", b"g"])
    assert row_checks.distribution(Label(name="y", task="multiclass"), many) == (
        "f 30.0%, b 20.0%, a 10.0%, c 10.0%, d 10.0% and 2 more"
    )
    numbers = rows(y=[1.5, 2.5, 5.0])
    assert row_checks.distribution(Label(name="y", task="regression"), numbers) == "1.5 to 5, mean 3"


@pytest.mark.parametrize(
    ("feature", "columns", "problem"),
    [
        (Numeric(name="a"), {"a": [1.0, 2.0]}, None),
        (Numeric(name="a"), {"a": [None, 2.0]}, None),
        (Numeric(name="a"), {"a": [2.5, 2.5]}, "a is 2.5 in all 2 rows"),
        (Categorical(name="a"), {"a": [b"u", b"u"]}, "a is u in all 2 rows"),
        (Categorical(name="a", multivalent=True), {"a": [[b"u", b"v"], [b"u"]]}, None),
        (Bucketized(name="a"), {"a": [[None], [None]]}, None),
        (Cross(name="c", columns=["a", "b"]), {"a": [1, 2], "b": [3, 3]}, "b is 3 in all 2 rows"),
        (Identity(name="a", max=3), {"a": [0, 3, None]}, None),
        (
            Identity(name="a", max=3),
            {"a": [0, 4, -1, 3]},
            "a is not from 0 to 3 in 2 of all 4 rows, and taken for missing there; it goes from -1 to 4",
        ),
        (Numeric(name="a", log=True), {"a": [0.0, 1.0]}, None),
        (
            Numeric(name="a", log=True),
            {"a": [-0.5, 1.0]},
            "a is below 0 in 1 of all 2 rows; `log` takes it for 0 there",
        ),
        (Tensor(name="a", shape=[1, 2, 1]), {"a": [[1.0, 1.0], [1.0, 1.0]]}, None),
        (
            Tensor(name="a", shape=[1, 2, 1]),
            {"a": [[1.0, 1.0], [1.0], [1.0, 2.0, 3.0], None]},
            "a has other than the 2 numbers of shape [1, 2, 1] in 2 of all 4 rows",
        ),
    ],
    ids=str,
)
def test_features(feature: Any, columns: dict[str, list[Any]], problem: str | None) -> None:
    if feature.type == "bucketized":  # a column without any value
        table = pa.table({"a": pa.array([None, None], pa.list_(pa.float32()))})
        found = texts(row_checks.check_feature(feature, Rows(table, True)))
        assert found == ["warning: preprocessing.features.a: a is missing in all 2 rows"]
        return
    found = texts(row_checks.check_feature(feature, rows(**columns)))
    assert found == ([f"warning: preprocessing.features.{feature.name}: {problem}"] if problem else [])


def test_weights() -> None:
    assert texts(row_checks.check_weight("w", rows(w=[0.0, 2.0, None]))) == []
    (negative,) = row_checks.check_weight("w", rows(w=[-1.0, 2.0, -0.5]))
    assert str(negative) == "error: label.example_weight: w is below 0 in 2 of all 3 rows, expected 0 or more"
    (nothing,) = row_checks.check_weight("w", rows(w=[0, 0, None]))
    assert nothing.text == "w is 0 or missing in all 3 rows, so that none of them counts"


@pytest.mark.parametrize(
    ("held_out", "kept", "problem"),
    [
        (2_000, 1_000, None),
        (
            5_000,
            500,
            "replay.holdout_per_span: got 500, of which about 5 are of the rarer class (1.00% of all 1,000 "
            "rows), and auc is noise with fewer than 10: no past span is judged by it; expected 2,000 or "
            "more, and of replay.holdout_capacity many times that",
        ),
        (
            400.4,
            500,
            "gates.metrics.auc: about 4 of the 400 rows that a span holds out are of the rarer class (1.00% "
            "of all 1,000 rows), and auc is noise with fewer than 10: no past span is judged by it; make the "
            "spans longer, raise data.eval_share, or gate log_loss, which compares no pairs",
        ),
    ],
)
def test_a_class_too_rare_to_judge_past_spans_by(held_out: float, kept: int, problem: str | None) -> None:
    some = rows(y=[1] * 10 + [0] * 990)
    found = texts(row_checks.check_rarer_class("auc", Label(name="y"), some, held_out, kept))
    assert found == ([f"warning: {problem}"] if problem else [])


def test_a_rare_class_is_told_where_past_spans_are_judged_by_pairs(deploy: Deploy) -> None:
    few = [(i % 5, i / 8, "abc"[i % 3], int(i % 50 == 0)) for i in range(1_000)]
    config = deploy({"1/a.csv": csv(few)})
    (problem,) = found(config)
    assert problem.startswith("warning: gates.metrics.auc: about 4 of the 200 rows that a span holds out are")
    limits = {"auc": {"min_value": 0.5}, "log_loss": {"max_past_drop": 0.1}}
    assert found(deploy({"1/a.csv": csv(few)}, gates={"min_examples": 1, "metrics": limits})) == []


def test_slices() -> None:
    some = rows(a=[1, 1, 2, None], b=[b"u", b"v", b"u", b"u"])
    assert texts(row_checks.check_slice("slices.0", ["a"], some, held_out=200, min_examples=100)) == []
    (small,) = row_checks.check_slice("slices.0", ["a", "b"], some, held_out=200, min_examples=100)
    assert small.text == (
        "the most frequent value of a and b has about 50 held-out examples in all spans together, and "
        "gates.min_examples is 100: none is judged"
    )
    many = rows(a=list(range(101)))
    (finding,) = row_checks.check_slice("slices.0", ["a"], many, held_out=1e6, min_examples=1)
    assert finding.text == "a has 101 values in all 101 rows, each judged by itself; name another column"


# The command.


def command(*words: object) -> Any:
    return CliRunner().invoke(app, ["config", "check", *map(str, words)])


def test_it_exits_1_on_errors_and_0_on_warnings(deploy: Deploy) -> None:
    result = command(deploy({"1/a.csv": csv([(1, i, "ab"[i % 2], i % 2) for i in range(100)])}))
    assert result.exit_code == 0 and result.stdout.endswith("0 errors, 0 warnings\n")
    config = deploy({"1/a.csv": csv([(1, 2, "w", i % 2) for i in range(100)])})
    result = command(config)
    assert result.exit_code == 0 and result.stdout.endswith("0 errors, 2 warnings\n")
    result = command(deploy({"1/a.csv": csv([(1, 2, "w", 1)] * 50)}), "--json")
    assert result.exit_code == 1
    (told,) = [json.loads(line) for line in result.stdout.splitlines()]
    assert told["spans"] == {"1": 1} and len(told["warnings"]) == 2
    assert told["errors"] == [
        {"where": "label.name", "text": "y is 1 in all 50 rows; there is nothing to learn"}
    ]
    assert told["files"][0]["rows_read"] == 50


def test_a_file_that_is_no_deployment_is_refused_as_everywhere(deploy: Deploy) -> None:
    result = command(deploy(replay={"capacity": 0}))
    assert isinstance(result.exception, RetrainError)
    assert "replay.capacity: got 0, expected at least 1" in str(result.exception)


def test_it_needs_nothing_heavy(deploy: Deploy) -> None:
    n, x, word, y = (list(column) for column in zip(*ROWS, strict=True))
    config = deploy({"1/a.csv": csv(), "2/a.parquet": parquet(n=n, x=x, word=word, y=y)})
    code = (
        "import sys; from pipeline.cli import app; app(sys.argv[1:], standalone_mode=False); "
        "print(*sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "config", "check", str(config)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    heavy = {"tensorflow", "tfx", "apache_beam", "keras", "mlflow", "tensorflow_data_validation"}
    assert not heavy & set(done.stderr.split())
