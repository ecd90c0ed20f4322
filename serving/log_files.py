"""The files of the prediction log: TFRecord, rotated, bounded, and whole whenever a process may be killed."""

import contextlib
import fcntl
import os
import time
from io import FileIO
from pathlib import Path

import google_crc32c

SUFFIX = ".tfrecord"
_HEADER_BYTES = 12
_CHECKSUM_BYTES = 4
_MASK = 0xA282EAD8


def framed(record: bytes) -> bytes:
    """A record as TFRecord has it: its length, the length's masked CRC-32C, its bytes, and theirs.

    (tensorflow/core/lib/io/record_writer.h. TensorFlow's own writer holds back what a kill would lose, and
    does not say how long the file is.)
    """
    length = len(record).to_bytes(8, "little")
    return b"".join((length, _checksum(length), record, _checksum(record)))


def whole_records(data: bytes) -> int:
    """The length of the whole records that `data` begins with, in bytes."""
    end = 0
    while end + _HEADER_BYTES <= len(data):
        begin = end + _HEADER_BYTES
        after = begin + int.from_bytes(data[end : end + 8], "little")
        if data[end + 8 : begin] != _checksum(data[end : end + 8]):
            break
        if data[after : after + _CHECKSUM_BYTES] != _checksum(data[begin:after]):
            break
        end = after + _CHECKSUM_BYTES
    return end


def _checksum(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return (((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF).to_bytes(_CHECKSUM_BYTES, "little")


class LogFiles:
    """One writer's files in a folder that other writers may share.

    A file is `NAME-YYYYmmddTHHMMSS-PID-N.tfrecord` (UTC), with a dot before it while it is written; the
    writer holds a lock on it (flock), which the kernel lets go of when the process ends. So a file with a
    dot and no lock was left by a process that was killed.

    Args:
      folder: made if it is not there.
      name: begins the files' names.
      file_bytes: a file ends before it is longer than this, unless by one record alone.
      file_seconds: a file ends at this age.
      max_bytes: of the folder: the oldest closed files go before a new one would lead beyond it.
    """

    def __init__(self, folder: Path, name: str, file_bytes: int, file_seconds: float, max_bytes: int) -> None:
        self._folder, self._name = folder, name
        self._file_bytes, self._file_seconds, self._max_bytes = file_bytes, file_seconds, max_bytes
        self._file: FileIO | None = None
        self._path = folder  # Of the open file, without its dot.
        self._size = 0
        self._opened = 0.0
        self._number = 0

    def recover(self) -> int:
        """Closes the files of processes that were killed. Returns how many of them had a torn end.

        Raises:
          OSError: the folder cannot be made, read or written.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        torn = 0
        for path in sorted(self._folder.glob(f".*{SUFFIX}")):
            with contextlib.suppress(FileNotFoundError), open(path, "r+b", buffering=0) as file:
                if not _lock(file):
                    continue  # Its writer lives.
                data = file.readall()
                whole = whole_records(data)
                torn += whole < len(data)
                _close(file, path.with_name(path.name[1:]), whole)
        return torn

    def append(self, record: bytes) -> int:
        """Writes a record, whole or not at all. Returns its length in the file.

        Raises:
          OSError: there is no room, or no right to write; the next call tries another file.
        """
        data = memoryview(framed(record))
        if self._file is not None and self._size + len(data) > self._file_bytes:
            self.close()
        file = self._file or self._open()
        written = 0
        try:
            while written < len(data):
                written += file.write(data[written:]) or 0
        except OSError:
            self.close()
            raise
        self._size += len(data)
        return len(data)

    @property
    def seconds_left(self) -> float | None:
        """Until the open file is to be closed; None where none is open."""
        return None if self._file is None else self._opened + self._file_seconds - time.monotonic()

    def close(self) -> None:
        """Gives the open file its name, if there is one.

        Raises:
          OSError: somebody took it away.
        """
        file, self._file = self._file, None
        if file is not None:
            with file:
                _close(file, self._path, self._size)

    def _open(self) -> FileIO:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._make_room()
        start = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        while True:
            self._number += 1
            path = self._folder / f"{self._name}-{start}-{os.getpid()}-{self._number}{SUFFIX}"
            try:
                # In containers that share a folder every process may have the same id.
                file = FileIO(_open_path(path), "x")
            except FileExistsError:
                continue
            # Between the two lines above, another process may have taken it for one of the dead.
            if _lock(file) and _is_at(file, _open_path(path)) and not path.exists():
                break
            file.close()
            _open_path(path).unlink(missing_ok=True)
        self._file, self._path, self._size, self._opened = file, path, 0, time.monotonic()
        return file

    def _make_room(self) -> None:
        """Removes the oldest closed files, until a new one has room."""
        sizes: dict[Path, tuple[float, int]] = {}
        for path in self._folder.glob(f"*{SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):  # Another writer makes room, too.
                stat = path.stat()
                sizes[path] = (stat.st_mtime, stat.st_size)
        total = sum(size for _, size in sizes.values())
        for path in sorted(sizes, key=lambda path: sizes[path][0]):
            if total + self._file_bytes <= self._max_bytes:
                return
            if not path.name.startswith("."):
                path.unlink(missing_ok=True)
                total -= sizes[path][1]


def _open_path(path: Path) -> Path:
    return path.with_name(f".{path.name}")


def _lock(file: FileIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(file: FileIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _close(file: FileIO, path: Path, size: int) -> None:
    """Cuts a file off after its whole records, and gives it its name; one without any goes."""
    if os.fstat(file.fileno()).st_size != size:
        file.truncate(size)
    if size:
        _open_path(path).rename(path)
    else:
        _open_path(path).unlink(missing_ok=True)
