"""`python -m tests.e2e.killed POINT ARGS`: runs `retrain ARGS`, and dies by SIGKILL at POINT.

POINT is `STAGE:SECONDS` (so long after the stage began) or `MODULE:ATTRIBUTE:before|after` (a call).
"""

import functools
import importlib
import os
import signal
import sys
import threading
from typing import Any


def die() -> None:
    """As `kill -9` does: nothing is flushed, closed or cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point: str) -> None:
    """Sets the process up to die at a point."""
    if point.count(":") == 1:
        from pipeline.runner import Watch

        stage, seconds = point.split(":")
        begin = Watch.stage

        def watched(self: Watch, name: str) -> Any:
            if name == stage:
                threading.Timer(float(seconds), die).start()
            return begin(self, name)

        Watch.stage = watched  # type: ignore[method-assign]
        return
    module, attribute, when = point.split(":")
    owner: Any = importlib.import_module(module)
    *path, name = attribute.split(".")
    for part in path:
        owner = getattr(owner, part)
    call = getattr(owner, name)

    @functools.wraps(call)
    def deadly(*args: Any, **kwargs: Any) -> Any:
        if when == "before":
            die()
        call(*args, **kwargs)
        die()

    setattr(owner, name, deadly)


if __name__ == "__main__":
    arm(sys.argv[1])
    sys.argv = ["retrain", *sys.argv[2:]]
    from pipeline.cli import main

    main()
