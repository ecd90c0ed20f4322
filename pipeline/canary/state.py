"""What the controller knows, in one file that is always whole: killed anywhere, it goes on from there."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from components.errors import RetrainError
from components.feedback.records import Cursor
from pipeline.canary.access_log import Place
from pipeline.canary.bins import Bins
from pipeline.canary.tally import Step

Phase = Literal["idle", "testing", "reverting", "promoting"]
"""Without a challenger; with one; on the way back; on the way to the champion. The last two are finished by
whoever looks next, whatever has happened since."""
_LONGEST_HISTORY = 200


@dataclass
class Trial:
    """One challenger's test.

    Attributes:
        challenger, champion: versions.
        steps: those begun, the present one last.
        sample: the champion's predictions that the bins will be made of; empty afterwards.
        bins: of the predictions; None: not made yet.
    """

    challenger: int
    champion: int
    steps: list[Step]
    sample: list[float | str] = field(default_factory=list)
    bins: Bins | None = None

    @property
    def step(self) -> Step:
        """The present one."""
        return self.steps[-1]

    def requests(self, canary: bool) -> int:
        """How many requests a pool was given over all steps."""
        return sum(step.pool(canary).requests for step in self.steps)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Trial:
        """What `asdict` made, and JSON has carried."""
        bins = data["bins"] and Bins(tuple(data["bins"]["edges"]), tuple(data["bins"]["classes"]))
        steps = [Step.from_json(step) for step in data["steps"]]
        return cls(**{**data, "steps": steps, "bins": bins})


@dataclass
class State:
    """All of it.

    Attributes:
        phase: what is going on.
        trial: None where the phase is idle.
        why, by, wish: of the end that is on its way: for what reason, by whom, and by which request of a
            person.
        log: how far the access log was read.
        predictions: how far the prediction log was read.
        decision: of the last look.
        waits: what it waits for, for a person.
        handled: the last request of a person that was done.
        history: what has happened, oldest first.
    """

    phase: Phase = "idle"
    trial: Trial | None = None
    why: str = ""
    by: str = ""
    wish: str = ""
    log: Place = field(default_factory=Place)
    predictions: Cursor = field(default_factory=Cursor)
    decision: dict[str, Any] = field(default_factory=dict)
    waits: list[str] = field(default_factory=list)
    handled: str = ""
    looked: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)

    def remember(self, when: float, event: str, **told: Any) -> dict[str, Any]:
        """Adds to the history, and gives what was added."""
        happened = {"when": when, "event": event, **told}
        self.history = [*self.history, happened][-_LONGEST_HISTORY:]
        return happened

    def save(self, file: Path) -> None:
        """Writes it aside, and renames."""
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_name(f".{file.name}.new")
        with open(aside, "w") as out:
            json.dump(asdict(self), out)
            out.flush()
            os.fsync(out.fileno())
        aside.replace(file)


def load(file: Path) -> State:
    """The state in a file; a new one where there is none.

    Raises:
        RetrainError: it is no state of a controller.
    """
    if not file.exists():
        return State()
    try:
        data = json.loads(file.read_text())
        trial = data["trial"] and Trial.from_json(data["trial"])
        more = {"trial": trial, "log": Place(**data["log"]), "predictions": Cursor(**data["predictions"])}
        return State(**{**data, **more})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RetrainError(
            f"{file}: not the state of a canary ({error!r}). Move it away: the challenger is then tested "
            "from the first step on"
        ) from None
