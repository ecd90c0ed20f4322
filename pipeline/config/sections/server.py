"""How a model server is reached, and asked."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from components.settings import Section

Address = Annotated[str, Field(pattern=r"^[^\s:/]+:\d+$|^\[[0-9a-fA-F:]+\]:\d+$")]
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]*$")]


class Server(Section):
    """One process that speaks TF Serving's protocol."""

    grpc: Address = Field(description="HOST:PORT of its gRPC protocol, over which it is told what to serve.")
    rest: Address | None = Field(None, description="HOST:PORT of its REST protocol; a canary needs it.")
