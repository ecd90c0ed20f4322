import bisect

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from components.ingest.split import SPLIT_BUCKETS, row_hashes
from components.ingest.split import is_eval as is_eval_of

ROWS = st.lists(
    st.tuples(
        st.none() | st.integers(-(2**63), 2**63 - 1),
        st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False),
        st.none() | st.text(min_size=1, max_size=3),
    ),
    min_size=1,
    max_size=8,
)


def is_eval(columns, rows, share):
    return is_eval_of(row_hashes(columns, rows), share)


def columns_of(rows):
    ints, floats, texts = zip(*rows, strict=True)
    return [pa.array(ints, pa.int64()), pa.array(floats, pa.float64()), pa.array(texts, pa.string())]


@given(ROWS, st.permutations(range(8)))
def test_a_row_alone_decides(rows, order):
    order = [place for place in order if place < len(rows)]
    whole = is_eval(columns_of(rows), len(rows), 0.5)
    assert (
        is_eval([c.take(pa.array(order)) for c in columns_of(rows)], len(rows), 0.5).tolist()
        == whole[order].tolist()
    )


@given(ROWS)
def test_types_and_lists_of_one_change_nothing(rows):
    ints, floats, texts = columns_of(rows)
    lists = [
        pa.array([None if one is None else [one] for one in column.to_pylist()], pa.list_(column.type))
        for column in (ints, floats, texts)
    ]
    other = [ints, floats.cast(pa.float32()), texts.cast(pa.large_binary())]
    expected = is_eval([ints, floats, texts], len(rows), 0.5).tolist()
    for same in (lists, other):
        assert is_eval(same, len(rows), 0.5).tolist() == expected


def test_everything_in_a_row_counts():
    def bucket(*columns):
        """The share at which the one row comes into eval: its hash."""
        shares = range(1, SPLIT_BUCKETS + 1)
        return bisect.bisect_left(shares, True, key=lambda i: is_eval(columns, 1, i / SPLIT_BUCKETS)[0])

    one, two, none = pa.array([1]), pa.array([2]), pa.array([None], pa.int64())
    rows = [
        (one, two),
        (two, one),
        (none, one),
        (one, none),
        (none, none),
        (one, pa.array([[2, 3]])),
        (one, pa.array([[3, 2]])),
        (one, pa.array([[2, 2]])),
        (one, pa.array(["2"])),
        (one, pa.array([2.5])),
    ]
    assert len({bucket(*row) for row in rows}) == len(rows)
    assert bucket(pa.array([0.0])) == bucket(pa.array([-0.0]))


def test_share():
    numbers = pa.array(np.arange(20_000))
    eval_rows = is_eval([numbers], 20_000, 0.3)
    assert 0.29 < eval_rows.mean() < 0.31
    assert not is_eval([numbers], 20_000, 0.0).any() and is_eval([numbers], 20_000, 1.0).all()
    assert (eval_rows <= is_eval([numbers], 20_000, 0.4)).all()  # a larger share keeps what was in eval
