"""The learning benchmark's numbers: the measures of the literature, the table of several seeds, the page."""

import doctest
import json
from pathlib import Path
from typing import Any

import pytest

from tests.bench.learning import cost, fold, measures, page, problems, report, summary
from tests.bench.learning.problems import PROBLEMS

# Three spans: the first is forgotten half way and comes back a little.
R = {1: {1: 0.9}, 2: {1: 0.5, 2: 0.8}, 3: {1: 0.6, 2: 0.7, 3: 1.0}}


def test_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(measures).attempted and not doctest.testmod(measures).failed


def test_backward_transfer_is_against_the_run_that_learned_the_span() -> None:
    assert measures.bwt(R) == pytest.approx(((0.6 - 0.9) + (0.7 - 0.8)) / 2)


def test_forgetting_is_against_the_best_before_the_last_run() -> None:
    better_late = {1: {1: 0.5}, 2: {1: 0.9, 2: 0.8}, 3: {1: 1.0, 2: 0.8, 3: 1.0}}
    assert measures.forgetting(better_late) == pytest.approx(((0.9 - 1.0) + 0.0) / 2)


def test_one_run_has_an_accuracy_and_no_transfer() -> None:
    joint = {3: {1: 0.9, 2: 0.8, 3: 0.7}}
    assert measures.acc(joint) == pytest.approx(0.8)
    assert measures.bwt(joint) is None and measures.forgetting(joint) is None


def run(after: int, on: dict[int, float], examples: int, **changes: Any) -> dict[str, Any]:
    return {
        "after": after,
        "on": {str(span): value for span, value in on.items()},
        "before": on.get(after, 0.0) - 0.1 if after > 1 else None,
        "ahead": {str(after + 1): {"auc": 0.7, "accuracy": 0.6, "last_class": 0.5, "examples": 10}},
        "examples": examples,
        "seconds": 20.0,
        "train_seconds": 5.0,
        "served": True,
        **changes,
    }


def result(problem: str, method: str, seed: int, runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {"problem": problem, "method": method, "seed": seed, "runs": runs}


@pytest.fixture
def results() -> dict[str, list[dict[str, Any]]]:
    """Two seeds of replay and of from scratch on two spans of the taxi trips."""

    def fold_of(method: str, examples: list[int]) -> list[dict[str, Any]]:
        return [
            result(
                "taxi",
                method,
                seed,
                [
                    run(1, {1: 0.9}, examples[0]),
                    run(2, {1: 0.8 + seed / 10, 2: 0.9}, examples[1]),
                ],
            )
            for seed in (0, 1)
        ]

    return {"replay": fold_of("replay", [100, 20]), "from scratch": fold_of("from scratch", [100, 200])}


def test_table_has_mean_and_deviation_over_the_seeds(results: Any) -> None:
    found = summary.table(PROBLEMS["taxi"], results)["replay"]
    assert found["acc"]["mean"] == pytest.approx((0.85 + 0.9) / 2)
    assert found["acc"]["sd"] == pytest.approx(0.05 / 2**0.5)
    assert found["seeds"] == [0, 1]
    assert found["rejected"] == 0


def test_table_counts_training_examples_as_a_share_of_the_references(results: Any) -> None:
    found = summary.table(PROBLEMS["taxi"], results)
    assert found["replay"]["share"]["mean"] == pytest.approx(120 / 300)
    assert found["from scratch"]["share"]["mean"] == 1.0


def test_a_seed_without_its_reference_has_no_share(results: Any) -> None:
    del results["from scratch"][1]
    assert summary.table(PROBLEMS["taxi"], results)["replay"]["share"] == {"mean": 0.4, "sd": None}


def test_seconds_are_those_of_the_quickest_seed(results: Any) -> None:
    results["replay"][0]["runs"][1]["seconds"] = 9000.0
    found = summary.table(PROBLEMS["taxi"], results)["replay"]
    assert found["seconds"] == {"least": sum(run["seconds"] for run in results["replay"][1]["runs"])}


def test_a_rejected_version_is_told(results: Any) -> None:
    results["replay"][0]["runs"][1]["served"] = False
    assert summary.table(PROBLEMS["taxi"], results)["replay"]["rejected"] == 1


def table_row(**values: float) -> dict[str, Any]:
    return {name: {"mean": value, "sd": None} for name, value in values.items()}


@pytest.mark.parametrize(("auc", "share", "reached"), [(0.944, 0.1, [1, 1, 1]), (0.9425, 0.2, [0, 0, 0])])
def test_a_target_that_is_missed_is_not_reached(auc: float, share: float, reached: list[int]) -> None:
    rows = {
        "replay": table_row(next_auc=auc, share=share),
        "from scratch": table_row(next_auc=0.946, share=1),
    }
    assert [t["reached"] for t in summary.targets({"taxi": rows}, None)] == list(map(bool, reached))


def test_page_says_what_is_not_reached() -> None:
    rows = {"replay 500": table_row(acc=0.8) | {"seeds": [0], "rejected": 0}}
    text = page.page({"split_mnist": rows}, None)
    assert "| buffer 500: ACC at least 0.87 | replay 500: 0.8000 | **not reached** |" in text


def test_report_writes_page_picture_and_json(tmp_path: Path, results: Any) -> None:
    for every in results.values():
        for one in every:
            fold.write_json(report.result_file(tmp_path / "results", "taxi", one["method"], one["seed"]), one)
    (tmp_path / "docs").mkdir()
    report.write(tmp_path / "results", tmp_path / "docs")
    text = (tmp_path / "docs/benchmarks.md").read_text()
    assert "| replay | 0.7000 | 0.6000 | 0.8750 ± 0.0354 |" in text
    assert "(benchmarks/taxi.svg)" in text
    assert (tmp_path / "docs/benchmarks/taxi.svg").stat().st_size < 100_000
    assert '"tables"' in (tmp_path / "docs/benchmarks/learning.json").read_text()


def test_what_a_page_was_written_of_is_taken_up_where_nothing_is_there(results: Any, tmp_path: Path) -> None:
    first, second, docs = tmp_path / "first", tmp_path / "second", tmp_path / "docs"
    for one in [one for every in results.values() for one in every]:
        fold.write_json(report.result_file(first, "taxi", one["method"], one["seed"]), one)
    docs.mkdir()
    report.write(first, docs)
    newer = report.result_file(second, "taxi", "replay", 1)
    fold.write_json(newer, {"measured": "since"})
    report.unpack(docs, second)
    assert json.loads(newer.read_text()) == {"measured": "since"}
    newer.write_text(report.result_file(first, "taxi", "replay", 1).read_text())
    page = (docs / "benchmarks.md").read_text()
    report.write(second, docs)
    assert (docs / "benchmarks.md").read_text() == page


def test_a_method_changes_keys_and_leaves_the_others(tmp_path: Path) -> None:
    problem = PROBLEMS["permuted_mnist"]
    content = fold.deployment(
        problem, problem.methods["fine-tuning"], 7, tmp_path / "data", tmp_path / "work"
    )
    assert content["replay"] == {
        "scheme": "per_span",
        "capacity": 3200,
        "ratio": 0.0,
        "holdout_per_span": 2200,
        "holdout_capacity": 22000,
        "seed": 7,
    }
    assert content["training"]["seed"] == 7


@pytest.mark.parametrize(
    ("name", "method"), [(name, method) for name, problem in PROBLEMS.items() for method in problem.methods]
)
def test_every_method_is_a_valid_deployment(name: str, method: str, tmp_path: Path) -> None:
    import yaml

    from pipeline.config import load
    from pipeline.config.schema import check_schema, read_schema

    problem, file = PROBLEMS[name], tmp_path / "deployment.yaml"
    content = fold.deployment(problem, problem.methods[method], 0, tmp_path / "data", tmp_path)
    file.write_text(yaml.safe_dump(content))
    deployment = load(file)
    check_schema(deployment, read_schema(deployment.schema_path))
    assert problem.metric in deployment.gate_metrics


@pytest.mark.skipif(not problems.MNIST.exists(), reason="no MNIST: shared/data/README.md has its source")
def test_digits_are_split_in_pairs(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    problems.write_pairs(tmp_path)
    tables = {span: pq.read_table(tmp_path / str(span) / "images.parquet") for span in range(1, 6)}
    assert [sorted(set(t["digit"].to_pylist())) for t in tables.values()] == [
        [str(2 * task), str(2 * task + 1)] for task in range(5)
    ]
    assert sum(len(t) for t in tables.values()) == 10_000


@pytest.mark.skipif(not problems.MNIST.exists(), reason="no MNIST: shared/data/README.md has its source")
def test_a_permuted_span_has_the_same_pixels_in_another_order(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    problems.write_permuted(tmp_path, tasks=2)
    first, second = (pq.read_table(tmp_path / str(span) / "images.parquet").slice(0, 2) for span in (1, 2))
    assert first["digit"] == second["digit"]
    for a, b in zip(first["image"].to_pylist(), second["image"].to_pylist(), strict=True):
        assert a != b and sorted(a) == sorted(b)


def test_spans_of_the_cost_are_alike(tmp_path: Path) -> None:
    import pandas as pd

    cost.write_spans(tmp_path, 2)
    first, second = (pd.read_csv(tmp_path / str(span) / "trips.csv") for span in (1, 2))
    assert len(first) == len(second) == cost.ROWS
    assert abs(first.fare.mean() - second.fare.mean()) < 1
    assert not first.fare.equals(second.fare)
