"""How fast rows come in, against TFX's own CsvExampleGen on the same file in the same session."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

from tests.bench.prequential import CONFIG, taxi_csv

ROWS = 60_000
ARGS = ["--direct_running_mode=in_memory", "--direct_num_workers=1", "--sdk_container_image=unused"]


def measure(work: Path) -> dict[str, Any]:
    """Rows a second of Ingest and of CsvExampleGen, 60,008 rows of 18 columns, in-memory Beam."""
    from tfx.components.example_gen.csv_example_gen.executor import Executor as CsvExecutor
    from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
    from tfx.proto import example_gen_pb2
    from tfx.types import standard_artifacts
    from tfx.utils import proto_utils

    from components.artifacts import Quarantine
    from components.ingest.component import Executor
    from pipeline.config import load, schema

    shutil.rmtree(work, ignore_errors=True)
    source = work / "csv"
    source.mkdir(parents=True)
    header, *lines = taxi_csv().read_text().splitlines(keepends=True)
    copies = -(-ROWS // len(lines))
    (source / "rows.csv").write_text(header + "".join(lines) * copies)
    rows = len(lines) * copies

    deployment = load(Path(CONFIG))
    complete = schema.complete_schema(deployment, schema.read_schema(deployment.schema_path))
    schema_artifact = standard_artifacts.Schema()
    schema_artifact.uri = str(work / "schema")
    schema.write_schema(complete, work / "schema").rename(work / "schema" / "schema.pbtxt")

    def context() -> Any:
        return BaseBeamExecutor.Context(beam_pipeline_args=ARGS, tmp_dir=str(work / "tmp"))

    def ingest(out: Path) -> None:
        examples, quarantine = standard_artifacts.Examples(), Quarantine()
        examples.uri, quarantine.uri = str(out / "examples"), str(out / "quarantine")
        Executor(context()).Do(
            {"schema": [schema_artifact]},
            {"examples": [examples], "quarantine": [quarantine]},
            {
                "spans": json.dumps([{"span": 1, "files": [str(source / "rows.csv")]}]),
                "label": deployment.label.model_dump_json(),
                "eval_share": 0.2,
                "max_quarantine_share": 0.1,
                "fingerprint": "",
            },
        )

    def csv_example_gen(out: Path) -> None:
        examples = standard_artifacts.Examples()
        examples.uri = str(out / "examples")
        splits = example_gen_pb2.Output(
            split_config=example_gen_pb2.SplitConfig(
                splits=[
                    example_gen_pb2.SplitConfig.Split(name="train", hash_buckets=4),
                    example_gen_pb2.SplitConfig.Split(name="eval", hash_buckets=1),
                ]
            )
        )
        inputs = example_gen_pb2.Input(splits=[example_gen_pb2.Input.Split(name="single_split", pattern="*")])
        CsvExecutor(context()).Do(
            {},
            {"examples": [examples]},
            {
                "input_base": str(source),
                "input_config": proto_utils.proto_to_json(inputs),
                "output_config": proto_utils.proto_to_json(splits),
                "output_data_format": example_gen_pb2.PayloadFormat.FORMAT_TF_EXAMPLE,
                "output_file_format": 5,
            },
        )

    seconds: dict[str, list[float]] = {"ingest": [], "csv_example_gen": []}
    for turn in range(2):  # side by side, twice, so that neither has the quiet half of the session
        for name, run in (("ingest", ingest), ("csv_example_gen", csv_example_gen)):
            begun = time.monotonic()
            run(work / f"{name}-{turn}")
            seconds[name].append(round(time.monotonic() - begun, 2))
    best = {name: min(times) for name, times in seconds.items()}
    return {
        "rows": rows,
        "seconds": seconds,
        "rows_a_second": {name: round(rows / took) for name, took in best.items()},
        "times_faster": round(best["csv_example_gen"] / best["ingest"], 1),
    }
