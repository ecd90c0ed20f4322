"""Promotion, rollback, and the serving folder following the alias, on a real registry."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from components.errors import RetrainError
from components.promote.registry import Registry
from pipeline.champion import promote, saved_model, sync_serving
from pipeline.rollback import rollback
from pipeline.spans import plan
from serving.model_config import read_model_config, write_model_config

pytestmark = pytest.mark.xdist_group("pipeline-registry")


def served(shop: Any) -> tuple[int | None, list[int], list[int]]:
    """The alias; the version in models.config; the versions in the serving folder. All whole."""
    deployment = shop.deployment
    champion = shop.registry.champion()
    for folder in deployment.base_path.iterdir():
        assert (folder / "saved_model.pb").read_text() == f"model {folder.name}"
        assert (folder / "variables" / "variables.index").exists()
    (model,) = read_model_config(deployment.model_config_file)
    assert model.name == "shop"
    return (
        champion.number if champion else None,
        list(model.policy.specific or ()),
        sorted(int(folder.name) for folder in deployment.base_path.iterdir()),
    )


def set_aside(shop: Any) -> dict[int, str]:
    return {version.number: version.set_aside for version in shop.registry.versions() if version.set_aside}


@pytest.fixture
def line(shop: Any) -> Any:
    """Versions 1 <- 2 <- 3, of spans 1, 2-3 and 4; 3 is served. And 4, which the gate rejected."""
    for number in (
        shop.add(1),
        shop.add(2, 3, parent=1),
        shop.add(4, parent=2),
    ):
        promote(shop.deployment, number)
    shop.add(5, parent=3, blessed=False)
    return shop


def test_promotion_moves_everything(line: Any) -> None:
    assert served(line) == (3, [3], [1, 2, 3])
    text = line.deployment.model_config_file.read_text()
    assert (
        'base_path: "shop"' in text and "versions: 3" in text
    )  # relative: the folder can be mounted elsewhere
    (model,) = read_model_config(line.deployment.model_config_file)
    assert model.base_path == line.deployment.base_path
    assert [len(version.promoted) for version in line.registry.versions()] == [1, 1, 1, 0]


def test_the_serving_folder_can_be_moved(line: Any, tmp_path: Path) -> None:
    shutil.copytree(line.deployment.serving_path, tmp_path / "mounted")
    (model,) = read_model_config(tmp_path / "mounted" / "models.config")
    assert (model.base_path / "3" / "saved_model.pb").exists()
    assert model.base_path.is_relative_to(tmp_path / "mounted")


def test_rollback_goes_to_the_parent_and_sets_aside_what_only_the_version_left_had_learned(line: Any) -> None:
    back = rollback(line.deployment, None, "bad tips")
    assert (back.left.number, back.served.number, back.spans) == (3, 2, (4,))
    assert served(line) == (2, [2], [1, 2, 3])
    assert list(set_aside(line)) == [3]
    assert set_aside(line)[3].startswith("version 3 was rolled back on ")
    assert set_aside(line)[3].endswith(": bad tips")
    found = plan.pending(
        [1, 2, 3, 4, 5, 6], line.registry.champion(), line.registry.versions(), retry=False, until=None
    )
    assert found.spans == (6,)
    assert list(found.set_aside) == [4, 5]


def test_rollback_to_a_named_version_sets_aside_everything_since(line: Any) -> None:
    back = rollback(line.deployment, 1, "worse by the month")
    assert (back.left.number, back.served.number, back.spans) == (3, 1, (2, 3, 4))
    assert served(line) == (1, [1], [1, 2, 3])
    assert list(set_aside(line)) == [2, 3]


def test_a_second_rollback_goes_on_from_the_first(line: Any) -> None:
    rollback(line.deployment, None, "first")
    back = rollback(line.deployment, None, "second")
    assert (back.left.number, back.served.number, back.spans) == (2, 1, (2, 3))
    assert served(line)[0] == 1
    assert set_aside(line)[2].endswith("second") and set_aside(line)[3].endswith("first")


def test_rollback_to_another_branch_keeps_what_both_have_learned(line: Any) -> None:
    branch = line.add(6, parent=2)
    back = rollback(line.deployment, branch, "the other one")
    assert (back.left.number, back.spans) == (3, (4,))
    assert served(line) == (branch, [branch], [2, 3, branch])
    assert list(set_aside(line)) == [3]


def test_going_forward_again_takes_nothing_for_set_aside(line: Any) -> None:
    rollback(line.deployment, 1, "a mistake")
    back = rollback(line.deployment, 3, "the rollback was the mistake", force=True)
    assert (back.left.number, back.served.number, back.spans) == (1, 3, ())
    assert served(line)[:2] == (3, [3])
    assert set_aside(line) == {}


def test_promotion_of_what_was_rolled_back_takes_the_mark_off_its_whole_line(line: Any) -> None:
    rollback(line.deployment, 1, "a mistake")
    assert list(set_aside(line)) == [2, 3]
    assert promote(line.deployment, 3, force=True).number == 3
    assert set_aside(line) == {}
    assert served(line)[:2] == (3, [3])
    assert len(line.registry.get(3).promoted) == 2


def test_what_the_gate_rejected_can_be_promoted_and_is_learned_from_then_on(line: Any) -> None:
    version = promote(line.deployment, 4, force=True)
    assert (version.number, version.blessed, version.watermark) == (4, False, 5)
    assert served(line)[:2] == (4, [4])
    found = plan.pending(
        [1, 5, 6], line.registry.champion(), line.registry.versions(), retry=False, until=None
    )
    assert (found.spans, dict(found.set_aside)) == ((6,), {})


def test_promotion_of_what_is_served_changes_nothing(line: Any) -> None:
    before = line.registry.versions()
    promote(line.deployment, 3)
    assert line.registry.versions() == before
    assert served(line) == (3, [3], [1, 2, 3])


def test_old_versions_leave_the_serving_folder_and_come_back_with_a_rollback(line: Any) -> None:
    for span in (6, 7):
        promote(line.deployment, line.add(span, parent=line.registry.champion().number))
    assert served(line) == (6, [6], [3, 5, 6])  # 4 was never served; `keep` is 3
    rollback(line.deployment, 1, "far back")
    assert served(line) == (1, [1], [1, 3, 5, 6])
    promote(line.deployment, 6, force=True)
    assert served(line) == (6, [6], [3, 5, 6])


@pytest.mark.parametrize("gone", ["models.config", "shop/2", "shop", "."])
def test_the_serving_folder_is_mended_after_a_crash(line: Any, gone: str) -> None:
    # Killed between the move of the alias and the rest; and then someone removed a part of the folder.
    line.registry.make_champion(2)
    path = line.deployment.serving_path / gone
    if path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path)
    sync_serving(line.deployment, line.registry.champion())
    assert served(line)[:2] == (2, [2])
    once = line.deployment.model_config_file.stat().st_mtime_ns
    sync_serving(line.deployment, line.registry.champion())
    assert line.deployment.model_config_file.stat().st_mtime_ns == once  # the server reloads nothing


def test_a_crash_before_the_alias_moved_leaves_the_champion_served(line: Any) -> None:
    # A rollback that was killed after it had set spans aside: nothing is learned twice.
    line.registry.tag(3, set_aside="version 3 was rolled back on some day: x")
    sync_serving(line.deployment, line.registry.champion())
    assert served(line)[:2] == (3, [3])
    found = plan.pending(
        range(1, 7), line.registry.champion(), line.registry.versions(), retry=False, until=None
    )
    assert found.spans == (6,) and list(found.set_aside) == [5]
    rollback(line.deployment, None, "once more")
    assert served(line)[:2] == (2, [2])


def test_another_model_of_the_server_is_left_alone(line: Any) -> None:
    file = line.deployment.model_config_file
    write_model_config(file, "another", "/models/another", [7])
    promote(line.deployment, 2)
    assert {model.name: model.policy.specific for model in read_model_config(file)} == {
        "another": (7,),
        "shop": (2,),
    }


def test_nothing_is_served_yet(fresh: Any) -> None:
    sync_serving(fresh.deployment, fresh.registry.champion())
    assert not fresh.state.exists()
    with pytest.raises(RetrainError, match="no version is served yet; `retrain run` makes the first one"):
        rollback(fresh.deployment, None, "x")
    with pytest.raises(
        RetrainError, match=r"version 1 is not in the registry .* \(versions of shop: none yet\)"
    ):
        promote(fresh.deployment, 1)
    assert not fresh.state.exists()


def test_there_is_nothing_to_go_back_to(shop: Any) -> None:
    promote(shop.deployment, shop.add(1))
    with pytest.raises(
        RetrainError, match="version 1 was a cold start and has no parent; name the version to serve"
    ):
        rollback(shop.deployment, None, "x")
    with pytest.raises(RetrainError, match="version 1 is the one that is served; name another"):
        rollback(shop.deployment, 1, "x")
    with pytest.raises(
        RetrainError, match=r"version 9 is not in the registry .*registry.sqlite \(versions of .*: 1\)"
    ):
        rollback(shop.deployment, 9, "x")
    assert served(shop) == (1, [1], [1])


@pytest.mark.parametrize("command", [lambda d: rollback(d, 1, "x"), lambda d: promote(d, 1)])
def test_a_model_that_is_gone_can_not_be_served_and_nothing_changes(line: Any, command: Any) -> None:
    shutil.rmtree(line.deployment.base_path / "1")
    shutil.rmtree(saved_model(line.registry.get(1)))
    before = line.registry.versions()
    with pytest.raises(
        RetrainError, match=r"push: version 1 has no SavedModel in .*Format-Serving\. Restore"
    ):
        command(line.deployment)
    assert line.registry.versions() == before
    assert served(line) == (3, [3], [2, 3])


def test_a_registry_that_is_no_database_is_named(fresh: Any) -> None:
    fresh.state.mkdir()
    (fresh.state / "registry.sqlite").write_text("no database at all, but long enough to look at\n" * 10)
    with pytest.raises(RetrainError, match=r"registry sqlite:////.*registry\.sqlite: "):
        fresh.registry.champion()


def test_two_deployments_in_one_registry_do_not_meet(line: Any) -> None:
    other = Registry(line.deployment.registry_uri, "another")
    assert other.champion() is None
    assert other.versions() == []
