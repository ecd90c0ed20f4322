"""In which thread a REST request is answered: where it is read, if that is soon done, or in its own."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from serving import rest_api, rest_server
from serving.options import KEY_HEADER, Limits
from serving.rest_server import RestServer

SMALL, LARGE = b"{}", b" " * 100_000
PREDICT = "/v1/models/shop:predict"


class Answered:
    """Stands for the service and the clock: notes in which thread it answered, and takes its time."""

    def __init__(self) -> None:
        self.now = self.busy = 0.0
        self.seconds = self.busy_seconds = 0.0
        self.threads: list[str] = []

    def respond(self, service: Any, verb: str, path: str, body: bytes, key: str | None) -> tuple[int, bytes]:
        self.threads.append(threading.current_thread().name)
        self.now += self.seconds
        self.busy += self.busy_seconds
        return 200, b"{}"


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> Answered:
    one = Answered()
    monkeypatch.setattr(rest_api, "respond", one.respond)
    # A busy machine must not make a request look slow.
    monkeypatch.setattr(
        rest_server, "time", SimpleNamespace(perf_counter=lambda: one.now, thread_time=lambda: one.busy)
    )
    return one


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def _server(threads: ThreadPoolExecutor, alone: bool = True) -> RestServer:
    service: Any = SimpleNamespace()
    return RestServer(service, threads, limits=Limits(), token=None, key_header=KEY_HEADER, alone=alone)


async def _ask(server: RestServer, body: bytes = SMALL) -> None:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await server({"type": "http", "method": "POST", "path": PREDICT, "headers": []}, receive, send)
    assert sent[0]["status"] == 200


async def _warmed(server: RestServer) -> RestServer:
    for _ in range(600):
        await _ask(server)
    return server


def _here(answered: Answered) -> bool:
    return answered.threads[-1] == threading.current_thread().name


def test_a_small_request_of_a_quick_model_is_answered_where_it_is_read(
    answered: Answered, threads: ThreadPoolExecutor
) -> None:
    async def run() -> None:
        server = _server(threads)
        await _ask(server)
        assert not _here(answered)  # Nobody knows yet how long one takes.
        await _warmed(server)
        assert _here(answered)

    asyncio.run(run())


def test_a_large_request_is_answered_in_a_thread(answered: Answered, threads: ThreadPoolExecutor) -> None:
    async def run() -> None:
        server = await _warmed(_server(threads))
        await _ask(server, LARGE)
        assert not _here(answered)

    asyncio.run(run())


def test_two_requests_at_once_are_answered_in_threads(
    answered: Answered, threads: ThreadPoolExecutor
) -> None:
    async def run() -> None:
        server = await _warmed(_server(threads))
        await asyncio.gather(_ask(server), _ask(server))
        assert threading.current_thread().name not in answered.threads[-2:]

    asyncio.run(run())


def test_a_model_that_became_slow_is_asked_in_threads_for_long(
    answered: Answered, threads: ThreadPoolExecutor
) -> None:
    async def run() -> None:
        server = await _warmed(_server(threads))
        answered.seconds = answered.busy_seconds = 0.1
        await _ask(server)
        answered.seconds = answered.busy_seconds = 0.0
        for _ in range(100):
            await _ask(server)
            assert not _here(answered)

    asyncio.run(run())


def test_a_quick_model_on_a_busy_machine_is_asked_here(
    answered: Answered, threads: ThreadPoolExecutor
) -> None:
    async def run() -> None:
        server = await _warmed(_server(threads))
        answered.seconds, answered.busy_seconds = 0.025, 0.002
        for _ in range(10):
            await _ask(server)
            assert _here(answered)
        answered.seconds = 0.1  # So long nobody waits for a processor.
        await _ask(server)
        await _ask(server)
        assert not _here(answered)

    asyncio.run(run())


def test_a_crowd_of_quick_requests_does_not_stay_in_threads(
    answered: Answered, threads: ThreadPoolExecutor
) -> None:
    async def run() -> None:
        server = await _warmed(_server(threads))
        answered.seconds, answered.busy_seconds = 0.04, 0.002  # as they wait for each other
        await asyncio.gather(*(_ask(server) for _ in range(8)))
        assert threading.current_thread().name not in answered.threads[-8:]
        await _ask(server)
        assert _here(answered)

    asyncio.run(run())


def test_who_waits_for_a_batch_waits_in_a_thread(answered: Answered, threads: ThreadPoolExecutor) -> None:
    async def run() -> None:
        await _warmed(_server(threads, alone=False))
        assert not _here(answered)

    asyncio.run(run())
