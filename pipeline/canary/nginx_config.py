"""nginx's configuration: which of two pools of model servers a request goes to.

The text is in `nginx.conf` and `nginx_grpc.conf`; here is what changes from step to step.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.canary.tally import BUCKETS

STATUS_PATH = "/.retrain/canary"
"""Where nginx says which configuration it works by."""
ACCESS_LOG = "access.log"
_HTTP = "http_404 http_429 http_500 http_502 http_503 http_504"
_FAILURES = f"error timeout invalid_header {_HTTP} non_idempotent"

_PLACE = re.compile(r"<<(\w+)>>")


@dataclass(frozen=True)
class Servers:
    """The addresses, HOST:PORT, of servers that serve one version."""

    rest: tuple[str, ...]
    grpc: tuple[str, ...]


@dataclass(frozen=True)
class Encryption:
    """The certificate and key that nginx answers with, and what the servers' certificates are signed by."""

    certificate: Path
    key: Path
    ca: Path | None = None


@dataclass(frozen=True)
class Front:
    """All that nginx is to do.

    Attributes:
        listen: the address that it listens on.
        rest_port, grpc_port: its ports; None: no gRPC.
        key_header: says whose request it is.
        stable, canary: the two pools.
        percent: of the keys, that go to the canary pool; 0: none, and nothing is logged.
        version: of the challenger, which a request may name; with another one other keys come first. None:
            there is none.
        max_body_mb: largest request.
        timeout_seconds: longest time for an answer of a server.
        tls: None: nothing is encrypted.
        user: that the workers run as, where root starts it; None: whoever starts it.
    """

    listen: str
    rest_port: int
    grpc_port: int | None
    key_header: str
    stable: Servers
    canary: Servers
    percent: float = 0.0
    version: int | None = None
    max_body_mb: int = 64
    timeout_seconds: float = 60.0
    tls: Encryption | None = None
    user: str | None = None


def render(front: Front, generation: str) -> str:
    """The text of nginx.conf; its paths start from nginx's prefix, the folder that it is in.

    Args:
        front: what nginx is to do.
        generation: what it says at `STATUS_PATH`, so that one can tell when a reload has happened.
    """
    milliseconds = round(1000 * front.timeout_seconds)
    versions = "" if front.version is None else f'"~^/v1/models/[^/:]+/versions/{front.version}(?:[:/]|$)"'
    values = {
        "user": f"user {front.user};" if front.user else "",
        "key": "$http_" + front.key_header.lower().replace("-", "_"),
        "version": str(front.version or 0),
        "version_route": f"{versions} canary;" if versions else "",
        "share": f"{front.percent:.2f}% canary;" if front.percent else "",
        "buckets": [*(f"{100 / BUCKETS:.2f}% {i};" for i in range(BUCKETS - 1)), f"* {BUCKETS - 1};"],
        "max_body_mb": str(front.max_body_mb),
        "timeout": f"{milliseconds}ms",
        "connect_timeout": f"{min(milliseconds, 1000)}ms",
        "failures": _FAILURES,
        "listen": front.listen,
        "rest_port": str(front.rest_port),
        "grpc_port": str(front.grpc_port),
        "access_log": f"{ACCESS_LOG} retrain if=$compared" if front.percent else "off",
        "generation": generation,
        **_upstreams(front),
        **_encryption(front),
    }
    grpc = _filled("nginx_grpc.conf", values) if front.grpc_port else ""
    return _filled("nginx.conf", {**values, "grpc": grpc})


def _upstreams(front: Front) -> dict[str, list[str]]:
    found = {}
    for protocol in ("rest", "grpc"):
        stable, canary = (getattr(servers, protocol) for servers in (front.stable, front.canary))
        found[f"stable_{protocol}"] = [f"server {address};" for address in stable]
        found[f"canary_{protocol}"] = [
            *(f"server {address} max_fails=0;" for address in canary),
            *(f"server {address} backup;" for address in stable),
        ]
    return found


def _encryption(front: Front) -> dict[str, str | list[str]]:
    tls = front.tls
    if tls is None:
        plain = {"http": "http", "grpcs": "grpc"}
        return {**plain, **dict.fromkeys(("ssl", "tls", "stable_name", "canary_name"), "")}
    values: dict[str, str | list[str]] = {"http": "https", "grpcs": "grpcs", "ssl": " ssl"}
    lines = [f'ssl_certificate "{tls.certificate}";', f'ssl_certificate_key "{tls.key}";']
    for protocol in ("proxy", "grpc"):
        lines += [f"{protocol}_ssl_server_name on;"]
        if tls.ca:
            lines += [f"{protocol}_ssl_verify on;", f'{protocol}_ssl_trusted_certificate "{tls.ca}";']
    # nginx checks one name for a pool, so its servers' certificates must all have the first one's.
    for name, servers in (("stable", front.stable), ("canary", front.canary)):
        host = servers.rest[0].rsplit(":", 1)[0].strip("[]")
        values[f"{name}_name"] = [f"{protocol}_ssl_name {host};" for protocol in ("proxy", "grpc")]
    return {**values, "tls": lines}


def _filled(template: str, values: Mapping[str, str | list[str]]) -> str:
    """A template with its places filled; one alone on its line takes several lines, or none."""
    found = []
    for line in (Path(__file__).parent / template).read_text().splitlines():
        alone = _PLACE.fullmatch(line.strip())
        if alone:
            value, indent = values[alone[1]], line[: len(line) - len(line.lstrip())]
            lines = value.splitlines() if isinstance(value, str) else value
            found += [text if alone[1] == "grpc" else indent + text for text in lines]
        else:
            found.append(_PLACE.sub(lambda place: str(values[place[1]]), line))
    return "\n".join(found) + "\n"
