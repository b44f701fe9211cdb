"""What a run needs beside its files: trackers' packages, keys of services, folders that can be written to.

All of it is looked at before anything heavy loads, and all that is missing is told at once.
"""

import netrc
import os
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from schemas.errors import UsageError
from schemas.streams import STDIN, as_url
from schemas.terminal import path_text, printable
from trainer.config.data import DatasetSection
from trainer.config.sections import TrainConfig

WANDB_HOSTS = ("api.wandb.ai", "api.forge.coreweave.com")
"""Under which of them a key is kept depends on the version of wandb."""

WANDB_LOCAL = ("offline", "disabled", "dryrun")
SWANLAB_LOCAL = ("offline", "disabled", "local")
"""Values of WANDB_MODE and SWANLAB_MODE with which nothing is sent, so that no key is needed."""

TRUE_WORDS = ("1", "ON", "YES", "TRUE")
"""What huggingface_hub takes for a yes."""


def check_environment(config: TrainConfig) -> None:
    """Look for what the configuration asks for and the environment does not have.

    Raises:
        UsageError: something is missing; everything that is missing is named, with what to do.
    """
    problems = [
        *_missing_packages(config),
        *_missing_keys(config),
        *_hub_problems(config),
        *_folder_problems(config),
    ]
    if problems:
        raise UsageError(problems[0] if len(problems) == 1 else "\n  ".join(["the run can't start:", *problems]))


def folder_problem(folder: Path) -> str | None:
    """Say why a folder can't be written to, by trying it on the nearest one that exists."""
    ancestor = folder.expanduser()
    try:
        while not ancestor.exists():
            ancestor = ancestor.parent
        with tempfile.TemporaryDirectory(dir=ancestor):
            return None
    except OSError as error:
        return error.strerror or str(error)


def _missing_packages(config: TrainConfig) -> Iterator[str]:
    """Each tracker's package has its name."""
    for name in config.logger.trackers:
        if find_spec(name) is None:
            yield f"logger.{name}_enabled=true needs the package {name}: pip install {name}"


def _missing_keys(config: TrainConfig) -> Iterator[str]:
    trackers = config.logger.trackers
    if "wandb" in trackers and not _has_wandb_key():
        yield (
            "logger.wandb_enabled=true: no Weights & Biases key; set WANDB_API_KEY, log in once with `wandb login`, "
            "or set WANDB_MODE=offline to keep the run on this machine"
        )
    if "swanlab" in trackers and not _has_swanlab_key():
        yield (
            "logger.swanlab_enabled=true: no key for SwanLab; set SWANLAB_API_KEY, log in once with `swanlab login`, "
            "or set SWANLAB_MODE=offline to keep the run on this machine"
        )


def _has_wandb_key() -> bool:
    if os.environ.get("WANDB_MODE") in WANDB_LOCAL or os.environ.get("WANDB_DISABLED", "").upper() in TRUE_WORDS:
        return True
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    hosts = {urlsplit(os.environ.get("WANDB_BASE_URL", "")).netloc, *WANDB_HOSTS}
    named = os.environ.get("NETRC")
    files = [Path(named)] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]
    return any(hosts & _logins(file.expanduser()) for file in files)


def _has_swanlab_key() -> bool:
    if os.environ.get("SWANLAB_MODE") in SWANLAB_LOCAL or os.environ.get("SWANLAB_API_KEY"):
        return True
    own = os.environ.get("SWANLAB_ROOT") or os.environ.get("SWANLAB_SAVE_DIR")
    folders = [Path(own) if own else Path.home() / ".swanlab", Path.cwd() / ".swanlab"]
    return any(_logins(folder / ".netrc") for folder in folders)


def _logins(file: Path) -> frozenset[str]:
    """Name the hosts that a netrc file has a password for; an unreadable file has none, as for its owners."""
    try:
        hosts = netrc.netrc(str(file)).hosts
    except (OSError, netrc.NetrcParseError):
        return frozenset()
    return frozenset(host for host, (_, _, password) in hosts.items() if password)


def _hub_problems(config: TrainConfig) -> Iterator[str]:
    repository = config.hub.repo_id
    if repository is None:
        return
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in TRUE_WORDS:
        yield f"hub.repo_id={printable(repository)}: nothing is pushed while HF_HUB_OFFLINE is set; unset one of both"
        return
    from huggingface_hub import get_token  # half a second, and only a run that publishes needs it
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repository)
    except HFValidationError:
        yield f"hub.repo_id={printable(repository)}: no name that a repository can have, such as me/my-policy"
    if get_token() is None:
        yield (
            f"hub.repo_id={printable(repository)}: no token for the Hugging Face hub; log in once with "
            "`hf auth login`, or set HF_TOKEN to a token that may write"
        )


def _folder_problems(config: TrainConfig) -> Iterator[str]:
    for name, folder, remedy in _folders(config):
        problem = folder_problem(folder)
        if problem is not None:
            yield f"{name}={path_text(folder)}: can't be written: {printable(problem)}; {remedy}"


def _folders(config: TrainConfig) -> Iterator[tuple[str, Path, str]]:
    """Yield the folders outside the run's that something will be written to: their names and what else to do."""
    if config.logger.trackers and config.logger.log_dir is not None:
        yield "logger.log_dir", config.logger.log_dir, "name another, or leave it out for logs/ in the run's folder"
    if config.checkpointing.enabled and (checkpoints := config.checkpointing.checkpoint_dir) is not None:
        yield "checkpointing.checkpoint_dir", checkpoints, "name another, or leave it out for one in the run's folder"
    variables = _download_variables(config)
    for name in variables:
        value = os.environ.get(name)
        if value:
            yield name, Path(value), "downloads are kept there; set it to a folder of yours"


def _download_variables(config: TrainConfig) -> list[str]:
    """Name the variables for folders into which this run would download something.

    What lies in the cache already is read from there, which a folder that is read-only allows.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in TRUE_WORDS:
        return []
    models = [config.policy.model_name, config.reference.model_name, config.policy.tokenizer.name]
    hub_cache = "HF_HUB_CACHE" if os.environ.get("HF_HUB_CACHE") else "HF_HOME"
    names = [hub_cache] if any(name and _is_download(name) for name in models) else []
    sets = (*config.data.train, *config.data.validation_sets.values())
    if any(_is_on_hub(each) for each in sets):
        names += ["HF_HOME", "HF_DATASETS_CACHE"]
    return list(dict.fromkeys(names))


def _is_download(model_name: str) -> bool:
    """Say whether a model is neither a folder nor in the hub's cache."""
    if os.path.isdir(os.path.expanduser(model_name)):  # noqa: PTH111, PTH112 (they never raise)
        return False
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    return not os.path.isdir(cache / f"models--{model_name.replace('/', '--')}")  # noqa: PTH112 (never raises)


def _is_on_hub(dataset: DatasetSection) -> bool:
    """Say whether a data set is on the hub: one known by its name alone, or no file, URL or class."""
    path = dataset.data_path
    if path is None or dataset.is_class:
        return not dataset.is_class
    return as_url(path) is None and path != STDIN and not path.exists()
