"""What nginx is to do for a deployment."""

from __future__ import annotations

from pathlib import Path

from pipeline.canary.nginx import Nginx
from pipeline.canary.nginx_config import Encryption, Front, Servers
from pipeline.config import Deployment
from pipeline.config.sections.canary import Canary
from pipeline.config.sections.server import Server


def folder(deployment: Deployment) -> Path:
    """Of all that the canary keeps."""
    return deployment.state / "canary"


def nginx(deployment: Deployment, canary: Canary) -> Nginx:
    """The deployment's own."""
    return Nginx(folder(deployment) / "nginx", canary.nginx)


def front(deployment: Deployment, canary: Canary, percent: float, version: int | None) -> Front:
    """Nginx's task at a step; at 0 % the champion answers all."""
    serving = deployment.serving
    return Front(
        listen=_bracketed(serving.host),
        rest_port=canary.rest_port,
        grpc_port=canary.grpc_port,
        key_header=canary.key_header,
        stable=_pool(serving.servers or [_embedded(deployment)]),
        canary=_pool(canary.servers),
        percent=percent,
        version=version,
        max_body_mb=serving.max_body_mb,
        timeout_seconds=canary.timeout_seconds,
        tls=Encryption(serving.tls.certificate, serving.tls.key, serving.tls.ca) if serving.tls else None,
    )


def _pool(servers: list[Server]) -> Servers:
    return Servers(
        rest=tuple(server.rest for server in servers if server.rest),
        grpc=tuple(server.grpc for server in servers),
    )


def _embedded(deployment: Deployment) -> Server:
    """The server of `retrain serve`, where no others are configured."""
    serving = deployment.serving
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(serving.host, serving.host)
    host = _bracketed(host)
    return Server(grpc=f"{host}:{serving.grpc_port}", rest=f"{host}:{serving.rest_port}")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
