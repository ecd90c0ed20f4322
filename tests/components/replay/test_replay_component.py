"""The component on small real artifacts, one run after the other, as versions follow each other."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tfx.types import artifact_utils, standard_artifacts

from components.beam_memory import remembered
from components.errors import RetrainError
from components.replay import forget
from components.replay.component import Executor
from components.replay.logic import EVERYTHING, sample_keys

BEAM = [
    "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner",
    "--sdk_container_image=unused",
]
PROPERTIES = {"capacity": 40, "holdout_per_span": 5, "seed": 7}


def artifact(folder):
    examples = standard_artifacts.Examples()
    examples.uri = str(folder)
    examples.split_names = '["train", "eval"]'
    return examples


def run(folder, examples, base=None, **properties):
    """One execution; `base` is a run's `buffer` folder."""
    buffer = artifact(folder)
    folder.mkdir()
    inputs = {"examples": [artifact(examples)]} | ({"base_buffer": [artifact(base)]} if base else {})
    with remembered():
        Executor(Executor.Context(beam_pipeline_args=list(BEAM))).Do(
            inputs, {"buffer": [buffer]}, PROPERTIES | properties
        )
    return SimpleNamespace(
        folder=folder,
        splits=artifact_utils.decode_split_names(buffer.split_names),
        meta=json.loads((folder / "sample.json").read_text()),
        files=sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()),
    )


def leave_out(folder, base, *spans):
    """One execution of Forget; gives the folder of what is left."""
    folder.mkdir()
    with remembered():
        forget.Executor(forget.Executor.Context(beam_pipeline_args=list(BEAM))).Do(
            {"base_buffer": [artifact(base)]}, {"buffer": [artifact(folder)]}, {"spans": json.dumps(spans)}
        )
    return folder


def key_of(row, seed=7):
    return int(sample_keys(np.array([row[1]]), seed)[0])


def bottom(rows, capacity):
    """The rows with the smallest keys, in their order, and what is known of that sample."""
    rows = sorted(rows, key=key_of)
    threshold = key_of(rows[capacity]) if len(rows) > capacity else EVERYTHING
    return rows[:capacity], {"seen": len(rows), "threshold": threshold}


@pytest.fixture
def spans(tmp_path, rows, write):
    """Spans 1, 2 and 3 as ingest leaves them; the last has no held-out examples."""
    data = {}
    for span, (train, held_out) in {1: (100, 12), 2: (30, 3), 3: (50, 0)}.items():
        split = rows(span, train + held_out)
        folder = tmp_path / f"examples-{span}"
        data[span] = SimpleNamespace(folder=folder, train=split[:train], eval=split[train:])
        for name in ("train", "eval"):
            write(folder / f"Split-{name}", getattr(data[span], name))
    return data


def test_versions_that_follow_each_other(tmp_path, spans, read):
    one, two, three = spans.values()
    first = run(tmp_path / "1", one.folder)
    train, train_sample = bottom(one.train, 40)
    held_out, held_out_sample = bottom(one.eval, 5)
    assert read(first.folder / "Split-train") == train and len(train) == 40
    assert read(first.folder / "Split-eval") == held_out and len(held_out) == 5
    assert first.meta == {
        "seed": 7,
        "train": {"0": train_sample},
        "eval": {"1": held_out_sample},
        "spans": {"1": 100},
    }
    assert first.splits == ["train", "eval"]
    assert first.files == [
        "Split-eval/data_tfrecord-00000-of-00001.gz",
        "Split-train/data_tfrecord-00000-of-00001.gz",
        "sample.json",
    ]

    # Of the past there is only the buffer now, and the configured seed has changed since.
    shutil.rmtree(one.folder)
    second = run(tmp_path / "2", two.folder, first.folder, seed=99)
    train, train_sample = bottom(one.train + two.train, 40)
    assert read(second.folder / "Split-train") == train and {span for span, _ in train} == {1, 2}
    assert read(second.folder / "Split-eval") == sorted(held_out + two.eval, key=key_of)
    samples = {"1": held_out_sample, "2": {"seen": 3, "threshold": EVERYTHING}}
    spans_seen = {"1": 100, "2": 30}
    assert second.meta == {"seed": 7, "train": {"0": train_sample}, "eval": samples, "spans": spans_seen}

    # A span without held-out examples, and a larger capacity: what was dropped stays out.
    shutil.rmtree(two.folder)
    third = run(tmp_path / "3", three.folder, second.folder, capacity=70)
    new = [row for row in three.train if key_of(row) < train_sample["threshold"]]
    assert 0 < len(new) < 30
    assert read(third.folder / "Split-train") == sorted(train + new, key=key_of)
    assert read(third.folder / "Split-eval") == sorted(held_out + two.eval, key=key_of)
    assert third.meta == {
        "seed": 7,
        "train": {"0": {"seen": 180, "threshold": train_sample["threshold"]}},
        "eval": samples,
        "spans": {"1": 100, "2": 30, "3": 50},
    }


def test_examples_come_out_as_they_went_in(tmp_path, write, rows):
    import tensorflow as tf

    def records(folder):
        files = [str(file) for file in folder.glob("data_tfrecord-*")]
        return sorted(tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator())

    for split in ("train", "eval"):
        write(tmp_path / "examples" / f"Split-{split}", rows(1, 30), shards=2)
    buffer = run(tmp_path / "buffer", tmp_path / "examples", holdout_per_span=30).folder
    for split in ("Split-train", "Split-eval"):
        assert records(buffer / split) == records(tmp_path / "examples" / split)


def test_a_base_that_is_no_buffer(tmp_path, spans):
    with pytest.raises(RetrainError, match=r"examples-2 is not there \(no sample\.json\)"):
        run(tmp_path / "out", spans[1].folder, spans[2].folder)
    assert list(Path(tmp_path / "out").iterdir()) == []


def test_lost_files_of_the_base_are_not_taken_for_an_empty_buffer(tmp_path, spans):
    first = run(tmp_path / "1", spans[1].folder)
    shutil.rmtree(first.folder / "Split-train")
    with pytest.raises(OSError, match=f"{first.folder}/Split-train"):
        run(tmp_path / "2", spans[2].folder, first.folder)


def test_held_out_rows_that_were_lost_are_not_forgotten(tmp_path, spans, write):
    base = tmp_path / "base"
    for split in ("train", "eval"):
        write(base / f"Split-{split}", spans[1].train[:3])
    lost = {"seen": 12, "threshold": 5}
    (base / "sample.json").write_text(json.dumps({"seed": 7, "train": {}, "eval": {"0": lost}, "spans": {}}))
    # The gate will ask for span 0, and not find it.
    assert run(tmp_path / "out", spans[2].folder, base).meta["eval"]["0"] == lost


def test_a_span_learned_again_is_in_the_buffer_once_and_as_it_is_now(tmp_path, spans, rows, write, read):
    one, two, _ = spans.values()
    first = run(tmp_path / "1", one.folder)
    second = run(tmp_path / "2", two.folder, first.folder)
    threshold = second.meta["train"]["0"]["threshold"]
    # A late file brought ten more rows of span 1, and five of those that were there are gone.
    late = rows(11, 10)
    train, held_out = one.train[5:] + [(1, i) for _, i in late], one.eval[:7]
    write(tmp_path / "late" / "Split-train", train)
    write(tmp_path / "late" / "Split-eval", held_out)

    left = leave_out(tmp_path / "left", second.folder, 1)
    assert read(left / "Split-train") == sorted((r for r in two.train if key_of(r) < threshold), key=key_of)
    assert read(left / "Split-eval") == sorted(two.eval, key=key_of)
    assert json.loads((left / "sample.json").read_text()) == {
        "seed": 7,
        "train": {"0": {"seen": 30, "threshold": threshold}},
        "eval": {"2": {"seen": 3, "threshold": EVERYTHING}},
        "spans": {"2": 30},
    }

    again = run(tmp_path / "3", tmp_path / "late", left)
    # All rows of both spans below the threshold, and no other: a uniform sample of what there is now.
    candidates = [row for row in two.train + train if key_of(row) < threshold]
    kept, sample = bottom(candidates, 40)
    assert read(again.folder / "Split-train") == kept
    assert again.meta["train"]["0"] == {"seen": 135, "threshold": min(threshold, sample["threshold"])}
    assert again.meta["spans"] == {"1": 105, "2": 30}
    of_one, of_one_sample = bottom(held_out, 5)
    assert read(again.folder / "Split-eval") == sorted(of_one + two.eval, key=key_of)
    assert again.meta["eval"]["1"] == of_one_sample


def test_the_only_span_learned_again_leaves_nothing_of_the_old_sample(tmp_path, spans, read):
    first = run(tmp_path / "1", spans[1].folder)
    left = leave_out(tmp_path / "left", first.folder, 1)
    assert read(left / "Split-train") == read(left / "Split-eval") == []
    again = run(tmp_path / "2", spans[1].folder, left)
    assert again.meta == first.meta
    for split in ("Split-train", "Split-eval"):
        assert read(again.folder / split) == read(first.folder / split)


def test_what_is_forgotten_must_be_there_whole(tmp_path, spans):
    first = run(tmp_path / "1", spans[1].folder)
    shutil.rmtree(first.folder / "Split-eval")
    with pytest.raises(OSError, match=f"{first.folder}/Split-eval"):
        leave_out(tmp_path / "left", first.folder, 1)
    with pytest.raises(RetrainError, match=r"examples-2 is not there \(no sample\.json\)"):
        leave_out(tmp_path / "other", spans[2].folder, 1)
