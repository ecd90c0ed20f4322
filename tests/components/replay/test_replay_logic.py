"""The sample as a fold: what it keeps must not depend on how the data was cut into runs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.errors import RetrainError
from components.replay.logic import (
    EVERYTHING,
    Quota,
    Scheme,
    below,
    decayed_keys,
    draw,
    judged_spans,
    keep,
    merge,
    sample_keys,
    sketch,
    smallest,
)

ONE = ["0"]


def sketch_of(groups, thresholds, quota):
    """Of ranks by group."""
    names = list(groups)
    index = np.repeat(np.arange(len(names)), [len(groups[name]) for name in names])
    ranks = np.array([rank for name in names for rank in groups[name]], np.uint64)
    return sketch(names, index, ranks, thresholds, quota)


def fold(spans, quotas):
    """The ranks kept by group, and the thresholds, after one run a span; a span is group -> ranks."""
    thresholds, kept, known = {}, {}, None
    for groups, quota in zip(spans, quotas, strict=True):
        quota = quota.after(known)
        candidates = {group: [*kept.get(group, []), *groups.get(group, [])] for group in {**kept, **groups}}
        rows = sketch_of(candidates, thresholds, quota)
        thresholds |= draw(rows, thresholds, quota)
        known = quota.to_json(rows.counts.values())
        kept = {
            group: sorted(rank for rank in ranks if rank < thresholds[group])
            for group, ranks in candidates.items()
        }
    return kept, thresholds


def fold_one(spans, capacities):
    """As `fold`, of one group."""
    kept, thresholds = fold([{"0": span} for span in spans], list(map(Quota, capacities)))
    return kept["0"], thresholds["0"]


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
    # 30 was dropped when 2 were kept, so 35, though there is room for it now, would be one too many.
    assert fold_one([[50, 10, 40, 20, 30], [35, 25, 5]], [2, 10]) == ([5, 10, 20, 25], 30)


def test_a_lowered_capacity_drops_the_largest():
    assert fold_one([[50, 10, 40, 20, 30], [35, 25, 5]], [5, 2]) == ([5, 10], 20)


def test_equal_keys_are_kept_together_or_not_at_all():
    assert fold_one([[1, 2, 2]], [2]) == ([1], 2)
    assert fold_one([[1, 2, 2], [0]], [3, 3]) == ([0, 1], 2)
    assert fold_one([[0, 0]], [1]) == ([], 0)


def test_fewer_than_the_capacity_are_all_kept():
    assert fold_one([[2**64 - 1], [], [0]], [3, 3, 3]) == ([0, 2**64 - 1], EVERYTHING)


some_keys = st.lists(st.integers(0, 12) | st.integers(0, 2**64 - 1) | st.just(2**64 - 1), max_size=25)


@given(st.lists(some_keys, min_size=1, max_size=6), st.integers(1, 15))
def test_any_cut_into_spans_gives_the_bottom_of_everything(spans, capacity):
    everything = [key for span in spans for key in span]
    assert fold_one(spans, [capacity] * len(spans)) == bottom(everything, capacity)


@given(st.lists(st.tuples(some_keys, st.integers(1, 15)), min_size=1, max_size=6))
def test_with_any_capacities_the_sample_is_all_below_its_threshold(runs):
    spans, capacities = zip(*runs, strict=True)
    kept, threshold = fold_one(spans, capacities)
    everything = [key for span in spans for key in span]
    assert kept == sorted(key for key in everything if key < threshold)
    assert len(kept) <= capacities[-1]
    so_far = [[key for span in spans[: i + 1] for key in span] for i in range(len(spans))]
    assert threshold == min(bottom(seen, k)[1] for seen, k in zip(so_far, capacities, strict=True))


# Distinct ranks, as those of 2^64 almost surely are, dealt to groups and spans.
dealt = st.lists(
    st.tuples(st.integers(0, 2**64 - 1), st.sampled_from("abcd"), st.integers(0, 4)),
    unique_by=lambda row: row[0],
    max_size=60,
)


def by_group(rows):
    groups = {}
    for rank, group, _ in rows:
        groups.setdefault(group, []).append(rank)
    return groups


@given(dealt, st.integers(4, 30), st.none() | st.integers(1, 12))
def test_groups_folded_span_by_span_are_those_of_one_pass(rows, capacity, of_group):
    quota = Quota(capacity, of_group)
    spans = [by_group([row for row in rows if row[2] == span]) for span in range(5)]
    assert fold(spans, [quota] * 5) == fold([by_group(rows)], [quota])


@given(dealt, st.integers(4, 30), st.none() | st.integers(1, 12))
def test_groups_share_the_capacity_by_water_filling(rows, capacity, of_group):
    groups = by_group(rows)
    kept, thresholds = fold([groups], [Quota(capacity, of_group)])
    sizes = {group: len(ranks) for group, ranks in kept.items()}
    assert sum(sizes.values()) <= capacity
    whole = [group for group in groups if sizes[group] == len(groups[group])]
    cut = [group for group in groups if group not in whole]
    assert len({sizes[group] for group in cut}) <= 1  # equal shares
    assert all(sizes[small] <= sizes[large] for small in whole for large in cut)
    if cut and of_group is None:  # one more of each would not fit
        assert sum(min(len(groups[g]), sizes[cut[0]] + 1) for g in groups) > capacity
    for group, ranks in groups.items():
        assert (kept[group], thresholds[group]) == bottom(ranks, sizes[group])


@given(dealt, st.integers(4, 30), st.none() | st.integers(1, 12))
def test_sketches_of_parts_merge_to_that_of_the_whole_in_any_order(rows, capacity, of_group):
    quota = Quota(capacity, of_group)
    parts = [sketch_of(by_group([r for r in rows if r[2] == part]), {}, quota) for part in range(5)]
    expected = draw(sketch_of(by_group(rows), {}, quota), {}, quota)
    assert draw(merge(parts, quota), {}, quota) == expected
    nested = merge([merge(parts[3:], quota), merge(reversed(parts[:3]), quota)], quota)
    assert draw(nested, {}, quota) == expected
    # Bounded: no more ranks than can be in the sample, and one a group.
    assert sum(len(ranks) - 1 for ranks in nested.smallest.values()) <= capacity


def test_what_a_small_group_leaves_goes_to_the_others():
    groups = {"a": range(10), "b": range(100, 300), "c": range(400, 700)}
    kept, thresholds = fold([groups], [Quota(100)])
    assert {group: len(ranks) for group, ranks in kept.items()} == {"a": 10, "b": 45, "c": 45}
    assert thresholds == {"a": EVERYTHING, "b": 145, "c": 445}


def test_a_group_that_comes_later_gets_its_share_at_once():
    kept, _ = fold([{"a": range(1000)}, {"b": range(1000, 1030)}, {"c": range(2000, 2100)}], [Quota(90)] * 3)
    assert {group: len(ranks) for group, ranks in kept.items()} == {"a": 30, "b": 30, "c": 30}


def test_room_that_a_raised_capacity_makes_goes_to_the_groups_that_have_rows_for_it():
    spans = [{"a": range(100), "b": range(100, 110)}, {"b": range(200, 300)}]
    kept, thresholds = fold(spans, [Quota(20), Quota(60)])
    assert thresholds == {"a": 10, "b": EVERYTHING if len(kept["b"]) == 110 else 240}
    assert (len(kept["a"]), len(kept["b"])) == (10, 50)


def test_more_groups_than_examples_are_refused():
    parts = [sketch_of({str(group): [group]}, {}, Quota(3)) for group in range(50)]
    merged = merge(parts, Quota(3))
    assert len(merged.counts) == 4
    with pytest.raises(RetrainError, match=r"more than 3 groups \(0, 1, 2, \.\.\.\), required is an example"):
        draw(merged, {}, Quota(3))
    assert draw(merge(parts[:3], Quota(3)), {}, Quota(3)) == dict.fromkeys("012", EVERYTHING)


def test_rows_are_kept_by_the_threshold_of_their_group():
    ranks, index = np.array([0, 5, 5, 9, 2**64 - 1], np.uint64), np.array([2, 0, 1, 1, 3])
    kept = keep(["a", "b", "c", "d"], index, ranks, {"a": 5, "b": 9, "c": 0, "d": EVERYTHING})
    assert kept.tolist() == [False, False, True, False, True]


@given(some_keys, st.integers(1, 15))
def test_the_smallest_are_the_smallest(keys, capacity):
    keys = np.array(keys, np.uint64)
    assert sorted(smallest(keys, capacity).tolist()) == sorted(keys.tolist())[:capacity]


def times_kept(scheme, spans, capacity, seeds, groups=None, cut=True):
    """How often each row is in the sample, of many seeds: after one run a span, or one over everything.

    Args:
        spans: int64 [n]: of each row.
        groups: of each row; by default the scheme's.
        cut: one run a span.
    """
    times, ids = np.zeros(len(spans)), np.arange(len(spans))
    names, index = scheme.groups(spans, groups or [])
    runs = [spans == span for span in np.unique(spans)] if cut else [np.ones(len(spans), bool)]
    for seed in range(seeds):
        known = None
        ranks = scheme.ranks(sample_keys(ids, seed), spans)
        thresholds, held = {}, np.zeros(len(spans), bool)
        for new in runs:
            held |= new
            quota = Quota(capacity).after(known)
            rows = sketch(names, index[held], ranks[held], thresholds, quota)
            thresholds |= draw(rows, thresholds, quota)
            known = quota.to_json(rows.counts.values())
            held[held] = keep(names, index[held], ranks[held], thresholds)
        times += held
    return times


TEN_SPANS = np.repeat(np.arange(1, 11), 20)
VALUES = [[[b"rare"] if i % 10 == 0 else [b"often"] for i in range(200)]]


@pytest.mark.parametrize(
    ("scheme", "columns"),
    [
        pytest.param(Scheme("reservoir"), None, id="reservoir"),
        pytest.param(Scheme("balanced", ("kind",)), VALUES, id="balanced"),
        pytest.param(Scheme("per_span"), None, id="per_span"),
        pytest.param(Scheme("recency", half_life=2.0), None, id="recency"),
    ],
)
def test_after_ten_spans_the_sample_is_exactly_that_of_one_pass(scheme, columns):
    args = (scheme, TEN_SPANS, 50, 40, columns)
    assert (times_kept(*args, cut=True) == times_kept(*args, cut=False)).all()


@pytest.mark.parametrize("capacities", [(20, 20, 20), (15, 40, 20)], ids=["fixed", "changed"])
def test_rows_of_old_and_new_spans_are_kept_equally_often(capacities):
    sizes, seeds = (60, 30, 10), 4000
    ids = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    times, kept_in_all = np.zeros(sum(sizes)), 0
    for seed in range(seeds):
        spans = [sample_keys(span, seed) for span in ids]
        _, threshold = fold_one(spans, capacities)
        kept = below(np.concatenate(spans), threshold)
        times += kept
        kept_in_all += kept.sum()
    share = kept_in_all / seeds / sum(sizes)
    scale = 1 - share  # every row is kept or not: a Bernoulli draw's variance, not a Poisson one's
    assert 0.1 < share <= 0.2
    assert chi_square(times, seeds * share) / scale < 148.2  # 99 degrees of freedom, 1 in 1000
    by_span = np.array([times[span].mean() for span in ids])
    deviation = np.sqrt(seeds * share * scale / np.array(sizes))
    assert (np.abs(by_span - seeds * share) < 4 * deviation).all()


def test_balanced_keeps_as_many_of_each_value_and_each_row_of_one_equally_often():
    times, seeds = times_kept(Scheme("balanced", ("kind",)), TEN_SPANS, 50, 1500, VALUES), 1500
    rare = np.arange(200) % 10 == 0
    assert (times[rare] == seeds).all()  # 20 of them, fewer than half of 50
    assert times[~rare].sum() == seeds * 30
    share = 30 / 180
    assert chi_square(times[~rare], seeds * share) / (1 - share) < 240.7  # 179 degrees of freedom, 1 in 1000


def test_per_span_keeps_as_many_of_each_span_and_each_row_of_one_equally_often():
    spans = np.repeat(np.arange(1, 5), [100, 4, 60, 36])
    times, seeds = times_kept(Scheme("per_span"), spans, 49, 1500), 1500
    sizes = {1: 15, 2: 4, 3: 15, 4: 15}
    for span, size in sizes.items():
        mine = times[spans == span]
        assert mine.sum() == seeds * size
        share = size / len(mine)
        if share < 1:  # at most 99 degrees of freedom, 1 in 1000
            assert chi_square(mine, seeds * share) / (1 - share) < 148.2


def test_recency_keeps_by_weights_that_halve_in_a_half_life():
    spans, seeds, capacity = np.repeat(np.arange(100, 110), 400), 150, 100
    times = times_kept(Scheme("recency", half_life=2.0), spans, capacity, seeds)
    assert times.sum() == seeds * capacity
    # A small part of the rows is kept, so each about as often as its weight says: 1 - exp(-tau w) exactly,
    # at the threshold tau that keeps so many.
    weights = 2.0 ** ((spans - 109) / 2)
    low, high = 0.0, 10.0
    for _ in range(60):
        tau = (low + high) / 2
        low, high = (tau, high) if (1 - np.exp(-tau * weights)).sum() < capacity else (low, tau)
    expected = 1 - np.exp(-tau * weights)
    for span in range(100, 110):
        mine, share = times[spans == span], expected[spans == span][0]
        deviation = np.sqrt(seeds * 400 * share * (1 - share))
        assert abs(mine.sum() - seeds * 400 * share) < 4 * deviation


@given(st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=20), st.integers(0, 10**6))
def test_rows_of_one_span_keep_the_order_of_their_keys(keys, span):
    keys = np.array(sorted(keys), np.uint64)
    ranks = decayed_keys(keys, np.full(len(keys), span), half_life=3.0)
    assert ranks.dtype == np.uint64 and (np.diff(ranks.astype(object)) >= 0).all()


def test_an_example_is_as_likely_as_one_a_half_life_newer_with_twice_the_key():
    # For small keys E is the key itself, so a half-life is a factor of two.
    keys = np.array([2**40, 2**41, 2**42], np.uint64)
    older, newer, newest = decayed_keys(keys, np.array([500_000, 500_008, 500_016]), half_life=8.0).tolist()
    assert abs(older - newer) <= 2**14 and abs(newer - newest) <= 2**14  # of 2^64: rounding alone
    assert decayed_keys(keys[:1], np.array([500_008]), 8.0)[0] < older


def test_the_largest_and_smallest_keys_have_ranks():
    ranks = decayed_keys(np.array([0, 2**64 - 1], np.uint64), np.array([3, 3]), half_life=1.0)
    assert int(ranks[0]) < int(ranks[1]) < 2**64 - 1


def test_groups_are_named_by_their_values():
    columns = [[[b"cash"], None, [b"cash"], [b"a", b"b"], [b"\xff"]], [[1], [2], [1], [3], []]]
    names, index = Scheme("balanced", ("kind", "area")).groups(np.zeros(5, np.int64), columns)
    assert names == ['["cash", 1]', "[null, 2]", '[["a", "b"], 3]', '["\\\\xff", null]']
    assert index.tolist() == [0, 1, 0, 2, 3]
    names, index = Scheme("per_span").groups(np.array([7, 3, 7]), [])
    assert ([names[i] for i in index], sorted(names)) == (["7", "3", "7"], ["3", "7"])
    assert Scheme("recency", half_life=1.0).groups(np.array([7, 3]), [])[0] == ONE


some_spans = st.sets(st.integers(0, 10_000), min_size=1, max_size=60)


@given(some_spans, st.integers(1, 20), st.integers(0, 100))
def test_so_many_spans_are_judged_the_newest_among_them(spans, most, seed):
    kept = judged_spans(spans, most, seed)
    assert kept <= spans and len(kept) == min(most, len(spans))
    assert kept.issuperset(sorted(spans)[-((most + 1) // 2) :])


@given(some_spans, st.integers(1, 20), st.integers(0, 100), st.integers(1, 5))
def test_spans_left_out_run_by_run_are_those_of_one_look(spans, most, seed, in_a_run):
    ordered, kept = sorted(spans), frozenset()
    for begin in range(0, len(ordered), in_a_run):
        kept = judged_spans(kept.union(ordered[begin : begin + in_a_run]), most, seed)
    assert kept == judged_spans(spans, most, seed)


def test_of_the_older_spans_each_is_judged_as_often():
    times, seeds = np.zeros(40), 2000
    for seed in range(seeds):
        times[sorted(judged_spans(range(40), 20, seed))] += 1
    assert (times[30:] == seeds).all()
    share = 1 / 3  # 10 of 30
    assert chi_square(times[:30], seeds * share) / (1 - share) < 58.4  # 29 degrees of freedom, 1 in 1000


def test_a_scheme_has_what_matters_to_it_and_no_more():
    assert Scheme.of("reservoir", ["kind"], 8.0).to_json() == {"name": "reservoir"}
    for scheme in (
        Scheme.of("recency", [], 8.0),
        Scheme.of("balanced", ["kind"], 8.0),
        Scheme.of("per_span", [], 8.0),
    ):
        assert Scheme.from_json(scheme.to_json()) == scheme


@pytest.mark.parametrize(
    ("scheme", "fact"),
    [
        (("resevoir",), "scheme: got 'resevoir', expected one of reservoir, balanced, recency, per_span"),
        (("balanced",), "by: got [] for the scheme balanced"),
        (("per_span", ("kind",)), "by: got ['kind'] for the scheme per_span"),
        (("recency",), "half_life: got 0.0"),
    ],
    ids=["unknown", "nothing to balance", "nothing balanced", "no half-life"],
)
def test_a_scheme_that_cannot_be_is_refused(scheme, fact):
    with pytest.raises(RetrainError) as error:
        Scheme(*scheme)
    assert fact in str(error.value)


def learned_again(spans, capacity, again, now):
    """As `fold_one`; then one of the spans is taken out of the sample, and comes back with other keys."""
    _, threshold = fold_one(spans, [capacity] * len(spans))
    others = [k for i, span in enumerate(spans) if i != again for k in span]
    before = {"0": threshold} if len(spans) > 1 else {}
    rows = sketch_of({"0": [*(k for k in others if k < threshold), *now]}, before, Quota(capacity))
    threshold = draw(rows, before, Quota(capacity))["0"]
    return sorted(k for k in [*others, *now] if k < threshold), threshold


@given(st.lists(some_keys, min_size=2, max_size=5), st.integers(1, 15), some_keys, st.data())
def test_after_a_span_is_learned_again_the_sample_is_all_below_its_threshold(spans, capacity, now, data):
    again = data.draw(st.integers(0, len(spans) - 1))
    kept, threshold = learned_again(spans, capacity, again, now)
    everything = [key for i, span in enumerate(spans) if i != again for key in span] + now
    assert kept == sorted(key for key in everything if key < threshold) and len(kept) <= capacity


@given(st.lists(some_keys, min_size=1, max_size=5), st.integers(1, 15), st.data())
def test_a_span_learned_again_as_it_was_changes_nothing(spans, capacity, data):
    again = data.draw(st.integers(0, len(spans) - 1))
    assert learned_again(spans, capacity, again, spans[again]) == fold_one(spans, [capacity] * len(spans))


def test_rows_learned_again_are_kept_as_often_as_others():
    sizes, capacity, seeds = (60, 30, 10), 20, 2000
    ids = np.split(np.arange(sum(sizes) + 5), np.cumsum(sizes))
    late = np.concatenate([ids[0][10:], ids[3]])  # ten rows fewer, five others more
    now = np.concatenate([late, ids[1], ids[2]])
    times = np.zeros(sum(sizes) + 5)
    for seed in range(seeds):
        spans = [sample_keys(span, seed).tolist() for span in ids[:3]]
        _, threshold = learned_again(spans, capacity, 0, sample_keys(late, seed).tolist())
        times[now] += below(sample_keys(now, seed), threshold)
    share = times[now].sum() / seeds / len(now)
    assert 0.18 < share <= 20 / len(now)
    deviation = np.sqrt(seeds * share * (1 - share) / np.array([50, 5, 30, 10]))
    by_kind = [times[rows].mean() for rows in (ids[0][10:], ids[3], ids[1], ids[2])]
    assert (np.abs(np.array(by_kind) - seeds * share) < 4 * deviation).all()
