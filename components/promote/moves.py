"""Moves of aliases: who moved which, when, from where to where, and why.

A move is a tag of the model version that it concerns, one tag a move: two who move at once overwrite nothing
of each other's, and what a command reads grows with the versions that it reads anyway. (A tag of the
registered model holds 5,000 characters where MLflow keeps its tables in MySQL or PostgreSQL, and all of them
are read at every look.)

It is written before the alias moves, as begun, and under another name afterwards, as done. So a process that
is killed in between leaves a record that tells with the alias itself what became of it; and whoever clears
such records away never removes one that is done.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from components.promote.version import Version

CHAMPION, CHALLENGER, SHADOW = "champion", "challenger", "shadow"
"""Aliases: what is served; what is under test to take its place; and the newest version that was trained from
scratch to compare with."""
ALIASES = (CHAMPION, CHALLENGER, SHADOW)

_DONE, _BEGUN = "move.", "moving."  # before a tag's name
_LONGEST_WHY = 1000  # characters
_UNRECORDED = "not recorded: something else than `retrain` moved it; noticed at this time"
_LEGACY = "before moves were recorded"


@dataclass(frozen=True)
class Move:
    """One move of an alias.

    Attributes:
        when: seconds since the epoch.
        alias: which one.
        from_, to: versions; None: there was none, or is none any more.
        by: who or what moved it.
        why: in words.
    """

    when: float
    alias: str
    from_: int | None
    to: int | None
    by: str
    why: str

    @property
    def holder(self) -> int:
        """The version that keeps the record: the one moved to, or the one that the alias was taken from."""
        held = self.from_ if self.to is None else self.to
        assert held is not None, "an alias that moves from nowhere to nowhere"
        return held

    def tag(self, done: bool) -> str:
        """The tag's name; in the order of time."""
        return f"{_DONE if done else _BEGUN}{self.when:017.6f}.{self.alias}"

    @property
    def text(self) -> str:
        """The tag's value."""
        told = {"when": self.when, "alias": self.alias, "from": self.from_, "to": self.to, "by": self.by}
        return json.dumps(told | {"why": self.why[:_LONGEST_WHY]}, ensure_ascii=False)


def from_tags(tags: Mapping[str, str], done: bool) -> tuple[Move, ...]:
    """The moves that a version's tags tell of, oldest first: those that are done, or only begun."""
    prefix = _DONE if done else _BEGUN
    told = [json.loads(value) for name, value in sorted(tags.items()) if name.startswith(prefix)]
    return tuple(Move(t["when"], t["alias"], t["from"], t["to"], t["by"], t["why"]) for t in told)


def person() -> str:
    """Who runs this process: `user@host`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def was_done(begun: Move, standing: Mapping[str, int]) -> bool:
    """Whether the process that began a move came to move the alias.

    Args:
        begun: the move.
        standing: alias -> the version that it is on.
    """
    return standing.get(begun.alias) == begun.to


def unrecorded(
    moves: Iterable[Move], aliases: Iterable[str], standing: Mapping[str, int], now: float
) -> Iterator[Move]:
    """What was moved by others, as far as the aliases tell: they are not where their last move went.

    Args:
        moves: that were done, oldest first.
        aliases: to look at.
        standing: alias -> the version that it is on.
        now: seconds since the epoch.
    """
    last = {move.alias: move.to for move in moves}
    for alias in aliases:
        if last.get(alias) != standing.get(alias):
            yield Move(now, alias, last.get(alias), standing.get(alias), "unknown", _UNRECORDED)


def of_versions(versions: Iterable[Version], standing: Mapping[str, int]) -> list[Move]:
    """All moves that were done, oldest first, those of a killed process and of before this was recorded too.

    Args:
        versions: all of them.
        standing: alias -> the version that it is on.
    """
    versions = list(versions)
    moves = [move for version in versions for move in version.moves]
    begun = [move for version in versions for move in version.begun if was_done(move, standing)]
    moves += [move for move in begun if move not in moves]
    recorded = {(move.when, move.to) for move in moves}
    earlier = sorted(
        (when, v.number) for v in versions for when in v.promoted if (when, v.number) not in recorded
    )
    before: int | None = None
    for when, number in earlier:
        moves.append(Move(when, CHAMPION, before, number, "unknown", _LEGACY))
        before = number
    return sorted(moves, key=lambda move: move.when)
