"""Where a run goes on: the newest whole checkpoint of its folder, or the one that was named.

`--resume auto` serves the first start of a job and each later one: without a checkpoint the run begins. Where there are
checkpoints and none of them is whole, or where a named one isn't there, the run does not begin anew but ends.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import InputError, UsageError
from schemas.terminal import path_text, reason_with_path
from trainer.checkpoint.identity import change_notes, changes_since, refuse_others
from trainer.checkpoint.manifest import Manifest, NotWholeError, check_files, read_manifest, versions
from trainer.checkpoint.places import (
    CHECKPOINT_FOLDER,
    CONFIG_FILE,
    STATE_FOLDER,
    checkpoints_of,
    is_checkpoint,
    run_of,
    steps_in,
)
from trainer.checkpoint.record import Record, read_record
from trainer.config.sections import TrainConfig


@dataclass(frozen=True)
class ResumePoint:
    """A whole checkpoint that a run goes on from."""

    folder: Path
    run_folder: Path  # of the run that has saved it
    manifest: Manifest
    record: Record
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
        return _newest(folder, config.output_dir) if steps_in(folder) else None
    if is_checkpoint(wanted):
        return _point(wanted)
    for folder in (wanted / CHECKPOINT_FOLDER, wanted):
        if steps_in(folder):
            return _newest(folder, run_of(folder) or config.output_dir)
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
    saved = json.loads((point.folder / CONFIG_FILE).read_text(encoding="utf-8"))
    changes = changes_since(saved, config)
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
        return ResumePoint(point.folder, point.run_folder, point.manifest, point.record, notes)
    raise InputError(
        "\n  ".join(
            [
                f"{path_text(folder)}: no checkpoint is whole, so there is nothing to resume from:",
                *problems,
                "name another with --resume PATH, or begin anew in a new folder (-o)",
            ]
        )
    )


def _point(folder: Path) -> ResumePoint:
    try:
        return _read(folder, run_of(folder) or folder.parent)
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
    if extra := sorted(names - {Path(name).name for name in manifest.files if name.startswith(f"{STATE_FOLDER}/")}):
        raise NotWholeError(f"{STATE_FOLDER}/{extra[0]} is none of its files")
    return ResumePoint(folder, run_folder, manifest, read_record(folder))
