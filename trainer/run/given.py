"""What a program has at hand already when it starts a run: none of it is loaded again."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainer.run.start import LoadedGroups


@dataclass(frozen=True)
class Given:
    """A model, its tokenizer, pairs; the configuration says where all else comes from."""

    model: Any = None
    tokenizer: Any = None
    train: LoadedGroups | None = None
    validation: Mapping[str, LoadedGroups] = field(default_factory=dict)  # by the name of the set


NOTHING = Given()
