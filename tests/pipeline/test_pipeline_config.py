"""Configuration: what loads, and the one message that each mistake gets."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

import pytest
import yaml

from components.errors import RetrainError
from components.evaluate.logic import METRICS
from components.features import FEATURES, Categorical, Identity, Numeric
from components.models import MODELS, WideAndDeep
from pipeline.config import DEFAULT_GATES, Deployment, MetricGate, Section, load
from pipeline.config.problems import file_fields, kinds, without_none

ROOT = Path(__file__).parents[2]
TAXI = yaml.safe_load((ROOT / "configs" / "taxi.yaml").read_text())
ONE_OF_EACH: dict[str, Any] = {
    "fare": {"type": "numeric", "log": True},
    "company": {"type": "categorical"},
    "trip_start_hour": {"type": "identity", "max": 23},
    "trip_miles": {"type": "bucketized"},
    "driver": {"type": "hashed"},
    "hour_and_company": {"type": "cross", "columns": ["trip_start_hour", "company"]},
    "begin": {"type": "timestamp", "parts": ["hour"]},
    "comment": {"type": "text"},
    "map": {"type": "tensor", "shape": [2, 2, 1]},
}
MODEL_OF_EACH: dict[str, Any] = {
    "wide_and_deep": {},
    "mlp": {},
    "linear": {},
    "two_tower": {"user": ["fare", "company"], "item": ["trip_start_hour"]},
    "cnn": {},
    "custom": {"module": "shop.model"},
}
DATABASE = {"type": "mysql", "host": "db", "port": 3306, "database": "mlmd", "user": "me"}
CANARY = {"servers": [{"grpc": "canary:8500", "rest": "canary:8501"}]}
FULL = {
    **TAXI,
    "schema": str(ROOT / "schemas" / "taxi.pbtxt"),
    "engine": {"metadata": DATABASE},
    "serving": {"tls": {"certificate": "server.pem", "key": "server.key"}, "canary": CANARY},
    "preprocessing": {"features": ONE_OF_EACH},
    "model": {"type": "custom", **MODEL_OF_EACH["custom"]},
}
MISSING = object()

Keys = tuple[str | int, ...]


class Place(NamedTuple):
    """A place in a file: its keys, and the type of the model that the file has."""

    keys: Keys
    model: str = "custom"

    def __str__(self) -> str:
        keys = ".".join(map(str, self.keys))
        return keys if self.model == "custom" else f"{self.model}:{keys}"


def sections(
    here: Any = Deployment, keys: Keys = (), model: str = "custom"
) -> Iterator[tuple[Place, type[Section]]]:
    """Every section of the model, with a place where it is, or could be."""
    here = without_none(here)
    if get_origin(here) is dict:
        value = get_args(here)[1]
        if kinds(value):
            for name, feature in ONE_OF_EACH.items():
                yield from sections(kinds(value)[feature["type"]], (*keys, name))
        else:
            yield from sections(value, (*keys, "auc"))
    elif kinds(here) and keys == ("model",):
        for kind, section in kinds(here).items():
            yield from sections(section, keys, kind)
    elif isinstance(here, type) and issubclass(here, Section):
        yield Place(keys, model), here
        for name, field in file_fields(here).items():
            yield from sections(field.rebuild_annotation(), (*keys, name), model)


SECTIONS = dict(sections())
FIELDS = {
    Place((*place.keys, name), place.model): field
    for place, section in SECTIONS.items()
    for name, field in file_fields(section).items()
}


def dotted(keys: Keys) -> str:
    return ".".join(map(str, keys))


def changed(keys: Keys, value: Any, model: str = "custom") -> dict[str, Any]:
    """`FULL` with another value at a place, or without any."""
    content = copy.deepcopy(FULL)
    content["model"] = {"type": model, **copy.deepcopy(MODEL_OF_EACH[model])}
    if model not in ("cnn", "custom"):
        del content["preprocessing"]["features"]["map"]
    if model == "two_tower":
        towers = [name for tower in ("user", "item") for name in content["model"][tower]]
        features = content["preprocessing"]["features"]
        content["preprocessing"]["features"] = {name: features[name] for name in towers}
    here: Any = content
    for key in keys[:-1]:
        here = here.setdefault(key, {}) if isinstance(here, dict) else here[key]
    if value is MISSING:
        del here[keys[-1]]
    else:
        here[keys[-1]] = value
    return content


@pytest.fixture
def problems(tmp_path: Path) -> Callable[[Any], list[str]]:
    """The problems that loading a file finds, one a line, after the line that names the file."""

    def find(content: Any) -> list[str]:
        file = tmp_path / "shop.yaml"
        file.write_text(yaml.safe_dump(content))
        with pytest.raises(RetrainError) as error:
            load(file)
        first, *lines = str(error.value).splitlines()
        assert first == f"{file} is not a valid deployment:"
        assert all(line.startswith("  ") for line in lines)
        return [line.strip() for line in lines]

    return find


def test_the_demo_loads() -> None:
    deployment = load(ROOT / "configs" / "taxi.yaml")
    assert (deployment.name, deployment.replay.capacity, deployment.data.pattern) == (
        "taxi",
        5000,
        "{SPAN}/*.csv",
    )
    assert deployment.schema_path == ROOT / "schemas" / "taxi.pbtxt"
    assert deployment.gates.metrics["auc"].min_value == 0.8
    specs = deployment.preprocessing.specs()
    assert specs[0] == Numeric(name="fare", log=True)
    assert specs[-1] == Identity(name="trip_start_month", min=1, max=12)
    assert deployment.columns["company"] is False and len(deployment.columns) == 14


@pytest.mark.parametrize("model", MODELS)
def test_every_kind_of_feature_and_of_model_loads(tmp_path: Path, model: str) -> None:
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(changed(("name",), "shop", model)))
    deployment = load(tmp_path / "a.yaml")
    assert type(deployment.model) is MODELS[model]
    features = deployment.preprocessing.features
    assert all(type(feature) is FEATURES[feature.type] for feature in features.values())
    assert len(features) == {"two_tower": 3, "cnn": 9, "custom": 9}.get(model, 8)


def test_what_a_file_leaves_out_has_the_documented_default(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    needed = ("name", "schema", "state", "label", "preprocessing")
    content = changed(("data",), {"path": "d"}, "mlp")
    file.write_text(yaml.safe_dump({key: content[key] for key in (*needed, "data")}))
    deployment = load(file)
    assert deployment.model == WideAndDeep()
    assert deployment.preprocessing.features["company"] == Categorical(name="company")
    assert deployment.data.pattern == "{SPAN}/*"
    assert deployment.warm_start.enabled and deployment.warm_start.epochs == 5
    assert deployment.registry_name == "taxi"
    assert deployment.registry_uri == f"sqlite:///{deployment.state}/registry.sqlite"
    assert deployment.serving_path == deployment.state / "serving"
    assert deployment.base_path == deployment.state / "serving" / "taxi"


@pytest.mark.parametrize("place", FIELDS, ids=str)
def test_every_field_has_a_sentence_and_a_type(place: Place) -> None:
    field = FIELDS[place]
    assert field.description and len(field.description) > 8 and field.description.endswith(".")
    assert field.annotation not in (None, Any, object, dict, list)


def test_defaults_can_be_written_out(tmp_path: Path) -> None:
    needed = ("name", "schema", "state", "label", "preprocessing", "data")
    content = changed(("name",), "shop", "mlp")
    (tmp_path / "short.yaml").write_text(yaml.safe_dump({key: content[key] for key in needed}))
    short = load(tmp_path / "short.yaml")
    written = short.model_dump(mode="json", by_alias=True)
    for feature in written["preprocessing"]["features"].values():
        del feature["name"]
    (tmp_path / "long.yaml").write_text(yaml.safe_dump(written))
    assert load(tmp_path / "long.yaml") == short


# Every place of the file, systematically.


@pytest.mark.parametrize("place", SECTIONS, ids=lambda place: str(place) or "top")
def test_an_unknown_key_is_refused_and_all_that_is_allowed_there_is_named(
    problems: Callable[[Any], list[str]], place: Place
) -> None:
    (problem,) = problems(changed((*place.keys, "zzz"), 1, place.model))
    allowed = ", ".join(file_fields(SECTIONS[place]))
    assert problem == f"{dotted((*place.keys, 'zzz'))}: unknown key (allowed here: {allowed})"


@pytest.mark.parametrize("place", FIELDS, ids=str)
def test_a_key_with_a_typo_gets_the_right_one_back(
    problems: Callable[[Any], list[str]], place: Place
) -> None:
    *above, key = place.keys
    typo = f"{key}s" if key != "type" else "tpye"
    typo = "colunm" if key == "column" else typo  # a tensor has `columns`, too
    found = problems(changed((*above, typo), 1, place.model))
    assert f"{dotted((*above, typo))}: unknown key; did you mean {key}? (allowed here: " in "\n".join(found)


# The type of a feature or of the model tells what else may be there, so it has no default in a file.
NEEDED = [
    place
    for place, field in FIELDS.items()
    if (field.is_required() and field.json_schema_extra is None)
    or (place.keys[-1] == "type" and place.keys[0] in ("preprocessing", "model"))
]


@pytest.mark.parametrize("place", NEEDED, ids=str)
def test_a_required_key_that_is_missing_is_explained(
    problems: Callable[[Any], list[str]], place: Place
) -> None:
    keys = place.keys
    (problem,) = problems(changed(keys, MISSING, place.model))
    assert problem.startswith(f"{dotted(keys)}: missing, ")
    if keys[-1] == "type" and keys[0] != "engine":
        assert problem.endswith(f"expected one of {', '.join(MODELS if keys[0] == 'model' else FEATURES)}")
    else:
        assert problem.endswith(FIELDS[place].description or "-")


@pytest.mark.parametrize("place", [place for place in FIELDS if place.keys != ("schema",)], ids=str)
def test_a_value_of_a_wrong_type_gets_no_jargon(tmp_path: Path, place: Place) -> None:
    refused = 0
    for value in ([{}], {"a": [1]}, "..."):
        (tmp_path / "shop.yaml").write_text(yaml.safe_dump(changed(place.keys, value, place.model)))
        try:
            load(tmp_path / "shop.yaml")
        except RetrainError as error:
            first, *found = str(error).splitlines()
            assert first == f"{tmp_path}/shop.yaml is not a valid deployment:"
            assert any(line.startswith(f"  {dotted(place.keys)}") for line in found)
            for line in found:
                assert any(word in line for word in (": got ", ": missing", ": unknown key", ": expression"))
            for jargon in (
                "nput should",
                "hould have",
                "dictionary",
                "instance",
                "None",
                "pydantic",
                "[key]",
            ):
                assert jargon not in str(error)
            refused += 1
    # Any mapping will do for what is handed on as it is.
    assert refused >= 2


# One message a kind of mistake, in full.


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (
            ("replay", "scheme"),
            "resevoir",
            "replay.scheme: got 'resevoir', expected one of reservoir, balanced, recency, per_span; "
            "did you mean reservoir?",
        ),
        (
            ("training", "optimizer"),
            "Adamw",
            "training.optimizer: got 'Adamw', expected one of adam, adamw, rmsprop, adagrad, sgd, nadam; "
            "did you mean adamw?",
        ),
        (
            ("preprocessing", "features", "fare", "type"),
            "numreic",
            f"preprocessing.features.fare.type: got 'numreic', expected one of {', '.join(FEATURES)}; "
            "did you mean numeric?",
        ),
        (
            ("preprocessing", "features", "fare", "type"),
            None,
            f"preprocessing.features.fare.type: got nothing, expected one of {', '.join(FEATURES)}",
        ),
        (
            ("gates", "metrics", "acu"),
            {"min_value": 0.5},
            f"gates.metrics.acu: unknown key; did you mean auc? (allowed here: {', '.join(METRICS)})",
        ),
        (
            ("training", "epochs"),
            "5",
            "training.epochs: got '5', expected a whole number",
        ),
        (
            ("training", "epochs"),
            5.5,
            "training.epochs: got 5.5, expected a whole number",
        ),
        (
            ("training", "epochs"),
            True,
            "training.epochs: got true, expected a whole number",
        ),
        (
            ("training", "epochs"),
            0,
            "training.epochs: got 0, expected at least 1",
        ),
        (
            ("training", "learning_rate"),
            "fast",
            "training.learning_rate: got 'fast', expected a number",
        ),
        (
            ("training", "learning_rate"),
            float("nan"),
            "training.learning_rate: got nan, expected a finite number",
        ),
        (
            ("replay", "ratio"),
            1,
            "replay.ratio: got 1, expected less than 1",
        ),
        (
            ("serving", "rest_port"),
            70000,
            "serving.rest_port: got 70000, expected at most 65535",
        ),
        (("training",), [1], "training: got a list, expected `key: value` lines"),
        (("training",), None, "training: got nothing, expected `key: value` lines"),
        (
            ("engine", "beam_args"),
            "--runner=x",
            "engine.beam_args: got '--runner=x', expected a list",
        ),
        (
            ("preprocessing", "features", "map", "shape", 1),
            "32",
            "preprocessing.features.map.shape.1: got '32', expected a whole number",
        ),
        (
            ("preprocessing", "features", "map", "shape"),
            [2, 2],
            "preprocessing.features.map.shape: got 2 entries, expected at least 3 entries",
        ),
        (
            ("preprocessing", "features", "map", "shape"),
            [2, 2, 1, 1],
            "preprocessing.features.map.shape: got 4 entries, expected at most 3 entries",
        ),
        (
            ("preprocessing", "features", "begin", "parts"),
            [],
            "preprocessing.features.begin.parts: got an empty list, expected at least one entry",
        ),
        (
            ("preprocessing", "features", "begin", "parts", 0),
            "hours",
            "preprocessing.features.begin.parts.0: got 'hours', expected one of minute, hour, day_of_week, "
            "day_of_month, month; did you mean hour?",
        ),
        (
            ("preprocessing", "features", "company", "separator"),
            "",
            "preprocessing.features.company.separator: got '', expected at least one character",
        ),
        (
            ("preprocessing", "features", "driver", "buckets"),
            0,
            "preprocessing.features.driver.buckets: got 0, expected at least 1",
        ),
        (
            ("preprocessing", "features", "comment", "ngrams"),
            6,
            "preprocessing.features.comment.ngrams: got 6, expected at most 5",
        ),
        (
            ("preprocessing", "features", "fare"),
            {"type": "numeric", "name": "cost"},
            "preprocessing.features.fare.name: unknown key; a feature's name is its key, and `column` its "
            "raw column",
        ),
        (
            ("preprocessing", "features", "the fare"),
            {"type": "numeric"},
            "preprocessing.features.the fare: got 'the fare', expected letters, digits and _, a letter first "
            "(the raw column is `column`)",
        ),
        (("model",), "mlp", "model: got 'mlp', expected `key: value` lines"),
        (("model",), {"hidden": [8]}, f"model.type: missing, expected one of {', '.join(MODELS)}"),
        (
            ("model",),
            {"type": "wide"},
            f"model.type: got 'wide', expected one of {', '.join(MODELS)}",
        ),
        (("model",), {"type": "mlp", "dropout": 1.0}, "model.dropout: got 1.0, expected less than 1"),
        (
            ("model",),
            {"type": "cnn", "filters": []},
            "model.filters: got an empty list, expected at least one entry",
        ),
        (
            ("model", "module"),
            "my-module.py",
            r"model.module: got 'my-module.py', expected text that matches ^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$",
        ),
        # What may be one thing or another.
        (
            ("label", "class_weights"),
            "balancd",
            "label.class_weights: got 'balancd', expected balanced or `key: value` lines",
        ),
        (
            ("label", "class_weights"),
            {"1": 0},
            "label.class_weights.1: got 0, expected more than 0",
        ),
        (
            ("label", "class_weights"),
            {1: 2.0},
            "label.class_weights.1: got 1, expected text (in quotes, where it looks like something else)",
        ),
        (
            ("trigger", "on_drift"),
            "yes",
            "trigger.on_drift: got 'yes', expected true or false",
        ),
        (
            ("name",),
            "a b",
            "name: got 'a b', expected text that matches ^[A-Za-z][A-Za-z0-9_-]*$",
        ),
        (
            ("label", "name"),
            2020,
            "label.name: got 2020, expected text (in quotes, where it looks like something else)",
        ),
        (("data", "path"), 3, "data.path: got 3, expected a path"),
        (
            ("engine", "metadata", "type"),
            "oracle",
            "engine.metadata.type: got 'oracle', expected one of mysql, postgresql",
        ),
        (
            ("preprocessing", "features", 7),
            {"type": "numeric"},
            "preprocessing.features: got the name 7, expected text (in quotes, where it looks like a number)",
        ),
        # Settings that contradict each other.
        (
            ("preprocessing", "features", "trip_start_hour"),
            {"type": "identity", "min": 5, "max": 2},
            "preprocessing.features.trip_start_hour: got min 5 and max 2, expected min <= max < min + 100000",
        ),
        (
            ("gates", "metrics"),
            {"auc": {"max_drop": 0.1}},
            "gates: got no min_value, expected one in at least one metric: a cold start has no champion to "
            "compare with",
        ),
        (
            ("replay", "by"),
            ["company"],
            "replay.by: got columns for the scheme reservoir, which only balanced has",
        ),
        (
            ("replay", "holdout_per_span"),
            99,
            "replay.holdout_per_span: got 99, expected at least gates.min_examples, 100: with fewer, "
            "max_past_drop would judge no past span",
        ),
        (
            ("replay", "holdout_capacity"),
            99,
            "replay.holdout_capacity: got 99, expected at least gates.min_examples, 100: with fewer, "
            "max_past_drop would judge no past span",
        ),
        (
            ("gates", "retry_ratio"),
            0.5,
            "gates.retry_ratio: got 0.5, expected more than replay.ratio, 0.5",
        ),
        (
            ("poisoning", "trusted"),
            "company == 'audit'",
            "poisoning.trusted: got one without max_influence, and only the influence is measured on it; set "
            "max_influence, or remove it",
        ),
        (
            ("serving", "grpc_port"),
            8501,
            "serving.grpc_port: got 8501, expected another port than rest_port's",
        ),
        (
            ("label", "name"),
            "fare",
            "preprocessing.features.fare: got the label's name, expected another for the feature",
        ),
        (("label", "name"), "span", "label.name: got 'span', which is the pipeline's own, expected another"),
        (
            ("preprocessing", "features", "numeric"),
            {"type": "categorical"},
            "preprocessing.features.numeric: got 'numeric', which is the pipeline's own, expected another "
            "(the raw column is `column`)",
        ),
        (
            ("preprocessing", "features", "map", "columns"),
            ["a", "b"],
            "preprocessing.features.map: got 2 columns for shape [2, 2, 1], expected 4",
        ),
        (
            ("label", "class_weights"),
            {"yes": 2.0},
            "label.class_weights: got 'yes', expected the classes '0' and '1'",
        ),
        (
            ("label", "log"),
            True,
            "label.log: got true for a binary label, expected it for a regression only",
        ),
        (
            ("label", "task"),
            "multiclass",
            "label.expression: got one for a multiclass label, expected a column of classes",
        ),
        (
            ("label", "task"),
            "regression",
            "gates.metrics.auc: not a metric of a regression task, expected one of r2, mae, rmse",
        ),
        (
            ("label", "example_weight"),
            "big_tip",
            "label.example_weight: got 'big_tip', which is the label, expected a column of its own",
        ),
        (
            ("label", "example_weight"),
            "company",
            "label.example_weight: got 'company', which is a feature, too, expected a column of its own",
        ),
        (
            ("model",),
            {"type": "two_tower", "user": ["fare"], "item": ["company"]},
            "model.type: got two_tower for the tensor 'map', expected another type",
        ),
        (
            ("model",),
            {"type": "two_tower", "user": ["fare"], "item": ["fare"]},
            "model.item: got 'fare', which is in `user`, too, expected it in one tower",
        ),
    ],
)
def test_a_mistake_gets_one_line(
    problems: Callable[[Any], list[str]], keys: Keys, value: Any, message: str
) -> None:
    (problem,) = problems(changed(keys, value))
    sentences = [f". {field.description}" for field in FIELDS.values()]
    assert problem.removeprefix(message) in ("", *sentences)


# Settings that contradict each other across sections, in files that have another model than `FULL`.


@pytest.mark.parametrize(
    ("model", "keys", "value", "message"),
    [
        (
            "two_tower",
            ("model", "item"),
            ["trip_start_huor"],
            "model.item: got 'trip_start_huor', which is not in preprocessing.features",
        ),
        (
            "two_tower",
            ("model", "user"),
            ["fare"],
            "model: 'company' is in neither tower; put it into `user` or `item`, or remove it",
        ),
        (
            "two_tower",
            ("label",),
            {"name": "fare_class", "task": "multiclass"},
            "label.task: got multiclass for a two_tower model, expected binary",
        ),
        (
            "cnn",
            ("preprocessing", "features", "map"),
            MISSING,
            "model.type: got cnn for 0 features of type tensor, expected exactly one",
        ),
        (
            "cnn",
            ("preprocessing", "features", "map2"),
            {"type": "tensor", "shape": [2, 2, 1]},
            "model.type: got cnn for 2 features of type tensor, expected exactly one",
        ),
        (
            "mlp",
            ("preprocessing", "columns"),
            ["tips"],
            "preprocessing.columns: got columns for a `preprocessing_fn` of your own, which only a model of "
            "type custom has; make features of them",
        ),
        (
            "mlp",
            ("preprocessing", "features"),
            {},
            "preprocessing.features: got none, expected at least one entry",
        ),
    ],
)
def test_a_model_and_what_it_does_not_go_with_get_one_line(
    problems: Callable[[Any], list[str]], model: str, keys: Keys, value: Any, message: str
) -> None:
    assert problems(changed(keys, value, model)) == [message]


def test_a_model_of_ones_own_needs_no_features(tmp_path: Path) -> None:
    content = changed(("preprocessing",), {"features": {}, "columns": ["tips", "fare"]})
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(content))
    assert load(tmp_path / "a.yaml").columns == {"fare": True, "tips": True}


@pytest.mark.parametrize("task", DEFAULT_GATES)
def test_a_file_without_metrics_is_judged_by_those_of_its_task(tmp_path: Path, task: str) -> None:
    content = changed(("label",), {"name": "sum", "task": task}, "mlp")
    for gates in ({}, {"metrics": {}}):
        (tmp_path / "a.yaml").write_text(yaml.safe_dump({**content, "gates": gates}))
        assert load(tmp_path / "a.yaml").gate_metrics == DEFAULT_GATES[task]
    content["gates"] = {"metrics": {"log_loss" if task != "regression" else "mae": {"min_value": 2}}}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(content))
    assert list(load(tmp_path / "a.yaml").gate_metrics.values()) == [MetricGate(min_value=2)]


@pytest.mark.parametrize("pattern", ["*.csv", "{SPAN}/{SPAN}/*", "/{SPAN}/*", "{SPAN}/", "*/{SPAN}.csv", ""])
def test_a_pattern_that_finds_nothing_is_refused(problems: Callable[[Any], list[str]], pattern: str) -> None:
    (problem,) = problems(changed(("data", "pattern"), pattern))
    assert problem.startswith(f"data.pattern: got {pattern!r}, expected {{SPAN}} once")


def test_a_label_expression_that_does_not_parse_says_what_is_allowed(
    problems: Callable[[Any], list[str]],
) -> None:
    (problem,) = problems(changed(("label", "expression"), "tips > max(fare)"))
    assert problem.startswith("label.expression: expression 'tips > max(fare)': 'max(fare)' is not allowed; ")


def test_a_condition_of_trusted_rows_that_does_not_parse_says_what_is_allowed(
    problems: Callable[[Any], list[str]],
) -> None:
    content = changed(("poisoning",), {"max_influence": 0.1, "trusted": "max(fare)"})
    (problem,) = problems(content)
    assert problem.startswith(
        "poisoning.trusted: expression 'max(fare)': 'max(fare)' is not allowed; allowed are"
    )


def test_all_mistakes_are_told_at_once(problems: Callable[[Any], list[str]]) -> None:
    content = changed(("replay", "scheme"), "newest")
    content["training"]["epochs"] = -1
    content["trainig"] = {}
    del content["state"]
    assert sorted(problem.split(":")[0] for problem in problems(content)) == [
        "replay.scheme",
        "state",
        "trainig",
        "training.epochs",
    ]


# Files that are no deployment at all.


def refusal(file: Path) -> str:
    with pytest.raises(RetrainError) as error:
        load(file)
    message = str(error.value)
    assert str(file) in message and "Traceback" not in message and "\n" not in message
    return message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "got nothing, expected `key: value` lines"),
        ("# nothing yet\n", "got nothing, expected `key: value` lines"),
        ("- name: shop\n", "got a list, expected `key: value` lines"),
        ("shop\n", "got 'shop', expected `key: value` lines"),
        (
            "name: shop\ndata:\n\tpath: a\n",
            ", line 3, column 1: not valid YAML: .*; indent with spaces, not tabs",
        ),
        ("name: shop\ndata: [\n", ", line 3, column 1: not valid YAML"),
        (
            "name: shop\ndata:\n  pattern: {SPAN}/*.csv\n",
            ", line 3, column 18: not valid YAML: .* quote text",
        ),
        ("label: {expression: `class` == 1}\n", ", line 1, column 21: not valid YAML: .* quote text"),
        ("name: shop\nstate: a\nname: shop2\n", ", line 3, column 1: key 'name' is given twice"),
        ("data:\n  path: a\n  path: b\n", ", line 3, column 3: key 'path' is given twice"),
        (
            "name: !!python/object/apply:os.system ['touch {touched}']\n",
            ", line 1, column 7: .*python.*plain values",
        ),
        ("!!python/object/new:os.system ['touch {touched}']\n", ", line 1, column 1: .*python.*plain values"),
        ("? [a, b]\n: 1\n", ", line 1, column 3: .*unhashable"),
        ("name: *shop\n", ", line 1, column 7: found undefined alias 'shop'"),
        ("name: a\n---\nname: b\n", ", line 2, column 1: expected a single document"),
        ("name: a\0b\n", "not valid YAML: .*#x0000"),
        ("state: 2020-13-45\n", "not valid YAML: month must be in 1..12"),
    ],
)
def test_a_file_that_is_no_deployment(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(text.replace("{touched}", str(tmp_path / "touched")))
    assert re.search(said, refusal(file)), refusal(file)
    assert os.listdir(tmp_path) == ["shop.yaml"]


def test_a_file_that_is_not_utf8_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("name: shop\n# Stra\xdfe\n".encode("latin-1"))
    assert "line 2: byte 0xdf is not UTF-8 text" in refusal(tmp_path / "latin.yaml")
    assert refusal(tmp_path / "gone.yaml").startswith("no such file: ")
    assert "is a folder" in refusal(tmp_path)
    assert "cannot be read (Not a directory)" in refusal(tmp_path / "latin.yaml" / "shop.yaml")


def test_a_schema_that_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    for schema in ("gone.pbtxt", "."):
        file.write_text(yaml.safe_dump(changed(("schema",), schema)))
        assert f"{file}: schema: got {(tmp_path / schema).resolve()}, which is no file" in refusal(file)


# What is read is what is meant.


def test_numbers_are_read_as_anyone_expects(tmp_path: Path) -> None:
    text = yaml.safe_dump(
        {key: value for key, value in FULL.items() if key not in ("training", "warm_start")}
    )
    text += "training: {learning_rate: 1e-3, epochs: 7}\nwarm_start: {learning_rate: 5E-4}\n"
    (tmp_path / "a.yaml").write_text(text)
    deployment = load(tmp_path / "a.yaml")
    assert (deployment.training.learning_rate, deployment.training.epochs) == (0.001, 7)
    assert deployment.warm_start.learning_rate == 0.0005


def test_an_anchor_can_be_merged_and_overridden(tmp_path: Path) -> None:
    content = copy.deepcopy(FULL)
    del content["preprocessing"]
    text = yaml.safe_dump(content) + (
        "preprocessing:\n  features:\n    fare: &amount {type: numeric, log: true}\n"
        "    tolls: {<<: *amount, log: false}\n"
    )
    (tmp_path / "a.yaml").write_text(text)
    assert [feature.log for feature in load(tmp_path / "a.yaml").preprocessing.specs()] == [True, False]


def test_relative_paths_start_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    (home / "configs").mkdir(parents=True)
    elsewhere.mkdir()
    (home / "schema.pbtxt").write_text("")
    content = {
        **FULL,
        "schema": "../schema.pbtxt",
        "state": "../state",
        "data": {"path": "../data"},
        "serving": {"path": "../served"},
        "registry": {"uri": "sqlite:///../registry.sqlite"},
    }
    (home / "configs" / "shop.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(elsewhere)
    for file in (home / "configs" / "shop.yaml", Path("../home/configs/shop.yaml")):
        deployment = load(file)
        assert deployment.schema_path == home / "schema.pbtxt"
        assert deployment.state == home / "state"
        assert deployment.data.path == home / "data"
        assert deployment.model_config_file == home / "served" / "models.config"
        assert deployment.registry_uri == f"sqlite:///{home}/registry.sqlite"
        assert deployment.registry_artifacts == str(home / "state" / "mlflow")
    # What is named on the command line starts from where the command is given.
    deployment = load(file, state=Path("mine"), data=Path("../spans"))
    assert deployment.state == elsewhere / "mine"
    assert deployment.data.path == tmp_path / "spans"
    assert deployment.schema_path == home / "schema.pbtxt"


def test_a_registry_server_keeps_its_own_artifacts(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        yaml.safe_dump(changed(("registry", "uri"), "https://mlflow.example:5000"))
    )
    deployment = load(tmp_path / "a.yaml")
    assert (deployment.registry_uri, deployment.registry_artifacts) == ("https://mlflow.example:5000", "")


def test_a_deployment_does_not_change() -> None:
    deployment = load(ROOT / "configs" / "taxi.yaml")
    with pytest.raises(ValueError, match="frozen"):
        deployment.training.epochs = 3  # type: ignore[misc]


def test_the_walk_of_these_tests_meets_every_section() -> None:
    features = file_fields(file_fields(Deployment)["preprocessing"].annotation)["features"]
    assert set(kinds(get_args(features.annotation)[1])) == set(FEATURES)
    assert set(kinds(file_fields(Deployment)["model"].rebuild_annotation())) == set(MODELS)
    assert {type_.__name__ for type_ in SECTIONS.values()} >= {"Data", "Label", "MetricGate", "Database"}
    assert set(SECTIONS.values()) >= {*FEATURES.values(), *MODELS.values()}
