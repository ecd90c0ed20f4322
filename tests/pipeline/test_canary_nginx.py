"""A real nginx before two pools of small servers."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import itertools
import json
import os
import signal
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.errors import RetrainError
from pipeline.canary import access_log
from pipeline.canary.access_log import Place, parse
from pipeline.canary.nginx import Nginx
from pipeline.canary.nginx_config import Encryption, Front, Servers

PREDICT = "/v1/models/shop:predict"
KEYS = [f"customer-{number}" for number in range(300)]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Backend:
    """Answers every REST request with its name, and every gRPC Predict, too."""

    def __init__(self, name: str, context: ssl.SSLContext | None = None) -> None:
        import grpc

        self.name, self.status, self.grpc_status, self.pause = name, 200, grpc.StatusCode.OK, 0.0
        backend = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                time.sleep(backend.pause)
                self.send_response(backend.status)
                self.send_header("Content-Length", str(len(backend.name)))
                self.end_headers()
                self.wfile.write(backend.name.encode())

            do_POST = do_GET = answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if context:
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        self.rest = f"127.0.0.1:{self._http.server_port}"
        self._grpc = grpc.server(ThreadPoolExecutor(4))
        method = grpc.unary_unary_rpc_method_handler(self._predict)
        for service in ("PredictionService", "ModelService"):
            names = dict.fromkeys(("Predict", "GetModelStatus", "HandleReloadConfigRequest"), method)
            handler = grpc.method_handlers_generic_handler(f"tensorflow.serving.{service}", names)
            self._grpc.add_generic_rpc_handlers((handler,))
        self.grpc = f"127.0.0.1:{self._grpc.add_insecure_port('127.0.0.1:0')}"
        self._grpc.start()

    def _predict(self, _: bytes, context: Any) -> bytes:
        import grpc

        if self.grpc_status != grpc.StatusCode.OK:
            context.abort(self.grpc_status, "as told")
        return self.name.encode()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._grpc.stop(0).wait()


class Site:
    """nginx and the two backends; `ask` asks nginx."""

    def __init__(self, folder: Path) -> None:
        self.stable, self.canary = Backend("stable"), Backend("canary")
        self.nginx = Nginx(folder / "nginx", "nginx")
        self.front = Front(
            "127.0.0.1",
            free_port(),
            free_port(),
            "X-Request-Key",
            Servers((self.stable.rest,), (self.stable.grpc,)),
            Servers((self.canary.rest,), (self.canary.grpc,)),
            version=7,
        )

    def route(self, percent: float, **changes: Any) -> None:
        self.nginx.apply(replace(self.front, percent=percent, **changes))

    def ask(self, path: str = PREDICT, key: str | None = None, method: str = "POST") -> tuple[int, str]:
        with contextlib.closing(self.connect()) as connection:
            return talk(connection, path, key, method)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.front.rest_port, timeout=10)

    def members(self) -> set[str]:
        """The keys that the canary pool answers."""
        with contextlib.closing(self.connect()) as connection:
            return {key for key in KEYS if talk(connection, PREDICT, key)[1] == "canary"}

    def logged(self, at_least: int = 0, place: Place | None = None) -> list[Any]:
        """What the log holds, behind a place; nginx writes a line when the client has its answer."""
        place, found = place or Place(), list[Any]()

        def enough() -> bool:
            found.extend(access_log.requests(self.nginx.folder, place))
            return len(found) >= at_least

        wait_for(enough)
        return found

    def close(self) -> None:
        self.nginx.stop()
        self.stable.stop()
        self.canary.stop()


def talk(
    connection: http.client.HTTPConnection, path: str, key: str | None = None, method: str = "POST"
) -> tuple[int, str]:
    connection.request(method, path, "{}", {"X-Request-Key": key} if key else {})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    try:
        try:
            made.route(0.0)
        except RetrainError as error:
            if "there is no such program" in str(error):
                pytest.skip(str(error))
            raise
        yield made
    finally:
        made.close()


def test_keys_keep_their_version_and_who_is_in_stays_in(site: Site) -> None:
    groups = []
    for percent in (0.0, 1.0, 10.0, 50.0, 100.0):
        site.route(percent)
        groups.append(site.members())
    assert all(before < after for before, after in itertools.pairwise(groups))
    assert [len(group) for group in groups[::4]] == [0, 300]
    assert 12 < len(groups[2]) < 55 and 115 < len(groups[3]) < 185
    site.route(10.0)
    assert site.members() == groups[2]
    site.route(10.0, version=8)  # another challenger is not tried on the same customers
    assert len(site.members() & groups[2]) < 12


def test_without_a_key_the_address_decides(site: Site) -> None:
    site.route(50.0)
    with contextlib.closing(site.connect()) as connection:
        assert len({talk(connection, PREDICT)[1] for _ in range(20)}) == 1


def test_what_names_a_version_goes_where_it_is(site: Site) -> None:
    site.route(1.0)
    wanted = {
        "/v1/models/shop/labels/canary:predict": "canary",
        "/v1/models/shop/versions/7:predict": "canary",
        "/v1/models/shop/versions/7/metadata": "canary",
        "/v1/models/shop/versions/70:predict": "stable",
        "/v1/models/shop/labels/stable:predict": "stable",
        "/healthz": "stable",
    }
    assert {path: site.ask(path)[1] for path in wanted} == wanted
    assert site.logged() == []  # nobody's choice is compared
    site.route(100.0)
    assert site.ask("/v1/models/shop", method="GET")[1] == "stable"
    assert site.ask("/v1/models/shop/labels/stable:predict")[1] == "stable"
    assert site.ask("/monitoring/prometheus/metrics")[0] == 404


@pytest.mark.parametrize("how", ["errs", "is down", "hangs"])
def test_what_the_challenger_fails_the_champion_answers_and_it_counts(site: Site, how: str) -> None:
    site.route(100.0, timeout_seconds=0.2)
    if how == "errs":
        site.canary.status = 500
    elif how == "is down":
        site.canary.stop()
    else:
        site.canary.pause = 1.0
    assert [site.ask(key=key) for key in KEYS[:3]] == [(200, "stable")] * 3
    logged = site.logged(3)
    assert [(request.canary, request.failed) for request in logged] == [(True, True)] * 3
    if how == "is down":
        site.canary = Backend("canary")


def test_the_champions_failures_are_its_own(site: Site) -> None:
    site.route(1.0)
    site.stable.status = 500
    outside = next(key for key in KEYS if site.ask(key=key) == (500, "stable"))
    request = site.logged(1)[0]
    assert request.failed and not request.canary and site.ask(key=outside)[0] == 500


def grpc_ask(site: Site, key: str, method: str = "PredictionService/Predict") -> bytes:
    import grpc

    with grpc.insecure_channel(f"127.0.0.1:{site.front.grpc_port}") as channel:
        call = channel.unary_unary(f"/tensorflow.serving.{method}")
        return bytes(call(b"", metadata=[("x-request-key", key)], timeout=10))


def test_grpc_goes_the_same_way(site: Site) -> None:
    import grpc

    site.route(50.0)
    inside = {key for key in KEYS[:30] if site.ask(key=key)[1] == "canary"}
    assert {key for key in KEYS[:30] if grpc_ask(site, key) == b"canary"} == inside
    assert not any(request.failed for request in site.logged(60))
    assert {grpc_ask(site, key, "ModelService/GetModelStatus") for key in KEYS[:6]} == {b"stable"}
    with pytest.raises(grpc.RpcError) as refused:
        grpc_ask(site, KEYS[0], "ModelService/HandleReloadConfigRequest")
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
    before, key = len(site.logged()), sorted(inside)[0]
    site.canary.grpc_status = grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.RpcError) as failed:
        grpc_ask(site, key)
    assert failed.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    (request,) = site.logged(before + 1)[before:]
    assert request.canary and request.failed


def test_a_reload_drops_no_connection(site: Site) -> None:
    site.stable.pause = 0.02
    site.route(0.0)
    ended, answers = threading.Event(), Counter[tuple[int, str]]()

    def ask_all_the_time() -> None:
        while not ended.is_set():
            answers[site.ask(key=KEYS[sum(answers.values()) % len(KEYS)])] += 1

    threads = [threading.Thread(target=ask_all_the_time) for _ in range(4)]
    for thread in threads:
        thread.start()
    for percent in (1.0, 10.0, 50.0, 100.0, 0.0, 50.0):
        site.route(percent)
        time.sleep(0.1)
    ended.set()
    for thread in threads:
        thread.join()
    assert {status for status, _ in answers} == {200} and sum(answers.values()) > 50


def test_a_configuration_that_nginx_refuses_changes_nothing(site: Site) -> None:
    site.route(100.0)
    text, pid = (site.nginx.folder / "nginx.conf").read_text(), site.nginx.pid()
    with pytest.raises(
        RetrainError, match=r"nginx refuses .*nginx.conf.new, and what it did before stays: .*emerg"
    ):
        site.route(50.0, canary=Servers(("no such host:80",), ("127.0.0.1:1",)))
    assert (site.nginx.folder / "nginx.conf").read_text() == text and site.nginx.pid() == pid
    assert site.ask(key="a") == (200, "canary")


def test_nginx_is_started_again_where_it_was_killed(site: Site) -> None:
    site.route(100.0)
    first = site.nginx.pid()
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: site.nginx.pid() is None)
    assert site.ask(key="a") == (200, "canary")  # its workers live on, and listen to nobody
    site.route(0.0)
    assert site.nginx.pid() not in (None, first)
    assert {site.ask(key="a") for _ in range(20)} == {(200, "stable")}


def wait_for(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_the_log_is_read_once_and_renamed_before_it_grows(site: Site) -> None:
    site.route(50.0)
    place = access_log.end(site.nginx.folder)
    for key in KEYS[:10]:
        site.ask(key=key)
    read = site.logged(10, place)
    assert len(read) == 10 and site.logged(0, place) == [] and len({request.bucket for request in read}) > 5
    for key in KEYS[:4]:
        site.ask(key=key)
    access_log.rotate(site.nginx.folder, place, site.nginx.reopen_logs, largest=100)
    wait_for((site.nginx.folder / "access.log").exists)
    for key in KEYS[:3]:
        site.ask(key=key)
    assert len(site.logged(7, place)) == 7 and site.logged(0, place) == []
    for _ in range(5):
        site.ask(key="a")
        assert len(site.logged(1, place)) == 1
        access_log.rotate(site.nginx.folder, place, site.nginx.reopen_logs, largest=100)
    assert len(list(site.nginx.folder.glob("access.log*"))) <= 2
    site.route(0.0)
    wait_for((site.nginx.folder / "access.log").exists)
    before = len(site.logged())
    site.ask(key="a")
    assert len(site.logged()) == before  # without a challenger nothing is logged


def test_a_missing_nginx_is_told(tmp_path: Path, site: Site) -> None:
    with pytest.raises(RetrainError, match=r"serving\.canary\.nginx: got 'no-nginx', and there is no such"):
        Nginx(tmp_path / "other", "no-nginx").apply(replace(site.front, rest_port=free_port()))


def test_a_port_that_is_taken_is_told(tmp_path: Path, site: Site) -> None:
    other = Nginx(tmp_path / "other", "nginx")
    with pytest.raises(RetrainError, match=r"Address already in use"):
        other.apply(site.front)
    assert other.pid() is None


def test_encrypted_on_both_sides(tmp_path: Path, site: Site) -> None:
    certificate = self_signed(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    stable, canary = Backend("stable", server), Backend("canary", server)
    tls = Encryption(certificate, certificate, certificate)
    at = {"stable": stable, "canary": canary}
    pools = {
        name: Servers((backend.rest.replace("127.0.0.1", "localhost"),), (backend.grpc,))
        for name, backend in at.items()
    }
    site.route(100.0, tls=tls, **pools)
    trusting = ssl.create_default_context(cafile=str(certificate))
    connection = http.client.HTTPSConnection("localhost", site.front.rest_port, context=trusting, timeout=10)
    with contextlib.closing(connection):
        assert talk(connection, PREDICT, "a") == (200, "canary")
        assert talk(connection, "/v1/models/shop/labels/stable:predict") == (200, "stable")
    stable.stop()
    canary.stop()


def self_signed(folder: Path) -> Path:
    """A certificate of localhost and its key, in one file."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = folder / "tls.pem"
    file.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return file


@pytest.mark.parametrize(
    ("told", "failed", "seconds"),
    [
        ({"status": 200, "upstream_status": "200", "seconds": "0.012"}, False, 0.012),
        ({"status": 200, "upstream_status": "502, 200", "seconds": "1.000, 0.003"}, True, 1.0),
        ({"status": 400, "upstream_status": "400", "seconds": "0.001"}, True, 0.001),
        ({"status": 499, "upstream_status": "-", "seconds": "2.500"}, True, 2.5),
        ({"status": 413, "upstream_status": "", "seconds": ""}, True, None),
        ({"status": 200, "upstream_status": "200", "seconds": "0.002", "grpc": "0"}, False, 0.002),
        ({"status": 200, "upstream_status": "200", "seconds": "0.002", "grpc": "3"}, True, 0.002),
    ],
)
def test_what_counts_as_a_failure(told: dict[str, Any], failed: bool, seconds: float | None) -> None:
    line = {"time": 1.5, "pool": "canary", "grpc": "", "bucket": 3, **told}
    request = parse(json.dumps(line).encode())
    assert request is not None and (request.failed, request.seconds) == (failed, seconds)


def test_a_line_that_is_none_is_passed_over() -> None:
    assert parse(b'{"time":1795258193.563,"pool":"ca\n') is None
