"""training_state.json: where a run stood when a checkpoint was saved, beside the tensors."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import NonNegativeInt, TypeAdapter

from trainer.checkpoint.manifest import NotWholeError
from trainer.checkpoint.retention import Standing
from trainer.checkpoint.tensors import Numbers
from trainer.run.state import RunState

RECORD_FILE = "training_state.json"


@dataclass(frozen=True)
class Record:
    """What a run needs beside its tensors to go on."""

    state: RunState
    seconds: float  # that the run had taken
    metric: str | None  # that checkpoints are compared by
    standings: tuple[Standing, ...]  # of the checkpoints that there were, this one among them
    log_bytes: Mapping[str, NonNegativeInt]  # length of the logs in the run's folder
    numbers: Numbers  # of the optimizer

    def write(self, folder: Path) -> None:
        """Write the record into a checkpoint."""
        content = {
            "state": self.state.as_dict(),
            "seconds": self.seconds,
            "metric": self.metric,
            "standings": [asdict(each) for each in self.standings],
            "log_bytes": dict(self.log_bytes),
            "numbers": self.numbers,
        }
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
        (folder / RECORD_FILE).write_text(text, encoding="utf-8")


def read_record(folder: Path) -> Record:
    """Read the record of a checkpoint whose files are as they were written.

    Raises:
        NotWholeError: they were not written by this version.
    """
    try:
        content: dict[str, Any] = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
        return TypeAdapter(Record).validate_python({**content, "state": RunState.of_dict(content["state"])})
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise NotWholeError(f"{RECORD_FILE} has not what this version of dpo writes there") from error
