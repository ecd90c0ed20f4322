"""Versions that come, go, break and come back, under a real server."""

import gc
import os
import shutil
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import model_management_pb2, prediction_log_pb2

from serving import loader
from serving.catalog import Catalog, State
from serving.errors import ServerError
from serving.manager import ModelManager
from serving.model_config import ModelConfig, VersionPolicy, write_model_config
from serving.server import ModelServer

RAW = {"x": np.ones((1, 1), np.float32), "company": [["a"]]}


LATEST = VersionPolicy()


class Bench:
    """A manager without its thread: `poll` does in the test's thread what the server's thread does."""

    def __init__(self, config_file, base_path):
        self.events = []
        self.catalog = Catalog()
        self.manager = ModelManager(config_file, self.catalog, self.events.append)
        self.base_path = base_path

    def poll(self, policy=LATEST, labels=None, base_path=None):
        models = (ModelConfig("taxi", base_path or self.base_path, policy, labels or {}),)
        self.manager.apply(models)

    def states(self):
        return {version: status.state for version, status in self.catalog.statuses("taxi").items()}

    def latest(self):
        with self.catalog.use("taxi") as model:
            return model.version


@pytest.fixture
def bench(config_file, base_path):
    bench = Bench(config_file, base_path)
    yield bench
    bench.manager.stop()


def specific(*versions):
    return VersionPolicy(latest=None, specific=versions)


class Load:
    """Clients in threads, over gRPC and REST, which check every answer."""

    def __init__(self, client, example, threads=6):
        self.failures = []
        self.seen = set()
        self._stop = threading.Event()
        self._client = client
        self._example = example
        self._pool = ThreadPoolExecutor(threads)
        self._running = [self._pool.submit(self._run, over_rest=i % 3 == 2) for i in range(threads)]

    def _run(self, over_rest):
        while not self._stop.is_set():
            try:
                self.seen.add(self._over_rest() if over_rest else self._over_grpc())
            except Exception as error:
                self.failures.append(error)

    def _over_grpc(self):
        response = self._client.predict({"examples": [self._example(1.0)]})
        version = response.model_spec.version.value
        assert response.outputs["score"].float_val[0] == version
        return version

    def _over_rest(self):
        body = {"signature_name": "serving_raw", "inputs": {"x": [[1.0]], "company": [["a"]]}}
        status, answer = self._client.http("/v1/models/taxi:predict", body)
        assert status == 200, answer
        return int(answer["outputs"]["score"][0][0])

    def stop(self):
        self._stop.set()
        for running in self._running:
            running.result()
        self._pool.shutdown()


def test_a_switch_under_load_fails_no_request(push, choose, start, example, eventually):
    push(1)
    choose(1, champion=1)
    server, client, _ = start()
    server.wait_until_available("taxi", 1)
    load = Load(client, example)
    for version in (2, 3, 1, 3):  # Up, up, back down, and up again.
        if version > max(load.seen, default=1):
            push(version)
        choose(version, champion=version)
        assert server.wait_until_available("taxi", version) == version
        assert client.score() == client.score(label="champion") == version
        eventually(lambda v=version: client.states()[v] == "AVAILABLE" and v in load.seen)
    load.stop()
    assert load.failures == []
    assert load.seen == {1, 2, 3}


def test_promotion_in_the_steps_for_tensorflow_model_server(push, choose, start, eventually):
    push(1)
    push(2)
    _, client, _ = start()
    label = None
    for old, new in [(None, 1), (1, 2), (2, 1)]:
        loading = ((new,), {}) if old is None else ((1, 2), {"champion": old})
        for versions, labels in (loading, ((new,), {"champion": new})):
            choose(*versions, **labels)
            eventually(lambda v=new: client.states().get(v) == "AVAILABLE")
            if label is not None:
                assert client.score(label="champion") in (old, new)
        label = eventually(lambda v=new: _label(client) == v)
        eventually(lambda v=new: [k for k, s in client.states().items() if s == "AVAILABLE"] == [v])


def _label(client):
    try:
        return client.score(label="champion")
    except grpc.RpcError as error:
        assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
        return None


def test_the_latest_version_comes_without_a_word(push, config_file, start, base_path, eventually):
    push(1)
    config_file.write_text(
        'model_config_list { config { name: "taxi" base_path: "models/taxi" model_platform: "tensorflow" } }'
    )
    server, client, events = start()
    server.wait_until_available("taxi")
    push(3)
    server.wait_until_available("taxi", 3)
    assert client.score() == 3
    eventually(lambda: client.states() == {3: "AVAILABLE", 1: "END"})
    assert events == ["serving taxi version 1", "serving taxi version 3", "unloaded taxi version 1"]


def test_several_models(push, config_file, start, tmp_path, eventually):
    for name, version in (("taxi", 1), ("elec", 2)):
        push(version, tmp_path / name)
        write_model_config(config_file, name, name, [version])
    server, client, _ = start()
    for name, version in (("taxi", 1), ("elec", 2)):
        server.wait_until_available(name)
        assert client.score(model=name) == version
    write_model_config(config_file.with_name("other.config"), "elec", "elec", [2])
    shutil.copy(config_file.with_name("other.config"), config_file)
    eventually(lambda: client.http("/v1/models/taxi:predict", {})[0] == 404)
    eventually(lambda: client.states() == {1: "END"})
    assert client.score(model="elec") == 2


def test_the_server_waits_for_the_config_and_the_first_version(push, choose, start, base_path, eventually):
    server, client, events = start()
    assert client.http("/healthz")[0] == 503
    assert client.http("/v1/models/taxi")[0] == 404
    eventually(lambda: "waiting for the model config file" in client.http("/v1/models/taxi")[1]["error"])
    choose(1)
    eventually(lambda: "waiting for the base path" in client.http("/v1/models/taxi")[1]["error"])
    base_path.mkdir(parents=True)
    eventually(lambda: "waiting for versions [1] in" in client.http("/healthz")[1]["error"])
    with pytest.raises(ServerError, match=r"taxi is not available after 0.01 s: waiting for versions \[1\]"):
        server.wait_until_available("taxi", timeout=0.01)
    push(1)
    assert server.wait_until_available("taxi") == 1
    assert client.http("/healthz")[0] == 200
    assert len(events) == 4 and events[-1] == "serving taxi version 1"


def test_a_config_that_no_longer_parses_keeps_the_last_good_one(push, choose, config_file, start, eventually):
    push(1)
    choose(1)
    server, client, events = start()
    server.wait_until_available("taxi")
    good = config_file.read_text()
    config_file.write_text(good + "}")
    eventually(lambda: any("not a ModelServerConfig" in event for event in events))
    assert "going on with the last good one" in events[-1]
    assert client.score() == 1
    push(2)
    config_file.write_text(good.replace("versions: 1", "versions: 2"))
    server.wait_until_available("taxi", 2)
    assert client.score() == 2
    config_file.unlink()
    eventually(lambda: any("waiting for the model config file" in event for event in events))
    assert client.score() == 2


def test_a_broken_version_is_reported_and_the_old_one_serves_on(push, choose, exports, start, eventually):
    push(1)
    choose(1, champion=1)
    server, client, events = start()
    server.wait_until_available("taxi")
    pb = push(2) / "saved_model.pb"
    pb.write_bytes(pb.read_bytes()[:1000])
    choose(2, champion=2)
    with pytest.raises(ServerError, match="taxi version 2 failed to load: Read less bytes"):
        server.wait_until_available("taxi", 2)
    _, body = client.http("/v1/models/taxi/versions/2")
    (entry,) = body["model_version_status"]
    assert (entry["state"], entry["status"]["error_code"]) == ("END", "OUT_OF_RANGE")
    assert entry["status"]["error_message"] == "Read less bytes than requested"
    assert client.score() == client.score(label="champion") == 1
    shutil.copy(exports[2] / "saved_model.pb", pb)
    eventually(lambda: client.states().get(2) == "AVAILABLE")
    assert client.score() == client.score(label="champion") == 2
    assert sum("failed to load" in event for event in events) == 1


@pytest.mark.parametrize("broken", ["saved_model.pb", "variables/variables.index", "variables/*data*"])
def test_what_does_not_load_is_tried_again_only_when_it_changes(bench, push, exports, broken):
    folder = push(1)
    (file,) = folder.glob(broken)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    for _ in range(3):
        bench.poll()
    assert bench.states() == {1: State.END}
    assert sum("failed to load" in event for event in bench.events) == 1
    file.write_bytes(whole)
    bench.poll()
    assert bench.states() == {1: State.AVAILABLE}


def test_what_does_not_load_is_tried_again_when_it_is_called_for_anew(bench, push):
    (push(1) / "saved_model.pb").write_bytes(b"x")
    bench.poll()
    bench.manager.apply(())
    bench.poll()
    assert sum("failed to load" in event for event in bench.events) == 2


def test_a_version_half_written_is_not_there_yet(bench, push, exports):
    push(1)
    folder = push(2)
    (folder / "saved_model.pb").unlink()
    bench.poll()
    assert bench.states() == {1: State.AVAILABLE}
    shutil.copy(exports[2] / "saved_model.pb", folder)
    bench.poll()
    assert bench.latest() == 2
    assert bench.states() == {2: State.AVAILABLE, 1: State.END}


def test_a_load_leaves_the_processors_to_requests(bench, push, monkeypatch):
    def load(*what):
        priorities.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return loader.load(*what)

    priorities = []
    monkeypatch.setattr("serving.manager.load", load)
    for version in (1, 2, 3):
        push(version)
        bench.poll()
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert priorities == [before, 10, 10]  # While nobody is served, there are no requests.


def test_requests_in_flight_keep_their_version(bench, push):
    push(1)
    bench.poll()
    with bench.catalog.use("taxi") as model:
        push(2)
        bench.poll()
        assert bench.latest() == 2
        assert bench.states() == {2: State.AVAILABLE, 1: State.UNLOADING}
        assert model.signature("serving_raw").run(raw_inputs())["score"] == [[1.0]]
    bench.poll()
    assert bench.states() == {2: State.AVAILABLE, 1: State.END}


def test_a_version_may_come_back_while_requests_still_use_its_former_self(bench, push):
    push(1)
    push(2)
    bench.poll(specific(1))
    with bench.catalog.use("taxi"):
        bench.poll(specific(2))
        bench.poll(specific(1))
        assert bench.states() == {2: State.END, 1: State.AVAILABLE}
    bench.poll(specific(1))
    assert bench.states() == {2: State.END, 1: State.AVAILABLE}
    assert bench.latest() == 1


def raw_inputs():
    return {"x": np.ones((1, 1), np.float32), "company": np.array([[b"a"]], np.object_)}


def test_an_unloaded_version_is_out_of_memory(bench, base_path):
    class Large(tf.Module):
        def __init__(self):
            self.numbers = tf.Variable(tf.ones([mib << 18]))  # A MiB of float32 is 2 ** 18 of them.

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, name="places")])
        def pick(self, places):
            return {"picked": tf.gather(self.numbers, places)}

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20

    mib = 128
    # Where TensorFlow takes oneDNN for a processor, its allocator keeps what was freed, for what comes next.
    before = resident()
    ones = tf.ones([mib << 18])
    del ones
    kept = resident() - before > mib / 2
    model = Large()
    for version in (1, 2):
        tf.saved_model.save(model, str(base_path / str(version)), signatures={"serving_default": model.pick})
    del model
    gc.collect()
    for version in (1, 2, 1):  # what two versions take at one time may be kept
        bench.poll(specific(version))
    loaded = resident()
    for version in (2, 1, 2):
        bench.poll(specific(version))
        with bench.catalog.use("taxi") as model:
            assert model.signature("").run({"places": np.array([5], np.int32)})["picked"].tolist() == [1.0]
        del model
    assert resident() < loaded + mib / 2
    bench.poll(specific())
    bench.manager.apply(())
    if not kept:
        assert resident() < loaded - mib / 2


def test_a_label_stays_until_its_new_version_is_loaded(bench, push, exports):
    push(1)
    bench.poll(specific(1), {"champion": 1})
    bench.poll(specific(2), {"champion": 2, "shadow": 2})
    with bench.catalog.use("taxi", label="champion") as model:
        assert model.version == 1
    push(2)
    bench.poll(specific(2), {"champion": 2, "shadow": 2})
    for label in ("champion", "shadow"):
        with bench.catalog.use("taxi", label=label) as model:
            assert model.version == 2
    assert bench.states() == {2: State.AVAILABLE, 1: State.END}


def test_what_is_loaded_outlives_its_folder(bench, push, tmp_path):
    push(1)
    bench.poll()
    bench.poll(base_path=tmp_path / "nowhere")
    assert bench.latest() == 1
    bench.poll(specific(9))
    assert bench.latest() == 1


def test_warm_up_requests_run_before_a_version_is_available(bench, push, predict_request):
    def write_warmup(folder, request):
        log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
        (folder / "assets.extra").mkdir(exist_ok=True)
        with tf.io.TFRecordWriter(str(folder / "assets.extra" / "tf_serving_warmup_requests")) as writer:
            writer.write(log.SerializeToString())

    folder = push(1)
    write_warmup(folder, predict_request(RAW, signature="nope"))
    bench.poll()
    status = bench.catalog.statuses("taxi")[1]
    assert status.failed and 'Serving signature key "nope" not found' in status.message
    write_warmup(folder, predict_request(RAW, signature="serving_raw"))
    bench.poll()
    assert bench.latest() == 1


def test_reload_config_over_grpc(push, choose, start, base_path):
    push(1)
    push(2)
    choose(1)
    server, client, _ = start()
    server.wait_until_available("taxi")
    request = model_management_pb2.ReloadConfigRequest()
    entry = request.config.model_config_list.config.add(
        name="taxi", base_path=str(base_path), model_platform="tensorflow"
    )
    entry.model_version_policy.specific.versions.append(2)
    assert client.models.HandleReloadConfigRequest(request).status.error_code == 0
    assert client.states()[2] in ("START", "LOADING", "AVAILABLE")  # It is known at once, and loaded later.
    server.wait_until_available("taxi", 2)
    assert client.score() == 2
    entry.name = "again"  # Of a model that is new the answer comes when it is there.
    client.models.HandleReloadConfigRequest(request)
    assert client.score(model="again") == 2
    assert client.http("/v1/models/taxi:predict", {})[0] == 404
    entry.name, entry.base_path = "other", "/nowhere"
    with pytest.raises(grpc.RpcError, match="other is not available: waiting for the base path"):
        client.models.HandleReloadConfigRequest(request)
    del request.config.model_config_list.config[:]
    client.models.HandleReloadConfigRequest(request)
    assert client.http("/healthz") == (503, {"error": "no model is configured"})


def test_what_a_server_is_told_supersedes_a_file_that_it_has_not_read_yet(
    bench, push, choose, base_path, eventually
):
    push(1)
    push(2)
    choose(1)
    bench.manager.reload((ModelConfig("taxi", base_path, LATEST),))
    assert bench.latest() == 2
    bench.manager.start(poll_seconds=0.02)
    push(3)
    eventually(lambda: bench.latest() == 3)  # It has polled, and not taken the file's version.
    choose(2)
    eventually(lambda: bench.latest() == 2)


def test_stop_lets_requests_in_flight_end(push, choose, start, eventually):
    push(1)
    choose(1)
    server, client, _ = start()
    server.wait_until_available("taxi")
    (model,) = server._catalog.serving("taxi").versions.values()  # To see when the requests are in.
    body = {"signature_name": "slow", "instances": [30_000]}
    with ThreadPoolExecutor(2) as pool:
        over_grpc = pool.submit(client.predict, {"steps": np.array([30_000], np.int32)}, signature="slow")
        over_rest = pool.submit(client.http, "/v1/models/taxi:predict", body)
        eventually(lambda: model.users == 2)
        server.stop(grace=60)
        assert over_grpc.result().outputs["score"].float_val[0] == 1.0
        assert over_rest.result() == (200, {"predictions": [1.0]})
    assert model.users == 0
    with pytest.raises(grpc.RpcError):
        client.score()
    server.stop()  # Again is fine.
    server.wait()  # Returns, as it is stopped.


@pytest.mark.parametrize("taken", ["grpc_port", "rest_port"])
def test_a_port_in_use_is_named(config_file, taken):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = ModelServer(config_file, **{"grpc_port": 0, "rest_port": 0, taken: port})
        with pytest.raises(ServerError, match=f"cannot listen on 127.0.0.1:{port} .*choose another port"):
            server.start()
        server.stop()


def test_a_server_does_not_share_the_ports_of_another(config_file):
    with ModelServer(config_file, grpc_port=0, rest_port=0) as first:
        for ports in (
            {"grpc_port": first.grpc_port, "rest_port": 0},
            {"grpc_port": 0, "rest_port": first.rest_port},
        ):
            with pytest.raises(ServerError, match="cannot listen"):
                ModelServer(config_file, **ports).start()


def test_poll_seconds_must_be_positive(config_file):
    with pytest.raises(ServerError, match="poll_seconds: got 0"):
        ModelServer(config_file, poll_seconds=0)


def test_waiting_ends_when_the_server_stops(config_file, eventually):
    server = ModelServer(config_file, grpc_port=0, rest_port=0)
    server.start()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(server.wait_until_available, "taxi")
        server.stop()
        with pytest.raises(ServerError, match="not available when the server stopped"):
            waiting.result()


def test_a_listener_that_fails_does_not_stop_the_server(push, choose, config_file):
    def fail(event):
        raise ValueError(event)

    push(1)
    choose(1)
    with ModelServer(config_file, grpc_port=0, rest_port=0, poll_seconds=0.05, on_event=fail) as server:
        assert server.wait_until_available("taxi") == 1
