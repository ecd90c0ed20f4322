"""Commands that die by SIGKILL at a point.

A point is `STAGE:SECONDS` (so long after the stage began) or `MODULE:ATTRIBUTE:before|after` (a call).

`python -m tests.killed MODULE ARGS` reads points from standard input, one a line, and runs `retrain ARGS`
once for each, in a process that dies there; for an empty line to its end. It prints the exit codes. The
processes are forks of this one, which has imported MODULE, with all that takes seconds, and done nothing
else.
"""

import functools
import importlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Self


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


class Mortal:
    """Runs a command again and again.

    Args:
        module: to import before; what the command needs that takes seconds.
        args: of `retrain`.
    """

    def __init__(self, module: str, *args: object) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.killed", module, *map(str, args)],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, point: str = "") -> int:
        """Runs it, up to a point or to its end; returns the exit code, -9 where it was killed."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(point, file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


def _run(point: str, arguments: list[str]) -> int:
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    from pipeline.cli import main

    if point:
        arm(point)
    sys.argv = ["retrain", *arguments]
    try:
        main()
    except SystemExit as ended:
        os._exit(int(ended.code or 0))
    os._exit(0)


if __name__ == "__main__":
    importlib.import_module(sys.argv[1])
    for line in sys.stdin:
        print(_run(line.strip(), sys.argv[2:]), flush=True)
