"""What there is to learn: spans on disk, what is pending, and that nothing is lost or learned twice."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.errors import RetrainError
from components.promote.registry import Version, lineage
from pipeline.config import Data
from pipeline.learn import Learner, Outcome
from pipeline.plan import Pending, find_spans, next_run, pending


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


# Pending.


def version(
    number: int, *learned: int, parent: int | None = None, blessed: bool = True, aside: str = ""
) -> Version:
    return Version(
        number, f"key {number}", learned, max(learned), parent, blessed, {}, {}, 0.0, set_aside=aside
    )


COLD = version(1, 1)


def test_the_first_run_learns_everything() -> None:
    assert pending([3, 1, 2], None, [], retry=False, until=None) == Pending((1, 2, 3), {})
    assert pending([0, 1], None, [], retry=False, until=0) == Pending((0,), {})


def test_what_the_champion_has_learned_is_done() -> None:
    second = version(2, 2, 3, parent=1)
    assert pending([1, 2, 3, 4, 10], second, [COLD, second], retry=False, until=None).spans == (4, 10)
    assert pending([1, 2, 3, 4, 10], second, [COLD, second], retry=False, until=9).spans == (4,)
    assert pending([1, 2, 3], second, [COLD, second], retry=False, until=None).spans == ()
    # Not the last version: the one that is served.
    assert pending([1, 2, 3, 4], COLD, [COLD, second], retry=False, until=None).spans == (2, 3, 4)


def test_what_the_gate_rejected_is_set_aside_until_asked_for() -> None:
    rejected = version(2, 2, 3, parent=1, blessed=False)
    found = pending([1, 2, 3, 4], COLD, [COLD, rejected], retry=False, until=None)
    why = "version 2 was rejected by the gate"
    assert found == Pending((4,), {2: why, 3: why})
    assert pending([1, 2, 3, 4], COLD, [COLD, rejected], retry=True, until=None) == Pending((2, 3, 4), {})
    assert pending([1, 2, 3, 4], COLD, [COLD, rejected], retry=False, until=2) == Pending((), {2: why})


def test_what_was_rolled_back_is_set_aside_until_asked_for() -> None:
    left = version(2, 2, parent=1, aside="version 2 was rolled back on Monday: bad tips")
    found = pending([1, 2, 3], COLD, [COLD, left], retry=False, until=None)
    assert found == Pending((3,), {2: "version 2 was rolled back on Monday: bad tips"})
    assert pending([1, 2, 3], COLD, [COLD, left], retry=True, until=None).spans == (2, 3)


def test_an_ancestor_of_what_is_served_sets_nothing_aside() -> None:
    # Version 2 was rejected, a person promoted it, and version 3 went on from it.
    rejected, third = version(2, 2, parent=1, blessed=False), version(3, 3, parent=2, blessed=False)
    line = [COLD, rejected, third]
    assert pending([1, 2, 3, 4], rejected, line, retry=False, until=None) == Pending(
        (4,), {3: "version 3 was rejected by the gate"}
    )
    assert pending([1, 2, 3, 4], third, line, retry=False, until=None) == Pending((4,), {})


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8, unique=True).map(sorted), st.integers(0, 7))
def test_a_run_takes_what_was_skipped_and_one_more(waiting: list[int], skipped: int) -> None:
    run = next_run(waiting, skipped, together=False)
    assert list(run) == waiting[: skipped + 1] and len(run) == min(skipped + 1, len(waiting))
    assert list(next_run(waiting, skipped, together=True)) == waiting


# Any sequence of runs, rejections, rollbacks and promotions.


@dataclass
class World:
    """The spans and the registry, in memory but for the spans; `decide` draws what becomes of a run."""

    folder: Path
    decide: Any
    all_versions: dict[int, Version] = field(default_factory=dict)
    served: int | None = None
    trained: list[tuple[int, ...]] = field(default_factory=list)

    def versions(self) -> list[Version]:
        return list(self.all_versions.values())

    def champion(self) -> Version | None:
        return self.all_versions.get(self.served) if self.served is not None else None

    def line(self) -> list[Version]:
        return lineage(self.versions(), self.served)

    def on_disk(self) -> list[int]:
        return list(find_spans(Data(path=self.folder)))

    def learn(self, spans: tuple[int, ...], forced: bool) -> Outcome:
        base = self.champion()
        assert spans and list(spans) == sorted(set(spans))
        # The trainer tells new examples from replayed ones by the watermark.
        assert base is None or spans[0] > base.watermark
        assert not {span for v in self.line() for span in v.spans} & set(spans)
        action = self.decide(["skip", "blessed", "rejected", "skip", "blessed", "skip", "refuse"])
        if action == "skip" and (base is None or forced):
            action = "blessed"
        number = None
        if action in ("blessed", "rejected"):
            self.trained.append(spans)
            parent = base.number if base else None
            # The same work is taken from the cache, verdict and all, and is the same version.
            known = [v for v in self.versions() if (v.spans, v.parent) == (spans, parent)]
            number = known[0].number if known else len(self.all_versions) + 1
            if not known:
                self.all_versions[number] = version(
                    number, *spans, parent=parent, blessed=action == "blessed"
                )
            if self.all_versions[number].blessed:
                self.served = number
        return Outcome(
            spans=spans,
            files=(),
            decision={"action": "train" if number else action, "reasons": []},
            version=number,
            parent=base.number if base else None,
            warm_start=False,
            verdict={"blessed": self.all_versions[number].blessed} if number else None,
            served=self.served,
            seconds={},
            log="",
        )

    def roll_back(self, to: int, reason: str) -> None:
        kept = {v.number for v in lineage(self.versions(), to)}
        for v in self.line():
            if v.number not in kept:
                self.all_versions[v.number] = replace(v, set_aside=reason)
        self.promote(to)

    def promote(self, to: int) -> None:
        self.served = to
        for v in self.line():
            self.all_versions[v.number] = replace(v, set_aside="")


class Simulated(Learner):
    """The loop over the data, with a world in place of the pipeline."""

    def __init__(self, world: World, **options: Any) -> None:
        self.world = world
        super().__init__(world.deployment, **options)  # type: ignore[attr-defined]

    def __post_init__(self) -> None:
        self._registry = self.world  # type: ignore[assignment]

    def _run(self, spans: tuple[int, ...]) -> Outcome:
        return self.world.learn(spans, self.forced)


def accounted_for(world: World) -> None:
    """Every span on disk is learned once, waits, is set aside with a reason, or belongs to a version left."""
    learned = [span for v in world.line() for span in v.spans]
    assert len(learned) == len(set(learned))
    found = pending(world.on_disk(), world.champion(), world.versions(), retry=False, until=None)
    elsewhere = {span for v in world.versions() for span in v.spans}
    for span in world.on_disk():
        places = (span in learned, span in found.spans, span in found.set_aside)
        assert sum(places) == 1 or (sum(places) == 0 and span in elsewhere), (span, world)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), promotions=st.booleans(), retries=st.booleans())
def test_nothing_is_lost_or_learned_twice(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, promotions: bool, retries: bool
) -> None:
    folder = tmp_path_factory.mktemp("world")
    world = World(folder, lambda options: data.draw(st.sampled_from(options)))
    world.deployment = type("Deployment", (), {"data": Data(path=folder)})()  # type: ignore[attr-defined]
    commands = ["run", "arrive", "run", "rollback", *(["promote"] if promotions else [])]
    highest = -1
    for command in ["arrive", *data.draw(st.lists(st.sampled_from(commands), min_size=1, max_size=10))]:
        others = [number for number in world.all_versions if number != world.served]
        if command == "arrive":
            for _ in range(data.draw(st.sampled_from([4, 1, 2]))):
                highest += data.draw(st.sampled_from([1, 1, 2]))
                put(folder, f"{highest}/a.csv")
        elif command == "promote" and others:
            world.promote(data.draw(st.sampled_from(others)))
        elif command == "rollback":
            champion = world.champion()
            if champion and champion.parent is not None:
                world.roll_back(champion.parent, "bad")
        elif command == "run":
            run_once(world, data, retry=retries and data.draw(st.booleans()))
        accounted_for(world)
    if not promotions and not retries:
        everything = [span for spans in world.trained for span in spans]
        assert len(everything) == len(set(everything)), "a span was trained on twice"


def run_once(world: World, data: st.DataObject, retry: bool) -> None:
    """One `retrain run`, to its end or until it is killed."""
    rarely = st.sampled_from([False, False, False, True])
    until = data.draw(st.integers(0, 12)) if data.draw(rarely) else None
    learner = Simulated(world, retry=retry, until=until, together=data.draw(rarely), forced=data.draw(rarely))
    left = data.draw(st.integers(1, 3)) if data.draw(rarely) else None  # runs before it is killed
    stopped, skipped = False, 0
    seen: list[tuple[int, ...]] = []
    for outcome in learner.outcomes():
        seen.append(outcome.spans)
        assert until is None or outcome.spans[-1] <= until
        skipped = skipped + 1 if outcome.version is None else 0
        left = None if left is None else left - 1
        if outcome.action == "refuse" or left == 0:
            stopped = True
            break
    assert len(seen) == len(set(seen)), "the loop did the same work twice"
    if not stopped and not learner.together and not retry:
        # What still waits was looked at in this very run, and gave no reason to train.
        waits = [span for span in learner.waiting() if until is None or span <= until]
        assert len(waits) == skipped
