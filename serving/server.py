"""A process that speaks TF Serving's protocol, where its binary is not at hand."""

import logging
import os
import threading
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvicorn

from serving import grpc_api, rest_api
from serving.catalog import Catalog
from serving.errors import ModelConfigError, ServerError, invalid
from serving.manager import ModelManager
from serving.model_config import models_from_proto

_log = logging.getLogger(__name__)
# TensorFlow runs outside the interpreter lock, so more threads than cores keep the cores busy.
_THREADS = 4 * (os.cpu_count() or 1)


class ModelServer:
    """Serves the models of a model config file over gRPC and REST, as tensorflow_model_server does.

    Usage:

        with ModelServer(Path("serving/models.config"), grpc_port=0, rest_port=0) as server:
            server.wait_until_available("taxi", timeout=60)
            print(server.grpc_port, server.rest_port)
            server.wait()
    """

    def __init__(
        self,
        config_file: Path,
        host: str = "127.0.0.1",
        grpc_port: int = 8500,
        rest_port: int = 8501,
        poll_seconds: float = 1.0,
        on_event: Callable[[str], None] | None = None,
    ) -> None:
        """Opens nothing yet.

        Args:
          config_file: may come later, and may change; then so does what is served.
          host: the address to listen on; 0.0.0.0 for all.
          grpc_port: 0 picks a free one.
          rest_port: 0 picks a free one.
          poll_seconds: how often to look at the config file and the version folders.
          on_event: gets one-line messages, such as "serving taxi version 4", from the server's threads. They
            go to the log if None.

        Raises:
          ServerError: `poll_seconds` is not positive.
        """
        if not poll_seconds > 0:
            raise ServerError(f"poll_seconds: got {poll_seconds}, expected more than 0")
        self._config_file = config_file
        self._host = host
        self._grpc_port = grpc_port
        self._rest_port = rest_port
        self._poll_seconds = poll_seconds
        self._catalog = Catalog()
        self._manager = ModelManager(config_file, self._catalog, on_event or _log.info)
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
        threads = futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="serving")
        listener = rest_api.bind(self._host, self._rest_port)
        try:
            grpc_server, self._grpc_port = grpc_api.create_server(
                self._catalog, self._reload, threads, self._host, self._grpc_port
            )
        except ServerError:
            listener.close()
            raise
        self._rest_port = listener.getsockname()[1]
        http = uvicorn.Server(
            uvicorn.Config(
                rest_api.create_app(self._catalog, threads),
                log_config=None,
                log_level=logging.WARNING,
                access_log=False,
                lifespan="off",
            )
        )
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

    def _reload(self, config: Any) -> None:
        try:
            models = models_from_proto(config, self._config_file)
        except ModelConfigError as error:
            raise invalid(str(error)) from error
        self._manager.reload(models)
