"""What a run is asked for while it goes on: by a signal, by a file in its folder (SAVE, STOP), by the clock."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from schemas.terminal import reason
from trainer.run.clock import RunClock
from trainer.run.signals import SIGNALS, Signals

SAVE_FILE, STOP_FILE = "SAVE", "STOP"
TIME_LIMIT = "checkpointing.checkpoint_must_save_by"
CAUSES = (f"the file {SAVE_FILE}", f"the file {STOP_FILE}", TIME_LIMIT, *(number.name for number in SIGNALS))
"""What may have asked, in the order in which the processes tell one another."""


@dataclass(frozen=True)
class Asked:
    """What all processes have agreed to do after a step."""

    saves: bool = False
    stops: bool = False
    why: str = ""


class StopAsked(Exception):
    """Ends a validation, on all processes alike, because the run was asked to stop."""


@dataclass
class Requests:
    """Knows what the run is asked for, on every process; files and clock are the main process's."""

    folder: Path
    clock: RunClock
    accelerator: Accelerator
    signals: Signals
    say: Callable[[str], None] = lambda text: None

    def agreed(self, *, looks: bool = True) -> Asked:
        """Say what was asked for, the same on every process; every process must call it.

        Without `looks` only signals count, so that it costs next to nothing.
        """
        causes = self._causes(looks=looks)
        if self.accelerator.num_processes > 1:
            told = torch.tensor([float(each in causes) for each in CAUSES], device=self.accelerator.device)
            told = self.accelerator.reduce(told, reduction="sum")
            causes = [cause for cause, count in zip(CAUSES, told.tolist(), strict=True) if count]
        stops = [cause for cause in causes if cause != CAUSES[0]]
        return Asked(saves=bool(causes), stops=bool(stops), why=(stops or causes or [""])[0])

    def answered(self) -> None:
        """Take the files away that were acted on."""
        if self.accelerator.is_main_process:
            for name in (SAVE_FILE, STOP_FILE):
                try:
                    (self.folder / name).unlink(missing_ok=True)
                except OSError as error:
                    self.say(f"the file {name} can't be removed: {reason(error)}; remove it, or it is followed again")

    def _causes(self, *, looks: bool) -> list[str]:
        causes = []
        if looks and self.accelerator.is_main_process:
            causes = [f"the file {name}" for name in (SAVE_FILE, STOP_FILE) if (self.folder / name).exists()]
            causes += [TIME_LIMIT] if self.clock.must_save() else []
        caught = self.signals.caught
        return causes if caught is None else [*causes, caught.name]
