"""Late data: what differs from what was learned is seen, told, and learned only when it is asked for."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.errors import RetrainError
from pipeline.learn import Learner
from pipeline.outcome import Outcome
from pipeline.spans import late
from pipeline.spans.find import find_spans
from pipeline.spans.late import Late, Memory, compare, digest, identify
from pipeline.spans.pattern import parse

pytestmark = pytest.mark.xdist_group("pipeline-registry")

Retrain = Callable[..., Any]


def write(path: Path, text: str, age: int = 0) -> Path:
    """A file, so many seconds old."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (path.stat().st_atime - age, path.stat().st_mtime - age))
    return path


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read, in their order."""
    read: list[str] = []
    fingerprint = late.fingerprint

    def recorded(files: Any) -> str:
        read.extend(files)
        return fingerprint(files)

    monkeypatch.setattr(late, "fingerprint", recorded)
    return read


# One span.


@pytest.fixture
def two_files(tmp_path: Path) -> tuple[list[Path], dict[str, late.Identity]]:
    files = [write(tmp_path / "1" / name, f"{name}\n", age=100) for name in ("a.csv", "b.csv")]
    return files, identify(tmp_path, files)


def compared(tmp_path: Path, learned: Any) -> Late | None:
    files = sorted((tmp_path / "1").rglob("*.csv"))
    return compare(1, 7, learned, files, tmp_path, Memory(tmp_path / "hashes.json"))


def test_what_was_not_touched_is_not_read(tmp_path: Path, two_files: Any, hashed: list[str]) -> None:
    assert compared(tmp_path, two_files[1]) is None and hashed == []


def test_a_touched_file_is_read_once_and_is_the_same(
    tmp_path: Path, two_files: Any, hashed: list[str]
) -> None:
    os.utime(two_files[0][0])
    memory = Memory(tmp_path / "hashes.json")
    assert compare(1, 7, two_files[1], two_files[0], tmp_path, memory) is None
    assert hashed == [str(two_files[0][0])]
    memory.save()
    assert compared(tmp_path, two_files[1]) is None and len(hashed) == 1
    os.utime(two_files[0][0])
    assert compared(tmp_path, two_files[1]) is None and len(hashed) == 2


def test_a_memory_that_is_lost_changes_no_answer(tmp_path: Path, two_files: Any) -> None:
    write(two_files[0][1], "B.csv\n")
    memory = Memory(tmp_path / "hashes.json")
    found = compare(1, 7, two_files[1], two_files[0], tmp_path, memory)
    memory.save()
    assert found == compared(tmp_path, two_files[1]) == Late(1, 7, changed=("1/b.csv",))
    (tmp_path / "hashes.json").unlink()
    assert compared(tmp_path, two_files[1]) == found


def test_the_memory_forgets_files_that_are_gone(tmp_path: Path) -> None:
    files = [write(tmp_path / name, "x") for name in "ab"]
    memory = Memory(tmp_path / "hashes.json")
    for file in files:
        memory.hash(file, 1, 0)
    files[0].unlink()
    memory.save()
    assert list(json.loads((tmp_path / "hashes.json").read_text())) == [str(files[1])]


@pytest.mark.parametrize("same_size", [False, True])
def test_new_changed_and_gone_files(
    tmp_path: Path, two_files: Any, hashed: list[str], same_size: bool
) -> None:
    write(tmp_path / "1" / "more" / "c.csv", "c\n")
    write(two_files[0][0], "A.csv\n" if same_size else "longer than before\n")
    two_files[0][1].unlink()
    assert compared(tmp_path, two_files[1]) == Late(
        1, 7, new=("1/more/c.csv",), changed=("1/a.csv",), gone=("1/b.csv",)
    )
    assert len(hashed) == same_size  # another size is another content


def test_a_digest_is_of_names_and_content_alone(tmp_path: Path, two_files: Any) -> None:
    files, learned = two_files
    os.utime(files[0])
    assert digest({1: identify(tmp_path, files)}) == digest({1: learned})
    assert digest({2: learned}) != digest({1: learned}) != digest({1: {}})
    shutil.copytree(tmp_path / "1", tmp_path / "elsewhere" / "1")
    copies = [tmp_path / "elsewhere" / "1" / file.name for file in files]
    assert digest({1: identify(tmp_path / "elsewhere", copies)}) == digest({1: learned})
    write(files[0], "A.csv\n")
    assert digest({1: identify(tmp_path, files)}) != digest({1: learned})


def test_a_late_span_is_told_with_what_to_do() -> None:
    days, plain = parse("{YYYY}/{MM}/{DD}/*"), parse("{SPAN}/*")
    changed = Late(19753, 4, new=tuple("abcd"), gone=("e",))
    assert changed.describe(days) == (
        "span 19753 (2024-01-31) is no longer what version 4 learned: 4 new (a, b, c, ...), 1 gone (e) "
        "(`retrain run --span 19753 --again` learns it again)"
    )
    assert Late(2, None, new=("2/a",)).describe(plain) == (
        "span 2 came late, with 1 file: later spans are learned already (`retrain run --span 2` learns it)"
    )
    assert changed.to_json(days)["date"] == "2024-01-31" and Late(2, None).to_json(plain)["date"] is None


# The deployment.


def record(shop: Any, number: int) -> None:
    """The files of a version, as Register writes them."""
    version, data = shop.registry.get(number), shop.deployment.data
    on_disk = find_spans(data)
    files = {span: identify(data.path, on_disk[span]) for span in version.spans}
    (Path(version.uris["record"]) / "files.json").write_text(json.dumps(files))


@pytest.fixture
def line(shop: Any) -> Any:
    """Versions 1 <- 2 of spans 1 and 3 are learned; 2 is served, and span 4 waits."""
    shop.span(1, 3, 4)
    shop.add(1, serve=True)
    shop.add(3, parent=1, serve=True)
    record(shop, 1)
    record(shop, 2)
    return shop


class Faked(Learner):
    """Learns without a pipeline: each run is a version that is served."""

    shop: Any
    blessed = True

    def _run(self, spans: tuple[int, ...]) -> Outcome:
        base = self._registry.champion()
        number = self.shop.add(*spans, parent=base.number if base else None, blessed=self.blessed)
        record(self.shop, number)
        if self.blessed:
            self._registry.make_champion(number)
        return Outcome(
            spans=spans,
            label=self._pattern.label(spans),
            dates=(),
            files=(),
            decision={
                "action": "train",
                "reasons": ["forced"],
                "rows": {"train": 1},
                "drift": [],
                "poison": [],
            },
            version=number,
            parent=base.number if base else None,
            warm_start=True,
            verdict={"blessed": self.blessed, "reasons": [], "checks": [], "candidate": {}, "champion": None},
            served=number,
            seconds={},
            log="",
        )


@pytest.fixture
def faked(line: Any, monkeypatch: pytest.MonkeyPatch) -> type[Faked]:
    monkeypatch.setattr(Faked, "shop", line, raising=False)
    monkeypatch.setattr("pipeline.learn.Learner", Faked)
    return Faked


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_status_tells_late_files_and_late_spans(line: Any, retrain: Retrain) -> None:
    (status,) = lines(retrain("status", line.config, "--json").out)
    assert status["late"] == [] and "learned: " not in retrain("status", line.config).out
    assert not (line.state / "hashes.json").exists()

    write(line.folder / "data/1/late.csv", "n,x,word,y\n1,0.5,a,4\n")
    write(line.folder / "data/3/rows.csv", "n,x,word,y\n1,0.7,a,4\n")
    line.span(2)
    (status,) = lines(retrain("status", line.config, "--json").out)
    assert status["late"] == [
        {"span": 1, "date": None, "version": 1, "new": ["1/late.csv"], "changed": [], "gone": []},
        {"span": 2, "date": None, "version": None, "new": ["2/rows.csv"], "changed": [], "gone": []},
        {"span": 3, "date": None, "version": 2, "new": [], "changed": ["3/rows.csv"], "gone": []},
    ]
    assert status["pending"] == [4] and status["set_aside"] == {}
    text = retrain("status", line.config).out
    assert "span 1 is no longer what version 1 learned: 1 new (1/late.csv)" in " ".join(text.split())


def test_data_that_is_not_kept_is_not_late(line: Any, retrain: Retrain) -> None:
    shutil.rmtree(line.folder / "data/1")
    (line.folder / "data/3/rows.csv").unlink()
    (status,) = lines(retrain("status", line.config, "--json").out)
    assert (status["late"], status["pending"]) == ([], [4])


def test_without_the_record_of_a_version_nothing_of_it_is_late(line: Any, retrain: Retrain) -> None:
    (Path(line.registry.get(1).uris["record"]) / "files.json").unlink()
    for span in (1, 3):
        write(line.folder / f"data/{span}/late.csv", "n\n1\n")
    (status,) = lines(retrain("status", line.config, "--json").out)
    assert [one["span"] for one in status["late"]] == [3]


def test_many_late_spans_are_a_few_lines(shop: Any, retrain: Retrain) -> None:
    shop.span(*range(1, 41))
    shop.add(40, serve=True)
    (status,) = lines(retrain("status", shop.config, "--json").out)
    assert len(status["late"]) == 39
    text = retrain("status", shop.config).out
    assert text.count("came late") == 10 and "and 29 more (--json names them all)" in text


@pytest.mark.usefixtures("faked")
def test_late_data_is_told_by_a_run_and_not_learned(line: Any, retrain: Retrain) -> None:
    write(line.folder / "data/1/late.csv", "n,x,word,y\n1,0.5,a,4\n")
    line.span(2)
    result = retrain("run", line.config)
    assert result.code == 0 and line.registry.champion().spans == (4,)
    assert "span 1 is no longer what version 1 learned: 1 new (1/late.csv)" in result.err
    assert "`retrain run --span 1 --again` learns it again" in result.err
    assert "span 2 came late" in result.err

    result = retrain("run", line.config, "--json")
    (only,) = lines(result.out)
    assert [one["span"] for one in only["late"]] == [1, 2] and line.registry.champion().number == 3
    assert "nothing new to learn" in retrain("run", line.config).err
    assert [one["span"] for one in lines(retrain("check", line.config, "--json").out)[0]["late"]] == [1, 2]


@pytest.mark.usefixtures("faked")
def test_a_changed_span_is_learned_again_once(line: Any, retrain: Retrain) -> None:
    unchanged = retrain("run", line.config, "--span", 1, "--again")
    assert unchanged.code == 0 and line.registry.champion().number == 2
    assert "span 1 is learned, and has not changed since" in unchanged.err
    assert retrain("run", line.config, "--span", 1).code == 0

    write(line.folder / "data/1/late.csv", "n,x,word,y\n1,0.5,a,4\n")
    refused = retrain("run", line.config, "--span", 1)
    assert refused.code == 1 and "version 1 learned it already; add --again" in refused.err
    result = retrain("run", line.config, "--span", 1, "--again", "--json")
    assert [one["spans"] for one in lines(result.out)] == [[1]]  # and it is late no more
    assert (line.registry.champion().number, line.registry.champion().parent) == (3, 2)

    # The same command again, as after a kill.
    assert retrain("run", line.config, "--span", 1, "--again", "--json").out == ""
    assert line.registry.champion().number == 3
    retrain("run", line.config, "--span", 1, "--again", "--force")
    assert line.registry.champion().number == 4
    (status,) = lines(retrain("status", line.config, "--json").out)
    assert (status["late"], status["pending"], status["set_aside"]) == ([], [4], {})


def test_a_rejected_second_try_leaves_the_span_learned_and_late(
    line: Any, retrain: Retrain, faked: type[Faked], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(line.folder / "data/1/late.csv", "n,x,word,y\n1,0.5,a,4\n")
    monkeypatch.setattr(faked, "blessed", False)
    assert retrain("run", line.config, "--span", 1, "--again").code == 0
    (status,) = lines(retrain("status", line.config, "--json").out)
    assert (status["served"], status["pending"], status["set_aside"]) == (2, [4], {})
    assert [one["span"] for one in status["late"]] == [1]


@pytest.mark.usefixtures("faked")
def test_a_rollback_of_a_second_try_leaves_the_span_learned_as_before(line: Any, retrain: Retrain) -> None:
    write(line.folder / "data/1/late.csv", "n,x,word,y\n1,0.5,a,4\n")
    retrain("run", line.config, "--span", 1, "--again")
    assert retrain("rollback", line.config, "--reason", "bad").code == 0
    (status,) = lines(retrain("status", line.config, "--json").out)
    assert (status["served"], status["pending"], status["set_aside"]) == (2, [4], {})
    assert [(one["span"], one["version"]) for one in status["late"]] == [(1, 1)]


@pytest.mark.usefixtures("faked")
def test_one_span_of_those_that_wait(line: Any, retrain: Retrain) -> None:
    line.span(2, 5, 6)
    for span in (6, 2):
        assert retrain("run", line.config, "--span", span).code == 0
        assert line.registry.champion().spans == (span,)
    line.add(5, parent=2, blessed=False)
    result = retrain("run", line.config, "--span", 5)
    assert result.code == 0 and "span 5 is set aside" in result.err and "not changed" not in result.err
    assert line.registry.champion().spans == (2,)
    retrain("run", line.config, "--span", 5, "--retry")
    assert line.registry.champion().spans == (5,)


def test_a_new_version_of_a_learned_span_is_late(shop: Any, retrain: Retrain) -> None:
    pattern = '{path: data, pattern: "{SPAN}/v{VERSION}/*.csv"}'
    shop.config.write_text(shop.config.read_text().replace("{path: data}", pattern))
    write(shop.folder / "data/1/v9/rows.csv", "n,x,word,y\n1,0.5,a,4\n")
    shop.add(1, serve=True)
    record(shop, 1)
    write(shop.folder / "data/1/v8/rows.csv", "n,x,word,y\n1,0.6,a,4\n")  # an older one changes nothing
    assert lines(retrain("status", shop.config, "--json").out)[0]["late"] == []
    write(shop.folder / "data/1/v10/rows.csv", "n,x,word,y\n1,0.5,a,4\n")
    (late,) = lines(retrain("status", shop.config, "--json").out)[0]["late"]
    assert (late["new"], late["gone"]) == (["1/v10/rows.csv"], ["1/v9/rows.csv"])


@pytest.fixture
def days(shop: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """2024-01-31 is learned; the days before and after it are there, and others follow."""
    pattern = '{path: data, pattern: "{YYYY}/{MM}/{DD}/*.csv"}'
    shop.config.write_text(shop.config.read_text().replace("{path: data}", pattern))
    for day in ("2024/01/30", "2024/01/31", "2024/02/01", "2024/02/02", "2024/02/03"):
        write(shop.folder / "data" / day / "rows.csv", "n,x,word,y\n1,0.5,a,4\n")
    shop.add(19753, serve=True)
    record(shop, 1)
    monkeypatch.setattr(Faked, "shop", shop, raising=False)
    monkeypatch.setattr("pipeline.learn.Learner", Faked)
    return shop


def test_spans_that_are_dates_are_shown_and_named_by_them(
    days: Any, retrain: Retrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = retrain("status", days.config).out
    assert "up to span 19753 (2024-01-31)" in text
    assert "spans 19754-19756 (2024-02-01 to 2024-02-03)" in text
    assert "span 19752 (2024-01-30) came late" in text
    (status,) = lines(retrain("status", days.config, "--json").out)
    assert status["dates"] == {"19754": "2024-02-01", "19755": "2024-02-02", "19756": "2024-02-03"}
    assert status["late"][0]["date"] == "2024-01-30"

    result = retrain("run", days.config, "--until", "2024-02-01")
    assert result.code == 0 and days.registry.champion().spans == (19754,)
    assert "span 19754 (2024-02-01): train" in result.err
    assert result.out.splitlines()[1].startswith("19754 (2024-02-01) ")
    assert retrain("run", days.config, "--span", "2024-01-30").code == 0
    assert days.registry.champion().spans == (19752,)
    assert retrain("run", days.config, "--span", "19756").code == 0
    assert "19756 (2024-02-03)" in retrain("history", days.config).out
    assert "19756 (2024-02-03)" in retrain("show", days.config, 4).out
    wrong = retrain("run", days.config, "--span", "2024-02-30")
    assert wrong.code == 1 and "or its date such as 2024-01-31" in wrong.err
    monkeypatch.setenv("COLUMNS", "80")
    table = retrain("run", days.config, "--span", "2024-02-02").out
    assert all(len(row) <= 80 for row in table.splitlines()) and "2024-02-02" in table


MISTAKES = [
    (["--again"], "--again: which span? Name it with --span"),
    (["--span", 1, "--until", 2], "leave --until and --together out"),
    (["--span", 1, "--together"], "leave --until and --together out"),
    (["--span", "x"], "--span: got 'x', expected the number of a span"),
    (["--until", "2024-01-31"], "--until: got '2024-01-31', expected the number of a span"),
    (["--span", 9], "--span 9: there is no such span in"),
    (["--span", 9, "--again"], "the first and the last are 1, 4)"),
]


@pytest.mark.usefixtures("faked")
def test_a_mistake_is_a_message_and_learns_nothing(line: Any, retrain: Retrain) -> None:
    for args, said in MISTAKES:
        result = retrain("run", line.config, *args)
        assert (result.code, result.out) == (1, ""), args
        assert said in result.err and "Traceback" not in result.err
    assert line.registry.champion().number == 2


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(RetrainError, match=rf"{tmp_path}/gone.csv: cannot be read"):
        identify(tmp_path, [tmp_path / "gone.csv"])
