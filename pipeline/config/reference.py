"""The configuration, told by its own model: every key with its values, its default and its sentence.

`retrain config explain` prints it, and reference_page.py writes docs/configuration.md from it.
"""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from components.errors import RetrainError
from components.settings import Section
from pipeline.config import Deployment
from pipeline.config.problems import file_fields, kinds, without_none

REQUIRED = "required"

_NOUNS: dict[Any, tuple[str, str]] = {  # one, several
    int: ("whole number", "whole numbers"),
    float: ("number", "numbers"),
    str: ("text", "texts"),
    Path: ("path", "paths"),
    bool: ("true or false", "true or false"),
}
_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


@dataclass(frozen=True)
class Entry:
    """One key of a part.

    Attributes:
        key: in its part.
        allowed: the values it may have, in words; empty where it is a part of its own.
        default: as a file would have it, or in words; `REQUIRED` where there is none.
        sentence: what it is for.
        value: with a deployment, what holds there.
        is_set: whether the deployment's file says so.
        below: the keys of the part that it is, or of those that it holds; None: it has a value.
    """

    key: str
    allowed: str
    default: str
    sentence: str
    value: Any = None
    is_set: bool = False
    below: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Part:
    """One section of a file.

    Attributes:
        keys: on the way to it. Without a deployment the last one of a feature or a model is its type.
        sentence: what it is for.
        kind: of a feature or a model, its type.
        entries: its keys, in the model's order.
    """

    keys: tuple[str, ...]
    sentence: str
    kind: str = ""
    entries: tuple[Entry, ...] = ()

    @property
    def name(self) -> str:
        """Its keys as in a file, with NAME for any."""
        *above, last = self.keys or ("",)
        if self.kind and self.kind == last:
            return ".".join([*above, "NAME"] if len(above) > 1 else above)
        return ".".join(self.keys)

    @property
    def values(self) -> list[Entry]:
        """The keys that are no parts themselves."""
        return [entry for entry in self.entries if entry.below is None]


def reference() -> list[Part]:
    """Everything that a file may say."""
    return list(_walk(Deployment, _Place((), "What a deployment is made of.")))


def explain(deployment: Deployment, content: Mapping[str, Any]) -> list[Part]:
    """What holds for a deployment.

    Args:
        deployment: as it was loaded.
        content: of its file.
    """
    gates = deployment.gates.model_copy(update={"metrics": deployment.gate_metrics})
    whole = deployment.model_copy(update={"gates": gates})
    return list(_walk(Deployment, _Place((), "What a deployment is made of.", True, whole, content)))


def narrow(parts: Sequence[Part], key: str) -> list[Part]:
    """What a key is, and what is below it.

    Raises:
        RetrainError: there is no such key.
    """
    wanted = tuple(key.split("."))
    found = []
    for part in parts:
        if part.keys[: len(wanted)] == wanted:
            found.append(part)
        elif entries := tuple(entry for entry in part.values if (*part.keys, entry.key) == wanted):
            found.append(replace(part, entries=entries))
    if not found:
        names = {".".join((*part.keys, entry.key)) for part in parts for entry in part.entries}
        names |= {".".join(part.keys) for part in parts if part.keys}
        close = [name for name in sorted(names) if name.endswith(f".{key}")]
        close = close or difflib.get_close_matches(key, names, 1)
        hint = f"did you mean {close[0]}?" if close else "`retrain config explain` lists all keys"
        raise RetrainError(f"there is no key {key!r}; {hint}")
    return found


@dataclass(frozen=True)
class _Place:
    """Where in a file the walk is: what is there in the model, and with a deployment what holds there."""

    keys: tuple[str, ...]
    sentence: str
    in_deployment: bool = False
    value: Any = None
    content: Any = None

    def below(self, key: str, value: Any, sentence: str) -> _Place:
        return replace(
            self,
            keys=(*self.keys, key),
            sentence=sentence,
            value=value,
            content=self.content.get(key) if self.sets(key) else None,
        )

    def sets(self, key: str) -> bool:
        return isinstance(self.content, Mapping) and key in self.content


def _walk(section: type[Section], here: _Place, kind: str = "") -> Iterator[Part]:
    """A section and those below it."""
    names = {id(field): name for name, field in section.model_fields.items()}
    sentence, entries, parts = here.sentence, [], []
    for key, field in file_fields(section).items():
        if key == "type" and kind:
            sentence = field.description or sentence
            continue
        there = here.below(key, getattr(here.value, names[id(field)], None), field.description or "")
        inner = list(_parts(field.annotation, there))
        parts += inner
        entries.append(
            Entry(
                key=key,
                allowed="" if inner else describe(field.annotation, field.metadata),
                default=_default(field) if not inner or field.is_required() else "",
                sentence=there.sentence,
                value=_plain(there.value),
                is_set=here.sets(key),
                below=there.keys if inner else None,
            )
        )
    yield Part(here.keys, sentence, kind, tuple(entries))
    yield from parts


def _parts(annotation: Any, here: _Place) -> Iterator[Part]:
    """The parts of a file that a field is, or holds; of a plain value none."""
    annotation = without_none(annotation)
    if here.in_deployment and here.value is None:
        return
    if get_origin(annotation) is dict:
        held = get_args(annotation)[1]
        if here.in_deployment and _is_section(held):
            for name, value in here.value.items():
                yield from _parts(held, here.below(str(name), value, here.sentence))
        elif _is_section(held):
            yield from _parts(held, here if kinds(held) else here.below("NAME", None, here.sentence))
    elif tags := kinds(annotation):
        if here.in_deployment:
            yield from _walk(type(here.value), here, here.value.type)
            return
        yield Part(here.keys, here.sentence)
        for tag, section in tags.items():
            yield from _walk(section, here.below(tag, None, here.sentence), tag)
    elif _is_section(annotation):
        yield from _walk(annotation, here)


def _is_section(annotation: Any) -> bool:
    return bool(kinds(annotation)) or (isinstance(annotation, type) and issubclass(annotation, Section))


def describe(annotation: Any, metadata: Iterable[Any] = (), plural: bool = False) -> str:
    """The values that a type allows, in words.

    >>> describe(list[int] | None), describe(Literal["a", "b"])
    ('list of whole numbers', '`a` or `b`')
    """
    annotation = without_none(annotation)
    limits, origin, arguments = dict(_limits(metadata)), get_origin(annotation), get_args(annotation)
    if _is_section(annotation):
        return "`key: value` lines"
    if origin is Annotated:
        return describe(arguments[0], [*arguments[1:], *metadata], plural)
    if origin is Literal:
        *first, last = [f"`{option}`" for option in arguments]
        return f"{', '.join(first)} or {last}" if first else last
    if origin is list:
        least, most = limits.get("min_length", 0), limits.get("max_length")
        count = f"{least} " if least == most else f"at least {least} " if least > 1 else ""
        return f"{'lists' if plural else 'list'} of {count}{describe(arguments[0], plural=True)}"
    if origin is dict:
        value = "value" if arguments[1] is Any else describe(arguments[1])
        return f"lines of `NAME:` {value}"
    if arguments:
        return " or ".join(describe(argument) for argument in arguments)
    bounds = [f"{words} {limits[name]:.15g}" for name, words in _BOUNDS.items() if name in limits]
    if limits.keys() == {"ge", "le"}:
        bounds = [f"from {limits['ge']:.15g} to {limits['le']:.15g}"]
    pattern = [f"matching `{limits['pattern']}`"] if "pattern" in limits else []
    return ", ".join([_NOUNS[annotation][plural], *bounds, *pattern])


def _limits(metadata: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    for item in metadata:
        if isinstance(item, FieldInfo):
            yield from _limits(item.metadata)
        for name in (*_BOUNDS, "min_length", "max_length", "pattern"):
            if (limit := getattr(item, name, None)) is not None:
                yield name, limit


def _default(field: FieldInfo) -> str:
    if isinstance(field.json_schema_extra, dict):  # one that depends on something else, in words
        return str(field.json_schema_extra["default"])
    return REQUIRED if field.is_required() else yaml_text(field.default)


def yaml_text(value: Any) -> str:
    """A value as a YAML file has it, on one line; `none` for what is left out."""
    if value is None:
        return "none"
    text = yaml.safe_dump(_plain(value), default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def _plain(value: Any) -> Any:
    """A value as YAML and JSON have it."""
    if isinstance(value, Section):
        return value.model_dump(mode="json", by_alias=True)
    if isinstance(value, Mapping):
        return {key: _plain(held) for key, held in value.items()}
    return str(value) if isinstance(value, Path) else value


def to_json(parts: Iterable[Part], in_deployment: bool) -> Iterator[dict[str, Any]]:
    """One object a key that has a value."""
    for part in parts:
        for entry in part.values:
            required = entry.default == REQUIRED
            told = {
                "key": ".".join(filter(None, (part.name, entry.key))),
                "type": part.kind or None,
                "allowed": entry.allowed.replace("`", ""),
                "default": None if required else entry.default,
                "required": required,
                "sentence": entry.sentence,
            }
            yield told | ({"value": entry.value, "set": entry.is_set} if in_deployment else {})


def to_text(parts: Iterable[Part], in_deployment: bool, width: int = 80) -> str:
    """For a terminal: each key with its default or, in a deployment, with its value; * is set in its file."""
    lines: list[str] = []
    for part in parts:
        if not part.values and not part.kind:
            continue
        kind = f", type {part.kind}" if part.kind else ""
        lines += ["", *_wrap(f"{part.name or 'At the top'}{kind}: {part.sentence}", "", width)]
        for entry in part.values:
            value = yaml_text(entry.value) if in_deployment else entry.default
            more = [entry.allowed.replace("`", "")]
            if entry.is_set:
                more.append(f"default {entry.default}" if entry.default != REQUIRED else REQUIRED)
            lines += _wrap(f"{'*' if entry.is_set else ' '} {entry.key}: {value}", " " * 6, width)
            lines += _wrap(f"      {entry.sentence} ({'; '.join(more)})", " " * 6, width)
    return "\n".join(lines[1:])


def _wrap(text: str, indent: str, width: int) -> list[str]:
    return textwrap.wrap(
        text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
