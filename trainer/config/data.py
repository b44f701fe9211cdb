"""`data.*`: which preference pairs, in which form, in which order."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, PositiveFloat, model_validator

from trainer.config.base import Section, one_or_more, path_alone

DEFAULT_SET = "default"
"""What the set of `data.validation` is called in metrics."""


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

    @model_validator(mode="after")
    def _has_a_source(self) -> Self:
        if self.data_path is None and self.dataset_name not in ("HelpSteer3", "Tulu3Preference"):
            raise ValueError("no data: give data_path, or dataset_name=HelpSteer3 or Tulu3Preference")
        return self


class TrainDatasetSection(DatasetSection):
    """One set of the pairs to train on."""

    weight: PositiveFloat = 1.0
    """How often the set is gone through in an epoch: 2: each pair twice; 0.5: another half of them each epoch."""


class DataSection(Section):
    """Where the pairs are, and how they are read."""

    train: Annotated[tuple[TrainDatasetSection, ...], BeforeValidator(one_or_more), Field(min_length=1)]
    """The pairs to train on: one set, or a list of them."""
    validation: Annotated[DatasetSection, BeforeValidator(path_alone)] | None = None
    """The pairs to validate on; in metrics the set is called default."""
    val_data_paths: dict[
        Annotated[str, Field(pattern=r"^[\w.\-]+$")], Annotated[DatasetSection, BeforeValidator(path_alone)]
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
