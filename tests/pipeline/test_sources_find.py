"""The spans on disk: by number or date, in versions, in folders or files; and what is no span."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from components.errors import RetrainError
from pipeline.config.sections import Data
from pipeline.spans.find import find_spans


def put(folder: Path, *names: str) -> None:
    """Makes files, and a folder of each name that ends with a slash."""
    for name in names:
        path = folder / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_text("a\n1\n")


def spans(folder: Path, pattern: str) -> dict[int, list[str]]:
    found = find_spans(Data(path=folder, pattern=pattern))
    assert list(found) == sorted(found)
    return {span: [str(file.relative_to(folder)) for file in files] for span, files in found.items()}


@pytest.mark.parametrize(
    ("pattern", "names", "expected"),
    [
        ("{SPAN}/*", ["1/a.csv", "1/b.parquet", "2/c.csv"], {1: ["1/a.csv", "1/b.parquet"], 2: ["2/c.csv"]}),
        ("{SPAN}/*.csv", ["1/a.csv", "1/b.parquet", "1/c.csv.gz"], {1: ["1/a.csv"]}),
        (
            "span-{SPAN}/part-*.csv",
            [
                "span-1/part-1.csv",
                "span-1/part-0.csv",
                "span-1/other.csv",
                "1/part-0.csv",
                "xspan-2/part-0.csv",
            ],
            {1: ["span-1/part-0.csv", "span-1/part-1.csv"]},
        ),
        ("{SPAN}.csv", ["1.csv", "2.csv", "3.csv.gz", "x.csv", "4/a.csv"], {1: ["1.csv"], 2: ["2.csv"]}),
        (
            "day{SPAN}-*.csv",
            ["day1-a.csv", "day1-b.csv", "day12-a.csv", "day-a.csv"],
            {1: ["day1-a.csv", "day1-b.csv"], 12: ["day12-a.csv"]},
        ),
        (
            "raw/by-day/{SPAN}/*.csv",
            ["raw/by-day/3/a.csv", "3/a.csv", "raw/3/a.csv"],
            {3: ["raw/by-day/3/a.csv"]},
        ),
        ("{SPAN}/*/*.csv", ["1/x/a.csv", "1/y/a.csv", "1/b.csv"], {1: ["1/x/a.csv", "1/y/a.csv"]}),
        ("{SPAN}/**/*.csv", ["1/x/y/a.csv", "1/b.csv"], {1: ["1/b.csv", "1/x/y/a.csv"]}),
        ("{SPAN}", ["1", "2", "x"], {1: ["1"], 2: ["2"]}),
        ("{SPAN}+(x)/*", ["1+(x)/a", "1xx/a", "1+x/a"], {1: ["1+(x)/a"]}),  # no regular expression
        ("{SPAN}/*", ["0/a", "007/a", "10/a"], {0: ["0/a"], 7: ["007/a"], 10: ["10/a"]}),
        ("{SPAN}/*", ["1/", "2/a"], {1: [], 2: ["2/a"]}),  # an empty span is seen, to be refused
        ("{SPAN}/*.csv", ["1/a.csv/", "1/b.csv"], {1: ["1/b.csv"]}),
        ("{SPAN}/**", ["1/x/y/a.csv", "1/b.csv"], {1: ["1/b.csv", "1/x/y/a.csv"]}),
        ("{SPAN}/part-[0-9].csv", ["1/part-1.csv", "1/part-x.csv"], {1: ["1/part-1.csv"]}),
        ("{SPAN}/*", ["-1/a", "1.5/a", "v2/a"], {}),
    ],
)
def test_spans_of_a_pattern(tmp_path: Path, pattern: str, names: list[str], expected: Any) -> None:
    put(tmp_path, *names)
    assert spans(tmp_path, pattern) == expected


@pytest.mark.parametrize("pattern", ["{SPAN}/*.csv", "{SPAN}.csv"])
def test_spans_are_sorted_as_numbers(tmp_path: Path, pattern: str) -> None:
    numbers = [*range(1, 13), 99, 100, 101, 1000]
    put(tmp_path, *(pattern.replace("{SPAN}", str(n)).replace("*", "a") for n in reversed(numbers)))
    assert list(spans(tmp_path, pattern)) == numbers


@pytest.mark.parametrize(
    ("pattern", "names"), [("{SPAN}/*", ["7/a", "007/a"]), ("{SPAN}.csv", ["7.csv", "07.csv"])]
)
def test_two_names_for_one_span_are_refused(tmp_path: Path, pattern: str, names: list[str]) -> None:
    put(tmp_path, *names)
    with pytest.raises(
        RetrainError, match=rf"span 7 is there twice: 0+7.* and 7.* in {tmp_path}; remove one"
    ):
        spans(tmp_path, pattern)


def test_what_is_being_written_is_left_alone(tmp_path: Path) -> None:
    unfinished = [
        "1/.a.csv.swp",
        "1/_SUCCESS",
        "1/a.csv.tmp",
        "1/_temporary/0/part-0.csv",
        "1/.staging/part-0.csv",
        ".split-tmp-x1/span-2/a.csv",
        ".2/a.csv",
        "_3/a.csv",
        "4.tmp/a.csv",
    ]
    put(tmp_path, "1/a.csv", *unfinished)
    assert spans(tmp_path, "{SPAN}/*") == {1: ["1/a.csv"]}
    assert spans(tmp_path, "{SPAN}/**/*.csv") == {1: ["1/a.csv"]}
    assert spans(tmp_path, "{SPAN}.tmp/*") == {}
    put(tmp_path, "5.csv.tmp", "_6.csv", ".7.csv", "8.csv")
    assert spans(tmp_path, "{SPAN}.csv") == {8: ["8.csv"]}


def test_a_link_to_a_folder_is_a_span(tmp_path: Path) -> None:
    put(tmp_path, "store/a.csv", "data/1/b.csv")
    os.symlink(tmp_path / "store", tmp_path / "data" / "2")
    assert spans(tmp_path / "data", "{SPAN}/*") == {1: ["1/b.csv"], 2: ["2/a.csv"]}


@pytest.mark.parametrize(("pattern", "missing"), [("{SPAN}/*", "data"), ("raw/{SPAN}/*", "data/raw")])
def test_a_missing_folder_says_what_belongs_there(tmp_path: Path, pattern: str, missing: str) -> None:
    if missing != "data":
        put(tmp_path, "data/")
    with pytest.raises(RetrainError) as error:
        spans(tmp_path / "data", pattern)
    assert f"data.path: no folder {tmp_path / missing}." in str(error.value) and pattern in str(error.value)


def days(*numbers: str) -> dict[int, list[str]]:
    """Of 2024-01-31 and the days after it: their files."""
    return {19753 + i: [name] for i, name in enumerate(numbers)}


@pytest.mark.parametrize(
    ("pattern", "names", "expected"),
    [
        (
            "{YYYY}/{MM}/{DD}/*.csv",
            ["2024/02/01/a.csv", "2024/01/31/a.csv", "2024/1/31/a.csv", "24/01/31/a.csv", "2024/01/a.csv"],
            days("2024/01/31/a.csv", "2024/02/01/a.csv"),
        ),
        ("{YYYY}-{MM}-{DD}/*", ["2024-01-31/a.csv", "2024-01-31x/a.csv"], days("2024-01-31/a.csv")),
        ("day={YYYY}{MM}{DD}/*", ["day=20240131/a.parquet", "20240131/a"], days("day=20240131/a.parquet")),
        ("day={YYYY}-{MM}-{DD}/**/*.csv", ["day=2024-01-31/x=1/a.csv"], days("day=2024-01-31/x=1/a.csv")),
        (
            "{DD}.{MM}.{YYYY}.csv",
            ["31.01.2024.csv", "01.02.2024.csv"],
            days("31.01.2024.csv", "01.02.2024.csv"),
        ),
        (
            "log-{YYYY}{MM}{DD}-*.csv",
            ["log-20240131-a.csv", "log-20240131-b.csv"],
            {19753: ["log-20240131-a.csv", "log-20240131-b.csv"]},
        ),
        (
            "{YYYY}/{MM}/*",
            ["2024/01/a", "1970/01/a", "2023/12/a"],
            {0: ["1970/01/a"], 647: ["2023/12/a"], 648: ["2024/01/a"]},
        ),
        ("year={YYYY}/*", ["year=2024/a", "year=1999/a"], {1999: ["year=1999/a"], 2024: ["year=2024/a"]}),
        (
            "raw/{YYYY}/{MM}/{DD}/{HH}/*",
            ["raw/1970/01/01/23/a", "raw/1970/01/02/00/a", "1970/01/01/05/a"],
            {23: ["raw/1970/01/01/23/a"], 24: ["raw/1970/01/02/00/a"]},
        ),
        (
            "{YYYY}/{MM}/{DD}/*",
            ["1970/01/01/", "1970/01/.02/a", "_1970/01/03/a", "1970/02.tmp/01/a"],
            {0: []},
        ),
    ],
)
def test_spans_that_are_dates(tmp_path: Path, pattern: str, names: list[str], expected: Any) -> None:
    put(tmp_path, *names)
    assert spans(tmp_path, pattern) == expected


@pytest.mark.parametrize("name", ["2024/02/30", "2023/02/29", "2024/13/01", "2024/00/01", "1969/12/31"])
def test_a_date_that_is_none_is_named(tmp_path: Path, name: str) -> None:
    put(tmp_path, "2024/02/29/a.csv", f"{name}/a.csv")
    with pytest.raises(RetrainError) as error:
        spans(tmp_path, "{YYYY}/{MM}/{DD}/*.csv")
    assert str(error.value).startswith(f"data.path: {name} in {tmp_path} is no date from 1970 on")


@pytest.mark.parametrize(
    ("pattern", "names", "expected"),
    [
        (
            "{SPAN}/v{VERSION}/*.csv",
            ["1/v1/a.csv", "1/v2/b.csv", "1/v10/c.csv", "1/v10/d.csv", "1/x.csv", "2/v0/a.csv"],
            {1: ["1/v10/c.csv", "1/v10/d.csv"], 2: ["2/v0/a.csv"]},
        ),
        ("{SPAN}-v{VERSION}/*", ["1-v1/a", "1-v2/a", "2-v1/a"], {1: ["1-v2/a"], 2: ["2-v1/a"]}),
        ("{SPAN}.{VERSION}.csv", ["1.9.csv", "1.10.csv"], {1: ["1.10.csv"]}),
        ("{SPAN}.{VERSION}-*.csv", ["1.1-a.csv", "1.2-a.csv", "1.2-b.csv"], {1: ["1.2-a.csv", "1.2-b.csv"]}),
        ("{YYYY}/{MM}/{DD}/{VERSION}/*", ["2024/01/31/1/a", "2024/01/31/2/a"], {19753: ["2024/01/31/2/a"]}),
        ("{SPAN}/x/{VERSION}/*", ["1/x/1/a", "1/y/2/a"], {1: ["1/x/1/a"]}),
        ("{SPAN}/v{VERSION}/*", ["1/", "2/v1/a", "2/v2/"], {1: [], 2: []}),  # refused when they are learned
        ("{SPAN}/v{VERSION}/*", ["1/v1/a", "1/.v2/a", "1/v3.tmp/a"], {1: ["1/v1/a"]}),
    ],
)
def test_only_the_highest_version_of_a_span_counts(
    tmp_path: Path, pattern: str, names: list[str], expected: Any
) -> None:
    put(tmp_path, *names)
    assert spans(tmp_path, pattern) == expected


@pytest.mark.parametrize(
    ("pattern", "names", "message"),
    [
        (
            "{SPAN}/v{VERSION}/*",
            ["1/v1/a", "1/v01/a"],
            "span 1, version 1, is there twice: 1/v01 and 1/v1 in",
        ),
        ("{SPAN}/v{VERSION}/*", ["1/v1/a", "01/v2/a"], "span 1 is there twice: 01 and 1 in"),
        ("{SPAN}-{VERSION}.csv", ["1-1.csv", "01-2.csv"], "span 1 is there twice: 01-2.csv and 1-1.csv in"),
    ],
)
def test_two_names_for_one_version_are_refused(
    tmp_path: Path, pattern: str, names: list[str], message: str
) -> None:
    put(tmp_path, *names)
    with pytest.raises(RetrainError, match=message):
        spans(tmp_path, pattern)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "1/a.csv")
    listed = os.scandir

    def refusing(path: Any) -> Any:
        if str(path).endswith("/1"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(
        RetrainError, match=rf"data.path: {tmp_path}/1 cannot be listed \(Permission denied\)"
    ):
        spans(tmp_path, "{SPAN}/*")


def test_a_link_that_leads_back_up_is_not_followed_for_ever(tmp_path: Path) -> None:
    put(tmp_path, "1/a.csv")
    os.symlink(tmp_path, tmp_path / "1" / "up")
    assert spans(tmp_path, "{SPAN}/**/*.csv") == {1: ["1/a.csv"]}
