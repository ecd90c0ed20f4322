import datetime as dt
import decimal

import numpy as np
import pyarrow as pa
import pytest

from components.errors import RetrainError
from components.ingest import values
from components.ingest.values import check_type, only_values, read_values, why_bad

NOON = dt.datetime(2013, 3, 9, 12)
SECONDS = 1362830400
BERLIN = pa.timestamp("ns", "Europe/Berlin")  # an hour ahead of UTC
CASES = {
    "int8": (pa.array([1, None], pa.int8()), {"INT": [1, None], "FLOAT": [1.0, None], "BYTES": [b"1", None]}),
    "uint64": (pa.array([2**63 - 1], pa.uint64()), {"INT": [2**63 - 1], "BYTES": [b"9223372036854775807"]}),
    "bool": (
        pa.array([True, False, None]),
        {"INT": [1, 0, None], "FLOAT": [1.0, 0.0, None], "BYTES": [b"true", b"false", None]},
    ),
    "float64": (
        pa.array([3.0, float("nan"), None]),
        {"INT": [3, None, None], "FLOAT": [3.0, None, None], "BYTES": [b"3.0", None, None]},
    ),
    "fraction": (pa.array([0.1, 1e-05, 1e16]), {"BYTES": [b"0.1", b"1e-05", b"1e+16"]}),
    "float32": (pa.array([0.1, 2], pa.float32()), {"BYTES": [b"0.1", b"2.0"]}),
    "float16": (
        pa.array([np.float16(1.5), None], pa.float16()),
        {"FLOAT": [1.5, None], "BYTES": [b"1.5", None]},
    ),
    "infinity": (pa.array([float("inf")]), {"BYTES": [b"inf"]}),
    "decimal": (
        pa.array([decimal.Decimal("3.00"), None]),
        {"INT": [3, None], "FLOAT": [3.0, None], "BYTES": [b"3.00", None]},
    ),
    "text": (
        pa.array([" 3 ", "NULL", "", None]),
        {
            "INT": [3, None, None, None],
            "FLOAT": [3.0, None, None, None],
            "BYTES": [b" 3 ", b"NULL", None, None],
        },
    ),
    "large text": (pa.array(["3.0"], pa.large_string()), {"INT": [3], "FLOAT": [3.0], "BYTES": [b"3.0"]}),
    "text view": (pa.array(["3"], pa.string_view()), {"INT": [3], "BYTES": [b"3"]}),
    "dictionary": (
        pa.array(["a", None, "", "a"]).dictionary_encode(),
        {"BYTES": [b"a", None, None, b"a"]},
    ),
    "dictionary of numbers": (pa.array(["3", "4", "3"]).dictionary_encode(), {"INT": [3, 4, 3]}),
    "binary": (pa.array([b"3", b"", None]), {"INT": [3, None, None], "BYTES": [b"3", None, None]}),
    "any bytes": (pa.array([b"\xff\xfe"], pa.large_binary()), {"BYTES": [b"\xff\xfe"]}),
    "bytes of one size": (pa.array([b"ab"], pa.binary(2)), {"BYTES": [b"ab"]}),
    "date": (
        pa.array([dt.date(2013, 3, 9), None]),
        {"INT": [SECONDS - 43200, None], "FLOAT": [SECONDS - 43200.0, None], "BYTES": [b"2013-03-09", None]},
    ),
    "date in milliseconds": (pa.array([dt.date(2013, 3, 9)], pa.date64()), {"BYTES": [b"2013-03-09"]}),
    "time": (
        pa.array([NOON, None], pa.timestamp("ns")),
        {"INT": [SECONDS, None], "FLOAT": [float(SECONDS), None], "BYTES": [b"2013-03-09T12:00:00", None]},
    ),
    "time in seconds": (pa.array([NOON], pa.timestamp("s")), {"BYTES": [b"2013-03-09T12:00:00"]}),
    "time with a fraction": (
        pa.array([NOON + dt.timedelta(milliseconds=500)], pa.timestamp("us")),
        {"INT": [SECONDS], "FLOAT": [SECONDS + 0.5], "BYTES": [b"2013-03-09T12:00:00.5"]},
    ),
    "time before 1970": (
        pa.array([dt.datetime(1969, 12, 31, 23, 59, 59, 500000)], pa.timestamp("ms")),
        {"INT": [-1], "FLOAT": [-0.5]},
    ),
    "time with a zone": (
        pa.array([SECONDS * 10**9]).cast(BERLIN),
        {"INT": [SECONDS], "BYTES": [b"2013-03-09T12:00:00"]},
    ),
    "nothing": (pa.nulls(2), {"INT": [None, None], "FLOAT": [None, None], "BYTES": [None, None]}),
    "list": (pa.array([[1, None, 2], [], None, [None]]), {"INT": [[1, 2], None, None, None]}),
    "large list": (
        pa.array([[1.5], [float("nan"), 2]], pa.large_list(pa.float32())),
        {"FLOAT": [[1.5], [2.0]]},
    ),
    "list of one size": (
        pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int16(), 2)),
        {"FLOAT": [[1, 2], None, [3, 4]]},
    ),
    "list of text": (pa.array([["a", "", "b"], [""]]), {"BYTES": [[b"a", b"b"], None]}),
}


@pytest.mark.parametrize(
    ("column", "kind", "expected"),
    [
        pytest.param(column, kind, expected, id=f"{name} to {kind}")
        for name, (column, by_kind) in CASES.items()
        for kind, expected in by_kind.items()
    ],
)
def test_values(column, kind, expected):
    check_type("x", column.type)
    padded = pa.concat_arrays([column[:1], column])[1:]  # a slice, whose offset must not count
    for each in (column, padded):
        found, bad = read_values(each, kind)
        plain = pa.list_(values.TYPES[kind]) if pa.types.is_list(found.type) else values.TYPES[kind]
        assert bad is None and found.cast(plain).to_pylist() == expected


BAD = {
    "3.5 is not an INT": (pa.array([1.0, 3.5, None]), "INT"),
    "3.1 is not an INT": (pa.array([1.0, 3.1, None], pa.float32()), "INT"),
    "inf is not an INT": (pa.array([1.0, float("inf"), None]), "INT"),
    "1e+300 is not an INT": (pa.array([1.0, 1e300, None]), "INT"),
    "9.223372036854776e+18 is not an INT": (pa.array([1.0, 2.0**63, None]), "INT"),
    "9223372036854775808 is not an INT": (pa.array([1, 2**63, None], pa.uint64()), "INT"),
    "-inf is not a FLOAT": (pa.array([1.0, float("-inf"), None]), "FLOAT"),
    "1e+39 is not a FLOAT": (pa.array([1.0, 1e39, None]), "FLOAT"),
    "'abc' is not a FLOAT": (pa.array(["1", "abc", None]), "FLOAT"),
    "'yes' is not an INT": (pa.array(["1", "yes", None]).dictionary_encode(), "INT"),
    "'�' is not an INT": (pa.array([b"1", b"\xff", None]), "INT"),
    "'x' is not an INT": (pa.array([["1"], ["2", "x", "y"], None]), "INT"),
    "0.5 is not an INT": (pa.array([[1.0], [0.5], []]), "INT"),
    "1.50 is not an INT": (pa.array([decimal.Decimal("1"), decimal.Decimal("1.50"), None]), "INT"),
}


@pytest.mark.parametrize(
    ("reason", "column", "kind"), [(reason, *case) for reason, case in BAD.items()], ids=list(BAD)
)
def test_what_would_lose_something_is_bad(reason, column, kind):
    found, bad = read_values(column, kind)
    assert bad.to_pylist() == [False, True, False] and why_bad(column, 1, kind) == reason
    assert found[0].is_valid and not found[2].is_valid


@pytest.mark.parametrize(
    "found",
    [
        pa.struct([("a", pa.int64())]),
        pa.map_(pa.string(), pa.int64()),
        pa.list_(pa.list_(pa.int64())),
        pa.list_(pa.struct([("a", pa.int64())])),
        pa.time64("us"),
        pa.duration("s"),
    ],
    ids=str,
)
def test_types_that_are_no_values(found):
    with pytest.raises(RetrainError, match=r"^column 'x' is of type .*; required is text"):
        check_type("x", found)


def test_one_value_of_a_list():
    lists, _ = read_values(pa.array([[1], None, [2, 3], [], [4]])[1:], "INT")
    found, several = only_values(lists)
    assert found.to_pylist() == [None, 2, None, 4] and several.to_pylist() == [False, True, False, False]
    assert only_values(pa.array([1, None])) == (pa.array([1, None]), None)
