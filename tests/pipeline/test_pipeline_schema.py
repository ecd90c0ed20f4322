"""The schema against the configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tensorflow_metadata.proto.v0 import schema_pb2

from components.errors import RetrainError
from pipeline.config import Deployment, load
from pipeline.schema import check_schema, complete_schema, read_schema, write_schema

ROOT = Path(__file__).parents[2]
SCHEMA = """
feature { name: "count" type: INT }
feature { name: "price" type: FLOAT }
feature { name: "word" type: BYTES }
feature { name: "sold" type: INT }
feature { name: "tip" type: FLOAT not_in_environment: "SERVING" }
"""
BASE: dict[str, Any] = {
    "name": "shop",
    "schema": "schema.pbtxt",
    "state": "state",
    "data": {"path": "data"},
    "label": {"name": "sold"},
    "preprocessing": {"features": {"price": {"type": "numeric"}}},
}

Deploy = Callable[..., Deployment]


@pytest.fixture
def deploy(tmp_path: Path) -> Deploy:
    def write(schema: str = SCHEMA, **sections: Any) -> Deployment:
        (tmp_path / "schema.pbtxt").write_text(schema)
        (tmp_path / "shop.yaml").write_text(yaml.safe_dump({**BASE, **sections}))
        return load(tmp_path / "shop.yaml")

    return write


def problems(deployment: Deployment) -> list[str]:
    with pytest.raises(RetrainError) as error:
        check_schema(deployment, read_schema(deployment.schema_path))
    first, *lines = str(error.value).splitlines()
    assert first == f"the configuration contradicts its schema {deployment.schema_path}:"
    return [line.strip() for line in lines]


def features(**features: Any) -> dict[str, Any]:
    return {"features": features}


def test_the_demo_agrees_with_its_schema() -> None:
    deployment = load(ROOT / "configs" / "taxi.yaml")
    check_schema(deployment, read_schema(deployment.schema_path))


def test_a_sound_configuration_passes(deploy: Deploy) -> None:
    deployment = deploy(
        preprocessing=features(
            price={"type": "numeric"},
            count={"type": "numeric"},
            hour={"type": "identity", "column": "count", "max": 23},
            word={"type": "categorical"},
            number={"type": "categorical", "column": "count"},
        ),
        slices=[["word"], ["word", "count"]],
    )
    check_schema(deployment, read_schema(deployment.schema_path))


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        (
            {"preprocessing": features(prize={"type": "numeric"})},
            "preprocessing.features.prize: got 'prize', which is no feature of the schema; "
            "did you mean price?",
        ),
        (
            {"preprocessing": features(cost={"type": "numeric", "column": "zzz"})},
            "preprocessing.features.cost: got 'zzz', which is no feature of the schema",
        ),
        (
            {"preprocessing": features(word={"type": "numeric"})},
            "preprocessing.features.word: type is numeric, but word is text in the schema; use categorical",
        ),
        (
            {"preprocessing": features(word={"type": "identity", "max": 3})},
            "preprocessing.features.word: type is identity, but word is no INT in the schema; "
            "use categorical",
        ),
        (
            {"preprocessing": features(price={"type": "identity", "max": 3})},
            "preprocessing.features.price: type is identity, but price is no INT in the schema; use numeric",
        ),
        (
            {"preprocessing": features(leak={"type": "numeric", "column": "sold"})},
            "preprocessing.features.leak: sold is the label; a model that sees its label learns nothing",
        ),
        (
            {"preprocessing": features(tip={"type": "numeric"})},
            "preprocessing.features.tip: tip is not in the schema's SERVING environment: no request has it",
        ),
        (
            {"label": {"name": "word"}},
            "label.name: word is text in the schema; give an expression, such as \"word == 'yes'\"",
        ),
        (
            {"label": {"name": "solt"}},
            "label.name: got 'solt', which is no feature of the schema; did you mean sold?",
        ),
        (
            {"label": {"name": "big", "expression": "prices > 3 and count > 0"}},
            "label.expression: got 'prices', which is no feature of the schema; did you mean price?",
        ),
        (
            {"slices": [["word"], ["wort"]]},
            "slices.1: got 'wort', which is no feature of the schema; did you mean word?",
        ),
    ],
)
def test_a_contradiction_gets_one_line(deploy: Deploy, sections: dict[str, Any], problem: str) -> None:
    assert problems(deploy(**sections)) == [problem]


def test_a_computed_label_may_have_a_text_column_in_it_and_a_name_of_its_own(deploy: Deploy) -> None:
    deployment = deploy(label={"name": "big", "expression": "word == 'yes'"})
    check_schema(deployment, read_schema(deployment.schema_path))


@pytest.mark.parametrize("name", ["span", "example_id"])
def test_the_pipelines_own_names_are_taken(deploy: Deploy, name: str) -> None:
    deployment = deploy(SCHEMA + f'feature {{ name: "{name}" type: INT }}')
    assert problems(deployment) == [f"schema: the feature {name!r} is the pipeline's own; rename the column"]


def test_all_contradictions_are_told_at_once(deploy: Deploy) -> None:
    deployment = deploy(
        label={"name": "word"},
        preprocessing=features(text={"type": "numeric", "column": "word"}, prize={"type": "numeric"}),
        slices=[["wort"]],
    )
    assert [problem.split(":")[0] for problem in problems(deployment)] == [
        "preprocessing.features.prize",
        "preprocessing.features.text",
        "preprocessing.features.text",
        "slices.0",
        "label.name",
    ]


@pytest.mark.parametrize(
    "content",
    [b"feature { name: }", b"features {}", b'feature { name: "a" type: TEXT }', b"\xff\xfe", b"name: x"],
)
def test_a_file_that_is_no_schema(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.pbtxt").write_bytes(content)
    with pytest.raises(RetrainError, match=r"bad\.pbtxt: not a TFDV schema in text format: "):
        read_schema(tmp_path / "bad.pbtxt")


def test_the_examples_schema_has_what_the_pipeline_adds_once(deploy: Deploy) -> None:
    deployment = deploy(label={"name": "big", "expression": "price > 3"})
    schema = read_schema(deployment.schema_path)
    before = schema.SerializeToString()
    complete = complete_schema(deployment, schema)
    assert schema.SerializeToString() == before
    assert list(complete.feature[:5]) == list(schema.feature)
    assert [f.name for f in complete.feature[5:]] == ["big", "span", "example_id"]
    for feature in complete.feature[5:]:
        assert feature.type == schema_pb2.INT
        assert feature.presence.min_fraction == 1.0
        assert (feature.value_count.min, feature.value_count.max) == (1, 1)
        assert list(feature.not_in_environment) == ["SERVING"]
    assert complete_schema(deployment, complete) == complete


def test_a_label_that_is_in_the_schema_stays_as_it_is(deploy: Deploy) -> None:
    deployment = deploy()
    schema = read_schema(deployment.schema_path)
    complete = complete_schema(deployment, schema)
    assert [f.name for f in complete.feature[5:]] == ["span", "example_id"]
    assert list(complete.feature[:5]) == list(schema.feature)


def test_the_same_schema_is_the_same_file(deploy: Deploy, tmp_path: Path) -> None:
    schema = read_schema(deploy().schema_path)
    first = write_schema(schema, tmp_path / "schemas")
    written = first.stat().st_mtime_ns
    assert write_schema(schema, tmp_path / "schemas") == first
    assert first.stat().st_mtime_ns == written
    assert read_schema(first) == schema
    schema.feature[0].name = "counted"
    second = write_schema(schema, tmp_path / "schemas")
    assert {first, second} == set((tmp_path / "schemas").iterdir()) and first != second
