"""The fold over the data: next version = retrain(served version, new spans), until nothing is new."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import RetrainError
from components.features import to_json
from components.label import LabelState
from components.promote.registry import ARTIFACTS, Registry, Version
from components.train.state import TrainingState
from pipeline.champion import open_registry, sync_serving
from pipeline.config import Deployment, schema
from pipeline.spans import pattern, plan
from pipeline.spans.find import find_spans
from pipeline.spans.late import Late, changed_since, digest, find_late, identify

if TYPE_CHECKING:
    from pipeline.graph import Run

STAGES = {
    "schema": "reading the schema",
    "ingest": "ingesting",
    "statistics": "computing statistics",
    "anomalies": "validating",
    "drift": "measuring drift",
    "decide": "deciding",
    "forget": "leaving out what is learned again",
    "replay": "updating the replay buffer",
    "transform": "fitting the transform graph",
    "train": "training",
    "evaluate": "evaluating against the champion",
    "gate": "judging",
    "register": "registering",
    "push": "pushing",
    "promote": "promoting",
}


@dataclass(frozen=True)
class Outcome:
    """What one run came to.

    Attributes:
        spans: the spans looked at.
        label: these spans for a person, with the dates that they stand for.
        dates: of each span; empty where spans are numbers.
        files: their files' names.
        decision: `decision.json` of the decide stage.
        version: what was registered; None where nothing was trained.
        parent: the version that the run started from; None: a cold start.
        warm_start: whether the parent's weights were the start.
        verdict: `verdict.json` of the gate; None where nothing was trained.
        served: the version served after the run.
        seconds: stage -> its duration.
        log: what libraries printed.
    """

    spans: tuple[int, ...]
    label: str
    dates: tuple[str, ...]
    files: tuple[str, ...]
    decision: Mapping[str, Any]
    version: int | None
    parent: int | None
    warm_start: bool
    verdict: Mapping[str, Any] | None
    served: int | None
    seconds: Mapping[str, float]
    log: str

    @property
    def action(self) -> str:
        return str(self.decision["action"])

    @property
    def blessed(self) -> bool | None:
        return None if self.verdict is None else bool(self.verdict["blessed"])

    def to_json(self) -> dict[str, Any]:
        """One line of `retrain run --json`."""
        verdict = self.verdict or {"candidate": None, "champion": None, "reasons": [], "checks": []}
        return {
            "span": self.spans[-1],
            "spans": list(self.spans),
            "dates": list(self.dates),
            "files": list(self.files),
            "decision": self.action,
            "reasons": self.decision["reasons"],
            "rows": self.decision["rows"],
            "drift": self.decision["drift"],
            "version": self.version,
            "parent": self.parent,
            "warm_start": self.warm_start,
            "blessed": self.blessed,
            "gate": verdict["reasons"],
            "checks": verdict["checks"],
            "served": self.served,
            "metrics": by_age(verdict["candidate"], self.spans),
            "baseline_metrics": by_age(verdict["champion"], self.spans),
            "seconds": {**self.seconds, "total": round(sum(self.seconds.values()), 2)},
            "log": self.log,
        }


def by_age(metrics: Mapping[str, Any] | None, new: tuple[int, ...]) -> dict[str, Any] | None:
    """Metrics by slice, sorted into `overall`, `new` and `past` spans (by number), and `slices`."""
    if metrics is None:
        return None
    sorted_in: dict[str, Any] = {"overall": metrics.get("overall"), "new": {}, "past": {}, "slices": {}}
    for name, values in metrics.items():
        if name.startswith("span=") and "," not in name:
            span = name.removeprefix("span=")
            sorted_in["new" if int(span) in new else "past"][span] = values
        elif name != "overall":
            sorted_in["slices"][name] = values
    return sorted_in


@dataclass
class Learner:
    """Learns what is pending, one run at a time.

    Attributes:
        deployment: the configuration.
        forced: train whatever the triggers say.
        retry: learn spans that were set aside, too.
        until: the last span to learn.
        together: all pending spans in one run.
        span: only this one, whatever the triggers say; spans before it stay pending.
        again: learn `span` although it is learned, if its files have changed.
        check: only look, up to the decision.
        on_stage: told what begins.
        log_to: told the log of the run that begins; sends what libraries print there.
        left_out: span -> why it is not learned, as `waiting` last found it.
    """

    deployment: Deployment
    forced: bool = False
    retry: bool = False
    until: int | None = None
    together: bool = False
    span: int | None = None
    again: bool = False
    check: bool = False
    on_stage: Callable[[str], None] = lambda _: None
    log_to: Callable[[Path], None] = lambda _: None
    left_out: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._schema = schema.read_schema(self.deployment.schema_path)
        schema.check_schema(self.deployment, self._schema)
        self._registry: Registry = open_registry(self.deployment)
        self._pattern = pattern.parse(self.deployment.data.pattern)

    def waiting(self) -> tuple[int, ...]:
        """The spans to learn. Imports nothing heavy, and changes nothing.

        Raises:
            RetrainError: `span` is not on disk, or is learned and has changed, and `again` was not said.
        """
        on_disk = find_spans(self.deployment.data)
        champion, versions = self._registry.champion(), self._registry.versions()
        found = plan.pending(on_disk, champion, versions, self.retry, self.until)
        if self.span is None:
            self.left_out = found.set_aside
            return found.spans
        self.left_out = {span: why for span, why in found.set_aside.items() if span == self.span}
        if self.span not in on_disk:
            first_last = self._pattern.label([min(on_disk), max(on_disk)]) if on_disk else "none"
            raise RetrainError(
                f"--span {self.span}: there is no such span in {self.deployment.data.path} (as "
                f"{self._pattern.text}; the first and the last are {first_last})"
            )
        known = plan.learned(versions, champion)
        changed = (
            self.forced
            or self.span not in known
            or changed_since(self.deployment, self.span, known[self.span], on_disk[self.span])
        )
        return plan.asked_for(self.span, known, found, self.again, changed)

    def late(self) -> list[Late]:
        """The spans that differ from what was learned, or came too late; they wait to be asked for."""
        on_disk = find_spans(self.deployment.data)
        return find_late(self.deployment, on_disk, self._registry.champion(), self._registry.versions())

    def outcomes(self) -> Iterator[Outcome]:
        """Learns until nothing is pending; each run starts from what is served then.

        Raises:
            RetrainError: a run could not be done; what was learned before it stays.
        """
        skipped, refused_by_gate = 0, frozenset[int]()
        while True:
            waiting = [span for span in self.waiting() if span not in refused_by_gate]
            if len(waiting) <= skipped:
                return
            spans = plan.next_run(waiting, skipped, self.together)
            outcome = self._run(spans)
            yield outcome
            if self.check or self.together or self.span is not None or outcome.action == "refuse":
                return
            if outcome.action == "train":
                skipped = 0
                if not outcome.blessed:
                    refused_by_gate |= frozenset(spans)
            else:
                skipped += 1

    def _run(self, spans: tuple[int, ...]) -> Outcome:
        log = new_log(self.deployment.state, f"{'check' if self.check else 'run'}-span-{spans[-1]}")
        self.log_to(log)
        self.on_stage("starting")
        from pipeline import graph, runner

        deployment = self.deployment
        complete = schema.complete_schema(deployment, self._schema)
        run = self._plan(spans, schema.write_schema(complete, deployment.state / "schemas"))
        _check_artifacts(run.base)
        label = f"span{'s' * (len(spans) > 1)} {self._pattern.label(spans)}"
        watch = runner.Watch(lambda stage: self.on_stage(f"{label}: {STAGES.get(stage, 'starting')}"))
        connection = runner.metadata_connection(deployment.state, deployment.engine.metadata)
        pipeline = graph.build(
            deployment, run, complete, runner.job_args(deployment.engine.beam_args), connection
        )
        runner.execute(pipeline, watch, log)
        return self._outcome(run, runner.Results(connection, watch.run_id), watch.seconds, log)

    def _plan(self, spans: tuple[int, ...], schema_file: Path) -> Run:
        from components.replay.component import read_meta
        from pipeline.graph import Run

        base, versions = self._registry.champion(), self._registry.versions()
        root, on_disk = self.deployment.data.path, find_spans(self.deployment.data)
        paths = {span: self._files(span, on_disk[span]) for span in spans}
        files = {span: identify(root, found) for span, found in paths.items()}
        known = plan.learned(versions, base)
        waiting = plan.pending(on_disk, base, versions, retry=False, until=None).spans
        held_out = read_meta(base.uris["buffer"])["eval"] if base else {}
        return Run(
            spans=paths,
            files=files,
            base=base,
            past_spans=tuple(span for span in map(int, held_out) if span not in spans),
            again=tuple(span for span in spans if span in known),
            newest=all(span <= spans[-1] for span in known),
            watermark=plan.watermark(base, known, spans, waiting),
            schema_file=schema_file,
            fingerprint=digest(files),
            # A span that a person names is learned: to be named is the reason.
            forced=self.forced or self.span is not None,
            train=not self.check,
        )

    def _files(self, span: int, files: list[Path]) -> list[Path]:
        if not files:
            raise RetrainError(
                f"span {self._pattern.label([span])} is empty: it has no file as {self._pattern.text} in "
                f"{self.deployment.data.path}. Put its files there, or remove its folder"
            )
        return files

    def _outcome(self, run: Any, results: Any, seconds: Mapping[str, float], log: Path) -> Outcome:
        decision = results.read("Decision", "decision.json")
        registered = results.artifact("RegisteredVersion")
        version = registered.properties["version"].int_value if registered else None
        stages = {name: took for name, took in seconds.items() if not name.startswith("base_")}
        if version is not None:
            self._registry.tag(version, seconds=json.dumps(stages))
        champion = self._registry.champion()
        sync_serving(self.deployment, champion)
        return Outcome(
            spans=tuple(run.spans),
            label=self._pattern.label(tuple(run.spans)),
            dates=tuple(filter(None, map(self._pattern.date, run.spans))),
            files=tuple(file.name for files in run.spans.values() for file in files),
            decision=decision,
            version=version,
            parent=run.base.number if run.base else None,
            warm_start=run.base is not None and version is not None and self.deployment.warm_start.enabled,
            verdict=results.read("ModelBlessing", "verdict.json") if version is not None else None,
            served=champion.number if champion else None,
            seconds=stages,
            log=str(log),
        )


def _wanted(deployment: Deployment) -> TrainingState:
    """What a version of this configuration would know; without what only its data can tell."""
    return TrainingState(
        features=to_json(deployment.preprocessing.specs()),
        model=deployment.model.model_dump(),
        optimizer=deployment.training.optimizer,
        vocabularies={},
        step=0,
        task=deployment.label.task,
        label=LabelState(log=deployment.label.log).model_dump(),
    )


def _check_artifacts(base: Version | None) -> None:
    if base is None:
        return
    gone = [f"{name} ({base.uris[name]})" for name in ARTIFACTS if not Path(base.uris[name]).is_dir()]
    if gone:
        raise RetrainError(
            f"version {base.number} is served, but not whole: missing {', '.join(gone)}. Restore the "
            "folders, or serve a version that is whole (`retrain history`, `retrain promote VERSION`)"
        )


def new_log(state: Path, command: str) -> Path:
    """The file for what libraries print during one run."""
    return state / "logs" / f"{time.strftime('%Y%m%d-%H%M%S')}-{command}.log"
