"""TFRecord files of serialized tf.Examples, plain or gzipped: columns of lists, as the records have them.

A record is its length (uint64), the masked CRC-32C of that, its bytes, and the masked CRC-32C of those; all
little-endian (tensorflow/core/lib/io/record_writer.h).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import pyarrow as pa

from components.errors import RetrainError
from components.ingest import rows
from components.ingest.format import Block, Reason, Rows, as_json, block_bytes

HEADER_BYTES = 12
MAX_RECORD_BYTES = 256 << 20
SNIFFED_RECORDS = 1000
_SNIFFED_BYTES = 1 << 20  # read at a time, to find the columns
_CHECKSUM_BYTES = 4
_NOT_AN_EXAMPLE = ("the record is not a tf.Example", "not a tf.Example")
_LISTS = {
    pa.int64(): pa.list_(pa.int64()),
    pa.float32(): pa.list_(pa.float32()),
    pa.large_binary(): pa.list_(pa.binary()),
}


@dataclass(frozen=True)
class TFRecordFile:
    """A TFRecord file; see `Format`."""

    compressed: bool
    names: None = None
    types: tuple[pa.DataType, ...] = ()
    no_rows: str = "has no record"

    @property
    def format(self) -> str:
        return "tfrecord.gz" if self.compressed else "tfrecord"

    def blocks(self, raw: IO[bytes], size: int) -> Iterator[Block]:
        for offset, number, data in _pieces(raw, size):
            yield Block(offset, len(data), number, data if self.compressed else None)

    def read(self, raw: IO[bytes] | None, block: Block, columns: Sequence[str] | None) -> Iterator[Rows]:
        records = _records(block_bytes(raw, block), block.first)
        found, bad = _decode(records)
        names = sorted(found) if columns is None else columns
        good = np.delete(np.arange(len(records)), bad)
        nothing = pa.nulls(len(good))
        batch = pa.RecordBatch.from_arrays([found.get(name, nothing) for name in names], names=list(names))
        faults: dict[int, Reason] = {block.first + place: _NOT_AN_EXAMPLE for place in bad}
        numbers = block.first + good

        def texts(wanted: Sequence[int]) -> list[str]:
            readable = [number for number in wanted if number not in faults]
            told = dict(
                zip(readable, as_json(batch, np.searchsorted(numbers, readable).tolist()), strict=True)
            )
            for number in faults:
                told[number] = repr(records[number - block.first])[1:]
            return [told[number] for number in wanted]

        yield Rows(batch, numbers, texts, faults, frozenset(found))

    def sniff(self, raw: IO[bytes]) -> dict[str, pa.DataType]:
        """The columns of the first `SNIFFED_RECORDS` records, by name.

        Raises:
            RetrainError: they are damaged.
        """
        types: dict[str, pa.DataType] = {}
        for offset, number, data in _pieces(raw, _SNIFFED_BYTES):
            for piece in self.read(None, Block(offset, len(data), number, data), None):
                for name, kind in zip(piece.batch.schema.names, piece.batch.schema.types, strict=True):
                    if name not in types or pa.types.is_null(types[name]):
                        types[name] = kind
                if number + len(piece.numbers) + len(piece.faults) >= SNIFFED_RECORDS:
                    return dict(sorted(types.items()))
        return dict(sorted(types.items()))


def begins_record(begin: bytes) -> bool:
    """Whether the first `HEADER_BYTES` of a file are those of a TFRecord file."""
    return len(begin) >= HEADER_BYTES and begin[8:12] == _checksum(begin[:8])


def _pieces(raw: IO[bytes], size: int) -> Iterator[tuple[int, int, bytes]]:
    """(offset, number of the first record, whole records) of every piece of a file, of about `size` bytes."""
    raw.seek(0)
    stream, _ = rows.decompressed(raw)
    offset = number = 0
    rest = b""
    while chunk := rows.read_bytes(stream, size):
        data = rest + chunk
        length, count = _whole_records(data, number)
        if count:
            yield offset, number, data[:length]
        offset, number, rest = offset + length, number + count, data[length:]
    if rest:
        raise RetrainError(
            f"the TFRecord file is truncated: it ends within record {number + 1:,}; copy it again, or write "
            "it again"
        )


def _checksum(data: bytes) -> bytes:
    """The masked CRC-32C, as it is stored."""
    import google_crc32c

    crc = google_crc32c.value(data)
    return (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def _whole_records(data: bytes, number: int) -> tuple[int, int]:
    """The length and the number of the whole records that `data` begins with; the first is `number`."""
    begin = count = 0
    while begin + HEADER_BYTES <= len(data):
        if not begins_record(data[begin : begin + HEADER_BYTES]):
            raise _damaged(number + count)
        (length,) = struct.unpack_from("<Q", data, begin)
        if length > MAX_RECORD_BYTES:
            raise RetrainError(
                f"record {number + count + 1:,} has {length:,} bytes, at most {MAX_RECORD_BYTES:,} are read; "
                "write such data into files of their own, and their names into the records"
            )
        end = begin + HEADER_BYTES + length + _CHECKSUM_BYTES
        if end > len(data):
            break
        begin, count = end, count + 1
    return begin, count


def _records(data: bytes, number: int) -> list[bytes]:
    """The records in `data`, which are whole; the first is `number`."""
    records: list[bytes] = []
    begin = 0
    while begin < len(data):
        (length,) = struct.unpack_from("<Q", data, begin)
        end = begin + HEADER_BYTES + length
        record = data[begin + HEADER_BYTES : end]
        if data[end : end + _CHECKSUM_BYTES] != _checksum(record):
            raise _damaged(number + len(records))
        records.append(record)
        begin = end + _CHECKSUM_BYTES
    return records


def _damaged(number: int) -> RetrainError:
    return RetrainError(
        f"the TFRecord file is damaged: the checksum of record {number + 1:,} is not that of its bytes; copy "
        "it again, or write it again"
    )


def _decode(records: list[bytes]) -> tuple[Mapping[str, pa.Array], list[int]]:
    """Columns of the tf.Examples by name, and the places of the records that are none."""
    from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

    try:
        batch = ExamplesToRecordBatchDecoder().DecodeBatch(records)
    except RuntimeError:  # a record that cannot be parsed, or a feature that is not of one kind
        return _decode_one_by_one(records)
    columns = {
        name: column if pa.types.is_null(column.type) else column.cast(_LISTS[column.type.value_type])
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    }
    return columns, []


def _decode_one_by_one(records: list[bytes]) -> tuple[Mapping[str, pa.Array], list[int]]:
    """As `_decode`, slowly; a feature that is not of one kind becomes text."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.example import example_pb2

    examples, bad = [], []
    for place, record in enumerate(records):
        try:
            examples.append(example_pb2.Example.FromString(record).features.feature)
        except DecodeError:
            bad.append(place)
    names = sorted({name for features in examples for name in features})
    columns = {name: _column([features.get(name) for features in examples]) for name in names}
    return columns, bad


def _column(features: Sequence[Any]) -> pa.Array:
    """One feature of every example; None where an example has it not."""
    kinds = [feature.WhichOneof("kind") if feature is not None else None for feature in features]
    values = [
        getattr(feature, kind).value if kind else None for feature, kind in zip(features, kinds, strict=True)
    ]
    found = set(kinds) - {None}
    if not found:
        return pa.nulls(len(values))
    if found == {"int64_list"}:
        return pa.array(values, pa.list_(pa.int64()))
    if found == {"float_list"}:
        return pa.array(values, pa.list_(pa.float32()))
    texts = [
        None if some is None else [_text(value, kind) for value in some]
        for some, kind in zip(values, kinds, strict=True)
    ]
    return pa.array(texts, pa.list_(pa.binary()))


def _text(value: Any, kind: str | None) -> bytes:
    if isinstance(value, bytes):
        return value
    return str(np.float32(value) if kind == "float_list" else value).encode()
