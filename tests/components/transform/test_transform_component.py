"""The stage on small real artifacts: fitted at a cold start, used again, and fitted anew for each reason."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
import tensorflow_data_validation as tfdv
import tensorflow_transform as tft
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.components.transform import executor as stock
from tfx.types import channel_utils, standard_artifacts

from components.beam_memory import remembered
from components.features import NUMERIC, NUMERIC_MEAN, NUMERIC_SCALE, Categorical, Numeric, to_json
from components.label import Label
from components.transform.component import Transform

pytestmark = pytest.mark.xdist_group("transform_component")

TYPES = {"x": "FLOAT", "word": "BYTES", "code": "INT", "y": "BYTES"}
FEATURES = [Numeric(name="x"), Categorical(name="word"), Categorical(name="code")]
LABEL = Label(name="y", task="multiclass")
BEAM = ["--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner", "--sdk_container_image=unused"]


def table(shift=0.0, words="ab", classes="yn", rows=60):
    return [
        {"x": shift + i % 7, "word": words[i % len(words)], "code": i % 3, "y": classes[i % len(classes)]}
        for i in range(rows)
    ]


class Stage:
    """Runs the component; every call has a folder of its own."""

    def __init__(self, folder, serialize):
        self.folder, self.serialize, self.runs = folder, serialize, 0

    def _artifact(self, kind, folder):
        made = kind()
        made.uri = str(folder)
        folder.mkdir(parents=True, exist_ok=True)
        return made

    def _inputs(self, folder, rows, types):
        schema = schema_pb2.Schema()
        for name, kind in types.items():
            column = schema.feature.add(name=name, type=schema_pb2.FeatureType.Value(kind))
            column.value_count.min = 0
            if kind == "INT":
                column.int_domain.is_categorical = True
        examples = self._artifact(standard_artifacts.Examples, folder / "examples")
        examples.split_names = '["train", "eval"]'
        for split in ("train", "eval"):
            (folder / "examples" / f"Split-{split}").mkdir()
            path = folder / "examples" / f"Split-{split}" / "data_tfrecord-00000-of-00001.gz"
            with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
                for record in self.serialize(rows, types):
                    writer.write(record)
        statistics = self._artifact(standard_artifacts.ExampleStatistics, folder / "statistics")
        statistics.split_names = '["train"]'
        options = tfdv.StatsOptions(schema=schema)
        counted = tfdv.generate_statistics_from_dataframe(pd.DataFrame(rows), options)
        (folder / "statistics" / "Split-train").mkdir()
        (folder / "statistics" / "Split-train" / "FeatureStats.pb").write_bytes(counted.SerializeToString())
        made = self._artifact(standard_artifacts.Schema, folder / "schema")
        (folder / "schema" / "schema.pbtxt").write_text(text_format.MessageToString(schema))
        return {"examples": examples, "schema": made, "statistics": statistics}

    def __call__(self, rows, base=None, types=TYPES, **changed):
        """The folder of the graph; `base`: the folder of the champion's."""
        self.runs += 1
        folder = self.folder / str(self.runs)
        inputs = self._inputs(folder, rows, types)
        if base:
            inputs["base_graph"] = self._artifact(standard_artifacts.TransformGraph, base)
        settings = {
            "features": to_json(FEATURES),
            "label": LABEL.model_dump(),
            "label_state": None,
            "module": None,
            "kept": {},
            "policy": {},
        }
        made = Transform(
            **{name: channel_utils.as_channel([one]) for name, one in inputs.items()}, **settings | changed
        )
        output = self._artifact(standard_artifacts.TransformGraph, folder / "graph")
        executor = made.executor_spec.executor_class
        with remembered():
            executor(executor.Context(beam_pipeline_args=list(BEAM))).Do(
                {name: [one] for name, one in inputs.items()},
                {"transform_graph": [output]},
                dict(made.exec_properties),
            )
        return folder / "graph"


@pytest.fixture(scope="module")
def stage(tmp_path_factory, serialize):
    return Stage(tmp_path_factory.mktemp("stage"), serialize)


@pytest.fixture(scope="module")
def champion(stage):
    return stage(table())


@pytest.fixture
def no_fit(monkeypatch):
    """The stock executor must not run, nor any Beam job begin."""

    def refuse(*_):
        raise AssertionError("a pass of analysis")

    monkeypatch.setattr(stock.Executor, "Do", refuse)
    monkeypatch.setattr(stock.Executor, "_make_beam_pipeline", refuse)


@pytest.fixture
def fits(monkeypatch):
    """What would be fitted is not, and the champion's graph stands in: only the decision is looked at."""
    asked = []

    def pretend(_, inputs, outputs, properties):
        asked.append(properties)
        shutil.copytree(inputs["base_graph"][0].uri, outputs["transform_graph"][0].uri, dirs_exist_ok=True)

    monkeypatch.setattr(stock.Executor, "Do", pretend)
    return asked


def told(graph):
    return json.loads((graph / "policy.json").read_text())


def transformed(graph, rows, serialize):
    output = tft.TFTransformOutput(str(graph))
    examples = tf.io.parse_example(serialize(rows, TYPES), output.raw_feature_spec())
    return {name: tensor.numpy() for name, tensor in output.transform_features_layer()(examples).items()}


def test_a_cold_start_is_fitted_and_says_on_what(champion):
    assert told(champion) == {
        "action": "fitted",
        "reasons": ["there is no champion's graph to begin with"],
        "measures": [],
        "reuses": 0,
    }
    fit = json.loads((champion / "fit.json").read_text())
    assert fit["numbers"]["x"]["low"] == 0 and fit["numbers"]["x"]["high"] == 6
    assert fit["oov"] == {"word": 0, "code": 0}
    assert not list(champion.glob(".temp_path*"))


def test_on_like_data_the_graph_is_used_again_and_nothing_is_analysed(stage, champion, no_fit, serialize):
    again = stage(table(), base=champion)
    assert told(again)["action"] == "reused" and told(again)["reuses"] == 1
    assert {m["measure"] for m in told(again)["measures"]} == {
        "oov_increase",
        "out_of_range",
        "mean_shift",
        "scale_change",
    }
    assert told(stage(table(), base=again))["reuses"] == 2
    assert (again / "fit.json").read_text() == (champion / "fit.json").read_text()
    rows = [*table(shift=3.0, words="abz", rows=9), {}]
    before, after = (transformed(graph, rows, serialize) for graph in (champion, again))
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name])


def test_a_copy_does_without_its_original(stage, champion, no_fit, serialize, tmp_path):
    original = tmp_path / "original"
    shutil.copytree(champion, original)
    copy = stage(table(), base=original)
    shutil.rmtree(original)
    assert transformed(copy, table(rows=3), serialize)["word"].tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("rows", "changed", "reason"),
    [
        (table(words="abc"), {}, "word: 33.3% of the values are out of its vocabulary"),
        (table(shift=4.0), {}, "x: its mean has moved by 2.01 standard deviations"),
        (table(classes="ynm"), {}, "classes that the graph does not know: m"),
        (table(classes="ynm"), {"policy": {"policy": "reuse"}}, "the graph does not know: m"),
        (table(), {"policy": {"policy": "refit"}}, "transform.policy is refit"),
        (table(), {"features": to_json(FEATURES[:2])}, "the feature code is gone"),
        (table(), {"types": TYPES | {"z": "INT"}}, "the column z was none in the schema, is INT"),
        (table(), {"label": LABEL.model_dump() | {"example_weight": "x"}}, "label.example_weight"),
    ],
    ids=["oov", "mean", "class", "class_reuse", "refit", "feature", "schema", "label"],
)
def test_each_reason_has_the_stock_executor_fit_anew(stage, champion, fits, rows, changed, reason):
    graph = stage(rows, base=champion, **changed)
    assert told(graph)["action"] == "refitted" and told(graph)["reuses"] == 0
    assert any(reason in said for said in told(graph)["reasons"]), told(graph)["reasons"]
    assert len(fits) == 1


def test_a_graph_that_says_nothing_of_its_fit_is_not_used_again(stage, champion, fits, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(champion, old, ignore=shutil.ignore_patterns("fit.json", "policy.json"))
    assert told(stage(table(), base=old))["reasons"] == [
        "the champion's graph does not say what it was fitted on"
    ]


def test_the_code_of_a_users_preprocessing_is_part_of_the_graph(stage, champion, fits, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    build = "def build_model(blueprint, params): ...\n"
    (tmp_path / "only_a_model.py").write_text(build)
    (tmp_path / "with_columns.py").write_text(build + "def preprocessing_fn(inputs): return {}\n")
    assert told(stage(table(), base=champion, module="only_a_model"))["action"] == "reused"
    assert told(stage(table(), base=champion, module="with_columns"))["reasons"] == [
        "the code of the preprocessing has changed"
    ]


def test_a_refit_knows_the_new_terms_keeps_the_classes_and_unites_the_ranges(stage, champion, serialize):
    rows = table(shift=10.0, words="cb", classes="mn")
    kept = {"x": {"mean": 3.0, "scale": 2.0}}
    graph = stage(rows, base=champion, label_state={"classes": ["y", "n"]}, kept=kept)
    assert told(graph)["action"] == "refitted"
    fit = json.loads((graph / "fit.json").read_text())
    assert (fit["numbers"]["x"]["low"], fit["numbers"]["x"]["high"]) == (0, 16)
    assert tft.TFTransformOutput(str(graph)).vocabulary_by_name("label_vocabulary") == [b"y", b"n", b"m"]
    out = transformed(graph, rows, serialize)
    assert out["word"].max() == 1
    assert out[NUMERIC_MEAN][0] == [3.0] and out[NUMERIC_SCALE][0] == [2.0]
    np.testing.assert_array_equal(out[NUMERIC][:, 0], [(row["x"] - 3.0) / 2.0 for row in rows])
    assert told(stage(rows, base=graph))["action"] == "reused"
