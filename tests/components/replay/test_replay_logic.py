"""The sample as a fold: what it keeps must not depend on how the data was cut into runs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.replay.logic import EVERYTHING, Sample, below, sample_keys, smallest


def fold(spans, capacities):
    """The keys kept, and the sample, after one run a span."""
    sample = Sample()
    kept = np.empty(0, np.uint64)
    for keys, capacity in zip(spans, capacities, strict=True):
        keys = np.array(keys, np.uint64)
        candidates = np.concatenate([kept, keys[below(keys, sample.threshold)]])
        sample = sample.add(candidates, len(keys), capacity)
        kept = candidates[below(candidates, sample.threshold)]
    return sorted(kept.tolist()), sample


def bottom(keys, capacity):
    """The same in one sentence: the threshold is the (capacity + 1)th smallest key."""
    keys = sorted(keys)
    threshold = keys[capacity] if len(keys) > capacity else EVERYTHING
    return [key for key in keys if key < threshold], threshold


def ks_distance(keys):
    """Kolmogorov and Smirnov's: the largest distance of the keys' distribution from the uniform one."""
    uniform = np.sort(keys.astype(np.float64)) / 2**64
    steps = np.arange(len(keys) + 1) / len(keys)
    return max((steps[1:] - uniform).max(), (uniform - steps[:-1]).max())


def chi_square(observed, expected):
    return float(((observed - expected) ** 2 / expected).sum())


def test_keys_are_those_of_splitmix64():
    # The first four outputs of the reference implementation from state 0.
    keys = [int(sample_keys(np.array([0]), seed)[0]) for seed in range(4)]
    assert keys == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]


@pytest.mark.parametrize("seed", [0, 1, 7, 2**40])
@pytest.mark.parametrize(
    "ids",
    [
        pytest.param(np.arange(100_000), id="in a row"),
        pytest.param(np.arange(100_000) << 40, id="high bits only"),
        pytest.param(2**63 - 1 - np.arange(100_000) * 1000, id="the largest"),
    ],
)
def test_keys_are_uniform(ids, seed):
    keys = sample_keys(ids, seed)
    assert keys.dtype == np.uint64 and len(np.unique(keys)) == len(ids)
    assert ks_distance(keys) < 1.95 / np.sqrt(len(ids))  # 1 in 1000


def test_seeds_are_independent():
    ids = np.arange(100_000)
    a, b = (sample_keys(ids, seed) for seed in (3, 4))
    cells = np.bincount(
        ((a >> np.uint64(60)) * np.uint64(16) + (b >> np.uint64(60))).astype(int), minlength=256
    )
    assert chi_square(cells, len(ids) / 256) < 330.5  # 255 degrees of freedom, 1 in 1000
    of_a, of_b = (set(np.argsort(keys)[:5000].tolist()) for keys in (a, b))
    assert 250 - 5 * 15 < len(of_a & of_b) < 250 + 5 * 15  # by chance: 5000 * 5000 / 100000


def test_a_raised_capacity_brings_nothing_back():
    kept, sample = fold([[50, 10, 40, 20, 30], [35, 25, 5]], [2, 10])
    # 30 was dropped when 2 were kept, so 35, though there is room for it now, would be one too many.
    assert kept == [5, 10, 20, 25] and sample == Sample(seen=8, threshold=30)


def test_a_lowered_capacity_drops_the_largest():
    assert fold([[50, 10, 40, 20, 30], [35, 25, 5]], [5, 2]) == ([5, 10], Sample(seen=8, threshold=20))


def test_equal_keys_are_kept_together_or_not_at_all():
    assert fold([[1, 2, 2]], [2]) == ([1], Sample(seen=3, threshold=2))
    assert fold([[1, 2, 2], [0]], [3, 3]) == ([0, 1], Sample(seen=4, threshold=2))
    assert fold([[0, 0]], [1]) == ([], Sample(seen=2, threshold=0))


def test_fewer_than_the_capacity_are_all_kept():
    assert fold([[2**64 - 1], [], [0]], [3, 3, 3]) == ([0, 2**64 - 1], Sample(seen=2, threshold=EVERYTHING))


some_keys = st.lists(st.integers(0, 12) | st.integers(0, 2**64 - 1) | st.just(2**64 - 1), max_size=25)


@given(st.lists(some_keys, max_size=6), st.integers(1, 15))
def test_any_cut_into_spans_gives_the_bottom_of_everything(spans, capacity):
    everything = [key for span in spans for key in span]
    kept, threshold = bottom(everything, capacity)
    assert fold(spans, [capacity] * len(spans)) == (kept, Sample(len(everything), threshold))


@given(st.lists(st.tuples(some_keys, st.integers(1, 15)), min_size=1, max_size=6))
def test_with_any_capacities_the_sample_is_all_below_its_threshold(runs):
    spans, capacities = zip(*runs, strict=True)
    kept, sample = fold(spans, capacities)
    everything = [key for span in spans for key in span]
    assert kept == sorted(key for key in everything if key < sample.threshold)
    assert len(kept) <= capacities[-1] and sample.seen == len(everything)
    so_far = [[key for span in spans[: i + 1] for key in span] for i in range(len(spans))]
    assert sample.threshold == min(bottom(seen, k)[1] for seen, k in zip(so_far, capacities, strict=True))


@given(some_keys, st.integers(1, 15))
def test_the_smallest_keys_are_enough(keys, capacity):
    keys = np.array(keys, np.uint64)
    assert sorted(smallest(keys, capacity).tolist()) == sorted(keys.tolist())[:capacity]
    enough = smallest(keys, capacity + 1)
    assert Sample().add(enough, len(keys), capacity) == Sample().add(keys, len(keys), capacity)


@pytest.mark.parametrize("capacities", [(20, 20, 20), (15, 40, 20)], ids=["fixed", "changed"])
def test_rows_of_old_and_new_spans_are_kept_equally_often(capacities):
    sizes, seeds = (60, 30, 10), 4000
    ids = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    times_kept, kept_in_all = np.zeros(sum(sizes)), 0
    for seed in range(seeds):
        spans = [sample_keys(span, seed) for span in ids]
        _, sample = fold(spans, capacities)
        kept = below(np.concatenate(spans), sample.threshold)
        times_kept += kept
        kept_in_all += kept.sum()
    share = kept_in_all / seeds / sum(sizes)
    scale = 1 - share  # every row is kept or not: a Bernoulli draw's variance, not a Poisson one's
    assert 0.1 < share <= 0.2
    assert chi_square(times_kept, seeds * share) / scale < 148.2  # 99 degrees of freedom, 1 in 1000
    by_span = np.array([times_kept[span].mean() for span in ids])
    deviation = np.sqrt(seeds * share * scale / np.array(sizes))
    assert (np.abs(by_span - seeds * share) < 4 * deviation).all()


def learned_again(spans, capacity, again, now):
    """As `fold`; then one of the spans is taken out of the sample, and comes back with other keys."""
    _, sample = fold(spans, [capacity] * len(spans))
    others = np.array([k for i, span in enumerate(spans) if i != again for k in span], np.uint64)
    left = sample.without(len(spans[again]))
    candidates = np.concatenate([others[below(others, left.threshold)], now[below(now, left.threshold)]])
    sample = left.add(candidates, len(now), capacity)
    return candidates[below(candidates, sample.threshold)], sample


@given(st.lists(some_keys, min_size=1, max_size=5), st.integers(1, 15), some_keys, st.data())
def test_after_a_span_is_learned_again_the_sample_is_all_below_its_threshold(spans, capacity, now, data):
    again = data.draw(st.integers(0, len(spans) - 1))
    kept, sample = learned_again(spans, capacity, again, np.array(now, np.uint64))
    everything = [key for i, span in enumerate(spans) if i != again for key in span] + now
    assert sorted(kept.tolist()) == sorted(key for key in everything if key < sample.threshold)
    assert len(kept) <= capacity and sample.seen == len(everything)


@given(st.lists(some_keys, min_size=1, max_size=5), st.integers(1, 15), st.data())
def test_a_span_learned_again_as_it_was_changes_nothing(spans, capacity, data):
    again = data.draw(st.integers(0, len(spans) - 1))
    before, sample = fold(spans, [capacity] * len(spans))
    kept, after = learned_again(spans, capacity, again, np.array(spans[again], np.uint64))
    assert sorted(kept.tolist()) == before and after == sample


def test_with_nothing_left_the_sample_begins_anew():
    assert Sample(seen=5, threshold=9).without(5) == Sample()
    assert Sample(seen=5, threshold=9).without(2) == Sample(seen=3, threshold=9)


def test_rows_learned_again_are_kept_as_often_as_others():
    sizes, capacity, seeds = (60, 30, 10), 20, 4000
    ids = np.split(np.arange(sum(sizes) + 5), np.cumsum(sizes))
    late = np.concatenate([ids[0][10:], ids[3]])  # ten rows fewer, five others more
    now = np.concatenate([late, ids[1], ids[2]])
    times_kept = np.zeros(sum(sizes) + 5)
    for seed in range(seeds):
        spans = [sample_keys(span, seed) for span in ids[:3]]
        _, sample = learned_again(spans, capacity, 0, sample_keys(late, seed))
        times_kept[now] += below(sample_keys(now, seed), sample.threshold)
    share = times_kept[now].sum() / seeds / len(now)
    assert 0.18 < share <= 20 / len(now)
    deviation = np.sqrt(seeds * share * (1 - share) / np.array([50, 5, 30, 10]))
    by_kind = [times_kept[rows].mean() for rows in (ids[0][10:], ids[3], ids[1], ids[2])]
    assert (np.abs(np.array(by_kind) - seeds * share) < 4 * deviation).all()
