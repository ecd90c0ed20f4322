"""What `retrain show` says of the exported model, and of the one for devices."""

from pipeline.matrix import told

SMOKE = {
    "problems": [],
    "seconds": 6.04,
    "memory_mb": 1705,
    "load_seconds": 0.6,
    "first_request_ms": {"cold": 1421.5, "warm": 0.62},
    "largest_difference": 1.2e-7,
    "examples": 100,
    "latency_ms": {"serving_default": {"p50": 0.49, "p99": 1.25, "requests": 200}},
}
EDGE = {
    "problems": [],
    "quantization": "int8",
    "seconds": 9.0,
    "memory_mb": 800,
    "size": 93224,
    "operations": [],
    "latency_ms": {"p50": 0.3, "p99": 2.0},
    "examples": 500,
    "not_finite": 0,
    "difference": 0.0123,
    "metric": "auc",
    "value": 0.9012,
    "base": 0.9034,
    "drop": 0.0022,
}


def test_a_version_of_before_there_was_either():
    assert told({}) == {}


def test_the_smoke_test():
    assert told({"smoke": SMOKE}) == {
        "smoke test": "6.0 s, 1,705 MiB; 100 answers differ by up to 1.2e-07; serving_default 0.49 ms (99 %: "
        "1.2 ms); first request 0.62 ms, without warm-up 1,422 ms"
    }


def test_a_smoke_test_that_failed():
    broken = {"problems": ["the SavedModel does not answer: ..."], "seconds": 300.2, "memory_mb": 512}
    assert told({"smoke": broken}) == {"smoke test": "300.2 s, 512 MiB; the SavedModel does not answer: ..."}


def test_the_tflite_model():
    figures = "mean difference 0.012 on 500 rows; auc 0.9012, the SavedModel's 0.9034; 0.3 ms"
    text = f"quantization int8; 91 KiB; {figures}"
    assert told({"edge": EDGE}) == {"TFLite model": text}
    assert told({"edge": {**EDGE, "problems": ["a", "b"]}}) == {"TFLite model": f"left out: a; b; {text}"}
    unmade = {"problems": ["it was not done after 600 s"], "quantization": "none", "seconds": 600.0}
    assert told({"edge": unmade}) == {
        "TFLite model": "left out: it was not done after 600 s; quantization none"
    }
