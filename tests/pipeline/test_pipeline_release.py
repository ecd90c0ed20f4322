"""`retrain release`, and what becomes of a span that the checks for poison put into quarantine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.errors import RetrainError
from pipeline.learn import Learner, Outcome, _labels_of_newest
from pipeline.release import Released, release, still_released
from pipeline.spans import plan
from pipeline.spans.find import find_spans
from pipeline.spans.late import identify
from pipeline.views import status

WHY = "50.0% of its rows repeat another one of it (poisoning.max_duplicates is 0.05)"


class Checked(Learner):
    """A learner whose pipeline finds these spans guilty, and learns the others."""

    guilty: tuple[int, ...] = ()
    seen: list[tuple[int, ...]]

    def _run(self, spans: tuple[int, ...]) -> Outcome:
        self.seen = [*getattr(self, "seen", []), spans]
        found = {str(span): WHY for span in spans if span in self.guilty}
        action = "quarantine" if found else "skip"
        decision = {"action": action, "reasons": [], "quarantine": found}
        return Outcome(spans, "", (), (), decision, None, None, False, None, None, {}, "")


def seen(shop: Any, guilty: tuple[int, ...], **options: Any) -> list[tuple[int, ...]]:
    """The spans of each run of one command."""
    learner = Checked(shop.deployment, **options)
    learner.guilty = guilty
    list(learner.outcomes())
    return learner.seen


def test_a_guilty_span_is_left_out_and_the_rest_go_on(shop: Any) -> None:
    shop.span(1, 2, 3)
    assert seen(shop, guilty=(2,)) == [(1,), (1, 2), (1, 3)]
    assert shop.registry.quarantined() == {2: f"in quarantine: {WHY}"}
    data, _ = status(shop.deployment)
    assert data["pending"] == [1, 3] and data["set_aside"] == {"2": f"in quarantine: {WHY}"}


def test_of_several_spans_in_one_run_only_the_guilty_one_goes(shop: Any) -> None:
    shop.span(1, 2, 3)
    assert seen(shop, guilty=(2,), together=True) == [(1, 2, 3), (1, 3)]
    assert list(shop.registry.quarantined()) == [2]


def test_a_retry_looks_again_and_ends(shop: Any) -> None:
    shop.span(1, 2)
    assert seen(shop, guilty=(1, 2)) == [(1,), (2,)]
    assert seen(shop, guilty=(1, 2), retry=True, together=True) == [(1, 2)]
    assert seen(shop, guilty=(1, 2), retry=True, span=2) == [(2,)]


def test_check_changes_nothing(shop: Any) -> None:
    shop.span(1, 2)
    assert seen(shop, guilty=(2,), check=True, together=True) == [(1, 2)]
    assert shop.registry.quarantined() == {}


def test_a_released_span_is_pending_and_its_files_are_no_longer_checked(shop: Any) -> None:
    shop.span(1, 2)
    shop.registry.quarantine([2], "in quarantine: odd")
    assert release(shop.deployment, [2], "looked at it") == [Released(2, "in quarantine: odd")]
    assert status(shop.deployment)[0]["pending"] == [1, 2] and shop.registry.quarantined() == {}
    told = shop.registry.released()
    assert told[2]["reason"] == "looked at it" and told[2]["was"] == "in quarantine: odd" and told[2]["who"]

    def files() -> dict[int, Any]:
        found = find_spans(shop.deployment.data)
        return {span: identify(shop.deployment.data.path, found[span]) for span in (1, 2)}

    assert still_released(told, files()) == (2,)
    Path(shop.folder, "data", "2", "rows.csv").write_text("n,x,word,y\n1,0.5,a,5\n")
    assert still_released(told, files()) == ()


def test_a_span_that_the_gate_rejected_is_released_too(shop: Any) -> None:
    shop.span(1, 2, 3)
    first = shop.add(1, serve=True)
    shop.add(2, parent=first, blessed=False)
    assert status(shop.deployment)[0]["pending"] == [3]
    release(shop.deployment, [2], "the gate is too strict")
    assert status(shop.deployment)[0]["pending"] == [2, 3]


def test_a_span_that_was_to_be_learned_again_is_released_although_it_is_learned(shop: Any) -> None:
    shop.span(1)
    shop.add(1, serve=True)
    shop.registry.quarantine([1], "in quarantine: odd")
    release(shop.deployment, [1], "looked at it")
    assert shop.registry.quarantined() == {}


def test_releasing_what_is_not_set_aside_says_what_is(shop: Any) -> None:
    shop.span(1, 2)
    with pytest.raises(RetrainError, match=r"release: span 1 is not set aside; none is \(`retrain status`"):
        release(shop.deployment, [1], "why not")
    shop.registry.quarantine([2], "odd")
    with pytest.raises(RetrainError, match="span 1 is not set aside; span 2 is "):
        release(shop.deployment, [2, 1], "why not")
    assert list(shop.registry.quarantined()) == [2]


def test_labels_are_compared_with_those_of_the_newest_span_learned(shop: Any) -> None:
    first = shop.add(1, 3, serve=True)
    second = shop.add(2, parent=first, serve=True)
    labels = {"1": {"rows": 1}, "3": {"rows": 3}}
    record = Path(shop.registry.get(first).uris["record"], "record.json")
    record.write_text(json.dumps({"decision": {"labels": labels}}))
    known = plan.learned(shop.registry.versions(), shop.registry.get(second))
    assert _labels_of_newest(known, [4]) == {"rows": 3}
    assert _labels_of_newest({}, [1]) is None
    assert _labels_of_newest(known, [3]) is None  # the record of version 2 does not say
    known[3] = replace(known[3], uris={"record": "/gone"})
    assert _labels_of_newest(known, [4]) is None
