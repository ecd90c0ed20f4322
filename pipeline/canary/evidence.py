"""What has come since the last look: requests, predictions, labels; each counted once, in its step."""

from __future__ import annotations

from pathlib import Path

from pipeline.canary import access_log
from pipeline.canary.bins import ENOUGH, Bins
from pipeline.canary.labels import Labelled
from pipeline.canary.sequential import Moments
from pipeline.canary.state import State, Trial
from pipeline.canary.tally import step_of
from pipeline.config import Deployment
from pipeline.feedback.prediction_log import log_folder


class Evidence:
    """Reads what is new.

    How far the logs were read is in the state, beside what was counted. Labels and the predictions that wait
    for them are in memory: a new process joins those of the trial again.

    Args:
        deployment: with `serving.canary`.
        nginx_folder: of the access log.
    """

    def __init__(self, deployment: Deployment, nginx_folder: Path) -> None:
        self._deployment, self._nginx_folder = deployment, nginx_folder
        self._labelled: Labelled | None = None

    def gather(self, state: State, trial: Trial) -> None:
        """Adds to the trial's steps, and moves the state's places in the logs along."""
        for request in access_log.requests(self._nginx_folder, state.log):
            step = step_of(trial.steps, request.time)
            if step is not None:
                step.pool(request.canary).add(request)
        if self._deployment.serving.prediction_log is not None:
            self._predictions(state, trial)
            self._losses(trial)

    def _predictions(self, state: State, trial: Trial) -> None:
        from components.feedback.log import read

        folder, name = log_folder(self._deployment), self._deployment.name
        begun = trial.steps[0].started
        for row in read(folder, begun, model=name, inputs=False, cursor=state.predictions):
            step, canary = step_of(trial.steps, row.time), _side(trial, row.version)
            if step is None or canary is None:
                continue
            if trial.bins is not None:
                found = trial.bins.find(row.prediction)
                step.pool(canary).add_predictions([found], trial.bins.size)
            elif not canary:
                # These make the bins, and are counted in none: bins fit what they were made of too well.
                trial.sample.append(row.prediction)
                if len(trial.sample) >= ENOUGH:
                    trial.bins, trial.sample = Bins.of(trial.sample), []

    def _losses(self, trial: Trial) -> None:
        canary = self._deployment.serving.canary
        if canary is None or canary.labels is None:
            return
        if self._labelled is None or self._labelled.trial != (trial.challenger, trial.steps[0].started):
            self._labelled = Labelled(self._deployment, canary.labels, trial)
            for begun in trial.steps:
                begun.stable.losses = begun.canary.losses = Moments()
        found: dict[tuple[int, bool], list[float]] = {}
        for judged in self._labelled.new():
            step, side = step_of(trial.steps, judged.time), _side(trial, judged.version)
            if step is not None and side is not None:
                found.setdefault((trial.steps.index(step), side), []).append(judged.loss)
        for (place, side), losses in found.items():
            pool = trial.steps[place].pool(side)
            pool.losses = pool.losses.add(losses)


def _side(trial: Trial, version: int) -> bool | None:
    """Whether a version is the challenger, or not; None: it is neither."""
    return {trial.champion: False, trial.challenger: True}.get(version)
