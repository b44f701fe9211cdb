"""How a run stands: finished, stopped, failed, running, broken off, or not begun; in a sentence, and what to do."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from schemas.terminal import counted
from views.run.folder import RunRead

How = Literal["finished", "stopped", "failed", "running", "broken off", "not begun"]
MINUTE, HOUR, DAY = 60, 3_600, 86_400


@dataclass(frozen=True)
class State:
    """How a run stands."""

    how: How
    sentence: str
    remedy: str = ""


def state_of(run: RunRead) -> State:
    """Say how a run stands, by the files that it has left and by its lock."""
    how, why = _how(run)
    done, planned = run.history.step, planned_steps(run)
    place = f"step {done:,}" if planned is None else f"step {done:,} of {planned:,}"
    took = duration(run.history.elapsed_seconds)
    match how:
        case "finished":
            return State(how, f"Finished: {counted(done, 'step')}{_epochs(run)} in {took}{_resumed(run)}.")
        case "running":
            return State(how, f"Running: at {place} after {took}{_left(run, done, planned)}{_resumed(run)}.")
        case "stopped":
            return State(how, f"Stopped at {place}, as it was asked to {why}, after {took}.", _going_on(run))
        case "failed":
            return State(how, f"Failed at {place} after {took}: {why}", _going_on(run))
        case "broken off":
            said = "It ended without a word: it was killed, or the machine went down."
            return State(how, f"Broken off at {place} after {took}. {said}", _going_on(run))
        case _:
            return State(how, "No step is done yet.")


def planned_steps(run: RunRead) -> int | None:
    """Give the number of steps that the run is to have, where it has told."""
    return _count(run.facts.get("planned_steps")) or _count(run.result.get("planned_steps"))


def resumed_at(run: RunRead) -> list[int]:
    """Give the steps after which the run was gone on with."""
    found = run.facts.get("resumed")
    steps = [each.get("step") for each in found if isinstance(each, dict)] if isinstance(found, list) else []
    return [step for step in steps if isinstance(step, int)]


def duration(seconds: float) -> str:
    """Show a length of time: 12 s, 3 min 20 s, 5 h 12 min, 2 d 3 h."""
    if not math.isfinite(seconds):
        return "an unknown time"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, name, smaller, small in ((DAY, "d", HOUR, "h"), (HOUR, "h", MINUTE, "min"), (MINUTE, "min", 1, "s")):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // smaller} {small}"
    return f"{whole} s"


def _how(run: RunRead) -> tuple[How, str]:
    ended: Any = run.facts.get("ended")
    how = ended.get("how") if isinstance(ended, dict) else None
    if run.has_policy and (how == "finished" or run.result.get("finished") is True):
        return "finished", ""
    if how in ("stopped", "failed"):
        return how, str(ended.get("why", ""))
    if run.is_being_written:
        return "running", ""
    return ("broken off", "") if run.history.step or run.checkpoints else ("not begun", "")


def _epochs(run: RunRead) -> str:
    epochs = run.history.epoch
    return f", {counted(epochs, 'epoch')}," if epochs else ""


def _left(run: RunRead, done: int, planned: int | None) -> str:
    """Estimate what is left by the time of the steps so far; with validations and saves, which come again."""
    elapsed = run.history.elapsed_seconds
    if not planned or not done or planned <= done or not math.isfinite(elapsed):
        return ""
    return f", about {duration(elapsed / done * (planned - done))} to go"


def _resumed(run: RunRead) -> str:
    steps = resumed_at(run)
    return f"; gone on with after step {', '.join(f'{step:,}' for step in steps)}" if steps else ""


def _going_on(run: RunRead) -> str:
    if not run.checkpoints:
        return "There is no checkpoint to go on from; the same command with --resume auto begins again."
    return f"The same command with --resume auto goes on from step {run.checkpoints[-1]:,}."


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None
