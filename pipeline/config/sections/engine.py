"""What the pipeline runs on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.settings import Section


class Database(Section):
    type: Literal["mysql", "postgresql"] = Field(description="Kind of the server.")
    host: str = Field(description="Its host.")
    port: int = Field(ge=1, le=65535, description="Its port.")
    database: str = Field(description="The database, which must exist.")
    user: str = Field(description="The user.")
    password_env: str | None = Field(None, description="Environment variable that holds the password.")


class Engine(Section):
    beam_args: list[str] = Field(
        ["--direct_running_mode=in_memory", "--direct_num_workers=1"],
        description="Options of the Beam jobs inside the stages; they choose the runner.",
    )
    metadata: Database | None = Field(
        None, description="Server of ML Metadata; by default SQLite in the state folder."
    )
