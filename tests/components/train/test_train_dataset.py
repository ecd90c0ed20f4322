import math
from collections import Counter

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from components.train.examples.dataset import Mix, batches, count_labels, plan_mix, read_records


def records(names):
    return tf.data.Dataset.from_tensor_slices(tf.constant(list(names), tf.string))


def as_bytes(serialized, is_new):
    return {"name": serialized, "is_new": is_new}, tf.strings.length(serialized)


def shown_in(stream, steps):
    """The names in each of the first batches."""
    return [inputs["name"].numpy().tolist() for inputs, _ in stream.take(steps)]


NEW, OLD = ([f"{kind}{i:03}".encode() for i in range(n)] for kind, n in (("new", 100), ("old", 30)))


def test_a_mix():
    assert plan_mix(900, 5000, 64, 0.5) == Mix(new=32, replayed=32, steps=29)
    assert plan_mix(100, 50, 10, 0.25) == Mix(new=8, replayed=2, steps=13)
    assert plan_mix(100, 50, 10, 0.0) == Mix(new=10, replayed=0, steps=10)  # no replay wanted
    assert plan_mix(100, 0, 10, 0.9) == Mix(new=10, replayed=0, steps=10)  # none to be had
    assert plan_mix(3, 5000, 64, 0.5) == Mix(new=3, replayed=32, steps=1)  # less new than a batch holds
    assert plan_mix(5, 9, 1, 0.9) == Mix(new=1, replayed=0, steps=5)
    assert plan_mix(5, 9, 2, 0.99) == Mix(new=1, replayed=1, steps=5)  # new ones are never crowded out


@given(
    new_rows=st.integers(1, 10_000),
    old_rows=st.integers(0, 100),
    batch_size=st.integers(1, 512),
    ratio=st.floats(0.0, 1.0, exclude_max=True),
)
def test_every_new_example_fits_once_and_shares_hold(new_rows, old_rows, batch_size, ratio):
    mix = plan_mix(new_rows, old_rows, batch_size, ratio)
    assert 1 <= mix.new <= batch_size and mix.new + mix.replayed <= batch_size
    assert (mix.steps - 1) * mix.new < new_rows <= mix.steps * mix.new
    if not old_rows:
        assert mix.replayed == 0
    elif new_rows >= batch_size > 1:
        assert mix.new + mix.replayed == batch_size
        assert abs(mix.replayed - ratio * batch_size) <= 1
    else:
        assert mix.replayed <= math.ceil(ratio * batch_size)


@settings(max_examples=25, deadline=None)
@given(
    new_rows=st.integers(1, 60),
    old_rows=st.integers(0, 7),
    batch_size=st.integers(1, 32),
    ratio=st.floats(0.0, 0.99),
)
def test_one_pass_shows_every_new_example_once(new_rows, old_rows, batch_size, ratio):
    mix = plan_mix(new_rows, old_rows, batch_size, ratio)
    stream = batches(records(NEW[:new_rows]), records(OLD[:old_rows]), mix, 1000, 0, as_bytes)
    shown = shown_in(stream, mix.steps)
    told = Counter(name for batch in shown for name in batch)
    assert {name: n for name, n in told.items() if name.startswith(b"new")} == dict.fromkeys(
        NEW[:new_rows], 1
    )
    assert {sum(name.startswith(b"old") for name in batch) for batch in shown} == {mix.replayed}
    if mix.replayed * mix.steps >= old_rows:  # the buffer is gone through before any of it comes again
        seen = [told[name] for name in OLD[:old_rows]]
        assert not seen or max(seen) - min(seen) <= 1


def test_batches_repeat_with_the_seed_and_change_with_it_and_from_pass_to_pass():
    mix = plan_mix(100, 30, 20, 0.5)

    def passes(seed):
        both = shown_in(batches(records(NEW), records(OLD), mix, 1000, seed, as_bytes), 2 * mix.steps)
        return both[: mix.steps], both[mix.steps :]

    first, second = passes(3)
    assert (first, second) == passes(3)
    for a, b in ((first, second), (first, passes(4)[0])):
        assert order(a, b"new") != order(b, b"new") and order(a, b"old") != order(b, b"old")
        assert sorted(order(a, b"new")) == sorted(order(b, b"new")) == NEW


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("old", [[], OLD], ids=["new alone", "mixed"])
@pytest.mark.parametrize("done", [1, 9, 25])
def test_a_stream_goes_on_where_another_left(done, old, full):
    def stream(done):
        mix = plan_mix(97, len(old), 20, 0.5)  # 97: the last batch of a pass is a smaller one
        return shown_in(batches(records(NEW[:97]), records(old), mix, 50, 3, as_bytes, done, full), 30 - done)

    assert stream(done) == stream(0)[done:]


def test_full_batches_go_on_with_the_next_pass():
    mix = plan_mix(97, 30, 20, 0.5)
    shown = shown_in(batches(records(NEW[:97]), records(OLD), mix, 1000, 0, as_bytes, full=True), 97)
    assert {len(batch) for batch in shown} == {20}
    assert Counter(order(shown, b"new")) == dict.fromkeys(NEW[:97], 10)


def test_each_example_is_told_new_or_replayed():
    stream = batches(records(NEW), records(OLD), plan_mix(100, 30, 20, 0.5), 1000, 0, as_bytes)
    for inputs, _ in stream.take(10):
        told = [name.startswith(b"new") for name in inputs["name"].numpy()]
        assert inputs["is_new"].numpy().tolist() == told and any(told) and not all(told)


@settings(max_examples=50, deadline=None)
@given(new_rows=st.integers(1, 60), old_rows=st.integers(0, 7), steps=st.integers(0, 40), full=st.booleans())
def test_examples_shown_are_counted(new_rows, old_rows, steps, full):
    mix = plan_mix(new_rows, old_rows, 16, 0.3)
    sizes = [min(mix.new, new_rows - first) for first in range(0, new_rows, mix.new)]
    expected = sum((mix.new if full else sizes[i % len(sizes)]) + mix.replayed for i in range(steps))
    assert mix.examples(new_rows, steps, full) == expected


def order(shown, kind):
    return [name for batch in shown for name in batch if name.startswith(kind)]


def test_inputs_and_labels_come_from_one_example():
    names = [b"x" * n for n in range(1, 30)]
    dataset = batches(records(names), records([b""]), Mix(4, 2, 8), 1000, 0, as_bytes)
    for inputs, label in dataset.take(8):
        assert [len(name) for name in inputs["name"].numpy()] == label.numpy().tolist()


def example(span, number):
    features = tf.train.Features(
        feature={
            "span": tf.train.Feature(int64_list=tf.train.Int64List(value=[span])),
            "n": tf.train.Feature(int64_list=tf.train.Int64List(value=[number])),
        }
    )
    return tf.train.Example(features=features).SerializeToString()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two artifacts of gzipped TFRecords; both hold examples of span 2."""
    folder = tmp_path_factory.mktemp("records")
    spans = {"a/0.gz": [3, 2, 3], "a/1.gz": [3], "b/0.gz": [0, 1, 2, 2], "b/1.gz": []}
    for number, (name, content) in enumerate(spans.items()):
        (folder / name).parent.mkdir(exist_ok=True)
        with tf.io.TFRecordWriter(str(folder / name), "GZIP") as writer:
            for i, span in enumerate(content):
                writer.write(example(span, 10 * number + i))
    return folder


@pytest.mark.parametrize(
    ("spans", "new", "old"),
    [
        ([3], [0, 2, 10], [1, 20, 21, 22, 23]),
        ([0, 1, 2, 3], [0, 1, 2, 10, 20, 21, 22, 23], []),
        ([4], [], [0, 1, 2, 10, 20, 21, 22, 23]),
        ([1, 3], [0, 2, 10, 21], [1, 20, 22, 23]),  # an older span that is learned after a newer one
    ],
)
@pytest.mark.parametrize("order", [("a/*", "b/*"), ("b/*", "a/*")])
def test_examples_are_new_by_their_span_wherever_they_lie(folders, spans, new, old, order):
    for memory_rows in (0, 100):
        read = read_records([str(folders / pattern) for pattern in order], spans, memory_rows)
        assert (read.new_rows, read.old_rows) == (len(new), len(old))
        for dataset, expected in ((read.new, new), (read.old, old)):
            for _ in range(2):
                found = [tf.train.Example.FromString(r) for r in dataset.as_numpy_iterator()]
                assert [e.features.feature["n"].int64_list.value[0] for e in found] == expected


def labelled(**values):
    feature = {name: tf.train.Feature(**{kind: value}) for name, (kind, value) in values.items()}
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def test_classes_are_counted_by_their_text():
    texts = ["a", "b", "a", "\u00e9"]
    some = [labelled(y=("bytes_list", tf.train.BytesList(value=[text.encode()]))) for text in texts]
    spec = tf.io.VarLenFeature(tf.string)
    counts = count_labels([records(some), records([labelled()]), records(some[:1])], "y", spec)
    assert counts == {"a": 3, "b": 1, "\u00e9": 1}


def test_a_label_of_two_numbers_is_counted_as_0_and_1():
    some = [labelled(y=("float_list", tf.train.FloatList(value=[value]))) for value in (0.0, 1.0, 1.0)]
    assert count_labels([records(some)], "y", tf.io.VarLenFeature(tf.float32)) == {"0": 1, "1": 2}
