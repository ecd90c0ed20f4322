"""The spans on disk and their files, as `data.pattern` finds them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import RetrainError
from pipeline.spans import pattern as patterns
from pipeline.spans.pattern import Pattern

if TYPE_CHECKING:
    from pipeline.config.sections import Data


def find_spans(data: Data) -> dict[int, list[Path]]:
    """Every span on disk with its files, both ascending; a span's folder may be empty.

    Of a span with versions only the files of the highest count. Files and folders whose name begins
    with a dot or an underscore, or ends with .tmp, are left alone: they are being written.

    Raises:
        RetrainError: a folder is missing or cannot be listed, two names stand for one span, or a name
            for a date that there is not.
    """
    pattern = patterns.parse(data.pattern)
    parent = data.path / pattern.head
    if not parent.is_dir():
        raise RetrainError(
            f"data.path: no folder {parent}. Put the spans into {data.path}, as {data.pattern} "
            "(`retrain split` makes them of a table with a time column)"
        )
    try:
        return {
            span: sorted({Path(file) for place in places for file in _files(place, pattern)})
            for span, places in sorted(_places(str(parent), pattern).items())
        }
    except OSError as error:
        raise RetrainError(f"data.path: {error.filename} cannot be listed ({error.strerror})") from None


def _files(place: str, pattern: Pattern) -> Iterator[str]:
    return (file for _, file in _walk(place, pattern.parts[pattern.version :], to_files=True))


def _places(parent: str, pattern: Pattern) -> dict[int, list[str]]:
    """Span -> the folders (or the files, where a file's name says all) of its highest version."""
    found: dict[int, dict[int, list[str]]] = {}
    spelled: dict[tuple[int, ...], tuple[Mapping[str, str], str]] = {}

    def refuse_twice(key: tuple[int, ...], digits: Mapping[str, str], path: str) -> None:
        first, there = spelled.setdefault(key, (digits, path))
        if first != digits:
            names = " and ".join(os.path.relpath(one, parent) for one in (there, path))
            what = f"span {key[0]}" + (f", version {key[1]}," if len(key) > 1 else "")
            raise RetrainError(f"{what} is there twice: {names} in {parent}; remove one")

    to_span, to_version = pattern.parts[: pattern.span], pattern.parts[pattern.span : pattern.version]
    last = len(pattern.parts)
    for digits, folder in _walk(parent, to_span, to_files=pattern.span == last):
        try:
            span = pattern.number(digits)
        except ValueError:
            raise RetrainError(
                f"data.path: {os.path.relpath(folder, parent)} in {parent} is no date from 1970 on, read as "
                f"{pattern.text}; rename it, or take it away"
            ) from None
        refuse_twice((span,), {name: text for name, text in digits.items() if name != "VERSION"}, folder)
        versions = found.setdefault(span, {})
        for more, place in _walk(folder, to_version, to_files=pattern.version == last):
            written = {**digits, **more}
            version = int(written.get("VERSION", 0))
            refuse_twice((span, version), written, place)
            versions.setdefault(version, []).append(place)
    return {span: versions[max(versions)] if versions else [] for span, versions in found.items()}


def _walk(
    place: str, parts: Sequence[re.Pattern[str] | None], to_files: bool
) -> Iterator[tuple[dict[str, str], str]]:
    """What the parts of a pattern lead to: (digits by the name of their {SPEC}, path).

    Args:
        place: where they begin; without parts it is itself what they lead to.
        parts: a name for each step down.
        to_files: the last part is a file's, not a folder's.
    """
    if not parts:
        yield {}, place
        return
    part, rest = parts[0], parts[1:]
    if part is None:
        yield from _walk(place, rest, to_files)
    with os.scandir(place) as listing:
        entries = sorted((e for e in listing if not _unfinished(e.name)), key=lambda entry: entry.name)
    for entry in entries:
        if part is None:
            if entry.is_dir(follow_symlinks=False):  # a link may lead back up
                yield from _walk(entry.path, parts, to_files)
            continue
        match, is_last = part.fullmatch(entry.name), to_files and not rest
        if match and (entry.is_file() if is_last else entry.is_dir()):
            for digits, path in _walk(entry.path, rest, to_files):
                yield {**match.groupdict(), **digits}, path


def _unfinished(name: str) -> bool:
    return name[0] in "._" or name.endswith(".tmp")
