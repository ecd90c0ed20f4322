"""The registry of versions: MLflow model versions, read and written as what they mean here.

MLflow's alias `champion` says which version is served; everything else that a version is stands in
its tags, written together with it, so a version is either there whole or not at all.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from components.errors import RetrainError
from components.promote import mlflow_run
from components.promote import moves as moving
from components.promote.mlflow_model import explained
from components.promote.moves import ALIASES, CHALLENGER, CHAMPION, SHADOW, Move
from components.promote.quarantine import Quarantine
from components.promote.version import ARTIFACTS, KINDS, Kind, Version, from_tags, lineage, refusal

__all__ = [
    "ALIASES",
    "ARTIFACTS",
    "CHALLENGER",
    "CHAMPION",
    "KINDS",
    "SHADOW",
    "Kind",
    "Move",
    "Registry",
    "Version",
    "lineage",
    "refusal",
]

MOST_MOVES = 500
"""That are kept of a version, the newest."""


class Registry(Quarantine):
    """The versions of one registered model, and its aliases; see `MlflowModel` for the arguments."""

    @explained
    def versions(self) -> list[Version]:
        """All versions, oldest first."""
        if not self.exists():
            return []
        found, token = [], None
        while True:
            page = self._client.search_model_versions(f"name='{self.name}'", page_token=token)
            found += [_read(version) for version in page if "key" in version.tags]
            token = page.token
            if not token:
                return sorted(found, key=lambda version: version.number)

    @explained
    def get(self, number: int) -> Version:
        """One version.

        Raises:
            RetrainError: there is none of that number; the message names those there are.
        """
        found = self._known(lambda: self._client.get_model_version(self.name, str(number)))
        if found is None or "key" not in found.tags:
            known = ", ".join(str(version.number) for version in self.versions()) or "none yet"
            raise RetrainError(
                f"version {number} is not in the registry {self.uri} (versions of {self.name}: {known})"
            )
        return _read(found)

    def champion(self) -> Version | None:
        """The version that is served; None before the first.

        Raises:
            RetrainError: the alias is on a version that was not registered here.
        """
        return self._behind(CHAMPION)

    def challenger(self) -> Version | None:
        """The version that is under test to take the champion's place; None: there is none.

        Raises:
            RetrainError: the alias is on a version that was not registered here.
        """
        challenger, champion = self._behind(CHALLENGER), self._behind(CHAMPION)
        # Both, where the process was killed that made it the champion: nothing is left to test.
        return None if challenger and champion and challenger.number == champion.number else challenger

    def shadow(self) -> Version | None:
        """The newest version that was trained from scratch to compare with; None: there is none.

        Raises:
            RetrainError: the alias is on a version that was not registered here.
        """
        return self._behind(SHADOW)

    @explained
    def _behind(self, alias: str) -> Version | None:
        found = self._known(lambda: self._client.get_model_version_by_alias(self.name, alias))
        if found is None:
            return None
        if "key" not in found.tags:
            raise RetrainError(
                f"registry {self.uri}: the alias {alias} of {self.name} is on version {found.version}, "
                "which `retrain` did not register; move it to one that it did"
            )
        return _read(found)

    def _known(self, ask: Callable[[], Any]) -> Any:
        """MLflow's model version; None: there is none."""
        from mlflow.exceptions import MlflowException

        if not self.exists():
            return None
        try:
            return ask()
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    @explained
    def move(self, alias: str, to: int | None, why: str, by: str | None = None) -> None:
        """Moves an alias, and records it; moving it to where it is changes and records nothing.

        What becomes champion or challenger is not set aside or rolled back any more, nor are its ancestors; a
        challenger that did not start from the new champion is none any more. The alias moves first: killed in
        between, the same call again finishes.

        Args:
            alias: one of `ALIASES`.
            to: the version; None: to none.
            why: in words.
            by: who or what; None: the user of this process.

        Raises:
            RetrainError: there is no such version.
        """
        versions = self.versions()
        if to is not None and all(version.number != to for version in versions):
            self.get(to)  # raises, with the versions that there are
        standing = self._standing()
        self._settle(versions, standing)
        by = by or moving.person()
        if standing.get(alias) != to:
            move = Move(time.time(), alias, standing.get(alias), to, by, why)
            self._record(move, done=False)
            if to is None:
                self._client.delete_registered_model_alias(self.name, alias)
            else:
                self._client.set_registered_model_alias(self.name, alias, str(to))
            self._record(move, done=True)
            self._forget(move, done=False)
            self._trim(versions, move.holder)
        if alias in (CHAMPION, CHALLENGER) and to is not None:
            self._unmark(lineage(versions, to))
        if alias == CHAMPION and to is not None:
            self._end_test(versions, standing.get(CHALLENGER), to, why, by)

    def _record(self, move: Move, done: bool) -> None:
        self._client.set_model_version_tag(self.name, str(move.holder), move.tag(done), move.text)

    def _forget(self, move: Move, done: bool) -> None:
        self._client.delete_model_version_tag(self.name, str(move.holder), move.tag(done))

    def _trim(self, versions: Sequence[Version], number: int) -> None:
        """Makes room for one more move among those of a version."""
        for version in versions:
            too_many = version.moves[: 1 - MOST_MOVES] if version.number == number else ()
            for move in too_many:
                self._forget(move, done=True)

    def _settle(self, versions: Sequence[Version], standing: Mapping[str, int]) -> None:
        """Completes the records of processes that were killed, and records what others moved."""
        for begun in (begun for version in versions for begun in version.begun):
            if moving.was_done(begun, standing):
                self._record(begun, done=True)
            self._forget(begun, done=False)
        known = moving.of_versions(versions, standing)
        for move in moving.unrecorded(known, ALIASES, standing, time.time()):
            self._record(move, done=True)

    def _unmark(self, line: Sequence[Version]) -> None:
        """What is served, or is tested again, may be learned and served."""
        for version in line:
            marked = {name: "" for name in ("set_aside", "rolled_back") if getattr(version, name)}
            self.tag(version.number, **marked)

    def _end_test(
        self, versions: Sequence[Version], challenger: int | None, champion: int, why: str, by: str
    ) -> None:
        """A new champion ends the test of what was held against another one."""
        parent = next((version.parent for version in versions if version.number == challenger), None)
        if challenger == champion:
            self.move(CHALLENGER, None, f"version {champion} is the champion", by)
        elif challenger is not None and parent != champion:
            other = f"version {challenger} did not start from version {champion}, which became the champion"
            self.move(CHALLENGER, None, f"{other}: {why}", by)

    def make_champion(self, number: int, why: str = "", by: str | None = None) -> None:
        """Moves the alias `champion`; the last step of a promotion."""
        self.move(CHAMPION, number, why, by)

    def make_shadow(self, number: int, why: str = "", by: str | None = None) -> None:
        """Moves the alias `shadow`."""
        self.move(SHADOW, number, why, by)

    @explained
    def moves(self) -> list[Move]:
        """Every move of an alias, oldest first."""
        versions, standing = self.versions(), self._standing()
        known = moving.of_versions(versions, standing)
        return [*known, *moving.unrecorded(known, ALIASES, standing, time.time())]

    @explained
    def tag(self, number: int, **tags: str) -> None:
        """Sets tags of one version."""
        for key, value in tags.items():
            self._client.set_model_version_tag(self.name, str(number), key, value)

    @explained
    def copied_bytes(self, number: int) -> int:
        """How large MLflow's copy of a version's SavedModel is; 0: there is none any more."""
        return mlflow_run.copied_bytes(self._client, self._run_id(number))

    @explained
    def remove_copy(self, number: int) -> None:
        """Removes MLflow's copy of a version's SavedModel; its metrics stay."""
        mlflow_run.remove_copy(self._client, self._run_id(number))

    def _run_id(self, number: int) -> str:
        return str(self._client.get_model_version(self.name, str(number)).run_id)

    @explained
    def register(self, version: Version, saved_model: str, metrics: Mapping[str, float]) -> int:
        """Adds a version, once: where its key is known already, that version's number is returned.

        One that was rejected and is blessed now, as its gates were loosened, gets the new verdict.

        Args:
            version: what it is; its number is not looked at.
            saved_model: the folder that MLflow shall keep a copy of.
            metrics: for MLflow's charts.

        Raises:
            RetrainError: there is no such folder, or the registry does not answer.
        """
        if not os.path.isdir(saved_model):
            raise RetrainError(f"register: there is no SavedModel to keep in {saved_model}")
        known = next((v for v in self.versions() if v.key == version.key), None)
        if known is not None:
            if version.blessed and not known.blessed:
                self.tag(known.number, **version.tags())
            return known.number
        self._create_model()
        run_id = mlflow_run.keep(self._client, self.name, self._artifacts, version, saved_model, metrics)
        created = self._client.create_model_version(
            self.name,
            source=f"runs:/{run_id}/model",
            run_id=run_id,
            tags=version.tags(),
            description=mlflow_run.told(version.spans)
            + (f", from version {version.parent}" if version.parent is not None else ", cold start"),
        )
        return int(created.version)


def _read(found: Any) -> Version:
    """MLflow's model version as what it means here."""
    return from_tags(int(found.version), found.creation_timestamp, found.tags)
