"""The command on a registry with versions: what it tells, changes and refuses."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.lock import locked
from pipeline.spans.pattern import spans_text

COMMAND = Path(sys.executable).parent / "retrain"
FRAMEWORKS = [
    "tensorflow",
    "tfx",
    "apache_beam",
    "tensorflow_transform",
    "tensorflow_model_analysis",
    "keras",
]
SLOW = [
    *FRAMEWORKS,
    "mlflow",
    "pandas",
    "numpy",
    "pyarrow",
    "pydantic",
    "yaml",
    "google.protobuf",
    "sqlalchemy",
]

pytestmark = pytest.mark.xdist_group("pipeline-registry")


Retrain = Callable[..., Any]


def lines(text: str) -> list[dict[str, Any]]:
    """JSON lines; NaN and Infinity, which are no JSON, are refused."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in {text}")

    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def modules_after(code: str, *args: object) -> set[str]:
    """The modules that a process of its own has imported after some code."""
    script = f"import sys\nsys.argv = ['retrain', *sys.argv[1:]]\n{code}\nprint('MODULES', *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, args)], capture_output=True, text=True, check=True
    )
    return set(done.stdout.rpartition("MODULES ")[2].split())


def with_versions(shop: Any) -> Any:
    """Versions 1 <- 2 <- 4; 3 was rejected by the gate; 4 is served, and spans 6 and 7 wait."""
    shop.add(1, serve=True)
    shop.add(2, 3, parent=1, serve=True)
    shop.add(4, parent=2, blessed=False, auc=0.81)
    shop.add(5, parent=2, serve=True)
    shop.span(*range(1, 8))
    return shop


@pytest.fixture
def line(shop: Any) -> Any:
    return with_versions(shop)


@pytest.fixture(scope="module")
def unchanged(new_shop: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same, for tests that change nothing of it."""
    return with_versions(new_shop(tmp_path_factory.mktemp("unchanged")))


# Help, and how fast it can be.


def test_help_imports_next_to_nothing() -> None:
    run = (
        "from pipeline.cli import main\ntry:\n    main()\nexcept SystemExit as end:\n    assert not end.code"
    )
    assert not modules_after(run, "--help") & set(SLOW)
    assert modules_after(run, "run", "--help") & set(SLOW) <= {"pydantic"}  # typer's own


def test_help_names_every_command(retrain: Retrain) -> None:
    result = retrain("--help")
    assert result.code == 0
    for command in (
        "split",
        "run",
        "check",
        "status",
        "history",
        "show",
        "promote",
        "rollback",
        "serve",
        "predict",
    ):
        assert re.search(rf"\b{command} +\w", result.out), command


def test_what_only_looks_imports_no_framework(unchanged: Any) -> None:
    code = (
        "from pipeline import views\nfrom pipeline.config import load\nfrom pathlib import Path\n"
        "deployment = load(Path(sys.argv[1]))\n"
        "for view in (views.status, views.history, lambda d: views.show(d, 2)): view(deployment)\n"
        "import pipeline.cli"
    )
    found = modules_after(code, unchanged.config)
    assert "mlflow" in found and not found & set(FRAMEWORKS)


# Status.


def test_status_of_a_fresh_deployment_makes_nothing(fresh: Any, retrain: Retrain) -> None:
    fresh.span(1, 2, 10)
    before = tree(fresh.folder)
    (status,) = lines(retrain("status", fresh.config, "--json").out)
    assert (status["served"], status["versions"], status["pending"]) == (None, 0, [1, 2, 10])
    assert (status["set_aside"], status["last_log"], status["watermark"]) == ({}, None, None)
    result = retrain("status", fresh.config)
    assert (result.code, result.err) == (0, "")
    assert "nothing yet" in result.out and "spans 1, 2, 10" in result.out
    assert retrain("history", fresh.config).out == "no version yet\n"
    assert retrain("history", fresh.config, "--json").out == ""
    result = retrain("show", fresh.config, 1)
    assert (result.code, result.out) == (1, "") and "versions of shop: none yet" in result.err
    assert tree(fresh.folder) == before


def test_status_tells_what_is_served_and_what_waits(unchanged: Any, retrain: Retrain) -> None:
    logs = unchanged.state / "logs"
    logs.mkdir()
    for name, age in (("2-run.log", 20), ("3-check.log", 10), ("1-serve.log", 30)):
        (logs / name).touch()
        os.utime(logs / name, (time.time() - age, time.time() - age))
    (status,) = lines(retrain("status", unchanged.config, "--json").out)
    assert (status["name"], status["served"], status["watermark"], status["versions"]) == ("shop", 4, 5, 4)
    assert status["pending"] == [6, 7] and status["problem"] is None
    assert status["since"] == unchanged.registry.champion().promoted[-1]
    assert status["last_log"] == str(logs / "3-check.log")
    text = retrain("status", unchanged.config).out
    for said in ("version 4, since 20", "up to span 5", "spans 6-7", str(unchanged.state)):
        assert said in text


def test_status_tells_what_is_set_aside_and_why(line: Any, retrain: Retrain) -> None:
    retrain("promote", line.config, 1)
    (status,) = lines(retrain("status", line.config, "--json").out)
    assert status["pending"] == [2, 3, 5, 6, 7]
    why = "version 3 was rejected by the gate: auc on span=4 went from 0.880 to 0.810"
    assert status["set_aside"] == {"4": why}
    assert f"span 4: {why}" in " ".join(retrain("status", line.config).out.split())


def test_status_without_the_data_still_tells_what_is_served(
    unchanged: Any, retrain: Retrain, tmp_path: Path
) -> None:
    result = retrain("status", unchanged.config, "--data", tmp_path / "gone", "--json")
    (status,) = lines(result.out)
    assert (result.code, status["served"], status["pending"]) == (0, 4, [])
    assert "no folder" in status["problem"]
    assert "no folder" in retrain("status", unchanged.config, "--data", tmp_path / "gone").out


# History.


def test_history_as_json_is_one_version_a_line(unchanged: Any, retrain: Retrain) -> None:
    versions = lines(retrain("history", unchanged.config, "--json").out)
    assert [(v["number"], v["spans"], v["parent"], v["blessed"], v["state"]) for v in versions] == [
        (1, [1], None, True, "blessed"),
        (2, [2, 3], 1, True, "blessed"),
        (3, [4], 2, False, "rejected"),
        (4, [5], 2, True, "served"),
    ]
    assert versions[2]["record"]["gate"]["reasons"] == ["auc on span=4 went from 0.880 to 0.810"]
    assert versions[1]["record"]["metrics"]["candidate"]["span=3"]["auc"] == 0.9
    assert Path(versions[0]["uris"]["model"]).is_dir()


@pytest.mark.parametrize("columns", [80, 200])
def test_history_is_a_table_that_fits_the_terminal(
    line: Any, retrain: Retrain, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    retrain("rollback", line.config, "--reason", "bad tips")
    monkeypatch.setenv("COLUMNS", str(columns))
    title, header, *rows = retrain("history", line.config).out.splitlines()
    assert title == "versions of shop"
    assert re.fullmatch(r"ver +spans +from +state +auc, new span +worst past +bwt +made *", header)
    assert all(len(row) <= columns for row in [header, *rows[:4]])
    made, bwt = r"20\d\d-\d\d-\d\d *", r"-0\.002"
    for row, expected in zip(
        rows,
        [
            rf"1 +1 +- +blessed +0\.900 +- +- +{made}",
            rf"2 +2-3 +1 +served +0\.880 -> 0\.900 +1: -0\.015 +{bwt} +{made}",
            rf"3 +4 +2 +rejected +0\.880 -> 0\.810 +1: -0\.015 +{bwt} +{made}",
            rf"4 +5 +2 +rolled back +0\.880 -> 0\.900 +1: -0\.015 +{bwt} +{made}",
            r" *",
            r"version 3: rejected: auc on span=4 went from 0\.880 to 0\.810",
            r"version 4: was rolled back on [-0-9]+ [:0-9]+: bad tips",
        ],
        strict=True,
    ):
        assert re.fullmatch(expected, row), row


def test_history_and_show_of_shadows_and_versions_without_spans(line: Any, retrain: Retrain) -> None:
    served = line.registry.get(4)
    model = str(Path(served.uris["model"], "Format-Serving"))
    forgets = replace(served, key="forgets", kind="forget", spans=(), parent=4)
    shadow = replace(served, key="shadow", kind="shadow", spans=(1, 2, 3, 5), parent=4, blessed=False)
    for version in (forgets, shadow):
        line.made.append(line.registry.register(version, model, {}))
    line.registry.make_shadow(6)
    result = retrain("history", line.config)
    assert re.search(r"^5 +- +4 +blessed +- ", result.out, re.M)
    assert re.search(r"^6 +1, 2, 3, 5 +4 +shadow +0\.880 -> 0\.900", result.out, re.M)
    told = "shadow: version 6, from scratch on span 1, 2, 3, 5, against version 4: auc 0.9 against 0.88"
    assert told in " ".join(result.out.split())
    assert lines(retrain("history", line.config, "--json").out)[5]["debt"]["champion"] == 4
    (status,) = lines(retrain("status", line.config, "--json").out)
    assert (status["served"], status["shadow"]) == (4, 6) and 5 not in status["set_aside"]
    assert "version 6, held against version 4" in retrain("status", line.config).out
    assert retrain("show", line.config, 5).code == retrain("show", line.config, 6).code == 0


def test_a_version_that_is_served_again_is_no_longer_called_rolled_back(line: Any, retrain: Retrain) -> None:
    retrain("rollback", line.config, 1, "--reason", "bad tips")
    assert [v["state"] for v in lines(retrain("history", line.config, "--json").out)] == [
        "served",
        "rolled back",
        "rejected",
        "rolled back",
    ]
    # As a run with --retry does it: only the alias moves.
    line.registry.make_champion(4)
    assert [v["state"] for v in lines(retrain("history", line.config, "--json").out)] == [
        "blessed",
        "blessed",
        "rejected",
        "served",
    ]
    assert "rolled back" not in retrain("history", line.config).out


def test_a_metric_without_a_value_is_null(shop: Any, retrain: Retrain) -> None:
    shop.add(1, auc=math.nan, blessed=False)
    (version,) = lines(retrain("history", shop.config, "--json").out)
    assert version["record"]["metrics"]["candidate"]["overall"]["auc"] is None
    assert lines(retrain("show", shop.config, 1, "--json").out)[0]["number"] == 1
    assert retrain("history", shop.config).code == retrain("show", shop.config, 1).code == 0


# Show.


def test_show_tells_everything_of_a_version(
    unchanged: Any, retrain: Retrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data,) = lines(retrain("show", unchanged.config, 3, "--json").out)
    assert (data["number"], data["state"], data["parent"], data["spans"]) == (3, "rejected", 2, [4])
    assert data["record"]["verdict"]["reasons"] == ["auc on span=4 went from 0.880 to 0.810"]
    monkeypatch.setenv("COLUMNS", "80")
    text = retrain("show", 3, unchanged.config).out
    assert all(len(row) <= 80 for row in text.splitlines())
    assert re.search(r"^version +3 of shop: rejected", text, re.M)
    assert re.search(r"^promoted +never", text, re.M)
    assert re.search(r"^gate +auc on span=4 went from 0\.880 to 0\.810", text, re.M)
    assert re.search(r"^rows +train 80, eval 20, quarantine 1", text, re.M)
    assert re.search(r"^auc +span=4 +0\.880 +0\.810 +max_drop 0\.03 +300 +failed", text, re.M)
    assert re.search(r"^auc +span=4 +0\.810 +min_value 0\.6 +300 +passed", text, re.M)
    assert re.search(r"^word +linf +0\.250 +0\.1 +yes", text, re.M)
    assert re.search(r"^x +not comparable +\? +0\.1 *$", text, re.M)
    kept = r"acc 0\.9, bwt -0\.002, forgetting 0\.015 \(worst: span 1, 0\.015\)"
    assert re.search(rf"^auc kept +{kept}", text, re.M)


def test_show_tells_the_matrix_of_the_versions_line(unchanged: Any, retrain: Retrain) -> None:
    (data,) = lines(retrain("show", unchanged.config, 4, "--json").out)
    rows = {"1": {"1": 0.895}, "2": {"1": 0.895, "3": 0.9}, "4": {"1": 0.895, "5": 0.9}}
    assert data["matrix"] == {"auc": rows}  # version 3 was rejected: it is no part of the line
    text = retrain("show", unchanged.config, 4).out
    title = text.index("auc on each span, after each version")
    assert [line.split() for line in text[title:].splitlines()[1:5]] == [
        ["ver", "1", "3", "5"],
        ["1", "0.895"],
        ["2", "0.895", "0.900"],
        ["4", "0.895", "0.900"],
    ]


def test_show_makes_do_with_the_registry_where_the_record_is_gone(line: Any, retrain: Retrain) -> None:
    (Path(line.registry.get(2).uris["record"]) / "record.json").unlink()
    result = retrain("show", line.config, 2)
    assert result.code == 0 and "all 3 checks passed" in result.out
    (data,) = lines(retrain("show", line.config, 2, "--json").out)
    assert data["record"]["decision"]["rows"] == {"train": 80, "eval": 20, "quarantine": 1}


# Promote and rollback.


def test_promote(line: Any, retrain: Retrain) -> None:
    result = retrain("promote", line.config, 2)
    assert (result.code, result.err) == (0, "")
    assert result.out == "version 2 is served; the next run starts from it, after span 3\n"
    assert line.registry.champion().number == 2
    assert lines(retrain("promote", 4, line.config, "--json").out) == [{"served": 4, "watermark": 5}]
    assert line.registry.champion().number == 4


def test_rollback(line: Any, retrain: Retrain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    result = retrain("rollback", line.config, "--reason", "bad [red]tips[/red] :car: [/]")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("version 2 is served in place of 4; the next run starts from it. ")
    assert "set aside: span 5 " in result.out
    assert line.registry.champion().number == 2
    # What a person wrote is shown as it was written.
    for command in ("history", "status"):
        assert ": bad [red]tips[/red] :car: [/]" in retrain(command, line.config).out
    (told,) = lines(retrain("rollback", line.config, "1", "--reason", "more", "--json").out)
    assert told == {
        "served": 1,
        "left": 2,
        "reason": "more",
        "set_aside": [2, 3],
        "to_learn_again": [],
        "challenger_left": None,
    }


MISTAKES: list[tuple[list[Any], str]] = [
    (["show"], "which version? Name its number"),
    (["promote"], "which version? Name its number"),
    (["show", 99], "version 99 is not in the registry"),
    (["promote", 99], "version 99 is not in the registry"),
    (["rollback", 99, "--reason", "x"], "version 99 is not in the registry"),
    (["rollback", 4, "--reason", "x"], "version 4 is the one that is served"),
    (["rollback"], "say why, with --reason TEXT"),
    (["rollback", "--reason", "  "], "say why, with --reason TEXT"),
    (["show", 1, 2], "expected at most one CONFIG and one VERSION"),
    (["status", 3], "got 3, expected at most a CONFIG"),
    (["history", 3], "got 3, expected at most a CONFIG"),
    (["show", "other.yaml", 1], "expected at most one CONFIG and one VERSION"),
]


def test_a_mistake_is_a_message_and_changes_nothing(unchanged: Any, retrain: Retrain) -> None:
    before = unchanged.registry.versions()
    for args, said in MISTAKES:
        result = retrain(*args, unchanged.config)
        assert (result.code, result.out) == (1, ""), args
        assert result.err.startswith("error: ") and said in result.err and "Traceback" not in result.err
    assert unchanged.registry.versions() == before and unchanged.registry.champion().number == 4


def test_a_command_that_changes_waits_for_no_other(unchanged: Any, retrain: Retrain) -> None:
    with locked(unchanged.state):
        for args in (["promote", 2], ["rollback", "--reason", "x"]):
            result = retrain(*args, unchanged.config)
            assert result.code == 1
            assert f"another command is changing this deployment (process {os.getpid()}," in result.err
        for args in (["status"], ["history"], ["show", 2]):
            assert retrain(*args, unchanged.config).code == 0
    assert unchanged.registry.champion().number == 4


def test_an_unknown_option_is_a_usage_error(retrain: Retrain) -> None:
    result = retrain("status", "--jsn")
    assert (result.code, result.out) == (2, "") and "--json" in result.err


# Which deployment.


def test_the_configuration_is_found(
    fresh: Any, retrain: Retrain, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def name(*args: object) -> str:
        result = retrain("status", "--json", *args)
        return lines(result.out)[0]["name"] if result.code == 0 else result.err

    monkeypatch.delenv("RETRAIN_CONFIG", raising=False)
    here = tmp_path / "here"
    (here / "configs").mkdir(parents=True)
    monkeypatch.chdir(here)
    assert (
        "which deployment? there is no configs/*.yaml here; name its YAML file, or set RETRAIN_CONFIG"
        in name()
    )

    text = fresh.config.read_text().replace("schema: schema.pbtxt", f"schema: {fresh.folder}/schema.pbtxt")
    (here / "configs" / "only.yaml").write_text(text.replace("name: shop", "name: only"))
    assert name() == "only"

    (here / "configs" / "second.yaml").write_text(text.replace("name: shop", "name: second"))
    assert (
        "which deployment? configs/ holds configs/only.yaml, configs/second.yaml; name its YAML file"
        in name()
    )
    assert name("configs/second.yaml") == "second"

    monkeypatch.setenv("RETRAIN_CONFIG", str(fresh.config))
    assert name() == "shop"
    assert name("configs/only.yaml") == "only"
    monkeypatch.setenv("RETRAIN_CONFIG", "gone.yaml")
    assert "no such file: gone.yaml" in name()
    monkeypatch.setenv("RETRAIN_CONFIG", "")
    assert "which deployment?" in name()


def test_state_and_data_can_be_named(unchanged: Any, retrain: Retrain, tmp_path: Path) -> None:
    (tmp_path / "other" / "9").mkdir(parents=True)
    options = ["--state", tmp_path / "elsewhere", "--data", tmp_path / "other", "--json"]
    (status,) = lines(retrain("status", unchanged.config, *options).out)
    assert status["state"] == str(tmp_path / "elsewhere") and status["pending"] == [9]


# The command as it is installed.


def test_the_installed_command(line: Any) -> None:
    def run(*args: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [COMMAND, *map(str, args)], capture_output=True, text=True, cwd=line.folder, check=False
        )

    promoted = run("promote", line.config, 2, "--json")
    assert (promoted.returncode, lines(promoted.stdout)) == (0, [{"served": 2, "watermark": 3}])
    assert line.registry.champion().number == 2
    assert (line.deployment.base_path / "2" / "saved_model.pb").read_text() == "model 2"

    missing = run("promote", line.config, 99)
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr.startswith("error: version 99 is not in the registry")
    assert len(missing.stderr.splitlines()) == 1

    line.config.write_text("name: [\n")
    broken = run("status", line.config)
    assert (broken.returncode, broken.stdout) == (1, "")
    assert broken.stderr.startswith(f"error: {line.config}, line 2, column 1: not valid YAML")
    assert "Traceback" not in broken.stderr


@pytest.mark.parametrize(
    ("spans", "text"),
    [((3,), "3"), ((3, 4), "3-4"), ((3, 4, 5), "3-5"), ((3, 5), "3, 5"), ((1, 2, 4), "1, 2, 4"), ((), "")],
)
def test_spans_are_shortened(spans: tuple[int, ...], text: str) -> None:
    assert spans_text(spans) == text
