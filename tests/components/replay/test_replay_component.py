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
from components.replay import forget, logic
from components.replay.component import Executor
from components.replay.logic import EVERYTHING, Scheme, sample_keys

BEAM = [
    "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner",
    "--sdk_container_image=unused",
]
RESERVOIR = {"name": "reservoir"}
PROPERTIES = {
    "capacity": 40,
    "holdout_per_span": 5,
    "holdout_capacity": 100,
    "holdout_spans": 20,
    "new_spans": "[]",
    "seed": 7,
    "scheme": json.dumps(RESERVOIR),
}
QUOTAS = {
    "train": {"capacity": 40, "of_group": None, "level": 40},
    "eval": {"capacity": 100, "of_group": 5, "level": 5},
}
SCHEMA = """
feature { name: "company" type: BYTES }
feature { name: "miles" type: FLOAT }
feature { name: "area" type: INT }
"""


def artifact(folder):
    examples = standard_artifacts.Examples()
    examples.uri = str(folder)
    examples.split_names = '["train", "eval"]'
    return examples


def schema(folder):
    made = standard_artifacts.Schema()
    made.uri = str(folder)
    folder.mkdir(exist_ok=True)
    (folder / "schema.pbtxt").write_text(SCHEMA)
    return made


def run(folder, examples, base=None, scheme=None, **properties):
    """One execution; `base` is a run's `buffer` folder."""
    buffer = artifact(folder)
    folder.mkdir()
    inputs = {"examples": [artifact(examples)]} | ({"base_buffer": [artifact(base)]} if base else {})
    if scheme:
        inputs["schema"] = [schema(folder.parent / "schema")]
        properties["scheme"] = json.dumps(scheme.to_json())
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


def leave_out(folder, base, *spans, where=""):
    """One execution of Forget; gives the folder of what is left."""
    folder.mkdir()
    inputs = {"base_buffer": [artifact(base)]}
    with remembered():
        forget.Executor(forget.Executor.Context(beam_pipeline_args=list(BEAM))).Do(
            inputs | ({"schema": [schema(folder.parent / "schema")]} if where else {}),
            {"buffer": [artifact(folder)]},
            {"spans": json.dumps(spans), "where": where, "reason": "asked for"},
        )
    return folder


def key_of(row, seed=7):
    return int(sample_keys(np.array([row[1]]), seed)[0])


def bottom(rows, capacity):
    """The rows with the smallest keys, in their order, and the threshold of that sample."""
    rows = sorted(rows, key=key_of)
    return rows[:capacity], key_of(rows[capacity]) if len(rows) > capacity else EVERYTHING


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
    train, train_threshold = bottom(one.train, 40)
    held_out, held_out_threshold = bottom(one.eval, 5)
    assert read(first.folder / "Split-train") == train and len(train) == 40
    assert read(first.folder / "Split-eval") == held_out and len(held_out) == 5
    assert first.meta == {
        "seed": 7,
        "scheme": RESERVOIR,
        "quotas": QUOTAS,
        "train": {"0": train_threshold},
        "eval": {"1": held_out_threshold},
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
    train, train_threshold = bottom(one.train + two.train, 40)
    assert read(second.folder / "Split-train") == train and {span for span, _ in train} == {1, 2}
    assert read(second.folder / "Split-eval") == sorted(held_out + two.eval, key=key_of)
    samples = {"1": held_out_threshold, "2": EVERYTHING}
    assert second.meta == first.meta | {
        "train": {"0": train_threshold},
        "eval": samples,
        "spans": {"1": 100, "2": 30},
    }

    # A span without held-out examples, and a larger capacity: what was dropped stays out.
    shutil.rmtree(two.folder)
    third = run(tmp_path / "3", three.folder, second.folder, capacity=70)
    new = [row for row in three.train if key_of(row) < train_threshold]
    assert 0 < len(new) < 30
    assert read(third.folder / "Split-train") == sorted(train + new, key=key_of)
    assert read(third.folder / "Split-eval") == sorted(held_out + two.eval, key=key_of)
    assert third.meta == second.meta | {
        "quotas": QUOTAS | {"train": {"capacity": 70, "of_group": None, "level": 70}},
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
    meta = {"seed": 7, "scheme": RESERVOIR, "quotas": {}, "train": {}, "eval": {"0": 5}, "spans": {}}
    (base / "sample.json").write_text(json.dumps(meta))
    # The gate will ask for span 0, and not find it.
    assert run(tmp_path / "out", spans[2].folder, base).meta["eval"]["0"] == 5


def test_a_span_learned_again_is_in_the_buffer_once_and_as_it_is_now(tmp_path, spans, rows, write, read):
    one, two, _ = spans.values()
    first = run(tmp_path / "1", one.folder)
    second = run(tmp_path / "2", two.folder, first.folder)
    threshold = second.meta["train"]["0"]
    # A late file brought ten more rows of span 1, and five of those that were there are gone.
    late = rows(11, 10)
    train, held_out = one.train[5:] + [(1, i) for _, i in late], one.eval[:7]
    write(tmp_path / "late" / "Split-train", train)
    write(tmp_path / "late" / "Split-eval", held_out)

    left = leave_out(tmp_path / "left", second.folder, 1)
    assert read(left / "Split-train") == sorted((r for r in two.train if key_of(r) < threshold), key=key_of)
    assert read(left / "Split-eval") == sorted(two.eval, key=key_of)
    assert json.loads((left / "sample.json").read_text()) == second.meta | {
        "eval": {"2": EVERYTHING},
        "spans": {"2": 30},
    }

    again = run(tmp_path / "3", tmp_path / "late", left)
    # All rows of both spans below the threshold, and no other: a uniform sample of what there is now.
    candidates = [row for row in two.train + train if key_of(row) < threshold]
    kept, lower = bottom(candidates, 40)
    assert read(again.folder / "Split-train") == kept
    assert again.meta["train"]["0"] == min(threshold, lower)
    assert again.meta["spans"] == {"1": 105, "2": 30}
    of_one, of_one_threshold = bottom(held_out, 5)
    assert read(again.folder / "Split-eval") == sorted(of_one + two.eval, key=key_of)
    assert again.meta["eval"]["1"] == of_one_threshold


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
    with pytest.raises(RetrainError, match=f"no file {first.folder}/Split-eval"):
        leave_out(tmp_path / "left", first.folder, 1)
    with pytest.raises(RetrainError, match=r"examples-2 is not there \(no sample\.json\)"):
        leave_out(tmp_path / "other", spans[2].folder, 1)


def company(row):
    """Every tenth row is of the rare one, every 25th of none."""
    return {"company": None if row[1] % 25 == 0 else "rare" if row[1] % 10 == 0 else "often"}


def test_balanced_by_a_column_over_two_versions(tmp_path, write, read):
    ids = [(span, span * 1000 + i) for span in (1, 2) for i in range(200)]
    for span in (1, 2):
        for split in ("train", "eval"):
            write(tmp_path / str(span) / f"Split-{split}", [r for r in ids if r[0] == span], more=company)
    scheme = Scheme("balanced", ("company",))
    first = run(tmp_path / "first", tmp_path / "1", scheme=scheme)
    second = run(tmp_path / "second", tmp_path / "2", first.folder, scheme=scheme)
    groups = {'["often"]': "often", '["rare"]': "rare", "[null]": None}
    kept = read(second.folder / "Split-train")
    assert kept == sorted(kept, key=key_of)
    for name, value in groups.items():
        mine, threshold = bottom([row for row in ids if company(row)["company"] == value], 13)
        assert [row for row in kept if company(row)["company"] == value] == mine
        assert second.meta["train"][name] == threshold
    assert second.meta["scheme"] == {"name": "balanced", "by": ["company"]}
    # Held-out examples are always by span.
    assert {span for span, _ in read(second.folder / "Split-eval")} == {1, 2}


def test_a_column_to_balance_by_that_is_not_there(tmp_path, spans):
    with pytest.raises(RetrainError, match=r"replay\.by: 'kind' is no column .* company, miles"):
        run(tmp_path / "out", spans[1].folder, scheme=Scheme("balanced", ("kind",)))


def test_more_groups_than_the_capacity_are_refused_and_nothing_is_left_for_another_stage(tmp_path, write):
    rows = [(1, i) for i in range(1, 60)]
    for split in ("train", "eval"):
        write(tmp_path / "new" / f"Split-{split}", rows, more=lambda row: {"area": row[1]})
    with pytest.raises(RetrainError, match="more than 40 groups"):
        run(tmp_path / "out", tmp_path / "new", scheme=Scheme("balanced", ("area",)))
    assert not (tmp_path / "out" / "sample.json").exists()


def test_another_scheme_begins_with_what_the_buffer_holds(tmp_path, spans, read):
    first = run(tmp_path / "1", spans[1].folder)
    second = run(tmp_path / "2", spans[2].folder, first.folder, scheme=Scheme("per_span"))
    held = read(first.folder / "Split-train")
    of_one, threshold = bottom(held, 20)
    of_two, _ = bottom(spans[2].train, 20)
    assert read(second.folder / "Split-train") == sorted(of_one + of_two, key=key_of)
    assert second.meta["train"]["1"] == threshold
    assert (second.meta["scheme"], second.meta["begun_with"]) == ({"name": "per_span"}, RESERVOIR)
    assert second.meta["spans"] == {"1": 100, "2": 30}  # what was seen is known all the same
    assert second.meta["eval"] == {"1": first.meta["eval"]["1"], "2": EVERYTHING}


def test_a_buffer_of_the_time_when_there_was_one_scheme_goes_on(tmp_path, spans, read):
    first = run(tmp_path / "1", spans[1].folder)
    whole = run(tmp_path / "2", spans[2].folder, first.folder)
    old = {"seed": 7, "spans": first.meta["spans"]} | {
        split: {group: {"seen": 9, "threshold": t} for group, t in first.meta[split].items()}
        for split in ("train", "eval")
    }
    (first.folder / "sample.json").write_text(json.dumps(old))
    again = run(tmp_path / "3", spans[2].folder, first.folder)
    assert again.meta == whole.meta
    assert read(again.folder / "Split-train") == read(whole.folder / "Split-train")


def test_held_out_rows_of_all_spans_together_are_bounded(tmp_path, spans, read):
    first = run(tmp_path / "1", spans[1].folder, holdout_capacity=7)
    assert len(read(first.folder / "Split-eval")) == 5
    second = run(tmp_path / "2", spans[2].folder, first.folder, holdout_capacity=7)
    kept = read(second.folder / "Split-eval")
    assert [sum(row[0] == span for row in kept) for span in (1, 2)] == [4, 3]
    assert kept == sorted(bottom(spans[1].eval, 4)[0] + spans[2].eval, key=key_of)


def test_of_more_spans_than_can_be_judged_some_have_no_held_out_rows_any_more(tmp_path, rows, write, read):
    base, data = None, {}
    for span in range(1, 6):
        data[span] = rows(span, 14)
        for split, some in (("train", data[span][:6]), ("eval", data[span][6:])):
            write(tmp_path / f"examples-{span}/Split-{split}", some)
        settings = {"holdout_capacity": 12, "holdout_spans": 3, "new_spans": json.dumps([span])}
        made = run(tmp_path / str(span), tmp_path / f"examples-{span}", base, **settings)
        base = made.folder
        kept = logic.judged_spans(range(1, span + 1), 3, 7)
        held_out = read(base / "Split-eval")
        assert {int(name) for name in made.meta["eval"]} == {row[0] for row in held_out} == kept
        assert list(made.meta["spans"]) == [str(known) for known in range(1, span + 1)]
    # What those leave free the others had kept: 4 rows each, as in a pass over these spans alone.
    assert held_out == sorted((r for s in kept for r in bottom(data[s][6:], 4)[0]), key=key_of)
    assert {row[0] for row in read(base / "Split-train")} == set(range(1, 6))


def test_spans_that_come_too_many_at_once_are_left_out_at_once(tmp_path, rows, write, read):
    for split, count in (("train", 5), ("eval", 8)):
        write(
            tmp_path / f"examples/Split-{split}", [row for span in range(1, 7) for row in rows(span, count)]
        )
    made = run(tmp_path / "made", tmp_path / "examples", holdout_spans=2, new_spans="[1, 2, 3, 4, 5, 6]")
    kept = logic.judged_spans(range(1, 7), 2, 7)
    assert {row[0] for row in read(made.folder / "Split-eval")} == kept and 6 in kept
    assert set(made.meta["eval"]) == set(map(str, kept))


def test_rows_for_which_a_condition_holds_are_forgotten(tmp_path, write, read):
    ids = [(span, span * 1000 + i) for span in (1, 2) for i in range(50)]
    columns = lambda row: company(row) | {"miles": 0.1 if row[1] % 2 else None}  # noqa: E731
    for span in (1, 2):
        for split, rows in {"train": ids, "eval": ids if span == 1 else [(2, 2010)]}.items():
            mine = [row for row in rows if row[0] == span]
            write(tmp_path / str(span) / f"Split-{split}", mine, more=columns)
    first = run(tmp_path / "first", tmp_path / "1", capacity=1000, holdout_per_span=1000)
    second = run(tmp_path / "second", tmp_path / "2", first.folder, capacity=1000, holdout_per_span=1000)
    where = "company = 'rare' or miles == 0.1 and company != 'often'"
    left = leave_out(tmp_path / "left", second.folder, where=where)

    def gone(row):
        values = columns(row)
        # Where the company is missing, the condition is neither true nor false.
        return values["company"] == "rare"

    assert read(left / "Split-train") == sorted((row for row in ids if not gone(row)), key=key_of)
    held_out = [row for row in ids if row[0] == 1 and not gone(row)]
    assert read(left / "Split-eval") == sorted(held_out, key=key_of)
    assert json.loads((left / "forgotten.json").read_text()) == {
        "where": where,
        "reason": "asked for",
        "spans": [],
        "train": 8,
        "eval": 5,
        "by_span": {"1": {"train": 4, "eval": 4}, "2": {"train": 4, "eval": 1}},
    }
    # Of span 2 nothing is held out any more: the gate must not ask for it.
    assert json.loads((left / "sample.json").read_text()) == second.meta | {
        "eval": {"1": EVERYTHING},
        "quotas": {},
    }
    numbers = forget.Where.read("miles = 0.1", str(tmp_path / "schema"))
    assert forget.count(artifact(left), numbers).to_json()["train"] == 50  # as it was written, not as float32


@pytest.mark.parametrize(
    ("where", "fact"),
    [
        (
            "compny = 'x'",
            r"'compny' is no column of the schema \(did you mean 'company'\?\); the columns are",
        ),
        ("company > 3", "compares a text with a number"),
        ("miles", "expected is a condition"),
        ("company", "expected is a condition"),
    ],
    ids=["no column", "no such comparison", "a number", "text"],
)
def test_a_condition_that_does_not_fit_the_columns(tmp_path, where, fact):
    with pytest.raises(RetrainError, match=fact):
        forget.Where.read(where, schema(tmp_path).uri)


def test_a_column_with_several_values_is_no_condition(tmp_path, write):
    for split in ("train", "eval"):
        write(tmp_path / f"Split-{split}", [(1, 1)], more=lambda _: {"company": ["a", "b"]})
    with pytest.raises(RetrainError, match="a row has 2 values of 'company'"):
        forget.count(artifact(tmp_path), forget.Where.read("company = 'a'", schema(tmp_path).uri))
