"""What a bad challenger costs before its canary turns it back, and whether a good one comes through."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from tests.e2e import canary_world
from tests.e2e.canary_models import MODELS
from tests.e2e.canary_world import World, listens, wait_for

RATE = 300.0  # requests a second
BAD = ("errs", "slow", "shifts", "worse")
PLAN = {"steps": [1.0, 10.0, 50.0, 100.0], "step_seconds": 60.0, "step_requests": 150}
SHORTER = {"step_seconds": 20.0, "step_requests": 30}
"""For the good one, which goes through all steps."""


def measure(folder: Path) -> dict[str, Any]:
    """Challengers that err, are slow, answer otherwise or are wrong, and a good one, under a steady load."""
    folder = folder.resolve()  # The YAML that lies in it names places below it.
    shutil.rmtree(folder, ignore_errors=True)
    models = canary_world.export(folder / "models", *MODELS)
    with canary_world.world(folder / "shop", models, PLAN) as world:
        ends = {name: _trial(world, name) for name in BAD}
        world.configure(**SHORTER)
        ends["good"] = _trial(world, "good")
    return {"requests_per_second": RATE, **PLAN, "good_with": SHORTER, "challengers": ends}


def _trial(world: World, name: str) -> dict[str, Any]:
    """One challenger under a load of its own."""
    world.labels = name != "shifts"  # they would tell before the predictions do
    world.configure()
    world.start_controller()
    wait_for(lambda: listens(world.ports["nginx"]))
    world.start_load(RATE)
    time.sleep(3.0)  # the champion alone, first
    number = world.challenge(name)
    end = world.end_of(number, 600.0)
    time.sleep(2.0)
    sent = world.stop_load()
    world.stop("controller")
    return {
        "end": end["event"],
        "why": end["why"],
        "at_percent": end["percent"],
        "seconds": end["seconds"],
        "requests": end["of_requests"],
        "seen_by_challenger": end["requests"],
        "share_seen": round(end["requests"] / max(end["of_requests"], 1), 4),
        "client": {
            "statuses": sent["statuses"],
            "p50_ms": round(1000 * sent["p50"], 2),
            "p99_ms": round(1000 * sent["p99"], 2),
        },
    }
