"""nginx's access log, line by line, each read once; it is renamed before it grows large."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipeline.canary.nginx_config import ACCESS_LOG
from pipeline.canary.tally import Request

LARGEST = 64 << 20
"""Bytes from which on the log is renamed; with the one before it, twice as many are kept."""
_LOGS = (ACCESS_LOG, "error.log")


@dataclass
class Place:
    """How far the log was read.

    Attributes:
        inode: of the file; 0: nothing was read.
        offset: in bytes.
    """

    inode: int = 0
    offset: int = 0


def end(folder: Path) -> Place:
    """Where the log ends now."""
    file = folder / ACCESS_LOG
    if not file.exists():
        return Place()
    found = file.stat()
    return Place(found.st_ino, found.st_size)


def requests(folder: Path, place: Place) -> Iterator[Request]:
    """The requests behind a place, which goes along.

    A file that was renamed is read to its end before the one that took its place.
    """
    current, renamed = folder / ACCESS_LOG, folder / f"{ACCESS_LOG}.1"
    for file in (renamed, current):
        if not file.exists():
            continue
        with open(file, "rb") as lines:
            inode = file.stat().st_ino
            if file == renamed and inode != place.inode:
                continue
            if inode != place.inode:
                place.inode, place.offset = inode, 0
            yield from _rest(lines, place)


def _rest(lines: BinaryIO, place: Place) -> Iterator[Request]:
    lines.seek(place.offset)
    for line in lines:
        if not line.endswith(b"\n"):  # nginx is writing it
            return
        place.offset += len(line)
        request = parse(line)
        if request is not None:
            yield request


def rotate(folder: Path, place: Place, reopen: Callable[[], None], largest: int = LARGEST) -> None:
    """Renames what has grown large, and has nginx go on in new files.

    Args:
        folder: of the logs.
        place: how far the access log was read; what was renamed before is read before it goes.
        reopen: tells nginx.
        largest: in bytes.
    """
    large = [folder / name for name in _LOGS if (folder / name).exists()]
    large = [file for file in large if file.stat().st_size > largest]
    for file in large:
        if file.name != ACCESS_LOG or file.stat().st_ino == place.inode:
            file.replace(file.with_name(f"{file.name}.1"))
    if large:
        reopen()


def parse(line: bytes) -> Request | None:
    """What a line says; None: it is none of nginx's, such as what a full disk left of one.

    Of several servers that nginx asked one after the other, the first is the pool's own, and what it did is
    what counts: the others mend it. A request has failed with an HTTP status from 400 on, also where that is
    the client's mistake or impatience (499): a challenger that takes what the champion takes has as many of
    those. One over gRPC has with any `grpc-status` but 0.
    """
    try:
        told = json.loads(line)
        statuses = _parts(told["upstream_status"]) or [str(told["status"])]
        seconds = _parts(told["seconds"])
        failed = not statuses[0].isdigit() or int(statuses[0]) >= 400 or told["status"] >= 400
        return Request(
            time=float(told["time"]),
            canary=told["pool"] == "canary",
            failed=failed or told["grpc"] not in ("", "0"),
            seconds=float(seconds[0]) if seconds and seconds[0] != "-" else None,
            bucket=int(told["bucket"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


def _parts(text: str) -> list[str]:
    """The entries of nginx's lists of servers; ` : ` is between groups of them."""
    return [part.strip() for part in text.replace(" : ", ",").split(",") if part.strip()]
