"""The pipeline, in the order of the data: every node and what it is wired to; no computation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfx.components.distribution_validator.component import DistributionValidator
from tfx.components.evaluator.component import Evaluator
from tfx.components.example_validator.component import ExampleValidator
from tfx.components.schema_gen.import_schema_gen.component import ImportSchemaGen
from tfx.components.statistics_gen.component import StatisticsGen
from tfx.components.trainer.component import Trainer
from tfx.components.transform.component import Transform
from tfx.dsl.components.common.importer import Importer
from tfx.dsl.experimental.conditionals.conditional import Cond
from tfx.orchestration.pipeline import Pipeline
from tfx.proto import distribution_validator_pb2, trainer_pb2, transform_pb2
from tfx.types import channel_utils, standard_artifacts

from components import features
from components.evaluate.component import Gate, eval_config
from components.ingest.component import Ingest
from components.label import read_label_state
from components.promote.component import Promote, Register
from components.promote.registry import Version
from components.push.component import Push
from components.replay.component import Replay
from components.replay.forget import Forget
from components.validate.component import Decide
from components.validate.logic import comparators
from pipeline.config import Deployment

TRAIN_SPLIT, EVAL_SPLIT = "train", "eval"
SPLITS = '["train", "eval"]'


@dataclass(frozen=True)
class Run:
    """One run, decided before anything starts: what is learned, and what it starts from.

    Attributes:
        spans: span -> its files.
        files: span -> its files' names -> what is known of them, for the version's record.
        base: the champion; None: a cold start.
        past_spans: the other spans that the champion's buffer holds out examples of.
        again: those of `spans` that the champion's line has learned before.
        newest: the champion's line has learned no later span.
        watermark: of the version that this run makes.
        schema_file: of the examples, as `pipeline.config.schema.complete_schema` gives it.
        fingerprint: of the files' content.
        forced: train whatever the triggers say.
        train: False: only look, up to the decision.
    """

    spans: Mapping[int, Sequence[Path]]
    files: Mapping[int, Mapping[str, Any]]
    base: Version | None
    past_spans: tuple[int, ...]
    again: tuple[int, ...]
    newest: bool
    watermark: int
    schema_file: Path
    fingerprint: str
    forced: bool = False
    train: bool = True


# A node has its id before anything is wired to it: a Cond remembers the id that it saw, and a
# condition over a name that came later is neither true nor false.


def build(deployment: Deployment, run: Run, schema: Any, beam_args: Sequence[str], metadata: Any) -> Pipeline:
    """Wires one run.

    Args:
        deployment: the configuration.
        run: what to learn and from where.
        schema: the content of `run.schema_file`.
        beam_args: options of the Beam jobs inside the stages.
        metadata: ML Metadata's connection.
    """
    base = import_base(run.base)
    nodes = base | look(deployment, run, schema, base)
    if run.train:
        with Cond(nodes["decide"].outputs["decision"].future()[0].property("train") == 1):
            nodes |= learn(deployment, run, nodes)
            with Cond(nodes["gate"].outputs["blessing"].future()[0].custom_property("blessed") == 1):
                nodes |= promote(deployment, nodes)
    return Pipeline(
        pipeline_name=deployment.name,
        pipeline_root=str(deployment.state / "artifacts"),
        components=list(nodes.values()),
        enable_cache=True,
        metadata_connection_config=metadata,
        beam_pipeline_args=list(beam_args),
    )


def import_base(base: Version | None) -> dict[str, Any]:
    """What a run reads of the champion: named by the registry, never "the latest artifact"."""
    if base is None:
        return {}
    return {
        "base_model": Importer(base.uris["model"], standard_artifacts.Model).with_id("base_model"),
        "base_statistics": Importer(
            base.uris["statistics"], standard_artifacts.ExampleStatistics, properties={"split_names": SPLITS}
        ).with_id("base_statistics"),
        "base_buffer": Importer(
            base.uris["buffer"], standard_artifacts.Examples, properties={"split_names": SPLITS}
        ).with_id("base_buffer"),
    }


def look(deployment: Deployment, run: Run, schema: Any, base: Mapping[str, Any]) -> dict[str, Any]:
    """ingest - statistics - validate - decide."""
    import_schema = ImportSchemaGen(str(run.schema_file)).with_id("schema")
    the_schema = import_schema.outputs["schema"]
    ingest = Ingest(
        schema=the_schema,
        spans=json.dumps(
            [{"span": span, "files": [str(f) for f in files]} for span, files in run.spans.items()]
        ),
        label=deployment.label.model_dump_json(),
        eval_share=deployment.data.eval_share,
        max_quarantine_share=deployment.data.max_quarantine_share,
        fingerprint=run.fingerprint,
        quarantine_dir=str(deployment.state / "quarantine"),
    ).with_id("ingest")
    statistics = StatisticsGen(examples=ingest.outputs["examples"], schema=the_schema).with_id("statistics")
    anomalies = ExampleValidator(statistics=statistics.outputs["statistics"], schema=the_schema).with_id(
        "anomalies"
    )
    nodes = {"schema": import_schema, "ingest": ingest, "statistics": statistics, "anomalies": anomalies}
    if base and comparators(schema):
        nodes["drift"] = DistributionValidator(
            statistics=statistics.outputs["statistics"],
            baseline_statistics=base["base_statistics"].outputs["result"],
            config=_drift_config(schema),
            include_split_pairs=[(TRAIN_SPLIT, TRAIN_SPLIT)],
        ).with_id("drift")
    nodes["decide"] = Decide(
        schema=the_schema,
        quarantine=ingest.outputs["quarantine"],
        anomalies=anomalies.outputs["anomalies"],
        drift=nodes["drift"].outputs["anomalies"] if "drift" in nodes else None,
        cold_start=run.base is None,
        forced=run.forced,
        on_drift=deployment.trigger.on_drift,
        min_rows=deployment.trigger.min_rows,
        severity=deployment.drift.severity,
    ).with_id("decide")
    return nodes


def _drift_config(schema: Any) -> distribution_validator_pb2.DistributionValidatorConfig:
    """The schema's drift comparators, in the form that DistributionValidator takes."""
    config = distribution_validator_pb2.DistributionValidatorConfig()
    for name, comparator in comparators(schema).items():
        feature = config.default_slice_config.feature.add()
        feature.path.step.append(name)
        feature.distribution_comparator.CopyFrom(comparator)
    return config


def learn(deployment: Deployment, run: Run, nodes: Mapping[str, Any]) -> dict[str, Any]:
    """(forget) - replay - transform - train - evaluate - gate - register."""
    new = nodes["ingest"].outputs["examples"]
    remembered = nodes["base_buffer"].outputs["result"] if run.base else None
    learned: dict[str, Any] = {}
    if run.again:
        learned["forget"] = Forget(base_buffer=remembered, spans=run.again).with_id("forget")
        remembered = learned["forget"].outputs["buffer"]
    all_examples = channel_utils.union([new, remembered]) if remembered else new
    schema = nodes["schema"].outputs["schema"]
    task = {
        "features": features.to_json(deployment.preprocessing.specs()),
        "label": deployment.label.model_dump(),
    }
    # What a warm start goes on with: the outputs of the champion keep their meaning.
    label_state = (
        read_label_state(run.base.uris["model"]) if run.base and deployment.warm_start.enabled else None
    )
    replay = Replay(
        examples=new,
        base_buffer=remembered,
        capacity=deployment.replay.capacity,
        holdout_per_span=deployment.replay.holdout_per_span,
        seed=deployment.replay.seed,
    ).with_id("replay")
    transform = Transform(
        examples=all_examples,
        schema=schema,
        preprocessing_fn="components.transform.preprocessing.preprocessing_fn",
        custom_config={
            **task,
            "label_state": label_state.model_dump() if label_state else None,
            "module": getattr(deployment.model, "module", None),
        },
        splits_config=transform_pb2.SplitsConfig(analyze=[TRAIN_SPLIT]),
        # The trainer applies the graph itself: statistics and a second copy of the data serve no one.
        materialize=False,
        disable_statistics=True,
        disable_analyzer_cache=True,
    ).with_id("transform")
    trainer = Trainer(
        run_fn="components.train.trainer.run_fn",
        examples=all_examples,
        transform_graph=transform.outputs["transform_graph"],
        schema=schema,
        base_model=nodes["base_model"].outputs["result"] if run.base else None,
        train_args=trainer_pb2.TrainArgs(splits=[TRAIN_SPLIT]),
        eval_args=trainer_pb2.EvalArgs(splits=[EVAL_SPLIT]),
        custom_config={
            **task,
            "columns": deployment.columns,
            "model": deployment.model.model_dump(),
            "training": deployment.training.model_dump(),
            "warm_start": deployment.warm_start.model_dump(),
            "replay": {"ratio": deployment.replay.ratio},
            "new_spans": list(run.spans),
        },
    ).with_id("train")
    evaluator = Evaluator(
        examples=all_examples,
        example_splits=[EVAL_SPLIT],
        schema=schema,
        model=trainer.outputs["model"],
        baseline_model=nodes["base_model"].outputs["result"] if run.base else None,
        eval_config=eval_config(
            deployment.label, deployment.gate_metrics, deployment.slices, baseline=run.base is not None
        ),
    ).with_id("evaluate")
    gate = Gate(
        evaluation=evaluator.outputs["evaluation"],
        model=trainer.outputs["model"],
        examples=new,
        gates={metric: gate.model_dump() for metric, gate in deployment.gate_metrics.items()},
        new_spans=list(run.spans),
        past_spans=run.past_spans,
        min_examples=deployment.gates.min_examples,
        baseline=run.base is not None,
        columns=deployment.columns,
    ).with_id("gate")
    register = Register(
        uri=deployment.registry_uri,
        name=deployment.registry_name,
        model_artifacts=deployment.registry_artifacts,
        files=run.files,
        fingerprint=run.fingerprint,
        watermark=run.watermark,
        parent=run.base.number if run.base else None,
        model=trainer.outputs["model"],
        transform_graph=transform.outputs["transform_graph"],
        # What the drift of the next span is measured against: the statistics of the newest one.
        statistics=nodes["statistics"].outputs["statistics"]
        if run.newest
        else nodes["base_statistics"].outputs["result"],
        buffer=replay.outputs["buffer"],
        schema=schema,
        evaluation=evaluator.outputs["evaluation"],
        decision=nodes["decide"].outputs["decision"],
        blessing=gate.outputs["blessing"],
    ).with_id("register")
    return learned | {
        "replay": replay,
        "transform": transform,
        "train": trainer,
        "evaluate": evaluator,
        "gate": gate,
        "register": register,
    }


def promote(deployment: Deployment, nodes: Mapping[str, Any]) -> dict[str, Any]:
    """push - promote: the alias moves last."""
    version = nodes["register"].outputs["version"]
    push = Push(
        model=nodes["train"].outputs["model"], version=version, base=str(deployment.base_path)
    ).with_id("push")
    alias = Promote(
        version=version,
        pushed=push.outputs["pushed"],
        uri=deployment.registry_uri,
        name=deployment.registry_name,
    ).with_id("promote")
    return {"push": push, "promote": alias}
