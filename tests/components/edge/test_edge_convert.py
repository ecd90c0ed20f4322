"""Real TFLite models of real SavedModels, run by TensorFlow's interpreter."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tfx.types import channel_utils, standard_artifacts

from components import bounded, raw_columns
from components.artifacts import EdgeModel
from components.edge import convert, logic
from components.edge.component import Edge, Executor, judged
from components.errors import RetrainError

pytestmark = pytest.mark.xdist_group("transform_graph")


def request_of(trained, buffer, folder, task="binary", **more):
    label, metric = {"binary": ("big", "auc"), "multiclass": ("colour", "accuracy")}[task]
    return {
        "saved_model": str(trained.model / "Format-Serving"),
        "file": str(folder / "model.tflite"),
        "quantization": "none",
        "calibration": str(buffer / "Split-train" / "data_tfrecord-*"),
        "held_out": str(buffer / "Split-eval" / "data_tfrecord-*"),
        "examples": 120,
        "columns": list(trained.columns),
        "label": label,
        "task": task,
        "metric": metric,
        "relative": False,
        **more,
    }


@pytest.fixture(scope="module")
def converted(trained, buffer, tmp_path_factory):
    """What is found of a TFLite model of KINDS, and the file; made once."""
    made = {}

    def of(task, quantization="none"):
        if (task, quantization) not in made:
            folder = tmp_path_factory.mktemp("lite")
            request = request_of(trained(task), buffer, folder, task, quantization=quantization)
            found = convert.look(request, lambda _: None)
            made[task, quantization] = found, (folder / "model.tflite").read_bytes()
        return made[task, quantization]

    return of


@pytest.mark.parametrize("task", ["binary", pytest.param("multiclass", marks=pytest.mark.long)])
def test_it_answers_as_the_saved_model_with_tflites_own_operations(task, converted):
    found, content = converted(task)
    assert found["operations"] == [] and found["examples"] == 120 and found["not_finite"] == 0
    assert found["difference"] < 1e-6 and found["drop"] == pytest.approx(0.0, abs=1e-6)
    assert 0.7 < found["value"] <= 1.0  # it has learned something, so there was something to lose
    assert found["size"] == len(content)
    assert 0 < found["latency_ms"]["p50"] <= found["latency_ms"]["p99"]


@pytest.mark.parametrize(
    ("task", "quantization", "most"),
    [("binary", "float16", 0.01), pytest.param("multiclass", "int8", 0.1, marks=pytest.mark.long)],
)
def test_quantized_it_is_close(task, quantization, most, converted):
    found, content = converted(task, quantization)
    assert found["operations"] == [] and content != converted(task)[1]
    assert converted(task)[0]["difference"] < found["difference"] < most
    assert abs(found["drop"]) < 0.02


def test_a_device_asks_for_raw_columns_one_row_or_many(trained, buffer, converted):
    binary, (_, content) = trained("binary"), converted("binary")
    served = tf.saved_model.load(str(binary.model / "Format-Serving")).signatures["serving_raw"]
    inputs = convert._inputs(served.structured_input_signature[1], binary.columns)
    examples = convert._read(str(buffer / "Split-eval" / "data_tfrecord-*"), 50)
    columns = raw_columns.of_examples(examples, inputs)
    ask = tf.lite.Interpreter(model_content=content).get_signature_runner("serving_raw")
    together = ask(**columns)["predictions"]
    alone, _ = convert._answers(content, columns)
    np.testing.assert_allclose(together, alone["predictions"], rtol=1e-5)
    expected = served(**{name: tf.constant(values) for name, values in columns.items()})["predictions"]
    np.testing.assert_allclose(together, expected, rtol=1e-5)
    assert np.ptp(together) > 0.3  # not one answer for all


def test_what_tflite_has_no_operation_for_is_told(trained, buffer, tmp_path):
    def hashed(company: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"predictions": tf.cast(tf.strings.to_hash_bucket_fast(company, 7), tf.float32) / 7}

    module = tf.Module()
    module.answer = tf.function(hashed, input_signature=[tf.TensorSpec([None], tf.string, name="company")])
    tf.saved_model.save(module, str(tmp_path / "hashed"), signatures={"serving_raw": module.answer})
    request = request_of(trained("binary"), buffer, tmp_path)
    request |= {"saved_model": str(tmp_path / "hashed"), "columns": ["company"]}
    found = convert.look(request, lambda _: None)
    assert found["operations"] == ["StringToHashBucketFast"]
    assert found["why"] == (
        "it needs operations of TensorFlow (StringToHashBucketFast) that the interpreter here does not have, "
        "so it could not be compared"
    )


def test_without_a_held_out_example_there_is_nothing_to_compare(trained, buffer, tmp_path):
    request = request_of(trained("binary"), buffer, tmp_path, held_out=str(tmp_path / "none-*"))
    assert convert.look(request, lambda _: None) == {"why": "there is no held-out example to compare it on"}


def test_answers_that_are_not_finite_are_counted():
    request = {"task": "binary", "metric": "auc", "relative": False}
    good, bad = ({"predictions": np.array([0.1, x, 0.3], np.float32)} for x in (0.2, np.nan))
    found = convert.compared(request, bad, good, [0.0, 1.0, 1.0])
    assert found["not_finite"] == 1 and found["drop"] is None
    assert (
        logic.problems(found, {"max_difference": 1.0, "max_drop": 1.0})[0] == "1 of 3 answers are not finite"
    )


def run(trained, buffer, folder, **more):
    """What `edge.json` says."""
    model, examples, output = standard_artifacts.Model(), standard_artifacts.Examples(), EdgeModel()
    model.uri, examples.uri, output.uri = str(trained.model), str(buffer), str(folder)
    examples.split_names = '["train", "eval"]'
    settings = {"quantization": "none", "examples": 60, "max_difference": 0.02, "max_drop": 0.01}
    settings |= {"columns": trained.columns, "label": "big", "task": "binary", "metric": "auc"}
    settings |= {"relative": False, "max_seconds": 120.0, "max_memory_mb": 4000, **more}
    channels = {"model": channel_utils.as_channel([model]), "buffer": channel_utils.as_channel([examples])}
    component = Edge(**channels, **settings)
    Executor().Do({"model": [model], "buffer": [examples]}, {"edge": [output]}, component.exec_properties)
    return json.loads((folder / "edge.json").read_text())


def test_the_stage_keeps_what_is_good_enough(trained, buffer, tmp_path):
    found = run(trained("binary"), buffer, tmp_path)
    assert found["problems"] == [] and found["quantization"] == "none"
    assert found["seconds"] > 0 and found["memory_mb"] > 300
    assert sorted(path.name for path in tmp_path.iterdir()) == ["edge.json", "model.tflite"]
    assert (tmp_path / "model.tflite").stat().st_size == found["size"]


def test_the_stage_leaves_out_what_is_not(trained, buffer, converted, tmp_path, monkeypatch):
    found, content = converted("binary", "float16")

    def ended(module, request, max_seconds, max_memory_mb):
        Path(request["file"]).write_bytes(content)
        return bounded.Ended(dict(found), "", 1.0, 500)

    monkeypatch.setattr(bounded, "run", ended)
    left = run(trained("binary"), buffer, tmp_path, max_difference=1e-9, max_drop=1.0)
    (problem,) = left["problems"]
    assert problem.startswith("its answers differ from the SavedModel's by ") and left["size"] == len(content)
    assert [path.name for path in tmp_path.iterdir()] == ["edge.json"]


def test_a_converter_that_does_not_come_back():
    ended = bounded.Ended(None, "its process was ended by SIGABRT after 3.0 s", 3.0, 500)
    found = judged(ended, {"max_difference": 0.1, "max_drop": 0.1})
    assert found == {"problems": [ended.why], "seconds": 3.0, "memory_mb": 500}


def test_an_unknown_quantization_is_refused(trained, buffer, tmp_path):
    with pytest.raises(RetrainError, match=r"edge\.quantization: got 'int4', expected one of none"):
        run(trained("binary"), buffer, tmp_path, quantization="int4")
