"""What a version is, and how it stands in the tags of an MLflow model version."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

from components.promote.moves import CHAMPION, Move
from components.promote.moves import from_tags as moves_from_tags

Kind = Literal["run", "shadow", "forget"]
"""How a version came to be: it learned new spans; it was trained on everything, from scratch; or it is its
parent without some of the records that the parent remembers."""
KINDS: tuple[Kind, ...] = get_args(Kind)
ARTIFACTS = ("model", "transform_graph", "statistics", "buffer")
"""What the next run reads of a version: its MLMD artifacts, by name."""


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
        rolled_back: why it is not to be served again; empty: it may be, as far as this goes.
        forced: where a person had it served all the same: `by`, `why`, `when` and what spoke against it,
            `although`; else empty.
        collected: where its files were removed: `when`, `by`, `gone`, the names of the artifacts, and
            whether that is `done`; else empty.
        seconds: stage -> how long it took.
        fingerprint: of the content of the files that it learned.
        kind: how it came to be.
        moves: of aliases to it, or off it to no other, oldest first.
        begun: moves that were begun; whether they were done, the alias tells.
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
    rolled_back: str = ""
    forced: Mapping[str, Any] = field(default_factory=dict)
    collected: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    fingerprint: str = ""
    kind: Kind = "run"
    moves: tuple[Move, ...] = ()
    begun: tuple[Move, ...] = ()

    @property
    def gate_reasons(self) -> list[str]:
        """What the gate said."""
        return list(self.record.get("gate", {}).get("reasons", []))

    def tags(self) -> dict[str, str]:
        """The tags that `from_tags` reads back; those that come later are not among them."""
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


def from_tags(number: int, created_ms: int, tags: Mapping[str, str]) -> Version:
    """A version as its tags tell of it."""
    moves = moves_from_tags(tags, done=True)
    earlier = json.loads(tags.get("promoted", "[]"))  # of before moves were recorded
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
        promoted=(*earlier, *(move.when for move in moves if (move.alias, move.to) == (CHAMPION, number))),
        set_aside=tags.get("set_aside", ""),
        rolled_back=tags.get("rolled_back", ""),
        forced=json.loads(tags.get("forced") or "{}"),
        collected=json.loads(tags.get("collected") or "{}"),
        seconds=json.loads(tags.get("seconds", "{}")),
        fingerprint=tags.get("fingerprint", ""),
        kind=cast(Kind, tags.get("kind", "run")),
        moves=moves,
        begun=moves_from_tags(tags, done=False),
    )


def lineage(versions: Iterable[Version], number: int | None) -> list[Version]:
    """A version and its ancestors, itself first."""
    by_number = {version.number: version for version in versions}
    line: list[Version] = []
    while number is not None and number in by_number:
        line.append(by_number[number])
        number = by_number[number].parent
    return line


def refusal(version: Version, versions: Sequence[Version], champion: Version | None) -> str:
    """Why a version is not to be served unless a person insists; empty: it may be.

    What it was made of counts, too: an ancestor that was rolled back comes back with it, unless it is served
    as it is.
    """
    served = {one.number for one in lineage(versions, champion.number if champion else None)}
    for ancestor in lineage(versions, version.number):
        why = ancestor.rolled_back or ancestor.set_aside
        if why and ancestor.number not in served:
            own = ancestor.number == version.number
            return why if own else f"version {version.number} comes from another: {why}"
    if version.blessed or version.forced:
        return ""
    reasons = "; ".join(version.gate_reasons)
    return f"version {version.number} was rejected by the gate" + (f": {reasons}" if reasons else "")
