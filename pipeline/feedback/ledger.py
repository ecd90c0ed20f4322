"""What `retrain feedback` remembers from call to call, in `STATE/feedback`.

    current.json       which generation counts, and how far its span is
    spans.jsonl        a line for every span that was written
    7/                 the generation: `waiting` labels, `done` keys, and `rows` that are in no span yet
    7/span             or the file of its span, which has all the rows, until it is in its place

A generation is written whole and never changed; then `current.json` is replaced, and that is the moment in
which all of it counts, its span too: a file of the span that is not in its place by then is put there by the
next call. So no row is lost, and none is written twice, whenever a process is killed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from components.errors import RetrainError
from pipeline.feedback.span_file import remove

_SPANS_KEPT = 10_000
WAITING, DONE, ROWS, SPAN = "waiting", "done", "rows", "span"


@dataclass(frozen=True)
class NewSpan:
    """A span that a generation makes.

    Attributes:
        number: of the span.
        path: its file, below `data.path`.
        rows: how many it has.
        first, last: time of its oldest and newest prediction, in unix seconds.
        versions: version -> how many of the rows it answered.
    """

    number: int
    path: str
    rows: int
    first: float
    last: float
    versions: dict[str, int]


@dataclass(frozen=True)
class Current:
    """What counts.

    Attributes:
        generation: the folder; 0: none yet.
        horizon: predictions up to then have expired, in unix seconds.
        files: path of a file of labels that was read -> its size and time.
        span: that the generation makes, and whose file is not known to be in its place; None: there is none.
    """

    generation: int = 0
    horizon: float = 0.0
    files: dict[str, tuple[int, int]] = field(default_factory=dict)
    span: NewSpan | None = None


class Ledger:
    """The folder.

    Args:
        folder: `STATE/feedback`; made when something is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def current(self) -> Current:
        """What counts.

        Raises:
            RetrainError: the file is damaged.
        """
        file = self._folder / "current.json"
        try:
            found = json.loads(file.read_text())
            span = found["span"] and NewSpan(**found["span"])
            files = {path: (size, mtime) for path, (size, mtime) in found["files"].items()}
            return Current(found["generation"], found["horizon"], files, span)
        except FileNotFoundError:
            return Current()
        except (ValueError, TypeError, KeyError) as error:
            raise RetrainError(
                f"{file} is damaged ({error}); restore {self._folder}, or move it away: then all labels are "
                "read again, and rows that are in a span already are written into another one"
            ) from None

    def files(self, kind: str) -> list[Path]:
        """The Parquet files of the generation that counts."""
        return sorted(self.folder(self.current.generation).glob(f"{kind}-*.parquet"))

    def folder(self, generation: int) -> Path:
        """Of a generation."""
        return self._folder / str(generation)

    def draft(self) -> Path:
        """A fresh folder for the next generation."""
        draft = self._folder / f".{self.current.generation + 1}"
        remove(draft)
        draft.mkdir(parents=True)
        return draft

    def commit(self, draft: Path, current: Current) -> None:
        """Makes a draft count."""
        folder = self.folder(current.generation)
        remove(folder)  # of a call that was killed before its `current.json`
        draft.rename(folder)
        self._write(current)
        self._clean(current.generation)

    def move_span(self, current: Current, span: NewSpan) -> Current:
        """Gives the span that is not in its place another one."""
        moved = replace(current, span=span)
        self._write(moved)
        return moved

    def placed(self, current: Current) -> None:
        """Notes that the span's file is in its place."""
        assert current.span is not None
        manifest = self._folder / "spans.jsonl"
        told = {"generation": current.generation, **asdict(current.span)}
        if json.dumps(told) not in _lines(manifest):
            append_bounded(manifest, [told], _SPANS_KEPT)
        self._write(replace(current, span=None))
        remove(self.payload(current))

    def payload(self, current: Current) -> Path:
        """The file of the generation's span."""
        return self.folder(current.generation) / SPAN

    def _write(self, current: Current) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / "current.json"
        aside = file.with_name(f".{file.name}")
        aside.write_text(json.dumps(asdict(current), indent=1))
        os.replace(aside, file)

    def _clean(self, generation: int) -> None:
        for path in self._folder.iterdir():
            if path.is_dir() and path.name != str(generation):
                remove(path)


def _lines(file: Path) -> Iterator[str]:
    """Of a file that may not be there; a last one that a kill has torn is none of ours."""
    if file.exists():
        yield from file.read_text().splitlines()


def append_bounded(file: Path, rows: list[dict[str, Any]], most: int) -> None:
    """Adds JSON lines to a file, of which the last `most` are kept."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [*_lines(file), *(json.dumps(row, ensure_ascii=False) for row in rows)][-most:]
    aside = file.with_name(f".{file.name}")
    aside.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    os.replace(aside, file)
