"""The pictures of docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.bench.learning import measures
from tests.bench.learning.problems import Problem
from tests.bench.learning.summary import Results, matrix


def draw(problem: Problem, results: Results, file: Path) -> None:
    """The methods over the spans, and R of the first seed of fine-tuning and of the best fold.

    Where there are scores ahead, those on the next span; otherwise the mean over the spans so far.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": problem.title, "font.size": 9}
    from matplotlib import pyplot as plt

    folds = [m for m, every in results.items() if len(every[0]["runs"]) == problem.spans]
    each = [m for m in folds if problem.methods[m].how == "each"]
    best = max(each, key=lambda m: measures.acc(matrix(results[m][0])), default=None)
    shown = [m for m in dict.fromkeys(("fine-tuning", best)) if m in each]
    figure, axes = plt.subplots(1, 1 + len(shown), figsize=(4.6 + 3 * len(shown), 3.2), layout="constrained")
    axes = [axes] if not shown else list(axes)
    for method, every in results.items():
        curves = [_curve(problem, result) for result in every]
        if any(curves):
            mean = [sum(points) / len(points) for points in zip(*[c.values() for c in curves], strict=True)]
            axes[0].plot(list(curves[0]), mean, label=method, lw=1.3, marker="." if len(mean) < 12 else None)
    what = "on the next span" if problem.ahead else "mean over the spans learned so far"
    axes[0].set(xlabel="span", ylabel=f"{problem.metric}, {what}")
    axes[0].legend(framealpha=0.6, fontsize=7)
    everything = [v for m in shown for row in matrix(results[m][0]).values() for v in row.values()]
    for ax, method in zip(axes[1:], shown, strict=True):
        r = matrix(results[method][0])
        grid = [[r[i].get(j, float("nan")) for j in r] for i in r]
        image = ax.imshow(grid, vmin=min(everything), vmax=max(everything), cmap="viridis")
        ax.set(title=f"R: {method}", xlabel="on span", ylabel="after span")
        step = max(len(r) // 8, 1)
        ax.set_xticks(range(0, len(r), step), list(r)[::step])
        ax.set_yticks(range(0, len(r), step), list(r)[::step])
        figure.colorbar(image, ax=ax, shrink=0.8)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


def _curve(problem: Problem, result: Mapping[str, Any]) -> dict[int, float]:
    if problem.ahead:
        return {
            int(span): scores[problem.metric]
            for run in result["runs"]
            for span, scores in run["ahead"].items()
        }
    r = matrix(result)
    return {i: sum(row.values()) / len(row) for i, row in r.items()} if len(r) > 1 else {}
