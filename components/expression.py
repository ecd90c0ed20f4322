"""Expressions such as `delay > 0.2 * planned`: parsed once against a whitelist, evaluated on columns.

This module is read by the configuration, so it imports neither Beam nor TFX nor TensorFlow, and pyarrow
only to evaluate.
"""

from __future__ import annotations

import ast
import difflib
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from components.errors import RetrainError

if TYPE_CHECKING:
    import pyarrow as pa

ALLOWED = (
    "allowed are column names (in `backticks` where a name is not a plain identifier), numbers, 'text', "
    "+ - * /, comparisons, and, or, not, unary minus and parentheses"
)
INVISIBLE = " \t\r\n\u00a0\ufeff"  # around a name: blanks, and byte order marks
MAX_CHARACTERS = 2000
MAX_DEPTH = 50  # keeps every recursion here far from Python's limit

_ARITHMETIC = {ast.Add: "add", ast.Sub: "subtract", ast.Mult: "multiply", ast.Div: "divide"}
_COMPARISONS = {
    ast.Eq: "equal",
    ast.NotEq: "not_equal",
    ast.Lt: "less",
    ast.LtE: "less_equal",
    ast.Gt: "greater",
    ast.GtE: "greater_equal",
}
_CONNECTIVES = {ast.And: "and_kleene", ast.Or: "or_kleene"}
_QUOTED_OR_EQUAL = re.compile(
    r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|`(?P<name>[^`]*)`|(?<![=!<>:])(?P<equal>=)(?!=)"""
)
_PLACEHOLDER = "_quoted_column_{}_"


@dataclass(frozen=True)
class Expression:
    """A checked expression over columns.

    Attributes:
        text: as it was written.
        columns: the names that it uses, in order of first use; at least one.
    """

    text: str
    columns: tuple[str, ...]
    _tree: ast.expr = field(repr=False, compare=False)
    _names: Mapping[str, str] = field(repr=False, compare=False)  # placeholder -> name in backticks

    def evaluate(self, columns: Mapping[str, pa.Array]) -> pa.Array:
        """The expression's value for every row.

        Nulls go through as in SQL: arithmetic and comparisons with a null are null; `and`, `or` and `not`
        follow three-valued logic (`null and false` is false). Arithmetic is done in float64; a division by
        zero, or a result that is not finite, is null.

        Args:
            columns: an array of integers, floats or text for every name in `self.columns`, all of one length.

        Returns:
            An array of that length: int64 of 0 and 1 for a truth value, float64 for arithmetic, and for a
            bare column name that column's own type (numbers only).

        Raises:
            RetrainError: a name is no column, or an operation does not fit its operands' types, such as a
                comparison of text with a number.
        """
        import pyarrow as pa

        value = self._value(columns)
        if _kind(value) == "truth":
            return value.cast(pa.int64())
        if _kind(value) != "number":
            raise RetrainError(
                f"expression {self.text!r} gives text; expected is a number or a truth value: "
                f"compare the text with a value, as in {self.text} == '...'"
            )
        return value

    def holds(self, columns: Mapping[str, pa.Array]) -> pa.Array:
        """Whether the expression, which must give a truth value, is true of each row; null is not true.

        Args and errors are those of `evaluate`; a number is no truth value.
        """
        value = self._value(columns)
        if _kind(value) != "truth":
            raise RetrainError(
                f"expression {self.text!r} gives a {_kind(value)}; expected is a condition: compare it with "
                f"a value, as in {self.text} == ..."
            )
        return value.fill_null(False)

    def _value(self, columns: Mapping[str, pa.Array]) -> Any:
        for name in self.columns:
            if name not in columns:
                raise RetrainError(
                    f"expression {self.text!r}: {name!r} is no column of the schema"
                    f"{closest(name, columns)}; the columns are {', '.join(sorted(columns))}"
                )
        return _Evaluation(self, columns).of(self._tree)


def parse(text: str) -> Expression:
    """Reads and checks an expression; nothing is evaluated.

    >>> parse("delay > 0.2 * planned").columns
    ('delay', 'planned')
    >>> parse("`class` == 'UP'").columns
    ('class',)

    One = compares, too, as in SQL.

    Raises:
        RetrainError: it is no expression, holds a piece that is not allowed, or names no column; the message
            quotes the piece and lists what is allowed.
    """
    if len(text) > MAX_CHARACTERS:
        raise RetrainError(
            f"expression: {len(text)} characters, at most {MAX_CHARACTERS} are read; "
            "compute it into a column of its own instead"
        )
    source, names = _as_python(text.strip().replace("\n", " "))
    try:
        tree = ast.parse(source, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise RetrainError(f"expression {text!r} cannot be read ({reason}); {ALLOWED}") from None
    check = _Check(text, source, names)
    check.visit(tree, depth=0)
    if not check.columns:
        raise RetrainError(f"expression {text!r} names no column, so it would be the same for every row")
    return Expression(text, tuple(check.columns), tree, names)


def closest(name: str, options: Collection[str]) -> str:
    """` (did you mean 'price'?)` for the option nearest to `name`, or nothing where none is near."""
    near = difflib.get_close_matches(name, options, n=1)
    if not near:  # a change of case alone can be too far for difflib
        near = [option for option in options if _seen(option) == _seen(name)][:1]
    return f" (did you mean {near[0]!r}?)" if near else ""


def _seen(name: str) -> str:
    return name.strip(INVISIBLE).casefold()


def _as_python(text: str) -> tuple[str, dict[str, str]]:
    """Replaces names in backticks by identifiers that Python reads, and says which stands for which; and = by
    ==."""
    names: dict[str, str] = {}

    def replace(match: re.Match[str]) -> str:
        if match["equal"]:
            return "=="
        if match["name"] is None:  # text in quotes, which may hold a backtick
            return match.group()
        if not match["name"]:
            raise RetrainError(f"expression {text!r}: the name between two backticks is empty")
        placeholder = _PLACEHOLDER.format(len(names))
        names[placeholder] = match["name"]
        return placeholder

    return _QUOTED_OR_EQUAL.sub(replace, text), names


class _Check:
    """Walks a tree, refuses what is not on the whitelist and gathers the columns."""

    def __init__(self, text: str, source: str, names: Mapping[str, str]):
        self.text, self.source, self.names = text, source, names
        self.columns: dict[str, None] = {}  # a dict keeps the order

    def visit(self, node: ast.expr, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise RetrainError(f"expression {self.text!r} is nested deeper than {MAX_DEPTH}")
        for child in self._operands(node):
            self.visit(child, depth + 1)

    def _operands(self, node: ast.expr) -> list[ast.expr]:
        match node:
            case ast.Name():
                self.columns[self.names.get(node.id, node.id)] = None
                return []
            case ast.Constant() if _is_plain(node.value):
                return []
            case ast.UnaryOp(op=ast.USub() | ast.Not()):
                return [node.operand]
            case ast.BinOp() if type(node.op) in _ARITHMETIC:
                return [node.left, node.right]
            case ast.BoolOp():
                return node.values
            case ast.Compare() if all(type(operator) in _COMPARISONS for operator in node.ops):
                return [node.left, *node.comparators]
        raise RetrainError(f"expression {self.text!r}: {self._piece(node)!r} is not allowed; {ALLOWED}")

    def _piece(self, node: ast.expr) -> str:
        piece = ast.get_source_segment(self.source, node) or type(node).__name__
        for placeholder, name in self.names.items():
            piece = piece.replace(placeholder, f"`{name}`")
        return piece


def _is_plain(value: object) -> bool:
    """Whether a constant is text, a finite float or an integer of 64 bits (True, None, 3j, b'' are not)."""
    match value:
        case bool():
            return False
        case int():
            return -(2**63) <= value < 2**63
        case float():
            return math.isfinite(value)
    return isinstance(value, str)


class _Evaluation:
    """One evaluation: a checked tree over one set of columns."""

    def __init__(self, expression: Expression, columns: Mapping[str, pa.Array]):
        self.expression, self.columns = expression, columns

    def of(self, node: ast.expr) -> Any:  # a pa.Array, or a pa.Scalar where no column is involved
        import pyarrow as pa
        import pyarrow.compute as pc

        match node:
            case ast.Name():
                return self.columns[self.expression._names.get(node.id, node.id)]
            case ast.Constant():
                return pa.scalar(node.value)
            case ast.UnaryOp(op=ast.Not()):
                return pc.invert(self._operand(node.operand, "truth", "not"))
            case ast.UnaryOp():
                return pc.negate(self._float(node.operand, "-"))
            case ast.BinOp():
                return self._arithmetic(_ARITHMETIC[type(node.op)], node)
            case ast.BoolOp():
                word = "and" if isinstance(node.op, ast.And) else "or"
                values = [self._operand(value, "truth", word) for value in node.values]
                return _chain(_CONNECTIVES[type(node.op)], values)
            case ast.Compare():
                return self._compare(node)
        raise AssertionError(f"{node} passed the check")

    def _compare(self, node: ast.Compare) -> Any:
        import pyarrow.compute as pc

        values = [self.of(operand) for operand in (node.left, *node.comparators)]
        steps = []
        for left, operator, right in zip(values, node.ops, values[1:], strict=False):
            if _kind(left) != _kind(right) or _kind(left) == "truth":
                raise self._misfit(f"compares a {_kind(left)} with a {_kind(right)}")
            steps.append(pc.call_function(_COMPARISONS[type(operator)], [left, right]))
        return _chain("and_kleene", steps)

    def _arithmetic(self, function: str, node: ast.BinOp) -> Any:
        import pyarrow as pa
        import pyarrow.compute as pc

        left, right = (self._float(operand, function) for operand in (node.left, node.right))
        result = pc.call_function(function, [left, right])
        return pc.if_else(pc.is_finite(result), result, pa.scalar(None, pa.float64()))

    def _float(self, node: ast.expr, operation: str) -> Any:
        import pyarrow as pa

        return self._operand(node, "number", operation).cast(pa.float64(), safe=False)

    def _operand(self, node: ast.expr, kind: str, operation: str) -> Any:
        value = self.of(node)
        if _kind(value) != kind:
            raise self._misfit(f"{operation!r} wants a {kind}, and got a {_kind(value)}")
        return value

    def _misfit(self, what: str) -> RetrainError:
        types = ", ".join(f"{name} is {_kind(self.columns[name])}" for name in self.expression.columns)
        return RetrainError(
            f"expression {self.expression.text!r}: {what} ({types}); "
            "compare text with 'text' and numbers with numbers"
        )


def _chain(function: str, values: list[Any]) -> Any:
    import pyarrow.compute as pc

    result = values[0]
    for value in values[1:]:
        result = pc.call_function(function, [result, value])
    return result


def _kind(value: Any) -> str:
    import pyarrow as pa

    if pa.types.is_boolean(value.type):
        return "truth"
    return "number" if pa.types.is_integer(value.type) or pa.types.is_floating(value.type) else "text"
