"""How the stages are wired, without running any."""

from pathlib import Path

import pytest
import yaml

from pipeline import config, graph
from pipeline.config import schema

ROOT = Path(__file__).parents[2]


@pytest.fixture
def wired(tmp_path):
    """A cold start of the taxi deployment with changed sections: node -> input -> the node that made it."""

    def build(**sections):
        content = yaml.safe_load((ROOT / "configs" / "taxi.yaml").read_text())
        content |= {"schema": str(ROOT / "schemas" / "taxi.pbtxt"), "state": str(tmp_path), **sections}
        file = tmp_path / "taxi.yaml"
        file.write_text(yaml.safe_dump(content))
        deployment = config.load(file)
        complete = schema.complete_schema(deployment, schema.read_schema(deployment.schema_path))
        run = graph.Run(
            spans={1: [tmp_path / "rows.csv"]},
            files={1: {}},
            base=None,
            past_spans=(),
            again=(),
            newest=True,
            watermark=1,
            schema_file=schema.write_schema(complete, tmp_path / "schemas"),
            fingerprint="",
        )
        pipeline = graph.build(deployment, run, complete, [], None)
        return {
            node.id: {
                name: getattr(channel, "producer_component_id", None) for name, channel in node.inputs.items()
            }
            for node in pipeline.components
        }

    return build


PATH = ["schema", "ingest", "statistics", "anomalies", "decide", "replay", "transform", "train"]
JUDGED = ["evaluate", "smoke", "gate", "register", "push", "promote"]


def test_the_exported_model_is_asked_before_it_is_judged(wired):
    nodes = wired()
    assert set(nodes) == {*PATH, *JUDGED}
    assert nodes["smoke"]["model"] == nodes["evaluate"]["model"] == "train"
    assert nodes["gate"]["smoke"] == "smoke" and "edge" not in nodes["gate"]


def test_a_tflite_model_is_kept_and_judged_only_where_it_must_be_good(wired):
    nodes = wired(edge={"quantization": "int8"})
    assert set(nodes) == {*PATH, "edge", *JUDGED}
    assert nodes["edge"] == nodes["edge"] | {"model": "train", "buffer": "replay"}
    assert nodes["register"]["edge"] == "edge" and "edge" not in nodes["gate"]
    assert wired(edge={"required": True})["gate"]["edge"] == "edge"
