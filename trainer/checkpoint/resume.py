"""Where a run goes on: the newest whole checkpoint of its folder, or the one that was named.

`--resume auto` serves the first start of a job and each later one: without a checkpoint the run begins. Where there are
checkpoints and none of them is whole, or where a named one isn't there, the run does not begin anew but ends.
"""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from schemas.errors import InputError, UsageError
from schemas.terminal import path_text, reason_with_path
from trainer.checkpoint.identity import change_notes, changes_since, refuse_others
from trainer.checkpoint.manifest import Manifest, NotWholeError, check_files, read_manifest, versions
from trainer.checkpoint.places import (
    CONFIG_FILE,
    STATE_FOLDER,
    checkpoints_of,
    folders_of,
    is_checkpoint,
    is_of_run,
    run_of,
    steps_in,
)
from trainer.checkpoint.record import RECORD_FILE, Record, read_record
from trainer.config.sections import TrainConfig
from trainer.save.run_folder import RunFolder


@dataclass(frozen=True)
class ResumePoint:
    """A whole checkpoint that a run goes on from."""

    folder: Path
    run_folder: Path  # of the run that has saved it
    manifest: Manifest
    record: Record
    config: dict[str, Any]  # as it was when the checkpoint was saved
    notes: tuple[str, ...] = ()  # what is to be told of how it was found

    @property
    def step(self) -> int:
        """Give the steps that are done."""
        return self.record.state.step

    @property
    def tensors(self) -> Path:
        """Say where the weights and the optimizer's state are."""
        return self.folder / STATE_FOLDER


def find_resume_point(config: TrainConfig) -> ResumePoint | None:
    """Find where the run goes on; None where it begins. Every file of the checkpoint has then been read and compared.

    Raises:
        InputError: there are checkpoints, or one was named, and none is whole; each is named with what it lacks. Or it
            can't be told whether there are any.
        UsageError: a folder was named that has no checkpoint.
    """
    try:
        return _looked_for(config)
    except OSError as error:
        raise InputError(
            f"the checkpoints to resume from can't be looked at: {reason_with_path(error)}; make them readable, or "
            "begin anew in a new folder (-o)"
        ) from error


def _looked_for(config: TrainConfig) -> ResumePoint | None:
    wanted = config.checkpointing.resume
    if wanted == "never":
        return None
    if wanted == "auto":
        folder = checkpoints_of(config)
        if steps_in(folder):
            return _newest(folder, config.output_dir)
        _refuse_lost(folder, config.output_dir)
        return None
    run_folder = config.output_dir if is_of_run(wanted, config) else run_of(wanted) or wanted
    if is_checkpoint(wanted):
        return _point(wanted, run_folder)
    for folder in folders_of(wanted):
        if steps_in(folder):
            return _newest(folder, run_folder)
    if not wanted.exists():
        raise InputError(f"checkpointing.resume={path_text(wanted)}: there is no such folder")
    raise UsageError(
        f"checkpointing.resume={path_text(wanted)}: is neither a checkpoint (step_N) nor the folder of a run with any"
    )


def settle(point: ResumePoint, config: TrainConfig, identity: dict[str, str], *, num_processes: int) -> list[str]:
    """Hold the run to the checkpoint that it goes on from, and say what has changed since.

    Raises:
        UsageError: data, model, reference or loss are other ones.
    """
    changes = changes_since(point.config, config)
    if not config.checkpointing.resume_anyway:
        refuse_others(point.manifest.identity, identity, changes)
    notes = [f"resume: after step {point.step}, from {path_text(point.folder)}", *change_notes(changes)]
    if config.checkpointing.resume_anyway:
        other = [name for name in identity if point.manifest.identity.get(name) != identity[name]]
        notes += [f"resume: another {name} than the checkpoint's, as --resume-anyway allows" for name in other]
    if point.manifest.num_processes != num_processes:
        notes.append(
            f"resume: {num_processes} process(es), {point.manifest.num_processes} until the checkpoint: the same pairs "
            "in the same steps, sums in another order"
        )
    notes += [
        f"resume: {name} {now}, was {point.manifest.versions.get(name)} until the checkpoint"
        for name, now in versions().items()
        if point.manifest.versions.get(name) != now
    ]
    return notes


def _newest(folder: Path, run_folder: Path) -> ResumePoint:
    """Find the newest whole checkpoint of a folder."""
    problems = []
    for step in steps_in(folder):
        try:
            point = _read(folder / f"step_{step}", run_folder)
        except NotWholeError as error:
            problems.append(f"step_{step}: {error}")
            continue
        notes = tuple(f"resume: passed over {problem}" for problem in problems)
        return replace(point, notes=notes)
    raise InputError(
        "\n  ".join(
            [
                f"{path_text(folder)}: no checkpoint is whole, so there is nothing to resume from:",
                *problems,
                "name another with --resume PATH, or begin anew in a new folder (-o)",
            ]
        )
    )


def _refuse_lost(folder: Path, run_folder: Path) -> None:
    """Hold a run without a checkpoint to its metrics, which may say that it had one.

    Raises:
        InputError: it had.
    """
    try:
        options = _read_config(run_folder)["checkpointing"]
        period = options["save_period"] if options["enabled"] else math.inf
        last = max((line["step"] for line in RunFolder(run_folder, writes=False).lines()), default=0)
        is_lost = last > period
    except (OSError, NotWholeError, KeyError, TypeError):  # it came to nothing
        return
    if is_lost:
        raise InputError(
            f"{path_text(folder)}: has no checkpoint, though the run in {path_text(run_folder)} has done {last} steps "
            f"and saved after every {period}; bring the checkpoints back (is their disk there?), or begin anew in a "
            "new folder (-o)"
        )


def _point(folder: Path, run_folder: Path) -> ResumePoint:
    try:
        return _read(folder, run_folder)
    except NotWholeError as error:
        raise InputError(f"checkpointing.resume={path_text(folder)}: can't be resumed from: {error}") from error


def _read(folder: Path, run_folder: Path) -> ResumePoint:
    manifest = read_manifest(folder)
    state = folder / STATE_FOLDER
    try:
        names = {path.name for path in state.iterdir() if path.suffix == ".safetensors"} if state.exists() else set()
        if names:
            check_files(folder, manifest)
    except OSError as error:
        raise NotWholeError(f"can't be read: {reason_with_path(error)}") from error
    if not names:
        raise NotWholeError("its state was let go (checkpointing.keep_states); its policy is there")
    if extra := sorted({f"{STATE_FOLDER}/{name}" for name in names} - manifest.files.keys()):
        raise NotWholeError(f"{extra[0]} is none of its files")
    if missing := sorted({RECORD_FILE, CONFIG_FILE} - manifest.files.keys()):
        raise NotWholeError(f"{missing[0]} is none of its files")
    record, config = read_record(folder), _read_config(folder)
    if record.state.step != manifest.step:
        raise NotWholeError(f"{RECORD_FILE} is of step {record.state.step}, and its manifest of step {manifest.step}")
    return ResumePoint(folder, run_folder, manifest, record, config)


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise NotWholeError(f"{CONFIG_FILE} has not what this version of dpo writes there")
    return config
