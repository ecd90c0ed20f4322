"""A user's mistakes: each gets its message and an exit code, and nothing is changed."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.harness import Deployment, retrain

pytestmark = [pytest.mark.xdist_group("e2e-mistakes"), pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    deployment = Deployment(tmp_path_factory.mktemp("mistakes") / "taxi")
    deployment.put(1)
    return deployment


@pytest.fixture
def span(deployment: Deployment) -> Path:
    """The one file of span 1, as it should be."""
    (file,) = (deployment._quarters / "1").glob("*.csv")
    for old in (deployment.data / "1").iterdir():
        old.unlink()
    target = deployment.data / "1" / "trips.csv"
    target.write_bytes(file.read_bytes())
    return target


def _edit(file: Path, change: Callable[[list[list[str]]], None]) -> None:
    rows = [line.split(",") for line in file.read_text().splitlines()]
    change(rows)
    file.write_text("\n".join(",".join(row) for row in rows) + "\n")


def _drop_fare(rows: list[list[str]]) -> None:
    place = rows[0].index("fare")
    for row in rows:
        del row[place]


def _rename_fare(rows: list[list[str]]) -> None:
    rows[0][rows[0].index("fare")] = "fares"


def _text_in_fare(rows: list[list[str]]) -> None:
    place = rows[0].index("fare")
    for row in rows[1:]:
        row[place] = "cheap"


def _hour_99(rows: list[list[str]]) -> None:
    place = rows[0].index("trip_start_hour")
    for row in rows[1:]:
        row[place] = "99"


def _header_only(rows: list[list[str]]) -> None:
    del rows[1:]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_drop_fare, ["fare", "missing", "trips.csv"]),
        (_rename_fare, ["fare", "fares", "trips.csv"]),
        (_text_in_fare, ["fare", "FLOAT", "cheap"]),
        (_hour_99, ["trip_start_hour", "refused"]),
        (_header_only, ["trips.csv"]),
    ],
)
def test_bad_content(
    deployment: Deployment, span: Path, change: Callable[[list[list[str]]], None], said: list[str]
) -> None:
    _edit(span, change)
    _is_refused(deployment, said)


def test_an_empty_file(deployment: Deployment, span: Path) -> None:
    span.write_bytes(b"")
    _is_refused(deployment, ["trips.csv", "empty"])


def test_a_truncated_gzip(deployment: Deployment, span: Path) -> None:
    whole = gzip.compress(span.read_bytes())
    span.unlink()
    span.with_name("trips.csv.gz").write_bytes(whole[: len(whole) // 2])
    deployment.configure(data={"pattern": "{SPAN}/*.csv*"})
    try:
        _is_refused(deployment, ["trips.csv.gz", "truncated"])
    finally:
        deployment.configure()


def test_an_empty_span(deployment: Deployment, span: Path) -> None:
    span.unlink()
    _is_refused(deployment, ["span 1 is empty"])


def _is_refused(deployment: Deployment, said: list[str]) -> None:
    result = deployment.run()
    assert result.code == 1
    assert "Traceback" not in result.err
    for word in said:
        assert word in result.err, result.err
    status = deployment.status()
    assert (status["served"], status["versions"], status["pending"]) == (None, 0, [1])


def test_a_few_bad_rows_go_to_the_quarantine_and_the_rest_goes_on(deployment: Deployment, span: Path) -> None:
    def some(rows: list[list[str]]) -> None:
        rows[5][rows[0].index("fare")] = "cheap"
        rows[9].append("one cell too many")

    _edit(span, some)
    result = retrain("check", deployment.config, "--json")
    assert result.code == 0, result.err
    (line,) = result.lines
    assert line["decision"] == "train" and line["rows"]["quarantine"] == 2
    assert line["version"] is None
    kept = (deployment.state / "quarantine" / "1.jsonl").read_text()
    assert "cheap" in kept and re.search(r'"line": ?6\b', kept)


@pytest.mark.parametrize(
    ("was", "becomes", "said"),
    [
        ("batch_size: 64", "batch_sise: 64", ["training.batch_sise", "batch_size"]),
        ("batch_size: 64", "batch_size: many", ["training.batch_size", "'many'"]),
        ("label:", "label", ["line"]),
        ("ratio: 0.5", "ratio: 1.5", ["replay.ratio", "1.5"]),
    ],
)
def test_a_typo_in_the_yaml(
    deployment: Deployment, span: Path, was: str, becomes: str, said: list[str]
) -> None:
    good = deployment.config.read_text()
    assert was in good
    deployment.config.write_text(good.replace(was, becomes, 1))
    try:
        result = deployment.run()
    finally:
        deployment.config.write_text(good)
    assert result.code == 1
    assert "Traceback" not in result.err
    for word in [str(deployment.config), *said]:
        assert word in result.err, result.err


# The last one: it leaves span 1 released.
def test_a_file_that_was_delivered_twice_is_set_aside_until_it_is_released(
    deployment: Deployment, span: Path
) -> None:
    span.with_name("again.csv").write_bytes(span.read_bytes())
    deployment.configure(poisoning={"max_duplicates": 0.1})
    done = deployment.run()
    assert done.code == 0, done.err
    (line,) = done.lines
    assert (line["decision"], line["version"]) == ("quarantine", None)
    status = deployment.status()
    assert status["pending"] == [] and "50.0% of its rows repeat another" in status["set_aside"]["1"]
    released = retrain("release", deployment.config, "1", "--reason", "they are two sensors", "--json")
    assert released.code == 0, released.err
    assert deployment.status()["pending"] == [1]
