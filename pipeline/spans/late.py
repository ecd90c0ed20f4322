"""What differs, in spans that were learned, from what was learned; and spans that came after their time."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from components.errors import RetrainError
from components.ingest.fingerprint import fingerprint
from components.promote.logic import FILES_FILE
from components.promote.registry import Version
from pipeline.config import Deployment
from pipeline.spans import plan
from pipeline.spans.pattern import Pattern

_NAMES_TOLD = 3


class Identity(NamedTuple):
    """What is known of a file: enough to see, most often without reading it, that it is the same.

    Attributes:
        size: bytes.
        mtime: nanoseconds since the epoch.
        hash: of its name and content, as `components.ingest.fingerprint` gives it.
    """

    size: int
    mtime: int
    hash: str


Files = Mapping[str, Identity]
"""A span's files, by their name below `data.path`."""


def identify(root: Path, files: Iterable[Path]) -> dict[str, Identity]:
    """Reads every file.

    Args:
        root: `data.path`.
        files: below it.
    """
    found = {}
    for file in files:
        size, mtime = _stat(file)  # before it is read: what is written meanwhile looks changed later
        found[name_of(root, file)] = Identity(size, mtime, fingerprint([str(file)]))
    return found


def digest(spans: Mapping[int, Files]) -> str:
    """32 hexadecimal characters that change with the files' names or content and with nothing else."""
    content = {span: {name: known.hash for name, known in files.items()} for span, files in spans.items()}
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


def name_of(root: Path, file: Path) -> str:
    return os.path.relpath(file, root)


def _stat(file: Path) -> tuple[int, int]:
    try:
        stat = os.stat(file)
    except OSError as error:
        raise RetrainError(f"{file}: cannot be read ({error.strerror})") from None
    return stat.st_size, stat.st_mtime_ns


class Memory:
    """Hashes of files that were copied or touched since they were learned, so that each is read once.

    Args:
        path: of the file that keeps them; it is only a memory, and may be lost.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        known = json.loads(path.read_text()) if path.exists() else {}
        self._known = {file: Identity(*identity) for file, identity in known.items()}
        self._changed = False

    def hash(self, file: Path, size: int, mtime: int) -> str:
        """Of the file, which has this size and time."""
        known = self._known.get(str(file))
        if known is None or known[:2] != (size, mtime):
            known = self._known[str(file)] = Identity(size, mtime, fingerprint([str(file)]))
            self._changed = True
        return known.hash

    def save(self) -> None:
        """Writes what is new, where this process may write; forgets files that are gone."""
        if self._changed and os.access(self._path.parent, os.W_OK):
            known = {file: identity for file, identity in self._known.items() if os.path.exists(file)}
            aside = self._path.with_name(f".{self._path.name}.{os.getpid()}")
            aside.write_text(json.dumps(known))
            aside.rename(self._path)


@dataclass(frozen=True)
class Late:
    """A span that would have to be learned again, or later than its successors, to be learned as it is.

    Attributes:
        span: its number.
        version: that learned it; None: it came when later spans had been learned already.
        new, changed, gone: the files that differ from what was learned.
    """

    span: int
    version: int | None
    new: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()

    def to_json(self, pattern: Pattern) -> dict[str, Any]:
        return {**asdict(self), "date": pattern.date(self.span) or None}

    def describe(self, pattern: Pattern) -> str:
        """A line for a person."""
        name = f"span {pattern.label([self.span])}"
        if self.version is None:
            return (
                f"{name} came late, with {len(self.new)} file{'s' * (len(self.new) != 1)}: later spans are "
                f"learned already (`retrain run --span {self.span}` learns it)"
            )
        what = [
            f"{len(names)} {kind} ({', '.join(names[:_NAMES_TOLD])}{', ...' * (len(names) > _NAMES_TOLD)})"
            for kind, names in (("new", self.new), ("changed", self.changed), ("gone", self.gone))
            if names
        ]
        return (
            f"{name} is no longer what version {self.version} learned: {', '.join(what)} "
            f"(`retrain run --span {self.span} --again` learns it again)"
        )


def find_late(
    deployment: Deployment,
    on_disk: Mapping[int, Sequence[Path]],
    champion: Version | None,
    versions: Sequence[Version],
    after: Collection[int],
) -> list[Late]:
    """Every late span, ascending.

    A span without any file is not late: data need not be kept for ever. Costs a look at
    size and time of each file of the learned spans; read are only files that were touched.

    Args:
        deployment: the configuration.
        on_disk: the spans and their files.
        champion: the served version.
        versions: all versions.
        after: the spans that came when later ones had been learned, as `plan.pending` finds them.
    """
    root, memory = deployment.data.path, _memory(deployment)
    known = plan.learned(versions, champion)
    learners = {version.number: version for version in known.values()}
    records = {number: learned_files(version) for number, version in learners.items()}
    found = []
    for span, files in on_disk.items():
        if not files:
            continue
        if span in after:
            found.append(Late(span, None, new=tuple(name_of(root, file) for file in files)))
        elif span in known:
            learned = records[known[span].number].get(span)
            # Where the version's record is gone there is nothing to compare with.
            late = compare(span, known[span].number, learned, files, root, memory) if learned else None
            if late:
                found.append(late)
    memory.save()
    return found


def changed_since(deployment: Deployment, span: int, version: Version, files: Sequence[Path]) -> bool:
    """Whether a span's files differ from what a version learned, or may: its record is gone."""
    learned, memory = learned_files(version).get(span), _memory(deployment)
    late = compare(span, version.number, learned, files, deployment.data.path, memory) if learned else None
    memory.save()
    return learned is None or late is not None


def _memory(deployment: Deployment) -> Memory:
    return Memory(deployment.state / "hashes.json")


def learned_files(version: Version) -> dict[int, Files]:
    """Span -> the files that a version learned; empty where its record is gone."""
    path = Path(version.uris.get("record", "")) / FILES_FILE
    if not path.exists():
        return {}
    return {
        int(span): {name: Identity(*identity) for name, identity in files.items()}
        for span, files in json.loads(path.read_text()).items()
    }


def compare(
    span: int, version: int, learned: Files, now: Sequence[Path], root: Path, memory: Memory
) -> Late | None:
    """How a span differs from what was learned; None: it does not.

    Args:
        span: its number.
        version: that learned it.
        learned: its files then.
        now: its files.
        root: `data.path`.
        memory: of hashes; asked for files of the same size and another time.
    """
    names = {name_of(root, file): file for file in now}
    changed = []
    for name in sorted(names.keys() & learned.keys()):
        size, mtime = _stat(names[name])
        known = learned[name]
        if size == known.size and (
            mtime == known.mtime or memory.hash(names[name], size, mtime) == known.hash
        ):
            continue
        changed.append(name)
    new, gone = sorted(names.keys() - learned.keys()), sorted(learned.keys() - names.keys())
    return Late(span, version, tuple(new), tuple(changed), tuple(gone)) if new or changed or gone else None
