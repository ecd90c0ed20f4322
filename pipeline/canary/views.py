"""What `retrain canary status` tells: from the state file and the registry, with nothing heavy imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from pipeline.canary.controller import STATE_FILE, settings
from pipeline.canary.front import folder, front, nginx
from pipeline.canary.sequential import likely_divergence
from pipeline.canary.state import Trial, load
from pipeline.canary.tally import Pool, Step, latency_quantile
from pipeline.champion import open_registry
from pipeline.config import Deployment
from pipeline.views.text import when

_EVENTS = 5


def status(deployment: Deployment) -> tuple[dict[str, Any], Any]:
    """What is going on: as data, and for a person."""
    canary, registry = settings(deployment), open_registry(deployment)
    state = load(folder(deployment) / STATE_FILE)
    base, challenger = registry.champion(), registry.challenger()
    trial, pid = state.trial, nginx(deployment, canary).pid()
    routed = front(deployment, canary, trial.step.percent if trial else 0.0, None)
    data = {
        "name": deployment.name,
        "champion": base.number if base else None,
        "challenger": challenger.number if challenger else None,
        "phase": state.phase,
        "percent": trial.step.percent if trial else 0.0,
        "steps": canary.steps,
        "waits_for": state.waits,
        "looked": state.looked or None,
        "nginx": pid,
        "rest": f"{routed.listen}:{routed.rest_port}",
        "grpc": f"{routed.listen}:{routed.grpc_port}" if routed.grpc_port else None,
        "labels": {"folder": str(canary.labels), "there": canary.labels.exists()} if canary.labels else None,
        "pools": _pools(trial),
        "checks": state.decision.get("checks", []) if trial else [],
        "history": state.history,
    }
    return data, _text(data, trial)


def _pools(trial: Trial | None) -> list[dict[str, Any]]:
    """Every step's pools; the present step last."""
    return [_step(step) for step in trial.steps] if trial else []


def _step(step: Step) -> dict[str, Any]:
    found = {name: _pool(pool) for name, pool in (("stable", step.stable), ("canary", step.canary))}
    apart = likely_divergence(step.canary.predictions, step.stable.predictions)
    known = sum(step.canary.predictions) and sum(step.stable.predictions)
    return {"percent": step.percent, "started": step.started, "divergence": apart if known else None, **found}


def _pool(pool: Pool) -> dict[str, Any]:
    p99 = latency_quantile(pool, 0.99)
    return {
        "requests": pool.requests,
        "error_rate": pool.error_rate,
        "p99_ms": 1000 * p99 if p99 is not None else None,
        "keys": pool.buckets,
        "predictions": sum(pool.predictions),
        "labels": pool.losses.n,
        "loss": pool.losses.mean if pool.losses.n else None,
    }


def _text(data: Mapping[str, Any], trial: Trial | None) -> Any:
    head = Table.grid(padding=(0, 2))
    head.add_column()
    head.add_column(overflow="fold")
    head.add_row("deployment", data["name"])
    head.add_row("champion", _version(data["champion"]))
    head.add_row("challenger", _version(data["challenger"]))
    if trial:
        at = data["steps"].index(trial.step.percent) + 1 if trial.step.percent in data["steps"] else "?"
        share = f"{trial.step.percent:g} % of the requests, step {at} of {len(data['steps'])}"
        head.add_row(data["phase"], f"{share}, since {when(trial.step.started)}")
    looked = f"last look {when(data['looked'])}" if data["looked"] else "none yet (`retrain canary run`)"
    head.add_row("controller", looked)
    ports = f"REST {data['rest']}" + (f", gRPC {data['grpc']}" if data["grpc"] else "")
    head.add_row("nginx", f"process {data['nginx']}, {ports}" if data["nginx"] else "does not run")
    if data["labels"]:
        yet = "" if data["labels"]["there"] else " is not there: until it is, max_loss_rise is not judged"
        head.add_row("labels", data["labels"]["folder"] + yet)
    for wait in data["waits_for"]:
        head.add_row("waits", wait)
    parts: list[Any] = [head]
    if data["pools"]:
        parts += [_pools_table(data["pools"]), _checks_table(data["checks"])]
    if data["history"]:
        parts += [Text(line) for line in ("", *map(_told, data["history"][-_EVENTS:]))]
    return Group(*parts)


def _pools_table(steps: list[dict[str, Any]]) -> Table:
    columns = ("step", "pool", "requests", "errors", "p99 ms", "predictions", "labels", "loss")
    table = _table("\nwhat was seen", *columns)
    for step in steps:
        for name in ("stable", "canary"):
            pool = step[name]
            table.add_row(
                f"{step['percent']:g} %",
                name,
                f"{pool['requests']:,}",
                _number(pool["error_rate"]),
                _number(pool["p99_ms"]),
                f"{pool['predictions']:,}",
                f"{pool['labels']:,}",
                _number(pool["loss"]),
            )
    return table


def _checks_table(checks: list[dict[str, Any]]) -> Table:
    table = _table("\nlimits", "limit", "allowed", "measured", "certainly", "at most", "over", "")
    for check in checks:
        table.add_row(
            check["limit"],
            f"{check['allowed']:g}",
            _number(check["value"]),
            "-" if check["least"] is None else f">= {_number(check['least'])}",
            _number(check["most"]),
            f"{check['seen']:,}",
            "broken" if check["broken"] else "",
        )
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _told(event: Mapping[str, Any]) -> str:
    """One line of the history."""
    why = f": {event['why']}" if event.get("why") else ""
    seen = f"{event['requests']:,} of {event['of_requests']:,} requests, {event['seconds']:.0f} s"
    told = f"version {event['challenger']} {event['event']} at {event['percent']:g} %"
    return f"{when(event['when'])} {told} ({seen}){why}"


def _version(number: int | None) -> str:
    return "none" if number is None else f"version {number}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
