"""The prediction log: what is in it, what never is, and what is left when a process is killed."""

import hashlib
import hmac
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from serving.errors import ServerError
from serving.log_columns import LogColumns
from serving.log_files import LogFiles, framed, whole_records
from serving.prediction_log import PredictionLog

RAW = {
    "fare": np.array([12.25, np.nan], np.float32),
    "Trip_Seconds": np.array([840, -(2**53)], np.int64),
    "company": np.array([b"Blue", b""], np.object_),
}
ANSWER = {"predictions": np.array([0.25, 0.75], np.float32)}


def text(*values: bytes) -> np.ndarray:
    array = np.empty(len(values), np.object_)
    array[:] = values
    return array


def example(**features: object) -> bytes:
    message = tf.train.Example()
    for name, value in features.items():
        feature = message.features.feature[name]
        if isinstance(value, bytes):
            feature.bytes_list.value.append(value)
        elif isinstance(value, float):
            feature.float_list.value.append(value)
        else:
            feature.int64_list.value.append(value)
    return message.SerializeToString()


def logged(folder: Path) -> Iterator[prediction_log_pb2.PredictionLog]:
    """What TensorFlow's own reader, which checks every checksum, finds in the closed files."""
    for path in sorted(folder.glob("[!.]*.tfrecord")):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            yield prediction_log_pb2.PredictionLog.FromString(record)


def put(
    log: PredictionLog, key: str | None = "k", signature: str = "serving_raw", **inputs: np.ndarray
) -> None:
    log.record("taxi", 3, signature, "predict", inputs or RAW, ANSWER, key)


def test_a_request_is_in_the_log_as_it_came_and_was_answered(tmp_path: Path) -> None:
    before = int(time.time())
    with PredictionLog(tmp_path, "taxi") as log:
        put(log, "k7")
    (found,) = logged(tmp_path)
    assert (log.logged, log.dropped, log.problem) == (1, 0, None)
    assert log.bytes == next(tmp_path.glob("taxi-*.tfrecord")).stat().st_size
    metadata, predicted = found.log_metadata, found.predict_log
    assert metadata.request_origin == "k7" and before <= metadata.timestamp_secs <= time.time()
    assert metadata.sampling_config.sampling_rate == 1.0
    for spec in (metadata.model_spec, predicted.request.model_spec, predicted.response.model_spec):
        assert (spec.name, spec.version.value, spec.signature_name) == ("taxi", 3, "serving_raw")
    inputs = {name: tf.make_ndarray(proto) for name, proto in predicted.request.inputs.items()}
    assert inputs.keys() == RAW.keys()
    for name, array in RAW.items():
        np.testing.assert_array_equal(inputs[name], array)
        assert inputs[name].dtype == array.dtype
    np.testing.assert_array_equal(tf.make_ndarray(predicted.response.outputs["predictions"]), [0.25, 0.75])


def test_the_share_is_chosen_by_the_key(tmp_path: Path) -> None:
    keys = [f"key {i}" for i in range(1000)]
    chosen = []
    for server in ("a", "b"):
        with PredictionLog(tmp_path / server, "taxi", share=0.3) as log:
            for key in keys:
                put(log, key)
            for _ in range(1000):
                put(log, None)
        found = [one.log_metadata.request_origin for one in logged(tmp_path / server)]
        chosen.append({key for key in found if key})
        assert 200 < found.count("") < 400  # without a key by chance
        assert log.dropped == 0
    assert chosen[0] == chosen[1] and 200 < len(chosen[0]) < 400


def test_a_file_ends_at_its_size(tmp_path: Path) -> None:
    with PredictionLog(tmp_path, "taxi", file_bytes=2_000) as log:
        for i in range(40):
            put(log, f"k{i}")
    files = sorted(tmp_path.iterdir())
    assert len(files) > 3 and all(file.stat().st_size <= 2_000 for file in files)
    assert {one.log_metadata.request_origin for one in logged(tmp_path)} == {f"k{i}" for i in range(40)}


def test_a_file_ends_at_its_age_also_when_nothing_comes(tmp_path: Path) -> None:
    with PredictionLog(tmp_path, "taxi", file_seconds=0.05) as log:
        put(log)
        deadline = time.monotonic() + 10
        while not list(tmp_path.glob("[!.]*")) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert [file.name[0] for file in tmp_path.iterdir()] == ["t"]
    assert len(list(logged(tmp_path))) == 1


def test_what_is_being_written_has_a_dot_before_its_name_and_is_whole_already(tmp_path: Path) -> None:
    with PredictionLog(tmp_path, "taxi") as log:
        put(log)
        deadline = time.monotonic() + 10
        while not log.logged and time.monotonic() < deadline:
            time.sleep(0.01)
        (file,) = tmp_path.iterdir()
        assert file.name.startswith(".taxi-")
        assert whole_records(file.read_bytes()) == file.stat().st_size == log.bytes


def test_the_folder_is_bounded_and_the_oldest_files_go(tmp_path: Path) -> None:
    with PredictionLog(tmp_path, "taxi", file_bytes=2_000, max_bytes=6_000) as log:
        for i in range(100):
            put(log, f"k{i}")
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 6_000
    kept = {one.log_metadata.request_origin for one in logged(tmp_path)}
    assert log.logged == 100 and kept == {f"k{i}" for i in range(100 - len(kept), 100)}


def test_a_request_never_waits_for_the_disk(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path, "taxi")  # Nobody writes yet: as slow as a disk can be.
    for i in range(10_050):
        put(log, f"k{i}")
    assert log.dropped == 50 and "wait" in str(log.problem)
    large = np.zeros(70 << 20, np.uint8)
    with log:
        pass
    assert log.logged == 10_000 and log.problem is None
    idle = PredictionLog(tmp_path / "large", "taxi")
    put(idle, "k1", x=large)
    put(idle, "k2", x=large)
    assert idle.dropped == 1  # 64 MiB wait at most, or one request.


def test_many_threads_lose_nothing(tmp_path: Path) -> None:
    with PredictionLog(tmp_path, "taxi", file_bytes=10_000) as log:
        threads = [
            threading.Thread(target=lambda n=n: [put(log, f"{n}-{i}") for i in range(100)]) for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert log.logged == 800
    assert len({one.log_metadata.request_origin for one in logged(tmp_path)}) == 800


@pytest.fixture
def killed(tmp_path: Path) -> Callable[[str], None]:
    """Runs a script with a `LogFiles` in a process that ends without any farewell."""

    def run(script: str) -> None:
        begin = f"""
import os, resource, signal
from pathlib import Path
from serving.log_files import LogFiles, framed
files = LogFiles(Path({str(tmp_path)!r}), "taxi", 1 << 20, 300.0, 1 << 30)
files.recover()
"""
        code = begin + script + "\nos.kill(os.getpid(), signal.SIGKILL)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == -9, done.stderr

    return run


def test_what_a_killed_process_has_written_is_recovered(
    tmp_path: Path, killed: Callable[[str], None]
) -> None:
    killed("for i in range(10): files.append(b'%d' % i * 100)")
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".")
    with open(left, "ab") as file:
        file.write(framed(b"cut off in the middle")[:-7])
    with PredictionLog(tmp_path, "taxi") as log:
        assert log.torn == 1
    (closed,) = tmp_path.iterdir()
    records = list(tf.data.TFRecordDataset(str(closed)).as_numpy_iterator())
    assert records == [b"%d" % i * 100 for i in range(10)]


def test_a_file_without_a_whole_record_goes(tmp_path: Path) -> None:
    (tmp_path / ".taxi-20260101T000000-7-1.tfrecord").write_bytes(framed(b"cut")[:9])
    assert LogFiles(tmp_path, "taxi", 1 << 20, 300.0, 1 << 30).recover() == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_another_living_server_writes_is_left_alone(tmp_path: Path) -> None:
    first, second = (LogFiles(tmp_path, "taxi", 1 << 20, 300.0, 1 << 30) for _ in range(2))
    first.append(b"one")
    assert second.recover() == 0
    (open_file,) = tmp_path.iterdir()
    assert open_file.name.startswith(".")
    first.append(b"two")
    first.close()
    assert [whole_records(path.read_bytes()) for path in tmp_path.iterdir()] == [
        len(framed(b"one") + framed(b"two"))
    ]


def test_a_full_disk_costs_records_and_nothing_else(tmp_path: Path, killed: Callable[[str], None]) -> None:
    # Beyond this size a write fails as it does on a full disk, after a part of it is there.
    killed("""
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
files.append(b"a" * 600)
try:
    files.append(b"b" * 600)
    raise AssertionError("there was room")
except OSError:
    pass
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
files.append(b"c" * 600)
files.close()
""")
    contents = sorted(file.read_bytes() for file in tmp_path.iterdir())
    assert contents == [framed(b"a" * 600), framed(b"c" * 600)]


def test_a_folder_that_is_none_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file")
    with pytest.raises(ServerError, match=r"log: .*required is a folder.*serving.prediction_log.path"):
        PredictionLog(tmp_path / "log", "taxi").start()


def test_a_folder_that_goes_costs_records_and_they_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    with PredictionLog(folder, "taxi") as log:
        folder.rmdir()
        folder.write_text("a file")
        put(log)
    assert (log.logged, log.dropped) == (0, 1) and str(folder) in str(log.problem)


SALT = b"a secret"


def digest(value: bytes) -> bytes:
    return hmac.new(SALT, value, hashlib.sha256).hexdigest().encode()


@pytest.fixture
def columns() -> LogColumns:
    return LogColumns(["Trip Seconds"], ["company"], SALT, {"Trip Seconds": "Trip_Seconds"})


def test_no_value_of_a_dropped_or_hashed_column_reaches_the_disk(tmp_path: Path, columns: LogColumns) -> None:
    serialized = example(fare=12.25, company=b"Blue", **{"Trip Seconds": 840})
    with PredictionLog(tmp_path, "taxi", columns=columns) as log:
        put(log)
        put(log, signature="serving_default", examples=text(serialized))
        for method in ("classify", "regress"):
            log.record("taxi", 3, "some_name", method, {"inputs": text(serialized)}, ANSWER, "k")
        put(log, signature="user_embedding", company=text(b"Blue"))
    assert log.logged == 5
    assert not any(b"Blue" in file.read_bytes() for file in tmp_path.iterdir())
    assert not any(b"Seconds" in file.read_bytes() for file in tmp_path.iterdir())
    raw, *of_examples, tower = logged(tmp_path)
    assert raw.predict_log.request.inputs["company"].string_val == [digest(b"Blue"), b""]
    assert tower.predict_log.request.inputs["company"].string_val == [digest(b"Blue")]
    for one in of_examples:
        (proto,) = one.predict_log.request.inputs.values()
        (kept,) = map(tf.train.Example.FromString, proto.string_val)
        assert kept == tf.train.Example.FromString(example(fare=12.25, company=digest(b"Blue")))


def test_what_may_hold_any_column_is_not_logged_while_columns_are_hashed(
    tmp_path: Path, columns: LogColumns
) -> None:
    with PredictionLog(tmp_path, "taxi", columns=columns) as log:
        put(log, signature="of_my_own", blob=text(b"Blue"))
        put(log, signature="serving_default", examples=text(b"no tf.Example"))
        put(log, signature="serving_raw", company=np.array([7]))
    assert (log.logged, log.dropped) == (0, 3) and list(tmp_path.iterdir()) == []
    with PredictionLog(tmp_path, "taxi") as log:
        put(log, signature="of_my_own", blob=text(b"Blue"))
    assert log.logged == 1


def test_numbers_of_a_hashed_column_in_an_example_are_not_kept(tmp_path: Path, columns: LogColumns) -> None:
    with PredictionLog(tmp_path, "taxi", columns=columns) as log:
        put(log, signature="serving_default", examples=text(example(company=7)))
    (one,) = logged(tmp_path)
    kept = tf.train.Example.FromString(one.predict_log.request.inputs["examples"].string_val[0])
    assert not kept.features.feature["company"].int64_list.value
