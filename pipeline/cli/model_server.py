"""The embedded server of a deployment, as its configuration has it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from components.errors import RetrainError
from pipeline.cli.shared import follow_alias

if TYPE_CHECKING:
    from pipeline.config import Deployment
    from serving.server import ModelServer


@dataclass(frozen=True)
class Address:
    """Where a server listens; port 0 is any that is free."""

    host: str
    rest_port: int
    grpc_port: int


def address_of(deployment: Deployment, canary: bool, rest_port: int | None, grpc_port: int | None) -> Address:
    """Where the server listens: where the YAML says, or at the ports given.

    Raises:
        RetrainError: `canary`, and the YAML has none.
    """
    serving = deployment.serving
    host, rest, grpc = serving.host, serving.rest_port, serving.grpc_port
    if canary:
        if serving.canary is None:
            raise RetrainError(
                "serve --canary: serving.canary is not set, so there is no challenger to serve; set it, or "
                "leave out --canary"
            )
        first = serving.canary.servers[0]
        host, grpc = _split(first.grpc)
        rest = _split(first.rest)[1] if first.rest else 0
        if rest_port is not None or grpc_port is not None:
            host = serving.host
    return Address(host, rest if rest_port is None else rest_port, grpc if grpc_port is None else grpc_port)


def _split(address: str) -> tuple[str, int]:
    host, port = address.rsplit(":", 1)
    return host.strip("[]"), int(port)


def token_of(deployment: Deployment) -> str | None:
    """What requests must bear; None: nothing.

    Raises:
        RetrainError: the environment does not have it.
    """
    variable = deployment.serving.token_env
    if variable is None:
        return None
    token = os.environ.get(variable)
    if not token:
        raise RetrainError(
            f"serving.token_env: the environment variable {variable} is not set, and it holds the token that "
            "requests must bear; set it, or remove token_env"
        )
    return token


@contextlib.contextmanager
def configured_server(
    deployment: Deployment, address: Address, on_event: Callable[[str], None], canary: bool
) -> Iterator[ModelServer]:
    """The server that the YAML describes, running."""
    settings, token = deployment.serving, token_of(deployment)
    follow_alias(deployment)
    from pipeline.feedback.prediction_log import open_prediction_log
    from serving.options import KEY_HEADER, Batching, Limits, Tls
    from serving.server import ModelServer

    file, tls, batching = deployment.model_config_file, settings.tls, settings.batching
    log = open_prediction_log(deployment)
    server = ModelServer(
        file.with_name("canary.config") if canary else file,
        address.host,
        address.grpc_port,
        address.rest_port,
        limits=Limits(settings.max_body_mb << 20, settings.max_concurrent),
        batching=Batching(batching.max_rows, batching.wait_ms / 1000) if batching else None,
        tls=Tls(tls.certificate, tls.key) if tls else None,
        token=token,
        prediction_log=log,
        key_header=settings.prediction_log.key_header if settings.prediction_log else KEY_HEADER,
        on_event=on_event,
    )
    with log or contextlib.nullcontext(), server:
        yield server


@contextlib.contextmanager
def own_server(deployment: Deployment) -> Iterator[ModelServer]:
    """One for this command alone, which nobody else is to reach."""
    follow_alias(deployment)
    from serving.server import ModelServer

    with ModelServer(deployment.model_config_file, "127.0.0.1", 0, 0, on_event=lambda _: None) as server:
        yield server
