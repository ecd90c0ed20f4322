"""`make bench-learning`: measures what is not measured yet, and writes docs/benchmarks.md anew.

`python -m tests.bench.learning taxi --method replay --seeds 1` measures a part; a killed one goes on.
"""

import argparse
import json
import multiprocessing
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tests.bench.learning import cost, fold, report
from tests.bench.learning.problems import PROBLEMS
from tests.bench.learning.result import WORK, measure
from tests.bench.learning.summary import matrix

RESULTS = Path("bench/learning")
QUICK = ("split_mnist", "replay 500", 2)  # data, method, spans


def main() -> None:
    """Measures what the command line asks for."""
    asked = _arguments()
    if asked.quick:
        _quick()
        return
    if asked.resume:
        report.unpack(Path("docs"), RESULTS)
    failed = [] if asked.report else _measure(asked.what, asked.method, asked.seeds)
    report.write(RESULTS, Path("docs"))
    if failed:
        sys.exit("\n".join(failed))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.bench.learning", description=__doc__)
    known = [*PROBLEMS, "cost"]
    methods = sorted({method for problem in PROBLEMS.values() for method in problem.methods})
    parser.add_argument("what", nargs="*", default=known, help=f"of {', '.join(known)}; all of it by default")
    parser.add_argument("--method", action="append", choices=methods, help="no other; may be repeated")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N - 1 (3)")
    parser.add_argument("--resume", action="store_true", help="what docs/benchmarks has counts as measured")
    parser.add_argument("--report", action="store_true", help="measure nothing, write what is there")
    parser.add_argument("--quick", action="store_true", help="learn two spans, and write nothing")
    asked = parser.parse_args()
    unknown = [name for name in asked.what if name not in known]
    if unknown:
        parser.error(f"unknown: {unknown[0]!r}; there are {', '.join(known)}")
    return asked


def _measure(what: list[str], methods: list[str] | None, seeds: int) -> list[str]:
    """Every result that is not there, a whole table before its next seed; what could not be measured."""
    failed = []
    for seed in range(seeds):
        for name in (name for name in what if name in PROBLEMS):
            problem = PROBLEMS[name]
            if absent := _absent(name):
                print(f"left out: {absent}")
                continue
            for method in problem.methods:
                file = report.result_file(RESULTS, name, method, seed)
                if not file.exists() and method in (methods or problem.methods):
                    work = WORK / name / file.stem
                    failed += _apart(measure, file, name, method, seed, problem.spans, work)
    file = RESULTS / report.COST
    if "cost" in what and not file.exists():
        failed += _apart(cost.measure, file, WORK / "cost")
    return failed


def _apart(measured: Callable[..., Any], file: Path, *args: Any) -> list[str]:
    """Measures in a process of its own, with which goes what libraries keep of memory; writes the file."""
    what = file.relative_to(RESULTS).with_suffix("")
    begun = time.monotonic()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            result = pool.submit(measured, *args).result()
        except RuntimeError as error:  # of one result; the others can be measured still
            return [f"{what}: {error}"]
    fold.write_json(file, result)
    print(f"{what}: {time.monotonic() - begun:.0f} s", flush=True)
    return []


def _quick() -> None:
    """Learns a little, and requires that the numbers are whole and the past is not forgotten."""
    name, method, spans = QUICK
    absent = _absent(name)
    if absent:
        print(f"skipped: {absent}")
        return
    work = WORK / "quick"
    shutil.rmtree(work, ignore_errors=True)
    begun = time.monotonic()
    result = measure(name, method, 0, spans, work)
    print(json.dumps(result, indent=1))
    r = matrix(result)
    print(f"{name}, {method}, {spans} of {PROBLEMS[name].spans} spans: {time.monotonic() - begun:.0f} s")
    if min(r[spans].values()) < 0.9:
        sys.exit(f"accuracy on a span is below 0.9 after span {spans}: {r[spans]}")


def _absent(name: str) -> str:
    """What of a data set is not there; empty: nothing."""
    gone = [file for file in PROBLEMS[name].needs if not file.exists()]
    return f"{name}: there is no {gone[0]}; shared/data/README.md has its source" if gone else ""


if __name__ == "__main__":
    main()
