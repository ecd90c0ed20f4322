"""A deployment with two real servers, a real nginx, a controller and a load, each in a process of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from components.promote.registry import ARTIFACTS, CHALLENGER, CHAMPION, Registry, Version
from pipeline.canary.front import front, nginx
from pipeline.champion import open_registry, sync_serving
from pipeline.config import Deployment, load
from pipeline.config.sections.canary import Canary

ROOT = Path(__file__).parents[2]
SCHEMA = """
feature { name: "x" type: FLOAT presence { min_fraction: 1.0 min_count: 1 } }
feature { name: "y" type: INT }
"""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def wait_for(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    """The value of a condition, when it holds."""
    ends = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < ends, "the condition never held"
        time.sleep(0.02)
    return value


@dataclass
class World:
    """All of it, in one folder.

    Attributes:
        folder: of the deployment.
        models: name -> SavedModel.
        canary: the YAML's `serving.canary`, without addresses.
        labels: whether labels arrive.
        versions: name -> number.
    """

    folder: Path
    models: dict[str, Path]
    canary: dict[str, Any]
    labels: bool = True
    versions: dict[str, int] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ports = dict(
            zip(("stable", "stable_grpc", "canary", "canary_grpc", "nginx"), free_ports(5), strict=True)
        )
        (self.folder / "data").mkdir(parents=True)
        (self.folder / "labels").mkdir()
        (self.folder / "schema.pbtxt").write_text(SCHEMA)
        self.configure()

    def configure(self, **changes: Any) -> None:
        """Writes the YAML, with other settings of the canary."""
        self.canary = {**self.canary, **changes}
        at = {name: f"127.0.0.1:{port}" for name, port in self.ports.items()}
        content = {
            "name": "shop",
            "schema": "schema.pbtxt",
            "state": "state",
            "data": {"path": "data"},
            "label": {"name": "y"},
            "preprocessing": {"features": {"x": {"type": "numeric"}}},
            "serving": {
                "servers": [{"grpc": at["stable_grpc"], "rest": at["stable"]}],
                "prediction_log": {"file_seconds": 5.0},
                "canary": {
                    "servers": [{"grpc": at["canary_grpc"], "rest": at["canary"]}],
                    "rest_port": self.ports["nginx"],
                    **({"labels": str(self.folder / "labels")} if self.labels else {}),
                    **self.canary,
                },
            },
        }
        self.config.write_text(yaml.safe_dump(content, sort_keys=False))

    @property
    def config(self) -> Path:
        return self.folder / "shop.yaml"

    @property
    def deployment(self) -> Deployment:
        return load(self.config)

    @property
    def registry(self) -> Registry:
        return open_registry(self.deployment)

    @property
    def state(self) -> dict[str, Any]:
        """The controller's."""
        file = self.folder / "state/canary/state.json"
        return dict(json.loads(file.read_text())) if file.exists() else {"history": [], "phase": "idle"}

    @property
    def settings(self) -> Canary:
        """The canary's."""
        canary = self.deployment.serving.canary
        assert canary is not None
        return canary

    @property
    def percent(self) -> float:
        """What nginx gives to the canary pool, as it says itself."""
        told = nginx(self.deployment, self.settings).generation(
            front(self.deployment, self.settings, 0, None)
        )
        assert told is not None, "nginx does not answer"
        return float(told.split()[0])

    @property
    def requests(self) -> int:
        """That were counted so far in the present test."""
        return sum(
            step[pool]["requests"] for step in self.state["trial"]["steps"] for pool in ("stable", "canary")
        )

    def labelled(self) -> int:
        """The challenger's predictions that are joined with a label in the present test."""
        trial = self.state.get("trial")
        return sum(step["canary"]["losses"]["n"] for step in trial["steps"]) if trial else 0

    def end_of(self, number: int, seconds: float = 120.0) -> dict[str, Any]:
        """The event that ended a challenger's test, when it has."""
        ends = ("reverted", "promoted", "ended")

        def found() -> Any:
            told = [event for event in self.state["history"] if event["challenger"] == number]
            return next((event for event in told if event["event"] in ends), None)

        return dict(wait_for(found, seconds))

    def serves(self, pool: str) -> int | None:
        """The version that a pool's server has available; None: none or several."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[pool], timeout=30)
        with contextlib.closing(connection):
            connection.request("GET", "/v1/models/shop")
            told = json.loads(connection.getresponse().read()).get("model_version_status", [])
        there = [int(one["version"]) for one in told if one["state"] == "AVAILABLE"]
        return there[0] if len(there) == 1 else None

    @property
    def events(self) -> list[str]:
        return [event["event"] for event in self.state["history"]]

    def add(self, name: str, parent: int | None = None) -> int:
        """Registers a model as a blessed version; again makes another of it."""
        number = len(self.registry.versions()) + 1
        folder = self.folder / "state/artifacts" / str(number)
        uris = {artifact: str(folder / artifact) for artifact in (*ARTIFACTS, "record")}
        for uri in uris.values():
            Path(uri).mkdir(parents=True)
        shutil.copytree(self.models[name], folder / "model" / "Format-Serving")
        version = Version(
            number=0,
            key=str(folder),
            spans=(number,),
            watermark=number,
            parent=parent,
            blessed=True,
            uris=uris,
            record={},
            created=0.0,
        )
        self.versions[name] = self.registry.register(version, str(folder / "model/Format-Serving"), {})
        return self.versions[name]

    def challenge(self, name: str) -> int:
        """Registers a model and makes it the challenger."""
        champion = self.registry.champion()
        assert champion is not None
        number = self.add(name, champion.number)
        self.registry.move(CHALLENGER, number, "a test")
        return number

    def start_servers(self) -> None:
        """Starts both, with the first version as the champion."""
        number = self.add("champion")
        self.registry.move(CHAMPION, number, "a test")
        sync_serving(self.deployment, self.registry.get(number))  # the files, which they start from
        at = {"--rest-port": self.ports["stable"], "--grpc-port": self.ports["stable_grpc"]}
        self.start(
            "stable", *self.retrain("serve", self.config, *(word for pair in at.items() for word in pair))
        )
        self.start("canary", *self.retrain("serve", self.config, "--canary"))
        for pool in ("stable", "canary"):
            wait_for(lambda pool=pool: listens(self.ports[pool]), 240.0)
            wait_for(lambda pool=pool: self.serves(pool) == number)

    def start_load(self, rate: float) -> None:
        """Asks nginx so many times a second."""
        spec = {
            "address": f"127.0.0.1:{self.ports['nginx']}",
            "path": "/v1/models/shop:predict",
            "rate": rate,
            "labels": str(self.folder / "labels") if self.labels else None,
            "out": str(self.folder / "load.json"),
        }
        self.start("load", sys.executable, "-m", "tests.e2e.canary_load", json.dumps(spec))

    def stop_load(self) -> dict[str, Any]:
        """Ends the load; gives what came of it."""
        self.stop("load")
        return dict(json.loads((self.folder / "load.json").read_text()))

    def start_controller(self) -> None:
        """`retrain canary run`."""
        self.start("controller", *self.retrain("canary", "run", self.config, "--json"))

    def retrain(self, *words: object) -> Sequence[str]:
        """The command."""
        return [str(Path(sys.executable).parent / "retrain"), *map(str, words)]

    def ask(self, key: str, x: float = 0.3) -> tuple[int, Any]:
        """One request to nginx: the status, and the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports["nginx"], timeout=30)
        with contextlib.closing(connection):
            body = json.dumps({"signature_name": "serving_raw", "instances": [{"x": x}]})
            connection.request("POST", "/v1/models/shop:predict", body, {"X-Request-Key": key})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def start(self, name: str, *command: object) -> None:
        """Starts a process; what it prints goes to NAME.log."""
        with open(self.folder / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(
                [str(word) for word in command],
                cwd=ROOT,
                stdout=log,
                stderr=log,
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            )

    def stop(self, name: str, how: int = signal.SIGTERM) -> None:
        """Ends one process."""
        process = self.processes.pop(name)
        process.send_signal(how)
        process.wait(60)

    def close(self) -> None:
        """Ends all of them."""
        for name in reversed(list(self.processes)):
            self.stop(name)
        nginx(self.deployment, self.settings).stop()


def listens(port: int) -> bool:
    """Whether somebody does."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def export(folder: Path, *names: str) -> dict[str, Path]:
    """Name -> SavedModel of `canary_models`; TensorFlow stays in a process of its own."""
    command = [sys.executable, "-m", "tests.e2e.canary_models", str(folder), *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: folder / name for name in names}


@contextlib.contextmanager
def world(
    folder: Path, models: dict[str, Path], canary: dict[str, Any], labels: bool = True
) -> Iterator[World]:
    """A world with its servers, and version 1 as the champion."""
    made = World(folder, models, canary, labels)
    try:
        made.start_servers()
        yield made
    finally:
        made.close()
