"""What can be told to be wrong in an instant, before torch is loaded."""

import os
import stat
import tempfile
from pathlib import Path

from schemas.errors import DpoError, InputError, UsageError
from schemas.streams import STDIN, open_stream
from schemas.terminal import path_text
from trainer.config.sections import TrainConfig

MODEL_REMEDY = "name a local folder or another hub name with --model (a reference: reference.model_name=)"


def preflight(config: TrainConfig) -> None:
    """Look at the paths of a run: pairs, model folder, run folder.

    Raises:
        InputError: there are no pairs or no model where the configuration says.
        UsageError: the run folder is in use.
        DpoError: it can't be made.
    """
    for dataset in (*config.data.train, *config.data.validation_sets.values()):
        path = dataset.data_path
        if path is not None and not _is_pipe(path):  # whose writer would be gone with the first reader
            with open_stream(path):
                pass
    refuse_missing_folder(config.policy.model_name)
    if config.reference.model_name is not None:
        refuse_missing_folder(config.reference.model_name)
    if os.environ.get("RANK", "0") == "0":  # the other processes may come after this one has made the folder
        refuse_used_folder(config.output_dir)
    refuse_unwritable_folder(config.output_dir)


def _is_pipe(path: Path) -> bool:
    if path == STDIN:
        return True
    try:
        mode = path.stat().st_mode
    except OSError:  # what is wrong with it is told where it is opened
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def refuse_missing_folder(model_name: str) -> None:
    """Tell a mistyped path at once, instead of asking the hub for it.

    Raises:
        InputError: the name is a path where no model is.
    """
    path = Path(model_name)
    is_path = model_name.startswith((".", "~", os.sep)) or model_name.count("/") > 1
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(f"model {model_name}: the folder has no config.json, so no model; {MODEL_REMEDY}")
    elif is_path or path.exists():
        raise InputError(f"model {model_name}: no such folder; {MODEL_REMEDY}")


def refuse_used_folder(path: Path) -> None:
    """Keep an earlier run from being mixed with or replaced by this one.

    Raises:
        UsageError: the path is taken by a file, or by a folder that holds something.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError(f"{path_text(path)}: exists and is not empty; name a new folder with -o")


def refuse_unwritable_folder(path: Path) -> None:
    """Try whether a folder can be made there, rather than find out when the policy is to be saved.

    Raises:
        DpoError: it can't.
    """
    ancestor = path
    while not ancestor.exists():
        ancestor = ancestor.parent
    try:
        with tempfile.TemporaryDirectory(dir=ancestor):
            pass
    except OSError as error:
        raise DpoError(f"{path_text(path)}: can't be written: {error.strerror or error}") from error
