"""The small files that stages leave for each other."""

import pytest
from tfx.types import standard_artifacts

from components.artifacts import folder_of, read_json, read_schema, write_json
from components.errors import RetrainError


def test_a_stage_reads_what_another_has_left(tmp_path):
    write_json(str(tmp_path / "decision" / "7"), "decision.json", {"action": "train", "rows": {"3": 1000}})
    assert read_json(str(tmp_path / "decision" / "7"), "decision.json") == {
        "action": "train",
        "rows": {"3": 1000},
    }


def test_a_schema(tmp_path):
    (tmp_path / "schema.pbtxt").write_text('feature { name: "fare" type: FLOAT }')
    (feature,) = read_schema(str(tmp_path)).feature
    assert feature.name == "fare"


def test_a_schema_artifact_without_a_schema(tmp_path):
    with pytest.raises(RetrainError, match=r"schema\.pbtxt: there is no such file"):
        read_schema(str(tmp_path))


def test_an_artifact_whose_folder_is_gone(tmp_path):
    model = standard_artifacts.Model()
    model.uri = str(tmp_path / "7")
    with pytest.raises(RetrainError, match=r"Model .*/7 is not there.*Restore the folder"):
        folder_of([model])
    (tmp_path / "7").mkdir()
    assert folder_of([model]) == model.uri
