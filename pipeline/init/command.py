"""From files to a deployment: everything is written aside, checked, and then renamed into place."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.errors import RetrainError
from components.label import Task
from components.names import BOOKKEEPING
from pipeline.init import document
from pipeline.init.profile import MAX_UNREADABLE, Column, Profile, profile
from pipeline.init.roles import IGNORED, LABEL, LEAK, Role, find_roles
from pipeline.init.sizes import Sizes, fit_sizes
from pipeline.init.target import Found, find_target, identifier, percent
from pipeline.spans.periods import NO_DAY, Calendar, RowCount, days_of, parse_every
from pipeline.spans.split import SplitResult, publish, split_files

SAMPLE_ROWS = 100_000
_MOST_MISSING_LABELS = 0.5
_GROUPS = 5  # spans, from the first on, whose differences are called ordinary
_GROUP_ROWS = 1_000  # of groups drawn at random, where there are no spans
_MANY_SPANS = 12
_WIDE = 500  # columns
_SHOWN = 5  # of many


@dataclass(frozen=True)
class Request:
    """What the user asks for; see the command's options."""

    files: tuple[Path, ...]
    label: str
    time_column: str | None = None
    every: str | None = None
    name: str | None = None
    task: Task | None = None
    folder: Path = Path()
    sample_rows: int = SAMPLE_ROWS
    force: bool = False


@dataclass(frozen=True)
class Written:
    """A deployment that is there now, and what was decided on the way.

    Attributes:
        name: of the deployment.
        config, schema, data: where they are.
        profile, found, roles, sizes: what was seen, and what follows from it.
        spans: their rows, by number.
        spans_said: how the data lies in spans.
        notes: what a person should look at.
    """

    name: str
    config: Path
    schema: Path
    data: Path
    profile: Profile
    found: Found
    roles: list[Role]
    sizes: Sizes
    spans: dict[int, int]
    spans_said: str
    notes: list[str]


def init(request: Request, say: Callable[[str], None] = lambda _: None) -> Written:
    """Makes a deployment of files.

    Args:
        request: what is asked for.
        say: told what begins, for a line of progress.

    Raises:
        RetrainError: the files cannot be learned from as they are asked to, or there is a deployment of
            that name already. Nothing has changed then.
    """
    name = _name(request)
    root = request.folder
    targets = {
        root / "data" / name: "data",
        root / "schemas" / f"{name}.pbtxt": "schema",
        root / "configs" / f"{name}.yaml": "configuration",
    }
    _refuse_overwriting(targets, request.force)
    division = _division(request)
    say(f"reading {', '.join(path.name for path in request.files)}")
    needed = [request.time_column] if request.time_column else []
    seen = profile(request.files, request.label, request.sample_rows, needed)
    _refuse_taken_names(seen)
    found = find_target(seen, request.label, request.task, _MOST_MISSING_LABELS)
    groups = _groups(seen, request.time_column, division)
    say(f"looking at {len(seen.columns):,} columns")
    roles = find_roles(seen, found, request.label, request.time_column)
    if not any(role.used for role in roles):
        reasons = "; ".join(f"{role.column}: {role.why}" for role in roles[:5] if role.role != LABEL)
        raise RetrainError(
            f"no column is left that could foretell {request.label!r} ({reasons or 'there is none'})"
        )
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".init-tmp-", dir=root) as aside:
        staged = {Path(aside) / target.relative_to(root): target for target in targets}
        data, schema_path, config = staged
        say("writing the spans")
        spans, spans_said, notes = _write_spans(request, division, data, seen)
        sizes = fit_sizes(seen, found, roles, list(spans.values()))
        say("inferring the schema, and what drift is ordinary")
        _write_checked(config, schema_path, request, name, seen, found, roles, sizes, spans_said, groups)
        for target in targets:
            target.parent.mkdir(parents=True, exist_ok=True)
        publish(staged, Path(aside), force=True)
    notes = [*found.notes, *_notes(seen, found, roles, spans), *notes]
    if (root / "state" / name).exists():
        notes.append(
            f"{root / 'state' / name} is of an earlier deployment of this name: its versions do not fit what "
            "is written now; remove it, or take another name"
        )
    data, schema_path, config = targets
    return Written(name, config, schema_path, data, seen, found, roles, sizes, spans, spans_said, notes)


def _name(request: Request) -> str:
    if request.name is None:
        stem = request.files[0].name.split(".")[0]
        return re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_") if stem[:1].isalpha() else identifier(stem)
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", request.name):
        raise RetrainError(
            f"--name: got {request.name!r}, expected a letter first, then letters, digits, _ and -"
        )
    return request.name


def _refuse_overwriting(targets: dict[Path, str], force: bool) -> None:
    there = [f"{target} ({what})" for target, what in targets.items() if target.exists()]
    if there and not force:
        raise RetrainError(
            f"already there: {', '.join(there)}; take another --name, or replace all of it with --force"
        )


def _division(request: Request) -> Calendar | RowCount | None:
    """How rows are told apart by spans; None: they are one."""
    if request.every is None:
        if request.time_column:
            raise RetrainError(
                f"--time {request.time_column}: how long is a span? Add --every day, week, month, quarter "
                "or year"
            )
        return None
    division = parse_every(request.every)
    if isinstance(division, Calendar) and not request.time_column:
        raise RetrainError(
            f"--every {request.every}: name the column that holds the time with --time, or take a number of "
            "rows, such as --every 500rows"
        )
    if isinstance(division, RowCount) and request.time_column:
        raise RetrainError(
            f"--every {request.every}: rows are counted without a time; leave --time out, or take day, week, "
            "month, quarter or year"
        )
    return division


def _refuse_taken_names(seen: Profile) -> None:
    taken = sorted(BOOKKEEPING & seen.columns.keys())
    if taken:
        raise RetrainError(
            f"the column {taken[0]!r} has a name that is the pipeline's own; rename the column"
        )


def _groups(seen: Profile, time_column: str | None, division: Calendar | RowCount | None) -> list[np.ndarray]:
    """Places in the sample of the first spans; without spans of random groups of rows."""
    if isinstance(division, RowCount):
        periods = division.periods(seen.places)
    elif division is not None and time_column is not None:
        periods = division.periods(days_of(_times(seen.columns[time_column])))
        if np.all(periods == NO_DAY):
            examples = ", ".join(repr(value) for value in seen.columns[time_column].counts[0][:3])
            raise RetrainError(
                f"--time {time_column}: no time can be read in it; it has {examples or 'no value'}. Required "
                "are unix seconds or milliseconds, or ISO dates and times such as 2013-03-09 12:00:00"
            )
    else:
        periods = np.zeros(seen.sampled, dtype=np.int64)
    spans = [np.flatnonzero(periods == period) for period in np.unique(periods[periods != NO_DAY])[:_GROUPS]]
    if len(spans) > 1:
        return spans
    size = min(seen.sampled // 2, _GROUP_ROWS)
    order = np.random.default_rng(0).permutation(seen.sampled)
    return [np.sort(order[i : i + size]) for i in range(0, min(seen.sampled - size + 1, 4 * size), size)]


def _times(column: Column) -> Any:
    if column.listed or column.kind is None:
        raise RetrainError(f"--time {column.name}: it holds lists; name a column of one time a row")
    return column.values


def _write_spans(
    request: Request, division: Calendar | RowCount | None, data: Path, seen: Profile
) -> tuple[dict[int, int], str, list[str]]:
    """Puts the files into span folders; gives the rows of each, a sentence, and what to look at."""
    data.parent.mkdir()
    if division is None:
        (folder := data / "1").mkdir(parents=True)
        names = [path.name for path in request.files]
        for i, path in enumerate(request.files, 1):
            name = path.name if names.count(path.name) == 1 else f"{i}-{path.name}"
            shutil.copyfile(path, folder / name)
        return {1: seen.rows}, "All rows are one span, as there is no time column.", []
    result = split_files(request.files, request.every or "", data, time_column=request.time_column)
    said = f"Split by {request.time_column}, every {request.every}." if request.time_column else ""
    spans = {part.span: part.rows for part in result.parts}
    first, last = result.parts[0].label, result.parts[-1].label
    if isinstance(division, RowCount):
        said = f"Split in the order of the rows, {division.rows:,} each."
    return (
        spans,
        f"{said} Span {result.parts[0].span} is {first}, {result.parts[-1].span} is {last}.",
        _late(result),
    )


def _late(result: SplitResult) -> list[str]:
    if not result.unreadable:
        return []
    return [
        f"{result.unreadable:,} rows have no time that can be read; they are in no span, but in "
        f"{result.unreadable_paths[0].name}"
    ]


def _write_checked(
    config: Path,
    schema_path: Path,
    request: Request,
    name: str,
    seen: Profile,
    found: Found,
    roles: list[Role],
    sizes: Sizes,
    spans_said: str,
    groups: list[np.ndarray],
) -> None:
    """Writes the pair, and reads it as any run would: what it refuses is a defect of ours."""
    from pipeline.config import load
    from pipeline.config.schema import check_schema, read_schema
    from pipeline.init import schema

    made = schema.make_schema(seen, found, roles, request.label, groups)
    files = ", ".join(path.name for path in request.files)
    source = f"{files} ({seen.rows:,} rows, {len(seen.columns):,} columns)"
    text = document.write_document(name, source, found, found.why, roles, sizes, spans_said)
    for path, content in ((schema_path, schema.text(made)), (config, text)):
        path.parent.mkdir()
        path.write_text(content, encoding="utf-8")
    try:
        deployment = load(config)
        check_schema(deployment, read_schema(deployment.schema_path))
    except RetrainError as error:
        raise AssertionError(f"`retrain init` wrote what it cannot read:\n{text}") from error


def _notes(seen: Profile, found: Found, roles: Sequence[Role], spans: dict[int, int]) -> list[str]:
    """What a person should look at."""
    notes = []
    for role in roles:
        column = seen.columns[role.column]
        if column.unreadable and (role.used or role.role == LABEL):
            no = "number" if column.kind == "FLOAT" else "whole number"
            present = column.rows - column.missing
            notes.append(
                f"{role.column}: {column.unreadable:,} of {present:,} cells are no {no}, "
                f"such as {column.example!r}: their rows will be quarantined"
            )
        if role.role == LEAK:
            notes.append(f"{role.column}: {role.why}; it is left out")
    strong = [f"{role.column} (alone {role.alone})" for role in roles if role.alone]
    if strong:
        more = f" and {len(strong) - _SHOWN} more" if len(strong) > _SHOWN else ""
        notes.append(
            f"{', '.join(strong[:_SHOWN])}{more}: so close to the label that you should know: is "
            "it known when a prediction is asked for?"
        )
    empty = found.missing - seen.columns[next(r.column for r in roles if r.role == LABEL)].unreadable
    if empty > 0:
        notes.append(f"{empty:,} of {seen.rows:,} rows have no label: they will be quarantined")
    if seen.ragged:
        notes.append(f"{seen.ragged:,} rows have a wrong number of cells: they will be quarantined")
    bad = seen.ragged + found.missing
    if bad > MAX_UNREADABLE * seen.rows:
        notes.append(
            f"{percent(bad / (seen.rows + seen.ragged))} of the rows cannot be learned from: "
            "data.max_quarantine_share allows for it"
        )
    if len(spans) > _MANY_SPANS:
        notes.append(
            f"{len(spans)} spans are learned one after the other; `--until 3` stops after the third, "
            "`--together` learns all in one run"
        )
    if len(seen.columns) > _WIDE:
        notes.append(f"{len(seen.columns):,} columns: TFX looks at each, so runs take minutes")
    return notes


def to_json(written: Written) -> dict[str, Any]:
    """All of it as plain data."""
    return {
        "name": written.name,
        "config": str(written.config),
        "schema": str(written.schema),
        "data": str(written.data),
        "rows": written.profile.rows,
        "label": written.found.label.model_dump(exclude_defaults=True) | {"task": written.found.label.task},
        "why": written.found.why,
        "columns": [
            {
                "column": role.column,
                "type": shown_type(written.profile.columns[role.column]),
                "role": role.role,
                "why": role.why,
                "settings": role.settings,
                "missing": written.profile.columns[role.column].missing,
            }
            for role in written.roles
        ],
        "sizes": asdict(written.sizes),
        "spans": {str(span): rows for span, rows in written.spans.items()},
        "notes": written.notes,
        "next": next_commands(written),
    }


def shown_type(column: Column) -> str:
    """A column's type for a person."""
    kind = {"INT": "INT", "FLOAT": "FLOAT", "BYTES": "text"}.get(column.kind or "", "?")
    return f"lists of {kind}" if column.listed else kind


def next_commands(written: Written) -> list[str]:
    """What to type now."""
    first = min((written.data / str(min(written.spans))).iterdir())
    return [
        f"retrain run {written.config}",
        f"retrain serve {written.config}",
        f"retrain predict {written.config} {first}",
    ]


def table(written: Written) -> Any:
    """The columns for a terminal; of very many the first of each role."""
    from rich.table import Table

    shown = Table()
    for title in ("column", "type", "role", "why"):
        shown.add_column(title, overflow="fold")
    left: dict[str, int] = {}
    most = len(written.roles) if len(written.roles) <= 100 else 5
    for role in (
        sorted(written.roles, key=lambda role: _ORDER.get(role.role, 0)) if most == 5 else written.roles
    ):
        left[role.role] = left.get(role.role, 0) + 1
        if left[role.role] <= most or role.role == LEAK:
            shown.add_row(role.column, shown_type(written.profile.columns[role.column]), role.role, role.why)
    for kind, count in left.items():
        if count > most and kind != LEAK:
            shown.add_row(f"... {count - most:,} more", "", kind, "all are in the configuration")
    return shown


_ORDER = {LABEL: -1, LEAK: 1, IGNORED: 2}


def summary(written: Written) -> str:
    """What follows the table."""
    sizes, label = written.sizes, written.found.label
    log = ", by its logarithm" if label.log else ""
    predicted = f"{label.name} = {label.expression}" if label.expression else label.name
    spans = f"{len(written.spans)} span{'s' if len(written.spans) > 1 else ''} of about {sizes.rows:,} rows"
    floor = f"{sizes.metric} at least {sizes.gate['min_value']:g} ({sizes.gate_why})"
    lines = [
        f"predicts   {predicted} - {label.task}{log}: {written.found.why}",
        f"spans      {spans}. {written.spans_said}",
        f"model      {sizes.model['type']}, {sizes.training['epochs']} epochs in batches of "
        f"{sizes.training['batch_size']}",
        f"gate       {floor}; slices: {', '.join(sizes.slices) or 'none'}",
        f"written    {written.config}, {written.schema}, {written.data}",
        *(f"look at    {note}" for note in written.notes),
        "next       " + "\n           ".join(next_commands(written)),
    ]
    return "\n".join(lines)
