"""The file that servers start from, and what they are told: the model in question, and all others."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from components.errors import RetrainError
from components.push.pool import Pool

OTHERS = """
model_config_list {
  config { name: "a" base_path: "a" model_platform: "tensorflow" version_labels { key: "mine" value: 3 } }
  config { name: "shop" base_path: "old" model_platform: "tensorflow" }
  config { name: "b" base_path: "/models/b" model_platform: "tensorflow" }
  config { name: "c" base_path: "gs://bucket/c" model_platform: "tensorflow" }
}
"""


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return Pool(
        model="shop",
        config_file=tmp_path / "serving" / "models.config",
        folder="/mounted",
        servers=("one:8500",),
        quorum=1,
        deadline_seconds=1.0,
    )


def parsed(text: str) -> model_server_config_pb2.ModelServerConfig:
    return text_format.Parse(text, model_server_config_pb2.ModelServerConfig())


def shop(versions: str, labels: str = "") -> str:
    return (
        f'config {{ name: "shop" base_path: "/mounted/shop" model_platform: "tensorflow" {labels} '
        f"model_version_policy {{ specific {{ {versions} }} }} }}"
    )


def test_servers_are_told_absolute_paths_and_keep_their_other_models(pool: Pool) -> None:
    assert pool.told([4], {}) == parsed(f"model_config_list {{ {shop('versions: 4')} }}")
    pool.config_file.parent.mkdir()
    pool.config_file.write_text(OTHERS)
    told = pool.told({5, 4}, {"stable": 4})
    assert {model.name: model.base_path for model in told.model_config_list.config} == {
        "a": "/mounted/a",
        "shop": "/mounted/shop",
        "b": "/models/b",
        "c": "gs://bucket/c",
    }
    ours = 'version_labels { key: "stable" value: 4 }'
    assert (
        told.model_config_list.config[1]
        == parsed(
            f"model_config_list {{ {shop('versions: 4 versions: 5', ours)} }}"
        ).model_config_list.config[0]
    )
    assert dict(told.model_config_list.config[0].version_labels) == {"mine": 3}
    assert [model.name for model in pool.told([], {}).model_config_list.config] == ["a", "b", "c"]


def test_the_file_is_written_whole_and_only_where_it_changes(pool: Pool) -> None:
    pool.write()
    assert parsed(pool.config_file.read_text()).WhichOneof("config") == "model_config_list"
    pool.config_file.write_text(OTHERS)
    pool.write(5)
    config = parsed(pool.config_file.read_text()).model_config_list.config
    assert [(model.name, model.base_path) for model in config] == [
        ("a", "a"),
        ("shop", "/mounted/shop"),
        ("b", "/models/b"),
        ("c", "gs://bucket/c"),
    ]
    assert list(config[1].model_version_policy.specific.versions) == [5]
    assert dict(config[1].version_labels) == {"stable": 5}
    assert [path.name for path in pool.config_file.parent.iterdir()] == ["models.config"]
    before = pool.config_file.stat()
    pool.write(5)
    after = pool.config_file.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    pool.write(5, "canary")
    assert pool.config_file.stat().st_ino != before.st_ino


def test_a_file_that_does_not_parse_is_named_and_stays(pool: Pool) -> None:
    pool.config_file.parent.mkdir()
    pool.config_file.write_text("model_config_list {")
    for call in (lambda: pool.write(5), lambda: pool.told([5], {})):
        with pytest.raises(RetrainError, match=r"models\.config: not a ModelServerConfig in text format"):
            call()
    assert pool.config_file.read_text() == "model_config_list {"


def test_it_goes_through_json_as_a_parameter_of_a_component(pool: Pool, tmp_path: Path) -> None:
    full = pool.model_copy(
        update={"ca": tmp_path / "ca.pem", "token_env": "TOKEN", "champion": 4, "tls": True}
    )
    assert Pool.model_validate_json(full.model_dump_json()) == full
    assert Pool.model_validate_json(pool.model_dump_json()) == pool
