"""One case a component: real inputs for it, what it reads of them, and what it must refuse."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_metadata.proto.v0.statistics_pb2 import DatasetFeatureStatisticsList
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.types import channel_utils, standard_artifacts
from tfx.types.artifact import Artifact
from tfx.utils import proto_utils

from components.artifacts import Decision, EdgeModel, RegisteredVersion
from components.beam_memory import remembered
from components.edge.component import Edge
from components.evaluate.component import Gate, eval_config
from components.ingest.component import Ingest
from components.label import Label
from components.names import EDGE_FILE, EXPECTED_ANSWERS, SMOKE_FILE
from components.promote.component import Promote, Register
from components.promote.registry import Registry, Version
from components.push.component import Push
from components.replay.component import Replay
from components.replay.forget import Forget
from components.replay.logic import Scheme
from components.replay.logits import Remember
from components.smoke.component import Smoke
from components.transform.component import Transform, definition
from components.validate.component import Decide

BEAM = [
    "--direct_running_mode=in_memory",
    "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner",
    "--sdk_container_image=unused",
]
SCHEMA = "".join(
    f'feature {{ name: "{name}" type: {kind} }}\n'
    for name, kind in {
        "x": "FLOAT",
        "word": "BYTES",
        "big": "INT",
        "span": "INT",
        "example_id": "INT",
    }.items()
)


def artifact(kind: type[Artifact], folder: Path, files: Mapping[str, str | bytes] | None = None) -> Any:
    """An artifact whose folder is there, with these files in it."""
    made = kind()
    made.uri = str(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (files or {}).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return made


def make(component: type, arguments: Mapping[str, Any]) -> Any:
    """The component, with a channel of every artifact."""
    return component(
        **{
            name: channel_utils.as_channel([value]) if isinstance(value, Artifact) else value
            for name, value in arguments.items()
        }
    )


def execute(component: type, arguments: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """One execution, as TFX launches it: its outputs, each in a new folder under `folder`."""
    made = make(component, arguments)
    outputs = {name: channel.type() for name, channel in made.outputs.items()}
    for name, output in outputs.items():
        output.uri = str(folder / name)
        (folder / name).mkdir(parents=True, exist_ok=True)
    executor = made.executor_spec.executor_class
    context = (
        executor.Context(beam_pipeline_args=list(BEAM)) if issubclass(executor, BaseBeamExecutor) else None
    )
    with remembered():
        executor(context).Do(
            {name: [value] for name, value in arguments.items() if isinstance(value, Artifact)},
            {name: [output] for name, output in outputs.items()},
            {name: value for name, value in made.exec_properties.items() if value is not None},
        )
    return outputs


@dataclass(frozen=True)
class Case:
    """How to try one component.

    Attributes:
        component: its class.
        arguments: of its constructor, artifacts where it takes channels; what it changes beside
            its outputs is in the folder given.
        reads: the inputs whose folders it reads.
        wrong: arguments that it must refuse -> what it says.
        state: what it left beside its outputs, as plain data.
        measured: keys of its outputs' JSON files that hold times and sizes, which no two tries share.
        last: the output and the file in it that it writes last.
    """

    component: type
    arguments: Callable[[Path, Material], dict[str, Any]]
    reads: tuple[str, ...]
    wrong: tuple[tuple[dict[str, Any], str], ...]
    state: Callable[[dict[str, Any]], Any] = field(default=lambda _: None)
    last: tuple[str, str] | None = None
    measured: frozenset[str] = frozenset()


class Material:
    """What the inputs are made of: each made by the stage that makes it, once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.schema = artifact(standard_artifacts.Schema, folder / "schema", {"schema.pbtxt": SCHEMA})
        first, second = (
            execute(Ingest, ingest(folder / f"span-{span}", self, span), folder / f"ingest-{span}")
            for span in (1, 2)
        )
        self.examples, self.quarantine = second["examples"], second["quarantine"]
        self.buffer = execute(Replay, {"examples": first["examples"], **REPLAY}, folder / "replay")["buffer"]
        self.model = self._model()
        self.evaluation = self._evaluation()
        self.database = folder / "registry.sqlite"
        Registry(f"sqlite:///{self.database}", "other", str(folder / "mlflow")).register(
            version("any"), f"{self.model.uri}/Format-Serving", {}
        )

    def _model(self) -> Any:
        """A SavedModel: sigmoid(x)."""
        import tensorflow as tf

        module = tf.Module()
        module.by_example = tf.function(
            lambda examples: {
                "predictions": tf.sigmoid(
                    tf.io.parse_example(examples, {"x": tf.io.FixedLenFeature([], tf.float32)})["x"]
                )
            },
            input_signature=[tf.TensorSpec([None], tf.string, name="examples")],
        )
        module.logits = tf.function(
            lambda examples: tf.io.parse_example(examples, {"x": tf.io.FixedLenFeature([1], tf.float32)})[
                "x"
            ],
            input_signature=[tf.TensorSpec([None], tf.string, name="examples")],
        )
        module.by_column = tf.function(
            lambda x: {"predictions": tf.sigmoid(x)},
            input_signature=[tf.TensorSpec([None], tf.float32, name="x")],
        )
        made = artifact(standard_artifacts.Model, self.folder / "model")
        signatures = {"serving_default": module.by_example, "serving_raw": module.by_column}
        tf.saved_model.save(module, f"{made.uri}/Format-Serving", signatures=signatures)
        self._expect(made)
        return made

    def _expect(self, model: Any) -> None:
        """Writes what the model answers, as the trainer does."""
        import tensorflow as tf

        from components.train.export.requests import Requests, answered

        numbers = [-1.0, 0.5, 2.0]
        rows = [
            tf.train.Example(
                features=tf.train.Features(
                    feature={"x": tf.train.Feature(float_list=tf.train.FloatList(value=[x]))}
                )
            ).SerializeToString()
            for x in numbers
        ]
        requests = Requests({"x": (tf.float32, False)}, {"serving_raw": ["x"]})
        answers = {"predictions": tf.sigmoid(numbers).numpy()}
        file = Path(model.uri, "checkpoint", EXPECTED_ANSWERS)
        file.parent.mkdir()
        with tf.io.TFRecordWriter(str(file)) as writer:
            for name in ("serving_default", "serving_raw"):
                writer.write(answered(requests.of(name, rows), answers).SerializeToString())

    def _evaluation(self) -> Any:
        from tfx.components.evaluator.executor import Executor

        made = artifact(standard_artifacts.ModelEvaluation, self.folder / "evaluation")
        config = eval_config(Label(name="big"), ["auc"], [], baseline=False)
        with remembered():
            Executor(Executor.Context(beam_pipeline_args=list(BEAM))).Do(
                {"examples": [self.examples], "schema": [self.schema], "model": [self.model]},
                {"evaluation": [made]},
                {"eval_config": proto_utils.proto_to_json(config), "example_splits": '["eval"]'},
            )
        return made

    def registry(self, folder: Path) -> dict[str, str]:
        """Of a registry in the folder: the arguments that name it."""
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.database, folder / "registry.sqlite")
        return {"uri": f"sqlite:///{folder}/registry.sqlite", "name": "model"}


def version(key: str) -> Version:
    return Version(0, key, (2,), 2, None, True, {"model": key}, {}, 0.0)


def ingest(folder: Path, material: Material, span: int = 2) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    rows = "".join(f"{(i * 37 % 101 - 50) / 20},{'ab'[i % 2]}\n" for i in range(300))
    (folder / "rows.csv").write_text(f"x,word\n{rows}one,a\n")
    return {
        "schema": material.schema,
        "spans": json.dumps([{"span": span, "files": [str(folder / "rows.csv")]}]),
        "label": '{"name": "big", "expression": "x > 0.5"}',
        "eval_share": 0.3,
        "max_quarantine_share": 0.01,
        "fingerprint": "",
    }


def decide(folder: Path, material: Material) -> dict[str, Any]:
    import pandas as pd
    import tensorflow_data_validation as tfdv

    statistics = tfdv.generate_statistics_from_dataframe(pd.DataFrame({"x": [1.0, 2.0], "odd": [1, 2]}))
    found = tfdv.validate_statistics(statistics, text_format.Parse(SCHEMA, schema_pb2.Schema()))
    files = {f"{split}/SchemaDiff.pb": found.SerializeToString() for split in ("Split-train", "Split-eval")}
    anomalies = artifact(standard_artifacts.ExampleAnomalies, folder / "anomalies", files)
    anomalies.split_names = '["train", "eval"]'
    drift = artifact(
        standard_artifacts.ExampleAnomalies, folder / "drift", {"SplitPair-a_b/SchemaDiff.pb": b""}
    )
    drift.split_names = '["a_b"]'
    return {
        "schema": material.schema,
        "quarantine": material.quarantine,
        "anomalies": anomalies,
        "drift": drift,
        "cold_start": False,
        "forced": False,
        "on_drift": True,
        "min_rows": 1,
        "severity": "error",
        "max_label_shift": 0.1,
        "max_duplicates": 0.1,
        "reference_labels": {"rows": 10, "classes": {"0": 5, "1": 5}},
        "released": [1],
    }


REPLAY: dict[str, Any] = {
    "capacity": 50,
    "holdout_per_span": 20,
    "holdout_capacity": 30,
    "holdout_spans": 3,
    "new_spans": [2],
    "seed": 7,
}


def replay(folder: Path, material: Material) -> dict[str, Any]:
    return {
        "examples": material.examples,
        "base_buffer": material.buffer,
        "schema": material.schema,
        "scheme": Scheme("balanced", ("word",)),
        **REPLAY,
    }


def transform(folder: Path, material: Material) -> dict[str, Any]:
    """With a champion's graph that is used again: one that is fitted is never quite the same."""
    statistics = artifact(
        standard_artifacts.ExampleStatistics,
        folder / "statistics",
        {"Split-train/FeatureStats.pb": DatasetFeatureStatisticsList(datasets=[{}]).SerializeToString()},
    )
    statistics.split_names = '["train"]'
    arguments = {
        "examples": material.examples,
        "schema": material.schema,
        "statistics": statistics,
        "features": [],
        "label": Label(name="big").model_dump(),
        "label_state": None,
        "module": None,
        "kept": {},
        "policy": {"policy": "reuse"},
    }
    config = json.loads(make(Transform, arguments).exec_properties["custom_config"])
    fit = {"definition": definition(config, material.schema.uri), "numbers": {}, "oov": {}}
    files = {
        "fit.json": json.dumps(fit),
        "policy.json": json.dumps({"reuses": 2}),
        "transform_fn/saved_model.pb": b"graph",
    }
    base = artifact(standard_artifacts.TransformGraph, folder / "base_graph", files)
    return {**arguments, "base_graph": base}


def gate(folder: Path, material: Material) -> dict[str, Any]:
    return {
        "evaluation": material.evaluation,
        "model": material.model,
        "smoke": artifact(
            standard_artifacts.InfraBlessing, folder / "smoke", {SMOKE_FILE: json.dumps({"problems": []})}
        ),
        "edge": artifact(EdgeModel, folder / "edge", {EDGE_FILE: json.dumps({"problems": ["too slow"]})}),
        "gates": {"auc": {"min_value": 0.9}},
        "new_spans": [2],
        "past_spans": [],
        "min_examples": 10,
        "baseline": False,
        "task": "binary",
        "base_record": artifact(
            RegisteredVersion, folder / "record", {"record.json": json.dumps({"verdict": {}})}
        ),
    }


def register(folder: Path, material: Material) -> dict[str, Any]:
    decision = {"action": "train", "reasons": ["cold start"], "drift": [], "rows": {"train": 200}}
    metrics = {"overall": {"auc": 0.8}}
    verdict = {"blessed": True, "reasons": [], "checks": [], "candidate": metrics, "champion": None}
    return {
        **material.registry(folder / "registry"),
        "model_artifacts": str(folder / "mlflow"),
        "files": {2: {"2/rows.csv": [10, 0, "a"]}},
        "fingerprint": "a",
        "watermark": 2,
        "parent": None,
        "model": material.model,
        "transform_graph": artifact(standard_artifacts.TransformGraph, folder / "graph", {"graph": b"graph"}),
        "statistics": artifact(standard_artifacts.ExampleStatistics, folder / "stats", {"stats": b"stats"}),
        "buffer": material.buffer,
        "schema": material.schema,
        "evaluation": material.evaluation,
        "decision": artifact(Decision, folder / "decision", {"decision.json": json.dumps(decision)}),
        "blessing": artifact(
            standard_artifacts.ModelBlessing, folder / "blessing", {"verdict.json": json.dumps(verdict)}
        ),
        "edge": artifact(EdgeModel, folder / "edge", {EDGE_FILE: json.dumps({"problems": []})}),
    }


def push(folder: Path, material: Material) -> dict[str, Any]:
    registered = artifact(RegisteredVersion, folder / "version")
    registered.version = 12
    return {"model": material.model, "version": registered, "base": str(folder / "serving" / "model")}


def promote(folder: Path, material: Material) -> dict[str, Any]:
    registry = material.registry(folder / "registry")
    registered = artifact(RegisteredVersion, folder / "version")
    registered.version = Registry(**registry, artifacts=str(folder / "mlflow")).register(
        version("a"), f"{material.model.uri}/Format-Serving", {}
    )
    pushed = artifact(standard_artifacts.PushedModel, folder / "pushed")
    return {"version": registered, "pushed": pushed, **registry}


def registered_versions(arguments: dict[str, Any]) -> Any:
    registry = Registry(arguments["uri"], arguments["name"])
    champion = registry.champion()
    return champion and champion.number, [(v.number, v.key, len(v.promoted)) for v in registry.versions()]


def served(arguments: dict[str, Any]) -> Any:
    return content(Path(arguments["base"]).parent)


def content(folder: Path) -> dict[str, bytes]:
    """Path -> bytes of every file in it."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


CASES = {
    "ingest": Case(
        Ingest,
        ingest,
        reads=("schema",),
        wrong=(({"eval_share": 1.5}, "eval_share: got 1.5"), ({"spans": "[]"}, "nothing to ingest")),
        last=("quarantine", "report.json"),
    ),
    "decide": Case(
        Decide,
        decide,
        reads=("schema", "quarantine", "anomalies", "drift"),
        wrong=(({"severity": "eror"}, "severity: got 'eror', expected one of warning, error"),),
        last=("decision", "decision.json"),
    ),
    "replay": Case(
        Replay,
        replay,
        reads=("examples", "base_buffer", "schema"),
        wrong=(
            ({"capacity": 0}, "capacity: got 0"),
            ({"holdout_per_span": 0}, "holdout_per_span: got 0"),
            ({"holdout_capacity": 0}, "holdout_capacity: got 0"),
            ({"holdout_spans": 0}, "holdout_spans: got 0"),
            ({"schema": None}, "schema: got none, required for the columns word"),
        ),
        last=("buffer", "sample.json"),
    ),
    "forget": Case(
        Forget,
        lambda _, material: {
            "base_buffer": material.buffer,
            "schema": material.schema,
            "where": "word = 'b'",
            "reason": "they asked",
        },
        reads=("base_buffer", "schema"),
        wrong=(
            ({"where": ""}, "spans: got none, where: got none"),
            ({"spans": [1]}, "spans: got [1], where: got word = 'b'"),
            ({"where": "word ="}, "expression 'word =' cannot be read"),
            ({"schema": None}, "schema: got none"),
        ),
        last=("buffer", "sample.json"),
    ),
    "transform": Case(
        Transform,
        transform,
        reads=("schema", "statistics", "base_graph"),
        wrong=(({"policy": {"policy": "keep"}}, "policy"), ({"module": "no.such"}, "there is no module")),
        last=("transform_graph", "policy.json"),
    ),
    "remember": Case(
        Remember,
        lambda _, material: {"buffer": material.buffer, "model": material.model},
        reads=("buffer", "model"),
        wrong=(),
        last=("remembered", "sample.json"),
    ),
    "edge": Case(
        Edge,
        lambda _, material: {
            "model": material.model,
            "buffer": material.buffer,
            "quantization": "float16",
            "examples": 20,
            "max_difference": 0.1,
            "max_drop": 0.1,
            "columns": ["x"],
            "label": "big",
            "task": "binary",
            "metric": "auc",
            "relative": False,
            "max_seconds": 100.0,
            "max_memory_mb": 4000,
        },
        reads=("model", "buffer"),
        wrong=(({"quantization": "int4"}, "edge.quantization: got 'int4', expected one of none"),),
        last=("edge", EDGE_FILE),
        measured=frozenset({"latency_ms"}),
    ),
    "smoke": Case(
        Smoke,
        lambda _, material: {"model": material.model, "max_seconds": 100.0, "max_memory_mb": 4000},
        reads=("model",),
        wrong=(({"max_latency_ms": 0.0}, "smoke.max_latency_ms: got 0.0, required is more than 0"),),
        last=("infra_blessing", SMOKE_FILE),
        measured=frozenset({"latency_ms", "load_seconds", "first_request_ms"}),
    ),
    "gate": Case(
        Gate,
        gate,
        reads=("evaluation", "smoke", "edge", "base_record"),
        wrong=(
            ({"gates": {"auk": {}}}, "gates: got 'auk', expected one of auc"),
            ({"gates": {"auc": {"min": 0.5}}}, "gates.auc: got 'min', expected one of min_value"),
        ),
        last=("blessing", "verdict.json"),
    ),
    "register": Case(
        Register,
        register,
        reads=(
            "model",
            "transform_graph",
            "statistics",
            "buffer",
            "schema",
            "evaluation",
            "decision",
            "blessing",
            "edge",
        ),
        wrong=(({"files": {}}, "files: got none"), ({"kind": "copy"}, "kind: got 'copy', expected")),
        state=registered_versions,
        last=("version", "record.json"),
    ),
    # Of the version it takes the number, and the model that it copies.
    "push": Case(Push, push, reads=("model",), wrong=(({"base": None}, "base"),), state=served),
    # The alias moves to a number: the folders of its inputs hold nothing that it reads.
    "promote": Case(Promote, promote, reads=(), wrong=(({"name": 3}, "name"),), state=registered_versions),
}
