"""How a blessed version earns production."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from components.settings import Positive, Section, Share
from pipeline.config.sections.server import Server

Percent = Annotated[float, Field(gt=0.0, le=100.0)]


class Canary(Section):
    """A challenger gets a growing part of the requests, until it is champion or turned back."""

    servers: list[Server] = Field(
        min_length=1, description="Model servers that serve the challenger, and nothing else."
    )
    rest_port: int = Field(8080, ge=0, le=65535, description="Port on which nginx takes REST requests.")
    grpc_port: int | None = Field(
        None, ge=0, le=65535, description="Port on which nginx takes gRPC requests; by default none."
    )
    key_header: str = Field(
        "X-Request-Key",
        description="Header (gRPC: metadata) that says who asks: the same key is always answered by the same "
        "version. Without it the client's address does.",
    )
    nginx: str = Field("nginx", description="The nginx binary.")
    steps: Annotated[list[Percent], Field(min_length=1)] = Field(
        [1.0, 10.0, 50.0, 100.0], description="Percent of the requests, step by step; the last is 100."
    )
    step_seconds: Annotated[float, Field(gt=0.0)] = Field(600.0, description="Shortest time of a step.")
    step_requests: Positive = Field(
        100, description="Fewest requests that the challenger answers before its step ends."
    )
    max_error_rate: Share = Field(0.01, description="Largest share of failed requests above the champion's.")
    max_p99_ms: Annotated[float, Field(gt=0.0)] | None = Field(
        None, description="Largest 99th percentile of the latency in ms; by default none."
    )
    max_p99_ratio: Annotated[float, Field(gt=0.0)] | None = Field(
        2.0, description="Largest 99th percentile of the latency, as a multiple of the champion's."
    )
    max_divergence: Share | None = Field(
        0.1,
        description="Largest Jensen-Shannon divergence (in bits) of the predictions from the champion's.",
    )
    max_loss_rise: Annotated[float, Field(ge=0.0)] | None = Field(
        0.01,
        description="Largest rise of the loss on labels that have arrived, against the champion's.",
    )
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = Field(
        0.95, description="Of the sequential tests: the chance to never turn back a good version."
    )
