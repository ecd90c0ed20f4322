"""`retrain feedback`: labels that have arrived, joined with what was asked, become the next span."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path

from components.errors import RetrainError
from components.features import request_names
from components.feedback.join import Clock
from components.feedback.log import read
from components.feedback.records import log_files
from components.ingest.recipe import Recipe, make_recipe
from pipeline.champion import open_registry
from pipeline.config import Deployment
from pipeline.config.schema import check_schema, complete_schema, read_schema
from pipeline.feedback import ledger
from pipeline.feedback.labels import BadRow, LabelFormat, file_stamp, label_files, open_labels
from pipeline.feedback.ledger import Current, Ledger, append_bounded
from pipeline.feedback.new_span import SpanMaker
from pipeline.feedback.prediction_log import log_folder
from pipeline.feedback.rows import Columns, label_format, plan_columns
from pipeline.feedback.span_file import format_of, remove
from pipeline.feedback.summary import Summary, summarize
from pipeline.lock import locked

_SAMPLE = 1000  # rows of the log whose columns are looked at
_BAD_KEPT = 10_000  # rows in the quarantine


@dataclass
class Feedback:
    """One call of the command.

    Args:
        deployment: the configuration.
        labels: a file or a folder with labels.
        dry: look only.
        on_step: told what begins.
        now: the time, in unix seconds.
    """

    deployment: Deployment
    labels: Path
    dry: bool = False
    on_step: Callable[[str], None] = lambda _: None
    now: float = field(default_factory=time.time)

    def run(self) -> Summary:
        """Joins, and writes the next span.

        Raises:
            RetrainError: there is no log, no served version, no label, or what there is cannot be read.
        """
        deployment = self.deployment
        schema = read_schema(deployment.schema_path)
        check_schema(deployment, schema)
        log = self._log()
        paths = label_files(self.labels)
        registry = open_registry(deployment)
        if registry.champion() is None:
            raise RetrainError(
                "feedback: no version is served yet, so none of the labels can be of what it answered; "
                "`retrain run` makes the first one"
            )
        learned = {span for version in registry.versions() for span in version.spans}
        recipe = make_recipe(
            complete_schema(deployment, schema),
            deployment.label.model_dump_json(),
            deployment.data.eval_share,
        )
        with locked(deployment.state / "feedback"):
            remembered = Ledger(deployment.state / "feedback")
            maker = SpanMaker(deployment, remembered, learned)
            finished = None if self.dry else maker.finish()
            return replace(self._join(recipe, log, paths, remembered, maker), finished=finished)

    def _log(self) -> Path:
        folder = log_folder(self.deployment)
        if not folder.is_dir():
            configured = self.deployment.serving.prediction_log is not None
            raise RetrainError(
                f"feedback: there is no prediction log {folder}; "
                + ("`retrain serve` writes it" if configured else "set serving.prediction_log")
                + ", and clients name each request with the header X-Request-Key"
            )
        return folder

    def _join(
        self, recipe: Recipe, log: Path, paths: Sequence[Path], remembered: Ledger, maker: SpanMaker
    ) -> Summary:
        from pipeline.feedback import join_job

        deployment, settings = self.deployment, self.deployment.feedback
        current = remembered.current
        form = label_format(deployment, recipe)
        stamps = {str(path): file_stamp(path) for path in paths}
        new = [path for path in paths if current.files.get(str(path)) != stamps[str(path)]]
        columns = self._columns(recipe, form, log, new or paths[-1:], maker)
        window = settings.window_hours * 3600
        clock = Clock(self.now, window, settings.wait_hours * 3600, current.horizon)
        # What has expired since the last call is counted, and twice the window is read in any case, to tell a
        # label that is late from one that nobody asked for.
        since = min(current.horizon, self.now - 2 * window)
        job = join_job.Job(
            log=str(log),
            log_files=log_files(log, since),
            since=since,
            model=deployment.name,
            requests={name: column for column, name in request_names(deployment.columns).items()},
            labels=[str(path) for path in new],
            form=form,
            waiting=list(map(str, remembered.files(ledger.WAITING))),
            done=list(map(str, remembered.files(ledger.DONE))),
            columns=columns,
            clock=clock,
        )
        self.on_step(f"joining {len(job.log_files)} files of the log with {len(new)} files of labels")
        draft = remembered.draft()
        try:
            counts, bad = join_job.run(job, draft, deployment.engine.beam_args)
            self.on_step("writing the span")
            span, waiting, why = maker.make(draft, columns)
            quarantine = self._quarantine(bad)
            if not self.dry:
                horizon = max(current.horizon, self.now - window)
                remembered.commit(draft, Current(current.generation + 1, horizon, stamps, span))
                span = maker.finish()
        finally:
            remove(draft)
        known = len(paths) - len(new)
        return summarize(counts, len(new), known, span, waiting, why, quarantine, self.dry)

    def _columns(
        self, recipe: Recipe, form: LabelFormat, log: Path, paths: Sequence[Path], maker: SpanMaker
    ) -> Columns:
        names = [set(open_labels(path, form).names) for path in paths]
        requests = {name: column for column, name in request_names(self.deployment.columns).items()}
        rows = islice(read(log, model=self.deployment.name, columns=requests), _SAMPLE)
        in_log = {name for row in rows for name in row.inputs}
        flat = format_of(Path(maker.path(1, 1)).name) == ".csv"
        return plan_columns(self.deployment, recipe, in_log, set.intersection(*names), flat)

    def _quarantine(self, bad: Sequence[BadRow]) -> Path | None:
        """Keeps some of the rows that cannot be used, with the reason."""
        if not bad or self.dry:
            return None
        file = self.deployment.state / "quarantine" / "feedback.jsonl"
        append_bounded(file, [asdict(row) for row in bad], _BAD_KEPT)
        return file
