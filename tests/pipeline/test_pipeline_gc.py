"""Old versions' files go, and nothing that is in use; whoever is killed when."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from components.errors import RetrainError
from components.promote.logic import summarize
from components.promote.registry import CHALLENGER, SHADOW, Registry, Version
from pipeline import gc
from pipeline.champion import promote
from pipeline.config import load
from pipeline.gc import collect, to_keep
from pipeline.lock import locked
from pipeline.rollback import rollback
from pipeline.stage_outputs import executions, maker, size
from pipeline.views.collected import _readable

pytestmark = pytest.mark.xdist_group("pipeline-registry")

Retrain = Callable[..., Any]
OUTPUTS = {
    "model": "train/model",
    "transform_graph": "transform/transform_graph",
    "statistics": "statistics/statistics",
    "buffer": "replay/buffer",
    "schema": "schema/schema",
    "evaluation": "evaluate/evaluation",
    "decision": "decide/decision",
    "blessing": "gate/blessing",
    "record": "register/version",
}
UNREFERENCED = ["ingest/examples", "anomalies/anomalies", "train/model_run", "evaluate/blessing"]
NODES = [*dict.fromkeys(path.split("/")[0] for path in [*UNREFERENCED[:2], *OUTPUTS.values()])]


@dataclass
class Runs:
    """A deployment whose artifacts lie as TFX puts them; each execution has the next number."""

    shop: Any
    last: int = 0
    made: dict[int, dict[str, str]] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.shop.state / "artifacts"

    @property
    def registry(self) -> Registry:
        return self.shop.registry

    def execute(self, register: bool = True) -> dict[str, Path]:
        """The outputs of one run, `node/output` -> folder, up to the training or to the registration."""
        made = {}
        for node in NODES if register else NODES[:-4]:
            self.last += 1
            for output in [*OUTPUTS.values(), *UNREFERENCED]:
                if output.split("/")[0] == node:
                    made[output] = self.root / output / str(self.last)
                    made[output].mkdir(parents=True)
                    (made[output] / "content").write_bytes(b"x" * 100)
            (self.root / node / ".system/executor_execution" / str(self.last)).mkdir(parents=True)
        return made

    def add(self, span: int, parent: int | None, *, shares: tuple[str, ...] = (), **more: Any) -> int:
        """Registers a version of a run; what it shares has the same place as its parent's."""
        made = self.execute()
        uris = {name: str(made[path]) for name, path in OUTPUTS.items()}
        for name in shares:
            shutil.rmtree(uris[name])
            uris[name] = self.made[parent or 0][name]
        model = Path(uris["model"], "Format-Serving")
        model.mkdir(exist_ok=True)
        (model / "saved_model.pb").write_text(f"model of span {span}")
        decision, verdict = self.shop._record((span,), parent, more.get("blessed", True), 0.9)
        record = {"decision": decision, "verdict": verdict, "uris": uris}
        Path(uris["record"], "record.json").write_text(json.dumps(record))
        given = {
            "blessed": True,
            "uris": uris,
            "record": summarize(decision, verdict, [span]),
            "created": 0.0,
        }
        given |= {
            "number": 0,
            "key": f"{uris['model']} {uris['buffer']}",
            "spans": (span,),
            "watermark": span,
        }
        number = self.registry.register(Version(**{**given, "parent": parent, **more}), str(model), {})
        self.made[number] = uris
        return number

    def there(self, number: int) -> set[str]:
        """The artifacts of a version that are there."""
        uris = self.registry.get(number).uris
        whole = {name for name, uri in uris.items() if Path(uri, "content").exists()}
        assert whole == {name for name, uri in uris.items() if Path(uri).exists()}
        return whole

    def left(self) -> set[str]:
        """What there is of stages, below the root."""
        return {str(f.relative_to(self.root)) for run in executions(self.root) for f in run.folders}

    def gone(self) -> dict[int, list[str]]:
        """Version -> what the registry says is removed of it."""
        return {v.number: v.collected["gone"] for v in self.registry.versions() if v.collected.get("done")}


EVERYTHING = set(OUTPUTS)
REST = sorted(EVERYTHING - {"record"})


@pytest.fixture
def runs(shop: Any) -> Runs:
    """1 <- 2 <- 3 <- 4, which is served; 4 has the transform graph of 3. And 5, which the gate rejected."""
    runs = Runs(shop)
    for number in range(1, 5):
        shares = ("transform_graph",) if number == 4 else ()
        promote(shop.deployment, runs.add(number, number - 1 or None, shares=shares))
    runs.add(5, 4, blessed=False)
    return runs


@pytest.fixture
def one(shop: Any) -> Runs:
    """Version 1, which is served, and a killed run before it."""
    runs = Runs(shop)
    runs.execute(register=False)
    promote(shop.deployment, runs.add(1, None))
    return runs


def served(runs: Runs) -> list[int]:
    return sorted(int(folder.name) for folder in runs.shop.deployment.base_path.iterdir())


# What is kept, on its own.


def test_what_is_kept(tmp_path: Path) -> None:
    parents = {1: None, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 5, 8: 5}
    versions = []
    for number, parent in parents.items():
        uris = {name: str(tmp_path / str(number)) for name in OUTPUTS}
        (tmp_path / str(number)).mkdir()
        versions.append(Version(number, "", (), 0, parent, True, uris, {}, 0.0))

    def kept(keep: int, **aliases: int) -> dict[int, str]:
        return to_keep(versions, aliases, keep)

    assert kept(1) == {8: "newest"}
    assert kept(1, champion=5) == {4: "before the champion", 5: "champion", 8: "newest"}
    assert kept(2, champion=5) == {
        3: "before the champion",
        4: "before the champion",
        5: "champion",
        7: "newest",
        8: "newest",
    }
    assert kept(1, shadow=2, challenger=7, champion=5) == {
        1: "before the shadow",
        2: "shadow",
        4: "before the champion",
        5: "champion",
        7: "challenger",
        8: "newest",
    }
    # One that is not whole is no place to go back to.
    (tmp_path / "4").rmdir()
    (tmp_path / "8").rmdir()
    assert kept(1, champion=5) == {3: "before the champion", 5: "champion", 7: "newest"}


def test_who_made_an_artifact(tmp_path: Path) -> None:
    root = tmp_path / "artifacts"
    assert maker(root, f"{root}/train/model/8") == ("train", 8)
    assert maker(root, f"{root}/train/model/8/0") == ("train", 8)
    for elsewhere in (
        f"{tmp_path}/other/train/model/8",
        f"{root}/train",
        f"{root}/train/model/x",
        "s3://b/1",
    ):
        assert maker(root, elsewhere) is None
    assert list(executions(root)) == [] and size([root]) == 0


def test_bytes_are_readable() -> None:
    told = {0: "0 B", 999: "999 B", 1500: "1.5 kB", 2_500_000: "2.5 MB", 3 * 10**15: "3000.0 TB"}
    assert {count: _readable(count) for count in told} == told


# Collecting.


def test_old_versions_lose_their_files_and_keep_their_records(runs: Runs) -> None:
    collected = collect(runs.shop.deployment, 1, dry_run=False)
    assert collected.kept == {3: "before the champion", 4: "champion", 5: "newest"}
    assert [runs.there(number) for number in (3, 4, 5)] == [EVERYTHING] * 3
    assert [runs.there(number) for number in (1, 2)] == [{"record"}] * 2
    assert runs.gone() == {1: REST, 2: REST} and runs.registry.champion().number == 4
    assert [runs.registry.copied_bytes(n) > 0 for n in range(1, 6)] == [False, False, True, True, True]
    assert served(runs) == [3, 4]
    # Of runs that are kept, TensorBoard's logs stay; examples that were learned go, of all of them.
    assert {left.split("/")[2] for left in runs.left() if left.startswith("train/model_run")} == {
        runs.made[number]["model"].rsplit("/", 1)[1] for number in (3, 4, 5)
    }
    assert not any(left.startswith("ingest/") for left in runs.left())
    assert not (runs.root / ".gc").exists()


def test_what_is_shared_stays_until_the_last_one_goes(runs: Runs) -> None:
    runs.add(6, 4, shares=("model", "transform_graph", "statistics"), kind="forget", blessed=True)
    promote(runs.shop.deployment, 6)
    for number, gone in ((7, ["buffer"]), (8, ["buffer", "model", "transform_graph"])):
        promote(runs.shop.deployment, runs.add(number, number - 1))
        collect(runs.shop.deployment, 1, dry_run=False)
        assert set(gone) <= set(runs.gone()[4])
        if number == 7:  # version 6, before the champion, has them of version 4, and that of version 3
            assert {"model", "transform_graph", "statistics"} <= runs.there(4) & runs.there(6)
    assert runs.there(3) == runs.there(4) == runs.there(6) == {"record"}


def test_challenger_and_shadow_and_what_is_before_them_stay(runs: Runs) -> None:
    for number in (6, 7, 8, 9):
        runs.add(number, 4)
    runs.registry.move(CHALLENGER, 6, "blessed")
    runs.registry.move(SHADOW, 2, "from scratch")
    collected = collect(runs.shop.deployment, 1, dry_run=False)
    assert collected.kept == {
        1: "before the shadow",
        2: "shadow",
        3: "before the champion",
        4: "champion",
        6: "challenger",
        9: "newest",
    }
    assert sorted(runs.gone()) == [5, 7, 8]


def test_what_was_made_after_the_newest_version_stays(runs: Runs) -> None:
    killed = runs.execute(register=False)
    collect(runs.shop.deployment, 1, dry_run=False)
    assert all(folder.exists() for folder in killed.values())
    runs.add(6, 4)
    collect(runs.shop.deployment, 1, dry_run=False)
    assert not any(folder.exists() for folder in killed.values())


def test_a_dry_run_tells_the_same_and_changes_nothing(runs: Runs, retrain: Retrain) -> None:
    before = runs.left(), runs.registry.versions(), served(runs)
    with locked(runs.shop.state):  # it waits for nobody
        (dry,) = [json.loads(retrain("gc", runs.shop.config, "--keep", 1, "--dry-run", "--json").out)]
    assert (runs.left(), runs.registry.versions(), served(runs)) == before
    copy, saved = runs.registry.copied_bytes(1), len("model of span 1")
    # Eight artifacts and two beside them, of which the serving folder has no copy any more.
    assert copy == saved and dry["collected"]["1"] == 10 * 100 + saved + copy
    assert dry["collected"]["2"] == 10 * 100 + 2 * saved + copy
    assert dry["dry_run"] and dry["kept"] == {"3": "before the champion", "4": "champion", "5": "newest"}
    (done,) = [json.loads(retrain("gc", runs.shop.config, "--keep", 1, "--json").out)]
    assert done == {**dry, "dry_run": False} and runs.gone()
    text = retrain("gc", runs.shop.config, "--keep", 1).out
    assert text == "nothing to remove; kept: version 3 (before the champion), 4 (champion), 5 (newest)\n"


def test_what_is_told(runs: Runs, retrain: Retrain, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    said = retrain("gc", runs.shop.config, "--keep", 1, "--dry-run").out
    assert "version 1" in said and "what no version refers to" in said and " would be removed; kept: " in said
    assert " removed; kept: version 3 (before" in retrain("gc", runs.shop.config, "--keep", 1).out
    history = retrain("history", runs.shop.config).out
    assert "without files, which `retrain gc` removed: version 1-2" in history
    shown = retrain("show", runs.shop.config, 1).out
    assert "removed on 20" in shown and f"{runs.made[1]['model']} (removed)" in shown
    assert f"{runs.made[1]['record']} (removed)" not in shown and "all 1 checks" not in shown


def test_a_version_without_files_is_no_place_to_go_to(runs: Runs, retrain: Retrain) -> None:
    kept = {name: Path(uri) for name, uri in runs.made[1].items() if name in ("model", "buffer")}
    backup = runs.shop.folder / "backup"
    for name, folder in kept.items():
        shutil.copytree(folder, backup / name)
    collect(runs.shop.deployment, 1, dry_run=False)
    for args in (["promote", 1], ["rollback", 1, "--reason", "x"]):
        result = retrain(*args, runs.shop.config)
        assert (
            result.code == 1 and "version 1 has no files any more: `retrain gc` removed them on" in result.err
        )
        assert f"model ({kept['model']})" in result.err and "from a backup" in result.err
    assert runs.registry.champion().number == 4 and not runs.registry.get(4).rolled_back

    for name in ("transform_graph", "statistics"):
        Path(runs.made[1][name]).mkdir()
    for name, folder in kept.items():
        shutil.copytree(backup / name, folder)
    assert retrain("promote", 1, runs.shop.config).code == 0
    assert runs.registry.champion().number == 1 and runs.registry.get(1).collected == {}
    collect(runs.shop.deployment, 1, dry_run=False)
    assert kept["model"].exists()


@pytest.mark.parametrize(
    ("owner", "name", "times"),
    [
        (os, "rename", 2),
        (shutil, "rmtree", 1),
        (gc, "prune", 1),
        (Registry, "remove_copy", 2),
        (gc, "_mark", 1),
        (gc, "_mark", 2),
    ],
)
def test_killed_anywhere_the_same_command_finishes(
    runs: Runs, monkeypatch: Any, owner: Any, name: str, times: int
) -> None:
    log = runs.shop.state / "logs" / "old.log"
    log.parent.mkdir(exist_ok=True)
    log.touch()
    os.utime(log, (1, 1))
    expected = collect(runs.shop.deployment, 1, dry_run=True)
    real = getattr(owner, name)
    calls = []

    def killed(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == times:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, killed)
    with pytest.raises(KeyboardInterrupt):
        collect(runs.shop.deployment, 1, dry_run=False)
    monkeypatch.undo()
    for number in range(1, 6):
        runs.there(number)  # whole or not there
    assert [runs.there(number) for number in (3, 4, 5)] == [EVERYTHING] * 3

    collected = collect(runs.shop.deployment, 1, dry_run=False)
    assert collected.kept == expected.kept
    assert runs.gone() == {1: REST, 2: REST} and served(runs) == [3, 4]
    assert [runs.registry.copied_bytes(n) > 0 for n in range(1, 6)] == [False, False, True, True, True]
    assert not (runs.root / ".gc").exists() and not log.exists()
    assert collect(runs.shop.deployment, 1, dry_run=False).versions == {}


def test_logs_and_interrupted_trainings_that_are_older_than_what_is_kept(one: Runs) -> None:
    logs, training = one.shop.state / "logs", one.shop.state / "training"
    now = time.time()
    for path, age in (
        (logs / "1.log", 999),
        (logs / "2.log", -999),
        (training / "a", 999),
        (training / "b", -9),
    ):
        (path.parent if path.suffix else path).mkdir(parents=True, exist_ok=True)
        if path.suffix:
            path.write_text("12345")
        os.utime(path, (now - age, now - age))
    assert collect(one.shop.deployment, 1, dry_run=False).remains == 5
    assert [path.name for path in [*logs.iterdir(), *training.iterdir()]] == ["2.log", "b"]


def test_a_lost_registry_removes_nothing(one: Runs) -> None:
    config = one.shop.config
    config.write_text(config.read_text().replace("name: test", "name: another"))
    before = one.left()
    collected = collect(load(config), 1, dry_run=False)
    assert (collected.total, collected.kept, one.left()) == (0, {}, before)


def test_files_that_lie_elsewhere_stop_it(runs: Runs) -> None:
    before = runs.left()
    runs.registry.tag(4, **{"uri.buffer": "/mnt/other/artifacts/replay/buffer/4"})
    with pytest.raises(
        RetrainError, match=r"gc: version 4 has its buffer in /mnt/other.*nothing was removed"
    ):
        collect(runs.shop.deployment, 1, dry_run=False)
    assert runs.left() == before and not runs.gone()


def test_it_waits_for_no_other_command(runs: Runs) -> None:
    with locked(runs.shop.state), pytest.raises(RetrainError, match="another command is changing"):
        collect(runs.shop.deployment, 1, dry_run=False)


def test_nothing_was_ever_made(fresh: Any, retrain: Retrain) -> None:
    assert retrain("gc", fresh.config, "--dry-run").out == "nothing to remove; kept: version none\n"
    assert not fresh.state.exists()


def test_after_a_rollback_what_was_left_is_old(runs: Runs) -> None:
    rollback(runs.shop.deployment, 2, "bad")
    collected = collect(runs.shop.deployment, 1, dry_run=False)
    assert collected.kept == {1: "before the champion", 2: "champion", 5: "newest"}
    assert sorted(runs.gone()) == [3, 4]


# TFX's cache, which remembers what was removed.


def test_the_cache_gives_nothing_that_was_removed(shop: Any) -> None:
    from components.replay.component import empty_meta, write_meta
    from components.replay.logic import EVERYTHING as DRAWN
    from components.replay.logic import Scheme
    from pipeline.forget import forget
    from tests.pipeline.test_forget import SCHEMA, words, write_split

    runs = Runs(shop)
    promote(shop.deployment, runs.add(1, None))
    uris = runs.made[1]
    write_split(Path(uris["buffer"], "Split-train"), (1,), 12)
    write_split(Path(uris["buffer"], "Split-eval"), (1,), 6)
    meta = {"train": {"0": DRAWN}, "eval": {"1": DRAWN}, "spans": {"1": 12}}
    write_meta(uris["buffer"], empty_meta(Scheme("reservoir"), 0) | meta)
    Path(uris["schema"], "schema.pbtxt").write_text(SCHEMA)
    recorded = json.loads(Path(uris["record"], "record.json").read_text())
    Path(uris["decision"], "decision.json").write_text(json.dumps(recorded["decision"]))
    Path(uris["blessing"], "verdict.json").write_text(json.dumps(recorded["verdict"]))

    assert forget(shop.deployment, "word = 'ann'", "they asked").version == 2
    rollback(shop.deployment, 1, "on second thoughts")
    # From the cache: the same version, whose buffer is there.
    assert forget(shop.deployment, "word = 'ann'", "they asked").version == 2
    buffer = Path(runs.registry.get(2).uris["buffer"])
    rollback(shop.deployment, 1, "on second thoughts")
    runs.last = 1000
    runs.add(3, 1)
    collect(shop.deployment, 1, dry_run=False)
    assert not buffer.exists() and list(runs.gone()) == [2]
    # Made anew: another version.
    assert forget(shop.deployment, "word = 'ann'", "they asked").version == 4
    made = runs.registry.get(4)
    assert made.uris["buffer"] != str(buffer) and {word for _, word in words(made)} == {"bob", None}
    assert runs.registry.champion().number == 4
    assert made.uris["model"] == uris["model"]
