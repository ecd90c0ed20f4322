"""Reading TFRecord files while they are written, rotated, torn and removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.feedback.records import Cursor, log_files, new_records
from serving.log_files import LogFiles, framed


def write(path: Path, *records: bytes, cut: int = 0) -> Path:
    data = b"".join(map(framed, records))
    path.write_bytes(data[: len(data) - cut])
    return path


def test_each_call_gives_what_is_new(tmp_path: Path) -> None:
    cursor = Cursor()
    assert list(new_records(tmp_path / "not there", cursor)) == []
    files = LogFiles(tmp_path, "taxi", 200, 300.0, 1 << 20)
    found: list[bytes] = []
    for i in range(20):
        files.append(b"%02d" % i * 20)
        if i % 3 == 0:
            found += new_records(tmp_path, cursor)
    files.close()
    found += new_records(tmp_path, cursor)
    assert found == [b"%02d" % i * 20 for i in range(20)]
    assert list(new_records(tmp_path, cursor)) == []
    assert (cursor.torn, cursor.corrupt) == (0, 0)
    assert len(list(tmp_path.iterdir())) == len(cursor.offsets) > 5


def test_a_file_is_the_same_one_when_it_is_closed(tmp_path: Path) -> None:
    cursor, path = Cursor(), write(tmp_path / ".taxi-20260101T000000-1-1.tfrecord", b"a")
    assert list(new_records(tmp_path, cursor)) == [b"a"]
    with open(path, "ab") as file:
        file.write(framed(b"b"))
    path.rename(path.with_name(path.name[1:]))
    assert list(new_records(tmp_path, cursor)) == [b"b"]


def test_a_record_counts_when_the_next_one_is_asked_for(tmp_path: Path) -> None:
    cursor = Cursor()
    write(tmp_path / "a.tfrecord", b"one", b"two")
    records = new_records(tmp_path, cursor)
    assert next(records) == b"one"
    records.close()  # as when the process ends before it is done with the record
    assert list(new_records(tmp_path, cursor)) == [b"one", b"two"]


@pytest.mark.parametrize("cut", [1, 5, 12, 16])
def test_the_end_of_a_file_that_is_being_written_waits(tmp_path: Path, cut: int) -> None:
    cursor, path = Cursor(), write(tmp_path / ".taxi.tfrecord", b"one", b"two", cut=cut)
    assert list(new_records(tmp_path, cursor)) == [b"one"]
    write(path, b"one", b"two")
    assert list(new_records(tmp_path, cursor)) == [b"two"]
    assert cursor.torn == 0


def test_a_torn_closed_file_is_counted_once(tmp_path: Path) -> None:
    cursor = Cursor()
    write(tmp_path / "a.tfrecord", b"one", b"two", cut=3)
    write(tmp_path / "b.tfrecord", b"three")
    assert list(new_records(tmp_path, cursor)) == [b"one", b"three"]
    assert list(new_records(tmp_path, cursor)) == []
    assert (cursor.torn, cursor.corrupt) == (1, 0)


def test_a_damaged_record_is_passed_over_and_a_damaged_length_ends_the_file(tmp_path: Path) -> None:
    cursor, path = Cursor(), write(tmp_path / "a.tfrecord", b"one", b"two", b"three")
    data = bytearray(path.read_bytes())
    data[len(framed(b"one")) + 12] ^= 1
    path.write_bytes(data)
    assert list(new_records(tmp_path, cursor)) == [b"one", b"three"]
    assert (cursor.torn, cursor.corrupt) == (0, 1)
    data[0] ^= 1
    path.with_name("b.tfrecord").write_bytes(data)
    assert list(new_records(tmp_path, cursor)) == []
    assert (cursor.torn, cursor.corrupt) == (1, 1)


def test_files_come_in_the_order_in_which_they_were_begun(tmp_path: Path) -> None:
    names = ["b-20260101T000000-9-2", "a-20260101T000000-9-10", "c-20260102T000000-1-1"]
    for name in reversed(names):
        write(tmp_path / f"{name}.tfrecord", name.encode())
    assert list(new_records(tmp_path, Cursor())) == [name.encode() for name in names]
    assert log_files(tmp_path) == [f"{name}.tfrecord" for name in names]
    assert list(new_records(tmp_path, Cursor(), only=f"{names[1]}.tfrecord")) == [names[1].encode()]


def test_a_cursor_forgets_files_that_are_gone(tmp_path: Path) -> None:
    cursor, path = Cursor(), write(tmp_path / "a.tfrecord", b"one")
    assert list(new_records(tmp_path, cursor)) == [b"one"]
    path.unlink()
    assert list(new_records(tmp_path, cursor)) == [] and cursor.offsets == {}


def test_old_files_are_not_opened(tmp_path: Path) -> None:
    cursor = Cursor()
    path = write(tmp_path / "a.tfrecord", b"one")
    assert list(new_records(tmp_path, cursor, since=path.stat().st_mtime + 1)) == []
    assert cursor.offsets == {} and log_files(tmp_path, path.stat().st_mtime + 1) == []
