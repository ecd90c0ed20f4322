"""Bounds that hold at all moments: how often they err under continuous peeking, and what they can see."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.canary.sequential import (
    Moments,
    divergence,
    excludes,
    least_divergence,
    likely_divergence,
    mean_radius,
    quantile_bounds,
    share_bounds,
)
from pipeline.canary.tally import latency_bin, latency_edge

RUNS = 100


def looks(n: int, growth: float = 1.2) -> Iterator[int]:
    """Sample sizes at which one looks: each at first, then ever 20 % more."""
    size = 1
    while size <= n:
        yield size
        size = max(size + 1, int(size * growth))


def most(alpha: float) -> float:
    """Of `RUNS`: with a rate of alpha more than these come with a chance of 1 in 1,000."""
    return RUNS * alpha + 3.1 * math.sqrt(RUNS * alpha * (1 - alpha))


@pytest.mark.parametrize(("p", "alpha"), [(0.5, 0.2), (0.01, 0.2), (0.1, 0.05)])
def test_a_share_stays_inside_its_bounds_at_all_looks(p: float, alpha: float) -> None:
    random = np.random.default_rng(1)
    missed = 0
    for _ in range(RUNS):
        hits = np.cumsum(random.random(3000) < p)
        missed += any(excludes(hits[n - 1], n, p, alpha) for n in looks(3000, 1.02))
    assert missed <= most(alpha)


def test_a_fixed_interval_would_not() -> None:
    """What this is for: the textbook's 95 % interval, looked at again and again."""
    random = np.random.default_rng(1)
    missed = 0
    for _ in range(RUNS):
        share = np.cumsum(random.random(3000) < 0.5) / np.arange(1, 3001)
        far = 1.96 * np.sqrt(0.25 / np.arange(1, 3001))
        missed += (np.abs(share - 0.5) > far)[30:].any()
    assert missed > RUNS * 0.3


@given(n=st.integers(1, 500), share=st.floats(0, 1), alpha=st.floats(0.0001, 0.4))
def test_a_share_is_inside_its_own_bounds(n: int, share: float, alpha: float) -> None:
    hits = round(n * share)
    low, high = share_bounds(hits, n, alpha)
    assert 0 <= low <= hits / n <= high <= 1
    mirrored = share_bounds(n - hits, n, alpha)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-6)


def test_a_mean_stays_inside_its_bounds_at_all_looks() -> None:
    alpha, missed = 0.2, 0
    random = np.random.default_rng(2)
    for run in range(RUNS):
        # Losses of all kinds: tiny variance, skewed, extreme.
        values = [random.beta(2, 8, 3000), (random.random(3000) < 0.03) * 1.0, random.beta(50, 50, 3000)][
            run % 3
        ]
        mean, moments = [0.2, 0.03, 0.5][run % 3], Moments()
        ends = list(looks(3000))
        for start, end in itertools.pairwise([0, *ends]):
            moments = moments.add(values[start:end])
            if mean > moments.mean + mean_radius(moments, alpha):
                missed += 1
                break
    assert missed <= most(alpha)


def test_moments_are_the_same_in_one_piece_or_many() -> None:
    values = np.random.default_rng(3).random(100)
    whole, pieces = Moments().add(values), Moments()
    for start in range(0, 100, 7):
        pieces = pieces.add(values[start : start + 7])
    assert pieces.n == whole.n == 100
    assert pieces.total == pytest.approx(whole.total) and pieces.variance == pytest.approx(whole.variance)
    assert Moments().add([]) == Moments()


def test_a_mean_is_known_the_better_the_less_the_values_vary() -> None:
    random = np.random.default_rng(4)
    narrow, wide = Moments().add(random.beta(20, 80, 1000)), Moments().add((random.random(1000) < 0.2) * 1.0)
    assert mean_radius(narrow, 0.01) < 0.01 < mean_radius(wide, 0.01) < 0.07
    assert mean_radius(Moments(), 0.01) == 1.0 == mean_radius(Moments().add([0.5]), 0.01)


def _latencies(random: np.random.Generator, n: int) -> np.ndarray:
    return random.lognormal(math.log(0.005), 0.5, n)


def test_a_quantile_stays_inside_its_bounds_at_all_looks() -> None:
    alpha, missed = 0.2, 0
    random = np.random.default_rng(5)
    truth = 0.005 * math.exp(0.5 * 2.3263)
    for _ in range(RUNS):
        bins = [latency_bin(value) for value in _latencies(random, 4000)]
        counts: dict[int, int] = {}
        ends = [n for n in looks(4000) if n >= 50]
        for start, end in itertools.pairwise([0, *ends]):
            for found in bins[start:end]:
                counts[found] = counts.get(found, 0) + 1
            low, high = quantile_bounds(counts, latency_edge, 0.99, alpha)
            if not low <= truth <= high:
                missed += 1
                break
    assert missed <= most(alpha)


def test_quantile_bounds_close_in() -> None:
    bins = [latency_bin(value) for value in _latencies(np.random.default_rng(6), 100_000)]
    counts = {found: bins.count(found) for found in set(bins)}
    low, high = quantile_bounds(counts, latency_edge, 0.99, 0.01)
    assert 0.0145 < low < 0.016 < high < 0.0175
    assert quantile_bounds({}, latency_edge, 0.99, 0.01) == (0.0, math.inf)


def test_three_slow_answers_are_enough_to_know_that_a_percentile_is_high() -> None:
    slow = {latency_bin(0.5): 3}
    assert quantile_bounds(slow, latency_edge, 0.99, 0.0025)[0] > 0.47
    # And some slow ones among many are not.
    assert (
        quantile_bounds({latency_bin(0.5): 3, latency_bin(0.005): 297}, latency_edge, 0.99, 0.0025)[0] < 0.01
    )


def test_divergence_of_samples_of_the_same_is_not_held_against_them() -> None:
    """The plain estimate is above 0.1 for small samples of the same distribution, the bound never."""
    random, highest, wrong = np.random.default_rng(7), 0.0, 0
    for _ in range(RUNS):
        canary, stable = np.zeros(10, int), np.zeros(10, int)
        for _ in looks(3_000):
            canary += random.multinomial(2, [0.1] * 10)
            stable += random.multinomial(198, [0.1] * 10)
            highest = max(highest, divergence(canary, stable))
            wrong += least_divergence(canary, stable, 0.2) > 0.0
    assert highest > 0.1 and wrong == 0


def test_the_likely_divergence_of_samples_of_the_same_is_about_nothing() -> None:
    random = np.random.default_rng(9)
    for n in (20, 200):
        samples = [
            (random.multinomial(n, [0.1] * 10), random.multinomial(50 * n, [0.1] * 10)) for _ in range(200)
        ]
        plain, corrected = (
            np.mean([measure(*pair) for pair in samples]) for measure in (divergence, likely_divergence)
        )
        assert corrected < 0.4 * plain
    assert likely_divergence([90, 10], [10, 90]) == pytest.approx(divergence([90, 10], [10, 90]), abs=0.01)
    assert likely_divergence([], [1]) == 0.0


def test_least_divergence_is_below_the_truth_at_all_looks() -> None:
    random, missed = np.random.default_rng(8), 0
    p = np.array([0.3, 0.3, 0.2, 0.1, 0.1])
    q = p[::-1]
    truth = divergence([int(1e6 * x) for x in p], [int(1e6 * x) for x in q])
    for _ in range(RUNS):
        canary, stable = np.zeros(5, int), np.zeros(5, int)
        for _ in range(30):
            canary += random.multinomial(60, p)
            stable += random.multinomial(60, q)
            if least_divergence(canary, stable, 0.2) > truth:
                missed += 1
                break
    assert missed == 0  # the bound is safe to a fault, for its closed form


@given(
    st.lists(st.integers(0, 50), min_size=3, max_size=3), st.lists(st.integers(1, 50), min_size=3, max_size=3)
)
def test_kullback_leibler_bounds_jensen_shannon(first: list[int], second: list[int]) -> None:
    """JS in bits is at most KL in nats over 2: what `least_divergence` rests on."""
    if not sum(first):
        return
    p, q = np.array(first) / sum(first), np.array(second) / sum(second)
    apart = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)
    assert divergence(first, second) <= apart / 2 + 1e-9


def test_divergence_is_nothing_without_samples() -> None:
    assert divergence([], []) == least_divergence([0, 0], [1, 2], 0.1) == 0.0
    assert least_divergence([200, 0], [0, 9000], 0.0025) > 0.6
