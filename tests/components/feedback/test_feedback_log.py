"""The prediction log as rows: written by the real server's class, or as TensorFlow Serving writes it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.feedback.log import Logged, read, row_keys
from components.feedback.records import Cursor
from components.names import MISSING_INT
from serving.log_files import framed
from serving.prediction_log import PredictionLog

ANSWER = {"predictions": np.array([0.25], np.float32)}


def text(*values: Any) -> np.ndarray:
    array = np.empty(len(values), np.object_)
    array[:] = values
    return array


def record(log: PredictionLog, inputs: Any, outputs: Any = None, key: str | None = "k", **more: Any) -> None:
    given = {"model": "taxi", "version": 3, "signature": "serving_raw", "method": "predict"} | more
    log.record(**given, inputs=inputs, outputs=ANSWER if outputs is None else outputs, key=key)


def rows(folder: Path, **options: Any) -> list[Logged]:
    return list(read(folder, **options))


def test_a_row_is_as_it_was_asked_and_answered(tmp_path: Path) -> None:
    before = int(time.time())
    with PredictionLog(tmp_path, "taxi") as log:
        inputs = {
            "fare": np.array([7.45], np.float32),
            "Unit_Price": np.array([1.0], np.float64),
            "n": np.array([2**60]),
            "word": text("Zoë".encode()),
        }
        record(log, inputs, key="k7")
    (row,) = rows(tmp_path, columns={"Unit_Price": "Unit Price"})
    assert (row.key, row.version, row.prediction, row.scores) == ("k7", 3, 0.25, None)
    assert before <= row.time <= time.time()
    assert row.inputs == {"fare": 7.45, "Unit Price": 1.0, "n": 2**60, "word": "Zoë".encode()}
    assert rows(tmp_path, inputs=False)[0].inputs == {}


def test_what_stands_for_missing_is_missing(tmp_path: Path) -> None:
    with PredictionLog(tmp_path, "taxi") as log:
        inputs = {
            "x": np.array([np.nan, 0.0], np.float32),
            "n": np.array([MISSING_INT, 0]),
            "word": text(b"", b"a"),
            "tags": np.array([[b"", b""], [b"a", b""]], np.object_),
            "pixels": np.array([[1.5, np.nan], [1.5, 2.5]], np.float32),
        }
        record(log, inputs, {"predictions": np.array([0.1, 0.2], np.float32)})
    first, second = rows(tmp_path)
    assert first.inputs == {"x": None, "n": None, "word": None, "tags": None, "pixels": 1.5}
    assert second.inputs == {"x": 0.0, "n": 0, "word": b"a", "tags": b"a", "pixels": [1.5, 2.5]}
    assert [first.key, second.key] == ["k/0", "k/1"]


def test_rows_of_examples(tmp_path: Path) -> None:
    import tensorflow as tf

    features = {
        "fare": tf.train.Feature(float_list=tf.train.FloatList(value=[7.45])),
        "n": tf.train.Feature(int64_list=tf.train.Int64List(value=[1, 2])),
        "word": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"a"])),
        "none": tf.train.Feature(),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
    with PredictionLog(tmp_path, "taxi") as log:
        record(log, {"examples": text(example)}, signature="serving_default")
        record(
            log,
            {"inputs": text(example)},
            {"outputs": np.array([4.0])},
            signature="regress",
            method="regress",
        )
    by_predict, by_regress = rows(tmp_path)
    assert by_predict.inputs == by_regress.inputs == {"fare": 7.45, "n": [1, 2], "word": b"a"}
    assert by_regress.prediction == 4.0


def test_classes_and_scores(tmp_path: Path) -> None:
    example = {"inputs": text(b"")}
    of = {"signature": "classify", "method": "classify"}
    scores = np.array([[0.3, 0.7]], np.float32)
    with PredictionLog(tmp_path, "taxi") as log:
        record(log, example, {"classes": np.array([[b"0", b"1"]], np.object_), "scores": scores}, **of)
        record(log, example, {"classes": np.array([[b"a", b"b"]], np.object_), "scores": scores}, **of)
        outputs = {
            "predictions": text(b"b"),
            "classes": np.array([[b"a", b"b"]], np.object_),
            "scores": scores,
        }
        record(log, example, outputs, signature="serving_default")
    binary, multiclass, predicted = rows(tmp_path)
    assert binary.prediction == pytest.approx(0.7) and multiclass.prediction == predicted.prediction == "b"
    assert multiclass.scores == predicted.scores == {"a": pytest.approx(0.3), "b": pytest.approx(0.7)}


def test_only_predictions_of_the_model_since_then(tmp_path: Path) -> None:
    cursor = Cursor()
    with PredictionLog(tmp_path, "taxi") as log:
        record(log, {"x": np.array([1.0])}, key="mine")
        record(log, {"x": np.array([1.0])}, key="another's", model="shop")
        embedding = {"embedding": np.zeros([1, 4], np.float32)}
        record(log, {"x": np.array([1.0])}, embedding, signature="user_embedding")
    assert [row.key for row in rows(tmp_path, model="taxi", cursor=cursor)] == ["mine"]
    assert (cursor.other, cursor.corrupt) == (1, 0)
    assert rows(tmp_path, since=time.time() + 2) == []
    assert rows(tmp_path, model="taxi", cursor=cursor) == []  # all of it was read
    assert len(rows(tmp_path)) == 2


def test_what_tensorflow_serving_logs_is_read_too(tmp_path: Path) -> None:
    """It writes values into the fields of their dtypes, and may leave the version out of the metadata."""
    from tensorflow_serving.apis import prediction_log_pb2

    message = prediction_log_pb2.PredictionLog()
    message.log_metadata.timestamp_secs = 7
    request, response = message.predict_log.request, message.predict_log.response
    request.model_spec.name, request.model_spec.signature_name = "taxi", "serving_raw"
    response.model_spec.version.value = 5
    for name, dtype, field, values in (
        ("f", 1, "float_val", [7.45]),  # the last value stands for all that follow
        ("d", 2, "double_val", [1.5, 2.5]),
        ("i", 3, "int_val", [1, 2]),
        ("l", 9, "int64_val", [1, 2]),
        ("b", 10, "bool_val", [True, False]),
        ("s", 7, "string_val", [b"a", b"b"]),
    ):
        tensor = request.inputs[name]
        tensor.dtype = dtype
        tensor.tensor_shape.dim.add(size=2)
        getattr(tensor, field).extend(values)
    response.outputs["predictions"].CopyFrom(request.inputs["d"])
    cut_off = message.SerializeToString()[:-5]
    (tmp_path / "log.tfrecord").write_bytes(framed(message.SerializeToString()) + framed(cut_off))
    cursor = Cursor()
    first, second = rows(tmp_path, model="taxi", cursor=cursor)
    assert cursor.corrupt == 1
    assert (first.time, first.version, first.key, first.prediction) == (7.0, 5, "", 1.5)
    assert first.inputs == {"f": 7.45, "d": 1.5, "i": 1, "l": 1, "b": True, "s": b"a"}
    assert second.inputs == {"f": 7.45, "d": 2.5, "i": 2, "l": 2, "b": False, "s": b"b"}


def test_more_answers_than_rows_is_no_record_of_ours(tmp_path: Path) -> None:
    cursor = Cursor()
    with PredictionLog(tmp_path, "taxi") as log:
        record(log, {"x": np.array([1.0, 2.0, 3.0])})
    assert rows(tmp_path, cursor=cursor) == [] and cursor.corrupt == 1


@pytest.mark.parametrize(
    ("key", "count", "keys"),
    [
        ("a", 1, ["a"]),
        ("a,b", 1, ["a,b"]),
        ("a", 2, ["a/0", "a/1"]),
        ("a, b", 2, ["a", "b"]),
        ("a,b", 3, ["a,b/0", "a,b/1", "a,b/2"]),
        ("a,", 2, ["a,/0", "a,/1"]),
        ("", 2, ["", ""]),
    ],
)
def test_keys_of_rows(key: str, count: int, keys: list[str]) -> None:
    assert row_keys(key, count) == keys


def test_a_reader_beside_the_writer_misses_nothing_and_reads_nothing_twice(tmp_path: Path) -> None:
    def write() -> None:
        with PredictionLog(tmp_path, "taxi", file_bytes=3_000) as log:
            for i in range(400):
                record(log, {"x": np.array([float(i)])}, key=f"k{i}")
                if i % 20 == 0:
                    time.sleep(0.005)

    cursor, found = Cursor(), []
    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        found += [row.key for row in read(tmp_path, cursor=cursor)]
    writer.join()
    found += [row.key for row in read(tmp_path, cursor=cursor)]
    assert sorted(found) == sorted(f"k{i}" for i in range(400))
    assert (cursor.torn, cursor.corrupt) == (0, 0)


def test_reading_takes_no_tensorflow(tmp_path: Path) -> None:
    with PredictionLog(tmp_path, "taxi") as log:
        record(log, {"x": np.array([1.0])})
    script = f"""
import sys
from pathlib import Path
from components.feedback.log import read
from components.feedback.losses import Losses
assert len(list(read(Path({str(tmp_path)!r})))) == 1
assert not {{"tensorflow", "apache_beam", "tfx"}} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
