"""What is wrong with a deployment's file, told by its keys: what was seen, and what is allowed."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from components.settings import Section
from pipeline.config.yaml_file import shown

_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text (in quotes, where it looks like something else)",
    "invalid_key": "text (in quotes, where it looks like something else)",
    "string_too_short": "at least one character",
    "bool_type": "true or false",
    "path_type": "a path",
    "list_type": "a list",
    "dict_type": "`key: value` lines",
    "model_type": "`key: value` lines",
    "model_attributes_type": "`key: value` lines",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "string_pattern_mismatch": "text that matches {pattern}",
    "too_short": "at least {min_length}",
    "too_long": "at most {max_length}",
}
_UNIONS = (Union, types.UnionType)
_OURS = re.compile(r"[\w.]+: ")  # a key that a validator of ours names, below the place it stands at


@dataclass(frozen=True)
class _Place:
    """A place in the file.

    Attributes:
        keys: on the way to it.
        allowed: the keys that are allowed where the last one is.
        sentence: what it is for.
        kinds: of a section that a `type` tells apart, the types.
    """

    keys: tuple[str, ...]
    allowed: tuple[str, ...]
    sentence: str
    kinds: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join(self.keys)


def explain(root: type[Section], problems: Sequence[Any]) -> list[str]:
    """Lines for pydantic's problems with a file of `root`: the key, what was seen, what is allowed."""
    groups: dict[tuple[_Place, bool], list[Any]] = {}
    for problem in problems:
        key = (_locate(root, problem["loc"]), problem["loc"][-1:] == ("[key]",))
        groups.setdefault(key, []).append(problem)
    reached = [place.keys for place, _ in groups]
    lines = []
    for (place, is_key), found in groups.items():
        # Of what may be one thing or another pydantic says why it is neither. Told is why it is not
        # what it looks like, or else all that it could have been.
        deeper = any(keys[: len(place.keys)] == place.keys != keys for keys in reached)
        if deeper and not is_key:
            continue
        lines.append(_line(place, found))
    return lines


def _line(place: _Place, problems: Sequence[Any]) -> str:
    """One line for the problems of one place; of several only what would have been allowed differs."""
    problem = problems[0]
    kind, seen = problem["type"], problem["input"]
    if kind == "extra_forbidden" or (kind == "literal_error" and problem["loc"][-1] == "[key]"):
        allowed = place.allowed
        return f"{place}: unknown key{nearest(place.keys[-1], allowed)} (allowed here: {', '.join(allowed)})"
    if kind == "missing":
        return f"{place}: missing, and has no default. {place.sentence}"
    if kind == "union_tag_not_found":
        return f"{place}.type: missing, expected one of {', '.join(place.kinds)}"
    if kind == "union_tag_invalid":
        tag, tags = seen["type"], place.kinds
        return f"{place}.type: got {shown(tag)}, expected one of {', '.join(tags)}{nearest(tag, tags)}"
    if kind == "value_error":  # a validator of ours, which says it all
        said = str(problem["ctx"]["error"])
        if not place.keys:
            return said
        return f"{place}.{said}" if _OURS.match(said) else f"{place}: {said}"
    expected = " or ".join(_expected(problem) for problem in problems)
    line = f"{place}: got {_seen(problem)}, expected {expected}"
    return line if [p["type"] for p in problems] == ["literal_error"] else f"{line}. {place.sentence}"


def _seen(problem: Any) -> str:
    if problem["type"] in ("too_short", "too_long") and problem["input"]:
        return _entries(problem["ctx"]["actual_length"])
    return shown(problem["input"])


def _expected(problem: Any) -> str:
    """What is allowed where a value is of the wrong type or out of range."""
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "literal_error":
        options = re.findall(r"'(.*?)'", context["expected"])
        if len(options) == 1:
            return str(options[0])
        return f"one of {', '.join(options)}{nearest(problem['input'], options)}"
    if kind in ("too_short", "too_long"):
        limit, length = ("at least", "min_length") if kind == "too_short" else ("at most", "max_length")
        return f"{limit} {_entries(context[length])}"
    return _EXPECTED[kind].format(**context) if kind in _EXPECTED else problem["msg"]


def _entries(count: int) -> str:
    return "one entry" if count == 1 else f"{count} entries"


def nearest(name: object, options: Collection[str]) -> str:
    """`; did you mean this?` for the option nearest to a name, or nothing where none is near."""
    close = difflib.get_close_matches(name.lower(), options, 1) if isinstance(name, str) else []
    return f"; did you mean {close[0]}?" if close else ""


def _locate(root: type[Section], location: Sequence[Any]) -> _Place:
    """A place in the file from pydantic's name for it."""
    here: Any = root
    keys: list[str] = []
    allowed: list[str] = []
    sentence = ""
    for part in location:
        if part == "[key]":
            continue
        if part in (tags := kinds(here)):  # pydantic adds the type, which is no key of the file
            here = tags[part]
            continue
        if isinstance(here, type) and issubclass(here, Section):
            fields = file_fields(here)
            allowed = list(fields)
            if part == "name" and part not in fields:  # the key of a mapping is its entry's name
                continue
            here = fields[part].annotation if part in fields else None
            sentence = (fields[part].description or "") if part in fields else ""
        elif get_origin(here) is dict:
            names, here = get_args(here)
            allowed = list(get_args(names))
        elif get_origin(here) in _UNIONS:  # pydantic adds the branch, which is no key either
            mappings = [member for member in get_args(here) if get_origin(member) is dict]
            here = mappings[0] if str(part).startswith("dict[") else None
            continue
        elif isinstance(part, str) and get_origin(here) is not list:
            continue
        else:
            here = next(iter(get_args(here)), None)
        keys.append(str(part))
        here = without_none(here)
    return _Place(tuple(keys), tuple(allowed), sentence, tuple(kinds(here)))


def without_none(annotation: Any) -> Any:
    """What may be left out, without `None`."""
    members = get_args(annotation)
    if get_origin(annotation) in _UNIONS and type(None) in members:
        rest = [member for member in members if member is not type(None)]
        return rest[0] if len(rest) == 1 else Union[tuple(rest)]  # noqa: UP007
    return annotation


def file_fields(section: type[Section]) -> dict[str, Any]:
    """Key in the file -> pydantic's description of the field; `type` first."""
    fields = {
        field.alias or name: field
        for name, field in section.model_fields.items()
        if not (name == "name" and field.description is None)
    }
    return {key: fields[key] for key in sorted(fields, key=lambda key: key != "type")}


def kinds(annotation: Any) -> Mapping[str, type[Section]]:
    """Of a union of sections that a `type` tells apart: tag -> section; of anything else nothing."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) not in _UNIONS:
        return {}
    members = [m for m in get_args(annotation) if isinstance(m, type) and issubclass(m, Section)]
    return {
        tag: member
        for member in members
        if "type" in member.model_fields
        for tag in get_args(member.model_fields["type"].annotation)
    }
