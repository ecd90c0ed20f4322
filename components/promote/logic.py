"""What the registry keeps of a run: all of it in a file, and a summary of fixed size in the tags."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

RECORD_FILE = "record.json"
"""In a version's record: the decision, the verdict, and where the artifacts are."""
FILES_FILE = "files.json"
"""In a version's record: span -> file -> what is known of it, as it was learned."""

# What a summary holds: MLflow refuses a tag of more than 100,000 characters.
_MOST = 20  # features, reasons and new spans each
_LONGEST_REASON = 500
_LONGEST_NAME = 250  # MLflow's own limit


def summarize(
    decision: Mapping[str, Any],
    verdict: Mapping[str, Any],
    spans: Sequence[int],
    told: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> dict[str, Any]:
    """A record's summary: its size does not grow with the number of spans, slices or features.

    Args:
        decision: `decision.json` of the decide stage.
        verdict: `verdict.json` of the gate.
        spans: the new ones.
        told: what the stages said of themselves: `transform`, `warm_start`, `training`, `influence`,
            `attempt`, `shadow`.

    Returns:
        `reasons`, `rows`, `drift` (the most drifted features), `gate` (its reasons, and how many
        checks passed, failed, or were not judged), `metrics` (candidate's and champion's, overall
        and on the last new spans), `worst_past` (the past span that fell most, by metric), `learning`
        (the measures of what the line has kept, by metric), and what was told, in short.
    """
    checks = verdict["checks"]
    outcomes = [check["outcome"] for check in checks]
    slices = ["overall", *(f"span={span}" for span in spans[-_MOST:])]

    def short(reasons: Sequence[str]) -> list[str]:
        return [reason[:_LONGEST_REASON] for reason in reasons[:_MOST]]

    def of(model: str) -> dict[str, Any]:
        return {name: verdict[model][name] for name in slices if name in (verdict[model] or {})}

    return {
        "reasons": short(decision["reasons"]),
        "rows": decision["rows"],
        "drift": decision["drift"][:_MOST],
        "gate": {
            "reasons": short(verdict["reasons"]),
            "only_forgetting": verdict.get("only_forgetting", False),
            **{name: outcomes.count(name) for name in ("passed", "failed", "not judged")},
        },
        "metrics": {"candidate": of("candidate"), "champion": of("champion")},
        "worst_past": worst_past(checks),
        "learning": verdict.get("learning", {}),
        **{name: _short(content) for name, content in told.items()},
    }


def _short(content: Any) -> Any:
    """Plain data of bounded size: of what is long, the first part; of long lists and objects, how many."""
    if isinstance(content, str):
        return content[:_LONGEST_REASON]
    if isinstance(content, Mapping):
        if len(content) > _MOST:
            return {"entries": len(content)}
        return {key: _short(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_short(value) for value in content[:_MOST]]
    return content


def worst_past(checks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Metric -> the check of the past span that lost most, of those that were judged."""
    worst: dict[str, Any] = {}
    for check in checks:
        if check["gate"] != "max_past_drop" or check["outcome"] == "not judged" or check["fall"] is None:
            continue
        metric = check["metric"]
        if metric not in worst or check["fall"] > worst[metric]["fall"]:
            worst[metric] = dict(check)
    return worst


def chart_metrics(
    metrics: Mapping[str, Mapping[str, float]],
    learning: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> dict[str, float]:
    """Names that MLflow accepts -> values: `auc/span_3`, and `retention/bwt/auc`.

    Args:
        metrics: slice, such as `span=3` -> metric -> value.
        learning: metric -> measure -> value; what is no number is left out.
    """
    kept = {
        f"retention/{measure}/{metric}": float(value)
        for metric, measures in learning.items()
        for measure, value in measures.items()
        if isinstance(value, int | float)
    }
    return kept | {
        # Without the slash: MLflow takes a name for a path, and refuses `a//b`.
        f"{metric}/{re.sub(r'[^0-9A-Za-z_. -]', '_', name)}"[:_LONGEST_NAME]: value
        for name, values in metrics.items()
        for metric, value in values.items()
    }
