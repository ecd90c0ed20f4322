"""`retrain gc`: the files of old versions go, and what no version refers to; what is in use stays.

What goes is found on the disk each time, so that the command that was killed finishes when it is said again.
ML Metadata is left as it is: TFX's cache looks whether what it would give is there still, and makes it anew
where it is not; what comes back from a backup is known to it.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import RetrainError
from components.promote.moves import person
from components.promote.registry import (
    ARTIFACTS,
    CHALLENGER,
    CHAMPION,
    SHADOW,
    Registry,
    Version,
    lineage,
)
from components.push.logic import prune
from pipeline.champion import open_registry, sync_serving
from pipeline.config import Deployment
from pipeline.lock import locked
from pipeline.stage_outputs import Execution, executions, maker, size

_ASIDE = ".gc"  # below the artifacts: what is on its way out


@dataclass(frozen=True)
class Collected:
    """What was removed, or would be.

    Attributes:
        kept: version -> why its files stay.
        versions: version -> bytes of its files, MLflow's copy and the one in the serving folder included.
        others: bytes of what stages left that no version refers to.
        remains: bytes of logs and of interrupted trainings.
        dry_run: nothing was changed.
    """

    kept: Mapping[int, str]
    versions: Mapping[int, int]
    others: int
    remains: int
    dry_run: bool

    @property
    def total(self) -> int:
        """Bytes of all of it."""
        return sum(self.versions.values()) + self.others + self.remains

    def to_json(self) -> dict[str, Any]:
        """What `retrain gc --json` says."""
        return {
            "kept": {str(number): why for number, why in self.kept.items()},
            "collected": {str(number): count for number, count in self.versions.items()},
            "unreferenced": self.others,
            "logs_and_trainings": self.remains,
            "bytes": self.total,
            "dry_run": self.dry_run,
        }


@dataclass(frozen=True)
class _Garbage:
    """What is to go.

    Attributes:
        versions: version -> what made it; of several that share it, the oldest has it.
        others: executions of which no version has anything.
        remains: files and folders beside the artifacts.
    """

    versions: Mapping[int, Sequence[Execution]]
    others: Sequence[Execution]
    remains: Sequence[Path]

    @property
    def folders(self) -> list[Path]:
        """Of all executions."""
        found = [*self.others, *(execution for own in self.versions.values() for execution in own)]
        return [folder for execution in found for folder in execution.folders]


def collect(
    deployment: Deployment, keep: int, dry_run: bool, on_step: Callable[[str], None] = lambda _: None
) -> Collected:
    """Removes the files of the versions that are not to be kept, and what no version refers to.

    Kept are the versions with an alias; of the ancestors of each, the nearest that are whole, where a
    rollback would go; the newest versions that are whole, whatever became of them; and the records of all.
    What these share with others stays, too, and so does what was made after the newest version: a run that
    was killed goes on from there.

    Args:
        deployment: the configuration.
        keep: how many ancestors, and how many of the newest.
        dry_run: only tell.
        on_step: told what begins.

    Raises:
        RetrainError: another command is at work, or a version to keep has its files elsewhere.
    """
    registry = open_registry(deployment)
    if dry_run:
        return _measure(deployment, registry, keep, on_step)[0]
    with locked(deployment.state):
        champion = registry.champion()
        sync_serving(deployment, champion)
        collected, garbage = _measure(deployment, registry, keep, on_step)
        versions = registry.versions()
        _mark(registry, garbage, versions, done=False)
        on_step("removing what stages left")
        _remove(deployment.state / "artifacts", garbage)
        if deployment.base_path.is_dir():
            prune(deployment.base_path, set(collected.kept), 0)
        for number in garbage.versions:
            on_step(f"removing MLflow's copy of version {number}")
            registry.remove_copy(number)
        _mark(registry, garbage, versions, done=True)
    return Collected(collected.kept, collected.versions, collected.others, collected.remains, dry_run=False)


def _measure(
    deployment: Deployment, registry: Registry, keep: int, on_step: Callable[[str], None]
) -> tuple[Collected, _Garbage]:
    versions = registry.versions()
    behind = (SHADOW, registry.shadow()), (CHALLENGER, registry.challenger()), (CHAMPION, registry.champion())
    kept = to_keep(versions, {alias: version.number for alias, version in behind if version}, keep)
    on_step("looking for what no version refers to")
    garbage = _garbage(deployment.state, versions, kept)
    sizes = {}
    for number, found in garbage.versions.items():
        on_step(f"measuring version {number}")
        sizes[number] = (
            _size_of(found) + size([deployment.base_path / str(number)]) + registry.copied_bytes(number)
        )
    return Collected(kept, sizes, _size_of(garbage.others), size(garbage.remains), dry_run=True), garbage


def _size_of(found: Iterable[Execution]) -> int:
    return size(folder for execution in found for folder in execution.folders)


def to_keep(versions: Sequence[Version], aliases: Mapping[str, int], keep: int) -> dict[int, str]:
    """The versions whose files stay -> why, ascending.

    Args:
        versions: all of them.
        aliases: alias -> the version that it is on; where two are on one, the last is told.
        keep: how many ancestors of each of these, and how many of the newest.
    """
    newest = [version for version in versions if _is_whole(version)][-keep:]
    kept = {version.number: "newest" for version in newest}
    for alias, number in aliases.items():
        ancestors = [version for version in lineage(versions, number)[1:] if _is_whole(version)]
        kept |= {version.number: f"before the {alias}" for version in ancestors[:keep]}
    kept |= {number: alias for alias, number in aliases.items()}
    return dict(sorted(kept.items()))


def _is_whole(version: Version) -> bool:
    return all(Path(version.uris[name]).is_dir() for name in ARTIFACTS)


def _garbage(state: Path, versions: Sequence[Version], kept: Mapping[int, str]) -> _Garbage:
    root = state / "artifacts"
    makers = {version.number: _makers(root, version, version.number in kept) for version in versions}
    in_use = {made for number in kept for made in makers[number]}
    in_use |= {made for version in versions if (made := maker(root, version.uris["record"]))}
    last = max((number for node, number in in_use if node == "register"), default=None)
    old = [
        execution
        for execution in executions(root)
        if last is not None and execution.number <= last and (execution.node, execution.number) not in in_use
    ]
    own: dict[int, list[Execution]] = {
        version.number: []
        for version in versions
        if version.number not in kept and not version.collected.get("done")
    }
    others: list[Execution] = []
    for execution in old:
        made = execution.node, execution.number
        owners = [number for number in makers if made in makers[number]]
        for number in owners:
            own.setdefault(number, [])
        (own[owners[0]] if owners else others).append(execution)
    return _Garbage(dict(sorted(own.items())), others, _remains(state, versions, kept))


def _makers(root: Path, version: Version, kept: bool) -> list[tuple[str, int]]:
    """The executions that made what a version consists of.

    Raises:
        RetrainError: it is to be kept, and lies elsewhere; what lies here may be the same under another name.
    """
    found = {name: maker(root, uri) for name, uri in version.uris.items()}
    elsewhere = [name for name in ARTIFACTS if found[name] is None]
    if kept and elsewhere:
        raise RetrainError(
            f"gc: version {version.number} has its {elsewhere[0]} in {version.uris[elsewhere[0]]}, not in "
            f"{root}; nothing was removed. Put the state folder where the registry says that it is"
        )
    return [made for made in found.values() if made]


def _remains(state: Path, versions: Sequence[Version], kept: Mapping[int, str]) -> list[Path]:
    """Logs older than every version that is kept, and interrupted trainings older than the newest one."""
    created = [version.created for version in versions if version.number in kept]
    if not created:
        return []
    logs = [log for log in (state / "logs").glob("*.log") if log.stat().st_mtime < min(created)]
    left = [path for path in (state / "training").glob("*") if path.stat().st_mtime < max(created)]
    return [*logs, *left]


def _mark(registry: Registry, garbage: _Garbage, versions: Sequence[Version], done: bool) -> None:
    """Notes with the versions what is gone of them; before it goes, and when all is done."""
    going = set(garbage.folders)
    for version in (version for version in versions if version.number in garbage.versions):
        gone = [name for name, uri in version.uris.items() if Path(uri) in going or not Path(uri).exists()]
        told = {"when": time.time(), "by": person(), "gone": sorted(gone), "done": done}
        registry.tag(version.number, collected=json.dumps(told, ensure_ascii=False))


def _remove(root: Path, garbage: _Garbage) -> None:
    """Renames everything aside before anything is deleted: no folder is ever there in part."""
    aside = root / _ASIDE
    shutil.rmtree(aside, ignore_errors=True)
    if garbage.folders:
        aside.mkdir()
    for folder in garbage.folders:
        os.rename(folder, aside / "-".join(folder.relative_to(root).parts))
    shutil.rmtree(aside, ignore_errors=True)
    for path in garbage.remains:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
