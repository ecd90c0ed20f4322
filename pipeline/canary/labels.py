"""The losses of a trial's predictions, as their labels arrive."""

from __future__ import annotations

import time
from pathlib import Path

from components.features import request_names
from components.feedback.losses import Judged, Losses
from components.label import read_label_state
from pipeline.canary.state import Trial
from pipeline.champion import open_registry
from pipeline.config import Deployment
from pipeline.feedback.labels import NewLabels
from pipeline.feedback.prediction_log import log_folder
from pipeline.feedback.rows import label_format


class Labelled:
    """Joins one trial's predictions with the labels in a folder.

    Args:
        deployment: the configuration.
        folder: of the labels; may not be there yet.
        trial: whose predictions.

    Attributes:
        trial: its challenger, and when it began.
    """

    def __init__(self, deployment: Deployment, folder: Path, trial: Trial) -> None:
        from components.ingest.recipe import make_recipe
        from pipeline.config.schema import complete_schema, read_schema

        begun = trial.steps[0].started
        self.trial = (trial.challenger, begun)
        schema = complete_schema(deployment, read_schema(deployment.schema_path))
        recipe = make_recipe(schema, deployment.label.model_dump_json(), deployment.data.eval_share)
        # Both versions by one measure: the champion's.
        state = read_label_state(open_registry(deployment).get(trial.champion).uris["model"])
        self._new = NewLabels(folder, label_format(deployment, recipe))
        self._losses = Losses(
            log_folder(deployment),
            deployment.label,
            since=begun,
            model=deployment.name,
            columns={asked: column for column, asked in request_names(deployment.columns).items()},
            window=3600 * deployment.feedback.window_hours,
            scale=state.scale if state else 1.0,
        )

    def new(self) -> list[Judged]:
        """What is known since the last call, in the order in which the labels came.

        Raises:
            RetrainError: a file of labels cannot be read.
        """
        return self._losses.new(self._new.read(time.time()))
