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
from pipeline.config.schema import check_schema, complete_schema, read_schema, write_schema

ROOT = Path(__file__).parents[2]
SCHEMA = """
feature { name: "count" type: INT }
feature { name: "price" type: FLOAT }
feature { name: "word" type: BYTES }
feature { name: "sold" type: INT }
feature { name: "tip" type: FLOAT not_in_environment: "SERVING" }
feature { name: "one" type: BYTES value_count { min: 1 max: 1 } }
feature { name: "tags" type: BYTES value_count { min: 0 } }
feature { name: "pixels" type: FLOAT value_count { min: 4 max: 4 } }
feature { name: "pair" type: INT shape { dim { size: 2 } } }
feature { name: "old" type: FLOAT lifecycle_stage: DEPRECATED }
feature { name: "later" type: FLOAT lifecycle_stage: PLANNED }
feature { name: "answer" type: INT in_environment: "SERVING" }
"""
COLUMNS = 12
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
            bucket={"type": "bucketized", "column": "price"},
            hash={"type": "hashed", "column": "price"},
            both={"type": "cross", "columns": ["word", "one", "count"]},
            begin={"type": "timestamp", "column": "count"},
            end={"type": "timestamp", "column": "word"},
            words={"type": "text", "column": "word"},
            tags={"type": "categorical", "multivalent": True},
            split={"type": "hashed", "column": "one", "separator": "|"},
            pixels={"type": "tensor", "shape": [2, 2, 1]},
        ),
        model={"type": "cnn"},
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
            "preprocessing.features.word: type is identity, but word is text in the schema; use categorical",
        ),
        (
            {"preprocessing": features(price={"type": "identity", "max": 3})},
            "preprocessing.features.price: type is identity, but price is FLOAT in the schema; use numeric",
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
            {"preprocessing": features(word={"type": "bucketized"})},
            "preprocessing.features.word: type is bucketized, but word is text in the schema; use "
            "categorical",
        ),
        (
            {"preprocessing": features(count={"type": "text"})},
            "preprocessing.features.count: type is text, but count is INT in the schema; use numeric or "
            "categorical",
        ),
        (
            {"preprocessing": features(price={"type": "timestamp"})},
            "preprocessing.features.price: type is timestamp, but price is FLOAT in the schema; use a column "
            "of INT (unix seconds or milliseconds) or BYTES (ISO 8601 text)",
        ),
        (
            {"preprocessing": features(count={"type": "categorical", "separator": "|"})},
            "preprocessing.features.count: separator: count is INT in the schema, and only text is split; "
            "remove it",
        ),
        (
            {"preprocessing": features(one={"type": "hashed", "multivalent": True})},
            "preprocessing.features.one: multivalent: the schema allows one one value; allow more "
            "(value_count), or remove it",
        ),
        (
            {"preprocessing": features(both={"type": "cross", "columns": ["word", "tags"]})},
            "preprocessing.features.both: columns: the schema allows tags many values, expected one a row",
        ),
        (
            {"preprocessing": features(both={"type": "cross", "columns": ["word", "wort"]})},
            "preprocessing.features.both: got 'wort', which is no feature of the schema; did you mean word?",
        ),
        (
            {
                "preprocessing": features(
                    map={"type": "tensor", "shape": [1, 1, 2], "columns": ["count", "pair"]}
                ),
                "model": {"type": "cnn"},
            },
            "preprocessing.features.map: columns: the schema allows pair 2 values, expected one a row",
        ),
        (
            {
                "preprocessing": features(map={"type": "tensor", "column": "pair", "shape": [2, 2, 1]}),
                "model": {"type": "cnn"},
            },
            "preprocessing.features.map: shape: [2, 2, 1] takes 4 numbers, and the schema allows pair 2 "
            "(value_count)",
        ),
        (
            {
                "preprocessing": features(map={"type": "tensor", "column": "tags", "shape": [2, 2, 1]}),
                "model": {"type": "cnn"},
            },
            "preprocessing.features.map: type is tensor, but tags is text in the schema; use a column of "
            "numbers",
        ),
        (
            {"preprocessing": features(old={"type": "numeric"})},
            "preprocessing.features.old: old is DEPRECATED in the schema: it is not ingested",
        ),
        (
            {"preprocessing": features(later={"type": "numeric"})},
            "preprocessing.features.later: later is PLANNED in the schema: it is not ingested",
        ),
        (
            {"label": {"name": "answer"}},
            "label.name: answer is not in the schema's TRAINING environment: it is not ingested",
        ),
        (
            {
                "preprocessing": {"features": {}, "columns": ["prize"]},
                "model": {"type": "custom", "module": "shop.model"},
            },
            "preprocessing.columns: got 'prize', which is no feature of the schema; did you mean price?",
        ),
        (
            {
                "preprocessing": {"features": {}, "columns": ["sold"]},
                "model": {"type": "custom", "module": "shop.model"},
            },
            "preprocessing.columns: sold is the label; a model that sees its label learns nothing",
        ),
        (
            {
                "label": {"name": "price", "task": "multiclass"},
                "preprocessing": features(count={"type": "numeric"}),
            },
            "label.name: price is FLOAT in the schema, and classes are text or INT; is the task regression?",
        ),
        (
            {"label": {"name": "word", "task": "regression"}},
            "label.name: word is text in the schema, and a regression's label is a number; is the task "
            "multiclass?",
        ),
        (
            {"label": {"name": "tags", "task": "multiclass"}},
            "label.name: tags may have several values in the schema (value_count), expected one a row",
        ),
        (
            {"label": {"name": "big", "expression": "pair > 3"}},
            "label.expression: the schema allows pair several values, expected one a row",
        ),
        (
            {"label": {"name": "big", "expression": "old > 3"}},
            "label.expression: old is DEPRECATED in the schema: it is not ingested",
        ),
        (
            {"label": {"name": "big", "expression": "word > 3"}},
            "expression 'word > 3': compares a text with a number (word is text); compare text with "
            "'text' and numbers with numbers",
        ),
        (
            {"label": {"name": "sold", "example_weight": "word"}},
            "label.example_weight: word is BYTES in the schema, expected INT or FLOAT",
        ),
        (
            {"poisoning": {"max_influence": 0.1, "trusted": "wort == 'audit'"}},
            "poisoning.trusted: got 'wort', which is no feature of the schema; did you mean word?",
        ),
        (
            {"poisoning": {"max_influence": 0.1, "trusted": "pair == 3"}},
            "poisoning.trusted: the schema allows pair several values, expected one a row",
        ),
        (
            {"poisoning": {"max_influence": 0.1, "trusted": "count"}},
            "poisoning.trusted: expression 'count' gives a number; expected is a condition: compare it with "
            "a value, as in count == ...",
        ),
        (
            {"replay": {"scheme": "balanced", "by": ["word", "wort"]}},
            "replay.by: got 'wort', which is no feature of the schema; did you mean word?",
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


def test_a_feature_that_is_there_twice(deploy: Deploy) -> None:
    deployment = deploy(SCHEMA + 'feature { name: "count" type: FLOAT }')
    assert problems(deployment) == ["schema: the feature 'count' is there twice; remove one"]


def test_all_contradictions_are_told_at_once(deploy: Deploy) -> None:
    deployment = deploy(
        label={"name": "word"},
        preprocessing=features(text={"type": "numeric", "column": "word"}, prize={"type": "numeric"}),
        slices=[["wort"]],
    )
    assert [problem.split(":")[0] for problem in problems(deployment)] == [
        "preprocessing.features.prize",
        "preprocessing.features.text",
        "slices.0",
        "label.name",
    ]


def test_integers_of_a_vocabulary_are_counted_where_that_changes_nothing_else(deploy: Deploy) -> None:
    drifting = "feature { name: 'drifting' type: INT drift_comparator { infinity_norm { threshold: 0.1 } } }"
    bounded = "feature { name: 'bounded' type: INT int_domain { max: 9 } }"
    categories = ["count", "pair", "word", "drifting", "bounded"]
    features = {name: {"type": "categorical"} for name in categories}
    features["pairs"] = {"type": "bucketized", "column": "pair"}
    deployment = deploy(SCHEMA + drifting + bounded, preprocessing={"features": features})
    completed = complete_schema(deployment, read_schema(deployment.schema_path))
    assert [c.name for c in completed.feature if c.int_domain.is_categorical] == ["count"]


@pytest.mark.parametrize(
    "content",
    [b"feature { name: }", b"features {}", b'feature { name: "a" type: TEXT }', b"\xff\xfe", b"name: x"],
)
def test_a_file_that_is_no_schema(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.pbtxt").write_bytes(content)
    with pytest.raises(RetrainError, match=r"bad\.pbtxt: not a TFDV schema in text format: "):
        read_schema(tmp_path / "bad.pbtxt")


def complete(deployment: Deployment) -> tuple[Any, dict[str, Any]]:
    """The examples' schema, and its features by name; the deployment's own stays unmodified."""
    schema = read_schema(deployment.schema_path)
    before = schema.SerializeToString()
    completed = complete_schema(deployment, schema)
    assert schema.SerializeToString() == before
    assert complete_schema(deployment, completed) == completed
    return completed, {feature.name: feature for feature in completed.feature}


def test_the_examples_schema_has_what_the_pipeline_adds_once(deploy: Deploy) -> None:
    deployment = deploy(label={"name": "big", "expression": "price > 3"})
    completed, _ = complete(deployment)
    added = completed.feature[COLUMNS:]
    assert [f.name for f in added] == ["big", "span", "example_id"]
    for feature in added:
        assert feature.type == schema_pb2.INT
        assert feature.presence.min_fraction == 1.0
        assert (feature.value_count.min, feature.value_count.max) == (1, 1)
        assert list(feature.not_in_environment) == ["SERVING"]
    before = read_schema(deployment.schema_path).feature
    shaped = [feature.name for feature in before].index("pair")
    assert [f for i, f in enumerate(completed.feature[:COLUMNS]) if i != shaped] == [
        f for i, f in enumerate(before) if i != shaped
    ]


def test_a_computed_label_has_the_type_that_its_expression_gives(deploy: Deploy) -> None:
    for expression, kind in (("price * 2", "FLOAT"), ("price > 2", "INT"), ("count", "INT")):
        label = {"name": "y", "task": "regression", "expression": expression}
        _, columns = complete(deploy(label=label, preprocessing=features(pair={"type": "numeric"})))
        assert columns["y"].type == schema_pb2.FeatureType.Value(kind)


def test_what_only_the_label_and_the_weight_are_made_of_is_in_no_request(deploy: Deploy) -> None:
    label = {"name": "big", "expression": "price > count", "example_weight": "sold"}
    _, columns = complete(deploy(label=label))  # price is a feature, too
    assert [name for name in columns if "SERVING" in columns[name].not_in_environment] == [
        *("count", "sold", "tip"),
        *("big", "span", "example_id"),
    ]


def test_classes_are_text(deploy: Deploy) -> None:
    schema = SCHEMA.replace(
        'name: "sold" type: INT',
        'name: "sold" type: INT int_domain { min: 0 max: 9 } presence { min_fraction: 0.5 }',
    )
    for task, kind in (("multiclass", schema_pb2.BYTES), ("binary", schema_pb2.INT)):
        _, columns = complete(deploy(schema, label={"name": "sold", "task": task}))
        assert columns["sold"].type == kind
        assert columns["sold"].HasField("int_domain") == (task == "binary")
        assert columns["sold"].presence.min_fraction == 0.5
        assert list(columns["sold"].not_in_environment) == ["SERVING"]
    _, columns = complete(
        deploy(
            label={"name": "word", "task": "multiclass"}, preprocessing=features(price={"type": "numeric"})
        )
    )
    assert columns["word"].type == schema_pb2.BYTES


def test_every_column_is_parsed_as_a_list_of_varying_length(deploy: Deploy) -> None:
    from tensorflow_transform.tf_metadata import schema_utils

    always = "presence { min_fraction: 1.0 }"
    schema = SCHEMA.replace("value_count { min: 1 max: 1 }", f"shape {{}} {always}")
    schema = schema.replace("shape { dim", f"{always} shape {{ dim")
    schema += """
    represent_variable_length_as_ragged: true
    tensor_representation_group { key: "" value { tensor_representation {
      key: "price" value { dense_tensor { column_name: "price" shape {} } } } } }
    """
    deployment = deploy(schema)
    completed, columns = complete(deployment)
    assert (columns["pair"].value_count.min, columns["pair"].value_count.max) == (2, 2)
    assert (columns["one"].value_count.min, columns["one"].value_count.max) == (1, 1)
    spec = schema_utils.schema_as_feature_spec(completed).feature_spec
    assert {type(feature).__name__ for feature in spec.values()} == {"VarLenFeature"}
    assert spec.keys() >= columns.keys() - {"old", "later"}
    before = schema_utils.schema_as_feature_spec(read_schema(deployment.schema_path)).feature_spec
    assert {type(feature).__name__ for feature in before.values()} > {"FixedLenFeature"}


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
