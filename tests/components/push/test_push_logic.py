"""A version is in the serving folder whole, or not at all."""

import os
import shutil

import pytest

from components.errors import RetrainError
from components.push import logic
from components.push.logic import prune, push

CONTENT = {
    "saved_model.pb": b"graph",
    "variables/variables.index": b"index",
    "variables/variables.data-00000-of-00001": b"weights" * 1000,
    "assets/company_vocabulary": b"ann\nbob\n",
}


def content(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.fixture
def saved_model(tmp_path):
    for name, data in CONTENT.items():
        path = tmp_path / "saved" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "saved"


@pytest.fixture
def base(tmp_path):
    """As with a new deployment, neither it nor its parent is there."""
    return tmp_path / "state" / "serving" / "taxi"


def test_the_saved_model_is_copied(saved_model, base):
    assert push(saved_model, base, 12) == base / "12"
    assert content(base / "12") == CONTENT == content(saved_model)
    assert [p.name for p in base.parent.iterdir()] == ["taxi"] and [p.name for p in base.iterdir()] == ["12"]


def test_a_second_push_changes_nothing(saved_model, base, tmp_path):
    push(saved_model, base, 1)
    before = {f: f.stat() for f in base.rglob("*")}
    shutil.rmtree(saved_model)  # not even looked at
    assert push(saved_model, base, 1) == base / "1"
    after = {f: f.stat() for f in base.rglob("*")}
    assert {f: (s.st_ino, s.st_mtime_ns) for f, s in after.items()} == {
        f: (s.st_ino, s.st_mtime_ns) for f, s in before.items()
    }


@pytest.mark.parametrize("there", ["nothing", "an empty folder", "all but the graph"])
def test_without_a_saved_model_nothing_is_pushed(saved_model, base, there):
    (saved_model / "saved_model.pb").unlink()
    if there != "all but the graph":
        shutil.rmtree(saved_model)
    if there == "an empty folder":
        saved_model.mkdir()
    with pytest.raises(RetrainError, match=f"version 5 has no SavedModel in {saved_model}"):
        push(saved_model, base, 5)
    assert not base.parent.exists()


def test_killed_while_copying_the_next_push_starts_over(saved_model, base, monkeypatch):
    def killed(source, target):
        (target / "variables").mkdir(parents=True)
        shutil.copy2(source / "saved_model.pb", target)
        (target / "variables" / "stale").write_bytes(b"of the first try")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copytree", killed)
        with pytest.raises(KeyboardInterrupt):
            push(saved_model, base, 3)
    assert len(list(base.parent.iterdir())) == 1 and not base.exists()  # a server that lists it sees nothing
    push(saved_model, base, 3)
    assert content(base / "3") == CONTENT
    assert [p.name for p in base.parent.iterdir()] == ["taxi"]


def test_whoever_lists_the_folder_sees_only_whole_versions(saved_model, base, monkeypatch):
    seen = []

    def look(*_):
        seen.append({entry.name: content(entry) for entry in base.iterdir()} if base.exists() else {})

    monkeypatch.setattr(logic, "flush", look)  # after the copy, file by file, and after the rename
    rename = os.rename

    def look_and_rename(source, target):
        look()
        rename(source, target)
        look()

    monkeypatch.setattr(os, "rename", look_and_rename)
    push(saved_model, base, 1)
    push(saved_model, base, 2)
    assert len(seen) == 2 * (len(CONTENT) + 3)
    assert all(version == CONTENT for listing in seen for version in listing.values())
    assert seen[0] == {} and seen[-1].keys() == {"1", "2"}

    seen.clear()
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: look())
    prune(base, set(), 1)
    assert seen[0].keys() == {"1", "2"} and seen[-1].keys() == {"2"}
    assert all(version == CONTENT for listing in seen for version in listing.values())


@pytest.mark.parametrize(
    ("keep", "newest", "left"),
    [
        ({2}, 3, ["2", "9", "10", "11"]),
        ({11}, 3, ["9", "10", "11"]),
        (set(), 1, ["11"]),
        ({2, 9}, 1, ["2", "9", "11"]),
        (set(), 99, ["1", "2", "9", "10", "11"]),
        ({1}, 0, ["1"]),
    ],
)
def test_prune_keeps_the_champion_and_the_newest(saved_model, base, keep, newest, left):
    for version in (1, 2, 9, 10, 11):
        push(saved_model, base, version)
    (base / "notes.txt").write_text("not a version")
    gone = prune(base, keep, newest)
    assert sorted(p.name for p in base.iterdir()) == sorted([*left, "notes.txt"])
    assert sorted(map(str, gone)) == sorted({"1", "2", "9", "10", "11"} - set(left))
    assert [p.name for p in base.parent.iterdir()] == ["taxi"]
    assert all(content(base / version) == CONTENT for version in left)


def test_what_was_pruned_can_be_pushed_again(saved_model, base):
    for version in (1, 2):
        push(saved_model, base, version)
    assert prune(base, {2}, 1) == [1]
    push(saved_model, base, 1)
    assert content(base / "1") == CONTENT
