"""Writes docs/benchmarks.md, its pictures and its JSON, of the results that are there; reads these back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.bench.learning.fold import write_json
from tests.bench.learning.page import page
from tests.bench.learning.pictures import draw
from tests.bench.learning.problems import PROBLEMS, Problem
from tests.bench.learning.summary import table, targets

COST = "cost.json"


def result_file(results: Path, problem: str, method: str, seed: int) -> Path:
    """Where a result lies."""
    return results / problem / f"{method.replace(' ', '-')}-{seed}.json"


def unpack(docs: Path, results: Path) -> None:
    """Takes up what a page was written of, on another machine say; results that are there stay."""
    published = json.loads((docs / "benchmarks/learning.json").read_text())
    every = [result for found in published["results"].values() for each in found.values() for result in each]
    files = {result_file(results, r["problem"], r["method"], r["seed"]): r for r in every}
    if published["cost"]:
        files[results / COST] = published["cost"]
    for file, content in files.items():
        if not file.exists():
            write_json(file, content)


def write(results: Path, docs: Path) -> None:
    """Writes page, pictures and JSON anew.

    Args:
        results: the folder of the results, one file each.
        docs: the folder of `benchmarks.md`, with the pictures and `learning.json` in `benchmarks/` beside it.
    """
    found = {name: _read(results / name, PROBLEMS[name]) for name in PROBLEMS}
    file = results / COST
    cost = json.loads(file.read_text()) if file.exists() else None
    tables = {name: table(PROBLEMS[name], found[name]) for name in PROBLEMS if found[name]}
    write_json(
        docs / "benchmarks/learning.json",
        {"tables": tables, "cost": cost, "targets": targets(tables, cost), "results": found},
    )
    for name in tables:
        draw(PROBLEMS[name], found[name], docs / "benchmarks" / f"{name}.svg")
    aside = docs / "benchmarks.md.new"
    aside.write_text(page(tables, cost))
    aside.rename(docs / "benchmarks.md")


def _read(folder: Path, problem: Problem) -> dict[str, list[dict[str, Any]]]:
    """In the order in which the problem names its methods."""
    every = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    by_method = {method: [r for r in every if r["method"] == method] for method in problem.methods}
    return {method: found for method, found in by_method.items() if found}
