"""`retrain init` on real files, up to the pair that any run would read."""

from __future__ import annotations

import datetime
import gzip
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from components.errors import RetrainError
from pipeline.cli import app
from pipeline.config import load
from pipeline.config.schema import check_schema, read_schema
from pipeline.init import command
from pipeline.init.command import Request, init
from pipeline.init.profile import profile

ROWS = 600


def orders(rows: int = ROWS) -> pa.Table:
    """A table with a column of many a kind; `late` depends on the weight and the city."""
    rng = np.random.default_rng(0)
    weight = rng.lognormal(1, 1, rows).round(2)
    city = rng.choice(["Bern", "Oslo", "Rome"], rows)
    late = np.where(weight + 3 * (city == "Rome") + rng.normal(0, 2, rows) > 5, "yes", "no")
    start = datetime.datetime(2024, 1, 1)
    return pa.table(
        {
            "Order No": np.arange(rows) + 1000,
            "ordered at": pa.array([start + datetime.timedelta(hours=7 * i) for i in range(rows)]),
            "weight (kg)": weight,
            "city": city,
            "pieces": rng.integers(1, 9, rows),
            "note": [
                " ".join(rng.choice(["fast", "please", "ring", "bell"], 5)) + f" {i}" for i in range(rows)
            ],
            "refunded": np.where(late == "yes", "r", "k"),
            "nothing": pa.nulls(rows, pa.string()),
            "late": late,
        }
    )


def write_csv(table: pa.Table, path: Path) -> Path:
    pa.csv.write_csv(table, path)
    return path


def write_tfrecord(table: pa.Table, path: Path) -> Path:
    import tensorflow as tf

    def feature(value):
        if isinstance(value, datetime.datetime):
            value = value.isoformat(sep=" ")
        if isinstance(value, str):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()]))
        if isinstance(value, int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))

    with tf.io.TFRecordWriter(str(path)) as writer:
        for row in table.to_pylist():
            known = {name: feature(value) for name, value in row.items() if value is not None}
            writer.write(tf.train.Example(features=tf.train.Features(feature=known)).SerializeToString())
    return path


def write(kind: str, folder: Path, rows: int = ROWS) -> Path:
    table = orders(rows)
    match kind:
        case "csv":
            return write_csv(table, folder / "orders.csv")
        case "csv.gz":
            plain = write_csv(table, folder / "orders")
            (path := folder / "orders.csv.gz").write_bytes(gzip.compress(plain.read_bytes()))
            return path
        case "parquet":
            pa.parquet.write_table(table, folder / "orders.parquet")
            return folder / "orders.parquet"
    return write_tfrecord(table, folder / "orders.tfrecord")


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet", "tfrecord"])
def test_every_format_becomes_a_deployment(tmp_path, kind):
    source = write(kind, tmp_path)
    written = init(
        Request((source,), "late", time_column="ordered at", every="month", folder=tmp_path / "work")
    )
    assert files(tmp_path / "work") == {
        "configs/orders.yaml",
        "schemas/orders.pbtxt",
        *(f"data/orders/{n}/2024-{n:02d}.{kind}" for n in range(1, 7)),
    }
    assert sum(written.spans.values()) == ROWS
    roles = {role.column: role.role for role in written.roles}
    assert roles == {
        "Order No": "ignored",
        "ordered at": "timestamp",
        "weight (kg)": "numeric",
        "city": "categorical",
        "pieces": "numeric",
        "note": "text",
        "refunded": "leak?",
        "late": "label",
    } | ({} if kind == "tfrecord" else {"nothing": "ignored"})
    deployment = load(written.config)
    schema = read_schema(deployment.schema_path)
    check_schema(deployment, schema)
    assert deployment.label.expression == "`late` == 'yes'"
    assert deployment.preprocessing.features["weight_kg"].log
    stages = {f.name: f.lifecycle_stage for f in schema.feature}
    assert {name for name, stage in stages.items() if stage} == {
        name for name, role in roles.items() if role in ("ignored", "leak?")
    }


def test_what_init_writes_is_what_ingest_reads(tmp_path):
    from components.ingest.recipe import make_recipe, match_header
    from components.ingest.tables import open_table

    source = write("csv", tmp_path)
    written = init(Request((source,), "late", folder=tmp_path))
    deployment = load(written.config)
    label = json.dumps({"name": deployment.label.name, "expression": deployment.label.expression})
    recipe = make_recipe(read_schema(deployment.schema_path), label, 0.2)
    assert match_header(open_table(source).names, recipe) == []


def drift_of(schema, name):
    (feature,) = (f for f in schema.feature if f.name == name)
    comparator = feature.drift_comparator
    return comparator.infinity_norm.threshold or comparator.jensen_shannon_divergence.threshold


@pytest.mark.parametrize("every", [None, "100rows"])
def test_ordinary_data_neither_drifts_nor_is_refused(tmp_path, every):
    """Further rows of the same kind pass the schema and its comparators, and others do not."""
    import tensorflow_data_validation as tfdv
    from tensorflow_data_validation.statistics import stats_impl, stats_options

    from components.validate.logic import measure_drift, problems
    from pipeline.init.schema import _as_examples

    table = orders(1_200)
    source = write_csv(table.slice(0, 800), tmp_path / "orders.csv")
    written = init(Request((source,), "late", every=every, folder=tmp_path))
    schema = read_schema(written.schema)

    def anomalies(tables):
        statistics = []
        for i, piece in enumerate(tables):
            path = write_csv(piece, tmp_path / f"piece-{i}.csv")
            columns = profile([path], "late", 10_000).columns
            read = [r.column for r in written.roles if r.used or r.role == "label"]
            batch = pa.RecordBatch.from_arrays([_as_examples(columns[name]) for name in read], names=read)
            options = stats_options.StatsOptions(schema=schema)
            statistics.append(stats_impl.generate_statistics_in_memory(batch, options))
        before, after = statistics
        found = tfdv.validate_statistics(after, schema, "TRAINING", previous_statistics=before)
        return problems({"train": found}, "error"), measure_drift(found, {})

    refused, drift = anomalies([table.slice(0, 800), table.slice(800)])
    assert not refused
    assert not [d for d in drift if d.drifted]
    rome = table.filter(pa.compute.equal(table.column("city"), "Rome"))
    heavy = rome.set_column(2, "weight (kg)", pa.compute.add(rome.column("weight (kg)"), 50.0))
    _, drift = anomalies([table.slice(0, 800), heavy])
    assert {d.feature for d in drift if d.drifted} >= {"city", "weight (kg)"}


def test_a_new_category_does_not_stop_a_run_and_many_do(tmp_path):
    import tensorflow_data_validation as tfdv
    from tensorflow_data_validation.statistics import stats_impl, stats_options

    source = write("csv", tmp_path)
    schema = read_schema(init(Request((source,), "late", folder=tmp_path)).schema)
    (city,) = (f for f in schema.feature if f.name == "city")
    assert city.distribution_constraints.min_domain_mass == 0.9
    for share, stops in ((0.05, False), (0.3, True)):
        new = ["Lima"] * int(100 * share)
        values = pa.array([[c.encode()] for c in new + ["Rome"] * (100 - len(new))])
        statistics = stats_impl.generate_statistics_in_memory(
            pa.RecordBatch.from_arrays([values], ["city"]), stats_options.StatsOptions(schema=schema)
        )
        assert ("city" in tfdv.validate_statistics(statistics, schema).anomaly_info) == stops


def test_several_files_are_one_table(tmp_path):
    table = orders()
    one = write_csv(table.slice(0, 400), tmp_path / "a.csv")
    pa.parquet.write_table(table.slice(400), tmp_path / "b.parquet")
    two = write_csv(table.slice(400), tmp_path / "b.csv")
    by_rows = init(Request((one, two), "late", every="250rows", name="rows", folder=tmp_path / "w"))
    assert by_rows.spans == {1: 250, 2: 250, 3: 100}
    assert {"data/rows/2/rows-251-500-1.csv", "data/rows/2/rows-251-500-2.csv"} <= files(tmp_path / "w")
    together = init(Request((one, two), "late", name="one", folder=tmp_path / "w"))
    assert together.spans == {1: ROWS}
    assert {"data/one/1/a.csv", "data/one/1/b.csv"} <= files(tmp_path / "w")
    with pytest.raises(RetrainError, match=r"b.parquet: column 'Order No' is INT.*text of a CSV file"):
        init(Request((one, tmp_path / "b.parquet"), "late", name="mixed", folder=tmp_path / "w"))
    other = write_csv(table.select(["city", "late"]), tmp_path / "c.csv")
    with pytest.raises(RetrainError, match=r"c.csv: the columns are not those of .*a.csv"):
        init(Request((one, other), "late", name="mixed", folder=tmp_path / "w"))


def test_nothing_is_overwritten_without_force(tmp_path):
    source = write("csv", tmp_path)
    init(Request((source,), "late", folder=tmp_path))
    before = {path: (tmp_path / path).read_bytes() for path in files(tmp_path)}
    with pytest.raises(RetrainError, match=r"already there: .*data/orders \(data\).*--force"):
        init(Request((source,), "city", folder=tmp_path))
    assert {path: (tmp_path / path).read_bytes() for path in files(tmp_path)} == before
    (tmp_path / "state/orders").mkdir(parents=True)
    written = init(Request((source,), "city", force=True, folder=tmp_path))
    assert load(written.config).label.name == "city"
    assert any("is of an earlier deployment" in note for note in written.notes)
    assert files(tmp_path) == before.keys()


def csv(rows, head="a,b,y"):
    return (head + "\n" + "\n".join(rows) + "\n").encode()


RANDOM = random.Random(0)
GOOD = [f"{RANDOM.random()},{RANDOM.choice('pqr')},{RANDOM.choice('01')}" for _ in range(200)]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (csv(GOOD), {"label": "z"}, "there is no column 'z'; it has 'a', 'b', 'y'"),
        (csv(GOOD), {"label": "Y"}, "did you mean 'y'"),
        (csv([f"{i},x,1" for i in range(99)]), {}, "is '1' in every row"),
        (csv(GOOD, "a,a,y"), {}, "'a' are there more than once"),
        (csv(GOOD[:1]), {}, "there is 1 row with a value of 'y'"),
        (csv([]), {}, "there is no row"),
        (b"", {}, "is empty"),
        (csv([x.replace(",", ";") for x in GOOD], "a;b;y"), {}, "separated by ';', and only commas"),
        (csv(GOOD).replace(b"p", b"\xe9"), {}, "not UTF-8"),
        (gzip.compress(csv(GOOD), mtime=0)[:-20], {}, "truncated"),
        (b"PK\x03\x04" + b"x" * 99, {}, "spreadsheet"),
        (csv([f"{i},x,c{i}" for i in range(10_000)]), {}, "about 10,000 different values"),
        (csv([f"{i},x,{'' if i % 3 else i % 2}" for i in range(99)]), {}, "missing in 66 of 99 rows"),
        (csv(GOOD), {"time_column": "b", "every": "day"}, "no time can be read.*'p'"),
        (csv(GOOD), {"time_column": "z", "every": "day"}, "no column 'z'"),
        (csv(GOOD), {"time_column": "b"}, "Add --every"),
        (csv(GOOD), {"every": "day"}, "with --time"),
        (csv(GOOD), {"every": "9rows", "time_column": "b"}, "leave --time out"),
        (csv(GOOD), {"every": "hour"}, "expected one of day, week"),
        (csv(GOOD), {"name": "9"}, "expected a letter first"),
        (csv([x[-1] for x in GOOD], "y"), {}, "no column is left"),
        (csv([f"{i},{x[-1]}" for i, x in enumerate(GOOD)], "n,y"), {}, "no column is left.*an id"),
        (csv(GOOD, "span,b,y"), {}, "'span' has a name that is the pipeline's own"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_what_cannot_be_learned_from_is_told_and_leaves_nothing(tmp_path, content, options, message):
    (source := tmp_path / "in").mkdir()
    (file := source / "data.csv").write_bytes(content)
    request = Request((file,), **{"label": "y", "folder": tmp_path / "work", **options})
    with pytest.raises(RetrainError, match=f"(?s){message}"):
        init(request)
    assert not (tmp_path / "work").exists() or not files(tmp_path / "work")


def test_rows_that_will_be_quarantined_are_told_and_allowed_for(tmp_path):
    rows = [
        f"{'abc' if i == 7 else i / 7},{'pq'[i % 3 % 2]},{'' if i % 20 == 0 else RANDOM.choice('01')}"
        for i in range(400)
    ]
    (tmp_path / "a.csv").write_bytes(csv(rows + ["1,p"] * 5))
    written = init(Request((tmp_path / "a.csv",), "y", folder=tmp_path))
    told = "\n".join(written.notes)
    assert "a: 1 of 400 cells are no number, such as 'abc'" in told
    assert "20 of 400 rows have no label" in told
    assert "5 rows have a wrong number of cells" in told
    assert 26 / 405 <= load(written.config).data.max_quarantine_share < 0.15


def test_a_wide_table(tmp_path):
    rng = np.random.default_rng(0)
    columns = {f"c{i}": rng.normal(size=100).round(3) for i in range(110)}
    write_csv(pa.table({**columns, "y": rng.integers(0, 2, 100)}), tmp_path / "wide.csv")
    written = init(Request((tmp_path / "wide.csv",), "y", folder=tmp_path))
    assert len(load(written.config).preprocessing.features) == 110
    assert command.table(written).row_count == 7  # the label, five of 110, and how many more


def test_memory_does_not_grow_with_the_file(tmp_path):
    """Of a process of its own, as memory that Python and Arrow once had is not given back."""
    code = (
        "import re, sys; from pathlib import Path; import pyarrow.csv, pyarrow.parquet;"
        "from pipeline.init.profile import profile;"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]);"
        "before = peak(); found = profile([Path(sys.argv[1])], 'y', 5_000);"
        "print(found.rows, found.sampled, (peak() - before) // 1024)"
    )
    piece = csv(GOOD)[6:] * 100

    def grown(pieces: int) -> int:
        with open(tmp_path / "a.csv", "wb") as file:
            file.write(b"a,b,y\n")
            for _ in range(pieces):
                file.write(piece)
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path / "a.csv"], capture_output=True, text=True, check=True
        )
        rows, sampled, mebibytes = map(int, done.stdout.split())
        assert (rows, sampled) == (20_000 * pieces, 5_000)
        return mebibytes

    small, large = grown(15), grown(130)  # 7 and 60 MB
    assert large < min(1.4 * small, 200)


def test_the_command_prints_what_it_decided_and_what_to_type(tmp_path, capfd):
    source = write("csv", tmp_path)
    arguments = ["init", str(source), "--label", "late", "--dir", str(tmp_path)]
    app(arguments, standalone_mode=False)
    printed = capfd.readouterr().out
    for words in ("predicts   late_is_yes", "All rows are one span", "refunded", "leak?", "retrain run "):
        assert words in printed
    app([*arguments, "--json", "--force"], standalone_mode=False)
    told = json.loads(capfd.readouterr().out)
    assert told["label"]["task"] == "binary"
    assert {c["column"]: c["role"] for c in told["columns"]}["city"] == "categorical"
    assert told["next"][0] == f"retrain run {tmp_path / 'configs/orders.yaml'}"


def test_help_needs_nothing_heavy():
    code = (
        "import sys; from typer.testing import CliRunner; from pipeline.cli import app;"
        "assert CliRunner().invoke(app, ['init', '--help']).exit_code == 0;"
        "print(sorted({'tensorflow', 'apache_beam', 'pyarrow', 'numpy', 'tfx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
