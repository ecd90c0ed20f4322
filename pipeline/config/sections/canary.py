"""How a blessed version earns production."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from components.settings import Positive, Section, Share
from pipeline.config.sections.data import FilePath
from pipeline.config.sections.server import HeaderName, Server

# nginx's split_clients knows hundredths of a percent.
Percent = Annotated[float, Field(ge=0.01, le=100.0)]
Seconds = Annotated[float, Field(gt=0.0)]


class Canary(Section):
    """A challenger gets a growing part of the requests, until it is champion or turned back."""

    servers: list[Server] = Field(
        min_length=1, description="Model servers that serve the challenger, and nothing else."
    )
    rest_port: int = Field(8080, ge=1, le=65535, description="Port on which nginx takes REST requests.")
    grpc_port: int | None = Field(
        None, ge=1, le=65535, description="Port on which nginx takes gRPC requests; by default none."
    )
    key_header: HeaderName = Field(
        "X-Request-Key",
        description="Header (gRPC: metadata) that decides which version answers: one key, always the same "
        "version. Without it the client's address does. With another header than "
        "`serving.prediction_log.key_header` it may say who asks, such as a customer.",
    )
    nginx: str = Field("nginx", description="The nginx binary: a path, or a name to look for on PATH.")
    timeout_seconds: Seconds = Field(
        60.0, description="Longest time that a server may take to answer; then the request has failed."
    )
    steps: Annotated[list[Percent], Field(min_length=2)] = Field(
        [1.0, 10.0, 50.0, 100.0], description="Percent of the requests, step by step; the last is 100."
    )
    step_seconds: Seconds = Field(600.0, description="Shortest time of a step.")
    step_requests: Positive = Field(
        100, description="Fewest requests that the challenger answers before its step ends."
    )
    step_labels: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Fewest labels that come for its answers of a step before that step ends; by default "
        "none: labels that come later still count.",
    )
    max_error_rate: Share = Field(0.01, description="Largest share of failed requests above the champion's.")
    max_p99_ms: Seconds | None = Field(
        None, description="Largest 99th percentile of the latency in ms; by default none."
    )
    max_p99_ratio: Annotated[float, Field(ge=1.0)] | None = Field(
        2.0, description="Largest 99th percentile of the latency, as a multiple of the champion's."
    )
    p99_floor_ms: Annotated[float, Field(ge=0.0)] = Field(
        20.0, description="Up to this 99th percentile, in ms, `max_p99_ratio` is not asked."
    )
    max_divergence: Share | None = Field(
        0.1,
        description="Largest Jensen-Shannon divergence (in bits) of the predictions from the champion's; "
        "needs `serving.prediction_log`.",
    )
    max_loss_rise: Share | None = Field(
        0.01,
        description="Largest rise of the loss, which is from 0 to 1, above the champion's; needs `labels`.",
    )
    labels: FilePath | None = Field(
        None,
        description="Folder where labels arrive, as `retrain feedback --labels` reads them; by default "
        "none, and the loss is not judged.",
    )
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = Field(
        0.95, description="Of the sequential tests: the chance to never turn back a good version."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Canary:
        steps = self.steps
        if steps != sorted(set(steps)) or steps[-1] != 100.0:
            raise ValueError(f"steps: got {steps}, expected rising percents of which the last is 100")
        if any(abs(step * 100 - round(step * 100)) > 1e-6 for step in steps):
            raise ValueError(f"steps: got {steps}, expected no more than two decimals")
        if self.step_labels and self.labels is None:
            raise ValueError(
                f"step_labels: got {self.step_labels} without a folder in `labels`, expected both or none"
            )
        if self.rest_port == self.grpc_port:
            raise ValueError(f"grpc_port: got {self.grpc_port}, expected another port than rest_port's")
        lacking = next((server for server in self.servers if server.rest is None), None)
        if lacking:
            raise ValueError(
                f"servers: got no `rest` for {lacking.grpc}, expected the port of its REST protocol"
            )
        return self
