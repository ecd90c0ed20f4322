"""TFRecord files that somebody else is still writing, rotating and removing.

`components/ingest/tfrecord_file.py` reads files that are whole, or refuses them; here a file grows, a torn
end is to be expected, and what can be read is read.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

SUFFIX = ".tfrecord"
_HEADER_BYTES = 12
_CHECKSUM_BYTES = 4
_BEGUN = re.compile(r"-(\d{8}T\d{6})-\d+-(\d+)\.tfrecord$")


@dataclass
class Cursor:
    """How far a log has been read, and what was not readable; `read` goes on from it.

    Attributes:
        offsets: file, by its name once it is closed -> the end of the records read.
        torn: closed files that end within a record, or go on with what is none.
        corrupt: records whose bytes are not those of their checksum, or are no PredictionLog.
        other: records that hold no prediction of a label, such as those of embeddings.
    """

    offsets: dict[str, int] = field(default_factory=dict)
    torn: int = 0
    corrupt: int = 0
    other: int = 0

    def to_json(self) -> dict[str, Any]:
        return {"torn": self.torn, "corrupt": self.corrupt, "other": self.other}


@dataclass(frozen=True)
class _File:
    """A file of a log.

    Attributes:
        path: where it is now.
        name: once it is closed; until then a dot is before it.
        written: when it was last, in unix seconds.
    """

    path: Path
    name: str
    written: float

    @property
    def order(self) -> tuple[Any, ...]:
        """Files by when they were begun, as their names say it; others first, by when they were written."""
        begun = _BEGUN.search(self.name)
        return (1, begun[1], int(begun[2]), self.name) if begun else (0, self.written, self.name)


def log_files(folder: Path, since: float = 0.0) -> list[str]:
    """The names that a log's files have once they are closed, oldest first.

    Args:
        folder: of the log; may not be there yet.
        since: files last written before this time, in unix seconds, are left out.
    """
    return [file.name for file in _files(folder) if file.written >= since]


def new_records(folder: Path, cursor: Cursor, since: float = 0.0, only: str | None = None) -> Iterator[bytes]:
    """The records behind a cursor, oldest file first, also of the files that are being written.

    A record counts as read when the next one is asked for.

    Args:
        folder: of the log; may not be there yet.
        cursor: goes along, and forgets files that are gone.
        since: files last written before this time, in unix seconds, are passed over.
        only: the one file to read; None: all.
    """
    files = _files(folder)
    names = {file.name for file in files}
    cursor.offsets = {
        name: end for name, end in cursor.offsets.items() if name in names or _is_there(folder, name)
    }
    for file in files:
        if file.written < since or only not in (None, file.name):
            continue
        with contextlib.suppress(FileNotFoundError), _open(file) as raw:
            for end, record in _records(raw, file.name, cursor):
                if record is not None:
                    yield record
                cursor.offsets[file.name] = end


def _files(folder: Path) -> list[_File]:
    found = {}
    for path in sorted(folder.glob(f"*{SUFFIX}")):  # what is open before what is closed
        # Closed since it was listed, it comes in the next round; removed, it does not.
        with contextlib.suppress(FileNotFoundError):
            name = path.name.removeprefix(".")
            found[name] = _File(path, name, path.stat().st_mtime)
    return sorted(found.values(), key=lambda file: file.order)


def _is_there(folder: Path, name: str) -> bool:
    """Whether a file is there that a listing did not have: one that is renamed meanwhile may be in none."""
    return (folder / f".{name}").exists() or (folder / name).exists()


def _open(file: _File) -> BinaryIO:
    try:
        return open(file.path, "rb")
    except FileNotFoundError:
        return open(file.path.with_name(file.name), "rb")  # closed in this very moment


def _records(raw: BinaryIO, name: str, cursor: Cursor) -> Iterator[tuple[int, bytes | None]]:
    """(its end, a record) behind the cursor; None for a damaged record, and for the rest of a torn file."""
    end = cursor.offsets.get(name, 0)
    raw.seek(end)
    while header := raw.read(_HEADER_BYTES):
        if header[8:] != _checksum(header[:8]):
            break  # Behind this nobody knows where a record begins.
        length = int.from_bytes(header[:8], "little")
        body = raw.read(length + _CHECKSUM_BYTES)
        if len(body) < length + _CHECKSUM_BYTES:
            break
        end += len(header) + len(body)
        whole = body[length:] == _checksum(body[:length])
        cursor.corrupt += not whole
        yield end, body[:length] if whole else None
    if header and not Path(raw.name).name.startswith("."):  # else its writer is not done with it
        cursor.torn += 1
        yield raw.seek(0, os.SEEK_END), None


def _checksum(data: bytes) -> bytes:
    """The masked CRC-32C, as TFRecord has it (tensorflow/core/lib/io/record_writer.h)."""
    import google_crc32c

    crc = google_crc32c.value(data)
    return (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(_CHECKSUM_BYTES, "little")
