"""What is served right now: the one thing that requests and the manager share.

Requests read a snapshot, which the manager replaces in one assignment. So a switch is a single moment, and
a reader takes no lock for it.
"""

import enum
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from serving.errors import Code, RequestError, ServerError, invalid
from serving.models import LoadedModel


class State(enum.IntEnum):
    """The states of a version, numbered as in ModelVersionStatus."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True)
class VersionStatus:
    """How far a version is. END with another code than OK says that it failed to load."""

    state: State
    code: Code = Code.OK
    message: str = ""

    @property
    def failed(self) -> bool:
        """Says whether the version failed to load."""
        return self.state is State.END and self.code is not Code.OK


@dataclass(frozen=True)
class Serving:
    """What requests to one model see."""

    versions: Mapping[int, LoadedModel] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)
    """Where each label leads now."""
    wanted_labels: Mapping[str, int] = field(default_factory=dict)
    """Where the config says that it leads."""


_NOTHING = Serving()


class Catalog:
    """The models that are served, and the status of every version ever seen."""

    def __init__(self) -> None:
        self._models: Mapping[str, Serving] = {}
        self._statuses: dict[str, dict[int, VersionStatus]] = {}
        self._waiting_for: dict[str, str] = {}
        self._closed = False
        self._changed = threading.Condition()  # Guards and announces changes; the snapshot is read without.

    @contextmanager
    def use(self, name: str, version: int | None = None, label: str | None = None) -> Iterator[LoadedModel]:
        """Lends a version, which stays loaded until the context ends: the highest unless one is named.

        Raises:
          RequestError: NOT_FOUND, or INVALID_ARGUMENT for a label that is not configured.
        """
        model = self._find(name, version, label)
        while not model.acquire():  # Retired since we looked, so there is a newer snapshot.
            model = self._find(name, version, label)
        try:
            yield model
        finally:
            model.release()

    def statuses(
        self, name: str, version: int | None = None, label: str | None = None
    ) -> dict[int, VersionStatus]:
        """Returns the status of one version, or of all that were ever seen, highest first.

        Raises:
          RequestError: NOT_FOUND, with what the server waits for.
        """
        if label is not None:
            version = self._version_of(name, label)
        with self._changed:
            seen = dict(sorted(self._statuses.get(name, {}).items(), reverse=True))
        if version is None and seen:
            return seen
        if version in seen:
            return {version: seen[version]}
        wanted = "any versions" if version is None else f"version {version}"
        raise RequestError(Code.NOT_FOUND, f"Could not find {wanted} of model {name}{self._why(name)}")

    def all_statuses(self) -> list[tuple[str, int, VersionStatus]]:
        """Returns model, version and status of every version ever seen."""
        with self._changed:
            return [
                (name, version, status)
                for name, versions in sorted(self._statuses.items())
                for version, status in sorted(versions.items())
            ]

    def unavailable(self) -> list[str]:
        """Returns a line for everything that cannot answer yet; empty when the server is ready."""
        models = self._models
        if not models:
            return [f"no model is configured{self._why('')}"]
        return [
            f"{name} is not available{self._why(name)}"
            for name, serving in models.items()
            if not serving.versions
        ]

    def wait_until_available(self, name: str, version: int | None, timeout: float) -> int:
        """Blocks until the version, or any if None, answers. Returns it, or the highest.

        Raises:
          ServerError: it failed to load, or `timeout` seconds went by, or the server stopped.
        """
        deadline = time.monotonic() + timeout
        wanted = name if version is None else f"{name} version {version}"
        with self._changed:
            while True:
                available = self.serving(name).versions
                if available and (version is None or version in available):
                    return max(available) if version is None else version
                seen = self._statuses.get(name, {})
                if version in seen and seen[version].failed:
                    raise ServerError(f"{wanted} failed to load: {seen[version].message}; mend its files")
                remaining = deadline - time.monotonic()
                if remaining <= 0 or self._closed:
                    when = "when the server stopped" if self._closed else f"after {timeout:g} s"
                    states = ", ".join(f"{v} {s.state.name} {s.message}".strip() for v, s in seen.items())
                    raise ServerError(
                        f"{wanted} is not available {when}{self._why(name)}; seen: {states or 'no version'}"
                    )
                self._changed.wait(remaining)

    def serving(self, name: str) -> Serving:
        """Returns what requests to that model see now."""
        return self._models.get(name, _NOTHING)

    def names(self) -> set[str]:
        """Returns the configured models."""
        return set(self._models)

    def publish(self, name: str, serving: Serving | None) -> None:
        """Replaces what requests to that model see, in one moment; None takes the model away."""
        with self._changed:
            models = {key: value for key, value in self._models.items() if key != name}
            self._models = models if serving is None else models | {name: serving}
            for version in serving.versions if serving else ():
                self._statuses.setdefault(name, {})[version] = VersionStatus(State.AVAILABLE)
            self._changed.notify_all()

    def set_status(self, name: str, version: int, status: VersionStatus) -> None:
        """Records how far a version is."""
        with self._changed:
            self._statuses.setdefault(name, {})[version] = status
            self._changed.notify_all()

    def wait_for(self, name: str, reason: str) -> bool:
        """Records what a model waits for, or nothing if empty; returns whether that is news.

        The empty name stands for the server as a whole.
        """
        with self._changed:
            news = self._waiting_for.get(name, "") != reason
            self._waiting_for[name] = reason
        return news

    def close(self) -> None:
        """Ends every wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _find(self, name: str, version: int | None, label: str | None) -> LoadedModel:
        if not name:
            raise invalid("ModelSpec has no name specified.")
        if label is not None:
            version = self._version_of(name, label)
        versions = self.serving(name).versions
        model = versions.get(max(versions, default=0) if version is None else version)
        if model is None:
            request = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise RequestError(Code.NOT_FOUND, f"Servable not found for request: {request}")
        return model

    def _version_of(self, name: str, label: str) -> int:
        serving = self.serving(name)
        version = serving.labels.get(label, serving.wanted_labels.get(label))
        if version is None:
            raise invalid(f"Unrecognized servable version label: {label}")
        return version

    def _why(self, name: str) -> str:
        reason = self._waiting_for.get(name) or self._waiting_for.get("")
        return f": {reason}" if reason else ""
