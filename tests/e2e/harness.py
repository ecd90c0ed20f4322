"""Runs the real command on a deployment in a folder of its own."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from components import bounded
from tests.bench.prequential import taxi_csv

ROOT = Path(__file__).parents[2]
# A few features, few steps: where what is tried is what becomes of a version.
SMALL: dict[str, Any] = {
    "preprocessing": {
        "features": {
            "fare": {"type": "numeric", "log": True},
            "payment_type": {"type": "categorical"},
            "company": {"type": "categorical"},
        }
    },
    "training": {"epochs": 2},
}


@dataclass(frozen=True)
class Result:
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Standard output as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


def retrain(*args: object) -> Result:
    """`retrain ARGS` in this process, which has imported TensorFlow and TFX already."""
    from pipeline.cli import main

    argv = sys.argv
    sys.argv = ["retrain", *map(str, args)]
    code = 0
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        with _printed_to(out, err), _smoke_tested_here():
            try:
                main()
            except SystemExit as error:
                code = int(error.code or 0)
            finally:
                sys.argv = argv
        return Result(code, out.read_text(), err.read_text())


@contextlib.contextmanager
def _smoke_tested_here() -> Iterator[None]:
    """What a stage does in a process of its own, done in this one, which has TensorFlow: 5 s less a run.

    Whoever has to see that other process uses `tests.killed.Mortal`.
    """

    def here(module: str, request: dict[str, Any], max_seconds: float, max_memory_mb: float) -> bounded.Ended:
        begun = time.monotonic()
        found = importlib.import_module(module).look(request, lambda _: None)
        return bounded.Ended(found, "", time.monotonic() - begun, memory_mb=0)

    with mock.patch.object(bounded, "run", here):
        yield


@contextlib.contextmanager
def _printed_to(out_path: Path, err_path: Path) -> Iterator[None]:
    """Both standard streams, descriptors included, sent to files."""
    streams, saved = (sys.stdout, sys.stderr), [os.dup(1), os.dup(2)]
    with open(out_path, "w") as out, open(err_path, "w") as err:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        sys.stdout, sys.stderr = out, err
        try:
            yield
        finally:
            for stream in (out, err):
                stream.flush()
            sys.stdout, sys.stderr = streams
            for descriptor, original in zip((1, 2), saved, strict=True):
                os.dup2(original, descriptor)
                os.close(original)


class Deployment:
    """The taxi deployment with state and data of its own; spans are put in one by one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data, self.state = folder / "data", folder / "state"
        self.config = folder / "taxi.yaml"
        self._quarters = folder / "quarters"
        self.data.mkdir(parents=True)
        self.configure()

    def configure(self, **changes: Any) -> None:
        """Writes the YAML anew: configs/taxi.yaml with other sections merged in."""
        content = yaml.safe_load((ROOT / "configs" / "taxi.yaml").read_text())
        content["schema"] = str(ROOT / "schemas" / "taxi.pbtxt")
        content["state"], content["data"]["path"] = str(self.state), str(self.data)
        for section, values in changes.items():
            content[section] = {**content.get(section, {}), **values}
        self.config.write_text(yaml.safe_dump(content, sort_keys=False))

    def put(self, span: int, flipped: bool = False) -> Path:
        """Brings in a quarter of the taxi trips, with every label turned round if asked."""
        if not self._quarters.exists():
            split = retrain(
                "split",
                taxi_csv(),
                "--time",
                "trip_start_timestamp",
                "--every",
                "quarter",
                "--out",
                self._quarters,
            )
            assert split.code == 0, split.err
        shutil.copytree(self._quarters / str(span), self.data / str(span))
        (file,) = (self.data / str(span)).glob("*.csv")
        if flipped:
            _flip(file)
        return file

    def run(self, *args: object) -> Result:
        """`retrain run --json`."""
        return retrain("run", self.config, "--json", *args)

    def status(self) -> dict[str, Any]:
        """`retrain status --json`."""
        return retrain("status", self.config, "--json").lines[0]

    def versions(self) -> dict[int, dict[str, Any]]:
        """`retrain history --json`, by number."""
        return {line["number"]: line for line in retrain("history", self.config, "--json").lines}

    def served_by_folder(self) -> list[int]:
        """The versions that the model server is told to serve, each of which must be whole."""
        from serving.model_config import read_model_config

        file = self.state / "serving" / "models.config"
        if not file.exists():
            return []
        (model,) = read_model_config(file)
        for version in model.policy.specific or ():
            assert (model.base_path / str(version) / "saved_model.pb").exists()
        return list(model.policy.specific or ())

    def snapshot(self) -> dict[str, str]:
        """Every file of the state with a hash of its content, logs and lock left out."""
        return {
            str(path.relative_to(self.state)): hashlib.blake2b(path.read_bytes()).hexdigest()
            for path in sorted(self.state.rglob("*"))
            if path.is_file() and path.parent.name != "logs" and path.name != "lock"
        }

    def sample(self, version: dict[str, Any]) -> dict[str, Any]:
        """What a version's buffer knows of its samples."""
        return json.loads((Path(version["uris"]["buffer"]) / "sample.json").read_text())

    def steps(self, version: dict[str, Any]) -> int:
        """Optimizer steps from the cold start to a version."""
        return int(json.loads((Path(version["uris"]["model"]) / "checkpoint/state.json").read_text())["step"])

    def inputs(self, node: str) -> set[str]:
        """The URIs that the newest execution of a node read, as ML Metadata has them."""
        from ml_metadata import metadata_store
        from ml_metadata.proto import metadata_store_pb2

        connection = metadata_store_pb2.ConnectionConfig()
        connection.sqlite.filename_uri = str(self.state / "metadata.sqlite")
        store = metadata_store.MetadataStore(connection)
        context = store.get_context_by_type_and_name("node", f"taxi.{node}")
        newest = max(e.id for e in store.get_executions_by_context(context.id))
        events = store.get_events_by_execution_ids([newest])
        ids = [e.artifact_id for e in events if e.type == metadata_store_pb2.Event.INPUT]
        return {artifact.uri for artifact in store.get_artifacts_by_id(ids)}


def _flip(file: Path) -> None:
    import pandas as pd

    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    fare, tips = table.fare.astype(float), table.tips.astype(float)
    table["tips"] = ((tips <= 0.2 * fare) * (0.5 * fare + 1)).round(2).astype(str)
    table.to_csv(file, index=False)
