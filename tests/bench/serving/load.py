"""A steady load on a model server, in a process of its own: `python -m tests.bench.serving.load SPEC OUT`.

Requests are sent when they are due, whether or not the ones before have been answered, and their latency
counts from then on: a server that stalls cannot slow the load down and so hide it.
"""

import asyncio
import base64
import gc
import json
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import uvloop

_CONNECTIONS = 16
_TIMEOUT = 20.0  # seconds
_ENOUGH = threading.Event()
_PREDICT = "/tensorflow.serving.PredictionService/Predict"


@dataclass(frozen=True)
class Load:
    """What to send.

    Attributes:
        rest, grpc: HOST:PORT; empty: nothing is sent there.
        path: of the REST requests.
        bodies: of the REST requests, one after the other, over and over.
        messages: serialized PredictRequests in base64, likewise.
        rest_rate, grpc_rate: requests a second.
        seconds: how long at most: SIGTERM ends it before, with all that was sent answered.
        keys: so many different values of the header `X-Request-Key`; 0: there is no such header.
    """

    path: str
    bodies: list[str]
    rest: str = ""
    grpc: str = ""
    messages: list[str] = field(default_factory=list)
    rest_rate: float = 200.0
    grpc_rate: float = 50.0
    seconds: float = 10.0
    keys: int = 0


@dataclass(frozen=True)
class Answer:
    """One request: which one, when it was due and when answered (seconds since the epoch), with what."""

    protocol: str
    request: int
    due: float
    done: float
    status: int
    """HTTP's; over gRPC 200, or the code of the error."""
    body: str
    """What a failed one said; else the answer: over gRPC in base64."""
    key: str = ""


def main(spec: Path, out: Path) -> None:
    """Sends the load of `spec` and writes one JSON line an answer."""
    signal.signal(signal.SIGTERM, lambda *_: _ENOUGH.set())
    # To look through all answers so far for garbage takes 100 ms at last, in which nothing is sent or read.
    gc.disable()
    load = Load(**json.loads(spec.read_text()))
    answers = uvloop.run(_send(load))
    with open(out, "w") as file:
        file.writelines(json.dumps(asdict(answer)) + "\n" for answer in answers)


async def _send(load: Load) -> list[Answer]:
    begin = time.time() + 0.2
    tasks = []
    if load.rest:
        tasks.append(_rest(load, begin))
    if load.grpc:
        tasks.append(_grpc(load, begin))
    return [answer for answers in await asyncio.gather(*tasks) for answer in answers]


async def _paced(rate: float, seconds: float, begin: float, ask: Any) -> list[Answer]:
    """Starts `ask(number, due)` `rate` times a second, each when it is due."""
    answers: list[Answer] = []
    running: set[asyncio.Task[Answer]] = set()

    def done(task: asyncio.Task[Answer]) -> None:
        running.discard(task)
        answers.append(task.result())

    for number in range(round(rate * seconds)):
        if _ENOUGH.is_set():
            break
        due = begin + number / rate
        if (wait := due - time.time()) > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(ask(number, due))
        running.add(task)
        task.add_done_callback(done)
    await asyncio.gather(*running)
    return answers


async def _rest(load: Load, begin: float) -> list[Answer]:
    host, port = load.rest.rsplit(":", 1)
    idle: asyncio.LifoQueue[tuple[Any, Any] | None] = asyncio.LifoQueue()
    for _ in range(_CONNECTIONS):
        idle.put_nowait(None)

    async def ask(number: int, due: float) -> Answer:
        which = number % len(load.bodies)
        key = f"k{number % load.keys}" if load.keys else ""
        connection = await idle.get()
        if connection and connection[0].at_eof():  # The server keeps none for ever that nobody uses.
            connection[1].close()
            connection = None
        try:
            connection = connection or await asyncio.open_connection(host, int(port))
            status, body = await asyncio.wait_for(_post(*connection, load, which, key), _TIMEOUT)
        except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError) as error:
            if connection:
                connection[1].close()
            connection, status, body = None, 0, f"{type(error).__name__}: {error}"
        idle.put_nowait(connection)
        return Answer("rest", which, due, time.time(), status, body, key)

    answers = await _paced(load.rest_rate, load.seconds, begin, ask)
    while not idle.empty():
        if connection := idle.get_nowait():
            connection[1].close()
    return answers


async def _post(reader: Any, writer: Any, load: Load, which: int, key: str) -> tuple[int, str]:
    body = load.bodies[which].encode()
    header = f"X-Request-Key: {key}\r\n" if key else ""
    head = (
        f"POST {load.path} HTTP/1.1\r\nHost: {load.rest}\r\n{header}Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    answer = await reader.readexactly(int(headers["content-length"]))
    if headers.get("connection", "").lower() == "close":
        raise ValueError(f"the server closed the connection after {lines[0]}")
    return int(lines[0].split()[1]), answer.decode()


async def _grpc(load: Load, begin: float) -> list[Answer]:
    import grpc

    messages = [base64.b64decode(message) for message in load.messages]
    async with grpc.aio.insecure_channel(load.grpc) as channel:
        call = channel.unary_unary(_PREDICT)  # bytes to bytes: what is measured is the server

        async def ask(number: int, due: float) -> Answer:
            which = number % len(messages)
            key = f"k{number % load.keys}" if load.keys else ""
            metadata = (("x-request-key", key),) if key else None
            try:
                body = base64.b64encode(await call(messages[which], timeout=_TIMEOUT, metadata=metadata))
                return Answer("grpc", which, due, time.time(), 200, body.decode(), key)
            except grpc.aio.AioRpcError as error:
                told = f"{error.code().name}: {error.details()}"
                return Answer("grpc", which, due, time.time(), error.code().value[0], told, key)

        return await _paced(load.grpc_rate, load.seconds, begin, ask)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
