"""What is exported: rejected where it is too slow to serve, with a TFLite model beside it, and shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.harness import Deployment, retrain

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("e2e-export"), pytest.mark.timeout(600)]

SMALL = {
    "preprocessing": {
        "features": {"fare": {"type": "numeric", "log": True}, "payment_type": {"type": "categorical"}}
    },
    "training": {"epochs": 2},
    "gates": {"metrics": {"auc": {"min_value": 0.6}}},
}


def test_a_version_that_is_too_slow_is_rejected_with_the_numbers(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path / "taxi")
    deployment.put(1)
    deployment.configure(**SMALL, smoke={"max_latency_ms": 1e-3}, edge={"quantization": "dynamic"})
    result = deployment.run()
    assert result.code == 0, result.err
    (run,) = result.lines
    assert run["blessed"] is False and run["served"] is None
    slow = [text for text in run["gate"] if text.endswith("allowed 0.001 ms (smoke.max_latency_ms)")]
    assert len(slow) == 2 and run["gate"][-1] == "all 1 checks passed"

    (shown,) = retrain("show", deployment.config, 1, "--json").lines
    smoke, edge = shown["record"]["smoke"], shown["record"]["edge"]
    assert smoke["problems"] == slow and smoke["examples"] == 100 and smoke["largest_difference"] < 1e-6
    assert smoke["first_request_ms"]["warm"] < smoke["first_request_ms"]["cold"]
    # The TFLite model is as good as the SavedModel, and stays with the version, here and in the registry.
    assert edge["problems"] == [] and edge["difference"] < 0.01
    kept = Path(shown["uris"]["edge"]) / "model.tflite"
    (copy,) = (deployment.state / "mlflow").rglob("model.tflite")
    assert kept.read_bytes() == copy.read_bytes() and kept.stat().st_size == edge["size"]
    text = retrain("show", deployment.config, 1).out
    assert "smoke test" in text and "smoke.max_latency_ms" in text
    assert "TFLite model" in text and "quantization dynamic" in text
