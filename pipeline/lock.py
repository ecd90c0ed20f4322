"""One process at a time changes a deployment."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from components.errors import RetrainError


class LockedError(RetrainError):
    """Another process is changing the deployment."""


@contextlib.contextmanager
def locked(state: Path) -> Iterator[None]:
    """Holds the deployment's lock; the kernel lets go of it when the process ends, however it ends.

    Raises:
        LockedError: another process holds it.
    """
    state.mkdir(parents=True, exist_ok=True)
    with open(state / "lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise LockedError(
                f"another command is changing this deployment (process {holder}, lock {state / 'lock'}); "
                "wait for it to end, then try again"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
