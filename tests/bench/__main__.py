"""`make bench`: every benchmark, one after the other; each writes bench/NAME.json.

`python -m tests.bench prequential` runs one. The tables of continual learning, which take hours, are
`make bench-learning`'s: tests/bench/learning.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench import canary, ingest, prequential, tables
from tests.bench.serving import swaps

BENCHMARKS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "canary": canary.measure,
    "ingest": ingest.measure,
    "prequential": prequential.measure,
    "swaps": swaps.measure,
    "tables": tables.measure,
}


def main(names: list[str]) -> None:
    """Runs the named benchmarks, all of them by default, and prints what they found."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        sys.exit(f"unknown benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    folder = Path("bench")
    folder.mkdir(exist_ok=True)
    for name in names or BENCHMARKS:
        print(f"{name}: {(BENCHMARKS[name].__doc__ or '').splitlines()[0]}", flush=True)
        result = BENCHMARKS[name](folder / "work" / name)
        (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps(result, indent=1), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
