"""Publishing a policy on the Hugging Face hub, with the token of HF_TOKEN or of `hf auth login`."""

import re
import shlex
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from schemas.errors import DpoError, UsageError
from schemas.terminal import path_text, printable
from trainer.save.run_folder import CONFIG_FILE

NOT_PUBLISHED = [CONFIG_FILE]
"""Files that tell where things lie on this machine; the card has the settings."""


def push(folder: Path, repo_id: str, *, private: bool, endpoint: str | None = None) -> str:
    """Upload a policy's folder to a repository, which is made where there is none; return its address.

    Raises:
        UsageError: the name can't be a repository's.
        DpoError: the hub doesn't take it; the folder is whole, and the message says how to push it by hand.
    """
    refuse_wrong_name(repo_id)
    api = HfApi(endpoint=endpoint)
    try:
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in NOT_PUBLISHED)
        additions = [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in files]
        # one commit, so that the repository never holds half a policy; upload_folder makes several
        api.create_commit(url.repo_id, additions, commit_message="Upload policy")
    except Exception as error:  # each layer of the hub's client raises its own
        by_hand = f"hf upload {shlex.quote(repo_id)} {shlex.quote(str(folder))} --exclude {' '.join(NOT_PUBLISHED)}"
        raise DpoError(
            f"{repo_id}: can't be pushed to the hub: {_first_line(error)}; the policy is in {path_text(folder)}, and "
            f"by hand it is: {by_hand}{' --private' if private else ''}"
        ) from error
    return str(url)


def refuse_wrong_name(repo_id: str) -> None:
    """Tell a name that the hub would not take.

    Raises:
        UsageError: it is none.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UsageError(f"{printable(repo_id)}: no name of a repository: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    lines = [re.sub(r"\s+", " ", line).strip() for line in str(error).splitlines()]
    return printable(next(filter(None, lines), type(error).__name__)).rstrip(".")
