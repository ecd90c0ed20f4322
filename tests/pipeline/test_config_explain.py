"""`retrain config explain`, and the page that is written from the same model."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pytest
import yaml
from pydantic import Field
from typer.testing import CliRunner

from components.errors import RetrainError
from components.features import FEATURES
from components.models import MODELS
from pipeline.cli import app
from pipeline.config import Deployment, load, reference
from pipeline.config.problems import kinds
from pipeline.config.reference_page import EXAMPLES, INTRODUCTION, page
from pipeline.config.yaml_file import read_yaml
from tests.pipeline.conftest import Shop

ROOT = Path(__file__).parents[2]


def explain(*words: object) -> Any:
    return CliRunner().invoke(app, ["config", "explain", *map(str, words)])


def entries(parts: list[reference.Part]) -> dict[str, reference.Entry]:
    return {".".join((*part.keys, entry.key)): entry for part in parts for entry in part.values}


@pytest.fixture
def of_shop(shop: Shop) -> dict[str, reference.Entry]:
    return entries(reference.explain(shop.deployment, read_yaml(shop.config)))


def test_the_page_says_what_the_model_says() -> None:
    written = (ROOT / "docs" / "configuration.md").read_text()
    assert written == page(), "run: python -m pipeline.config.reference_page > docs/configuration.md"


def test_every_link_of_the_page_leads_to_a_heading() -> None:
    text = page()
    links = set(re.findall(r"\]\(#(.*?)\)", text))
    headings = {
        re.sub(r"[^a-z0-9_ -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    }
    assert links and links <= headings


def test_every_row_of_the_page_has_four_cells() -> None:
    rows = [line for line in page().splitlines() if line.startswith("|")]
    assert rows and {len(re.split(r"(?<!\\)\|", row)) for row in rows} == {6}


@pytest.mark.parametrize("kind", [*FEATURES, *MODELS])
def test_the_example_of_every_kind_loads(tmp_path: Path, kind: str) -> None:
    content = yaml.safe_load(re.search(r"```yaml\n(.*?)```", INTRODUCTION, re.DOTALL)[1])  # type: ignore[index]
    features = content["preprocessing"]["features"]
    example = yaml.safe_load(EXAMPLES[kind])
    if kind in FEATURES:
        assert {feature["type"] for feature in example.values()} == {kind}
        features.update(example)
        if kind == "tensor":
            content["model"] = {"type": "custom", "module": "shop.model"}
    else:
        content |= example
        if kind == "two_tower":
            towers = [*example["model"]["user"], *example["model"]["item"]]
            content["preprocessing"]["features"] = {name: {"type": "categorical"} for name in towers}
        if kind == "cnn":
            features["pixels"] = {"type": "tensor", "shape": [8, 8, 1]}
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / "clicks.pbtxt").write_text("")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "clicks.yaml").write_text(yaml.safe_dump(content))
    deployment = load(tmp_path / "configs" / "clicks.yaml")
    assert kind in FEATURES or deployment.model.type == kind


def test_the_reference_has_every_kind_and_every_required_key() -> None:
    parts = reference.reference()
    assert [part.kind for part in parts if part.kind] == [*kinds_of("features"), *kinds_of("model")]
    told = entries(parts)
    assert told["replay.capacity"].default == "20000"
    assert told["preprocessing.features.identity.max"].default == reference.REQUIRED
    assert told["preprocessing.features.tensor.column"].default == "the feature's name"
    assert all(entry.sentence and entry.allowed and entry.default for entry in told.values())


def kinds_of(key: str) -> list[str]:
    if key == "model":
        return list(kinds(Deployment.model_fields["model"].annotation))
    features = Deployment.model_fields["preprocessing"].annotation.model_fields["features"]  # type: ignore[union-attr]
    return list(kinds(get_args(features.annotation)[1]))


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        (bool, "true or false"),
        (int | None, "whole number"),
        (Annotated[int, Field(ge=1)], "whole number, at least 1"),
        (Annotated[int, Field(ge=0, le=10_000_000)], "whole number, from 0 to 10000000"),
        (Annotated[float, Field(gt=0, lt=1)], "number, more than 0, less than 1"),
        (Annotated[str, Field(pattern="^a$")], "text, matching `^a$`"),
        (list[str], "list of texts"),
        (Annotated[list[str], Field(min_length=2)], "list of at least 2 texts"),
        (Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=3, max_length=3)],
         "list of 3 whole numbers, at least 1"),
        (list[list[str]], "list of lists of texts"),
        (Literal["a", "b", "c"], "`a`, `b` or `c`"),
        (Literal["even"] | dict[str, float] | None, "`even` or lines of `NAME:` number"),
        (dict[str, Any], "lines of `NAME:` value"),
        (Path, "path"),
    ],
    ids=str,
)  # fmt: skip
def test_a_type_is_told_in_words(annotation: Any, said: str) -> None:
    assert reference.describe(annotation) == said


def test_a_deployments_values_are_told_and_what_its_file_sets(of_shop: dict[str, reference.Entry]) -> None:
    assert (of_shop["name"].value, of_shop["name"].is_set) == ("shop", True)
    assert (of_shop["replay.capacity"].value, of_shop["replay.capacity"].is_set) == (20000, False)
    n = {key: of_shop[f"preprocessing.features.n.{key}"] for key in ("column", "min", "max")}
    assert {key: (entry.value, entry.is_set) for key, entry in n.items()} == {
        "column": ("n", False),
        "min": (0, False),
        "max": (9, True),
    }
    assert of_shop["model.hidden"].value == [64, 32] and not of_shop["model.hidden"].is_set
    assert of_shop["gates.metrics.auc.max_drop"].value == 0.03
    assert of_shop["slices"].value == [["word"]] and of_shop["slices"].is_set
    assert of_shop["engine.metadata"].value is None  # and nothing of what it would be
    assert not any(key.startswith(("engine.metadata.", "model.cnn")) for key in of_shop)


def test_metrics_that_a_file_leaves_to_the_task_are_told(tmp_path: Path, shop: Shop) -> None:
    content = {key: value for key, value in read_yaml(shop.config).items() if key != "gates"}
    shop.config.write_text(yaml.safe_dump(content))
    told = entries(reference.explain(load(shop.config), content))
    assert told["gates.metrics.auc.min_value"].value == 0.6
    assert not told["gates.metrics.auc.min_value"].is_set


def test_every_line_fits_the_width(shop: Shop) -> None:
    for parts, in_deployment in (
        (reference.reference(), False),
        (reference.explain(shop.deployment, {}), True),
    ):
        lines = reference.to_text(parts, in_deployment, width=80).splitlines()
        assert max(len(line) for line in lines if "/" not in line) <= 80  # a path is not broken
        assert lines[0].startswith("At the top: ") and "" not in (lines[0], lines[-1])


def test_a_key_narrows_it(shop: Shop) -> None:
    parts = reference.reference()
    assert list(entries(reference.narrow(parts, "replay.capacity"))) == ["replay.capacity"]
    assert {part.keys[0] for part in reference.narrow(parts, "gates")} == {"gates"}
    (numeric,) = reference.narrow(parts, "preprocessing.features.numeric")
    assert (numeric.name, numeric.kind) == ("preprocessing.features.NAME", "numeric")
    (cnn,) = reference.narrow(parts, "model.cnn")
    assert cnn.name == "model" and "filters" in entries([cnn])["model.cnn.filters"].key
    assert "type numeric" in explain(shop.config, "preprocessing.features.x").stdout
    shown = explain(shop.config, "gates.min_examples").stdout
    assert shown.splitlines()[1] == "  min_examples: 100"


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("rplay", "did you mean replay?"),
        ("capacity", "did you mean replay.capacity?"),
        ("replay.capcity", "did you mean replay.capacity?"),
        ("zzzzzz", "`retrain config explain` lists all keys"),
    ],
)
def test_a_key_that_is_not_there(key: str, hint: str) -> None:
    with pytest.raises(RetrainError, match=re.escape(f"there is no key {key!r}; {hint}")):
        reference.narrow(reference.reference(), key)


def test_it_prints_json_lines(shop: Shop) -> None:
    lines = [json.loads(line) for line in explain(shop.config, "replay", "--json").stdout.splitlines()]
    capacity = next(line for line in lines if line["key"] == "replay.capacity")
    assert capacity == {
        "key": "replay.capacity",
        "type": None,
        "allowed": "whole number, at least 1",
        "default": "20000",
        "required": False,
        "sentence": "Most training examples in the buffer.",
        "value": 20000,
        "set": False,
    }
    lines = [json.loads(line) for line in explain("model.two_tower", "--json").stdout.splitlines()]
    assert {line["type"] for line in lines} == {"two_tower"}
    (user,) = [line for line in lines if line["key"] == "model.user"]
    assert user["required"] and user["default"] is None and "value" not in user


def test_what_cannot_be_explained_is_said(shop: Shop) -> None:
    for words in (["a.yaml", "b.yaml"], ["replay", "gates"]):
        result = explain(*words)
        assert isinstance(result.exception, RetrainError)
        assert "expected at most one CONFIG and one KEY" in str(result.exception)
    assert "no such file: gone.yaml" in str(explain("gone.yaml").exception)


def test_nothing_heavy_is_imported(shop: Shop) -> None:
    code = (
        "import sys; from pipeline.cli import app; app(sys.argv[1:], standalone_mode=False); "
        "print(*sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "config", "explain", str(shop.config)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    heavy = {"tensorflow", "tfx", "apache_beam", "keras", "mlflow", "pyarrow", "numpy", "pandas"}
    assert not heavy & set(done.stderr.split())
