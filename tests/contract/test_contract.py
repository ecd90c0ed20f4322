"""What every component of ours must keep to."""

import copy
import importlib
import inspect
import json
import re
from pathlib import Path

import pytest
import tensorflow as tf
from cases import CASES, Material, content, execute, make
from tfx.types import channel_utils, standard_artifacts
from tfx.types.artifact import Artifact

from components import bounded
from components.errors import RetrainError

pytestmark = pytest.mark.xdist_group("contract")

every_component = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@pytest.fixture(scope="session")
def material(tmp_path_factory):
    return Material(tmp_path_factory.mktemp("material"))


def inputs_of(arguments):
    return {name: value for name, value in arguments.items() if isinstance(value, Artifact)}


@pytest.fixture(autouse=True)
def no_other_process(monkeypatch):
    """What a stage does in a process of its own it does here: how these end is tested with them."""

    def here(module, request, max_seconds, max_memory_mb):
        found = importlib.import_module(module).look(request, lambda _: None)
        return bounded.Ended(found, "", seconds=1.0, memory_mb=100)

    monkeypatch.setattr(bounded, "run", here)


def describe(outputs, folder, measured):
    """All that is in the outputs: files and properties, without where and when they were made."""

    def normal(data):
        return data.replace(str(folder).encode(), b"FOLDER")

    def file(path, data):
        if not measured or not path.endswith(".json"):
            return normal(data)
        return {key: value for key, value in json.loads(data).items() if key not in measured}

    def examples(path):
        records = tf.data.TFRecordDataset(str(path), "GZIP").as_numpy_iterator()
        return [tf.train.Example.FromString(record) for record in records]

    return {
        name: (
            {
                path: examples(Path(output.uri, path)) if path.endswith(".gz") else file(path, data)
                for path, data in content(Path(output.uri)).items()
            },
            {
                key: normal(str(value).encode())
                for properties in (output.mlmd_artifact.properties, output.mlmd_artifact.custom_properties)
                for key, value in sorted(properties.items())
            },
        )
        for name, output in outputs.items()
    }


@every_component
def test_everything_that_it_takes_and_gives_is_documented(case):
    assert case.component.__doc__
    text = inspect.cleandoc(case.component.__doc__) + "\n" + inspect.getdoc(case.component.__init__)
    arguments = text.split("Args:\n", 1)[1]
    documented = {
        name for line in re.findall(r"^ +([\w, ]+): ", arguments, re.MULTILINE) for name in line.split(", ")
    }
    taken = inspect.signature(case.component.__init__).parameters.keys() - {"self"}
    assert documented >= taken
    spec = case.component.SPEC_CLASS
    assert set(spec.INPUTS) <= taken or "inputs" in taken  # of Register, which takes all of them alike
    given = text.split("Outputs:\n", 1)[1] if spec.OUTPUTS else ""
    assert set(re.findall(r"^ *- `(\w+)`: ", given, re.MULTILINE)) == set(spec.OUTPUTS)


@every_component
def test_what_it_cannot_use_is_refused_before_anything_runs(case, material, tmp_path):
    arguments = case.arguments(tmp_path, material)
    assert set(make(case.component, arguments).outputs) == set(case.component.SPEC_CLASS.OUTPUTS)
    for wrong, fact in case.wrong:
        with pytest.raises((RetrainError, TypeError, ValueError), match=re.escape(fact)):
            make(case.component, arguments | wrong)
    another = channel_utils.as_channel([standard_artifacts.HyperParameters()])
    for name in inputs_of(arguments):
        with pytest.raises(TypeError, match="HyperParameters"):
            make(case.component, arguments | {name: another})


@every_component
def test_the_same_inputs_give_the_same_outputs_and_stay_as_they_are(case, material, tmp_path):
    arguments = case.arguments(tmp_path, material)
    before = {name: content(Path(value.uri)) for name, value in inputs_of(arguments).items()}
    seen = []
    for again in ("first", "second"):
        outputs = execute(case.component, arguments, tmp_path / again)
        seen.append((describe(outputs, tmp_path / again, case.measured), case.state(arguments)))
    assert seen[0] == seen[1]
    assert {name: content(Path(value.uri)) for name, value in inputs_of(arguments).items()} == before


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.last])
def test_after_a_try_that_ended_halfway_the_next_one_is_whole(name, material, tmp_path):
    case = CASES[name]
    output, file = case.last
    (tmp_path / "whole").mkdir()
    whole = case.arguments(tmp_path / "whole", material)
    first = execute(case.component, whole, tmp_path / "whole" / "out")
    expected = describe(first, tmp_path / "whole", case.measured)

    (tmp_path / "again").mkdir()
    arguments = case.arguments(tmp_path / "again", material)
    in_the_way = tmp_path / "halfway" / output / file
    in_the_way.mkdir(parents=True)
    with pytest.raises(Exception, match=re.escape(str(in_the_way))):
        execute(case.component, arguments, tmp_path / "halfway")
    outputs = execute(case.component, arguments, tmp_path / "again" / "out")
    assert describe(outputs, tmp_path / "again", case.measured) == expected
    assert case.state(arguments) == case.state(whole)


@pytest.mark.parametrize(
    ("name", "missing"), [(name, missing) for name, case in CASES.items() for missing in case.reads]
)
def test_a_missing_input_is_named(name, missing, material, tmp_path):
    case = CASES[name]
    arguments = case.arguments(tmp_path, material)
    before = case.state(arguments)
    gone = copy.deepcopy(arguments[missing])
    gone.uri = str(tmp_path / "gone")
    with pytest.raises((RetrainError, OSError), match=re.escape(gone.uri)):
        execute(case.component, arguments | {missing: gone}, tmp_path / "out")
    assert case.state(arguments) == before


def test_registering_twice_makes_one_version(material, tmp_path):
    case = CASES["register"]
    arguments = case.arguments(tmp_path, material)
    numbers = [execute(case.component, arguments, tmp_path / run)["version"].version for run in "ab"]
    assert numbers == [1, 1]
    key = f"{material.model.uri} {material.buffer.uri}"
    assert case.state(arguments) == (None, [(1, key, 0)])
