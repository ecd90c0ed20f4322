"""What a server refuses, whom it lets in, what it tells of itself, and what it logs."""

import contextlib
import gzip
import http.client
import json
import select
import shutil
import socket
import ssl
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.auth import Token
from serving.errors import ServerError
from serving.options import Batching, Limits, Tls
from serving.server import ModelServer

SLOW = {"signature_name": "slow", "instances": [20_000]}
RAW = {"signature_name": "serving_raw", "instances": [{"x": [1.0], "company": ["a"]}]}
PATH = "/v1/models/taxi:predict"


@pytest.fixture(scope="module")
def models(exports, tmp_path_factory):
    """A model config file that serves version 2 of taxi."""
    from serving.model_config import write_model_config

    folder = tmp_path_factory.mktemp("guarded")
    write_model_config(folder / "models.config", "taxi", exports[2].parent, [2])
    return folder / "models.config"


@pytest.fixture
def serve(models, connect):
    """Starts a server with options; gives it and a client."""
    with contextlib.ExitStack() as stack:

        def start(**options):
            server = stack.enter_context(
                ModelServer(models, grpc_port=0, rest_port=0, poll_seconds=0.05, **options)
            )
            server.wait_until_available("taxi")
            return server, stack.enter_context(contextlib.contextmanager(connect)(server))

        yield start


def refusal(call):
    with pytest.raises(grpc.RpcError) as error:
        call()
    return error.value.code().name, error.value.details()


def metrics(client):
    """(name, labels but le) -> value."""
    connection = http.client.HTTPConnection(client.url.removeprefix("http://"), timeout=60)
    connection.request("GET", "/monitoring/prometheus/metrics")
    response = connection.getresponse()
    assert response.status == 200 and response.headers["Content-Type"].startswith("text/plain")
    text = response.read().decode()
    connection.close()
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


# Limits.


def test_a_body_that_is_too_large_is_refused_unread(serve):
    _, client = serve(limits=Limits(max_body_bytes=1 << 20))
    status, answer = client.http(PATH, b"x" * (100 << 20))
    assert status == 413 and "larger than the limit of 1048576 bytes" in answer["error"]
    inputs = {"x": np.zeros((1 << 18, 1), np.float32), "company": [["a"]]}
    code, message = refusal(lambda: client.predict(inputs, signature="serving_raw"))
    assert code == "RESOURCE_EXHAUSTED" and "larger than max" in message
    assert client.http(PATH, RAW)[0] == 200
    seen = metrics(client)
    key = ("retrain_serving_requests_rejected_total", ("entrypoint", "REST"), ("reason", "size"))
    assert seen[key] == 1


def test_a_body_without_a_length_is_read_up_to_the_limit(serve):
    _, client = serve(limits=Limits(max_body_bytes=1 << 16))
    connection = http.client.HTTPConnection(client.url.removeprefix("http://"), timeout=60)
    chunks = (b" " * 10_000 for _ in range(100))
    connection.request("POST", PATH, chunks, encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
    assert connection.getresponse().status == 413
    connection.close()
    assert client.http(PATH, RAW)[0] == 200


def test_gzip_is_unpacked_up_to_the_limit(serve):
    _, client = serve(limits=Limits(max_body_bytes=1 << 16))

    def post(body):
        connection = http.client.HTTPConnection(client.url.removeprefix("http://"), timeout=60)
        connection.request("POST", PATH, body, {"Content-Encoding": "gzip"})
        response = connection.getresponse()
        answer = response.status, json.loads(response.read())
        connection.close()
        return answer

    assert post(gzip.compress(json.dumps(RAW).encode()))[0] == 200
    assert post(gzip.compress(b" " * (1 << 24)))[0] == 413
    status, answer = post(b"plain")
    assert status == 400 and "not in gzip" in answer["error"]


def test_more_requests_than_agreed_are_turned_away(serve, eventually):
    server, client = serve(limits=Limits(max_concurrent=2))
    (model,) = server._catalog.serving("taxi").versions.values()
    with ThreadPoolExecutor(4) as pool:
        slow = [pool.submit(client.http, PATH, SLOW) for _ in range(2)]
        slow += [
            pool.submit(client.predict, {"steps": np.array([20_000], np.int32)}, "slow") for _ in range(2)
        ]
        eventually(lambda: model.users == 4)
        status, answer = client.http(PATH, RAW)
        assert status == 429 and "2 requests are being answered already" in answer["error"]
        code, _ = refusal(lambda: client.predict({}, signature="serving_raw"))
        assert code == "RESOURCE_EXHAUSTED"
        assert client.http("/healthz") == (200, {"status": "ok"})
        assert [done.result()[0] for done in slow[:2]] == [200, 200]
        assert [done.result().outputs["score"].float_val[0] for done in slow[2:]] == [1.0, 1.0]
    assert client.http(PATH, RAW)[0] == 200
    key = ("retrain_serving_requests_rejected_total", ("entrypoint", "REST"), ("reason", "concurrency"))
    assert metrics(client)[key] == 1


def test_a_client_that_never_ends_its_request_holds_up_nobody(serve, monkeypatch):
    monkeypatch.setattr("serving.rest_server._BODY_SECONDS", 0.2)
    server, client = serve(limits=Limits(max_concurrent=1))
    with socket.create_connection(("127.0.0.1", server.rest_port)) as idle:
        idle.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n".encode())
        assert idle.recv(1000).startswith(b"HTTP/1.1 408")
    with socket.create_connection(("127.0.0.1", server.rest_port)) as gone:
        gone.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n".encode())
    deadline = time.monotonic() + 10
    while client.http(PATH, RAW)[0] != 200:
        assert time.monotonic() < deadline


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\xff\x00\xff\r\n\r\n",
        b"GET /v1/models/taxi HTTP/1.1\r\nHost: x\r\nContent-Length: nonsense\r\n\r\n",
        b"POST " + PATH.encode() + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 200_000,
    ],
    ids=["bytes", "length", "chunk", "header"],
)
def test_what_is_no_http_disturbs_nobody(served, sent):
    address = served.url.removeprefix("http://").split(":")
    with socket.create_connection((address[0], int(address[1]))) as connection:
        connection.settimeout(60)
        connection.sendall(sent)
        assert connection.recv(1000).startswith(b"HTTP/1.1 400")
    assert served.http(PATH, RAW)[0] == 200


@pytest.mark.parametrize(
    "begun",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nX: ",
        b"POST " + PATH.encode() + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ",
    ],
    ids=["header", "trailer"],
)
def test_headers_in_pieces_have_an_end_and_bodies_have_none(served, begun):
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.settimeout(60)
        connection.sendall(begun)
        answer = b""
        for _ in range(100):
            with contextlib.suppress(OSError):
                connection.sendall(b"a" * 1000)
            if select.select([connection], [], [], 0.01)[0]:
                answer = connection.recv(1000)
                break
        assert answer.startswith(b"HTTP/1.1 400") and b"larger than 65536 bytes" in answer
    large = {"signature_name": "serving_raw", "instances": RAW["instances"] * 500}
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    for _ in range(3):  # On one connection: what a body has is not counted to the next head.
        connection.request("POST", PATH, json.dumps(large))
        response = connection.getresponse()
        assert response.status == 200 and response.read()
    connection.close()


# Who is let in.


def test_a_token_is_compared_whole():
    token = Token("sésame")
    assert token.admits("Bearer sésame") and token.admits("bearer sésame".encode())
    for header in (None, "", "sésame", "Basic sésame", "Bearer ", "Bearer sésam", "Bearer sésame2"):
        assert not token.admits(header)


def test_without_the_token_nobody_is_let_in(serve, example, predict_request):
    server, client = serve(token="sesame")

    def get(path, header=None, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=60)
        headers = {} if header is None else {"Authorization": header}
        connection.request("GET" if body is None else "POST", path, body, headers)
        response = connection.getresponse()
        answer = response.status, response.headers["WWW-Authenticate"], response.read()
        connection.close()
        return answer

    for header in (None, "Bearer wrong", "sesame"):
        for path, body in (("/v1/models/taxi", None), (PATH, json.dumps(RAW))):
            status, challenge, answer = get(path, header, body)
            assert (status, challenge) == (401, "Bearer") and b"authorization: Bearer TOKEN" in answer
    assert get("/v1/models/taxi", "Bearer sesame")[0] == 200
    assert get(PATH, "Bearer sesame", json.dumps(RAW))[0] == 200
    assert get("/healthz")[0] == 200
    assert get("/monitoring/prometheus/metrics")[0] == 200

    request = predict_request({"examples": [example(1.0)]})
    for metadata in ((), (("authorization", "Bearer wrong"),)):
        code, message = refusal(lambda m=metadata: client.prediction.Predict(request, metadata=m))
        assert code == "UNAUTHENTICATED" and "authorization: Bearer TOKEN" in message
    for method in (client.models.GetModelStatus, client.models.HandleReloadConfigRequest):
        assert refusal(lambda m=method: m(_empty(m)))[0] == "UNAUTHENTICATED"
    metadata = (("authorization", "Bearer sesame"),)
    assert client.prediction.Predict(request, metadata=metadata).outputs["score"].float_val[0] == 2.0
    rejected = "retrain_serving_requests_rejected_total"
    assert metrics(client)[rejected, ("entrypoint", "GRPC"), ("reason", "token")] == 4
    assert metrics(client)[rejected, ("entrypoint", "REST"), ("reason", "token")] == 6


def _empty(method):
    from tensorflow_serving.apis import get_model_status_pb2, model_management_pb2

    if "GetModelStatus" in str(method._method):
        return get_model_status_pb2.GetModelStatusRequest()
    return model_management_pb2.ReloadConfigRequest()


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """A certificate of localhost, signed by itself."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl, to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    tls = Tls(folder / "cert.pem", folder / "key.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", tls.key, "-out", tls.certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    return tls


def test_both_protocols_speak_tls(serve, tls, example, predict_request):
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    server, plain = serve(tls=tls)
    trusted = ssl.create_default_context(cafile=tls.certificate)
    connection = http.client.HTTPSConnection("127.0.0.1", server.rest_port, context=trusted, timeout=60)
    connection.request("POST", PATH, json.dumps(RAW))
    assert json.loads(connection.getresponse().read())["predictions"][0]["score"] == [2.0]
    connection.close()
    credentials = grpc.ssl_channel_credentials(tls.certificate.read_bytes())
    with grpc.secure_channel(f"localhost:{server.grpc_port}", credentials) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        response = stub.Predict(predict_request({"examples": [example(1.0)]}), timeout=60)
        assert response.outputs["score"].float_val[0] == 2.0
    assert refusal(plain.score)[0] == "UNAVAILABLE"
    with pytest.raises(OSError, match=r"closed connection without response|reset by peer"):
        plain.http("/healthz")


@pytest.mark.parametrize("broken", ["certificate", "key"])
def test_a_certificate_that_cannot_be_used_is_named(models, tls, tmp_path, broken):
    for content in (None, "nonsense"):
        path = tmp_path / f"{broken}.pem"
        if content:
            path.write_text(content)
        wrong = Tls(**{"certificate": tls.certificate, "key": tls.key, broken: path})
        with pytest.raises(ServerError, match=rf"tls: got .*{broken}\.pem"):
            ModelServer(models, tls=wrong)


def test_an_empty_token_is_a_mistake(models):
    with pytest.raises(ServerError, match="token: got an empty one"):
        ModelServer(models, token="")


@pytest.mark.parametrize(
    ("options", "warns"),
    [
        ({}, False),
        ({"host": "localhost"}, False),
        ({"host": "0.0.0.0"}, True),
        ({"host": "0.0.0.0", "token": "sesame"}, False),
    ],
)
def test_a_server_that_is_open_to_all_says_so(tmp_path, options, warns):
    events = []
    with ModelServer(tmp_path / "none", grpc_port=0, rest_port=0, on_event=events.append, **options):
        pass
    assert any("warning: who reaches 0.0.0.0" in event for event in events) is warns


# What it tells of itself.


def test_metrics_count_what_was_asked(serve, example):
    _, client = serve()
    before = metrics(client)
    client.score()
    client.score()
    with pytest.raises(grpc.RpcError):
        client.predict({}, signature="nope")
    client.http(PATH, RAW)
    client.http(PATH, {})
    client.http("/v1/models/made-up:predict", {})
    now = metrics(client)

    def grown(name, **labels):
        key = (name, *sorted(labels.items()))
        return now.get(key, 0) - before.get(key, 0)

    count, latency = ":tensorflow:serving:request_count", ":tensorflow:serving:request_latency"
    assert grown(count, model_name="taxi", status="OK") == 3
    assert grown(count, model_name="taxi", status="FAILED_PRECONDITION") == 1
    assert grown(count, model_name="taxi", status="INVALID_ARGUMENT") == 1
    assert grown(count, model_name="-", status="NOT_FOUND") == 1
    assert grown(f"{latency}_count", model_name="taxi", API="Predict", entrypoint="GRPC") == 2
    assert grown(f"{latency}_count", model_name="taxi", API="predict", entrypoint="REST") == 1
    runtime = ":tensorflow:serving:runtime_latency"
    assert grown(f"{runtime}_count", model_name="taxi", API="Predict", runtime="TF1") == 3
    seconds = grown(f"{latency}_sum", model_name="taxi", API="Predict", entrypoint="GRPC")
    assert grown(f"{runtime}_sum", model_name="taxi", API="Predict", runtime="TF1") > 0
    assert seconds > 10  # Microseconds.
    buckets = sorted({float(dict(key[1:])["le"]) for key in now if key[0] == f"{latency}_bucket"})
    assert buckets[:3] == pytest.approx([10, 18, 32.4]) and len(buckets) == 34
    assert now["retrain_serving_requests_in_flight",] == 0
    assert now["retrain_serving_loaded_versions", ("model_name", "taxi")] == 1
    state = ("model_name", "taxi"), ("state", "AVAILABLE"), ("version", "2")
    assert now["retrain_serving_model_version_state", *state] == 1


class Log:
    """Keeps what it gets."""

    def __init__(self):
        self.logged = self.dropped = self.bytes = 0
        self.records = []

    def record(self, *answered):
        self.logged += 1
        self.records.append(answered)


def test_what_was_answered_goes_to_the_log_with_its_key(serve, example):
    log = Log()
    server, client = serve(prediction_log=log, key_header="X-Who")
    client.prediction.Predict(_raw_request(), metadata=(("x-who", "anna"),))
    client.prediction.Predict(_raw_request())
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=60)
    connection.request("POST", PATH, json.dumps(RAW), {"x-who": "otto,eva"})
    assert connection.getresponse().status == 200
    connection.close()
    client.http(PATH, {})
    with pytest.raises(grpc.RpcError):
        client.predict({}, signature="serving_raw")
    assert [record[-1] for record in log.records] == ["anna", None, "otto,eva"]
    for model, version, signature, method, inputs, outputs, _ in log.records:
        assert (model, version, signature, method) == ("taxi", 2, "serving_raw", "predict")
        assert inputs["x"].tolist() == [[1.0]] and inputs["company"].tolist() == [[b"a"]]
        assert outputs["score"].tolist() == [[2.0]]
    assert metrics(client)["retrain_serving_prediction_log_logged_total",] == 3


def _raw_request():
    from tests.serving.conformance.calc_requests import predict

    inputs = {"x": np.ones((1, 1), np.float32), "company": [["a"]]}
    return predict(inputs, model="taxi", signature="serving_raw")


def test_a_server_that_batches_answers_each_with_its_own(serve):
    _, client = serve(batching=Batching(max_rows=8, wait_seconds=0.05))
    together = threading.Barrier(8)

    def ask(x):
        together.wait()
        if x == 5:
            body = {"instances": [{"b64": "AAAA"}]}  # No tf.Example.
        else:
            instance = {"x": [float(x)], "company": [str(x)]}
            body = {"signature_name": "serving_raw", "instances": [instance]}
        return client.http(PATH, body)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    assert answers.pop(5)[0] == 400
    others = [x for x in range(8) if x != 5]
    for x, (status, answer) in zip(others, answers, strict=True):
        assert (status, answer["predictions"][0]["company"]) == (200, [str(x)])
        assert answer["predictions"][0]["score"] == [2.0 * x]
    runs = ":tensorflow:serving:runtime_latency_count"
    assert metrics(client)[runs, ("API", "Predict"), ("model_name", "taxi"), ("runtime", "TF1")] == 7
