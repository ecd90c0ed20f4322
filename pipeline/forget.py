"""`retrain forget`: records leave what is remembered, in a version that is otherwise the champion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import RetrainError
from components.promote.registry import Version
from pipeline.beam_args import job_args
from pipeline.champion import open_registry, sync_serving
from pipeline.config import Deployment
from pipeline.lock import locked

_STEPS = {
    "forget": "leaving the records out",
    "register": "registering",
    "push": "pushing",
    "promote": "promoting",
}
_NOT_DONE = (
    "What the model has learned of them it still knows; only `retrain run --from-scratch`, on files without "
    "them, makes one that never saw them",
    "The data files, and the artifacts of other versions, still hold them",
    "They come back when their files are learned again: remove them there first",
)


@dataclass(frozen=True)
class Forgotten:
    """What was removed, or would be.

    Attributes:
        where: the condition.
        counts: `train` and `eval`: how many records; `by_span`: span -> the same of each.
        champion: the version that was asked.
        version: the new one, which is served; None: there is none, as nothing was found or this was only a
            look.
    """

    where: str
    counts: Mapping[str, Any]
    champion: int
    version: int | None

    @property
    def found(self) -> int:
        return int(self.counts["train"] + self.counts["eval"])

    def to_json(self) -> dict[str, Any]:
        """What `retrain forget --json` says."""
        return {
            "where": self.where,
            "forgotten": dict(self.counts),
            "parent": self.champion,
            "version": self.version,
            "not_done": list(_NOT_DONE) if self.found else [],
        }

    def describe(self) -> str:
        """The same for a person."""
        if not self.found:
            return f"version {self.champion} remembers no record for which {self.where}; nothing was changed"
        lines = [
            f"version {self.champion} remembers {self.found} records for which {self.where}: "
            f"{self.counts['train']} to replay, {self.counts['eval']} held out"
        ]
        lines += [
            f"  span {span}: {of['train']} to replay, {of['eval']} held out"
            for span, of in self.counts["by_span"].items()
        ]
        if self.version is None:
            return "\n".join([*lines, "Nothing was changed"])
        lines.append(f"version {self.version} is served: the same model, and a buffer without them")
        return "\n".join([*lines, *_NOT_DONE])


def forget(
    deployment: Deployment,
    where: str,
    reason: str = "",
    dry_run: bool = False,
    on_step: Callable[[str], None] = lambda _: None,
    log: Path | None = None,
) -> Forgotten:
    """Removes the records for which a condition holds from the champion's buffer and held-out examples.

    The new version has the champion's model, and learned nothing; it becomes the champion. Killed at any
    moment, the same call again finishes: what was made is found again, and what is done is not found.

    Args:
        deployment: the configuration.
        where: the condition, on the columns of the examples.
        reason: kept with the version.
        dry_run: only count.
        on_step: told what begins.
        log: what libraries print, named in errors; by default a new file.

    Raises:
        RetrainError: nothing is served yet, the condition does not fit the columns, or an artifact is gone.
    """
    with locked(deployment.state):
        registry = open_registry(deployment)
        champion = registry.champion()
        if champion is None:
            raise RetrainError("forget: no version is served yet, so nothing is remembered")
        sync_serving(deployment, champion)
        on_step("looking for the records")
        counts = _count(champion, where)
        if dry_run or not counts["train"] + counts["eval"]:
            return Forgotten(where, counts, champion.number, None)
        version = _make(deployment, champion, where, reason, on_step, log)
        sync_serving(deployment, registry.champion())
        return Forgotten(where, counts, champion.number, version)


def _count(champion: Version, where: str) -> dict[str, Any]:
    from tfx.types import standard_artifacts

    from components.replay.component import SPLITS, read_meta
    from components.replay.forget import Where, count

    read_meta(champion.uris["buffer"])  # says what to do where the buffer is gone
    buffer = standard_artifacts.Examples()
    buffer.uri, buffer.splits = champion.uris["buffer"], list(SPLITS)
    return count(buffer, Where.read(where, champion.uris["schema"])).to_json()


def _make(
    deployment: Deployment,
    champion: Version,
    where: str,
    reason: str,
    on_step: Callable[[str], None],
    log: Path | None,
) -> int:
    from pipeline import graph, run_metadata, runner
    from pipeline.learn import new_log

    watch = runner.Watch(lambda stage: on_step(_STEPS.get(stage, "starting")))
    connection = run_metadata.connection(deployment.state, deployment.engine.metadata)
    beam_args = job_args(deployment.engine.beam_args)
    pipeline = graph.build_forget(deployment, champion, where, reason, beam_args, connection)
    runner.execute(pipeline, watch, log or new_log(deployment.state, "forget"))
    registered = run_metadata.Results(connection, watch.run_id).artifact("RegisteredVersion")
    return int(registered.properties["version"].int_value)
