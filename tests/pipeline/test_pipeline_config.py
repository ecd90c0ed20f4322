"""Configuration: what loads, and the one message that each mistake gets."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import yaml

from components.errors import RetrainError
from components.features import Feature
from pipeline.config import AnyFeature, Deployment, Section, load

ROOT = Path(__file__).parents[2]
TAXI = yaml.safe_load((ROOT / "configs" / "taxi.yaml").read_text())
ONE_OF_EACH = ("fare", "company", "trip_start_hour")  # a numeric, a categorical and an identity feature
DATABASE = {"type": "mysql", "host": "db", "port": 3306, "database": "mlmd", "user": "me"}
FULL = {
    **TAXI,
    "schema": str(ROOT / "schemas" / "taxi.pbtxt"),
    "engine": {"metadata": DATABASE},
    "preprocessing": {"features": {name: TAXI["preprocessing"]["features"][name] for name in ONE_OF_EACH}},
}
MISSING = object()

Place = tuple[str | int, ...]


def sections(here: Any = Deployment, place: Place = ()) -> Iterator[tuple[Place, type[Section]]]:
    """Every section of the model, with a place in `FULL` where it is, or could be."""
    if get_origin(here) is dict:
        value = get_args(here)[1]
        if value is AnyFeature:
            for kind, name in zip(get_args(get_args(AnyFeature)[0]), ONE_OF_EACH, strict=True):
                yield from sections(kind, (*place, name))
        else:
            yield from sections(value, (*place, "auc"))
    elif isinstance(here, type) and issubclass(here, Section):
        yield place, here
        for name, field in here.model_fields.items():
            yield from sections(field.annotation, (*place, field.alias or name))
    elif type(None) in get_args(here):
        yield from sections(get_args(here)[0], place)


SECTIONS = dict(sections())
FIELDS = {
    (*place, field.alias or name): field
    for place, section in SECTIONS.items()
    for name, field in section.model_fields.items()
}


def dotted(place: Place) -> str:
    return ".".join(map(str, place))


def changed(place: Place, value: Any) -> dict[str, Any]:
    """`FULL` with another value at a place, or without any."""
    content = copy.deepcopy(FULL)
    here: Any = content
    for key in place[:-1]:
        here = here.setdefault(key, {}) if isinstance(here, dict) else here[key]
    if value is MISSING:
        del here[place[-1]]
    else:
        here[place[-1]] = value
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
    assert deployment.preprocessing.specs()[0] == Feature("fare", "fare", "numeric", log=True)
    assert deployment.preprocessing.specs()[-1] == Feature(
        "trip_start_month", "trip_start_month", "identity", min=1, max=12
    )


def test_what_a_file_leaves_out_has_the_documented_default(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    needed = ("name", "schema", "state", "label", "preprocessing")
    file.write_text(yaml.safe_dump({**{k: FULL[k] for k in needed}, "data": {"path": "d"}}))
    deployment = load(file)
    assert deployment.data.pattern == "{SPAN}/*"
    assert deployment.warm_start.enabled and deployment.warm_start.epochs == 5
    assert deployment.registry_name == "taxi"
    assert deployment.registry_uri == f"sqlite:///{deployment.state}/registry.sqlite"
    assert deployment.serving_path == deployment.state / "serving"
    assert deployment.base_path == deployment.state / "serving" / "taxi"


@pytest.mark.parametrize("place", FIELDS, ids=dotted)
def test_every_field_has_a_sentence_and_a_type(place: Place) -> None:
    field = FIELDS[place]
    assert field.description and len(field.description) > 8 and field.description.endswith(".")
    assert field.annotation not in (None, Any, object, dict, list)


def test_defaults_can_be_written_out(tmp_path: Path) -> None:
    needed = ("name", "schema", "state", "label", "preprocessing", "data")
    (tmp_path / "short.yaml").write_text(yaml.safe_dump({key: FULL[key] for key in needed}))
    short = load(tmp_path / "short.yaml")
    (tmp_path / "long.yaml").write_text(yaml.safe_dump(short.model_dump(mode="json", by_alias=True)))
    assert load(tmp_path / "long.yaml") == short


# Every place of the file, systematically.


@pytest.mark.parametrize("place", SECTIONS, ids=lambda p: dotted(p) or "top")
def test_an_unknown_key_is_refused_and_all_that_is_allowed_there_is_named(
    problems: Callable[[Any], list[str]], place: Place
) -> None:
    (problem,) = problems(changed((*place, "zzz"), 1))
    allowed = ", ".join(field.alias or name for name, field in SECTIONS[place].model_fields.items())
    assert problem == f"{dotted((*place, 'zzz'))}: unknown key (allowed here: {allowed})"


@pytest.mark.parametrize("place", FIELDS, ids=dotted)
def test_a_key_with_a_typo_gets_the_right_one_back(
    problems: Callable[[Any], list[str]], place: Place
) -> None:
    *above, key = place
    typo = f"{key}s" if key != "type" else "tpye"
    found = problems(changed((*above, typo), 1))
    assert f"{dotted((*above, typo))}: unknown key; did you mean {key}? (allowed here: " in "\n".join(found)


@pytest.mark.parametrize(
    "place", [place for place, field in FIELDS.items() if field.is_required()], ids=dotted
)
def test_a_required_key_that_is_missing_is_explained(
    problems: Callable[[Any], list[str]], place: Place
) -> None:
    (problem,) = problems(changed(place, MISSING))
    assert problem.startswith(f"{dotted(place)}: missing, ")
    assert place[-1] == "type" or problem.endswith(FIELDS[place].description or "-")


@pytest.mark.parametrize("place", [place for place in FIELDS if place != ("schema",)], ids=dotted)
def test_a_value_of_a_wrong_type_gets_no_jargon(tmp_path: Path, place: Place) -> None:
    refused = 0
    for value in ([{}], {"a": [1]}, "..."):
        (tmp_path / "shop.yaml").write_text(yaml.safe_dump(changed(place, value)))
        try:
            load(tmp_path / "shop.yaml")
        except RetrainError as error:
            first, *found = str(error).splitlines()
            assert first == f"{tmp_path}/shop.yaml is not a valid deployment:"
            assert any(line.startswith(f"  {dotted(place)}") for line in found)
            for line in found:
                assert any(
                    word in line for word in (": got ", ": missing", ": unknown key", ": label expression")
                )
            for jargon in ("nput should", "dictionary", "instance", "class", "None", "pydantic", "[key]"):
                assert jargon not in str(error)
            refused += 1
    assert refused >= 2


# One message a kind of mistake, in full.


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("replay", "scheme"), "resevoir", "replay.scheme: got 'resevoir', expected one of reservoir"),
        (
            ("training", "optimizer"),
            "Adamw",
            "training.optimizer: got 'Adamw', expected one of adam, adamw, rmsprop, adagrad, sgd, nadam; "
            "did you mean adamw?",
        ),
        (
            ("preprocessing", "features", "fare", "type"),
            "numreic",
            "preprocessing.features.fare.type: got 'numreic', expected one of numeric, categorical, "
            "identity; did you mean numeric?",
        ),
        (
            ("preprocessing", "features", "fare", "type"),
            None,
            "preprocessing.features.fare.type: got nothing, expected one of numeric, categorical, identity",
        ),
        (
            ("gates", "metrics", "acu"),
            {"min_value": 0.5},
            "gates.metrics.acu: unknown key; did you mean auc? "
            "(allowed here: auc, pr_auc, accuracy, log_loss)",
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
            ("model", "hidden", 1),
            "32",
            "model.hidden.1: got '32', expected a whole number",
        ),
        (
            ("model", "hidden"),
            [],
            "model.hidden: got an empty list, expected at least one entry",
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
            "preprocessing.features.7: got 7, expected text (in quotes, where it looks like something else)",
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
            ("replay", "holdout_per_span"),
            99,
            "replay.holdout_per_span: got 99, expected at least gates.min_examples, 100: with fewer, "
            "max_past_drop would judge no past span",
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
            "preprocessing.features: got 'numeric', which is the pipeline's own, expected another "
            "(the column's is `column`)",
        ),
    ],
)
def test_a_mistake_gets_one_line(
    problems: Callable[[Any], list[str]], place: Place, value: Any, message: str
) -> None:
    (problem,) = problems(changed(place, value))
    field = FIELDS.get(place) or FIELDS.get(place[:-1])
    assert problem in (message, f"{message}. {field.description if field else ''}")


@pytest.mark.parametrize("pattern", ["*.csv", "{SPAN}/{SPAN}/*", "/{SPAN}/*", "{SPAN}/", "*/{SPAN}.csv", ""])
def test_a_pattern_that_finds_nothing_is_refused(problems: Callable[[Any], list[str]], pattern: str) -> None:
    (problem,) = problems(changed(("data", "pattern"), pattern))
    assert problem.startswith(f"data.pattern: got {pattern!r}, expected {{SPAN}} once")


def test_a_label_expression_that_does_not_parse_says_what_is_allowed(
    problems: Callable[[Any], list[str]],
) -> None:
    (problem,) = problems(changed(("label", "expression"), "tips > max(fare)"))
    assert problem.startswith(
        "label.expression: label expression 'tips > max(fare)': 'max(fare)' is not allowed; "
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
    assert set(SECTIONS.values()) == set(Section.__subclasses__())
