"""A steady load of keyed requests, and their labels: `python -m tests.e2e.canary_load SPEC`, until SIGTERM.

Each request has a key of its own and one number x; its label is 1 with the probability sigmoid(2 x), whoever
answers. Requests are sent when they are due, whether or not those before are answered.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_TIMEOUT = 30.0  # seconds
_LABELS_EVERY = 0.5  # seconds


@dataclass
class Load:
    """What is sent, and what came of it.

    Attributes:
        address: HOST:PORT of nginx.
        path: of the requests.
        rate: requests a second.
        labels: folder for the labels; None: there are none.
        out: file that tells of the answers so far, as they come.
        statuses: HTTP status -> how many answers; 0: none came.
        versions: who answered -> how many.
    """

    address: str
    path: str
    rate: float
    labels: str | None
    out: str
    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    _rows: list[str] = field(default_factory=list)
    _idle: list[Any] = field(default_factory=list)

    async def send(self, stop: asyncio.Event) -> None:
        """Sends until it is stopped, then waits for what was sent."""
        begin, number, running = time.time(), 0, set[asyncio.Task[None]]()
        told = asyncio.create_task(self._tell(stop))
        while not stop.is_set():
            task = asyncio.create_task(self._ask(number))
            running.add(task)
            task.add_done_callback(running.discard)
            number += 1
            await asyncio.sleep(max(0.0, begin + number / self.rate - time.time()))
        await asyncio.gather(*running)
        await told

    async def _ask(self, number: int) -> None:
        x = random.gauss(0, 1)
        key, began = f"{self.path}-{number}-{random.getrandbits(32)}", time.time()
        body = json.dumps({"signature_name": "serving_raw", "instances": [{"x": x}]}).encode()
        try:
            status = await asyncio.wait_for(self._post(key, body), _TIMEOUT)
        except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError):
            status = 0
        self.statuses[status] += 1
        self.seconds.append(time.time() - began)
        self._rows.append(f"{key},{int(random.random() < 1 / (1 + math.exp(-2 * x)))}")

    async def _post(self, key: str, body: bytes) -> int:
        """The status; as every client, it sends again where an idle connection turns out to be closed."""
        while self._idle:
            connection = self._idle.pop()
            try:
                return await self._exchange(connection, key, body)
            except (ConnectionError, asyncio.IncompleteReadError) as error:
                connection[1].close()
                if isinstance(error, asyncio.IncompleteReadError) and error.partial:
                    raise
        host, port = self.address.split(":")
        return await self._exchange(await asyncio.open_connection(host, int(port)), key, body)

    async def _exchange(self, connection: Any, key: str, body: bytes) -> int:
        reader, writer = connection
        head = f"POST {self.path} HTTP/1.1\r\nHost: {self.address}\r\nX-Request-Key: {key}\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        await reader.readexactly(int(headers["content-length"]))
        if headers.get("connection") == "close":
            writer.close()
        else:
            self._idle.append(connection)
        return int(lines[0].split()[1])

    async def _tell(self, stop: asyncio.Event) -> None:
        number, last = 0, False
        while not last:
            last = stop.is_set()
            await asyncio.sleep(_LABELS_EVERY)
            rows, self._rows = self._rows, []
            if self.labels and rows:
                _replace(Path(self.labels) / f"{number:06}.csv", "\n".join(["key,y", *rows]) + "\n")
                number += 1
            ordered = sorted(self.seconds) or [0.0]
            told = {"statuses": self.statuses, "p50": ordered[len(ordered) // 2]}
            _replace(Path(self.out), json.dumps(told | {"p99": ordered[int(len(ordered) * 0.99)]}))


def _replace(file: Path, text: str) -> None:
    aside = file.with_name(f".{file.name}")
    aside.write_text(text)
    aside.replace(file)


async def _main(spec: dict[str, Any]) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await Load(**spec).send(stop)


if __name__ == "__main__":
    asyncio.run(_main(json.loads(sys.argv[1])))
