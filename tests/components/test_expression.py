import math
import subprocess
import sys

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.errors import RetrainError
from components.expression import parse

COLUMNS = {
    "tips": pa.array([3.0, 1.0, None, 2.45]),
    "fare": pa.array([10.0, 10.0, 10.0, 12.25]),
    "n": pa.array([1, 0, 2, None]),
    "word": pa.array(["a", "b", None, ""]),
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tips > 0.2 * fare", [1, 0, None, 0]),  # in float32 the last would be 1
        ("fare - tips / 2 + 1", [9.5, 10.5, None, 12.025]),
        ("n / 2", [0.5, 0.0, 1.0, None]),  # not the integer division that Arrow does
        ("fare / n", [10.0, None, 5.0, None]),
        ("-n < 0", [1, 0, 1, None]),
        ("1 < tips <= 3", [1, 0, None, 1]),
        ("word == 'a'", [1, 0, None, 0]),
        ("not word != 'a'", [1, 0, None, 0]),
        ("tips > 2 and n > 0", [1, 0, None, None]),
        ("n > 5 and tips > 2", [0, 0, 0, None]),  # null and false is false
        ("n > 1 or word == ''", [0, 0, 1, 1]),  # null or true is true
        ("n", [1, 0, 2, None]),
        ("`n` > (0)", [1, 0, 1, None]),
        ("word == '`n`'", [0, 0, None, 0]),
        ("word = 'a' or n=2", [1, 0, 1, None]),  # as in SQL
        ("word != '=' and n >= 1 and n <= 1", [1, 0, 0, None]),
        ("tips\n> 2", [1, 0, None, 1]),
    ],
)
def test_value_of_every_row(text, expected):
    result = parse(text).evaluate(COLUMNS)
    assert result.to_pylist() == expected
    assert result.type == (pa.float64() if any(isinstance(v, float) for v in expected) else pa.int64())


def test_a_condition_does_not_hold_where_a_value_is_missing():
    assert parse("word != 'a'").holds(COLUMNS).to_pylist() == [False, True, False, True]
    for text in ("n", "fare - tips", "word"):
        with pytest.raises(RetrainError, match=r"expected is a condition: compare it with a value, as in"):
            parse(text).holds(COLUMNS)


def test_columns_come_in_order_of_first_use_and_once():
    assert parse("b > a and `the class` == 'b' or b < 1").columns == ("b", "a", "the class")


def test_large_integers_are_compared_exactly():
    assert parse("n == 9007199254740993").evaluate({"n": pa.array([2**53, 2**53 + 1])}).to_pylist() == [0, 1]


@pytest.mark.parametrize(
    ("text", "piece"),
    [
        ("tips ** 2", "tips ** 2"),
        ("max(tips, 1) > 0", "max(tips, 1)"),
        ("fare > 0 and tips.real > 0", "tips.real"),
        ("tips in (1, 2)", "tips in (1, 2)"),
        ("1 if tips else 0", "1 if tips else 0"),
        ("tips[0]", "tips[0]"),
        ("tips > True", "True"),
        ("tips > 3j", "3j"),
        ("tips > 1e999", "1e999"),
        (f"n > {2**63}", str(2**63)),
        ("lambda: tips", "lambda: tips"),
        ("(y := tips) > 1", "y := tips"),
        ("f'{tips}' == ''", "f'{tips}'"),
        ("~`the class`", "~`the class`"),
        ("+n", "+n"),
    ],
)
def test_what_is_not_allowed_is_quoted(text, piece):
    with pytest.raises(RetrainError) as error:
        parse(text)
    assert repr(piece) in str(error.value) and "allowed are column names" in str(error.value)


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("", "cannot be read"),
        ("tips >", "cannot be read"),
        ("tips == = 3", "cannot be read"),
        ("tips := 3", "cannot be read"),
        ("class == 'UP'", "`backticks`"),
        ("tips > ``", "empty"),
        ("1 > 2", "names no column"),
        ("(" * 300 + "tips" + ")" * 300, "cannot be read"),
        ("not " * 60 + "tips", "nested deeper than 50"),
        ("-" * 1500 + "tips", ""),
        ("tips+" * 1000 + "1", "2000"),
    ],
)
def test_what_is_no_expression(text, fact):
    with pytest.raises(RetrainError, match="expression") as error:
        parse(text)
    assert fact in str(error.value)


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("Fare > 1", ["'Fare' is no column", "did you mean 'fare'?"]),
        ("word > 1", ["compares a text with a number", "word is text"]),
        ("tips and fare > 1", ["'and' wants a truth", "got a number"]),
        ("not tips", ["'not' wants a truth"]),
        ("word + 1 > 0", ["'add' wants a number, and got a text"]),
        ("(tips > 1) == (fare > 1)", ["compares a truth with a truth"]),
        ("word", ["gives text", "word == '...'"]),
    ],
)
def test_what_does_not_fit_the_columns(text, facts):
    with pytest.raises(RetrainError) as error:
        parse(text).evaluate(COLUMNS)
    assert all(fact in str(error.value) for fact in facts), str(error.value)


def _numbers():
    leaves = st.sampled_from(["a", "b", "c", "2", "0.5", "0"])
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
            inner.map(lambda t: f"(-{t})"),
        ),
        max_leaves=6,
    )


_values = st.one_of(st.none(), st.floats(-100, 100).map(lambda x: round(x, 2)))


@given(_numbers(), st.lists(st.tuples(_values, _values, _values), min_size=1, max_size=5))
def test_arithmetic_is_pythons_except_that_what_is_no_number_is_null(text, rows):
    columns = {name: pa.array([row[i] for row in rows], pa.float64()) for i, name in enumerate("abc")}
    if not set(text) & set("abc"):
        text = f"({text} + a)"

    def python(row):
        try:
            value = eval(text, {}, dict(zip("abc", row, strict=True)))
        except (TypeError, ZeroDivisionError):
            return None
        return value if value is not None and math.isfinite(value) else None

    assert parse(text).evaluate(columns).to_pylist() == [python(row) for row in rows]


def test_imports_nothing_heavy():
    code = (
        "import sys; from components import expression; expression.parse('a > 1');"
        "sys.exit(bool({'pyarrow', 'apache_beam', 'tfx', 'tensorflow', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
