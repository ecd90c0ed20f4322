"""What a server may be told beside what it serves."""

from dataclasses import dataclass
from pathlib import Path

KEY_HEADER = "X-Request-Key"
"""With the key of a request, for the prediction log."""


@dataclass(frozen=True)
class Limits:
    """How much a server takes on. What is beyond is refused, and disturbs nothing else."""

    max_body_bytes: int = 64 << 20
    """Of a request."""
    max_concurrent: int = 256
    """Requests that are held at a time, of each protocol."""


@dataclass(frozen=True)
class Batching:
    """How requests of one version and signature are answered together."""

    max_rows: int = 32
    wait_seconds: float = 0.002
    """Longest time that a request waits for others."""


@dataclass(frozen=True)
class Tls:
    """A server's certificate and its private key, in PEM."""

    certificate: Path
    key: Path
