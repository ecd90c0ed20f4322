import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.ingest.cells import BAD, LARGEST_FLOAT32, float_cell, int_cell, parse_column

INT_CELLS = {
    "3": 3,
    "-3": -3,
    "+3": 3,
    " 3\t": 3,
    "007": 7,
    "3.0": 3,
    "-3.00": -3,
    "3.": 3,
    "1e3": 1000,
    "9223372036854775807": 2**63 - 1,
    "-9223372036854775808.0": -(2**63),
    "9223372036854775808": BAD,
    "99999999999999999999.0": BAD,
    "3.7": BAD,
    "abc": BAD,
    "+-3": BAD,
    "1,000": BAD,
    "1_000": BAD,
    "inf": BAD,
    "1e-3": BAD,
    "٣": BAD,
    "nan": None,
    "NULL": None,
    "N/A": None,
    " ": None,
    "none": BAD,
}
FLOAT_CELLS = {
    "3": 3.0,
    "-0.5": -0.5,
    ".5": 0.5,
    "5.": 5.0,
    "+3": 3.0,
    " 3.25 ": 3.25,
    "1e5": 1e5,
    "1e-400": 0.0,
    str(LARGEST_FLOAT32): LARGEST_FLOAT32,
    "3.5e38": BAD,
    "1e999": BAD,
    "inf": BAD,
    "-Infinity": BAD,
    "abc": BAD,
    "1,5": BAD,
    "1_000.0": BAD,
    "NaN": None,
    "-nan": None,
    "null": None,
    "\t": None,
}


@pytest.mark.parametrize(("text", "value"), INT_CELLS.items())
def test_int_cell(text, value):
    assert int_cell(text) is value or int_cell(text) == value


@pytest.mark.parametrize(("text", "value"), FLOAT_CELLS.items())
def test_float_cell(text, value):
    assert float_cell(text) is value or float_cell(text) == value


@given(
    st.sampled_from(["INT", "FLOAT"]),
    st.lists(
        st.one_of(
            st.none(),
            st.sampled_from([*INT_CELLS, *FLOAT_CELLS, "0x1F"]),
            st.integers().map(str),
            st.floats().map(str),
            st.text(" +-.0123eE", min_size=1, max_size=6),
        ),
        max_size=8,
    ),
)
def test_a_cell_never_depends_on_its_neighbours(kind, texts):
    values, bad = parse_column(pa.array(texts, pa.string()), kind)
    one = int_cell if kind == "INT" else float_cell
    alone = [None if text is None else one(text) for text in texts]
    assert values.to_pylist() == [None if value is BAD else value for value in alone]
    assert (bad.to_pylist() if bad else [False] * len(texts)) == [value is BAD for value in alone]


def test_text_stays_as_it_is():
    cells = pa.array(["NULL", " a ", None, "é"])
    assert parse_column(cells, "BYTES") == (cells, None)
