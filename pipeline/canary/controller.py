"""The process that takes a challenger through its steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from components.errors import RetrainError
from components.promote.registry import CHALLENGER, Registry
from pipeline import champion
from pipeline.canary import access_log, manual
from pipeline.canary.decide import Decision, decide, waits_for
from pipeline.canary.evidence import Evidence
from pipeline.canary.front import folder, front, nginx
from pipeline.canary.manual import Wish
from pipeline.canary.state import Phase, State, Trial, load
from pipeline.canary.tally import Step
from pipeline.config import Deployment
from pipeline.config.sections.canary import Canary
from pipeline.lock import LockedError, locked

NAME = "canary controller"
"""Who moves the aliases, in the registry."""
STATE_FILE = "state.json"


def settings(deployment: Deployment) -> Canary:
    """The deployment's canary.

    Raises:
        RetrainError: it has none.
    """
    if deployment.serving.canary is None:
        raise RetrainError(
            "serving.canary: got none, and this command needs one; name at least its `servers` "
            "(docs/canary.md), or promote without one: `retrain run` does"
        )
    return deployment.serving.canary


class Controller:
    """Looks at what has come, decides, and does it; one at a time, as the caller holds the lock.

    Each look starts from the state file, the registry and what nginx does, and writes down what it is about
    to do before it does it. So it may be killed between any two lines, and the next look finishes.

    Args:
        deployment: with `serving.canary`.
        tell: told what happens: as data, and for a person.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        deployment: Deployment,
        tell: Callable[[dict[str, Any], str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._deployment, self._canary = deployment, settings(deployment)
        self._tell, self._clock = tell, clock
        self._registry: Registry = champion.open_registry(deployment)
        self._nginx = nginx(deployment, self._canary)
        self._evidence = Evidence(deployment, self._nginx.folder)
        self._file = folder(deployment) / STATE_FILE

    def look(self, wish: Wish | None = None) -> State:
        """One look.

        Args:
            wish: of a person; None: the one that another command left, if any.

        Returns:
            The state that it leaves.

        Raises:
            RetrainError: something does not work that somebody must mend; the next look tries again.
        """
        state = load(self._file)
        state.looked = self._clock()
        wish = wish or manual.left(folder(self._deployment))
        new = wish if wish and wish.id != state.handled else None
        try:
            if (
                state.phase == "promoting" and new and new.action == "abort"
            ):  # as where a server is in the way
                self._end(state, "reverting", f"abort by hand: {new.reason}", new)
            if state.phase in ("reverting", "promoting"):
                self._finish(state)
            if state.phase == "testing":
                self._test(state, new)
            if state.phase == "idle":
                self._begin(state)
            state.handled = wish.id if wish else state.handled
        except RetrainError as error:
            state.waits = [str(error)]
            raise
        finally:
            state.save(self._file)
        manual.done(folder(self._deployment), wish)
        return state

    def _begin(self, state: State) -> None:
        """Puts the registry's challenger before its first requests, once its servers serve it."""
        base, challenger = self._registry.champion(), self._registry.challenger()
        state.waits, state.decision = [], {}
        if base is None or challenger is None:
            self._route(0.0, None)
            state.waits = ["there is no challenger: `retrain run` makes the next one"]
            return
        self._route(0.0, challenger.number)
        state.waits = self._unready()
        if state.waits:
            return
        first = self._canary.steps[0]
        self._route(first, challenger.number)
        now = self._clock()
        state.phase = "testing"
        state.trial = Trial(challenger.number, base.number, [Step(first, now)])
        state.log = access_log.end(self._nginx.folder)
        state.waits = waits_for(state.trial.step, self._canary, now)
        self._happened(state, "begun", f"is tested against version {base.number}, from {first:g} % on")

    def _unready(self) -> list[str]:
        """Which servers of the canary pool do not serve the challenger, and why."""
        try:
            with locked(self._deployment.state):
                behind = champion.sync_serving(self._deployment, self._registry.champion())
        except LockedError as error:
            return [str(error)]
        pool = {server.grpc for server in self._canary.servers}
        return [f"{report.server}: {report.message}" for report in behind if report.server in pool]

    def _test(self, state: State, wish: Wish | None) -> None:
        assert state.trial is not None
        trial = state.trial
        self._route(trial.step.percent, trial.challenger)  # also where nginx was ended, or started anew
        self._evidence.gather(state, trial)
        access_log.rotate(self._nginx.folder, state.log, self._nginx.reopen_logs)
        decision = decide(trial.steps, self._canary, self._clock())
        if wish:
            decision = self._overruled(decision, wish, trial)
        # The registry is asked last: a challenger that does harm goes although it may be away.
        if decision.action != "revert" and self._ended_elsewhere(state, trial):
            return
        state.decision, state.waits = decision.to_json(), list(decision.reasons)
        why = "; ".join(decision.reasons)
        if decision.action == "advance":
            self._advance(state, trial, why, wish)
        elif decision.action in ("promote", "revert"):
            self._end(state, "promoting" if decision.action == "promote" else "reverting", why, wish)
            self._finish(state)

    def _overruled(self, decision: Decision, wish: Wish, trial: Trial) -> Decision:
        """A person's decision in place of the tests'; only a broken limit is stronger than `advance`."""
        said = (f"{wish.action} by hand: {wish.reason}",)
        if wish.action == "abort":
            return Decision("revert", said, decision.checks)
        if decision.action == "revert":
            return decision
        return Decision("promote" if trial.step.percent >= 100 else "advance", said, decision.checks)

    def _end(self, state: State, phase: Phase, why: str, wish: Wish | None) -> None:
        """Writes down how the trial is to end, before anything is done about it."""
        state.phase, state.why = phase, why
        state.by, state.wish = (wish.by, wish.id) if wish else (NAME, "")
        state.save(self._file)

    def _advance(self, state: State, trial: Trial, why: str, wish: Wish | None) -> None:
        steps = self._canary.steps
        told = {"by": wish.by, "wish": wish.id} if wish else {"by": NAME, "wish": ""}
        percent = next((step for step in steps if step > trial.step.percent), steps[-1])
        self._route(percent, trial.challenger)
        trial.steps.append(Step(percent, self._clock()))
        state.waits = waits_for(trial.step, self._canary, self._clock())
        self._happened(state, "advanced", f"goes on at {percent:g} %", why=why, **told)

    def _finish(self, state: State) -> None:
        """Ends the trial as was decided; each of these may have been done before, by one who was killed."""
        assert state.trial is not None
        trial, promoted = state.trial, state.phase == "promoting"
        if not promoted:
            self._route(0.0, trial.challenger)  # before all else: it needs neither lock nor registry
        if self._ended_elsewhere(state, trial):
            return
        try:
            with locked(self._deployment.state):
                if promoted:
                    self._promote(trial, state)
                else:
                    self._turn_back(trial, state)
        except LockedError as error:
            state.waits = [str(error)]
            return
        self._route(0.0, None)
        event, text = ("promoted", "is champion") if promoted else ("reverted", "is turned back")
        checks = state.decision.get("checks", [])
        told = {"why": state.why, "by": state.by, "wish": state.wish}
        self._happened(state, event, text, **told, checks=checks)
        self._close(state)

    def _promote(self, trial: Trial, state: State) -> None:
        why = f"canary: {state.why}"
        champion.promote(self._deployment, trial.challenger, why=why, by=state.by)

    def _turn_back(self, trial: Trial, state: State) -> None:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(self._clock()))
        why = f"version {trial.challenger} was turned back by its canary on {when}: {state.why}"
        # Before the alias: without a challenger the next run would learn its spans again.
        self._registry.tag(trial.challenger, rolled_back=why, set_aside=why)
        challenger = self._registry.challenger()
        if challenger and challenger.number == trial.challenger:
            self._registry.move(CHALLENGER, None, f"turned back: {state.why}", state.by)
        champion.sync_serving(self._deployment, self._registry.champion())

    def _ended_elsewhere(self, state: State, trial: Trial) -> bool:
        """Whether somebody has moved an alias under the test, which ends it."""
        base, challenger = self._registry.champion(), self._registry.challenger()
        now = (base and base.number, challenger and challenger.number)
        # As it was; or what one who was killed has made of it on the way.
        begun = {"promoting": trial.challenger, "reverting": trial.champion}.get(state.phase)
        if now == (trial.champion, trial.challenger) or (begun and now == (begun, None)):
            return False
        self._route(0.0, None)
        told = f"is tested no more: the champion is version {now[0]}, the challenger {now[1] or 'none'} now"
        self._happened(state, "ended", told)
        self._close(state)
        return True

    def _close(self, state: State) -> None:
        state.phase, state.trial, state.waits = "idle", None, []
        state.why = state.by = state.wish = ""

    def _route(self, percent: float, version: int | None) -> None:
        self._nginx.apply(front(self._deployment, self._canary, percent, version))

    def _happened(self, state: State, event: str, text: str, **more: Any) -> None:
        trial = state.trial
        assert trial is not None
        told = {
            "challenger": trial.challenger,
            "champion": trial.champion,
            "percent": trial.step.percent,
            "seconds": round(self._clock() - trial.steps[0].started, 1),
            "requests": trial.requests(canary=True),
            "of_requests": trial.requests(canary=True) + trial.requests(canary=False),
            **more,
        }
        happened = state.remember(self._clock(), event, **told)
        why = f" ({more['why']})" if "why" in more else ""
        self._tell(happened, f"version {trial.challenger} {text}{why}")
