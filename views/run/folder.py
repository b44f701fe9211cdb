"""The folder of a run, read: configuration, metrics, answers, what it was trained on, what was seen, how it stands."""

import fcntl
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from views.json_file import json_object
from views.run.configuration import Setting, settings_of
from views.run.history import METRICS_FILE, History, read_history
from views.run.samples import Answers, read_answers

CONFIG_FILE = "train_config.json"
RUN_FILE = "run.json"
RESULT_FILE = "result.json"
HEALTH_FILE = "health.json"
POLICY_FOLDER = "policy"
CHECKPOINTS = "checkpoints"
MODEL_FILES = ("config.json", "adapter_config.json", "manifest.json")
"""What policies and checkpoints have in them, which have a configuration too."""
QUIET_SECONDS = 600.0
"""Where locks can't be asked, a run whose metrics have not grown for so long is taken for ended."""


@dataclass(frozen=True)
class Verdict:
    """What was seen in a run that may go wrong."""

    kind: str
    seen: str
    first: int
    last: int
    count: int
    meaning: str
    remedy: str


@dataclass(frozen=True)
class RunRead:
    """All that a run's folder says."""

    folder: Path
    settings: tuple[Setting, ...]
    history: History
    answers: Answers
    facts: Mapping[str, Any]  # run.json
    result: Mapping[str, Any]  # result.json
    best: Mapping[str, Any]  # checkpoints/best.json
    verdicts: tuple[Verdict, ...] | None  # None: nobody has looked
    has_policy: bool
    is_being_written: bool
    checkpoints: tuple[int, ...]  # steps from which it could go on

    @property
    def name(self) -> str:
        """Call the run as its folder is called."""
        return self.folder.absolute().name

    def setting(self, key: str) -> Any:
        """Give what was set, None where there is no such key."""
        return next((each.value for each in self.settings if each.key == key), None)


def is_run(folder: Path) -> bool:
    """Say whether a folder is that of a run, and neither a policy's nor a checkpoint's."""
    return (folder / CONFIG_FILE).is_file() and not any((folder / name).exists() for name in MODEL_FILES)


def read_run(folder: Path) -> RunRead:
    """Read a run's folder, also while the run goes on.

    Raises:
        InputError: configuration or metrics can't be read.
    """
    facts = _object(folder / RUN_FILE)
    settings = settings_of(json_object(folder / CONFIG_FILE, "the configuration of a run"))
    elsewhere = next((each.value for each in settings if each.key == "checkpointing.checkpoint_dir"), None)
    own = folder / CHECKPOINTS
    checkpoints = own if own.is_dir() or not isinstance(elsewhere, str) else Path(elsewhere)
    return RunRead(
        folder=folder,
        settings=settings,
        history=read_history(folder),
        answers=read_answers(folder),
        facts=facts,
        result=_object(folder / RESULT_FILE),
        best=_object(checkpoints / "best.json"),
        verdicts=_verdicts(folder / HEALTH_FILE),
        has_policy=(folder / POLICY_FOLDER).is_dir(),
        is_being_written=_is_being_written(folder),
        checkpoints=_resumable(checkpoints),
    )


def _object(path: Path) -> dict[str, Any]:
    """Read a file that a run may not have, or that another version has written."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _verdicts(path: Path) -> tuple[Verdict, ...] | None:
    try:
        return msgspec.convert(_object(path).get("verdicts"), tuple[Verdict, ...])
    except msgspec.ValidationError:
        return None


def _resumable(folder: Path) -> tuple[int, ...]:
    try:
        names = [path.name for path in folder.iterdir() if (path / "state").is_dir()]
    except OSError:
        return ()
    return tuple(sorted(int(name[5:]) for name in names if name.startswith("step_") and name[5:].isdecimal()))


def _is_being_written(folder: Path) -> bool:
    """Ask whether a run holds the folder's lock; without locks, whether its metrics have grown lately."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return _has_grown(folder / METRICS_FILE)
    finally:
        os.close(descriptor)
    return False


def _has_grown(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime < QUIET_SECONDS
    except OSError:
        return False
