"""What is found of real SavedModels, in this process."""

import shutil

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from components.smoke import ask
from tests.components.smoke.conftest import FARES, logs_of

pytestmark = pytest.mark.xdist_group("smoke")


def look(exported, **more):
    stages = []
    found = ask.look({**exported.request, **more}, stages.append)
    assert stages[0] == "loading the SavedModel"
    return found


def change(**outputs):
    """Answers with some outputs changed: name -> what is made of it; None: without it."""

    def changed(answer):
        made = {name: outputs.get(name, lambda v: v) for name in answer}
        return {name: make(answer[name]) for name, make in made.items() if make is not None}

    return changed


@pytest.fixture(scope="module")
def good(export):
    return export()


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_a_model_that_answers_as_the_trained_one_has_no_problem(task, export):
    found = look(export(task))
    assert found["problems"] == []
    assert found["examples"] == len(FARES) and 0 <= found["largest_difference"] < 1e-6
    for took in found["latency_ms"].values():
        assert 0 < took["p50"] <= took["p99"] < 1000 and took["requests"] == 200
    assert found["load_seconds"] > 0 and found["first_request_ms"] == {}  # there are no warm-up requests


DEFAULT, RAW = "serving_default: predictions: ", "serving_raw: predictions: "
NAN = {"predictions": lambda p: p * float("nan")}
DEFECTS = {
    "an answer that is not finite": (
        {"by_example": change(predictions=lambda p: tf.concat([[float("inf")], p[1:]], 0))},
        [f"{DEFAULT}1 of 7 answers are not finite"],
    ),
    "all of them NaN": (
        {"by_example": change(**NAN), "by_column": change(**NAN)},
        [f"{DEFAULT}7 of 7 answers are not finite", f"{RAW}7 of 7 answers are not finite"],
    ),
    "other weights than those of the training": (
        {
            "by_example": change(predictions=lambda p: p**1.01),
            "by_column": change(predictions=lambda p: p**1.01),
        },
        [
            f"{DEFAULT}differs from that of the trained model by up to 0.0036, allowed 1e-05",
            f"{RAW}differs from that of the trained model by up to 0.0036, allowed 1e-05",
        ],
    ),
    "by column otherwise": (
        {"by_column": change(predictions=lambda p: p + 0.25)},
        [
            f"{RAW}differs from that of the trained model by up to 0.25, allowed 1e-05",
            f"{RAW}differs from that of serving_default by up to 0.25, allowed 1e-05",
        ],
    ),
    "too few answers": (
        {"by_column": change(predictions=lambda p: p[:3])},
        [
            f"{RAW}7 examples were answered with shape (3,)",
            f"{RAW}has shape (3,), that of the trained model (7,)",
            f"{RAW}has shape (3,), that of serving_default (7,)",
        ],
    ),
    "an output less": (
        {"task": "multiclass", "by_column": change(scores=None)},
        [
            "serving_raw: scores: there is no such output, only classes, predictions",
            "serving_raw: scores: there is no such output, only classes, predictions",
        ],
    ),
    "another most likely class": (
        {
            "task": "multiclass",
            "by_example": change(predictions=lambda p: tf.roll(p, 1, 0)),
            "by_column": change(predictions=lambda p: tf.roll(p, 1, 0)),
        },
        [
            "serving_default: predictions: 4 of 7 are not the class of the largest score",
            "serving_raw: predictions: 4 of 7 are not the class of the largest score",
        ],
    ),
    "classes in another order": (
        {"task": "multiclass", "classify": change(classes=lambda c: c[:, ::-1])},
        ["classify: classes: 14 of 21 texts differ from those of the trained model"],
    ),
    "scores that are no probabilities": (
        {"task": "multiclass", "classify": change(scores=lambda s: s * 2.0)},
        [
            "classify: scores: the probabilities of an example add up to 2, expected 1",
            "classify: scores: differs from that of the trained model by up to 0.981, allowed 1e-05",
        ],
    ),
    "no signature by column": (
        {"by_column": None},
        ["the SavedModel does not answer: there is no signature serving_raw"],
    ),
    "a method that TF Serving refuses": (
        {"methods": {}},
        [
            "the SavedModel does not answer: the method of classify is tensorflow/serving/predict, expected "
            "tensorflow/serving/classify"
        ],
    ),
    "a signature that nobody has asked": (
        {"others": {"user_embedding": lambda fare: {"embedding": fare[:, None]}}},
        ["user_embedding: no request to this signature is known"],
    ),
}


@pytest.mark.parametrize(("defect", "problems"), DEFECTS.values(), ids=DEFECTS.keys())
def test_defects_are_named(export, defect, problems):
    assert look(export(**defect))["problems"] == problems


def test_a_regression_is_held_to_its_own_size(export):
    """Half of float32's rounding of 2000 is more than 1e-5."""
    near, off = (change(predictions=lambda p, more=more: p + more) for more in (0.01, 0.03))
    assert look(export("regression", by_example=near, by_column=near))["problems"] == []
    found = look(export("regression", by_example=off, by_column=off))
    assert (
        found["problems"][0]
        == f"{DEFAULT}differs from that of the trained model by up to 0.03, allowed 0.0201"
    )
    assert found["largest_difference"] == pytest.approx(0.03 / 2010.5, rel=0.01)


def test_a_looser_bound(export):
    exported = export(by_example=change(predictions=lambda p: p + 1e-3))
    assert len(look(exported)["problems"]) == 2
    assert look(exported, max_difference=2e-3)["problems"] == []


def test_towers_are_asked_and_held_to_nothing_but_what_all_are(export):
    def ask_tower(make):
        exported = export(others={"user_embedding": make})
        log = prediction_log_pb2.PredictionLog()
        log.predict_log.request.model_spec.signature_name = "user_embedding"
        log.predict_log.request.inputs["fare"].CopyFrom(tf.make_tensor_proto(np.abs(FARES[:3])))
        exported.record(*logs_of("binary"), log)
        return look(exported)["problems"]

    assert ask_tower(lambda fare: {"embedding": fare[:, None] * tf.ones([1, 3])}) == []
    assert ask_tower(lambda fare: {"embedding": tf.math.log(-fare)[:, None]}) == [
        "user_embedding: embedding: 3 of 3 answers are not finite"
    ]


def test_variables_that_tf_serving_would_not_find(export):
    """Restored by `tf.saved_model.load` alone, as a Keras model's are that the module tracks."""
    import keras

    exported = export()
    number = keras.Input((1,))
    module = tf.Module()
    module.model = keras.Model(number, keras.layers.Dense(1)(number))
    signature = tf.function(
        lambda fare: {"predictions": module.model(fare[:, None])[:, 0]},
        input_signature=[tf.TensorSpec([None], tf.float32, name="fare")],
    )
    tf.saved_model.save(module, str(exported.saved_model), signatures={"serving_raw": signature})
    exported.record(logs_of("binary")[1])
    (problem,) = look(exported)["problems"]
    assert problem.startswith("the SavedModel does not answer: Could not find variable")


def test_a_request_that_does_not_fit(good, export):
    exported = export()
    (default, *_) = logs_of("binary")
    default.predict_log.request.inputs["more"].CopyFrom(tf.make_tensor_proto([1.0]))
    exported.record(default)
    assert look(exported)["problems"] == [
        "the SavedModel does not answer: serving_default takes examples, but a request has examples, more"
    ]


def test_warm_up_requests_are_answered_too(export):
    exported = export()
    warm_up = exported.saved_model / "assets.extra" / "tf_serving_warmup_requests"
    logs = logs_of("binary")
    exported.record(*logs, file=warm_up)
    first = look(exported)["first_request_ms"]
    assert 0 < first["warm"] < first["cold"]
    logs[1].predict_log.request.model_spec.signature_name = "no_such"
    exported.record(*logs, file=warm_up)  # TF Serving would not load it
    assert look(exported)["problems"] == ["the SavedModel does not answer: there is no signature no_such"]


def test_without_an_example_to_ask_nothing_is_fine(good):
    empty = good.folder / "empty"
    good.record(file=empty)
    assert look(good, expected=str(empty))["problems"] == [
        "there is no held-out example to ask the SavedModel"
    ]


@pytest.mark.parametrize("lost", ["saved_model.pb", "variables", "."])
def test_a_broken_saved_model(tmp_path, good, lost):
    copy = shutil.copytree(good.saved_model, tmp_path / "copy")
    path = copy / lost
    shutil.rmtree(path) if path.is_dir() else path.write_bytes(b"\x08\x01")
    (problem,) = look(good, saved_model=str(copy))["problems"]
    assert problem.startswith("the SavedModel does not load: ")
