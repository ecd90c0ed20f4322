"""docs/benchmarks.md as text."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.bench.learning.problems import PROBLEMS
from tests.bench.learning.summary import TAXI_TREES, targets

_COLUMNS: Sequence[tuple[str, str, Callable[[float], str]]] = (
    ("next_auc", "AUC on the next span", "{:.4f}".format),
    ("next_accuracy", "accuracy on the next span", "{:.4f}".format),
    ("acc", "ACC", "{:.4f}".format),
    ("bwt", "BWT", "{:+.4f}".format),
    ("fwt", "FWT", "{:+.4f}".format),
    ("forgetting", "forgetting", "{:.4f}".format),
    ("examples", "training examples", lambda value: f"{value:,.0f}"),
    ("share", "share", "{:.1%}".format),
    ("train_seconds", "training, s", "{:.0f}".format),
    ("seconds", "all runs, s", "{:.0f}".format),
)

_HEAD = """# Benchmarks of learning

What is kept and what is forgotten, measured on the pipeline itself: every number comes from versions that
`retrain run` made, with all of its stages, and every method is a change of a deployment's file.

```console
$ make bench-learning
```

measures what is not measured yet and writes this page anew, out of
[tests/bench/learning](../tests/bench/learning); to measure a part:
`python -m tests.bench.learning taxi --method replay --seeds 1`; with `--resume` what this page was written of
counts as measured. Machine: {machine}; it had other work at the same time, so seconds are those of
the quickest seed, and training examples are the fairer measure of cost.

- **ACC**: the mean of the metric over the held-out rows of all spans, after the last run;
- **BWT**, backward transfer: the mean change on a past span since it was learned;
- **forgetting**: the mean loss on a past span against the best that it ever had;
- **FWT**, forward transfer: the mean on a span just before it was learned, less what a model that knows
  nothing has;
- **on the next span**: of the version served after a span, on all rows of the one after, which nobody has
  seen yet;
- **training examples**: each counts every time that it is trained on, replayed ones too; **share**: of those
  of the method in the last row, over the same spans.

Mean ± standard deviation over the seeds. `static` is what the first span gives; `fine-tuning` a warm start
without replay; `from scratch` a cold start on all spans so far, after each of them; `joint` one on all spans
at once. Gates are open here, so that every version is served and R has all of its rows.

## What was to be reached

{targets}
"""

_NOTES: Mapping[str, str] = {
    "taxi": "`configs/taxi.yaml`. Boosted trees (scikit-learn, 60 rounds) on everything so far have a mean "
    "AUC of {trees} on the next quarter; on the first quarter alone 0.934.",
    "elec2": "`configs/elec2.yaml`, with a span of four weeks, 1,344 rows. Boosted trees on the next window: "
    "0.652 from the first window alone, 0.837 from the last, 0.844 from everything so far. Saying what the "
    "half-hour before was has an accuracy of {last_class}: the labels are autocorrelated. What is newest "
    "counts most here: on the next window training on everything alike is behind all that go on learning, "
    "and replay alone keeps hardly more than fine-tuning. Distillation keeps more, and loses nothing ahead.",
    "permuted_mnist": "MNIST's 10,000 test images in ten orders of their pixels, a fifth held out by a hash "
    "of the row; the buffer holds 3,200 of the 80,000. `tests/bench/learning/permuted_mnist.yaml`.",
    "split_mnist": "The same images, two digits a task, class-incremental: a version is asked among all "
    "digits that it knows. `tests/bench/learning/split_mnist.yaml`. FWT is not defined: before a task its "
    "classes are unknown.",
}


def page(tables: Mapping[str, Any], cost: Mapping[str, Any] | None) -> str:
    """docs/benchmarks.md."""
    rows = [
        f"| {t['data']} | {t['target']} | {t['found']} | {'yes' if t['reached'] else '**not reached**'} |"
        for t in targets(tables, cost)
    ]
    head = ["| data | target | found | reached |", "|---|---|---|---|"]
    parts = [_HEAD.format(machine=f"{os.cpu_count()} cores, no GPU", targets="\n".join([*head, *rows]))]
    for name, methods in tables.items():
        last_class = next(
            (m["next_last_class"]["mean"] for m in methods.values() if "next_last_class" in m), 0
        )
        notes = _NOTES[name].format(trees=TAXI_TREES, last_class=f"{last_class:.3f}")
        seeds = ", ".join(f"{method} {len(found['seeds'])}" for method, found in methods.items())
        parts.append(
            f"## {PROBLEMS[name].title}\n\n{notes}\n\n{_markdown(methods)}\n\nSeeds: {seeds}.\n\n"
            f"![{PROBLEMS[name].title}](benchmarks/{name}.svg)\n"
        )
    if cost:
        parts.append(_cost(cost))
    return "\n".join(parts)


def _markdown(methods: Mapping[str, Any]) -> str:
    columns = [column for column in _COLUMNS if any(column[0] in found for found in methods.values())]
    lines = [
        "| method | " + " | ".join(title for _, title, _ in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for method, found in methods.items():
        cells = [_cell(found.get(key), shown) for key, _, shown in columns]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(value: Mapping[str, float | None] | None, shown: Callable[[float], str]) -> str:
    if value is None:
        return "-"
    if "least" in value:
        return shown(value["least"] or 0.0)
    mean, sd = value["mean"], value["sd"]
    text = shown(mean or 0.0)
    return text if not sd else f"{text} ± {shown(sd).lstrip('+')}"


def _cost(cost: Mapping[str, Any]) -> str:
    early, late, growth = cost["median"]["early"], cost["median"]["late"], cost["growth"]
    rows = [
        f"| {title} | {early[key]} | {late[key]} | {growth[key]:+.1%} |"
        for key, title in (
            ("stages", "stages, s"),
            ("seconds", "whole command, s"),
            ("processor_seconds", "whole command, processor s"),
        )
    ]
    spans = {name: f"{every[0]} to {every[-1]}" for name, every in cost["spans"].items()}
    return "\n".join(
        [
            "## The cost of an update\n",
            f"Spans of {cost['rows']:,} taxi trips, drawn anew with noise; `transform.policy: reuse`, a "
            "buffer full from the third span on. Each run a process of its own, of two deployments at "
            "the same time: medians of five, and of their ratios.\n",
            f"| | spans {spans['early']} | spans {spans['late']} | growth |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )
