"""`data.*`: which preference pairs, in which form, in which order."""

import difflib
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from trainer.config.base import Section, Weight, one_or_more, path_alone

DEFAULT_SET = "default"
"""What the set of `data.validation` is called in metrics."""

IN_MEMORY = Path("(rows in memory)")
"""What stands for the path of rows that a program has handed over."""

HUB_SETS = {
    "HelpSteer3": "nvidia/HelpSteer3",
    "Tulu3Preference": "allenai/llama-3.1-tulu-3-8b-preference-mixture",
}
"""Data sets that are known by name, and where the hub has them."""
NAMED_SETS = (*HUB_SETS, "BinaryPreferenceDataset", "PreferenceDataset")
_CLASS_PATH = re.compile(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")


class DatasetSection(Section):
    """One set of preference pairs: a file, a folder, or a data set of the hub."""

    data_path: Path | None = None
    """File (JSONL, JSON, Parquet, Arrow, CSV), folder, URL or hub name; data sets known by name have one."""
    dataset_name: str | None = None
    """HelpSteer3, Tulu3Preference, BinaryPreferenceDataset, PreferenceDataset or module.Class; null: by the keys."""
    subset: str | None = None
    """Configuration of a data set of the hub."""
    split: str | None = None
    """Split of a data set of the hub; null: train."""
    prompt_key: str = "prompt"
    """Key of the prompt in BinaryPreference rows."""
    chosen_key: str = "chosen"
    """Key of the chosen response."""
    rejected_key: str = "rejected"
    """Key of the rejected response."""
    system_prompt_file: Path | None = None
    """Text that is put before each prompt as the system's message."""
    prompt_file: Path | None = None
    """Text with {} in it, in which the first user message of each prompt is put."""

    @property
    def is_class(self) -> bool:
        """Say whether the set is a class of the user's own."""
        return self.dataset_name is not None and _CLASS_PATH.match(self.dataset_name) is not None

    @property
    def has_other_keys(self) -> bool:
        """Say whether the keys of BinaryPreference rows are called otherwise than usual."""
        return (self.prompt_key, self.chosen_key, self.rejected_key) != ("prompt", "chosen", "rejected")

    @model_validator(mode="after")
    def _is_known_and_has_a_source(self) -> Self:
        name = self.dataset_name
        if name is not None and name not in NAMED_SETS and not self.is_class:
            near = difflib.get_close_matches(name, NAMED_SETS, n=1)
            meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(NAMED_SETS)}, or module.Class"
            raise ValueError(f"dataset_name={name}: no such kind of data set; {meant}")
        if self.data_path is None and name not in HUB_SETS and not self.is_class:
            raise ValueError("no data: give data_path, or dataset_name=HelpSteer3 or Tulu3Preference")
        if len({self.prompt_key, self.chosen_key, self.rejected_key}) < 3:
            raise ValueError("prompt_key, chosen_key and rejected_key are three different keys")
        if self.has_other_keys and name is not None and name != "BinaryPreferenceDataset" and not self.is_class:
            raise ValueError(
                f"prompt_key, chosen_key and rejected_key name keys of BinaryPreference rows, not of {name}"
            )
        return self


class TrainDatasetSection(DatasetSection):
    """One set of the pairs to train on."""

    weight: Weight = 1.0
    """How often the set is gone through in an epoch: 2: each pair twice; 0.5: another half of them each epoch."""


TrainSets = str | TrainDatasetSection | list[str | TrainDatasetSection]
"""What data.train may be written as."""


class DataSection(Section):
    """Where the pairs are, and how they are read."""

    train: Annotated[tuple[TrainDatasetSection, ...], BeforeValidator(one_or_more, TrainSets), Field(min_length=1)]
    """The pairs to train on: one set, or a list of them."""
    validation: Annotated[DatasetSection, BeforeValidator(path_alone, str | DatasetSection)] | None = None
    """The pairs to validate on; in metrics the set is called default."""
    val_data_paths: dict[
        Annotated[str, Field(pattern=r"^[\w.\-]+$")],
        Annotated[DatasetSection, BeforeValidator(path_alone, str | DatasetSection)],
    ] = {}
    """More sets to validate on, by name: a path, or the keys of data.validation."""
    shuffle: bool = True
    """Shuffle anew in each epoch; false: the order of the file."""
    order: Literal["groups", "pairs"] = "groups"
    """groups: a prompt's pairs follow one another, so its responses are shared; pairs: all pairs are shuffled."""
    loss_mask: Literal["policy", "nemo_rl"] = "policy"
    """policy: what the policy wrote; nemo_rl: also the last turn's header and tail, as NeMo RL does."""
    token_ids: Literal["use", "ignore"] = "use"
    """Whether the sampled token ids of the rows, where they have some, are trained on as they are."""

    @property
    def validation_sets(self) -> dict[str, DatasetSection]:
        """Give all sets to validate on, by name."""
        default = {} if self.validation is None else {DEFAULT_SET: self.validation}
        return default | self.val_data_paths

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        if self.validation is not None and DEFAULT_SET in self.val_data_paths:
            raise ValueError(f"two validation sets are called {DEFAULT_SET}: data.validation and one of val_data_paths")
        return self
