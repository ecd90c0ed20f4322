"""The configuration as a file that explains itself."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from components.features import RESERVED
from components.label import Label
from components.names import BOOKKEEPING
from pipeline.init.roles import LABEL, LEAK, Role
from pipeline.init.sizes import Sizes
from pipeline.init.target import Found, identifier

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_YAML_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
_WIDTH = 108  # of a line with its comment, where that can be


def feature_names(columns: Iterable[str], label: str) -> dict[str, str]:
    """Column -> the name of its feature: the column's own, where it is one that a feature can have.

    >>> feature_names(["price", "Unit Price", "unit_price"], "sold")
    {'price': 'price', 'unit_price': 'unit_price', 'Unit Price': 'unit_price_2'}
    """
    names: dict[str, str] = {}
    taken = {name.lower() for name in (*RESERVED, *BOOKKEEPING, label)}
    for column in sorted(columns, key=lambda column: not _PLAIN.fullmatch(column)):
        name = column if _PLAIN.fullmatch(column) else identifier(column)
        if name.lower() in {word.lower() for word in (*RESERVED, *BOOKKEEPING, label)}:
            name = f"{name}_column"
        free, number = name, 2
        while free.lower() in taken:
            free, number = f"{name}_{number}", number + 1
        names[column] = free
        taken.add(free.lower())
    return names


def write_document(
    name: str, source: str, found: Found, why: str, roles: Sequence[Role], sizes: Sizes, spans: str
) -> str:
    """The YAML file.

    Args:
        name: of the deployment.
        source: where it comes from, for its head.
        found: what is predicted.
        why: of the task.
        roles: of the columns.
        sizes: what depends on how much data there is.
        spans: how the data lies in spans.
    """
    used = [role for role in roles if role.used]
    lines = [
        *_comment(
            f"{name}: written by `retrain init` from {source}. It is yours to change; `retrain config "
            "explain` tells every key. Relative paths start from this file's folder."
        ),
        f"name: {_text(name)}",
        f"schema: {_text(f'../schemas/{name}.pbtxt')}",
        f"state: {_text(f'../state/{name}')}",
        "",
        *_comment(f"{spans} A new folder with the next number is what the next `retrain run` learns."),
        "data:",
        f"  path: {_text(f'../data/{name}')}",
        '  pattern: "{SPAN}/*"',
        f"  eval_share: {sizes.eval_share}  # of the rows are not learned, and judge what was",
    ]
    if sizes.max_quarantine_share is not None:
        lines.append(
            f"  max_quarantine_share: {sizes.max_quarantine_share}  # many rows of this data cannot be read"
        )
    lines += ["", *_comment(f"What is predicted: {why}."), "label:", *_label(found.label)]
    lines += [
        "",
        *_comment(
            "What the model sees of the columns. A missing value is no problem: a number has a flag for it, "
            "a category has a term."
        ),
        "preprocessing:",
        "  features:",
        *_features(used, found.label.name),
        *_left_out([role for role in roles if not role.used and role.role != LABEL]),
    ]
    lines += [
        "",
        *_comment(f"For about {sizes.rows:,} rows a span, {sizes.held_out:,} of them held out."),
        "model:",
        *_mapping(sizes.model),
        "training:",
        *_mapping(sizes.training),
        "",
        *_comment("A version starts from the one that is served, so it needs less."),
        "warm_start:",
        *_mapping(sizes.warm_start),
        "",
        *_comment("What is remembered of past spans, for training and for judging."),
        "replay:",
        *_mapping(sizes.replay),
        "",
        *_comment(
            f"A candidate is served only if it keeps to this. min_value: {sizes.gate_why}. The others are "
            "the largest losses against the served version: on new spans, on any past one, on any slice."
        ),
        "gates:",
        "  metrics:",
        f"    {sizes.metric}: {_flow(sizes.gate)}",
        f"  min_examples: {sizes.min_examples}  # with fewer held-out rows nothing is judged",
    ]
    if sizes.slices:
        lines += [
            "",
            *_comment("Each value of these is judged for itself."),
            "slices:",
            *(f"  - [{_text(column)}]" for column in sizes.slices),
        ]
    return "\n".join(lines) + "\n"


def _label(label: Label) -> list[str]:
    lines = [f"  name: {_text(label.name)}", f"  task: {label.task}"]
    if label.expression:
        lines.append(f"  expression: {_text(label.expression)}")
    if label.log:
        lines.append("  log: true  # learn log(1 + y); served and judged in its own unit")
    return lines


def _features(used: Sequence[Role], label: str) -> list[str]:
    names = feature_names([role.column for role in used], label)
    lines = []
    for role in used:
        settings = dict(role.settings or {})
        name = names[role.column]
        if name != role.column:
            settings = {"type": settings.pop("type"), "column": role.column, **settings}
        lines.append((f"    {_text(name)}: {_flow(settings)}", role.why))
    return _aligned(lines)


def _left_out(roles: Sequence[Role]) -> list[str]:
    """Comments on what is no feature, which say how it could be one."""
    if not roles:
        return []
    lines = [
        *_comment(
            "Left out; to use one, remove its `lifecycle_stage: DEPRECATED` from the schema and name it "
            "above:",
            indent=4,
        )
    ]
    for role in roles:
        mark = "LEAK? " if role.role == LEAK else ""
        lines.append(f"    #   {_one_line(role.column)}: {mark}{_one_line(role.why)}")
    return lines


def _aligned(lines: Collection[tuple[str, str]]) -> list[str]:
    """Lines with comments behind them, one under the other as far as that is near."""
    column = min(max((len(line) for line, _ in lines), default=0), 60)
    return [f"{line:<{column}}  # {_one_line(comment)}" for line, comment in lines]


def _mapping(settings: dict[str, Any]) -> list[str]:
    return [f"  {key}: {_flow(value)}" for key, value in settings.items()]


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _text(value) if isinstance(value, str) else json.dumps(value)


def _text(text: str) -> str:
    """Text as YAML has it: bare where nothing else can be meant."""
    if (_PLAIN.fullmatch(text) and text.lower() not in _YAML_WORDS) or re.fullmatch(
        r"(\.\./)[\w./-]*\w", text
    ):
        return text
    return json.dumps(text, ensure_ascii=False)


def _one_line(text: str) -> str:
    """Text that can be in a comment: what would end it is a blank."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _comment(text: str, indent: int = 0) -> list[str]:
    import textwrap

    mark = " " * indent + "# "
    return textwrap.wrap(
        _one_line(text), _WIDTH, initial_indent=mark, subsequent_indent=mark, break_long_words=False
    )
