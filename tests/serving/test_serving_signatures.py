"""Models of several outputs, of texts, of lists and of further signatures, over both protocols."""

import json
import math

import numpy as np
import pytest
import tensorflow as tf

from serving.model_config import write_model_config

CLASSES = ["cat", "dog", "été"]
# Two rows; the second has shorter lists, padded with what stands for a missing value.
TAGS = [["a", "dog"], ["cat", ""]]
SIZES = [[0.5, 2.0, 1.0], [3.0, math.nan, math.nan]]
FARES = [1, 2]


class Classifier(tf.Module):
    """Scores of three classes, the third of which gets the sum of what is there of the list of numbers."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None], tf.string, name="tags"),
            tf.TensorSpec([None, None], tf.float32, name="sizes"),
            tf.TensorSpec([None], tf.int64, name="fare"),
        ]
    )
    def raw(self, tags, sizes, fare):
        votes = [tf.reduce_sum(tf.cast(tags == name, tf.float32), axis=1) for name in ("cat", "dog")]
        total = tf.reduce_sum(tf.where(tf.math.is_nan(sizes), 0.0, sizes), axis=1)
        scores = tf.stack([*votes, total / tf.cast(fare, tf.float32) / 10], axis=1)
        classes = tf.constant(CLASSES)
        return {
            "classes": tf.tile(classes[tf.newaxis], [tf.shape(scores)[0], 1]),
            "scores": scores,
            "predictions": tf.gather(classes, tf.argmax(scores, axis=1)),
        }

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.string, name="tags")])
    def user_embedding(self, tags):
        return {"embedding": tf.cast(tf.strings.length(tags), tf.float32)[:, :1] * [1.0, 0.5]}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, name="fare")])
    def item_embedding(self, fare):
        return {"embedding": tf.cast(fare, tf.float32)[:, tf.newaxis] / [[1.0, 0.0]]}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory, connect):
    """A client of a server of `pets`, a `Classifier`, and `twins`, a Keras model of two outputs."""
    import keras

    from serving.server import ModelServer

    folder = tmp_path_factory.mktemp("zoo")
    pets = Classifier()
    signatures = {
        "serving_raw": pets.raw,
        "user_embedding": pets.user_embedding,
        "item_embedding": pets.item_embedding,
    }
    tf.saved_model.save(pets, str(folder / "pets" / "1"), signatures=signatures)
    x = keras.Input((2,), name="x")
    ones = keras.layers.Dense(1, kernel_initializer="ones")(x)
    twins = keras.Model(x, {"sum": ones, "both": keras.layers.Concatenate()([x, ones])})
    twins.export(str(folder / "twins" / "1"), verbose=False)
    for name in ("pets", "twins"):
        write_model_config(folder / "models.config", name, name, [1])
    with ModelServer(folder / "models.config", grpc_port=0, rest_port=0, poll_seconds=0.05) as server:
        for name in ("pets", "twins"):
            server.wait_until_available(name)
        yield from connect(server)


PET_ANSWERS = [
    {"classes": CLASSES, "scores": [0.0, 1.0, 0.35], "predictions": "dog"},
    {"classes": CLASSES, "scores": [1.0, 0.0, 0.15], "predictions": "cat"},
]


def post(zoo, model: str, **body):
    return zoo.http(f"/v1/models/{model}:predict", json.dumps(body).encode())


def test_rows_of_lists_get_an_object_of_all_outputs_each(zoo):
    rows = [{"tags": t, "sizes": s, "fare": f} for t, s, f in zip(TAGS, SIZES, FARES, strict=True)]
    status, answer = post(zoo, "pets", signature_name="serving_raw", instances=rows)
    assert (status, answer) == (200, {"predictions": PET_ANSWERS})


def test_columns_of_lists_get_columns(zoo):
    columns = {"tags": TAGS, "sizes": SIZES, "fare": FARES}
    status, answer = post(zoo, "pets", signature_name="serving_raw", inputs=columns)
    wanted = {name: [row[name] for row in PET_ANSWERS] for name in ("classes", "scores", "predictions")}
    assert (status, answer) == (200, {"outputs": wanted})


def test_lists_and_texts_go_over_grpc(zoo):
    inputs = {"tags": TAGS, "sizes": np.array(SIZES, np.float32), "fare": np.array(FARES)}
    response = zoo.predict(inputs, signature="serving_raw", model="pets")
    outputs = {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}
    assert outputs["classes"].tolist() == [[name.encode() for name in CLASSES]] * 2
    assert outputs["predictions"].tolist() == [b"dog", b"cat"]
    np.testing.assert_allclose(outputs["scores"], [row["scores"] for row in PET_ANSWERS], rtol=1e-6)


def test_rows_whose_lists_are_all_empty(zoo):
    rows = [{"tags": [], "sizes": [], "fare": 1}] * 2
    status, answer = post(zoo, "pets", signature_name="serving_raw", instances=rows)
    assert status == 200
    assert [row["scores"] for row in answer["predictions"]] == [[0.0, 0.0, 0.0]] * 2
    nothing = tf.make_tensor_proto([], tf.string, (2, 0))
    inputs = {"tags": nothing, "sizes": np.zeros((2, 0), np.float32), "fare": np.array([1, 1])}
    response = zoo.predict(inputs, signature="serving_raw", model="pets")
    assert tf.make_ndarray(response.outputs["scores"]).tolist() == [[0.0, 0.0, 0.0]] * 2


def test_a_list_of_another_length_is_refused_with_its_row(zoo):
    rows = [{"tags": t, "sizes": [1.0], "fare": 1} for t in (["a"], ["a", "b"])]
    status, answer = post(zoo, "pets", signature_name="serving_raw", instances=rows)
    assert status == 400
    assert "element: 1 key: tags" in answer["error"] and "Expecting shape [1] but got: [2]" in answer["error"]


def test_a_single_value_for_a_list_is_refused(zoo):
    row = {"tags": "a", "sizes": [1.0], "fare": 1}
    assert post(zoo, "pets", signature_name="serving_raw", instances=[row]) == (
        400,
        {"error": "input tags: expected string [-1,-1], got string [1]"},
    )


def test_bytes_in_a_list_go_in_base64(zoo):
    rows = [{"tags": [{"b64": "Y2F0"}, "x"], "sizes": [0.0], "fare": 1}]
    _, answer = post(zoo, "pets", signature_name="serving_raw", instances=rows)
    assert answer["predictions"][0]["predictions"] == "cat"


def test_towers_are_signatures_of_their_own(zoo):
    status, answer = post(zoo, "pets", signature_name="user_embedding", instances=[["ab", ""], ["abcd", "c"]])
    assert (status, answer) == (200, {"predictions": [[2.0, 1.0], [4.0, 2.0]]})
    status, answer = post(zoo, "pets", signature_name="user_embedding", instances=[{"tags": ["ab"]}])
    assert (status, answer) == (200, {"predictions": [[2.0, 1.0]]})
    response = zoo.predict({"tags": [["ab"]]}, signature="user_embedding", model="pets")
    assert tf.make_ndarray(response.outputs["embedding"]).tolist() == [[2.0, 1.0]]


def test_what_is_no_number_comes_back_as_one(zoo):
    status, answer = post(zoo, "pets", signature_name="item_embedding", inputs=[0, 3])
    assert status == 200
    (nothing, infinite), row = answer["outputs"][0], answer["outputs"][1]
    assert (nothing, row) == (0.0, [3.0, math.inf]) and math.isnan(infinite)


def test_the_metadata_tells_of_all_signatures(zoo):
    _, body = zoo.http("/v1/models/pets/metadata")
    signatures = body["metadata"]["signature_def"]["signature_def"]
    assert {"serving_raw", "user_embedding", "item_embedding"} <= signatures.keys()
    ranks = {
        name: len(spec["tensor_shape"]["dim"]) for name, spec in signatures["serving_raw"]["inputs"].items()
    }
    assert ranks == {"tags": 2, "sizes": 2, "fare": 1}


def test_a_keras_model_of_two_outputs(zoo):
    wanted = [{"sum": [3.0], "both": [1.0, 2.0, 3.0]}, {"sum": [0.5], "both": [0.5, 0.0, 0.5]}]
    assert post(zoo, "twins", instances=[[1, 2], [0.5, 0]]) == (200, {"predictions": wanted})
    columns = {name: [row[name] for row in wanted] for name in ("sum", "both")}
    assert post(zoo, "twins", inputs=[[1, 2], [0.5, 0]]) == (200, {"outputs": columns})
    response = zoo.predict({"x": np.array([[1, 2]], np.float32)}, model="twins", output_filter=("sum",))
    assert list(response.outputs) == ["sum"]
    assert tf.make_ndarray(response.outputs["sum"]).tolist() == [[3.0]]
