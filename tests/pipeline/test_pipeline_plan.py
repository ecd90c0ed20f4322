"""What there is to learn: what is pending, late or set aside, and that nothing is lost or learned twice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.errors import RetrainError
from components.promote.registry import Version, lineage
from pipeline.config.sections import Data
from pipeline.learn import Learner
from pipeline.outcome import Outcome
from pipeline.spans.find import find_spans
from pipeline.spans.late import digest, identify
from pipeline.spans.plan import Pending, asked_for, learned, next_run, pending, watermark


def put(folder: Path, *names: str) -> None:
    """Makes files, and a folder of each name that ends with a slash."""
    for name in names:
        path = folder / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_text("a\n1\n")


def version(
    number: int,
    *learned: int,
    parent: int | None = None,
    blessed: bool = True,
    aside: str = "",
    up_to: int | None = None,
) -> Version:
    up_to = max(learned) if up_to is None else up_to
    return Version(number, f"key {number}", learned, up_to, parent, blessed, {}, {}, 0.0, set_aside=aside)


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


def test_what_is_in_quarantine_is_set_aside_until_asked_for() -> None:
    def found(retry: bool = False) -> Pending:
        return pending([1, 2, 3, 4], third, [COLD, third], retry, None, {1: "old", 2: "in quarantine: odd"})

    third = version(2, 3, parent=1)
    assert found() == Pending((4,), {2: "in quarantine: odd"})  # not late, and 1 was learned all the same
    assert found(retry=True).spans == (2, 4)


def test_a_release_takes_back_what_set_a_span_aside_before_it() -> None:
    rejected = replace(version(2, 2, parent=1, blessed=False), created=10.0)
    third = version(3, 3, parent=1)

    def found(released: float) -> Pending:
        return pending(
            [1, 2, 3], third, [COLD, rejected, third], False, None, released={2: {"when": released}}
        )

    assert found(11.0) == Pending((2,), {})  # although the watermark has passed it
    assert found(9.0) == Pending((), {2: "version 2 was rejected by the gate"})


def test_an_ancestor_of_what_is_served_sets_nothing_aside() -> None:
    # Version 2 was rejected, a person promoted it, and version 3 went on from it.
    rejected, third = version(2, 2, parent=1, blessed=False), version(3, 3, parent=2, blessed=False)
    line = [COLD, rejected, third]
    assert pending([1, 2, 3, 4], rejected, line, retry=False, until=None) == Pending(
        (4,), {3: "version 3 was rejected by the gate"}
    )
    assert pending([1, 2, 3, 4], third, line, retry=False, until=None) == Pending((4,), {})


def test_what_was_set_aside_is_in_reach_when_later_spans_were_learned() -> None:
    rejected, third = version(2, 2, parent=1, blessed=False), version(3, 3, parent=1)
    versions = [COLD, rejected, third]
    why = "version 2 was rejected by the gate"
    assert pending([1, 2, 3, 4], third, versions, retry=False, until=None) == Pending((4,), {2: why})
    assert pending([1, 2, 3, 4], third, versions, retry=True, until=None) == Pending((2, 4), {})


def test_a_span_that_came_when_later_ones_were_learned_waits_to_be_asked_for() -> None:
    third = version(2, 3, parent=1)
    for retry in (False, True):
        assert pending([1, 2, 3, 4], third, [COLD, third], retry=retry, until=None) == Pending((4,), {}, (2,))
    # Another line learned it, and was left without a word against it.
    other = version(3, 2, parent=1)
    assert pending([1, 2, 3], third, [COLD, third, other], retry=False, until=None).late == (2,)


def test_a_rejected_second_try_changes_nothing_for_a_learned_span() -> None:
    second, again = version(2, 2, parent=1), version(3, 1, parent=2, blessed=False, up_to=2)
    for retry in (False, True):
        assert pending([1, 2], second, [COLD, second, again], retry=retry, until=None) == Pending((), {})


def test_a_span_learned_again_counts_as_its_last_version_learned_it() -> None:
    second, again = version(2, 2, parent=1), version(3, 1, parent=2, up_to=2)
    versions = [COLD, second, again]
    assert {span: v.number for span, v in learned(versions, again).items()} == {1: 3, 2: 2}
    # After a rollback it is learned as before, and neither waits nor is set aside.
    left = [COLD, second, replace(again, set_aside="rolled back")]
    assert {span: v.number for span, v in learned(left, second).items()} == {1: 1, 2: 2}
    assert pending([1, 2], second, left, retry=True, until=None) == Pending((), {})
    assert learned([], None) == {}


@pytest.mark.parametrize("again", [False, True])
def test_a_span_that_is_not_learned_is_learned_when_it_is_named(again: bool) -> None:
    found = Pending((4, 5), {6: "rejected"}, late=(2,))
    for span in (5, 2):  # one that waits behind another, and one that came late
        assert asked_for(span, {1: COLD}, found, again, changed=True) == (span,)
    assert asked_for(6, {1: COLD}, found, again, changed=True) == ()


def test_a_learned_span_is_learned_again_when_that_is_said_and_it_has_changed() -> None:
    found = Pending((), {})
    assert asked_for(1, {1: COLD}, found, again=True, changed=True) == (1,)
    for again in (True, False):  # done before: the same command again does nothing twice
        assert asked_for(1, {1: COLD}, found, again, changed=False) == ()
    with pytest.raises(RetrainError, match="--span 1: version 1 learned it already; add --again"):
        asked_for(1, {1: COLD}, found, again=False, changed=True)


@pytest.mark.parametrize(
    ("champion", "known", "spans", "waiting", "expected"),
    [
        (None, [], [1], [1, 2], 1),
        (None, [], [2], [1, 2], -1),  # 1 would be late
        (version(1, 2, up_to=-1), [2], [1], [1], 2),
        (COLD, [1], [4], [2, 3, 4, 5], 1),
        (version(2, 4, parent=1, up_to=1), [1, 4], [2], [2, 3, 5], 2),
        (version(3, 2, parent=2, up_to=2), [1, 2, 4], [3], [3, 5], 4),
        (version(2, 5, parent=1), [1, 5], [3], [6], 5),  # late, or again: it stays
        (version(2, 5, parent=1), [1, 5], [6, 7], [6, 7], 7),
    ],
)
def test_the_watermark_is_before_what_waits(
    champion: Version | None, known: list[int], spans: list[int], waiting: list[int], expected: int
) -> None:
    assert watermark(champion, known, spans, waiting) == expected


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8, unique=True).map(sorted), st.integers(0, 7))
def test_a_run_takes_what_was_skipped_and_one_more(waiting: list[int], skipped: int) -> None:
    run = next_run(waiting, skipped, together=False)
    assert list(run) == waiting[: skipped + 1] and len(run) == min(skipped + 1, len(waiting))
    assert list(next_run(waiting, skipped, together=True)) == waiting


FORGOT = {"gate": {"only_forgetting": True, "reasons": ["auc on span=1 fell"]}}
FIRST, SECOND = (FORGOT | {"attempt": {"number": number}} for number in (1, 2))


def aside(champion: Version, versions: list[Version], second_attempts: bool = True) -> Mapping[int, str]:
    found = pending([1, 2], champion, versions, retry=False, until=None, second_attempts=second_attempts)
    assert set(found.spans) | set(found.set_aside) == {2}
    return found.set_aside


def test_what_only_forgot_waits_for_its_second_attempt() -> None:
    first = replace(version(2, 2, parent=1, blessed=False), record=FIRST)
    second = replace(version(3, 2, parent=1, blessed=False), record=SECOND)
    assert aside(COLD, [COLD, first]) == {}  # killed between the two
    assert aside(COLD, [COLD, first, second]) == {2: "version 3 was rejected by the gate: auc on span=1 fell"}
    # Another one's second attempt: of other files, of other spans, from another version.
    for other in (replace(second, fingerprint="b"), replace(second, spans=(2, 3)), replace(second, parent=9)):
        assert "version 2" not in aside(COLD, [COLD, first, other]).values()
        assert 2 not in aside(COLD, [COLD, first, replace(other, blessed=True)])


def test_a_second_attempt_is_only_for_what_it_may_help() -> None:
    first = replace(version(2, 2, parent=1, blessed=False), record=FIRST)
    why = {2: "version 2 was rejected by the gate: auc on span=1 fell"}
    assert aside(COLD, [COLD, first], second_attempts=False) == why
    assert aside(COLD, [COLD, replace(first, record=FORGOT)]) == why  # made when none was configured
    assert aside(COLD, [COLD, replace(first, parent=9)]) == why  # the champion has moved on
    worse = FIRST | {"gate": FORGOT["gate"] | {"only_forgetting": False}}
    assert aside(COLD, [COLD, replace(first, record=worse)]) == why
    back = replace(first, set_aside="version 2 was rolled back")
    assert aside(COLD, [COLD, back]) == {2: "version 2 was rolled back"}


def test_a_rejected_shadow_sets_nothing_aside() -> None:
    shadow = replace(version(2, 1, 2, parent=1, blessed=False), kind="shadow")
    assert aside(COLD, [COLD, shadow]) == {}


def test_a_version_that_learned_nothing_changes_nothing_of_what_waits() -> None:
    forgets = Version(2, "key 2", (), 1, 1, True, {}, {}, 0.0, kind="forget")
    assert aside(forgets, [COLD, forgets]) == {} and set(learned([COLD, forgets], forgets)) == {1}


# Any sequence of runs, rejections, rollbacks and promotions.


@dataclass
class World:
    """The registry in memory, spans and records on disk; `decide` draws what becomes of a run."""

    folder: Path
    decide: Any
    all_versions: dict[int, Version] = field(default_factory=dict)
    served: int | None = None
    trained: list[tuple[int, ...]] = field(default_factory=list)
    locked_up: dict[int, str] = field(default_factory=dict)
    let_out: dict[int, Any] = field(default_factory=dict)
    clock: float = 0.0

    @property
    def data(self) -> Data:
        return Data(path=self.folder / "data")

    @property
    def deployment(self) -> Any:
        return SimpleNamespace(
            data=self.data,
            state=self.folder / "state",
            gates=SimpleNamespace(retry_ratio=0.8),
            serving=SimpleNamespace(canary=None),
        )

    def record(self, number: int, spans: tuple[int, ...]) -> None:
        """As Register writes it."""
        on_disk = find_spans(self.data)
        files = {span: identify(self.data.path, on_disk[span]) for span in spans}
        (self.folder / "records" / str(number)).mkdir(parents=True)
        (self.folder / "records" / str(number) / "files.json").write_text(json.dumps(files))

    def versions(self) -> list[Version]:
        return list(self.all_versions.values())

    def champion(self) -> Version | None:
        return self.all_versions.get(self.served) if self.served is not None else None

    def line(self) -> list[Version]:
        return lineage(self.versions(), self.served)

    def on_disk(self) -> list[int]:
        return list(find_spans(self.data))

    def learn(self, spans: tuple[int, ...], forced: bool, again: bool, named: bool, attempt: int) -> Outcome:
        base = self.champion()
        assert spans and list(spans) == sorted(set(spans))
        ever = {*self.locked_up, *self.let_out, *(span for v in self.versions() for span in v.spans)}
        assert named or all(span in ever or base is None or span > base.watermark for span in spans)
        known = learned(self.versions(), base)
        assert again or not known.keys() & set(spans)
        up_to = watermark(base, known, spans, self.pending().spans)
        assert up_to >= (base.watermark if base else -1)
        action = self.decide(
            ["skip", "blessed", "rejected", "skip", "blessed", "quarantine", "refuse", "forgot"]
            if attempt == 1
            else ["blessed", "forgot"]
        )
        guilty: list[int] = []
        if action == "quarantine":
            guilty = [span for span in spans if span not in self.let_out and self.decide([True, False])]
            action = "quarantine" if guilty else "blessed"
        if action == "skip" and (base is None or forced):
            action = "blessed"
        number = None
        if action in ("blessed", "rejected", "forgot"):
            parent = base.number if base else None
            # The same work is taken from the cache, verdict and all, and is the same version.
            on_disk = find_spans(self.data)
            content = digest({span: identify(self.data.path, on_disk[span]) for span in spans})
            content += str([span for span in spans if span in self.let_out])
            made_of = (spans, parent, content, attempt)
            same = [v for v in self.versions() if (v.spans, v.parent, v.fingerprint, tried(v)) == made_of]
            number = same[0].number if same else len(self.all_versions) + 1
            if not same:
                made = version(number, *spans, parent=parent, blessed=action == "blessed", up_to=up_to)
                record = {"attempt": {"number": attempt}, "gate": {"only_forgetting": action == "forgot"}}
                made = replace(made, created=self.now(), record=record)
                if attempt == 2 or action != "forgot":  # else it is not done with
                    self.trained.append(spans)
                uris = {"record": str(self.folder / "records" / str(number))}
                self.all_versions[number] = replace(made, uris=uris, fingerprint=content)
                self.record(number, spans)
            made = self.all_versions[number]
            if made.blessed:
                self.served = number
        return Outcome(
            spans=spans,
            label="",
            dates=(),
            files=(),
            decision={
                "action": "train" if number else action,
                "reasons": [],
                "quarantine": {str(span): "poison" for span in guilty},
            },
            version=number,
            parent=base.number if base else None,
            warm_start=False,
            verdict={"blessed": made.blessed, **made.record["gate"]} if number else None,
            served=self.served,
            seconds={},
            log="",
            attempt=attempt,
        )

    def pending(self, retry: bool = False) -> Pending:
        return pending(
            self.on_disk(), self.champion(), self.versions(), retry, None, self.locked_up, self.let_out, True
        )

    def now(self) -> float:
        self.clock += 1.0
        return self.clock

    def quarantined(self) -> Mapping[int, str]:
        return self.locked_up

    def released(self) -> Mapping[int, Mapping[str, Any]]:
        return self.let_out

    def quarantine(self, spans: list[int], reason: str) -> None:
        self.locked_up |= dict.fromkeys(spans, reason)

    def release(self, span: int) -> None:
        """What `retrain release` changes."""
        self.locked_up.pop(span, None)
        self.let_out[span] = {"when": self.now()}
        assert span in self.pending().spans

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


def tried(version: Version) -> int:
    """Which attempt a version was."""
    return int(version.record["attempt"]["number"])


class Simulated(Learner):
    """The loop over the data, with a world in place of the pipeline."""

    def __init__(self, world: World, **options: Any) -> None:
        self.world = world
        super().__init__(world.deployment, **options)

    def __post_init__(self) -> None:
        self._registry = self.world  # type: ignore[assignment]

    def _run(self, spans: tuple[int, ...], attempt: int = 1) -> Outcome:
        named = self.span is not None
        return self.world.learn(spans, self.forced or named, self.again, named, attempt)


def accounted_for(world: World) -> None:
    """Every span on disk is learned, waits, is set aside with a reason, or is reported as late."""
    known = learned(world.versions(), world.champion())
    found = world.pending()
    for span in world.on_disk():
        places = (span in known, span in found.spans, span in found.set_aside, span in found.late)
        assert sum(places) == 1, (span, world)
    retried = world.pending(retry=True)
    assert set(retried.spans) == {*found.spans, *found.set_aside}


OTHERS = ["promote", "arrive late", "change", "name", "name", "release"]


@settings(max_examples=150, deadline=None)
@given(data=st.data(), promotions=st.booleans(), retries=st.booleans())
def test_nothing_is_lost_or_learned_twice(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, promotions: bool, retries: bool
) -> None:
    world = World(tmp_path_factory.mktemp("world"), lambda options: data.draw(st.sampled_from(options)))
    folder = world.data.path
    commands = ["run", "arrive", "run", "rollback", *(OTHERS if promotions else [])]
    highest = -1
    for command in ["arrive", *data.draw(st.lists(st.sampled_from(commands), min_size=1, max_size=10))]:
        others = [number for number in world.all_versions if number != world.served]
        if command == "arrive":
            for _ in range(data.draw(st.sampled_from([4, 1, 2]))):
                highest += data.draw(st.sampled_from([1, 1, 2]))
                put(folder, f"{highest}/a.csv")
        elif command == "arrive late":
            missing = sorted(set(range(highest)) - set(world.on_disk()))
            put(folder, *(f"{data.draw(st.sampled_from(missing))}/a.csv" for _ in missing[:1]))
        elif command == "change":
            span = data.draw(st.sampled_from(world.on_disk()))
            (folder / str(span) / data.draw(st.sampled_from(["a.csv", "b.csv"]))).write_text(
                f"a\n{span}\n2\n"
            )
        elif command == "name":
            name_one(world, data.draw(st.sampled_from(world.on_disk())))
        elif command == "promote" and others:
            world.promote(data.draw(st.sampled_from(others)))
        elif command == "release" and world.pending().set_aside:
            world.release(data.draw(st.sampled_from(sorted(world.pending().set_aside))))
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


def name_one(world: World, span: int) -> None:
    """`retrain run --span`: that span alone is learned, and nothing else becomes late or is set aside."""
    before = world.pending()
    known = learned(world.versions(), world.champion())
    late = Simulated(world).late()
    assert {one.span for one in late if one.version is None} == set(before.late)
    changed = {one.span for one in late if one.version is not None}
    assert changed <= set(known)
    if span in changed:
        with pytest.raises(RetrainError, match="add --again"):
            list(Simulated(world, span=span).outcomes())
    outcomes = list(Simulated(world, span=span, again=True).outcomes())
    done = span in (changed if span in known else {*before.spans, *before.late})
    assert [outcome.spans for outcome in outcomes if outcome.attempt == 1] == ([(span,)] if done else [])
    after = world.pending()
    assert set(before.spans) - {span} == set(after.spans) - {span}
    assert set(before.set_aside) == set(after.set_aside) - {span} or span in before.set_aside
    if outcomes and outcomes[-1].blessed:
        assert span in learned(world.versions(), world.champion()) and span not in after.late
        assert span not in {one.span for one in Simulated(world).late()}
        assert not list(Simulated(world, span=span, again=True).outcomes()), "the same command did it twice"


def run_once(world: World, data: st.DataObject, retry: bool) -> None:
    """One `retrain run`, to its end or until it is killed."""
    rarely = st.sampled_from([False, False, False, True])
    until = data.draw(st.integers(0, 12)) if data.draw(rarely) else None
    learner = Simulated(world, retry=retry, until=until, together=data.draw(rarely), forced=data.draw(rarely))
    left = data.draw(st.integers(1, 3)) if data.draw(rarely) else None  # runs before it is killed
    stopped, looked_at = False, set[int]()
    seen: list[Any] = []
    for outcome in learner.outcomes():
        seen.append((outcome.spans, outcome.attempt))
        assert until is None or outcome.spans[-1] <= until
        looked_at = set(outcome.spans) if outcome.version is None else set()
        left = None if left is None else left - 1
        if outcome.action == "refuse" or left == 0:
            stopped = True
            break
    assert len(seen) == len(set(seen)), "the loop did the same work twice"
    if not stopped and not learner.together and not retry:
        # What still waits was looked at in this very run, and gave no reason to train.
        waits = [span for span in learner.waiting() if until is None or span <= until]
        assert set(waits) <= looked_at
