"""The numbers of a deployment that depend on how much data there is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from components.evaluate.logic import FEWEST_OF_A_CLASS
from pipeline.config.sections.learning import Replay
from pipeline.init.profile import Profile
from pipeline.init.roles import Role
from pipeline.init.target import Found

_STEPS = 2_000  # of a cold start: enough for a small model, and seconds to a minute
_WARM_STEPS = 300
_MOST_STEPS = 10_000  # of a run that learns many spans at once
_FEW_ROWS = 800  # to train on, below which what is hidden only learns them by heart
_BATCHES = ((1_000, 16), (5_000, 32), (20_000, 64), (100_000, 128), (500_000, 256))  # up to so many rows
_JUDGED = 100  # held-out rows, by which most metrics are more than noise
_SPANS_JUDGED = 50
_MOST_HELD_OUT = 100_000  # of all spans; each run scores them twice
_SLICE_VALUES = 10
_MOST_SLICES = 2


@dataclass(frozen=True)
class Sizes:
    """Sections of the configuration, as plain data, and what they rest on.

    Attributes:
        rows: of a span, the median.
        held_out: of these, the rows that are not trained on.
        gate_why: of the floor, for a person.
    """

    rows: int
    held_out: int
    eval_share: float
    max_quarantine_share: float | None
    model: dict[str, Any]
    training: dict[str, Any]
    warm_start: dict[str, Any]
    replay: dict[str, Any]
    metric: str
    gate: dict[str, float]
    gate_why: str
    min_examples: int
    slices: list[str]


def fit_sizes(profile: Profile, found: Found, roles: Sequence[Role], span_rows: Sequence[int]) -> Sizes:
    """Everything that follows from the number of rows.

    Args:
        profile: of the table.
        found: what is predicted.
        roles: of its columns.
        span_rows: rows of each span; the first is what the first version learns.
    """
    rows = sorted(span_rows)[len(span_rows) // 2]
    eval_share = 0.3 if rows < 1_000 else 0.2
    held_out = max(int(rows * eval_share), 1)
    trained = max(int(span_rows[0] * (1 - eval_share)), 1)
    needed = _needed(found)
    min_examples = max(min(needed, int(0.6 * held_out)), 1)
    model = _model(roles, max(int(sum(span_rows) * (1 - eval_share)), 1))
    training = _training(trained, model["type"])
    metric, gate, why = _gate(found, held_out)
    return Sizes(
        rows=rows,
        held_out=held_out,
        eval_share=eval_share,
        max_quarantine_share=_quarantine(profile, found, roles),
        model=model,
        training=training,
        warm_start={
            "epochs": min(max(math.ceil(_WARM_STEPS * training["batch_size"] / (rows - held_out)), 2), 30),
            "learning_rate": training["learning_rate"] / 2,
        },
        replay={
            "capacity": max(20_000, 10 * rows) if rows < 10_000 else 50_000,
            "ratio": 0.5,
            "holdout_per_span": max(min(max(500, needed), held_out), min_examples),
            **_holdout(min_examples),
        },
        metric=metric,
        gate=gate,
        gate_why=why,
        min_examples=min_examples,
        slices=_slices(profile, roles, held_out, min_examples),
    )


def _needed(found: Found) -> int:
    """How many held-out rows it takes to tell a loss from chance: of an AUC, some of the rarer class."""
    if found.label.task != "binary":
        return _JUDGED
    return max(_JUDGED, math.ceil(2 * FEWEST_OF_A_CLASS / found.smallest_share))


def _holdout(min_examples: int) -> dict[str, int]:
    """Room for the held-out rows of enough spans, where the default would be too little."""
    room = max(min(_SPANS_JUDGED * min_examples, _MOST_HELD_OUT), min_examples)
    return {"holdout_capacity": room} if room > Replay().holdout_capacity else {}


def _quarantine(profile: Profile, found: Found, roles: Sequence[Role]) -> float | None:
    """A larger share of unreadable rows than the default allows; None where the default will do."""
    used = {role.column for role in roles if role.used}
    bad = profile.ragged + found.missing
    bad += sum(column.unreadable for column in profile.columns.values() if column.name in used)
    share = bad / (profile.rows + profile.ragged)
    return min(math.ceil(200 * share) / 100, 1.0) if share > 0.01 else None


def _model(roles: Sequence[Role], trained: int) -> dict[str, Any]:
    types = {role.role for role in roles if role.used}
    deep = {"hidden": [64, 32], "dropout": 0.2} if trained >= 5_000 else {"hidden": [32], "dropout": 0.2}
    if "tensor" in types:
        return {"type": "cnn", "hidden": [64], "dropout": 0.3}
    if trained < _FEW_ROWS:
        return {"type": "linear"}
    if types <= {"numeric", "timestamp"}:
        return {"type": "mlp", "hidden": [64, 32], "dropout": 0.2}
    return {"type": "wide_and_deep", **deep, "embedding_dim": 8}


def _training(trained: int, model: str) -> dict[str, Any]:
    batch = next((size for limit, size in _BATCHES if trained < limit), 512)
    epochs = math.ceil(_STEPS * batch / trained)
    return {
        "batch_size": batch,
        "epochs": min(max(epochs, 2), 200),
        "learning_rate": 0.01 if model == "linear" else 0.001,
    }


def _gate(found: Found, held_out: int) -> tuple[str, dict[str, float], str]:
    """The metric, what it must keep to, and why.

    A floor just above what looks at nothing; and losses that are more than the chance of few held-out rows.
    """
    task = found.label.task
    # An AUC's is that of the rarer class; the champion's is measured on the same rows, and moves along.
    rows = held_out * min(8 * found.smallest_share, 1.0) if task == "binary" else held_out
    chance = 1.0 / math.sqrt(rows)  # twice the largest standard deviation of a share
    drop, past = round(0.02 + chance, 2), round(0.04 + chance, 2)
    drops = {"max_drop": drop, "max_past_drop": past, "max_slice_drop": round(0.05 + 2 * chance, 2)}
    if task == "regression":
        why = "the mean of all rows has an r2 of 0"
        return "r2", {"min_value": 0.0, **{key: round(2 * value, 2) for key, value in drops.items()}}, why
    if task == "binary":
        why = f"a guess has 0.5; {100 * found.largest_share:.0f} % of the rows are of one class"
        return "auc", {"min_value": 0.55, **drops}, why
    share = found.largest_share
    why = f"the most frequent class alone gives {share:.2f}"
    return "accuracy", {"min_value": round(share + 0.05 * (1 - share), 3), **drops}, why


def _slices(profile: Profile, roles: Sequence[Role], held_out: int, min_examples: int) -> list[str]:
    """The categories two of whose values have enough held-out rows to be judged, most evenly spread first."""
    found = []
    for role in roles:
        column = profile.columns[role.column]
        if role.role != "categorical" or column.listed or not 2 <= column.distinct <= _SLICE_VALUES:
            continue
        second = float(column.counts[1][1]) / profile.sampled
        if second * held_out >= min_examples:
            found.append((-second, role.column))
    return [name for _, name in sorted(found)[:_MOST_SLICES]]
