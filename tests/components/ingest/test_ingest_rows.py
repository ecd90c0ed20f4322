import io

import pyarrow as pa
import pyarrow.csv
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from components.errors import RetrainError
from components.ingest import rows

csv_like = st.text('ab,"\r\n', max_size=40).map(str.encode)


def texts_of(text: bytes) -> list[bytes]:
    return [text[begin:end] for begin, end, _ in rows.row_spans(text)]


def test_rows_and_their_lines():
    text = b'a,b\r\n\n"c\nd",e\rf,g"h\n\n'
    assert rows.row_spans(text) == [(0, 3, 0), (6, 13, 2), (14, 19, 4)]
    assert texts_of(text) == [b"a,b", b'"c\nd",e', b'f,g"h']
    assert rows.row_lines(text, 3).tolist() == [0, 2, 4]
    assert rows.count_lines(text) == 6


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        (b"1,2\n3,4", 4),
        (b"1,2\r", 0),  # \n may follow
        (b"1,2\r\n3", 5),
        (b'1,"2\n', 0),
        (b'1,2\n"3\n4\n', 4),
        (b'1,2"\n3\n', 7),  # a quote within a cell is a character
        (b'"a"', 0),  # a second quote may follow
        (b'"a""\nb"\n', 8),
        (b"", 0),
    ],
)
def test_whole_rows_end_behind_a_line_break(text, whole):
    assert rows.whole_rows(text) == whole


@pytest.mark.parametrize(
    ("text", "header", "length"),
    [
        (b"a,b\n1,2\n", ["a", "b"], 4),
        (b"\xef\xbb\xbfa,b\r\n1,2", ["a", "b"], 8),
        (b'\xef\xbb\xbf"a, b","c""d"\n', ["a, b", 'c"d'], 17),
        (b"\n\na", ["a"], 3),
        (b"\r\n", [], 2),
        (b"", [], 0),
    ],
)
def test_header(text, header, length):
    assert rows.read_header(text) == (header, length)


@given(csv_like)
@example(b'"""')
@example(b'a"\n"b')
@example(b'""",\n')
def test_rows_are_those_that_pyarrow_sees(text):
    seen: dict[int, str] = {}

    def skip(row):
        seen[row.number - 1] = row.text
        return "skip"

    closed = '"' not in text.decode() or rows.whole_rows(text + b"\n") == len(text) + 1
    if not closed or not text.strip(b"\r\n"):
        return
    table = pa.csv.read_csv(
        io.BytesIO(text),
        pa.csv.ReadOptions(use_threads=False, column_names=["a", "b"]),
        pa.csv.ParseOptions(newlines_in_values=b'"' in text, invalid_row_handler=skip),
    )
    spans = rows.row_spans(text)
    assert len(spans) == table.num_rows + len(seen)
    assert rows.row_lines(text, len(spans)).tolist() == [line for _, _, line in spans]
    ours = texts_of(text)
    assert all(ours[place].decode() == row for place, row in seen.items())


@given(csv_like, st.integers(1, 12))
def test_blocks_cut_at_rows_and_lose_nothing(text, size):
    whole = rows.row_spans(text)
    try:
        found = list(rows.blocks(io.BytesIO(text), size))
    except RetrainError as error:
        assert "never closed" in str(error) and b'"' in text
        return
    assert b"".join(block for _, _, block in found) == text
    spans = [
        (offset + begin, offset + end, first + line)
        for offset, first, block in found
        for begin, end, line in rows.row_spans(block)
    ]
    assert spans == whole


def test_a_quote_that_is_never_closed_is_named_by_its_line():
    text = b'a,b\n1,2\n3,"4\n5,6\n'
    with pytest.raises(RetrainError, match=r"line 3 .*never closed"):
        list(rows.blocks(io.BytesIO(text), 5))


def test_a_row_without_end_is_not_read_into_memory(monkeypatch):
    monkeypatch.setattr(rows, "MAX_ROW_BYTES", 100)
    with pytest.raises(RetrainError, match="line 2"):
        list(rows.blocks(io.BytesIO(b"a\n" + b"x" * 1000), 10))
