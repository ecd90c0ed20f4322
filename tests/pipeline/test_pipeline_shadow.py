"""The shadow: what it learns, what the champion lacks in comparison, and what that has saved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.errors import RetrainError
from components.promote.registry import Version
from pipeline.learn import Learner
from pipeline.outcome import Outcome
from pipeline.shadow import debt, describe, gaps, to_learn


def test_a_shadow_learns_what_the_line_learned_and_is_still_there() -> None:
    on_disk = {1: ["a"], 2: ["a"], 3: [], 5: ["a"], 6: ["new"]}
    assert to_learn([5, 2, 1, 3, 4], on_disk, None) == (
        (1, 2, 5),
        {3: "its files are gone", 4: "its files are gone"},
    )


def test_or_the_newest_of_it() -> None:
    on_disk = {span: ["a"] for span in range(6)}
    old = "older than the newest 2 (shadow.window)"
    assert to_learn([1, 2, 3, 5], on_disk, 2) == ((3, 5), {1: old, 2: old})
    assert to_learn([1, 2], on_disk, 9) == ((1, 2), {})
    # The window counts what was learned: what is gone of it is not made up for by older spans.
    assert to_learn([1, 2, 3], {1: ["a"], 3: ["a"]}, 2)[0] == (3,)


def test_the_gap_is_positive_where_the_shadow_is_better() -> None:
    shadow = {"overall": {"auc": 0.95, "log_loss": 0.2, "example_count": 900.0, "rmse": 1.0}}
    champion = {"overall": {"auc": 0.93, "log_loss": 0.3, "example_count": 900.0}}
    found = gaps({"candidate": shadow, "champion": champion})
    assert found["auc"] == {"shadow": 0.95, "champion": 0.93, "gap": pytest.approx(0.02)}
    assert found["log_loss"]["gap"] == pytest.approx(0.1)
    assert set(found) == {"auc", "log_loss"}


def version(number: int, parent: int | None, rows: int | None, epochs: int = 5, **more: Any) -> Version:
    cost = {"new_rows": rows, "examples": rows * epochs, "seconds": rows / 100} if rows else None
    metrics = {"candidate": {"overall": {"auc": 0.95}}, "champion": {"overall": {"auc": 0.94}}}
    record = {"metrics": metrics} | ({"training": cost} if cost else {})
    return Version(number, str(number), (number,), number, parent, True, {}, record, 0.0, **more)


# 1,000 rows a span; a cold start of 15 epochs, then two updates of 5.
COLD, SECOND, THIRD = version(1, None, 1000, 15), version(2, 1, 1000), version(3, 2, 1000)
SHADOW = replace(version(4, 3, 3000, 15, kind="shadow"), spans=(1, 2, 3))


def test_what_the_line_has_cost_and_what_it_would_have_from_scratch() -> None:
    found = debt(SHADOW, [COLD, SECOND, THIRD, SHADOW])
    assert (found["shadow"], found["champion"]) == (4, 3)
    assert {name: cost["examples"] for name, cost in found["cost"].items()} == {
        "shadow": 45_000,
        "update": 5_000,
        "line": 25_000,
        # 1,000, 2,000 and 3,000 rows, 15 times each.
        "from_scratch": 90_000,
    }
    assert found["cost"]["line"]["seconds"] == 30.0
    assert found["cost"]["from_scratch"]["seconds"] == pytest.approx(60.0)
    assert describe(found, "1-3") == (
        "shadow: version 4, from scratch on span 1-3, against version 3: auc 0.95 against 0.94; it was "
        "trained on 45,000 examples in 30 s, that update on 5,000 examples in 10 s; the line on 25,000 "
        "examples in 30 s instead of about 90,000 examples in 60 s"
    )


def test_rejected_versions_and_other_lines_are_no_part_of_the_cost() -> None:
    rejected = version(9, 2, 10_000)
    assert debt(SHADOW, [COLD, SECOND, THIRD, rejected, SHADOW]) == debt(SHADOW, [COLD, SECOND, THIRD])


def test_a_version_without_some_records_cost_nothing() -> None:
    forgets = replace(THIRD, number=5, parent=3, kind="forget", spans=())
    shadow = replace(SHADOW, parent=5)
    found = debt(shadow, [COLD, SECOND, THIRD, forgets, shadow])
    assert found["champion"] == 5 and found["cost"] == debt(SHADOW, [COLD, SECOND, THIRD])["cost"]


def test_a_promoted_shadow_had_all_rows_as_new_ones() -> None:
    fifth = version(5, 4, 1000)
    later = replace(version(6, 5, 4000, 15, kind="shadow"), spans=(1, 2, 3, 5))
    found = debt(later, [COLD, SECOND, THIRD, SHADOW, fifth, later])
    # 1,000, 2,000, 3,000, the shadow's 3,000 and 4,000 rows.
    assert found["cost"]["from_scratch"]["examples"] == 15 * 13_000


def test_where_a_cost_was_not_recorded_nothing_is_made_up() -> None:
    found = debt(SHADOW, [version(1, None, None), SECOND, THIRD])
    assert found["cost"]["line"] == found["cost"]["from_scratch"] == {"examples": None, "seconds": None}
    assert describe(found, "1-3").endswith("that update on 5,000 examples in 10 s")
    bare = replace(SHADOW, record={"metrics": SHADOW.record["metrics"]})
    assert describe(debt(bare, [COLD, SECOND, THIRD]), "1-3").endswith("auc 0.95 against 0.94")


# The run.


class Faked(Learner):
    """A learner whose pipeline makes a shadow with this gap to the champion."""

    blessed, gap = True, 0.02
    shop: Any

    def _run(self, spans: tuple[int, ...], attempt: int = 1) -> Outcome:
        base = self._registry.champion()
        assert base is not None
        number = self.shop.add(*spans, parent=base.number, blessed=self.blessed)
        decision, debt = {"action": "train"}, {"metrics": {"auc": {"gap": self.gap}}}
        served = base.number
        outcome = Outcome(spans, "", (), (), decision, number, served, False, None, served, {}, "", "shadow")
        outcome = replace(outcome, debt=debt)
        outcome = replace(outcome, verdict={"blessed": self.blessed, "only_forgetting": True})
        return self._promoted(outcome)


def learn(shop: Any, blessed: bool = True, gap: float = 0.02, above: float | None = None) -> Outcome:
    section = shop.deployment.shadow.model_copy(update={"promote_above": above})
    learner = Faked(shop.deployment.model_copy(update={"shadow": section}), from_scratch=True)
    learner.shop, learner.blessed, learner.gap = shop, blessed, gap
    (outcome,) = learner.outcomes()  # and no second attempt
    return outcome


@pytest.fixture
def learned(shop: Any) -> Any:
    shop.span(1, 2, 3)
    shop.add(1, serve=True)
    shop.add(2, parent=1, serve=True)
    return shop


@pytest.mark.parametrize(
    ("options", "served"),
    [
        ({}, 2),
        ({"above": 0.01}, 3),
        ({"above": 0.02}, 2),
        ({"above": 0.0, "gap": -0.1}, 2),
        ({"above": 0.01, "blessed": False}, 2),
    ],
    ids=["by default", "better by more", "not by more", "worse", "rejected"],
)
def test_a_shadow_is_promoted_where_it_passed_and_is_enough_better(
    learned: Any, options: dict[str, Any], served: int
) -> None:
    outcome = learn(learned, **options)
    assert outcome.spans == (1, 2)
    assert outcome.served == served == learned.registry.champion().number
    assert (learned.state / "serving" / "shop" / "3").exists() == (served == 3)


def test_a_shadow_needs_a_champion_and_its_files(shop: Any) -> None:
    with pytest.raises(RetrainError, match="--from-scratch: no version is served yet"):
        Learner(shop.deployment, from_scratch=True).waiting()
    shop.add(1, serve=True)
    with pytest.raises(RetrainError, match="no span that version 1 has learned is on disk any more"):
        Learner(shop.deployment, from_scratch=True).waiting()


def test_what_a_shadow_lacks_or_learns_otherwise_is_told(learned: Any) -> None:
    learned.add(3, 4, parent=2, serve=True)
    record = Path(learned.registry.get(3).uris["record"]) / "files.json"
    record.write_text('{"3": {"3/other.csv": [1, 2, "x"]}, "4": {}}')
    learner = Learner(learned.deployment, from_scratch=True)
    assert learner.waiting() == (1, 2, 3)
    assert dict(learner.left_out) == {4: "its files are gone"}
    assert list(learner.changed) == [3] and "no longer what version 3 learned" in learner.changed[3]
