"""The SavedModel of a trained version, as a server loads it."""

import json
import math
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.saved_model import fingerprinting_utils
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from components.features import request_names
from components.label import Label
from components.names import (
    CLASSIFY,
    EXPECTED_ANSWERS,
    MISSING_INT,
    PREDICTIONS,
    REGRESS,
    SERVING_DEFAULT,
    SERVING_RAW,
)
from components.smoke import ask
from components.train.export import saved_model as export
from components.train.export import version

pytestmark = pytest.mark.xdist_group("transform_graph")

COLUMNS = {
    "fare": (tf.float32, math.nan),
    "miles": (tf.float32, math.nan),
    "tolls": (tf.float32, math.nan),
    "passengers": (tf.int64, MISSING_INT),
    "area": (tf.int64, MISSING_INT),
    "hour": (tf.int64, MISSING_INT),
    "company": (tf.string, ""),
    "rare": (tf.string, ""),
}


@pytest.fixture(scope="module")
def loaded(cold):
    return tf.saved_model.load(str(cold.saved_model))


@pytest.fixture(scope="module")
def rows(before):
    """A row with everything, one without each column, one with nothing, and rows as they come."""
    whole = {
        "fare": 12.0,
        "miles": 2.5,
        "tolls": 1.0,
        "passengers": 0,
        "area": 7,
        "hour": 3,
        "company": "çyd",
        "rare": "q",
    }
    return [whole, *(whole | {name: None} for name in COLUMNS), {}, *before.rows]


def by_column(rows):
    return {
        name: tf.constant([empty if row.get(name) is None else row[name] for row in rows], dtype)
        for name, (dtype, empty) in COLUMNS.items()
    }


def test_both_signatures_give_the_same_answers(loaded, rows, serialize):
    default = loaded.signatures[SERVING_DEFAULT](examples=tf.constant(serialize(rows)))[PREDICTIONS].numpy()
    raw = loaded.signatures[SERVING_RAW](**by_column(rows))[PREDICTIONS].numpy()
    np.testing.assert_array_equal(default, raw)
    assert default.shape == (len(rows),) and default.dtype == np.float32
    assert ((default > 0) & (default < 1)).all()
    assert (default[1:7] != default[0]).all()  # what is missing is told from what is there


def test_the_signatures_take_the_columns_of_the_features_and_no_label(loaded):
    (_, default), (_, raw) = (
        loaded.signatures[name].structured_input_signature for name in (SERVING_DEFAULT, SERVING_RAW)
    )
    assert {name: (spec.dtype, spec.shape.rank) for name, spec in default.items()} == {
        "examples": (tf.string, 1)
    }
    assert {name: (spec.dtype, spec.shape.rank) for name, spec in raw.items()} == {
        name: (dtype, 1) for name, (dtype, _) in COLUMNS.items()
    }
    for name in (SERVING_DEFAULT, SERVING_RAW):
        assert list(loaded.signatures[name].structured_outputs) == [PREDICTIONS]


def test_examples_with_the_label_are_answered_alike(loaded, before, serialize):
    answer = loaded.signatures[SERVING_DEFAULT]
    blind = [{name: value for name, value in row.items() if name in COLUMNS} for row in before.rows]
    a, b = (answer(examples=tf.constant(serialize(r)))[PREDICTIONS].numpy() for r in (before.rows, blind))
    np.testing.assert_array_equal(a, b)


def test_the_raw_outputs_are_there_for_the_buffer_but_not_served(loaded, rows, serialize):
    examples = tf.constant(serialize(rows))
    logits = loaded.logits(examples)
    assert logits.shape == (len(rows), 1) and logits.dtype == tf.float32
    answers = loaded.signatures[SERVING_DEFAULT](examples=examples)[PREDICTIONS]
    np.testing.assert_allclose(tf.sigmoid(logits)[:, 0], answers, rtol=1e-6)
    assert set(loaded.signatures) == {SERVING_DEFAULT, SERVING_RAW, CLASSIFY, REGRESS}


def test_classes_and_values_for_the_methods_of_these_names(loaded, rows, serialize):
    examples = tf.constant(serialize(rows))
    probability = loaded.signatures[SERVING_DEFAULT](examples=examples)[PREDICTIONS].numpy()
    classified = loaded.signatures[CLASSIFY](inputs=examples)
    assert classified["classes"].numpy().tolist() == [[b"0", b"1"]] * len(rows)
    np.testing.assert_allclose(classified["scores"], np.stack([1 - probability, probability], 1), atol=1e-7)
    np.testing.assert_array_equal(loaded.signatures[REGRESS](inputs=examples)["outputs"], probability)


def test_tf_serving_finds_their_methods(cold):
    file = cold.saved_model / "saved_model.pb"
    (graph,) = saved_model_pb2.SavedModel.FromString(file.read_bytes()).meta_graphs
    methods = {
        name: (signature.method_name, list(signature.inputs), sorted(signature.outputs))
        for name, signature in graph.signature_def.items()
        if name in (CLASSIFY, REGRESS, SERVING_DEFAULT)
    }
    assert methods == {
        CLASSIFY: ("tensorflow/serving/classify", ["inputs"], ["classes", "scores"]),
        REGRESS: ("tensorflow/serving/regress", ["inputs"], ["outputs"]),
        SERVING_DEFAULT: ("tensorflow/serving/predict", ["examples"], [PREDICTIONS]),
    }


def test_the_fingerprint_is_that_of_the_file(cold, tmp_path):
    copy = shutil.copytree(cold.saved_model, tmp_path / "copy")
    known = tf.saved_model.experimental.read_fingerprint(str(cold.saved_model))
    fingerprinting_utils.write_fingerprint(str(copy))
    assert tf.saved_model.experimental.read_fingerprint(str(copy)) == known


def test_what_warms_it_up_is_few_requests_to_every_signature(cold, loaded, before):
    file = cold.saved_model / "assets.extra" / "tf_serving_warmup_requests"
    logs = [PredictionLog.FromString(r) for r in tf.data.TFRecordDataset(str(file)).as_numpy_iterator()]
    assert [(log.WhichOneof("log_type"), *size(log)) for log in logs] == [
        *(("predict_log", name, n) for name in (SERVING_DEFAULT, SERVING_RAW) for n in (1, 4, 32)),
        *(("classify_log", CLASSIFY, n) for n in (1, 4, 32)),
        *(("regress_log", REGRESS, n) for n in (1, 4, 32)),
    ]
    (first, *_) = logs[2].predict_log.request.inputs["examples"].string_val
    told = tf.train.Example.FromString(first).features.feature
    assert len(told) > 0 and set(told) <= set(COLUMNS)  # no label, span or id
    largest = logs[2].predict_log.request.inputs["examples"]
    loaded.signatures[SERVING_DEFAULT](examples=tf.constant(tf.make_ndarray(largest)))


def size(log):
    """The signature, and how many rows it is asked."""
    request = getattr(log, log.WhichOneof("log_type")).request
    if log.HasField("predict_log"):
        rows = next(iter(request.inputs.values())).tensor_shape.dim[0].size
    else:
        rows = len(request.input.example_list.examples)
    return request.model_spec.signature_name, rows


def test_large_rows_warm_it_up_in_small_batches():
    assert version._batches([b"x" * 1000] * 50) == [1, 4, 32]
    assert version._batches([b"x" * 1000] * 3) == [1, 3]
    assert version._batches([b"x" * 300_000] * 50) == [1, 3]
    assert version._batches([b"x" * 3_000_000] * 50) == [1]


def test_it_answers_as_tf_serving_loads_it(cold):
    """All signatures, with the answers that the model gave before it was saved."""
    request = {"saved_model": str(cold.saved_model), "expected": str(cold.checkpoint / EXPECTED_ANSWERS)}
    found = ask.look({**request, "max_difference": 1e-6}, lambda _: None)
    assert found["problems"] == [] and found["examples"] == 100
    assert 0 < found["first_request_ms"]["warm"] < found["first_request_ms"]["cold"]


def test_no_rows_give_no_answers(loaded):
    assert loaded.signatures[SERVING_RAW](**by_column([]))[PREDICTIONS].shape == (0,)


def test_the_optimizer_is_not_served(cold):
    """Weights alone: as many numbers as the checkpoint holds less its slots, step and averages."""
    stored = {
        name: math.prod(shape)
        for name, shape in tf.train.list_variables(str(cold.saved_model / "variables/variables"))
        if name != "_CHECKPOINTABLE_OBJECT_GRAPH"
    }
    kept = cold.variables()
    slots = sum(array.size for name, array in kept.items() if name.startswith("optimizer/"))
    weights = sum(array.size for name, array in kept.items() if name.startswith("model/"))
    assert slots > 1000 and sum(stored.values()) == weights
    assert not [name for name in stored if "optimizer" in name]


def test_another_process_needs_tensorflow_alone(cold, loaded, rows, serialize, tmp_path):
    examples = serialize(rows)
    (tmp_path / "examples").write_text(json.dumps([example.hex() for example in examples]))
    script = """
import json, sys
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
examples = [bytes.fromhex(text) for text in json.load(open(sys.argv[2]))]
answer = model.signatures["serving_default"](examples=tf.constant(examples))["predictions"]
strange = [name for name in sys.modules if name.split(".")[0] in ("components", "tensorflow_transform")]
print(json.dumps({"answer": answer.numpy().tolist(), "strange": strange}))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(cold.saved_model), str(tmp_path / "examples")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["strange"] == []
    here = loaded.signatures[SERVING_DEFAULT](examples=tf.constant(examples))[PREDICTIONS].numpy()
    np.testing.assert_allclose(told["answer"], here, atol=1e-6)


# A word of Python is no name of an argument; `components.features.request_names` must see to it.
ODD = ["Trip Seconds", "1st", "self", "größe", "a-b", "_x", "class"]


@pytest.mark.parametrize("column", ODD)
@pytest.mark.parametrize("many", [False, True], ids=["one", "list"])
def test_a_column_may_have_any_name(column, many, serialize, tmp_path):
    columns = {column: (tf.float32, many), "Trip_Seconds": (tf.float32, False)}
    number = keras.Input((1,), name="number")
    model = keras.Model({"number": number}, keras.layers.Dense(1)(number))

    def transform(raw):
        total = tf.sparse.reduce_sum(raw[column], axis=1) - tf.sparse.reduce_sum(raw["Trip_Seconds"], axis=1)
        return {"number": tf.reshape(total, [-1, 1])}

    export.export(model, transform, columns, Label(name="y"), [], {}, str(tmp_path))
    answer = tf.saved_model.load(str(tmp_path)).signatures
    names = request_names(columns)
    values = tf.constant([[1.0, 2.0], [3.0, math.nan]] if many else [3.0, 3.0])
    raw = answer[SERVING_RAW](**{names[column]: values, names["Trip_Seconds"]: tf.constant([0.0, 5.0])})
    rows = [{column: [1.0, 2.0] if many else 3.0, "Trip_Seconds": 0.0}, {column: 3.0, "Trip_Seconds": 5.0}]
    examples = serialize(rows, dict.fromkeys(columns, "FLOAT"))
    default = answer[SERVING_DEFAULT](examples=tf.constant(examples))
    np.testing.assert_array_equal(raw[PREDICTIONS], default[PREDICTIONS])
    expected = tf.sigmoid(model({"number": tf.constant([[3.0], [-2.0]])}))[:, 0]
    np.testing.assert_allclose(raw[PREDICTIONS], expected, rtol=1e-5)
