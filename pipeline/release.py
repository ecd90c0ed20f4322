"""`retrain release`: spans that were set aside are pending again, because a person says so."""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.errors import RetrainError
from pipeline.champion import open_registry
from pipeline.config import Deployment
from pipeline.spans import pattern, plan
from pipeline.spans.find import find_spans
from pipeline.spans.late import Files, digest, identify


@dataclass(frozen=True)
class Released:
    """One span, and what had set it aside."""

    span: int
    was: str


def release(deployment: Deployment, spans: Sequence[int], reason: str) -> list[Released]:
    """Makes spans pending that are in quarantine, or that the gate rejected or a rollback set aside.

    Kept are who did it, when and why, and what the files were then: the checks for poison pass over these
    files from now on, and over no others.

    Args:
        deployment: the configuration.
        spans: at least one.
        reason: kept in the registry.

    Raises:
        RetrainError: one of the spans is not set aside; then none is released.
    """
    registry, on_disk = open_registry(deployment), find_spans(deployment.data)
    quarantined = registry.quarantined()
    found = plan.pending(
        on_disk,
        registry.champion(),
        registry.versions(),
        retry=False,
        until=None,
        quarantined=quarantined,
        released=registry.released(),
        second_attempts=deployment.gates.retry_ratio is not None,
    )
    aside = {**quarantined, **found.set_aside}  # in quarantine is, too, what was to be learned again
    named = pattern.parse(deployment.data.pattern)
    wrong = sorted(set(spans) - set(aside))
    if wrong:
        held = f"span {named.label(sorted(aside))} is" if aside else "none is"
        raise RetrainError(
            f"release: span {named.label(wrong)} is not set aside; {held} (`retrain status` tells why)"
        )
    for span in spans:
        files = digest({span: identify(deployment.data.path, on_disk.get(span, []))})
        registry.release([span], reason, who=_user(), files=files, was=aside[span])
    return [Released(span, aside[span]) for span in spans]


def still_released(released: Mapping[int, Mapping[str, Any]], files: Mapping[int, Files]) -> tuple[int, ...]:
    """Those of the spans that were released as they are: with the same files.

    Args:
        released: as the registry tells it.
        files: span -> its files now.
    """
    return tuple(
        span for span in files if span in released and released[span]["files"] == digest({span: files[span]})
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"user {os.getuid()}"
