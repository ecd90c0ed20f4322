"""Advance, hold or revert: the decision on what was seen, with simulated requests."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.errors import RetrainError
from pipeline.canary.bins import Bins
from pipeline.canary.decide import Decision, decide
from pipeline.canary.limits import Check
from pipeline.canary.tally import Pool, Request, Step, latency_bin, latency_quantile, step_of
from pipeline.config.sections.canary import Canary
from pipeline.config.sections.server import Server
from tests.pipeline.conftest import Shop

SERVERS = [Server(grpc="127.0.0.1:8510", rest="127.0.0.1:8511")]


def settings(**changes: Any) -> Canary:
    common = {"step_seconds": 60.0, "p99_floor_ms": 0.0, "labels": Path("arrived")}
    return Canary(servers=SERVERS, **{**common, **changes})


def pool(requests: int = 0, errors: int = 0, seconds: float = 0.005, **more: Any) -> Pool:
    latency = {latency_bin(seconds): requests - errors} if requests > errors else {}
    return Pool(requests=requests, errors=errors, latency=latency, keys=(1 << min(requests, 100)) - 1, **more)


def check(decision: Decision, limit: str) -> Check:
    return next(found for found in decision.checks if found.limit == limit)


def test_a_step_is_held_until_time_and_requests_are_over() -> None:
    step = Step(1.0, 1000.0, pool(9900), pool(99))
    held = decide([step], settings(), 1030.0)
    assert held.action == "hold"
    assert held.reasons == (
        "30 of 60 seconds are left",
        "99 of 100 requests of the challenger's have come",
    )
    assert decide([step], settings(), 1060.0).action == "hold"
    step.canary = pool(100)
    assert decide([step], settings(), 1059.0).action == "hold"
    assert decide([step], settings(), 1060.0).action == "advance"
    assert decide([step, Step(100.0, 1060.0, Pool(), pool(100))], settings(), 1121.0).action == "promote"


def test_labels_are_waited_for_where_they_are_asked_for() -> None:
    step = Step(1.0, 0.0, pool(9900), pool(100))
    assert decide([step], settings(step_labels=10), 60.0).reasons == (
        "0 of 10 labels of the challenger's have come",
    )


def test_what_nothing_was_measured_of_is_told() -> None:
    from pipeline.canary.sequential import Moments

    step = Step(1.0, 0.0, pool(9900, predictions=[9, 9]), pool(100, predictions=[50, 50]))
    (told,) = decide([step], settings(), 60.0).reasons
    assert told == "1 % for 60 s, 100 requests: every limit is kept; nothing was measured of max_loss_rise"
    step.canary.losses = step.stable.losses = Moments().add([0.2] * 100)
    assert decide([step], settings(), 60.0).reasons == ("1 % for 60 s, 100 requests: every limit is kept",)


def test_the_loss_is_no_limit_where_no_labels_can_come() -> None:
    step = Step(1.0, 0.0, pool(9900), pool(100))
    asked = [found.limit for found in decide([step], settings(), 60.0).checks]
    without = [found.limit for found in decide([step], settings(labels=None), 60.0).checks]
    assert asked == [*without, "max_loss_rise"]


def test_labels_that_can_never_come_are_not_waited_for() -> None:
    with pytest.raises(ValueError, match="step_labels: got 10 without a folder"):
        settings(step_labels=10, labels=None)


def test_one_key_for_all_requests_is_told() -> None:
    step = Step(1.0, 0.0, Pool(requests=5000, keys=1 << 7), Pool())
    (_, told) = decide([step], settings(), 60.0).reasons
    assert told == "all 5000 requests have one key, or one address: send X-Request-Key"


def test_five_failures_of_the_first_five_are_enough() -> None:
    step = Step(1.0, 0.0, pool(495), pool(5, errors=5))
    decision = decide([step], settings(), 1.0)
    assert decision.action == "revert"
    (why,) = decision.reasons
    assert why.startswith("max_error_rate: 1 against the champion's 0, for certain 0.")
    assert why.endswith("or more over 5 requests, allowed is 0.01 (at 1 % of the requests)")
    # Where the champion fails as often it is nobody's fault.
    assert (
        decide([Step(1.0, 0.0, pool(495, errors=495), pool(5, errors=5))], settings(), 1.0).action == "hold"
    )


def test_one_failure_is_not() -> None:
    assert decide([Step(1.0, 0.0, pool(9900), pool(100, errors=1))], settings(), 60.0).action == "advance"


def test_what_looks_bad_and_is_not_certain_is_held() -> None:
    step = Step(1.0, 0.0, pool(9900), pool(100, errors=2))
    held = decide([step], settings(), 3600.0)
    assert held.action == "hold" and held.reasons == (
        "max_error_rate: 0.02 over 100 requests of the challenger's, allowed is 0.01, and neither is certain",
    )
    step.canary = pool(300, errors=2)  # it was chance
    assert decide([step], settings(), 3600.0).action == "advance"
    step.canary = pool(300, errors=16)  # it was not
    assert decide([step], settings(), 3600.0).action == "revert"


def test_a_broken_limit_of_an_earlier_step_reverts_later_too() -> None:
    """Labels of the first step's predictions come in the second."""
    from pipeline.canary.sequential import Moments

    random = np.random.default_rng(0)
    first = Step(10.0, 0.0, pool(9000), pool(1000))
    first.stable.losses = Moments().add(random.beta(2, 8, 5000))
    first.canary.losses = Moments().add(random.beta(4, 6, 600))
    decision = decide([first, Step(50.0, 60.0, pool(10), pool(10))], settings(), 61.0)
    assert decision.action == "revert"
    loss = check(decision, "max_loss_rise")
    assert loss.percent == 10.0 and loss.seen == 600
    assert loss.least is not None and loss.most is not None and loss.least < 0.2 < loss.most


def test_at_100_percent_the_champion_of_the_step_before_is_the_measure() -> None:
    before = Step(50.0, 0.0, pool(5000), pool(5000))
    assert (
        decide([before, Step(100.0, 60.0, pool(), pool(20, errors=8))], settings(), 61.0).action == "revert"
    )
    assert (
        decide([before, Step(100.0, 60.0, pool(), pool(20, seconds=0.1))], settings(), 61.0).action
        == "revert"
    )


def test_a_high_percentile_is_a_limit_of_its_own() -> None:
    step = Step(1.0, 0.0, pool(990, seconds=0.2), pool(10, seconds=0.3))
    both = decide([step], settings(max_p99_ms=250.0), 1.0)
    assert both.action == "revert" and check(both, "max_p99_ms").broken
    assert not check(both, "max_p99_ratio").broken
    assert check(both, "max_p99_ms").canary == pytest.approx(300, rel=0.05)
    assert decide([step], settings(max_p99_ms=350.0), 1.0).action == "hold"


def test_small_latencies_are_not_compared() -> None:
    step = Step(1.0, 0.0, pool(9900, seconds=0.001), pool(200, seconds=0.008))
    assert decide([step], settings(p99_floor_ms=20.0), 1.0).action == "hold"
    assert decide([step], settings(p99_floor_ms=5.0), 1.0).action == "revert"


def test_limits_that_are_off_are_not_asked() -> None:
    off = settings(max_p99_ratio=None, max_divergence=None, max_loss_rise=None)
    decision = decide([Step(1.0, 0.0, pool(99), pool(1))], off, 1.0)
    assert [found.limit for found in decision.checks] == ["max_error_rate"]


class World:
    """Requests by chance: each look brings some, of which the challenger gets its percent."""

    def __init__(self, seed: int, **challenger: float) -> None:
        self.random = np.random.default_rng(seed)
        self.errors = challenger.get("errors", 0.01)
        self.slower = challenger.get("slower", 1.0)
        self.shift = challenger.get("shift", 0.0)
        self.worse = challenger.get("worse", 0.0)
        self.bins = Bins.of(_sigmoid(self.random.normal(0, 1, 500)).tolist())

    def add(self, pool: Pool, n: int, canary: bool) -> None:
        if not n:
            return
        failed = int(self.random.binomial(n, self.errors if canary else 0.01))
        seconds = self.random.lognormal(math.log(0.01), 0.4, n - failed) * (self.slower if canary else 1.0)
        pool.requests, pool.errors = pool.requests + n, pool.errors + failed
        for found, count in Counter(map(latency_bin, seconds.tolist())).items():
            pool.latency[found] = pool.latency.get(found, 0) + count
        scores = self.random.normal(self.shift if canary else 0.0, 1, n)
        pool.add_predictions(map(self.bins.find, _sigmoid(scores).tolist()), self.bins.size)
        loss = self.random.beta(2, 8, n // 2) + (self.worse if canary else 0.0)
        pool.losses = pool.losses.add(loss.clip(0, 1))

    def run(self, plan: Canary, per_look: int, looks_per_step: int) -> tuple[str, list[Step], Decision]:
        """Looks until it is over; every look is `looks_per_step`-th of a step."""
        steps, now = [Step(plan.steps[0], 0.0)], 0.0
        while True:
            now += plan.step_seconds / looks_per_step
            n = int(self.random.binomial(per_look, steps[-1].percent / 100))
            self.add(steps[-1].canary, n, canary=True)
            self.add(steps[-1].stable, per_look - n, canary=False)
            decision = decide(steps, plan, now)
            if decision.action in ("revert", "promote"):
                return decision.action, steps, decision
            if decision.action == "advance":
                steps.append(Step(plan.steps[len(steps)], now))


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def test_a_good_challenger_is_promoted_however_often_one_looks() -> None:
    """At a confidence of 0.8, where one in five would be allowed to be turned back, and at 0.95."""
    for confidence, runs in ((0.8, 15), (0.95, 10)):
        plan = settings(confidence=confidence, max_p99_ms=60.0, max_p99_ratio=1.2, max_loss_rise=0.03)
        ends = [World(seed).run(plan, per_look=250, looks_per_step=10)[0] for seed in range(runs)]
        assert ends.count("revert") <= (1 - confidence) * runs, ends


@pytest.mark.parametrize(
    ("challenger", "limit", "canary_requests"),
    [
        ({"errors": 1.0}, "max_error_rate", 8),
        ({"errors": 0.1}, "max_error_rate", 400),
        ({"slower": 5.0}, "max_p99_ratio", 30),
        ({"slower": 3.0}, "max_p99_ratio", 300),
        ({"shift": 3.0}, "max_divergence", 200),
        ({"shift": 1.5}, "max_divergence", 1200),
        ({"worse": 0.2}, "max_loss_rise", 250),
        ({"worse": 0.05}, "max_loss_rise", 2500),
    ],
)
def test_what_a_bad_challenger_costs(challenger: dict[str, float], limit: str, canary_requests: int) -> None:
    """Requests that a challenger answered before it was turned back, in the median of three canaries."""
    seen = []
    for seed in range(3):
        end, steps, decision = World(seed, **challenger).run(settings(), per_look=200, looks_per_step=100)
        assert end == "revert" and any(limit in reason for reason in decision.reasons), decision.reasons
        seen.append(sum(step.canary.requests for step in steps))
    assert sorted(seen)[1] <= canary_requests, seen


def test_bins_are_about_equal_and_a_frequent_value_has_its_own() -> None:
    random = np.random.default_rng(0)
    bins = Bins.of(random.random(500).tolist())
    counts = Counter(map(bins.find, random.random(10_000).tolist()))
    assert bins.size == 10 and set(counts) == set(range(10)) and max(counts.values()) < 1600
    half = Bins.of([0.5] * 300 + random.random(200).tolist())
    assert half.find(0.5) not in (half.find(0.499999), half.find(0.500001))
    constant = Bins.of([0.5] * 300)
    assert [constant.find(value) for value in (0.4, 0.5, 0.6, math.nan)] == [0, 1, 2, 2]


def test_classes_beyond_the_frequent_share_a_bin() -> None:
    bins = Bins.of([f"c{i % 30:02}" for i in range(600)] + ["c00"] * 10)
    assert bins.size == 20 and bins.find("never seen") == 19 and bins.find("c00") == 0


def test_requests_belong_to_the_step_they_were_answered_in() -> None:
    steps = [Step(1.0, 100.0), Step(10.0, 200.0)]
    assert [step and step.percent for step in (step_of(steps, t) for t in (99.0, 100.0, 199.9, 200.0))] == [
        None,
        1.0,
        1.0,
        10.0,
    ]
    pool = Pool()
    pool.add(Request(150.0, canary=True, failed=False, seconds=0.010, bucket=3))
    pool.add(Request(150.0, canary=True, failed=True, seconds=9.0, bucket=3))
    assert (pool.requests, pool.errors, pool.buckets) == (2, 1, 1)
    assert latency_quantile(pool, 0.99) == pytest.approx(0.010, rel=0.05)


def test_steps_survive_json() -> None:
    import json

    step = Step(1.0, 5.0, pool(20, errors=2, predictions=[1, 2]), pool(1))
    step.stable.losses = step.stable.losses.add([0.1, 0.7])
    assert Step.from_json(json.loads(json.dumps(step.to_json()))) == step


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": [1.0, 50.0]}, "rising percents of which the last is 100"),
        ({"steps": [10.0, 1.0, 100.0]}, "rising percents"),
        ({"steps": [0.125, 100.0]}, "no more than two decimals"),
        ({"rest_port": 8080, "grpc_port": 8080}, "another port than rest_port's"),
        ({"servers": [Server(grpc="h:1")]}, "got no `rest` for h:1"),
        ({"key_header": "a b"}, "pattern"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Canary(**{"servers": SERVERS, **changes})


@pytest.mark.parametrize(
    ("serving", "said"),
    [
        ("rest_port: 0", r"serving\.rest_port: got 0, expected fixed ports"),
        ("rest_port: 8080", r"serving\.canary\.rest_port: got 8080, which the server has"),
        ("servers: [{grpc: 'a:1'}]", r"serving\.servers: got no `rest` for a:1"),
        ("servers: [{grpc: 'c:1', rest: 'c:2'}]", r"serving\.canary\.servers: got c:1, which is in serving"),
    ],
)
def test_a_deployment_whose_pools_cannot_be_told_apart_is_refused(
    tmp_path: Path, serving: str, said: str
) -> None:
    shop = Shop(tmp_path, f"serving: {{canary: {{servers: [{{grpc: 'c:1', rest: 'c:2'}}]}}, {serving}}}\n")
    with pytest.raises(RetrainError, match=said):
        _ = shop.deployment


def test_labels_need_the_log_and_their_folder_starts_from_the_file(tmp_path: Path) -> None:
    canary = "canary: {servers: [{grpc: 'c:1', rest: 'c:2'}], labels: arrived}"
    with pytest.raises(RetrainError, match=r"serving\.canary\.labels: got a folder without serving\.pred"):
        _ = Shop(tmp_path, f"serving: {{{canary}}}\n").deployment
    (tmp_path / "again").mkdir()
    shop = Shop(tmp_path / "again", f"serving: {{{canary}, prediction_log: {{}}}}\n")
    assert shop.deployment.serving.canary is not None
    assert shop.deployment.serving.canary.labels == tmp_path / "again" / "arrived"
