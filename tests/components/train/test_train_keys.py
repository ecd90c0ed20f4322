"""Carrying one axis over by its keys, and folding other moments into a layer: arithmetic alone."""

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.train.carryover.keys import Fold, by_key, by_mass, by_term, level_of_new, rescaling
from components.train.carryover.plan import hash_bucket


def rows(count, width=2):
    return np.random.default_rng(count).normal(size=(count, width))


# --- terms ---


@given(
    old=st.lists(st.text(max_size=3), unique=True, max_size=8),
    new=st.lists(st.text(max_size=3), unique=True, max_size=8),
    old_buckets=st.integers(1, 4),
    new_buckets=st.integers(1, 4),
)
def test_every_new_row_starts_from_the_row_that_answered_for_it(old, new, old_buckets, new_buckets):
    bucket_of = functools.partial(hash_bucket, buckets=old_buckets)
    move = by_term(old, old_buckets, new, new_buckets, bucket_of)
    table = rows(len(old) + old_buckets)
    moved = move.apply(table, axis=0)
    assert move.filled.all() and moved.shape == (len(new) + new_buckets, 2)
    for i, term in enumerate(new):
        source = old.index(term) if term in old else len(old) + bucket_of([term])[0]
        np.testing.assert_array_equal(moved[i], table[source])
    for i in range(new_buckets):
        np.testing.assert_array_equal(moved[len(new) + i], table[len(old) + i % old_buckets])
    assert move.kept.tolist() == [term in old for term in new] + [True] * new_buckets


def of_new_terms(new_terms):
    return by_term(["a", "b"], 1, ["b", "c", "d"], 1, lambda terms: np.zeros(len(terms), int), new_terms)


def test_a_new_term_starts_from_the_mean_of_the_known_terms():
    moved = of_new_terms("mean").apply(np.array([[1.0], [3.0], [50.0]]), axis=0)
    assert moved[:, 0].tolist() == [3.0, 2.0, 2.0, 50.0]  # what is out of vocabulary is no known term


def test_a_new_term_starts_from_nothing_old():
    assert of_new_terms("random").filled.tolist() == [True, False, False, True]


@pytest.mark.parametrize("new_terms", ["oov", "mean", "random"])
def test_a_new_term_is_not_kept_wherever_it_starts(new_terms):
    assert of_new_terms(new_terms).kept.tolist() == [True, False, False, True]


def test_columns_move_as_rows_do():
    array = rows(3, 4)
    moved = by_key("wxyz", "zw?").apply(array, axis=1)
    np.testing.assert_array_equal(moved, np.stack([array[:, 3], array[:, 0], np.zeros(3)], axis=1))


# --- buckets ---


def bucket(value, boundaries):
    return np.searchsorted(boundaries, value, side="right")


def test_buckets_of_the_same_boundaries_stay_as_they_are():
    table = rows(6)
    move = by_mass([0.1, 0.5, 2.0, 7.0], 5, [0.1, 0.5, 2.0, 7.0], 5)
    np.testing.assert_array_equal(move.apply(table, axis=0), table)


def test_a_bucket_is_made_of_the_old_ones_by_their_shares_of_it():
    #  old: ...0 | 0..10 | 10..20 | 20...     new: ...0 | 0..15 | 15..20 | 20...
    table = np.array([[1.0], [2.0], [3.0], [4.0], [9.0]])
    moved = by_mass([0, 10, 20], 4, [0, 15, 20], 4).apply(table, axis=0)[:, 0]
    np.testing.assert_allclose(moved, [1.0, 2 / 3 * 2.0 + 1 / 3 * 3.0, 3.0, 4.0, 9.0])


def test_fewer_and_more_buckets_and_the_row_of_the_missing():
    table = np.array([[1.0], [2.0], [3.0], [4.0], [9.0]])
    fewer = by_mass([0, 10, 20], 4, [10], 2).apply(table, axis=0)[:, 0]
    np.testing.assert_allclose(fewer, [1.5, 3.5, 9.0])  # equally full: the mean
    more = by_mass([10], 2, [0, 10, 20], 4).apply(np.array([[1.0], [2.0], [9.0]]), axis=0)[:, 0]
    np.testing.assert_allclose(more, [1.0, 1.0, 2.0, 2.0, 9.0])


def test_a_boundary_that_is_there_several_times_holds_what_equals_it():
    # Three of five examples are 0: its bucket is the last of three that begin there.
    old, new = [0.0, 0.0, 0.0, 8.0], [-1.0, 0.0, 0.0, 8.0]
    table = np.arange(6.0)[:, None]
    moved = by_mass(old, 5, new, 5).apply(table, axis=0)[:, 0]
    for value in (-3.0, 0.0, 5.0, 9.0):
        assert moved[bucket(value, new)] == pytest.approx(table[bucket(value, old), 0]), value


@given(
    old=st.lists(st.integers(-20, 20), min_size=1, max_size=8).map(sorted),
    new=st.lists(st.integers(-20, 20), min_size=1, max_size=8).map(sorted),
)
def test_a_bucket_is_a_mean_of_those_that_it_overlaps(old, new):
    move = by_mass(old, len(old) + 1, new, len(new) + 1)
    total = np.zeros(move.size)
    np.add.at(total, move.to, move.weight)
    np.testing.assert_allclose(total, 1.0)
    assert (move.weight >= 0).all() and move.kept.all()
    for value in np.arange(-22, 23, 0.5):
        assert bucket(value, old) in move.of[move.to == bucket(value, new)]


def test_far_from_all_old_boundaries_a_bucket_is_still_the_nearest():
    move = by_mass([0, 1], 3, [1e9, 2e9, 3e9], 4)
    moved = move.apply(np.array([[1.0], [2.0], [3.0], [9.0]]), axis=0)[:, 0]
    np.testing.assert_allclose(moved, [2.0, 3.0, 3.0, 3.0, 9.0])


# --- moments ---


def test_a_layer_over_new_z_scores_gives_what_it_gave_over_the_old_ones():
    random = np.random.default_rng(0)
    values, missing = random.normal(5, 3, (50, 2)), random.random((50, 2)) < 0.3
    old, new = [(4.0, 2.0), (7.0, 0.5)], [(6.0, 5.0), (-1.0, 3.0)]

    def inputs(moments):
        mean, scale = np.array(moments).T
        return np.concatenate([np.where(missing, 0, (values - mean) / scale), missing], axis=1)

    ratio, shift = np.array([rescaling(*pair) for pair in zip(old, new, strict=True)]).T
    fold = Fold(np.append(ratio, [1, 1]), np.append(shift, [0, 0]), {0: 2, 1: 3}, frozenset("xy"))
    kernel, bias = random.normal(size=(4, 3)), random.normal(size=3)
    folded, moved_bias = fold.weights(kernel, bias)
    np.testing.assert_allclose(inputs(new) @ folded + moved_bias, inputs(old) @ kernel + bias)


def test_the_same_moments_change_no_bit():
    assert rescaling((0.1, 0.3), (0.1, 0.3)) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ((0.0, 0.0), (5.0, 2.0), (0.0, 0.0)),  # had no say, and has none
        ((5.0, 2.0), (0.0, 0.0), (1.0, 0.0)),  # what it says does not matter
        ((0.0, 0.0), (0.0, 0.0), (1.0, 0.0)),
    ],
    ids=["came", "went", "never there"],
)
def test_a_column_without_values_shifts_nothing(old, new, expected):
    assert rescaling(old, new) == expected


def test_gradients_scale_the_other_way_than_weights():
    fold = Fold(np.array([2.0, 0.0, 1.0]), np.zeros(3), {}, frozenset())
    kernel = np.full((3, 1), 8.0)
    assert fold.slot(kernel, 1)[:, 0].tolist() == [4.0, 0.0, 8.0]
    assert fold.slot(kernel, 2)[:, 0].tolist() == [2.0, 0.0, 8.0]


def test_a_new_class_begins_with_one_percent():
    logits = np.array([3.0, -1.0, 0.5])
    scores = np.exp([*logits, level_of_new(logits)])
    assert scores[-1] / scores.sum() == pytest.approx(1 / 101)
