"""The registry and the servers."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from components.settings import Positive, Section
from pipeline.config.sections.canary import Canary
from pipeline.config.sections.data import FilePath
from pipeline.config.sections.feedback import PredictionLog
from pipeline.config.sections.server import Server


class RegistryConfig(Section):
    uri: str | None = Field(None, description="MLflow's address; by default SQLite in the state folder.")
    name: str | None = Field(None, description="Registered model; by default the deployment's name.")


class Tls(Section):
    certificate: FilePath = Field(description="The server's certificate (PEM).")
    key: FilePath = Field(description="Its private key (PEM).")
    ca: FilePath | None = Field(
        None, description="What signed the servers' certificates (PEM), for `retrain`'s own requests."
    )


class Batching(Section):
    max_rows: Positive = Field(32, description="Most rows of a batch.")
    wait_ms: Annotated[float, Field(gt=0.0)] = Field(
        2.0, description="Longest time that a request waits for others to share its batch."
    )


class Serving(Section):
    host: str = Field("127.0.0.1", description="Address that the embedded server listens on.")
    rest_port: int = Field(8501, ge=0, le=65535, description="Port of the REST protocol; 0 takes a free one.")
    grpc_port: int = Field(8500, ge=0, le=65535, description="Port of the gRPC protocol; 0 takes a free one.")
    path: FilePath | None = Field(
        None, description="Serving folder; by default `serving` in the state folder."
    )
    keep: Positive = Field(
        3, description="Versions kept in the serving folder, the newest; the champion always stays."
    )
    servers: list[Server] = Field(
        [],
        description="Model servers that are told of each promotion and must confirm it; by default none: a "
        "server that watches the serving folder follows by itself.",
    )
    seen_at: str | None = Field(
        None,
        description="The serving folder as the servers see it, where they have it mounted elsewhere: an "
        "absolute path, or a URI.",
    )
    quorum: Positive | None = Field(
        None, description="So many of the servers must serve a version before it is champion; by default all."
    )
    deadline_seconds: Annotated[float, Field(gt=0.0)] = Field(
        120.0, description="Longest time that a server may take to serve a version that it was told of."
    )
    max_body_mb: Positive = Field(64, description="Largest request that the embedded server reads, in MiB.")
    max_concurrent: Positive = Field(
        256,
        description="Most requests that the embedded server holds at a time of each protocol; others are "
        "turned away.",
    )
    batching: Batching | None = Field(
        None, description="Answers several requests in one call of the model; by default each by itself."
    )
    tls: Tls | None = Field(None, description="Encrypts what the embedded server sends; by default not.")
    token_env: str | None = Field(
        None, description="Environment variable with the token that every request must bear; by default none."
    )
    prediction_log: PredictionLog | None = Field(
        None, description="The embedded server keeps a log of what it answered; by default none."
    )
    canary: Canary | None = Field(
        None, description="A new version first answers a part of the requests; by default all at once."
    )

    @field_validator("seen_at")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        if path is not None and not path.startswith("/") and "://" not in path:
            raise ValueError(f"got {path!r}, expected an absolute path or a URI: TF Serving takes no other")
        return path.rstrip("/") if path else path

    @model_validator(mode="after")
    def _a_quorum_of_them(self) -> Serving:
        addresses = [server.grpc for server in self.servers]
        twice = {address for address in addresses if addresses.count(address) > 1}
        if twice:
            raise ValueError(f"servers: got {', '.join(sorted(twice))} more than once, expected each once")
        if self.quorum is not None and self.quorum > len(addresses):
            raise ValueError(
                f"quorum: got {self.quorum} of {len(addresses)} servers, expected at most that many; add "
                "servers, or remove it"
            )
        return self
