"""What the evaluate stage costs as past spans pile up: `python -m tests.bench.learning.evaluation`, a minute.

The same number of held-out examples, of 5, 20 and 50 spans, by a candidate and a champion; beside it the
same with TFMA's own AUC, which is what made an update cost more with every span.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

ROWS = 500
SPANS = (5, 20, 50)
RUNS = 5
TYPES = {"score": "FLOAT", "label": "INT", "span": "INT"}


def measure(work: Path) -> dict[str, Any]:
    """Processor seconds of the stage: medians of several runs, ours and TFMA's turn by turn."""
    import tfx.components.evaluator.executor  # noqa: F401 - before it, TFMA has no messages

    from components.evaluate.component import eval_config
    from components.label import Label

    ours, stock = (eval_config(Label(name="label"), ["auc"], [], baseline=True) for _ in range(2))
    for metric in stock.metrics_specs[1].metrics:
        if metric.class_name == "BinaryAUC":
            metric.class_name, metric.module = "AUC", ""
    models = [_save_model(work / name, factor) for name, factor in (("candidate", 1.0), ("champion", 0.5))]
    examples = {spans: _write_examples(work / str(spans), spans) for spans in SPANS}
    (work / "schema").mkdir()
    (work / "schema/schema.pbtxt").write_text(
        "".join(f'feature {{ name: "{n}" type: {kind} }}\n' for n, kind in TYPES.items())
    )
    _evaluate(work, examples[SPANS[0]], models, ours)  # what is imported and compiled once
    found: dict[str, dict[int, list[float]]] = {name: {s: [] for s in SPANS} for name in ("ours", "TFMA's")}
    for _ in range(RUNS):
        for spans in SPANS:
            for name, config in (("ours", ours), ("TFMA's", stock)):
                found[name][spans].append(_evaluate(work, examples[spans], models, config))
    return {
        "rows": ROWS,
        "processor_seconds": {
            name: {spans: round(statistics.median(runs), 2) for spans, runs in by_spans.items()}
            for name, by_spans in found.items()
        },
    }


def _write_examples(folder: Path, spans: int) -> Path:
    import numpy as np
    import tensorflow as tf

    from tests.components.conftest import serialize

    random = np.random.default_rng(spans)
    labels = (random.random(ROWS) < 0.4).astype(int).tolist()
    rows = [
        {"span": 1 + i % spans, "label": label, "score": float(random.normal(label))}
        for i, label in enumerate(labels)
    ]
    (folder / "Split-eval").mkdir(parents=True)
    with tf.io.TFRecordWriter(str(folder / "Split-eval/data_tfrecord-00000-of-00001.gz"), "GZIP") as writer:
        for record in serialize(rows, TYPES):
            writer.write(record)
    return folder


def _save_model(folder: Path, factor: float) -> Path:
    import tensorflow as tf

    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serving_default(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        parsed = tf.io.parse_example(examples, {"score": tf.io.FixedLenFeature([], tf.float32)})
        return {"predictions": tf.sigmoid(factor * parsed["score"])}

    module.serve = serving_default
    tf.saved_model.save(
        module, str(folder / "Format-Serving"), signatures={"serving_default": serving_default}
    )
    return folder


def _evaluate(work: Path, examples: Path, models: list[Path], config: Any) -> float:
    """One run of the stock Evaluator as the pipeline sets it up; its processor seconds."""
    from tfx.components.evaluator.executor import Executor
    from tfx.types import standard_artifacts
    from tfx.utils import proto_utils

    from components.beam_memory import remembered
    from pipeline.beam_args import job_args

    def artifact(kind: Any, uri: Path) -> Any:
        made = kind()
        made.uri = str(uri)
        return made

    rows = artifact(standard_artifacts.Examples, examples)
    rows.split_names = '["eval"]'
    candidate, champion = (artifact(standard_artifacts.Model, folder) for folder in models)
    output = artifact(standard_artifacts.ModelEvaluation, Path(tempfile.mkdtemp(dir=work)))
    inputs = {
        "examples": [rows],
        "schema": [artifact(standard_artifacts.Schema, work / "schema")],
        "model": [candidate],
        "baseline_model": [champion],
    }
    properties = {"eval_config": proto_utils.proto_to_json(config), "example_splits": '["eval"]'}
    begun = time.process_time()
    with remembered():
        context = Executor.Context(beam_pipeline_args=job_args(["--direct_running_mode=in_memory"]))
        Executor(context).Do(inputs, {"evaluation": [output]}, properties)
    return time.process_time() - begun


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder)), indent=1))
