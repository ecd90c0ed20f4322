"""Keeps what is loaded in step with the model config file and the version folders."""

import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from serving.catalog import Catalog, Serving, State, VersionStatus
from serving.errors import Code, ModelConfigError, RequestError, shorten
from serving.loader import load
from serving.model_config import ModelConfig, parse_model_config
from serving.models import LoadedModel
from serving.options import Batching
from serving.versions import (
    SAVED_MODEL,
    aspired_versions,
    effective_labels,
    find_versions,
    fingerprint,
    missing_versions,
    plan,
)

_log = logging.getLogger(__name__)
_LOAD_NICENESS = 10


class ModelManager:
    """Polls in one thread, loads and unloads in one that stands back, and publishes the result."""

    def __init__(
        self,
        config_file: Path,
        catalog: Catalog,
        on_event: Callable[[str], None],
        batching: Batching | None = None,
    ) -> None:
        self._config_file = config_file
        self._catalog = catalog
        self._on_event = on_event
        self._batching = batching
        self._config: tuple[ModelConfig, ...] = ()
        self._config_text: bytes | None = None
        self._failed: dict[tuple[str, int], frozenset[tuple[str, int, int]]] = {}
        self._idle: deque[LoadedModel] = deque()  # Retired and out of use: to be unloaded.
        self._behind_requests = ThreadPoolExecutor(
            1, thread_name_prefix="serving-load", initializer=_stand_back
        )
        self._busy = threading.Lock()  # Held by whoever changes what is loaded.
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, poll_seconds: float) -> None:
        """Starts to poll: at once, and then every `poll_seconds`."""
        self._thread = threading.Thread(
            target=self._run, args=(poll_seconds,), name="serving-poll", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stops polling, after the load that is under way, and unloads what is not in use."""
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        with self._busy:
            self._replace_config(())
            self._finish_unloads()
        self._behind_requests.shutdown()
        self._catalog.close()

    def apply(self, models: tuple[ModelConfig, ...]) -> None:
        """Serves these models until the model config file changes; returns when what can load is loaded."""
        with self._busy:
            self._supersede_file()
            self._replace_config(models)
            self._advance_all()

    def reload(self, models: tuple[ModelConfig, ...]) -> None:
        """Serves these models until the model config file changes, as TF Serving does when it is told to.

        It returns at once where all of them are served already, whatever their versions: these come and go
        later, and the status tells when. Of a new model it waits until a version answers.

        Raises:
          RequestError: UNKNOWN if one of the new models has no version that answers.
        """
        known = self._catalog.names()
        if all(model.name in known for model in models):
            with self._busy:
                self._supersede_file()
                self._replace_config(models)
                for model in models:
                    self._announce(model)
            self._wake.set()
            return
        self.apply(models)
        if failed := self._catalog.unavailable():
            raise RequestError(Code.UNKNOWN, f"{len(failed)} model(s) did not become available: {failed}")

    def _run(self, poll_seconds: float) -> None:
        while not self._closing.is_set():
            try:
                with self._busy:
                    self._read_config()
                    self._advance_all()
            except Exception as error:
                _log.exception("poll failed")
                self._wait_for("", f"polling failed, will try again: {type(error).__name__}: {error}")
            self._wake.wait(poll_seconds)
            self._wake.clear()

    def _read_config(self) -> None:
        kept = "; going on with the last good one" if self._config else ""
        try:
            text = self._config_file.read_bytes()
        except OSError as error:
            self._wait_for(
                "", f"waiting for the model config file {self._config_file}: {error.strerror}{kept}"
            )
            return
        if text == self._config_text:
            self._wait_for("", "")
            return
        try:
            models = parse_model_config(text, self._config_file)
        except ModelConfigError as error:
            self._wait_for("", f"{error}{kept}")
            return
        self._config_text = text
        self._wait_for("", "")
        self._replace_config(models)

    def _supersede_file(self) -> None:
        """Has the file count as read: what is in it now is older than what the server is told."""
        try:
            self._config_text = self._config_file.read_bytes()
        except OSError:
            self._config_text = None

    def _replace_config(self, models: tuple[ModelConfig, ...]) -> None:
        self._config = models
        names = {model.name for model in models}
        self._failed = {key: value for key, value in self._failed.items() if key[0] in names}
        for name in self._catalog.names() - names:
            self._catalog.wait_for(name, "")
            gone = self._catalog.serving(name)
            self._catalog.publish(name, None)
            self._retire(gone.versions.values())

    def _advance_all(self) -> None:
        for config in self._config:
            self._advance(config)
        self._finish_unloads()

    def _advance(self, config: ModelConfig) -> None:
        """Takes one model to where its config and its folders say, one load after the other."""
        ready = find_versions(config.base_path)
        folders = ready or {}
        aspired = aspired_versions(config.policy, folders)
        self._forget_failures(config.name, {version: folders[version] for version in aspired})
        self._explain(config, ready)
        loaded = self._catalog.serving(config.name).versions
        while True:
            todo = self._switch(config, aspired, loaded)
            if not todo or self._closing.is_set():
                return
            loaded = dict(self._catalog.serving(config.name).versions)
            if model := self._load(config.name, todo[0], folders[todo[0]]):
                loaded[todo[0]] = model

    def _announce(self, config: ModelConfig) -> None:
        """Moves the labels on what is loaded, and says what will be: before anybody asks for the status."""
        loaded = self._catalog.serving(config.name).versions
        self._switch(config, (), loaded)
        for version in aspired_versions(config.policy, find_versions(config.base_path) or {}):
            if version not in loaded and (config.name, version) not in self._failed:
                self._catalog.set_status(config.name, version, VersionStatus(State.START))

    def _switch(
        self, config: ModelConfig, aspired: Collection[int], loaded: Mapping[int, LoadedModel]
    ) -> tuple[int, ...]:
        """Publishes what is loaded, labels moved and replaced versions gone; returns what to load next."""
        name = config.name
        now = self._catalog.serving(name)
        labels = effective_labels(config.labels, now.labels, loaded)
        failed = [version for model, version in self._failed if model == name]
        todo = plan(aspired, loaded, failed, held=labels.values())
        kept = {version: model for version, model in loaded.items() if version not in todo.unload}
        self._catalog.publish(name, Serving(kept, labels, config.labels))
        for version in sorted(kept.keys() - now.versions.keys()):
            self._say(f"serving {name} version {version}")
        self._retire([loaded[version] for version in todo.unload])
        return todo.load

    def _load(self, name: str, version: int, folder: Path) -> LoadedModel | None:
        before = fingerprint(folder)  # So if files change while it loads, the next poll tries again.
        self._catalog.set_status(name, version, VersionStatus(State.LOADING))
        try:
            if not self._answers():
                # The first load makes TensorFlow's threads, with the priority of its own, and delays nobody.
                return load(name, version, folder, self._batching)
            return self._behind_requests.submit(load, name, version, folder, self._batching).result()
        except RequestError as error:
            self._failed[name, version] = before
            self._catalog.set_status(name, version, VersionStatus(State.END, error.code, error.message))
            serving = sorted(self._catalog.serving(name).versions)
            self._say(
                f"{name} version {version} failed to load, will try again when its files change; "
                f"serving {serving or 'none'}: {shorten(error.message)}"
            )
            return None

    def _answers(self) -> bool:
        return any(self._catalog.serving(name).versions for name in self._catalog.names())

    def _retire(self, models: Collection[LoadedModel]) -> None:
        for model in models:
            self._catalog.set_status(model.name, model.version, VersionStatus(State.UNLOADING))
            model.retire(self._on_idle)

    def _on_idle(self, model: LoadedModel) -> None:
        # Runs in the thread of a request, whose answer should not wait until the memory is free.
        self._idle.append(model)
        self._wake.set()

    def _finish_unloads(self) -> None:
        while self._idle:
            model = self._idle.popleft()
            self._behind_requests.submit(model.unload).result()
            if model.version not in self._catalog.serving(model.name).versions:  # It may be loaded anew.
                self._catalog.set_status(model.name, model.version, VersionStatus(State.END))
            self._say(f"unloaded {model.name} version {model.version}")

    def _forget_failures(self, name: str, folders: Mapping[int, Path]) -> None:
        """Forgets failed loads that may go better now: the files changed, or were called for anew."""
        for model, version in list(self._failed):
            if model == name and (
                version not in folders or fingerprint(folders[version]) != self._failed[model, version]
            ):
                del self._failed[model, version]

    def _explain(self, config: ModelConfig, ready: Mapping[int, Path] | None) -> None:
        missing = missing_versions(config.policy, ready or {})
        if ready is None:
            self._wait_for(config.name, f"waiting for the base path {config.base_path}")
        elif missing:
            self._wait_for(config.name, f"waiting for versions {missing} in {config.base_path}")
        elif not ready:
            self._wait_for(config.name, f"waiting for {config.base_path}/<integer>/{SAVED_MODEL}")
        else:
            self._wait_for(config.name, "")

    def _wait_for(self, name: str, reason: str) -> None:
        if self._catalog.wait_for(name, reason) and reason:
            self._say(f"{name}: {reason}" if name else reason)

    def _say(self, event: str) -> None:
        try:
            self._on_event(event)
        except Exception:
            _log.exception("on_event failed for: %s", event)


def _stand_back() -> None:
    """Has this thread leave the processors to those that answer requests.

    A load takes one for a second, an unload for some hundredths.
    """
    if sys.platform == "linux":  # Where a niceness is a thread's, and not the process's.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOAD_NICENESS)
