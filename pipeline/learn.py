"""The fold over the data: next version = retrain(served version, new spans), until nothing is new."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import RetrainError
from components.features import to_json
from components.label import LabelState
from components.promote.logic import RECORD_FILE
from components.promote.registry import ARTIFACTS, CHALLENGER, Registry, Version
from components.train.model.state import TrainingState, check_compatible, load_state
from pipeline import shadow
from pipeline.beam_args import job_args
from pipeline.champion import open_registry, promote, sync_serving
from pipeline.config import Deployment, schema
from pipeline.outcome import Outcome
from pipeline.release import still_released
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
    "remember": "keeping what the model says of the buffer",
    "edge": "making a TFLite model",
    "evaluate": "evaluating against the champion",
    "smoke": "asking the exported model",
    "gate": "judging",
    "register": "registering",
    "push": "pushing",
    "promote": "promoting",
}


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
        from_scratch: train a shadow: anew, on what the champion's line has learned.
        on_stage: told what begins.
        log_to: told the log of the run that begins; sends what libraries print there.
        left_out: span -> why it is not learned, as `waiting` last found it.
        changed: span -> how it differs from what was learned, of those that a shadow learns as they are now.
    """

    deployment: Deployment
    forced: bool = False
    retry: bool = False
    until: int | None = None
    together: bool = False
    span: int | None = None
    again: bool = False
    check: bool = False
    from_scratch: bool = False
    on_stage: Callable[[str], None] = lambda _: None
    log_to: Callable[[Path], None] = lambda _: None
    left_out: Mapping[int, str] = field(default_factory=dict)
    changed: Mapping[int, str] = field(default_factory=dict)
    _read: tuple[Version | None, Sequence[Version]] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self._schema = schema.read_schema(self.deployment.schema_path)
        schema.check_schema(self.deployment, self._schema)
        self._registry: Registry = open_registry(self.deployment)
        self._pattern = pattern.parse(self.deployment.data.pattern)

    def _known(self) -> tuple[Version | None, Sequence[Version]]:
        """The champion, and all versions: read once from one run to the next, as there may be thousands.

        Nobody else registers one meanwhile, as whoever goes through `outcomes` holds the deployment's lock.
        """
        if self._read is None:
            self._read = self._registry.champion(), self._registry.versions()
        return self._read

    def waiting(self) -> tuple[int, ...]:
        """The spans to learn. Imports nothing heavy, and changes nothing.

        Raises:
            RetrainError: `span` is not on disk, or is learned and has changed, and `again` was not said;
                there is nothing that a shadow could be held against, or nothing left that it could learn.
        """
        on_disk = find_spans(self.deployment.data)
        champion, versions = self._known()
        if self.from_scratch:
            return self._kept(on_disk, champion, versions)
        found = self._pending(on_disk, champion, versions, self.retry, self.until)
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

    def _kept(
        self, on_disk: Mapping[int, Sequence[Path]], champion: Version | None, versions: Sequence[Version]
    ) -> tuple[int, ...]:
        """What a shadow learns."""
        if champion is None:
            raise RetrainError(
                "--from-scratch: no version is served yet that it could be held against; `retrain run` "
                "makes the first one"
            )
        known = plan.learned(versions, champion)
        spans, self.left_out = shadow.to_learn(known, on_disk, self.deployment.shadow.window)
        if not spans:
            raise RetrainError(
                f"--from-scratch: no span that version {champion.number} has learned is on disk any more in "
                f"{self.deployment.data.path}"
            )
        self.changed = {late.span: late.describe(self._pattern) for late in self.late() if late.span in spans}
        return spans

    def challenger(self) -> Version | None:
        """The version under test: while there is one, nothing is learned, as nobody knows on top of what."""
        return self._registry.challenger() if self.deployment.serving.canary else None

    def late(self) -> list[Late]:
        """The spans that differ from what was learned, or came too late; they wait to be asked for."""
        on_disk = find_spans(self.deployment.data)
        champion, versions = self._known()
        after = self._pending(on_disk, champion, versions).late
        return find_late(self.deployment, on_disk, champion, versions, after)

    def _pending(
        self,
        on_disk: Iterable[int],
        champion: Version | None,
        versions: Sequence[Version],
        retry: bool = False,
        until: int | None = None,
    ) -> plan.Pending:
        quarantined, released = self._registry.quarantined(), self._registry.released()
        second = self.deployment.gates.retry_ratio is not None
        return plan.pending(on_disk, champion, versions, retry, until, quarantined, released, second)

    def outcomes(self) -> Iterator[Outcome]:
        """Learns until nothing is pending; each run starts from what is served then.

        Raises:
            RetrainError: a run could not be done; what was learned before it stays.
        """
        skipped, refused_by_gate = 0, frozenset[int]()
        while True:
            self._read = None  # what was read before the command had the lock, or before a run changed it
            waiting = [span for span in self.waiting() if span not in refused_by_gate]
            if len(waiting) <= skipped or (self.challenger() and not self.check):
                return
            spans = plan.next_run(waiting, skipped, self.together or self.from_scratch)
            outcome = self._run(spans)
            if outcome.action == "quarantine" and not self.check:
                guilty = self._quarantine(outcome)
                refused_by_gate |= guilty
                skipped = sum(span not in guilty for span in spans[:skipped])
                yield outcome
                continue
            yield outcome
            if outcome.only_forgot and self.deployment.gates.retry_ratio is not None:
                # Killed before this, the same command comes here again: the spans still wait, as
                # `plan.pending` has it, and the first attempt comes from TFX's cache.
                self._read = None
                outcome = self._run(spans, attempt=2)
                yield outcome
            once = self.check or self.together or self.from_scratch or self.span is not None
            if once or outcome.action == "refuse":
                return
            if outcome.action == "train":
                skipped = 0
                if not outcome.blessed:
                    refused_by_gate |= frozenset(spans)
            else:
                skipped += 1

    def _quarantine(self, outcome: Outcome) -> frozenset[int]:
        """Puts the guilty spans where no run takes them; the others are planned again without them."""
        guilty = {int(span): why for span, why in outcome.decision["quarantine"].items()}
        for span, why in guilty.items():
            self._registry.quarantine([span], f"in quarantine: {why}")
        return frozenset(guilty)

    def _run(self, spans: tuple[int, ...], attempt: int = 1) -> Outcome:
        log = new_log(self.deployment.state, f"{'check' if self.check else 'run'}-span-{spans[-1]}")
        self.log_to(log)
        self.on_stage("starting")
        from pipeline import graph, run_metadata, runner

        deployment = self.deployment if attempt == 1 else _with_more_replay(self.deployment)
        complete = schema.complete_schema(deployment, self._schema)
        run = self._plan(spans, attempt, schema.write_schema(complete, deployment.state / "schemas"))
        _check_artifacts(run.base)
        if run.start and run.train:
            _check_start(deployment, run.start)
        label = f"span{'s' * (len(spans) > 1)} {self._pattern.label(spans)}" + ", again" * (attempt > 1)
        watch = runner.Watch(lambda stage: self.on_stage(f"{label}: {STAGES.get(stage, 'starting')}"))
        connection = run_metadata.connection(deployment.state, deployment.engine.metadata)
        pipeline = graph.build(deployment, run, complete, job_args(deployment.engine.beam_args), connection)
        runner.execute(pipeline, watch, log)
        outcome = self._outcome(run, run_metadata.Results(connection, watch.run_id), watch.seconds, log)
        if self.from_scratch:
            return self._promoted(outcome)
        if outcome.blessed and run.is_challenged(deployment):
            return self._challenges(outcome)
        return outcome

    def _challenges(self, outcome: Outcome) -> Outcome:
        """Killed before this, the next run comes here again: its spans wait, and TFX has the version."""
        self._registry.move(CHALLENGER, outcome.version, "passed the gate", "retrain run")
        return replace(outcome, challenger=True)

    def _promoted(self, outcome: Outcome) -> Outcome:
        """A shadow that passed the gate takes the champion's place where it is enough better."""
        above, gate = self.deployment.shadow.promote_above, next(iter(self.deployment.gate_metrics))
        if above is None or not outcome.blessed or outcome.debt is None or outcome.version is None:
            return outcome
        gap = outcome.debt["metrics"].get(gate, {}).get("gap", 0.0)
        if gap <= above:
            return outcome
        if self.deployment.serving.canary:
            return self._challenges(outcome)
        why = f"better than the champion by {gap:.4g}, which is more than shadow.promote_above"
        promote(self.deployment, outcome.version, why=why, by="run --from-scratch")
        return replace(outcome, served=outcome.version)

    def _plan(self, spans: tuple[int, ...], attempt: int, schema_file: Path) -> Run:
        from components.replay.component import read_meta
        from pipeline.graph import Run

        base, versions = self._known()
        root, on_disk = self.deployment.data.path, find_spans(self.deployment.data)
        paths = {span: self._files(span, on_disk[span]) for span in spans}
        files = {span: identify(root, found) for span, found in paths.items()}
        known = plan.learned(versions, base)
        waiting = self._pending(on_disk, base, versions).spans
        held_out = read_meta(base.uris["buffer"])["eval"] if base else {}
        run = Run(
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
            reference_labels=_labels_of_newest(known, spans),
            released=still_released(self._registry.released(), files),
        )
        if not self.from_scratch:
            return replace(run, attempt=_attempt(self.deployment, attempt))
        # The champion knows these spans: its reference for drift stays, and no trigger or check for poison
        # is to keep them out.
        differs = {**self.left_out, **self.changed}
        return replace(run, forced=True, newest=False, released=spans, shadow=differs)

    def _files(self, span: int, files: list[Path]) -> list[Path]:
        if not files:
            raise RetrainError(
                f"span {self._pattern.label([span])} is empty: it has no file as {self._pattern.text} in "
                f"{self.deployment.data.path}. Put its files there, or remove its folder"
            )
        return files

    def _outcome(self, run: Any, results: Any, seconds: Mapping[str, float], log: Path) -> Outcome:
        decision = results.read("Decision", "decision.json")
        # Imported is the champion's: a version of this run there is only where it has trained.
        trained = run.train and decision["action"] == "train"
        registered = results.artifact("RegisteredVersion") if trained else None
        stages = {name: took for name, took in seconds.items() if not name.startswith("base_")}
        version = self._registry.get(registered.properties["version"].int_value) if registered else None
        if version and not version.seconds:  # a run that was killed was timed before it came from the cache
            self._registry.tag(version.number, seconds=json.dumps(stages))
        champion = self._registry.champion()
        sync_serving(self.deployment, champion)
        return Outcome(
            spans=tuple(run.spans),
            label=self._pattern.label(tuple(run.spans)),
            dates=tuple(filter(None, map(self._pattern.date, run.spans))),
            files=tuple(file.name for files in run.spans.values() for file in files),
            decision=decision,
            version=version.number if version else None,
            parent=run.base.number if run.base else None,
            warm_start=version is not None and version.record.get("warm_start", {}).get("start") == "warm",
            verdict=results.read("ModelBlessing", "verdict.json") if version else None,
            served=champion.number if champion else None,
            seconds=stages,
            log=str(log),
            kind="run" if run.shadow is None else "shadow",
            attempt=run.attempt["number"] if run.attempt else 1,
            replay_ratio=run.attempt["ratios"][-1] if run.attempt else self.deployment.replay.ratio,
            debt=shadow.debt(version, self._registry.versions())
            if version and run.shadow is not None
            else None,
        )


def _attempt(deployment: Deployment, number: int) -> dict[str, Any] | None:
    """What the record of a version says of the attempts at it; None: there is never a second one."""
    ratios = [deployment.replay.ratio, deployment.gates.retry_ratio]
    return {"number": number, "ratios": ratios[:number]} if ratios[1] is not None else None


def _with_more_replay(deployment: Deployment) -> Deployment:
    replay = deployment.replay.model_copy(update={"ratio": deployment.gates.retry_ratio})
    return deployment.model_copy(update={"replay": replay})


def _labels_of_newest(known: Mapping[int, Version], spans: Iterable[int]) -> Mapping[str, Any] | None:
    """How the labels of the newest span learned are distributed, of those that are not to be learned again.

    Args:
        known: as `plan.learned` gives it.
        spans: of the run.

    Returns:
        As `decision.json` has it; None: there is no such span, or its version's record does not say.
    """
    newest = max(known.keys() - set(spans), default=None)
    if newest is None:
        return None
    record = Path(known[newest].uris["record"]) / RECORD_FILE
    if not record.exists():
        return None
    labels = json.loads(record.read_text())["decision"].get("labels", {})
    return dict(labels[str(newest)]) if str(newest) in labels else None


def _check_start(deployment: Deployment, start: Version) -> None:
    """Refuses at once what the trainer would refuse in minutes: another problem, or another model."""
    if not deployment.warm_start.enabled:
        return
    # What only the data can tell is not compared.
    wanted = TrainingState(
        features=to_json(deployment.preprocessing.specs()),
        model=deployment.model.model_dump(),
        optimizer=deployment.training.optimizer,
        vocabularies={},
        step=0,
        task=deployment.label.task,
        label=LabelState(log=deployment.label.log).model_dump(),
        fit={},
    )
    known = load_state(Path(start.uris["model"]) / "checkpoint")
    check_compatible(known, wanted, deployment.warm_start.changed_model)


def _check_artifacts(base: Version | None) -> None:
    if base is None:
        return
    gone = [
        f"{name} ({base.uris[name]})" for name in (*ARTIFACTS, "record") if not Path(base.uris[name]).is_dir()
    ]
    if gone:
        raise RetrainError(
            f"version {base.number} is served, but not whole: missing {', '.join(gone)}. Restore the "
            "folders, or serve a version that is whole (`retrain history`, `retrain promote VERSION`)"
        )


def new_log(state: Path, command: str) -> Path:
    """The file for what libraries print during one run."""
    return state / "logs" / f"{time.strftime('%Y%m%d-%H%M%S')}-{command}.log"
