"""CSV text as bytes: where rows begin and end, and on which physical line.

The rules are those of pyarrow's CSV parser, so that both see the same rows: cells are separated by commas;
a quote has a meaning only as the first character of a cell; a quoted cell may hold line breaks, and a
quote in it is doubled; a row ends with \\n, \\r\\n or \\r; a line without a character is no row.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from typing import IO

import numpy as np

from components.errors import RetrainError

BLOCK_BYTES = 4 << 20  # about 40,000 rows of 100 bytes: what one worker parses at a time
MAX_ROW_BYTES = 16 << 20
UTF8_BOM = b"\xef\xbb\xbf"
GZIP_MAGIC = b"\x1f\x8b"

_CELL = rb'(?:"[^"]*+(?:""[^"]*+)*+"|(?!"))[^,\r\n]*+'
_ROW = rb"(?:" + _CELL + rb",)*+" + _CELL
_WHOLE_ROWS = re.compile(rb"(?:" + _ROW + rb"(?:\r\n|\n|\r(?!\Z)))*+")
_ONE_ROW = re.compile(rb"(" + _ROW + rb")(?:\r\n|\n|\r|\Z)")


def count_lines(text: bytes) -> int:
    """How many physical lines `text` has; a last one without a line break counts.

    >>> count_lines(b"a\\r\\n\\nb")
    3
    """
    return _count_breaks(text) + (bool(text) and not text.endswith((b"\n", b"\r")))


def whole_rows(text: bytes) -> int:
    """The length of the longest prefix of `text`, the start of a row, that ends behind a row's line break.

    >>> whole_rows(b'1,2\\n3,"4\\n')
    4
    """
    if b'"' in text:
        match = _WHOLE_ROWS.match(text)
        return match.end() if match else 0
    # A final \r may be the first half of \r\n.
    return max(text.rfind(b"\n"), text.rfind(b"\r", 0, len(text) - 1)) + 1


def row_spans(text: bytes) -> list[tuple[int, int, int]]:
    """(begin, end, line) of every row in `text`, which holds whole rows: offsets in bytes without the line
    break, and the physical line that the row begins on, counted from 0."""
    spans = []
    line = 0
    for match in _ONE_ROW.finditer(text):
        begin, end = match.span(1)
        if end > begin:
            spans.append((begin, end, line))
        line += 1 + (_count_breaks(text[begin:end]) if text.find(b'"', begin, end) >= 0 else 0)
    return spans


def row_lines(text: bytes, rows: int) -> np.ndarray:
    """The physical line of every row in `text`, int64 of shape [rows], counted from 0.

    Args:
        text: whole rows.
        rows: how many there are.
    """
    if rows == count_lines(text):  # neither blank lines nor line breaks inside of cells
        return np.arange(rows, dtype=np.int64)
    return np.array([line for _, _, line in row_spans(text)], dtype=np.int64)


def read_header(text: bytes) -> tuple[list[str], int]:
    """The column names in the first row of `text`, and the number of bytes up to the next row.

    Byte order marks and blank lines before the header are skipped. Without any row: ([], len(text)).

    Raises:
        UnicodeDecodeError: the header is not UTF-8.
    """
    begin = 0
    while text.startswith(UTF8_BOM, begin):  # one too many, where a file was converted twice
        begin += len(UTF8_BOM)
    for match in _ONE_ROW.finditer(text, begin):
        row = match.group(1)
        if row:
            return next(csv.reader(io.StringIO(row.decode("utf-8"), newline=""))), match.end()
    return [], len(text)


def decompressed(raw: IO[bytes], name: str = "") -> tuple[IO[bytes], bool]:
    """The content of a file, and whether it is gzipped: seen from its first bytes, not from its name.

    Args:
        raw: the file at its beginning; it can seek.
        name: the file's name.

    Raises:
        RetrainError: the name ends in .gz and the content is not gzip.
    """
    magic = raw.read(len(GZIP_MAGIC))
    raw.seek(0)
    if magic == GZIP_MAGIC:
        return gzip.GzipFile(fileobj=raw), True  # type: ignore[return-value]
    if magic and name.endswith(".gz"):
        raise RetrainError(
            f"not gzip, although its name ends in .gz: it begins with the bytes {magic.hex(' ')}, gzip with "
            "1f 8b; compress it, or take .gz off its name"
        )
    return raw, False


def check_utf8(text: bytes, first_line: int) -> None:
    """Raises RetrainError, with the physical line, where `text` is not UTF-8.

    Args:
        text: whole rows.
        first_line: the line in the file that they begin on, from 0.
    """
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first_line + count_lines(text[: error.start] + b".")
        around = text[max(error.start - 20, 0) : error.start + 20]
        raise RetrainError(
            f"not UTF-8 on line {line:,}: byte 0x{text[error.start]:02x} in {around!r}; convert the file, "
            "for example with iconv -f LATIN1 -t UTF-8"
        ) from None


def blocks(stream: IO[bytes], size: int = BLOCK_BYTES) -> Iterator[tuple[int, int, bytes]]:
    """Cuts a stream at the ends of rows, reading `size` bytes at a time.

    Yields:
        (offset in bytes, physical line counted from 0, text) of every block; together they are the stream.

    Raises:
        RetrainError: the gzip stream is damaged or truncated, a row is longer than `MAX_ROW_BYTES`, or a
            quoted cell is not closed at the end. Messages do not name the file.
    """
    offset = line = 0
    rest = b""
    while chunk := read_bytes(stream, size):
        text = rest + chunk
        cut = whole_rows(text)
        if len(text) - cut > max(MAX_ROW_BYTES, size):
            raise RetrainError(_endless(text[cut:], line + _count_breaks(text[:cut])))
        if cut:
            yield offset, line, text[:cut]
            offset, line = offset + cut, line + _count_breaks(text[:cut])
        rest = text[cut:]
    if rest:
        if b'"' in rest and whole_rows(rest + b"\n") != len(rest) + 1:
            raise RetrainError(_endless(rest, line))
        yield offset, line, rest


def read_bytes(stream: IO[bytes], size: int) -> bytes:
    """The next `size` bytes, or fewer at the end.

    Raises:
        RetrainError: the gzip stream is damaged or truncated.
    """
    try:
        return stream.read(size)
    except EOFError:
        raise RetrainError("the gzip file is truncated: it ends before its end mark; copy it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise RetrainError(f"the gzip file is damaged ({error}); copy it again") from None


def _count_breaks(text: bytes) -> int:
    breaks = text.count(b"\n")
    if b"\r" in text:
        breaks += text.count(b"\r") - text.count(b"\r\n")
    return breaks


def _endless(row: bytes, line: int) -> str:
    begin = row[:80].decode("utf-8", errors="replace")
    return (
        f"the row on line {line + 1:,} does not end within {MAX_ROW_BYTES >> 20} MiB or the file; it begins "
        f"{begin!r}. Most likely a cell begins with a quote that is never closed: close or double it"
    )
