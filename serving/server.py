"""A process that speaks TF Serving's protocol, where its binary is not at hand."""

import gc
import ipaddress
import logging
import os
import sys
import threading
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvicorn

from serving import grpc_api, rest_server
from serving.auth import Token
from serving.catalog import Catalog
from serving.errors import ServerError
from serving.manager import ModelManager
from serving.metrics import Metrics
from serving.options import KEY_HEADER, Batching, Limits, Tls
from serving.prediction_log import PredictionLog
from serving.reload import check_reload
from serving.service import Service

_log = logging.getLogger(__name__)
# TensorFlow runs outside the interpreter lock, so more threads than cores keep the cores busy.
_THREADS = 4 * (os.cpu_count() or 1)
# Longer than what a proxy such as nginx keeps an idle connection (60 s), so that it never sends into one that
# is being closed.
_KEEP_ALIVE_SECONDS = 75


class ModelServer:
    """Serves the models of a model config file over gRPC and REST, as tensorflow_model_server does.

    Usage:

        with ModelServer(Path("serving/models.config"), grpc_port=0, rest_port=0) as server:
            server.wait_until_available("shop", timeout=60)
            print(server.grpc_port, server.rest_port)
            server.wait()
    """

    def __init__(
        self,
        config_file: Path,
        host: str = "127.0.0.1",
        grpc_port: int = 8500,
        rest_port: int = 8501,
        *,
        limits: Limits | None = None,
        batching: Batching | None = None,
        tls: Tls | None = None,
        token: str | None = None,
        prediction_log: PredictionLog | None = None,
        key_header: str = KEY_HEADER,
        poll_seconds: float = 1.0,
        on_event: Callable[[str], None] | None = None,
    ) -> None:
        """Opens nothing yet.

        Args:
          config_file: may come later, and may change; then so does what is served.
          host: the address to listen on; 0.0.0.0 for all.
          grpc_port: 0 picks a free one.
          rest_port: 0 picks a free one.
          limits: what is beyond is refused: 413, 429 or RESOURCE_EXHAUSTED; None: the defaults.
          batching: answers several requests in one call of the model; None: each by itself.
          tls: encrypts both protocols; None: neither.
          token: must come with every request but those for /healthz and the metrics; None: with none.
          prediction_log: gets what was answered; whoever made it starts and stops it.
          key_header: the header, or gRPC metadata, with the key of a request in the log.
          poll_seconds: how often to look at the config file and the version folders.
          on_event: gets one-line messages, such as "serving shop version 4", from the server's threads. They
            go to the log if None.

        Raises:
          ServerError: `poll_seconds` is not positive, the token is empty, or `tls` cannot be used.
        """
        if not poll_seconds > 0:
            raise ServerError(f"poll_seconds: got {poll_seconds}, expected more than 0")
        if token == "":
            raise ServerError("token: got an empty one, expected a secret; without one pass None")
        if tls is not None:
            rest_server.check_tls(tls)
        self._address = host
        self._grpc_port = grpc_port
        self._rest_port = rest_port
        self._poll_seconds = poll_seconds
        self._limits = limits or Limits()
        self._tls = tls
        self._token = Token(token) if token is not None else None
        self._key_header = key_header
        self._workers = max(_THREADS, batching.max_rows if batching else 0)  # Who waits for others holds one.
        self._batching = batching
        self._on_event = on_event or _log.info
        self._catalog = Catalog()
        self._manager = ModelManager(config_file, self._catalog, self._on_event, batching)
        self._service = Service(self._catalog, Metrics(self._catalog, prediction_log), prediction_log)
        self._stop_network: Callable[[float], None] | None = None
        self._stopping = threading.Lock()
        self._stopped = threading.Event()

    @property
    def grpc_port(self) -> int:
        """The port of gRPC; the one chosen, once started."""
        return self._grpc_port

    @property
    def rest_port(self) -> int:
        """The port of REST; the one chosen, once started."""
        return self._rest_port

    def start(self) -> None:
        """Listens, starts to load, and returns. Requests get NOT_FOUND until their model is loaded.

        Raises:
          ServerError: a port is taken or not allowed.
        """
        threads = futures.ThreadPoolExecutor(self._workers, thread_name_prefix="serving")
        listener = rest_server.bind(self._address, self._rest_port)
        try:
            grpc_server, self._grpc_port = grpc_api.create_server(
                self._service,
                self._reload,
                threads,
                (self._address, self._grpc_port),
                limits=self._limits,
                tls=self._tls,
                token=self._token,
                key_header=self._key_header,
            )
        except ServerError:
            listener.close()
            raise
        self._rest_port = listener.getsockname()[1]
        http = uvicorn.Server(self._http_config(threads))
        http_thread = threading.Thread(
            target=http.run, kwargs={"sockets": [listener]}, name="serving-rest", daemon=True
        )

        def stop_network(grace: float) -> None:
            http.config.timeout_graceful_shutdown = max(1, round(grace))
            http.should_exit = True
            grpc_server.stop(grace).wait()
            http_thread.join()
            threads.shutdown(wait=False, cancel_futures=True)  # What outlives the grace must not hold us.

        self._stop_network = stop_network
        if self._token is None and not _is_loopback(self._address):
            self._on_event(
                f"warning: who reaches {self._address} may ask this server anything, and tell it what to "
                "serve: it wants no token; set serving.token_env, or serving.host to 127.0.0.1"
            )
        grpc_server.start()
        http_thread.start()
        self._manager.start(self._poll_seconds)

    def stop(self, grace: float = 10.0) -> None:
        """Takes no more requests, gives those in flight `grace` seconds to end, and unloads everything."""
        with self._stopping:
            if self._stop_network is not None:
                self._stop_network(grace)
                self._stop_network = None
            self._manager.stop()
            self._stopped.set()

    def wait(self) -> None:
        """Blocks until someone calls `stop`."""
        self._stopped.wait()

    def wait_until_available(self, model: str, version: int | None = None, timeout: float = 60.0) -> int:
        """Blocks until that version of the model, or any if None, answers. Returns it, or the highest.

        Raises:
          ServerError: the version failed to load, or `timeout` seconds went by, or the server stopped.
        """
        return self._catalog.wait_until_available(model, version, timeout)

    def __enter__(self) -> Self:
        """Starts."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stops."""
        self.stop()

    def _http_config(self, threads: futures.ThreadPoolExecutor) -> uvicorn.Config:
        return uvicorn.Config(
            rest_server.RestServer(
                self._service,
                threads,
                limits=self._limits,
                token=self._token,
                key_header=self._key_header,
                alone=self._batching is None,
            ),
            interface="asgi3",
            http=rest_server.BoundedHead,
            log_config=None,
            log_level=logging.ERROR,
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            ssl_certfile=self._tls.certificate if self._tls else None,
            ssl_keyfile=self._tls.key if self._tls else None,
        )

    def _reload(self, config: Any) -> None:
        self._manager.reload(check_reload(config, self._catalog))


def tune_interpreter() -> None:
    """Has this process answer while it loads: for a process that does nothing but serve.

    The thread that loads lets go of the interpreter's lock when another has wanted it for 0.1 ms, not 5. (At
    0.5 ms others still starve for 13 where it lets go by itself, too shortly, which starts their clock anew.)
    And the garbage collector leaves alone what is imported: it takes 0.2 s to find no garbage there.
    """
    sys.setswitchinterval(0.0001)
    gc.collect()
    gc.freeze()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
