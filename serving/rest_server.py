"""The HTTP server of the REST API: what is let in, and in which thread it is answered."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
import zlib
from collections.abc import Callable, Mapping
from concurrent import futures
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving import metrics, rest_api
from serving.auth import HEADER, REFUSAL, Token
from serving.errors import ServerError
from serving.options import Limits, Tls
from serving.service import Service

_HEAD_BYTES = 65_536  # The most that may come before a body, or after it.
_BODY_SECONDS = 30.0  # In which a request must have come whole: no client holds a place for nothing.
_PATIENCE_SECONDS = 5.0  # With a client that sends on after it was refused.
_SMALL_BYTES = 16_384  # A body that a few rows fill, and a prediction of a few rows is soon made.
_SOON_SECONDS = 0.01  # Of a processor.
_OWN_SHARE = 1 / 3  # Of its part of the time that goes by: what takes less waits for something else.
_FORGOTTEN = 0.99  # What a slow request counts after one more: one of a second, for 460 of them.
_ENTRYPOINT = "REST"
_T = TypeVar("_T")


class _RefusedError(Exception):
    """A request that is not let in."""

    def __init__(self, status: int, message: str, reason: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class RestServer:
    """The ASGI application. Who asks for /healthz or the metrics needs no token."""

    def __init__(
        self,
        service: Service,
        threads: futures.ThreadPoolExecutor,
        *,
        limits: Limits,
        token: Token | None,
        key_header: str,
        alone: bool,
    ) -> None:
        """Takes what answers.

        Args:
          service: answers.
          threads: run the requests, so that a long prediction does not keep others from being read.
          limits, token: see `ModelServer`.
          key_header: whose value the log gets.
          alone: no request waits for others, to be answered in one batch with them.
        """
        self._service = service
        self._threads = threads
        self._limits = limits
        self._token = token
        self._key_header = key_header
        self._alone = alone
        self._held = 0
        self._slowest = 1.0  # of the small requests, in seconds; as good as unknown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        request = Request(scope, receive)
        try:
            response = await self._respond(request)
        except _RefusedError as refusal:
            self._service.metrics.rejected(_ENTRYPOINT, refusal.reason)
            response = _json(refusal.status, rest_api.dump({"error": str(refusal)}))
            if refusal.status == 401:
                response.headers["www-authenticate"] = "Bearer"
            if refusal.status == 413:
                await _send_while_it_comes(response, receive, send)
                return
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        path: str = request.scope["path"]  # Percent-decoded, unlike `request.url.path`.
        if path == "/healthz":
            waiting = self._service.catalog.unavailable()
            if waiting:
                return _json(503, rest_api.dump({"error": "; ".join(waiting)}))
            return _json(200, rest_api.dump({"status": "ok"}))
        if path == metrics.PATH:
            page = await self._in_thread(self._service.metrics.page)
            return Response(page, media_type=metrics.CONTENT_TYPE)
        if not path.startswith("/v1/"):
            return _json(404, rest_api.dump({"error": f"Not Found: {path[:100]}"}))
        if self._token is not None and not self._token.admits(request.headers.get(HEADER)):
            raise _RefusedError(401, REFUSAL, "token")
        if self._held >= self._limits.max_concurrent:
            raise _RefusedError(
                429, f"{self._held} requests are being answered already, which is the limit", "concurrency"
            )
        self._held += 1
        try:
            body = await self._body(request)
            key = request.headers.get(self._key_header)
            status, answer = await self._answer(request.method, path, body, key)
        finally:
            self._held -= 1
        return _json(status, answer)

    async def _answer(self, verb: str, path: str, body: bytes, key: str | None) -> tuple[int, bytes]:
        """Asks the service: here, if that is soon done and nobody else waits, and else in a thread.

        A thread costs two switches and a quarrel over the interpreter's lock, a fifth of a small request.
        """
        request = self._service, verb, path, body, key
        if len(body) > _SMALL_BYTES:
            return await self._in_thread(rest_api.respond, *request)
        await asyncio.sleep(0)  # Now those that came with it are held, too.
        held = self._held
        if self._alone and held == 1 and self._slowest < _SOON_SECONDS:
            answer, busy, gone = _timed(*request)
        else:
            answer, busy, gone = await self._in_thread(_timed, *request)
        # A quick model waits for a processor now and then, and in threads for the others: its part counts, or
        # one such moment would keep all requests in threads, waiting for each other.
        self._slowest = max(busy, _OWN_SHARE * gone / held, _FORGOTTEN * self._slowest)
        return answer

    async def _in_thread(self, call: Callable[..., _T], *arguments: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)

    async def _body(self, request: Request) -> bytes:
        """Reads the body, and of one that is too large no more than the limit."""
        limit = self._limits.max_body_bytes
        too_large = _RefusedError(413, f"the request is larger than the limit of {limit} bytes", "size")
        if _length(request.headers) > limit:
            raise too_large
        chunks, size = [], 0
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > limit:
                        raise too_large
                    chunks.append(chunk)
        except TimeoutError:
            late = f"the request did not come within {_BODY_SECONDS:g} s"
            raise _RefusedError(408, late, "timeout") from None
        body = b"".join(chunks)
        if request.headers.get("content-encoding", "").lower() != "gzip":
            return body
        try:
            unpacking = zlib.decompressobj(wbits=31)
            body = unpacking.decompress(body, limit)
        except zlib.error as error:
            wrong = f"the request is not in gzip, as its header says: {error}"
            raise _RefusedError(400, wrong, "encoding") from None
        if unpacking.unconsumed_tail:
            raise too_large
        return body


def _timed(*request: Any) -> tuple[tuple[int, bytes], float, float]:
    """The answer, and the seconds that it took of a processor, and that went by."""
    begin, busy = time.perf_counter(), time.thread_time()
    answer = rest_api.respond(*request)
    return answer, time.thread_time() - busy, time.perf_counter() - begin


class BoundedHead(HttpToolsProtocol):
    """HTTP for uvicorn, as httptools parses it: by itself that would take endless headers, or trailers."""

    _head_bytes = 0  # That have come since the last head ended, or the last of a body.

    def data_received(self, data: bytes) -> None:
        """Takes what has come."""
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > _HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"the headers of the request are larger than {_HEAD_BYTES} bytes")

    def on_headers_complete(self) -> None:
        """A body may follow."""
        self._head_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """It has a limit of its own, which the application looks after."""
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Another head may follow."""
        self._head_bytes = 0
        super().on_message_complete()


async def _send_while_it_comes(response: Response, receive: Receive, send: Send) -> None:
    """Answers a request that is still being sent, and throws away what comes of it for a while.

    Most clients read the answer only when they have sent everything; closed before, the connection breaks.
    """
    await send(
        {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
    )
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while (await receive()).get("more_body"):
                pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _length(headers: Mapping[str, str]) -> int:
    text = headers.get("content-length", "")
    return int(text) if text.isdecimal() else 0


def _json(status: int, body: bytes) -> Response:
    return Response(body, status, media_type="application/json")


def bind(host: str, port: int) -> socket.socket:
    """Returns a socket that listens; port 0 picks a free one.

    Raises:
      ServerError: the port is taken or not allowed, or the host is unknown.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(1024)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ServerError(
            f"REST: cannot listen on {host}:{port} ({error.strerror}); the port must be free and allowed: "
            "stop what listens there, or choose another port (0 picks a free one)"
        ) from error
    return listener


def check_tls(tls: Tls) -> None:
    """Checks that a certificate and its key can be used.

    Raises:
      ServerError: they cannot be read, do not belong together, or the key asks for a passphrase.
    """
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
            tls.certificate, tls.key, password=lambda: b""
        )
    except (OSError, ValueError) as error:  # SSLError is an OSError.
        raise ServerError(
            f"tls: got certificate {tls.certificate} and key {tls.key} ({error}); required are a certificate "
            "and its own private key, both PEM, without a passphrase"
        ) from error
