"""Servers are told what to serve, and asked whether they do.

A label may only lead to a version that a server has loaded: TF Serving refuses the whole configuration
otherwise (`UpdateModelVersionLabelMap` in its server_core.cc). So each server is told twice: first to load
the new version beside those it has, then, when enough servers have it, to move the label and drop the rest.
Up to then every server answers as before whoever asks for the label.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from components.errors import RetrainError
from components.push.model_service import CallError
from components.push.pool import STABLE, Pool
from components.push.server import FailedError, Server, explain

_log = logging.getLogger(__name__)
# A server that is told to go on with what it has needs less than one that is to load; and one that hangs is
# not waited for twice.
_TAKE_BACK_SECONDS = 30.0


@dataclass(frozen=True)
class Report:
    """What became of a version on a server.

    Attributes:
        server: its address.
        ok: whether the server serves it.
        message: what it does, or why not.
        seconds: how long that took.
    """

    server: str
    ok: bool
    message: str
    seconds: float


def serve_on(pool: Pool, number: int, label: str = STABLE) -> list[Report]:
    """Has a version served by enough servers of a pool, or by none: then they go on as before.

    When it returns, the version has the label on at least `pool.quorum` servers, which have nothing else
    loaded, and `pool.config_file` lets a server that starts do the same. Killed at any moment, the same call
    finishes, and `follow` takes back what was begun.

    Args:
        pool: the servers; its `champion` is what they go on with.
        number: the version, whole in the serving folder.
        label: to be on it.

    Returns:
        What became of it on each server.

    Raises:
        RetrainError: too few servers serve it; the message says of each why, and what was told to the others.
    """
    if not pool.config_file.exists():
        pool.write()  # Without the file a server cannot even start.
    with _connected(pool) as servers:
        reports = servers.all(lambda server: server.load(number))
        loaded = [report.server for report in reports if report.ok]
        if len(loaded) >= pool.quorum:
            switched = servers.some(loaded, lambda server: server.switch(number, label))
            reports = [next((new for new in switched if new.server == old.server), old) for old in reports]
        if sum(report.ok for report in reports) >= pool.quorum:
            pool.write(number, label)
            return reports
        raise RetrainError(_account(pool, number, reports, _take_back(pool, number, label, servers)))


def follow(pool: Pool, number: int, label: str = STABLE) -> list[Report]:
    """Brings the file and the servers of a pool to a version: those that serve it already are only asked.

    Args:
        pool: the servers.
        number: the version, whole in the serving folder.
        label: to be on it.

    Returns:
        Of the servers that do not serve it why they do not; each is logged, too.
    """
    pool.write(number, label)
    with _connected(pool) as servers:
        behind = [
            report for report in servers.all(lambda server: server.mend(number, label)) if not report.ok
        ]
    for report in behind:
        _log.warning("%s does not serve %s version %d: %s", report.server, pool.model, number, report.message)
    return behind


class _Servers:
    """The servers of a pool, all asked at the same time."""

    def __init__(self, pool: Pool, servers: Sequence[Server], threads: ThreadPoolExecutor) -> None:
        self._pool, self._servers, self._threads = pool, servers, threads

    def all(self, do: Callable[[Server], str]) -> list[Report]:
        return self.some(self._pool.servers, do)

    def told(self) -> list[str]:
        return [server.address for server in self._servers if server.told]

    def some(
        self, addresses: Collection[str], do: Callable[[Server], str], seconds: float | None = None
    ) -> list[Report]:
        limit = self._pool.deadline_seconds if seconds is None else seconds
        chosen = [server for server in self._servers if server.address in addresses]
        return list(self._threads.map(lambda server: _report(server, do, limit), chosen))


def _report(server: Server, do: Callable[[Server], str], seconds: float) -> Report:
    begun = time.monotonic()
    server.limit(seconds)
    try:
        ok, message = True, do(server)
    except FailedError as error:
        ok, message = False, str(error)
    except CallError as error:
        ok, message = False, explain(error)
    return Report(server.address, ok, message, round(time.monotonic() - begun, 2))


@contextlib.contextmanager
def _connected(pool: Pool) -> Iterator[_Servers]:
    # The channels close first, so that no thread waits on for an answer when Ctrl-C ends this.
    with ThreadPoolExecutor(max(len(pool.servers), 1)) as threads, contextlib.ExitStack() as channels:
        servers = [Server(pool, address) for address in pool.servers]
        for server in servers:
            channels.callback(server.close)
        yield _Servers(pool, servers, threads)


def _take_back(pool: Pool, number: int, label: str, servers: _Servers) -> list[Report]:
    seconds = min(pool.deadline_seconds, _TAKE_BACK_SECONDS)
    return servers.some(servers.told(), lambda server: server.take_back(number, label), seconds)


def _account(pool: Pool, number: int, reports: Sequence[Report], back: Sequence[Report]) -> str:
    """What went wrong, server by server, and how things stand now."""
    confirmed = sum(report.ok for report in reports)
    lines = [
        f"push: version {number} is not served: {confirmed} of {len(reports)} servers have confirmed it, "
        f"required are {pool.quorum}"
    ]
    lines += [f"  {report.server} {report.message}" for report in reports]
    goes_on = "none" if pool.champion is None else f"version {pool.champion}"
    again = [report.server for report in back if report.ok]
    if again:
        lines.append(f"Told again to serve {goes_on}: {', '.join(again)}")
    for report in back:
        if not report.ok:
            lines.append(
                f"  {report.server} could not be told to serve {goes_on} again: it {report.message}; the "
                "next command tries once more"
            )
    lines.append(
        f"No alias was moved. Mend these servers (they start from {pool.config_file}); the same command "
        "again finishes"
    )
    return "\n".join(lines)
