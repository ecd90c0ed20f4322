"""Records leave what the champion remembers: the real pipeline, on a version whose model is only named."""

import json
from pathlib import Path

import pytest

from components.errors import RetrainError
from components.promote.registry import Registry
from pipeline.forget import forget

SCHEMA = """
feature { name: "word" type: BYTES }
feature { name: "span" type: INT }
feature { name: "example_id" type: INT }
"""
WORDS = ("bob", "ann", None)


def write_split(folder, spans, rows):
    """So many rows of every span, whose words are in turn."""
    import tensorflow as tf

    folder.mkdir(parents=True)
    with tf.io.TFRecordWriter(str(folder / "data_tfrecord-0.gz"), "GZIP") as writer:
        for row in range(rows * len(spans)):
            example = tf.train.Example()
            features = example.features.feature
            features["span"].int64_list.value.append(spans[row // rows])
            features["example_id"].int64_list.value.append(row)
            if word := WORDS[row % 3]:
                features["word"].bytes_list.value.append(word.encode())
            writer.write(example.SerializeToString())


@pytest.fixture
def shop(new_shop, tmp_path):
    """Version 1 learned spans 1 and 2, and is served; each has 12 training and 6 held-out rows."""
    from components.replay.component import empty_meta, write_meta
    from components.replay.logic import EVERYTHING, Scheme

    shop = new_shop(tmp_path)
    number = shop.add(1, 2, serve=True)
    champion = shop.registry.get(number)
    folder = Path(champion.uris["buffer"])
    write_split(folder / "Split-train", (1, 2), 12)
    write_split(folder / "Split-eval", (1, 2), 6)
    by_span = dict.fromkeys("12", EVERYTHING)
    meta = {"train": {"0": EVERYTHING}, "eval": by_span, "spans": {"1": 12, "2": 12}}
    write_meta(str(folder), empty_meta(Scheme("reservoir"), 0) | meta)
    recorded = json.loads((Path(champion.uris["record"]) / "record.json").read_text())
    for name, files in {
        "schema": {"schema.pbtxt": SCHEMA},
        "evaluation": {},
        "decision": {"decision.json": json.dumps(recorded["decision"])},
        "blessing": {"verdict.json": json.dumps(recorded["verdict"])},
    }.items():
        made = folder.parent / name
        made.mkdir()
        for file, content in files.items():
            (made / file).write_text(content)
        shop.registry.tag(number, **{f"uri.{name}": str(made)})
    return shop


def words(version):
    """(Split, word) of every row that a version's buffer holds."""
    import tensorflow as tf

    found = []
    for split in ("train", "eval"):
        files = [str(f) for f in Path(version.uris["buffer"], f"Split-{split}").glob("data_tfrecord-*")]
        for record in tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator():
            values = tf.train.Example.FromString(record).features.feature["word"].bytes_list.value
            found.append((split, values[0].decode() if values else None))
    return found


def served(shop):
    return sorted(int(path.name) for path in shop.deployment.base_path.iterdir())


def test_a_new_version_is_the_champion_without_the_records(shop):
    steps = []
    done = forget(shop.deployment, "word = 'ann'", "they asked", on_step=steps.append)
    assert done.counts == {
        "train": 8,
        "eval": 4,
        "by_span": {"1": {"train": 4, "eval": 2}, "2": {"train": 4, "eval": 2}},
    }
    assert (done.champion, done.version) == (1, 2)
    old, new = shop.registry.versions()
    assert shop.registry.champion() == new
    assert (new.kind, new.spans, new.parent, new.watermark) == ("forget", (), 1, 2)
    assert new.blessed == old.blessed
    assert {name for name, uri in new.uris.items() if old.uris.get(name) != uri} == {"buffer", "record"}
    assert set(words(new)) == {(split, word) for split in ("train", "eval") for word in (None, "bob")}
    assert len(words(new)) == 24 and len(words(old)) == 36
    recorded = json.loads((Path(new.uris["record"]) / "record.json").read_text())
    assert recorded["forgotten"]["reason"] == "they asked" and recorded["forgotten"]["train"] == 8
    # The same model, under the new number; the server is told.
    assert (shop.deployment.base_path / "2" / "saved_model.pb").read_text() == "model 1"
    assert "versions: 2" in shop.deployment.model_config_file.read_text()
    assert {"looking for the records", "leaving the records out", "promoting"} <= set(steps)
    said = done.describe()
    for fact in (
        "version 1 remembers 12 records for which word = 'ann': 8 to replay, 4 held out",
        "span 2: 4 to replay, 2 held out",
        "version 2 is served",
        "it still knows",
        "artifacts of other versions",
        "come back when their files are learned again",
    ):
        assert fact in said, said

    again = forget(shop.deployment, "word = 'ann'", "they asked")
    assert (again.version, again.found, again.to_json()["not_done"]) == (None, 0, [])
    assert again.describe() == ("version 2 remembers no record for which word = 'ann'; nothing was changed")
    assert len(shop.registry.versions()) == 2


def test_a_look_changes_nothing(shop):
    done = forget(shop.deployment, "span = 2", dry_run=True)
    assert (done.version, done.counts["train"], done.counts["eval"]) == (None, 12, 6)
    assert done.describe().endswith("Nothing was changed")
    assert len(shop.registry.versions()) == 1 and shop.registry.champion().number == 1
    assert not (shop.state / "metadata.sqlite").exists()
    told = done.to_json()
    assert told["forgotten"] == done.counts and (told["parent"], told["version"]) == (1, None)
    assert len(told["not_done"]) == 3


def test_killed_before_the_alias_moved_the_same_command_finishes(shop, monkeypatch):
    make_champion = Registry.make_champion

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Registry, "make_champion", killed)
    with pytest.raises(BaseException):  # noqa: B017, PT011  as Beam hands it on
        forget(shop.deployment, "word = 'bob'", "they asked")
    assert [v.number for v in shop.registry.versions()] == [1, 2] and shop.registry.champion().number == 1

    monkeypatch.setattr(Registry, "make_champion", make_champion)
    done = forget(shop.deployment, "word = 'bob'", "they asked")
    assert done.version == 2 and shop.registry.champion().number == 2
    assert [v.number for v in shop.registry.versions()] == [1, 2]
    assert served(shop) == [1, 2]


def test_what_cannot_be_is_said_before_anything_is_made(shop):
    with pytest.raises(RetrainError, match=r"'wrd' is no column .* the columns are example_id, span, word"):
        forget(shop.deployment, "wrd = 'ann'")
    with pytest.raises(RetrainError, match="is not allowed"):
        forget(shop.deployment, "word in ('ann')")
    (Path(shop.registry.champion().uris["buffer"]) / "sample.json").unlink()
    with pytest.raises(RetrainError, match="Restore the folder"):
        forget(shop.deployment, "word = 'ann'")
    assert len(shop.registry.versions()) == 1


def test_with_nothing_served_nothing_is_remembered(fresh):
    with pytest.raises(RetrainError, match="no version is served yet"):
        forget(fresh.deployment, "word = 'ann'")
