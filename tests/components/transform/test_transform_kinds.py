"""Every kind of feature, in one graph that TensorFlow Transform really fitted."""

import math
from datetime import UTC, datetime

import numpy as np
import pytest
import tensorflow as tf

from components.features import (
    EXAMPLE_WEIGHT,
    LABEL,
    NUMERIC,
    NUMERIC_MISSING,
    PARTS,
    boundaries_output,
    fit_outputs,
    mean_output,
    outputs,
    scale_output,
)

pytestmark = pytest.mark.xdist_group("transform_kinds")


@pytest.fixture(scope="module")
def transformed(kinds):
    return kinds(kinds.rows)


def bucket_of(texts, buckets):
    return tf.strings.to_hash_bucket_fast(tf.constant(texts, tf.string), buckets).numpy().tolist()


def frequent_first(lists):
    """Terms by count, then by name, the larger first: the order of a vocabulary."""
    terms = [term.encode() for row in lists for term in row]
    return [t.decode() for t in sorted(set(terms), key=lambda t: (terms.count(t), t), reverse=True)]


def index(lists, terms):
    return [[terms.index(term) for term in row] for row in lists]


def test_there_is_one_output_a_feature_and_one_for_all_numbers(kind_features, transformed):
    assert set(transformed) == {*outputs(kind_features), *fit_outputs(kind_features), LABEL, EXAMPLE_WEIGHT}


@pytest.mark.parametrize(("name", "size"), [("pixels", 6), ("levels", 2), ("dark", 2)])
def test_a_tensor_is_its_numbers_less_their_mean_by_their_scale_exactly(kinds, transformed, name, size):
    mean, scale = transformed[mean_output(name)], transformed[scale_output(name)]
    assert mean.shape == scale.shape == (len(kinds.rows), size)
    assert (mean == mean[0]).all() and (scale == scale[0]).all()
    if name == "dark":  # no row has a value: whatever comes is no number
        assert not mean.any() and not scale.any()
        assert not kinds([{"dark": [3.0, 4.0]}])["dark"].any()
        return
    columns = {"pixels": ["pixels"], "levels": ["low", "high"]}[name]
    for row, tensor, m, s in zip(kinds.rows, transformed[name], mean, scale, strict=True):
        values = [v for c in columns for v in (row[c] if isinstance(row[c], list) else [row[c]])][:size]
        given = np.array([np.nan if v is None else v for v in values], np.float32)
        expected = np.zeros(size, np.float32)
        expected[: len(given)] = np.nan_to_num((given - m[: len(given)]) / s[: len(given)])
        np.testing.assert_array_equal(tensor.reshape(-1), expected)


def test_the_boundaries_of_buckets_are_told(kinds, transformed):
    boundaries = transformed[boundaries_output("miles")]
    assert boundaries.shape == (len(kinds.rows), 3) and (boundaries == boundaries[0]).all()
    for row, bucket in zip(kinds.rows, transformed["miles"], strict=True):
        assert row["miles"] is None or bucket == sum(row["miles"] >= boundary for boundary in boundaries[0])
    assert not transformed[boundaries_output("never")].any()


def test_a_column_with_a_blank_is_a_number(kinds, transformed):
    x = np.array([row["Trip Seconds"] or np.nan for row in kinds.rows])
    expected = np.nan_to_num((x - np.nanmean(x)) / np.nanstd(x))
    np.testing.assert_allclose(transformed[NUMERIC][:, 0], expected, atol=1e-5)
    np.testing.assert_array_equal(transformed[NUMERIC_MISSING][:, 0], np.isnan(x))


def test_buckets_are_equally_full_and_in_order(kinds, transformed):
    known = [
        (row["miles"], b)
        for row, b in zip(kinds.rows, transformed["miles"], strict=True)
        if row["miles"] is not None
    ]
    assert [b for _, b in known] == sorted(b for _, b in known)  # the rows are in the order of their miles
    counts = np.bincount([b for _, b in known])
    assert len(counts) == 4 and np.ptp(counts) <= 1
    later = kinds([{"miles": m} for m in (-1e9, math.inf, math.nan, None)])["miles"]
    assert later.tolist() == [0, 3, 4, 4] and later.dtype == np.int64


def test_buckets_of_a_column_without_values(kinds, transformed):
    assert set(transformed["never"].tolist()) == {3}
    later = kinds([{"never": 7.0}, {"never": None}])["never"].tolist()
    assert later[0] in (0, 1, 2) and later[1] == 3


def test_all_values_of_a_list_are_terms(kinds, transformed):
    lists = [row["tags"] or ["<missing>"] for row in kinds.rows]
    assert kinds.terms("tags") == frequent_first(lists)
    assert transformed["tags"] == index(lists, kinds.terms("tags"))
    later = kinds([{"tags": ["b", "new", "a"]}, {"tags": []}, {}])["tags"]
    a, b, missing = (kinds.terms("tags").index(term) for term in ("a", "b", "<missing>"))
    assert later == [[b, len(kinds.terms("tags")) + bucket_of(["new"], 2)[0], a], [missing], [missing]]


def test_a_separator_makes_a_list_of_a_text(kinds, transformed):
    parts = [["comedy", "drama"], ["drama"], ["<missing>"], ["comedy", "film noir"]]
    lists = [parts[i % 4] for i in range(len(kinds.rows))]
    terms = frequent_first(lists)
    assert kinds.terms("genres") == terms[:3]  # top_k
    assert transformed["genres"] == [[min(terms.index(t), 3) for t in row] for row in lists]
    hashes = [[0] if row == ["<missing>"] else [h + 1 for h in bucket_of(row, 4)] for row in lists]
    assert transformed["genre_hashes"] == hashes
    assert kinds([{"genres": "||"}, {"genres": ["drama|drama", "comedy"]}])["genres"] == [
        [3],
        [terms.index("drama")] * 2,  # of a column that is no list, the first value
    ]


def test_a_separator_splits_every_text_of_a_list(kinds, transformed):
    lists = [[["a", "b", "c"], ["a"], ["<missing>"]][i % 3] for i in range(len(kinds.rows))]
    assert kinds.terms("both") == frequent_first(lists)
    assert transformed["both"] == index(lists, kinds.terms("both"))


def test_a_term_may_be_of_any_letters_and_its_column_too(kinds, transformed):
    terms = frequent_first([[row["Sprache (é)"] or "<missing>"] for row in kinds.rows])
    assert kinds.terms("language") == terms
    rows = [{"Sprache (é)": text} for text in ("çe", "de", None, "", "fr")]
    assert kinds(rows)["language"].tolist() == [
        *map(terms.index, ("çe", "de", "<missing>")),
        len(terms),
        len(terms),
    ]


def test_hashes_leave_row_0_to_what_is_missing(kinds, transformed):
    urls = [row["url"] for row in kinds.rows]
    expected = [0 if url is None else bucket_of([url], 7)[0] + 1 for url in urls]
    assert transformed["url"].tolist() == expected and len(set(expected)) == 8
    assert transformed["codes"] == [
        [b + 1 for b in bucket_of([str(c) for c in row["codes"]], 5)] or [0] for row in kinds.rows
    ]
    later = kinds([{"url": "new", "codes": [-4, 4, -4]}, {"url": ""}])
    assert later["url"].tolist() == [bucket_of(["new"], 7)[0] + 1, 0]
    assert later["codes"] == [[b + 1 for b in bucket_of(["-4", "4", "-4"], 5)], [0]]


def test_small_integers_are_their_own_index(transformed):
    assert transformed["hour"].tolist() == [4, 0, 1, 2, 3, 4] * 8


def test_a_cross_is_a_hash_of_all_its_values(kinds, transformed):
    pairs = [f"{row['hour']}\x1f{row['Sprache (é)'] or ''}" for row in kinds.rows]
    assert transformed["hour_language"].tolist() == bucket_of(pairs, 11)
    later = kinds([{"Sprache (é)": "de"}, {"hour": 1}, {}])["hour_language"].tolist()
    assert later == bucket_of(["\x1fde", "1\x1f", "\x1f"], 11)


def circle(moment):
    """Sines, then cosines, of the parts of a time, and that it is there."""
    values = [moment.minute, moment.hour, moment.isoweekday(), moment.day, moment.month]
    turns = [2 * math.pi * (v - first) / n for v, (first, n) in zip(values, PARTS.values(), strict=True)]
    return [*map(math.sin, turns), *map(math.cos, turns), 0.0]


@pytest.mark.parametrize("name", ["at", "at_ms"])
def test_a_time_is_a_place_on_a_circle_for_each_part(kinds, transformed, name):
    expected = [
        [0.0] * 10 + [1.0] if row["at"] is None else circle(datetime.fromtimestamp(row["at"], UTC))
        for row in kinds.rows
    ]
    np.testing.assert_allclose(transformed[name], expected, atol=1e-5)


def test_a_time_is_a_row_for_each_part(kinds, transformed):
    def rows(text):
        moment = datetime.fromisoformat(text)
        return [moment.hour, 24 + moment.isoweekday() - 1]

    missing = [31, 31]  # behind 24 hours and 7 days
    assert transformed["iso"] == [rows(row["iso"]) if row["iso"] else missing for row in kinds.rows]
    later = kinds([{"iso": text} for text in ("2024-02-29", "soon", "", None, "1709190300")])["iso"]
    assert later == [rows("2024-02-29T00:00"), missing, missing, missing, rows("2024-02-29T07:05")]


def test_words_and_runs_of_them_are_terms(kinds, transformed):
    lists = [
        ["good", "good", "trip", "good good", "good trip"],
        ["bad", "trip", "bad trip"],
        ["<missing>"],
        ["<missing>"],
        ["très", "bon", "très bon"],
        ["don't", "stop", "don't stop"],
    ] * 8
    terms = kinds.terms("comment")
    assert terms == frequent_first(lists)
    assert [sorted(row) for row in transformed["comment"]] == [sorted(row) for row in index(lists, terms)]
    texts = ["...trip,TRIP?!", "  ", "¡TRÈS\tgood\n", "", b"\xff bon \xfe", "été"]
    later = kinds([{"comment": text} for text in texts])["comment"]
    out, missing, known = len(terms), terms.index("<missing>"), terms.index
    assert [sorted(row) for row in later] == [
        sorted([known("trip"), known("trip"), out]),
        [missing],
        sorted([known("très"), known("good"), out]),
        [missing],
        [known("bon")],
        [out],
    ]


def test_marks_are_a_part_of_the_word():
    from components.features import Text
    from components.transform import preprocessing

    column = tf.sparse.from_dense(tf.constant([["हिन्दी भाषा"], ["e\u0301te\u0301-x"]]))
    assert preprocessing._runs([column], Text(name="t")).to_list() == [
        ["हिन्दी".encode(), "भाषा".encode()],
        ["e\u0301te\u0301".encode(), b"x"],
    ]


def test_a_tensor_is_filled_up_and_cut(kinds, transformed):
    x = np.full((len(kinds.rows), 6), np.nan)
    for row, pixels in zip(x, (row["pixels"] for row in kinds.rows), strict=True):
        row[: len(pixels)] = pixels[:6]
    scaled = np.nan_to_num((x - np.nanmean(x)) / np.nanstd(x))
    np.testing.assert_allclose(transformed["pixels"], scaled.reshape(-1, 2, 3, 1), atol=1e-5)
    later = kinds([{"pixels": list(map(float, range(20)))}, {"pixels": [0.0, math.nan, 2.0]}])["pixels"]
    expected = (np.array([[0, 1, 2, 3, 4, 5], [0, np.nan, 2, *[np.nan] * 3]]) - np.nanmean(x)) / np.nanstd(x)
    np.testing.assert_allclose(later.reshape(2, 6), np.nan_to_num(expected), atol=1e-5)


def test_columns_are_a_tensor_too(kinds, transformed):
    x = np.array([[row["low"], np.nan if row["high"] is None else row["high"]] for row in kinds.rows])
    scaled = np.nan_to_num((x - np.nanmean(x)) / np.nanstd(x))
    np.testing.assert_allclose(transformed["levels"], scaled.reshape(-1, 1, 2, 1), atol=1e-5)


def test_a_tensor_that_no_row_has_is_empty(transformed):
    assert transformed["dark"].shape[1:] == (1, 1, 2) and not transformed["dark"].any()


def test_an_example_without_a_weight_counts_one(kinds, transformed):
    weights = [1.0 if row["1st weight"] is None else row["1st weight"] for row in kinds.rows]
    assert transformed[EXAMPLE_WEIGHT].tolist() == weights


def test_a_request_has_neither_label_nor_weight(kinds, transformed):
    served = kinds(kinds.rows, without=["paid", "1st weight"])
    assert set(served) == set(transformed) - {LABEL, EXAMPLE_WEIGHT}
    for name, values in served.items():
        np.testing.assert_array_equal(np.asarray(values, object), np.asarray(transformed[name], object))


def test_a_request_may_have_nothing_in_any_row(kinds):
    nothing, one = kinds([{}, {}]), kinds([{"paid": 1}])
    for name, values in nothing.items():
        assert len(values) == 2
        np.testing.assert_array_equal(values[0], values[1])
        if name != LABEL:
            np.testing.assert_array_equal(values[0], one[name][0])


def test_a_request_may_have_no_rows(kinds):
    assert {len(values) for values in kinds([], without=["paid", "1st weight"]).values()} == {0}
