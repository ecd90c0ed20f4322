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
from tfx.dsl.components.common.importer import Importer
from tfx.dsl.experimental.conditionals.conditional import Cond
from tfx.orchestration.pipeline import Pipeline
from tfx.proto import distribution_validator_pb2, trainer_pb2
from tfx.types import channel_utils, standard_artifacts

from components import features
from components.artifacts import RegisteredVersion
from components.edge.component import Edge
from components.evaluate.component import Gate, eval_config
from components.ingest.component import Ingest
from components.promote.component import Promote, Register, RegisterSpec
from components.promote.registry import Version
from components.push.component import Push
from components.replay.component import Replay
from components.replay.forget import Forget
from components.replay.logic import Scheme
from components.replay.logits import Remember
from components.smoke.component import Smoke
from components.train.model.state import load_state
from components.transform.component import Transform
from components.validate.component import Decide
from components.validate.logic import comparators
from pipeline.champion import stable_pool
from pipeline.config import Deployment, sections

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
        attempt: which one it is, and the replay ratios so far; None: there is to be no second one.
        shadow: spans of the champion's line that are left out -> why, where this is a run from scratch on
            the others; None: it is none.
        reference_labels: how the labels of the newest span learned are distributed; None: not known.
        released: those of `spans` that the checks for poison pass over.
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
    attempt: Mapping[str, Any] | None = None
    shadow: Mapping[int, str] | None = None
    reference_labels: Mapping[str, Any] | None = None
    released: tuple[int, ...] = ()

    @property
    def start(self) -> Version | None:
        """What is learned on top of; None: nothing, as at a cold start."""
        return self.base if self.shadow is None else None

    def is_challenged(self, deployment: Deployment) -> bool:
        """Whether a blessed version must earn the champion's place on requests, before it is promoted."""
        return self.base is not None and deployment.serving.canary is not None


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
    # What a shadow learns is known to the champion: neither drift nor trigger has a say in it.
    nodes = base | look(deployment, run, schema, base if run.start else {})
    if run.train:
        with Cond(nodes["decide"].outputs["decision"].future()[0].property("train") == 1):
            nodes |= learn(deployment, run, nodes)
            if run.shadow is None and not run.is_challenged(deployment):
                with Cond(nodes["gate"].outputs["blessing"].future()[0].custom_property("blessed") == 1):
                    model, version = nodes["train"].outputs["model"], nodes["register"].outputs["version"]
                    nodes |= promote(deployment, model, version)
    return _pipeline(deployment, nodes, beam_args, metadata)


def build_forget(
    deployment: Deployment, base: Version, where: str, reason: str, beam_args: Sequence[str], metadata: Any
) -> Pipeline:
    """Wires what makes a version that is the champion without some rows of its buffer, and serves it.

    Args:
        deployment: the configuration.
        base: the champion.
        where: which rows.
        reason: kept with the buffer.
        beam_args, metadata: as of `build`.
    """
    kept = {name: channel for name, channel in RegisterSpec.INPUTS.items() if name in base.uris}
    nodes: dict[str, Any] = {
        f"base_{name}": Importer(
            base.uris[name],
            channel.type,
            properties={"split_names": SPLITS} if name in ("statistics", "buffer") else None,
        ).with_id(f"base_{name}")
        for name, channel in kept.items()
    }
    same = {name: nodes[f"base_{name}"].outputs["result"] for name in kept}
    forget = Forget(base_buffer=same["buffer"], where=where, reason=reason, schema=same["schema"]).with_id(
        "forget"
    )
    register = Register(
        uri=deployment.registry_uri,
        name=deployment.registry_name,
        model_artifacts=deployment.registry_artifacts,
        files={},
        fingerprint="",
        watermark=base.watermark,
        parent=base.number,
        kind="forget",
        **{**same, "buffer": forget.outputs["buffer"]},
    ).with_id("register")
    nodes |= {"forget": forget, "register": register}
    nodes |= promote(deployment, same["model"], register.outputs["version"])
    return _pipeline(deployment, nodes, beam_args, metadata)


def _pipeline(
    deployment: Deployment, nodes: Mapping[str, Any], beam_args: Sequence[str], metadata: Any
) -> Pipeline:
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
        "base_graph": Importer(base.uris["transform_graph"], standard_artifacts.TransformGraph).with_id(
            "base_graph"
        ),
        "base_record": Importer(base.uris["record"], RegisteredVersion).with_id("base_record"),
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
        max_label_shift=deployment.poisoning.max_label_shift,
        max_duplicates=deployment.poisoning.max_duplicates,
        reference_labels=run.reference_labels,
        released=run.released,
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
    """(forget) - replay - transform - train - (remember) - (edge) - evaluate - smoke - gate - register."""
    path = dict(nodes)
    new, remembered = nodes["ingest"].outputs["examples"], _remembered(run, nodes)
    if run.again and remembered:
        path["forget"] = Forget(base_buffer=remembered, spans=run.again).with_id("forget")
        remembered = path["forget"].outputs["buffer"]
    everything = channel_utils.union([new, remembered]) if remembered else new
    to_learn = everything if run.start else new
    path["replay"] = _replay(deployment, run, nodes, remembered)
    path["transform"] = _transform(deployment, run, nodes, to_learn)
    path["train"] = _train(deployment, run, path, to_learn)
    buffer = path["replay"].outputs["buffer"]
    if deployment.regularization.dark_experience:
        path["remember"] = Remember(buffer=buffer, model=path["train"].outputs["model"]).with_id("remember")
        buffer = path["remember"].outputs["remembered"]
    if deployment.edge:
        path["edge"] = _edge(deployment, deployment.edge, path)
    path["evaluate"] = _evaluate(deployment, run, path, everything)
    path["smoke"] = _smoke(deployment, path)
    path["gate"] = _gate(deployment, run, path)
    path["register"] = _register(deployment, run, path, buffer)
    return {name: node for name, node in path.items() if name not in nodes}


def _remembered(run: Run, nodes: Mapping[str, Any]) -> Any:
    """The champion's buffer; None where there is none, or a shadow goes without it."""
    # A shadow goes without what the champion remembers, save of spans that it does not learn itself.
    keeps = run.base and (run.start or run.past_spans)
    return nodes["base_buffer"].outputs["result"] if keeps else None


def _train(deployment: Deployment, run: Run, nodes: Mapping[str, Any], examples: Any) -> Trainer:
    return Trainer(
        run_fn="components.train.trainer.run_fn",
        examples=examples,
        transform_graph=nodes["transform"].outputs["transform_graph"],
        schema=nodes["schema"].outputs["schema"],
        base_model=nodes["base_model"].outputs["result"] if run.start else None,
        train_args=trainer_pb2.TrainArgs(splits=[TRAIN_SPLIT]),
        eval_args=trainer_pb2.EvalArgs(splits=[EVAL_SPLIT]),
        custom_config={
            "features": features.to_json(deployment.preprocessing.specs()),
            "label": deployment.label.model_dump(),
            "columns": deployment.columns,
            "model": deployment.model.model_dump(),
            "training": deployment.training.model_dump(),
            "warm_start": deployment.warm_start.model_dump(),
            "replay": {"ratio": deployment.replay.ratio},
            "regularization": deployment.regularization.model_dump(),
            "poisoning": deployment.poisoning.model_dump(),
            "smoke": {"examples": deployment.smoke.examples},
            "new_spans": list(run.spans),
            "resume_dir": str(deployment.state / "training"),
        },
    ).with_id("train")


def _evaluate(deployment: Deployment, run: Run, nodes: Mapping[str, Any], examples: Any) -> Evaluator:
    return Evaluator(
        examples=examples,
        example_splits=[EVAL_SPLIT],
        schema=nodes["schema"].outputs["schema"],
        model=nodes["train"].outputs["model"],
        baseline_model=nodes["base_model"].outputs["result"] if run.base else None,
        eval_config=eval_config(
            deployment.label, deployment.gate_metrics, deployment.slices, baseline=run.base is not None
        ),
    ).with_id("evaluate")


def _edge(deployment: Deployment, settings: sections.Edge, nodes: Mapping[str, Any]) -> Edge:
    metric, gate = next(iter(deployment.gate_metrics.items()))
    return Edge(
        model=nodes["train"].outputs["model"],
        buffer=nodes["replay"].outputs["buffer"],
        columns=deployment.columns,
        label=deployment.label.name,
        task=deployment.label.task,
        metric=metric,
        relative=gate.relative,
        **settings.model_dump(exclude={"required"}),
    ).with_id("edge")


def _smoke(deployment: Deployment, nodes: Mapping[str, Any]) -> Smoke:
    limits = deployment.smoke.model_dump(exclude={"examples"})  # which the trainer has chosen
    return Smoke(model=nodes["train"].outputs["model"], **limits).with_id("smoke")


def _replay(deployment: Deployment, run: Run, nodes: Mapping[str, Any], base: Any) -> Replay:
    settings = deployment.replay
    by = settings.by or [deployment.label.name]
    return Replay(
        examples=nodes["ingest"].outputs["examples"],
        base_buffer=base,
        capacity=settings.capacity,
        holdout_per_span=settings.holdout_per_span,
        holdout_capacity=settings.holdout_capacity,
        holdout_spans=deployment.holdout_spans,
        new_spans=list(run.spans),
        seed=settings.seed,
        scheme=Scheme.of(settings.scheme, by, settings.half_life),
        schema=nodes["schema"].outputs["schema"],
    ).with_id("replay")


def _transform(deployment: Deployment, run: Run, nodes: Mapping[str, Any], examples: Any) -> Transform:
    warm = run.start if deployment.warm_start.enabled else None
    # What a warm start goes on with: the outputs of the champion keep their meaning.
    champion = load_state(Path(warm.uris["model"]) / "checkpoint") if warm else None
    model = deployment.model
    # What no dense layer of the model's own takes up, so that another scale could be folded into it.
    unfolded = {"custom": ("numeric", "tensor"), "cnn": ("tensor",)}.get(model.type, ())
    specs = features.to_json(deployment.preprocessing.specs())
    kept = {
        spec["name"]: champion.fit[spec["type"]][spec["name"]]
        for spec in specs
        if champion and spec["type"] in unfolded and spec in champion.features
    }
    return Transform(
        examples=examples,
        schema=nodes["schema"].outputs["schema"],
        statistics=nodes["statistics"].outputs["statistics"],
        features=specs,
        label=deployment.label.model_dump(),
        label_state=champion.label if champion else None,
        module=getattr(model, "module", None),
        kept=kept,
        policy=deployment.transform.model_dump(),
        base_graph=nodes["base_graph"].outputs["result"] if warm else None,
    ).with_id("transform")


def _gate(deployment: Deployment, run: Run, nodes: Mapping[str, Any]) -> Gate:
    return Gate(
        evaluation=nodes["evaluate"].outputs["evaluation"],
        model=nodes["train"].outputs["model"],
        smoke=nodes["smoke"].outputs["infra_blessing"],
        edge=nodes["edge"].outputs["edge"] if deployment.edge and deployment.edge.required else None,
        gates={metric: gate.model_dump() for metric, gate in deployment.gate_metrics.items()},
        new_spans=list(run.spans),
        past_spans=run.past_spans,
        again=run.again,
        min_examples=deployment.gates.min_examples,
        baseline=run.base is not None,
        task=deployment.label.task,
        base_record=nodes["base_record"].outputs["result"] if run.base else None,
        max_influence=deployment.poisoning.max_influence,
        shadow=run.shadow is not None,
    ).with_id("gate")


def _register(deployment: Deployment, run: Run, nodes: Mapping[str, Any], buffer: Any) -> Register:
    return Register(
        uri=deployment.registry_uri,
        name=deployment.registry_name,
        model_artifacts=deployment.registry_artifacts,
        files=run.files,
        fingerprint=run.fingerprint,
        watermark=run.watermark,
        parent=run.base.number if run.base else None,
        kind="run" if run.shadow is None else "shadow",
        attempt=run.attempt,
        shadow=run.shadow,
        model=nodes["train"].outputs["model"],
        transform_graph=nodes["transform"].outputs["transform_graph"],
        # What the drift of the next span is measured against: the statistics of the newest one.
        statistics=nodes["statistics"].outputs["statistics"]
        if run.newest
        else nodes["base_statistics"].outputs["result"],
        buffer=buffer,
        schema=nodes["schema"].outputs["schema"],
        evaluation=nodes["evaluate"].outputs["evaluation"],
        decision=nodes["decide"].outputs["decision"],
        blessing=nodes["gate"].outputs["blessing"],
        **({"edge": nodes["edge"].outputs["edge"]} if deployment.edge else {}),
    ).with_id("register")


def promote(deployment: Deployment, model: Any, version: Any) -> dict[str, Any]:
    """push - promote: the alias moves last, when the servers have confirmed the version."""
    pool = stable_pool(deployment)
    push = Push(
        model=model,
        version=version,
        base=str(deployment.base_path),
        pool=pool.model_dump_json() if pool else "",
    ).with_id("push")
    alias = Promote(
        version=version,
        pushed=push.outputs["pushed"],
        uri=deployment.registry_uri,
        name=deployment.registry_name,
    ).with_id("promote")
    return {"push": push, "promote": alias}
