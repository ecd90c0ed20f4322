"""What the results of several seeds come to, and whether that is what was to be reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.bench.learning import measures
from tests.bench.learning.problems import Problem

_SECONDS = ("train_seconds", "seconds")
Results = Mapping[str, Sequence[Mapping[str, Any]]]  # method -> its results, one a seed


def matrix(result: Mapping[str, Any]) -> dict[int, dict[int, float]]:
    """R of a result."""
    return {
        run["after"]: {int(span): value for span, value in run["on"].items()}
        for run in sorted(result["runs"], key=lambda run: run["after"])
    }


def table(problem: Problem, results: Results) -> dict[str, dict[str, Any]]:
    """Method -> measure -> `{"mean", "sd"}` over its seeds, with `seeds` and `rejected` as they are.

    Of seconds `{"least"}`: what a busy machine adds to some seeds is nothing of the method's. Measures that a
    method or data set has not are left out. `share` is of the reference's training examples with the same
    seed.
    """
    examples = {
        (method, result["seed"]): [run["examples"] for run in result["runs"]]
        for method, every in results.items()
        for result in every
    }
    found: dict[str, dict[str, Any]] = {}
    for method, every in results.items():
        values: dict[str, list[float]] = {}
        for result in every:
            for name, value in _measures(problem, result).items():
                values.setdefault(name, []).append(value)
            reference = examples.get((problem.reference, result["seed"]))
            if reference:
                share = measures.share(examples[method, result["seed"]], reference)
                values.setdefault("share", []).append(share)
        found[method] = {
            name: {"least": min(listed)} if name in _SECONDS else _spread(listed)
            for name, listed in values.items()
        }
        found[method] |= {
            "seeds": sorted(result["seed"] for result in every),
            "rejected": sum(not run["served"] for result in every for run in result["runs"]),
        }
    return found


def _measures(problem: Problem, result: Mapping[str, Any]) -> dict[str, float]:
    r, runs = matrix(result), result["runs"]
    before = [run["before"] for run in runs if run["before"] is not None]
    ahead = [scores for run in runs for scores in run["ahead"].values()] if problem.ahead else []
    values = {
        "acc": measures.acc(r),
        "bwt": measures.bwt(r),
        "fwt": measures.fwt(before, problem.chance) if problem.chance is not None else None,
        "forgetting": measures.forgetting(r),
        "examples": sum(run["examples"] for run in runs),
        "train_seconds": sum(run["train_seconds"] for run in runs),
        "seconds": sum(run["seconds"] for run in runs),
    }
    for name in ("auc", "accuracy", "last_class"):
        if ahead and name in ahead[0]:
            values[f"next_{name}"] = sum(scores[name] for scores in ahead) / len(ahead)
    return {name: float(value) for name, value in values.items() if value is not None}


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    mean, sd = measures.spread(values)
    return {"mean": mean, "sd": sd}


TAXI_TREES, ELEC2_TREES = 0.947, 0.844  # the best of the boosted trees, ../shared/platform.md


def targets(tables: Mapping[str, Any], cost: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """What was to be reached: `data`, `target`, what was found as text, and whether it is `reached`."""
    found: list[dict[str, Any]] = []

    def say(data: str, target: str, measured: str, reached: bool) -> None:
        found.append({"data": data, "target": target, "found": measured, "reached": bool(reached)})

    for data, gap, floor, most in (("taxi", 0.003, 0.943, 0.15), ("elec2", 0.005, ELEC2_TREES, 0.10)):
        rows = tables.get(data, {})
        best = _best(rows, "next_auc", ("replay", "replay + distillation"))
        if best is None or "from scratch" not in rows:
            continue
        name, auc = best, rows[best]["next_auc"]["mean"]
        scratch, used = rows["from scratch"]["next_auc"]["mean"], rows[best]["share"]["mean"]
        say(
            data,
            f"next-span AUC within {gap} of from scratch",
            f"{name}: {auc:.4f} against {scratch:.4f}",
            auc >= scratch - gap,
        )
        above = "at least" if data == "taxi" else "above every single-window baseline,"
        say(
            data,
            f"next-span AUC {above} {floor}",
            f"{name}: {auc:.4f}",
            auc >= floor if data == "taxi" else auc > floor,
        )
        say(data, f"at most {most:.0%} of its training examples", f"{name}: {used:.1%}", used <= most)
    rows = tables.get("permuted_mnist", {})
    best = _best(rows, "acc", ("replay", "replay + DER++"))
    if best and "joint" in rows and "fine-tuning" in rows:
        acc, joint, bwt = rows[best]["acc"]["mean"], rows["joint"]["acc"]["mean"], rows[best]["bwt"]["mean"]
        naive = rows["fine-tuning"]["bwt"]["mean"]
        say(
            "permuted_mnist",
            "buffer 5 %: ACC at least 0.95 of joint",
            f"{best}: {acc:.4f} = {acc / joint:.3f} of {joint:.4f}",
            acc >= 0.95 * joint,
        )
        say("permuted_mnist", "BWT at least -0.03", f"{best}: {bwt:+.4f}", bwt >= -0.03)
        say(
            "permuted_mnist",
            "fine-tuning loses at least five times as much",
            f"{naive:+.4f} against {bwt:+.4f}",
            naive <= min(5 * bwt, 0),
        )
    rows = tables.get("split_mnist", {})
    for size, floor in ((500, 0.87), (200, 0.82)):
        best = _best(rows, "acc", (f"replay {size}", f"replay {size} + DER++"))
        if best:
            acc = rows[best]["acc"]["mean"]
            say("split_mnist", f"buffer {size}: ACC at least {floor}", f"{best}: {acc:.4f}", acc >= floor)
    if cost:
        for key, what in (("stages", "wall-clock"), ("processor_seconds", "processor time")):
            say(
                "cost",
                f"an update at span 50 costs what it did at span 5, within 5 %, {what}",
                f"{cost['median']['early'][key]} s and {cost['median']['late'][key]} s: "
                f"{cost['growth'][key]:+.1%}",
                abs(cost["growth"][key]) <= 0.05,
            )
    return found


def _best(rows: Mapping[str, Any], measure: str, methods: Sequence[str]) -> str | None:
    there = [method for method in methods if method in rows]
    return max(there, key=lambda method: rows[method][measure]["mean"], default=None)
