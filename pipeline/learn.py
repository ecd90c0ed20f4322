"""The fold over the data: next version = retrain(served version, new spans), until nothing is new."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.errors import RetrainError
from components.promote.registry import ARTIFACTS, Registry, Version
from pipeline import plan, schema
from pipeline.champion import open_registry, sync_serving
from pipeline.config import Deployment

STAGES = {
    "schema": "reading the schema",
    "ingest": "ingesting",
    "statistics": "computing statistics",
    "anomalies": "validating",
    "drift": "measuring drift",
    "decide": "deciding",
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
    check: bool = False
    on_stage: Callable[[str], None] = lambda _: None
    log_to: Callable[[Path], None] = lambda _: None
    left_out: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._schema = schema.read_schema(self.deployment.schema_path)
        schema.check_schema(self.deployment, self._schema)
        self._registry: Registry = open_registry(self.deployment)

    def waiting(self) -> tuple[int, ...]:
        """The spans to learn. Imports nothing heavy, and changes nothing."""
        found = plan.pending(
            plan.find_spans(self.deployment.data),
            self._registry.champion(),
            self._registry.versions(),
            self.retry,
            self.until,
        )
        self.left_out = found.set_aside
        return found.spans

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
            if self.check or self.together or outcome.action == "refuse":
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
        from components.ingest.fingerprint import fingerprint
        from components.replay.component import read_meta
        from pipeline import graph, runner

        deployment = self.deployment
        base = self._registry.champion()
        on_disk = plan.find_spans(deployment.data)
        files = {span: self._files(span, on_disk[span]) for span in spans}
        complete = schema.complete_schema(deployment, self._schema)
        run = graph.Run(
            spans=files,
            base=base,
            past_spans=tuple(map(int, read_meta(base.uris["buffer"])["eval"])) if base else (),
            schema_file=schema.write_schema(complete, deployment.state / "schemas"),
            fingerprint=fingerprint(str(file) for group in files.values() for file in group),
            forced=self.forced,
            train=not self.check,
        )
        _check_artifacts(base)
        label = f"span {spans[0]}" if len(spans) == 1 else f"spans {spans[0]}-{spans[-1]}"
        watch = runner.Watch(lambda stage: self.on_stage(f"{label}: {STAGES.get(stage, 'starting')}"))
        connection = runner.metadata_connection(deployment.state, deployment.engine.metadata)
        pipeline = graph.build(
            deployment, run, complete, runner.job_args(deployment.engine.beam_args), connection
        )
        runner.execute(pipeline, watch, log)
        return self._outcome(run, runner.Results(connection, watch.run_id), watch.seconds, log)

    def _files(self, span: int, files: list[Path]) -> list[Path]:
        if not files:
            where = self.deployment.data.path / self.deployment.data.pattern.replace("{SPAN}", str(span))
            raise RetrainError(
                f"span {span} is empty: nothing matches {where}. Put its files there, or remove its folder"
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
