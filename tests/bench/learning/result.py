"""One result, measured from the data on.

Not in `__main__`, which a process that is spawned cannot import.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tests.bench.learning import fold
from tests.bench.learning.problems import PROBLEMS

WORK = Path("bench/work/learning").absolute()


def measure(name: str, method: str, seed: int, spans: int, work: Path) -> dict[str, Any]:
    """One result, with what it is a result of; its states go, its numbers stay."""
    problem = PROBLEMS[name]
    runs = fold.measure(problem, problem.methods[method], seed, spans, _data(name), work)
    shutil.rmtree(work)
    return {"problem": name, "method": method, "seed": seed, "runs": runs}


def _data(name: str) -> Path:
    """The spans of a data set, written once."""
    data = WORK / "data" / name
    if not data.exists():
        aside = data.with_name(f"{name}.new")
        shutil.rmtree(aside, ignore_errors=True)
        PROBLEMS[name].write(aside)
        aside.rename(data)
    return data
