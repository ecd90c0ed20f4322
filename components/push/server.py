"""One model server: told to load a version, to take it under a label, and to drop the rest."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection
from typing import TypeVar

from components.push.model_service import END, Access, CallError, Client, VersionStatus
from components.push.pool import CANARY, STABLE, Pool

_POLL_SECONDS = 0.1
# A server that does not answer may be starting; longer than this it is away.
_PATIENCE_SECONDS = 5.0
# TF Serving looks at its folders once a second, and until then reports a version as it was before.
_SETTLE_SECONDS = 3.0
# A server that has nothing to do but to say so.
_GLANCE_SECONDS = 3.0
# "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:8500: " before the reason.
_GRPC_PREAMBLE = re.compile(r"^.*last error: (?:UNKNOWN: )?(?:ipv[46]:\S+: )?", re.DOTALL)
_Answer = TypeVar("_Answer")


class FailedError(Exception):
    """A server does not do what it was told; the message follows its address."""


class Server:
    """One server of a pool.

    Attributes:
        address: HOST:PORT.
        told: whether it was told anything that it may have to be told otherwise.
    """

    def __init__(self, pool: Pool, address: str) -> None:
        self.address, self.told = address, False
        self._pool = pool
        self._client = Client(address, Access(pool.tls, pool.ca, pool.token_env))
        self._until = 0.0

    def close(self) -> None:
        self._client.close()

    def limit(self, seconds: float) -> None:
        """From now on all must be done within so many seconds."""
        self._until = time.monotonic() + seconds

    def load(self, number: int) -> str:
        """Has a version loaded, beside those that are."""
        before, told = self._versions().get(number), None
        while True:
            status = self._versions().get(number)
            settled = told is None or time.monotonic() - told >= _SETTLE_SECONDS
            if status and status.available:
                return f"has loaded version {number}"
            if status and status.error and told is not None and (settled or status != before):
                raise FailedError(f"cannot load it: {status.error}")
            if time.monotonic() >= self._until:
                raise FailedError(self._late(number, status))
            if settled:
                # Again and again: it may have been started anew, or read its file, and know nothing of it.
                self._tell_to_load(number)
                told = time.monotonic()
            else:
                time.sleep(_POLL_SECONDS)

    def switch(self, number: int, label: str) -> str:
        """Moves the label to a version that is loaded, and has all others dropped."""
        self._tell([number], {label: number})
        if self._labelled(label) != number:
            raise FailedError(f"has taken the label {label}, but does not answer under it")
        return f"serves version {number}"

    def mend(self, number: int, label: str) -> str:
        """Has a version served where it is not."""
        versions = self._client.versions(self._pool.model, _GLANCE_SECONDS)
        if _available(versions) != {number} or self._labelled(label) != number:
            self.load(number)
            self.switch(number, label)
        return f"serves version {number}"

    def take_back(self, number: int, label: str) -> str:
        """Goes on with the champion, without a version that is not to be served."""
        champion = self._pool.champion
        if champion is not None:
            self.load(champion)
            self.switch(champion, label)
            return f"serves version {champion}"
        self._tell([], {})
        while (status := self._versions().get(number)) and (status.available or status.coming):
            if time.monotonic() >= self._until:
                raise FailedError(f"has not dropped version {number}")
            time.sleep(_POLL_SECONDS)
        return "serves none"

    def _tell_to_load(self, number: int) -> None:
        available = _available(self._versions())
        labels = {}
        for label in (STABLE, CANARY) if available else ():
            if (version := self._labelled(label)) in available:
                labels[label] = version
        try:
            self._tell(available | {number}, labels)
        except CallError as error:
            if error.code != "DEADLINE_EXCEEDED":  # It may answer when all is loaded; how far it is is asked.
                raise

    def _tell(self, versions: Collection[int], labels: dict[str, int]) -> None:
        self.told = True
        config = self._pool.told(versions, labels)
        try:
            self._patiently(lambda left: self._client.reload(config, left))
        except CallError as error:
            if error.code != "UNKNOWN":  # A model has no version that answers; which one and why is asked.
                raise

    def _versions(self) -> dict[int, VersionStatus]:
        return self._patiently(lambda left: self._client.versions(self._pool.model, left))

    def _labelled(self, label: str) -> int | None:
        return self._patiently(lambda left: self._client.labelled(self._pool.model, label, left))

    def _patiently(self, ask: Callable[[float], _Answer]) -> _Answer:
        """The answer, also of a server that was just started anew; `ask` takes the seconds that are left."""
        patient = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                return ask(max(self._until - time.monotonic(), _POLL_SECONDS))
            except CallError as error:
                # FAILED_PRECONDITION: a label of another model leads to a version that is still loading.
                limit = {"UNAVAILABLE": patient, "FAILED_PRECONDITION": self._until}.get(error.code, 0.0)
                if time.monotonic() >= min(limit, self._until):
                    raise
            time.sleep(_POLL_SECONDS)

    def _late(self, number: int, status: VersionStatus | None) -> str:
        when = f"after {self._pool.deadline_seconds:g} s (serving.deadline_seconds)"
        if status and status.coming:
            return f"is still loading it {when}"
        if status and status.state >= END:
            return (
                f"has dropped it again {when}; something else tells it what to serve: start it without "
                "--model_config_file_poll_wait_seconds"
            )
        return (
            f"has not found {self._pool.base_path}/{number} {when}; serving.seen_at must be the serving "
            "folder as this server sees it"
        )


def _available(versions: dict[int, VersionStatus]) -> set[int]:
    return {number for number, status in versions.items() if status.available}


def explain(error: CallError) -> str:
    """Why a server did not answer, or refused; the message follows its address."""
    if error.code == "UNAVAILABLE":
        return f"cannot be reached: {_GRPC_PREAMBLE.sub('', error.details)}"
    if error.code == "UNIMPLEMENTED":
        return f"does not speak TF Serving's ModelService ({error}); this must be a model server's gRPC port"
    if error.code == "UNAUTHENTICATED":
        return f"wants another token than serving.token_env's ({error})"
    if error.code == "DEADLINE_EXCEEDED":
        return "has not answered in time"
    return f"has refused: {error}"
