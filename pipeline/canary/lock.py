"""One controller at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from components.errors import RetrainError
from pipeline.canary.front import folder
from pipeline.config import Deployment
from pipeline.lock import LockedError, locked


class AnotherError(RetrainError):
    """A controller of this deployment runs."""


@contextlib.contextmanager
def alone(deployment: Deployment) -> Iterator[None]:
    """Holds the controller's lock; the kernel lets go of it when the process ends, however it ends.

    Raises:
        AnotherError: another process holds it.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder(deployment)))
        except LockedError:
            holder = (folder(deployment) / "lock").read_text().strip() or "unknown"
            raise AnotherError(
                f"a controller of this canary runs already (process {holder}); end it first, or leave it to "
                "it (`retrain canary status` tells what it does)"
            ) from None
        yield
