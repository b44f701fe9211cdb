"""The configuration as it may be written: its file and the command line may hold passwords in URLs."""

from typing import Any

from schemas.secrets import tree_without_secrets
from trainer.config.base import Section


def config_without_secrets(config: Section) -> dict[str, Any]:
    """Give a configuration as JSON types, with *** where a text holds a key, a password or a signature."""
    tree: dict[str, Any] = tree_without_secrets(config.model_dump(mode="json"))
    return tree
