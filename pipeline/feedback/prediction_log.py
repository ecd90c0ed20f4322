"""The prediction log of a deployment, as its configuration has it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import RetrainError
from components.features import request_names
from pipeline.config import Deployment
from pipeline.config.schema import log_problems, read_schema

if TYPE_CHECKING:
    from serving.prediction_log import PredictionLog

_SECTION = "serving.prediction_log"


def log_folder(deployment: Deployment) -> Path:
    """Where the log is; its folder is not there before a server has written into it."""
    settings = deployment.serving.prediction_log
    return (settings.path if settings else None) or deployment.state / "predictions"


def open_prediction_log(deployment: Deployment) -> PredictionLog | None:
    """The log that a server of this deployment writes, not started; None where none is configured.

    Raises:
        RetrainError: a column of `drop` or `hash` is none of the schema, one to be hashed is a number, or
            the key of the hashes is not in the environment.
    """
    settings = deployment.serving.prediction_log
    if settings is None:
        return None
    if problems := log_problems(deployment, read_schema(deployment.schema_path)):
        raise RetrainError(problems[0])
    salt = os.environ.get(settings.salt_env or "", "")
    if settings.hash and not salt:
        raise RetrainError(
            f"{_SECTION}.salt_env: the environment variable {settings.salt_env} is not set, and it holds the "
            f"key by which {', '.join(settings.hash)} are hashed; set it, always to the same value"
        )
    from serving.log_columns import LogColumns
    from serving.prediction_log import PredictionLog

    names = request_names(deployment.columns)
    return PredictionLog(
        log_folder(deployment),
        deployment.name,
        share=settings.share,
        file_bytes=settings.file_mb << 20,
        file_seconds=settings.file_seconds,
        max_bytes=settings.max_mb << 20,
        columns=LogColumns(settings.drop, settings.hash, salt.encode(), names),
    )


def hidden_columns(deployment: Deployment) -> dict[str, str]:
    """Columns that the log does not have as they were sent -> why."""
    settings = deployment.serving.prediction_log
    if settings is None:
        return {}
    return {
        **dict.fromkeys(settings.drop, "is not logged (serving.prediction_log.drop)"),
        **dict.fromkeys(settings.hash, "is hashed in the log (serving.prediction_log.hash)"),
    }
