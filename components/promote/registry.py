"""The registry of versions: MLflow model versions, read and written as what they mean here.

MLflow's alias `champion` says which version is served; everything else that a version is stands in
its tags, written together with it, so a version is either there whole or not at all.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast, get_args

from components.errors import RetrainError

CHAMPION, SHADOW = "champion", "shadow"
"""Aliases: what is served, and the newest version that was trained from scratch to compare with."""
Kind = Literal["run", "shadow", "forget"]
"""How a version came to be: it learned new spans; it was trained on everything, from scratch; or it is its
parent without some of the records that the parent remembers."""
KINDS: tuple[Kind, ...] = get_args(Kind)
ARTIFACTS = ("model", "transform_graph", "statistics", "buffer")
"""What the next run reads of a version: its MLMD artifacts, by name."""

_QUARANTINED, _RELEASED = "quarantined.", "released."  # tags of the registered model, before a span
_LONGEST_TOLD = 500  # characters
_LONGEST_REASON = 5000  # characters
Result = TypeVar("Result")


@dataclass(frozen=True)
class Version:
    """One version: all that a run needs to start from it, and all that a person asks about it.

    Attributes:
        number: its version in the registry, and in the serving folder.
        key: what it was made of; the same work again has the same key.
        spans: the spans that it learned, ascending; none where nothing was learned (`forget`).
        watermark: the span up to which nothing waited to be learned when it was made; -1: something did
            from the first on.
        parent: the version that it started from, or took the place of (`shadow`); None: a cold start.
        blessed: whether the gate let it pass.
        uris: name -> URI of its artifacts, with the names of `ARTIFACTS` and others.
        record: decision, drift, gate checks and metrics, as the run wrote them.
        created: seconds since the epoch.
        promoted: seconds since the epoch of every time that it became the champion.
        set_aside: why its spans are not to be learned again; empty: they may be.
        seconds: stage -> how long it took.
        fingerprint: of the content of the files that it learned.
        kind: how it came to be.
    """

    number: int
    key: str
    spans: tuple[int, ...]
    watermark: int
    parent: int | None
    blessed: bool
    uris: Mapping[str, str]
    record: Mapping[str, Any]
    created: float
    promoted: tuple[float, ...] = ()
    set_aside: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    fingerprint: str = ""
    kind: Kind = "run"

    def tags(self) -> dict[str, str]:
        """The tags that `_from_tags` reads back."""
        return {
            "key": self.key,
            "spans": ",".join(map(str, self.spans)),
            "watermark": str(self.watermark),
            "parent": "" if self.parent is None else str(self.parent),
            "blessed": "true" if self.blessed else "false",
            "record": json.dumps(self.record),
            "fingerprint": self.fingerprint,
            "kind": self.kind,
            **{f"uri.{name}": uri for name, uri in self.uris.items()},
        }


def _from_tags(number: int, created_ms: int, tags: Mapping[str, str]) -> Version:
    return Version(
        number=number,
        key=tags["key"],
        spans=tuple(int(span) for span in tags["spans"].split(",") if span),
        watermark=int(tags["watermark"]),
        parent=int(tags["parent"]) if tags["parent"] else None,
        blessed=tags["blessed"] == "true",
        uris={name.removeprefix("uri."): uri for name, uri in tags.items() if name.startswith("uri.")},
        record=json.loads(tags["record"]),
        created=created_ms / 1000,
        promoted=tuple(json.loads(tags.get("promoted", "[]"))),
        set_aside=tags.get("set_aside", ""),
        seconds=json.loads(tags.get("seconds", "{}")),
        fingerprint=tags.get("fingerprint", ""),
        kind=cast(Kind, tags.get("kind", "run")),
    )


def _told(spans: tuple[int, ...]) -> str:
    """Spans, where MLflow limits the length."""
    if not spans:
        return "no spans"
    text = f"spans {', '.join(map(str, spans))}"
    return text if len(text) <= _LONGEST_TOLD else f"{len(spans)} spans, {spans[0]} to {spans[-1]}"


def _run_name(version: Version) -> str:
    spans = f"spans {version.spans[0]}-{version.spans[-1]}" if version.spans else ""
    return " ".join(filter(None, ["" if version.kind == "run" else version.kind, spans]))


def _explained(method: Callable[..., Result]) -> Callable[..., Result]:
    """Turns MLflow's and the database's exceptions into a message with the registry's address."""

    @functools.wraps(method)
    def wrapped(self: Registry, *args: Any, **kwargs: Any) -> Result:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            return method(self, *args, **kwargs)
        except (MlflowException, SQLAlchemyError) as error:
            raise RetrainError(
                f"registry {self.uri}: {str(error).strip().splitlines()[0]}. Check registry.uri, and that "
                "the server or the file answers; nothing was changed"
            ) from error

    return wrapped


class Registry:
    """The versions of one registered model.

    Args:
        uri: MLflow's: `sqlite:///PATH`, or a server's address.
        name: the registered model's name.
        artifacts: where MLflow keeps the models of a new experiment; None: beside the SQLite file, or
            where the server says.
    """

    def __init__(self, uri: str, name: str, artifacts: str | None = None) -> None:
        if artifacts is None and uri.startswith("sqlite:///"):
            # MLflow itself would make a folder wherever the command was started.
            artifacts = os.path.join(os.path.dirname(uri.removeprefix("sqlite:///")), "mlflow")
        self.uri, self.name, self._artifacts = uri, name, artifacts

    @functools.cached_property
    def _client(self) -> Any:
        # A server that is away is reported in seconds, not after MLflow's minutes of retries.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        from mlflow.tracking import MlflowClient

        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def exists(self) -> bool:
        """Whether anything was ever written; asking creates nothing."""
        return not self.uri.startswith("sqlite:///") or os.path.exists(self.uri.removeprefix("sqlite:///"))

    @_explained
    def versions(self) -> list[Version]:
        """All versions, oldest first."""
        if not self.exists():
            return []
        found, token = [], None
        while True:
            page = self._client.search_model_versions(f"name='{self.name}'", page_token=token)
            found += [
                _from_tags(int(v.version), v.creation_timestamp, v.tags) for v in page if "key" in v.tags
            ]
            token = page.token
            if not token:
                return sorted(found, key=lambda version: version.number)

    def champion(self) -> Version | None:
        """The version that is served; None before the first.

        Raises:
            RetrainError: the alias is on a version that was not registered here.
        """
        return self._behind(CHAMPION)

    def shadow(self) -> Version | None:
        """The newest version that was trained from scratch to compare with; None: there is none.

        Raises:
            RetrainError: the alias is on a version that was not registered here.
        """
        return self._behind(SHADOW)

    @_explained
    def _behind(self, alias: str) -> Version | None:
        from mlflow.exceptions import MlflowException

        if not self.exists():
            return None
        try:
            found = self._client.get_model_version_by_alias(self.name, alias)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise
        if "key" not in found.tags:
            raise RetrainError(
                f"registry {self.uri}: the alias {alias} of {self.name} is on version {found.version}, "
                "which `retrain` did not register; move it to one that it did"
            )
        return _from_tags(int(found.version), found.creation_timestamp, found.tags)

    def get(self, number: int) -> Version:
        """One version.

        Raises:
            RetrainError: there is none of that number; the message names those there are.
        """
        versions = {version.number: version for version in self.versions()}
        if number not in versions:
            known = ", ".join(map(str, versions)) or "none yet"
            raise RetrainError(
                f"version {number} is not in the registry {self.uri} (versions of {self.name}: {known})"
            )
        return versions[number]

    @_explained
    def register(self, version: Version, saved_model: str, metrics: Mapping[str, float]) -> int:
        """Adds a version, once: where its key is known already, that version's number is returned.

        Args:
            version: what it is; its number is not looked at.
            saved_model: the folder that MLflow shall keep a copy of.
            metrics: for MLflow's charts.

        Raises:
            RetrainError: there is no such folder, or the registry does not answer.
        """
        if not os.path.isdir(saved_model):
            raise RetrainError(f"register: there is no SavedModel to keep in {saved_model}")
        known = next((v.number for v in self.versions() if v.key == version.key), None)
        if known is not None:
            return known
        self._create_model()
        run_id = self._mlflow_run(version, saved_model, metrics)
        created = self._client.create_model_version(
            self.name,
            source=f"runs:/{run_id}/model",
            run_id=run_id,
            tags=version.tags(),
            description=_told(version.spans)
            + (f", from version {version.parent}" if version.parent is not None else ", cold start"),
        )
        return int(created.version)

    def _create_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _mlflow_run(self, version: Version, saved_model: str, metrics: Mapping[str, float]) -> str:
        """The id of the MLflow run of a version: a new one, or the one that a killed process began."""
        from mlflow.entities import Metric, Param

        client = self._client
        experiment = client.get_experiment_by_name(self.name)
        experiment_id = (
            experiment.experiment_id
            if experiment
            else client.create_experiment(self.name, artifact_location=self._artifacts)
        )
        # Hashed, because a path may hold quotes, and MLflow's filters have no escapes.
        key = hashlib.sha256(version.key.encode()).hexdigest()
        begun = client.search_runs([experiment_id], f"tags.`retrain.key` = '{key}'", max_results=1)
        run_id = (
            begun[0].info.run_id
            if begun
            else client.create_run(
                experiment_id,
                run_name=_run_name(version),
                tags={"retrain.key": key},
            ).info.run_id
        )
        now = int(time.time() * 1000)
        client.log_batch(
            run_id,
            metrics=[Metric(name, value, now, version.watermark) for name, value in metrics.items()],
            params=[Param("spans", _told(version.spans)), Param("parent", str(version.parent))],
        )
        client.log_artifacts(run_id, saved_model, "model")
        client.set_terminated(run_id)
        return str(run_id)

    @_explained
    def make_champion(self, number: int) -> None:
        """Moves the alias; the last step of a promotion. Moving it to where it is changes nothing."""
        champion = self.champion()
        if champion and champion.number == number:
            return
        promoted = [*self.get(number).promoted, time.time()]
        self._client.set_model_version_tag(self.name, str(number), "promoted", json.dumps(promoted))
        self._client.set_registered_model_alias(self.name, CHAMPION, str(number))

    @_explained
    def make_shadow(self, number: int) -> None:
        """Moves the alias `shadow`."""
        self._client.set_registered_model_alias(self.name, SHADOW, str(number))

    @_explained
    def tag(self, number: int, **tags: str) -> None:
        """Sets tags of one version."""
        for key, value in tags.items():
            self._client.set_model_version_tag(self.name, str(number), key, value)

    def quarantined(self) -> dict[int, str]:
        """Span -> why it must not be learned, ascending."""
        return {span: str(told["reason"]) for span, told in self._told_of(_QUARANTINED).items()}

    def released(self) -> dict[int, Mapping[str, Any]]:
        """Span -> what `release` was told of it, with `when` (seconds since the epoch), ascending."""
        return self._told_of(_RELEASED)

    @_explained
    def quarantine(self, spans: Iterable[int], reason: str) -> None:
        """Marks spans as not to be learned, until they are released."""
        self._create_model()
        told = json.dumps({"reason": reason[:_LONGEST_REASON], "when": time.time()})
        for span in spans:
            self._client.set_registered_model_tag(self.name, f"{_QUARANTINED}{span}", told)
            self._untag(f"{_RELEASED}{span}")

    @_explained
    def release(self, spans: Iterable[int], reason: str, **more: Any) -> None:
        """Takes spans out of the quarantine, and keeps why.

        Args:
            spans: where one is not in quarantine, only the reason is kept.
            reason: of the person who says so.
            more: what else is to be kept with each, as plain data.
        """
        self._create_model()
        told = json.dumps({"reason": reason[:_LONGEST_REASON], "when": time.time(), **more})
        for span in spans:
            # In this order: killed in between, the span is still in quarantine.
            self._client.set_registered_model_tag(self.name, f"{_RELEASED}{span}", told)
            self._untag(f"{_QUARANTINED}{span}")

    @_explained
    def _told_of(self, prefix: str) -> dict[int, Any]:
        tags = self._model_tags()
        found = {
            int(key.removeprefix(prefix)): json.loads(v) for key, v in tags.items() if key.startswith(prefix)
        }
        return dict(sorted(found.items()))

    def _model_tags(self) -> Mapping[str, str]:
        """Of the registered model; none where there is no such model yet."""
        from mlflow.exceptions import MlflowException

        if not self.exists():
            return {}
        try:
            tags: Mapping[str, str] = self._client.get_registered_model(self.name).tags
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return {}
        return tags

    def _untag(self, key: str) -> None:
        if key in self._model_tags():
            self._client.delete_registered_model_tag(self.name, key)


def lineage(versions: Iterable[Version], number: int | None) -> list[Version]:
    """A version and its ancestors, itself first."""
    by_number = {version.number: version for version in versions}
    line: list[Version] = []
    while number is not None and number in by_number:
        line.append(by_number[number])
        number = by_number[number].parent
    return line
