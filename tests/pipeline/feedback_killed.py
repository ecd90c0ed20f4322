"""`python -m tests.pipeline.feedback_killed POINTS ARGS`: runs `retrain feedback ARGS` once for each point.

In a process that dies there by SIGKILL; and once more to the end. Prints the exit codes.

Points are as `tests.e2e.killed` has them. The processes are forks of this one, which has imported all that
takes seconds, and done nothing else.
"""

from __future__ import annotations

import os
import sys

import pipeline.feedback.join_job
import pipeline.learn  # noqa: F401
from tests.e2e.killed import arm


def run(point: str, arguments: list[str]) -> int:
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    from pipeline.cli import main

    if point:
        arm(point)
    sys.argv = ["retrain", "feedback", *arguments]
    os.dup2(2, 1)
    main()
    os._exit(0)


if __name__ == "__main__":
    for point in [*sys.argv[1].split(","), ""]:
        print(run(point, sys.argv[2:]), flush=True)
