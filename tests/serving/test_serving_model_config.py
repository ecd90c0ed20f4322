import doctest
import subprocess
import sys
from pathlib import Path

import pytest

from serving import model_config
from serving.errors import ModelConfigError
from serving.model_config import (
    ModelConfig,
    VersionPolicy,
    read_model_config,
    write_model_config,
)


def entry(rest: str = "", name: str = "taxi") -> str:
    return f'config {{ name: "{name}" base_path: "/m/{name}" model_platform: "tensorflow" {rest} }}'


def read(path: Path, text: str) -> tuple[ModelConfig, ...]:
    path.write_text(text)
    return read_model_config(path)


def test_examples_in_docstrings():
    assert doctest.testmod(model_config).failed == 0


def test_what_is_written_is_read_back(config_file):
    write_model_config(config_file, "taxi", "models/taxi", [5, 4], {"champion": 5, "previous": 4})
    assert read_model_config(config_file) == (
        ModelConfig(
            name="taxi",
            base_path=config_file.parent / "models/taxi",
            policy=VersionPolicy(latest=None, specific=(4, 5)),
            labels={"champion": 5, "previous": 4},
        ),
    )


def test_writing_one_model_keeps_the_others_and_leaves_no_other_file(config_file):
    write_model_config(config_file, "taxi", "/m/taxi", [1])
    write_model_config(config_file, "elec", "/m/elec", [7], {"champion": 7})
    write_model_config(config_file, "taxi", "/m/taxi", [2])
    versions = {model.name: model.policy.specific for model in read_model_config(config_file)}
    assert versions == {"taxi": (2,), "elec": (7,)}
    assert list(config_file.parent.iterdir()) == [config_file]


def test_models_keep_their_places_and_a_file_that_says_so_already_is_not_touched(config_file):
    for name in ("taxi", "elec"):
        write_model_config(config_file, name, name, [1])
    write_model_config(config_file, "taxi", "taxi", [2])
    assert [model.name for model in read_model_config(config_file)] == ["taxi", "elec"]
    before = config_file.stat()
    write_model_config(config_file, "taxi", "taxi", [2])
    after = config_file.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_the_folder_of_the_file_is_made(tmp_path):
    write_model_config(tmp_path / "a" / "b" / "models.config", "taxi", "/m", [1])
    assert read_model_config(tmp_path / "a" / "b" / "models.config")[0].name == "taxi"


@pytest.mark.parametrize(
    ("versions", "labels", "message"),
    [
        ([], {}, "at least one"),
        ([-1], {}, "none negative"),
        ([4], {"champion": 5}, "label 'champion' on version 5"),
        ([4], {"": 4}, "label ''"),
    ],
)
def test_contradictions_are_not_written(config_file, versions, labels, message):
    with pytest.raises(ModelConfigError, match=message):
        write_model_config(config_file, "taxi", "/m", versions, labels)
    assert not config_file.exists()


def test_a_file_that_does_not_parse_is_not_overwritten(config_file):
    config_file.write_text("model_config_list {")
    with pytest.raises(ModelConfigError, match="not a ModelServerConfig"):
        write_model_config(config_file, "taxi", "/m", [1])
    assert config_file.read_text() == "model_config_list {"


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("", VersionPolicy(latest=1)),
        ("model_version_policy { latest { } }", VersionPolicy(latest=1)),
        ("model_version_policy { latest { num_versions: 2 } }", VersionPolicy(latest=2)),
        ("model_version_policy { all { } }", VersionPolicy(latest=None)),
        (
            "model_version_policy { specific { versions: 9 versions: 3 versions: 9 } }",
            VersionPolicy(latest=None, specific=(3, 9)),
        ),
    ],
)
def test_policies(config_file, policy, expected):
    (model,) = read(config_file, f"model_config_list {{ {entry(policy)} }}")
    assert model.policy == expected


def test_an_absolute_base_path_stays(config_file):
    (model,) = read(config_file, f"model_config_list {{ {entry()} }}")
    assert model.base_path == Path("/m/taxi")


def test_a_file_for_servers_elsewhere_is_read_here_too(config_file):
    text = f"model_config_list {{ {entry()} }}"
    (config_file.parent / "taxi").mkdir()
    assert read(config_file, text)[0].base_path == config_file.parent / "taxi"
    (config_file.parent / "taxi").rmdir()
    assert read(config_file, text)[0].base_path == Path("/m/taxi")


def test_an_empty_file_has_no_models(config_file):
    assert read(config_file, "") == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model_config_list {", "not a ModelServerConfig"),
        ("model_config_list { config { nmae: 'taxi' } }", "nmae"),
        ("\xff", "not a ModelServerConfig"),
        ("model_config_list { config { base_path: '/m' model_platform: 'tensorflow' } }", "needs name"),
        ("model_config_list { config { name: 'taxi' model_platform: 'tensorflow' } }", "base_path"),
        ("model_config_list { config { name: 'taxi' base_path: '/m' } }", "model_platform ''"),
        (f"model_config_list {{ {entry()} {entry()} }}", "taxi is listed more than once"),
        ("custom_model_config { }", "custom_model_config"),
    ],
)
def test_what_cannot_be_served_is_refused(config_file, text, message):
    with pytest.raises(ModelConfigError, match=message) as error:
        read(config_file, text)
    assert str(config_file) in str(error.value)


def test_importing_it_imports_no_tensorflow():
    code = "import sys, serving.model_config, serving.errors; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
