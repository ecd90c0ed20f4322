"""`retrain feedback`: what becomes of labels that arrive, and of those that do not."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Deployment
from pipeline.feedback.command import Feedback
from pipeline.feedback.summary import Summary
from tests.killed import Mortal
from tests.pipeline.conftest import SCHEMA, Result, Shop
from tests.pipeline.feedback_log import write_log

pytestmark = pytest.mark.xdist_group("feedback")

Retrain = Callable[..., Result]
HOUR = 3600.0
NOW = float(int(time.time()))


def counted(summary: Summary) -> dict[str, int]:
    return {name: count for name, count in summary.counts.items() if count}


def served(shop: Shop) -> Shop:
    shop.span(1)
    shop.add(1, serve=True)
    return shop


def feedback(shop: Shop, labels: Path, now: float = NOW, dry: bool = False, **settings: Any) -> Summary:
    deployment: Deployment = shop.deployment
    section = deployment.feedback.model_copy(update=settings)
    return Feedback(deployment.model_copy(update={"feedback": section}), labels, dry, now=now).run()


def written(shop: Shop, span: int) -> list[str]:
    (file,) = (shop.folder / "data" / str(span)).iterdir()
    header, *rows = file.read_text().splitlines()
    assert header == '"n","x","word","y"'
    return sorted(rows)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, new_shop: Callable[[Path], Shop]) -> dict[str, Any]:
    """Labels that come day by day; told once, looked at by every test."""
    shop = served(new_shop(tmp_path_factory.mktemp("feedback")))
    log, labels = shop.state / "predictions", shop.folder / "labels"
    labels.mkdir()
    story: dict[str, Any] = {"shop": shop}
    write_log(log, [f"k{i}" for i in range(8)], NOW - 2 * HOUR)
    write_log(log, ["k3", ""], NOW - HOUR, version=2)
    write_log(log, ["another's"], NOW, model="another")
    (labels / "1.csv").write_text(
        "y,key,time,note\n"
        + "".join(f"{i},k{i},{NOW - 60},\n" for i in range(5))
        + f"9,k1,{NOW - 60},a second time\n3,early,{NOW - 60},\n3,nobody's,{NOW - 60},\n"
        + f"x,k5,{NOW},\n1,,{NOW},\n1,k5,yesterday,\n,k5,{NOW},\n1,k5\n"
    )
    before = snapshot(shop.folder)
    story["dry"] = feedback(shop, labels, dry=True, time="time")
    story["untouched"] = {k: v for k, v in snapshot(shop.folder).items() if not k.endswith("lock")} == before
    story["first"] = feedback(shop, labels, time="time")
    story["again"] = feedback(shop, labels, NOW + 1, time="time")
    write_log(log, ["early"], NOW + HOUR, version=2)
    write_log(log, ["k1"], NOW + HOUR)
    (labels / "2.csv").write_text(f"key,y,time\nk5,5,{NOW + 1.5 * HOUR}\nk1,1,{NOW + 1.5 * HOUR}\n")
    story["second"] = feedback(shop, labels, NOW + 2 * HOUR, time="time")
    # A file that has grown is read again as a whole.
    with open(labels / "2.csv", "a") as file:
        file.write(f"k6,6,{NOW + 999 * HOUR}\n")
    story["later"] = feedback(shop, labels, NOW + 1000 * HOUR, time="time", wait_hours=24.0)
    return story


def test_labels_find_their_predictions(told: dict[str, Any]) -> None:
    shop, first = told["shop"], told["first"]
    assert written(shop, 2) == [f'{i},{i}.1,"a, b",{i}' for i in range(5)]
    assert (first.span.number, first.span.path, first.span.rows) == (2, "2/feedback-1.csv", 5)
    assert first.span.versions == {"1": 5} and first.span.last == NOW - 2 * HOUR
    assert counted(first) == {
        "joined": 5,
        "waiting_labels": 2,
        "waiting_predictions": 3,
        "duplicates": 1,
        "repeated": 1,
        "keyless": 1,
    }
    assert (first.read, first.known) == (1, 0)


def test_what_cannot_be_used_is_kept_with_the_reason(told: dict[str, Any]) -> None:
    first = told["first"]
    assert first.bad == {
        "y: not INT": 1,
        "key is missing": 1,
        "time: no time": 1,
        "y is missing": 1,
        "wrong number of cells": 1,
    }
    rows = [json.loads(line) for line in first.quarantine.read_text().splitlines()]
    assert [row["line"] for row in rows] == [10, 11, 12, 13, 14]
    assert rows[0]["reason"] == "y: 'x' is not an INT" and rows[0]["text"].startswith("x,k5")


def test_a_dry_run_says_the_same_and_writes_nothing(told: dict[str, Any]) -> None:
    assert told["untouched"]
    assert told["dry"] == replace(told["first"], dry=True, quarantine=None)


def test_the_same_again_changes_nothing(told: dict[str, Any]) -> None:
    again = told["again"]
    assert counted(again) == {"waiting_labels": 2, "waiting_predictions": 3, "keyless": 1}
    assert again.span is None and (again.read, again.known) == (0, 1)


def test_a_label_that_came_first_waits_and_a_key_is_joined_once(told: dict[str, Any]) -> None:
    shop, second = told["shop"], told["second"]
    assert written(shop, 3) == ['0,0.1,"a, b",3', '5,5.1,"a, b",5']
    assert second.span.versions == {"1": 1, "2": 1}
    assert counted(second) == {
        "joined": 2,
        "waiting_labels": 1,
        "waiting_predictions": 2,
        "duplicates": 1,
        "keyless": 1,
    }


def test_in_the_end_nothing_waits_any_more(told: dict[str, Any]) -> None:
    shop, later = told["shop"], told["later"]
    # k6's label is late, k7 has none, nobody's was never asked for, and k1's second label is read again.
    assert counted(later) == {"expired": 2, "late": 1, "unknown": 1, "duplicates": 1, "keyless": 1}
    assert later.span is None
    assert sorted(path.name for path in (shop.folder / "data").iterdir()) == ["1", "2", "3"]
    spans = [json.loads(line) for line in (shop.state / "feedback/spans.jsonl").read_text().splitlines()]
    assert [(span["number"], span["rows"]) for span in spans] == [(2, 5), (3, 2)]


@pytest.fixture
def asked(shop: Shop) -> Shop:
    """A deployment that has answered k0 to k9, at noon UTC."""
    write_log(served(shop).state / "predictions", [f"k{i}" for i in range(10)], NOON)
    return shop


NOON = NOW // 86_400 * 86_400 + 43_200.0
DATE = time.strftime("%Y/%m/%d", time.gmtime(NOON))


def labelled(shop: Shop, *keys: str, name: str = "labels.csv", header: str = "key,y") -> Path:
    file = shop.folder / name
    file.write_text(f"{header}\n" + "".join(f"{key},{i}\n" for i, key in enumerate(keys)))
    return file


def test_too_few_rows_wait_and_so_do_rows_of_a_date_that_is_there(asked: Shop) -> None:
    days = asked.deployment.data.model_copy(
        update={"pattern": "{YYYY}/{MM}/{DD}/*", "path": asked.folder / "days"}
    )
    asked.deployment = asked.deployment.model_copy(update={"data": days})
    there = asked.folder / "days" / DATE
    there.mkdir(parents=True)
    few = feedback(asked, labelled(asked, "k1", "k2", name="1.csv"), NOON + HOUR, min_rows=3)
    assert few.span is None and few.rows_waiting == 2 and few.why == "feedback.min_rows is 3"
    same_day = feedback(asked, labelled(asked, "k3", name="2.csv"), NOON + HOUR, min_rows=3)
    assert same_day.span is None and same_day.rows_waiting == 3
    assert "the newest of them, or a later one is there already" in same_day.why
    there.rmdir()
    now = feedback(asked, labelled(asked, "k3", name="2.csv"), NOON + HOUR, min_rows=3)
    assert now.span is not None and now.span.path == f"{DATE}/feedback-3.csv" and now.rows_waiting == 0
    (file,) = there.iterdir()
    assert len(file.read_text().splitlines()) == 4


MISTAKES = [
    ("", "labels: .*/labels.csv is not there; name a file"),
    ("folder", "labels: the folder .*/labels.csv holds no file"),
    ("name,y\nk1,2\n", "missing column 'key' .feedback.key.; the file has name, y"),
    ("key,z\nk1,2\n", "missing column 'y', which the label is made of"),
    ("key,y,y\nk1,2,3\n", "column 'y' comes twice"),
]


@pytest.mark.parametrize(("content", "message"), MISTAKES)
def test_labels_that_are_none_are_told(asked: Shop, retrain: Retrain, content: str, message: str) -> None:
    labels = asked.folder / "labels.csv"
    if content == "folder":
        labels.mkdir()
        (labels / ".being written").write_text("")
    elif content:
        labels.write_text(content)
    result = retrain("feedback", asked.config, "--labels", labels)
    assert result.code == 1 and "Traceback" not in result.err
    assert re.search(message, result.err), result.err
    assert not (asked.state / "feedback" / "current.json").exists()


def test_without_a_log_or_a_champion_there_is_a_message(shop: Shop, retrain: Retrain) -> None:
    labels = labelled(shop, "k1")
    result = retrain("feedback", shop.config, "--labels", labels)
    assert result.code == 1
    assert re.search(r"there is no prediction log .*predictions; set serving.prediction_log", result.err)
    write_log(shop.state / "predictions", ["k1"], NOW)
    result = retrain("feedback", shop.config, "--labels", labels)
    assert result.code == 1 and "no version is served yet" in result.err


def test_a_required_column_that_nobody_has_is_told(asked: Shop, retrain: Retrain) -> None:
    asked.config.write_text(asked.config.read_text() + "serving: {prediction_log: {drop: [x]}}\n")
    required = 'feature { name: "x" type: FLOAT presence { min_fraction: 1 } }'
    schema = asked.folder / "schema.pbtxt"
    schema.write_text(
        SCHEMA.replace('feature { name: "x" type: FLOAT }', required)
        + 'feature { name: "when" type: INT presence { min_count: 1 } }'
    )
    result = retrain("feedback", asked.config, "--labels", labelled(asked, "k1"))
    assert result.code == 1
    assert "requires 2 columns that neither the prediction log nor the labels have" in result.err
    assert "x is not logged (serving.prediction_log.drop); when is in no request" in result.err
    labels = asked.folder / "labels.csv"
    labels.write_text("key,y,x,when\nk1,4,7.5,12\n")
    result = retrain("feedback", asked.config, "--labels", labels, "--json")
    assert result.code == 0, result.err
    (summary,) = map(json.loads, result.out.splitlines())
    assert summary["counts"]["joined"] == 1 and summary["span"]["number"] == 2
    (file,) = (asked.folder / "data" / "2").iterdir()
    assert file.read_text().splitlines()[1] == '1,7.5,"a, b",4,12'


def test_a_person_reads_a_summary(asked: Shop, retrain: Retrain) -> None:
    result = retrain("feedback", asked.config, "--labels", labelled(asked, "k1", "k2", "k1"))
    assert result.code == 0, result.err
    assert re.search(r"2 .* rows joined", result.out) and re.search(
        r"1 .* labels of a key that had one", result.out
    )
    assert re.search(r"span 2 is new, with 2 rows: .*/data/2/feedback-1.csv", result.err)


# One process of its own imports everything once, and is then copied for every kill.
POINTS = [
    "pipeline.feedback.new_span:write_rows:before",
    "pipeline.feedback.ledger:Ledger._write:before",
    "pipeline.feedback.ledger:Ledger._write:after",
    "pipeline.feedback.span_file:shutil.copyfile:after",
    "pipeline.feedback.new_span:install:after",
    "pipeline.feedback.ledger:Ledger.placed:after",
]


@pytest.mark.long
def test_killed_anywhere_the_same_command_writes_every_row_once(asked: Shop) -> None:
    keys = [f"k{i}" for i in range(10)]
    labels = labelled(asked, *keys)
    with Mortal("pipeline.feedback.join_job", "feedback", asked.config, "--labels", labels) as command:
        assert [command.run(point) for point in POINTS] == [-signal.SIGKILL] * len(POINTS)
        assert command.run() == 0
    assert written(asked, 2) == sorted(f'{i},{i}.1,"a, b",{i}' for i in range(10))
    assert sorted(path.name for path in (asked.folder / "data").iterdir()) == ["1", "2"]
    (span,) = map(json.loads, (asked.state / "feedback/spans.jsonl").read_text().splitlines())
    assert (span["number"], span["rows"]) == (2, 10)
