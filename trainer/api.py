"""What `dpo train` does, for programs: pairs, a trainer, an evaluation; docs/api.md shows each.

Everything that can be set is a key of docs/configuration.md, and every error is one of schemas/errors.py.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from schemas.preference import PreferencePair
from trainer.config.data import DEFAULT_SET, IN_MEMORY, TrainDatasetSection
from trainer.config.from_python import Wanted, configuration
from trainer.config.preflight import preflight
from trainer.config.sections import TrainConfig
from trainer.data.external import numbered, rows_of_object
from trainer.data.groups import group_pairs
from trainer.data.plan import Step, every_pair
from trainer.data.prompts import read_prompt_texts
from trainer.data.sources import Account, check_dataset, iter_dataset, pairs_of_set
from trainer.data.tokenize import PairDrop
from trainer.model.policy import disable_dropout, load_policy, load_tokenizer
from trainer.run.evaluation import pair_metrics
from trainer.run.given import Given
from trainer.run.loop import train
from trainer.run.result import RunResult
from trainer.run.setup import set_up
from trainer.run.start import LoadedGroups, start_accelerator, tokenize
from trainer.save.run_folder import CONFIG_FILE

MODEL_WITHOUT_NAME = "unnamed"

Rows = Iterable[Mapping[str, Any]]


class DPODataset:
    """Preference pairs, read and checked: `len` counts them, iterating yields them."""

    def __init__(self, source: str | Path | Rows | Any, **options: Any) -> None:
        """Read pairs.

        Args:
            source: A file, folder, URL or hub name; rows as mappings, such as a list or a Hugging Face data set; or an
                object of a NeMo RL data set class (`formatted_ds`, `task_spec`).
            options: Keys of `data.train`, such as split, prompt_key or dataset_name.

        Raises:
            InputError: it can't be read, or a row is no preference pair.
            UsageError: an option is wrong.
            DpoError: there are no pairs.
        """
        is_place = isinstance(source, (str, Path))
        place = str(source) if is_place else str(IN_MEMORY)
        config = configuration(None, {"data": {"train": {"data_path": place, **options}}})
        self.section: TrainDatasetSection = config.data.train[0]
        self._account = Account()
        self.pairs = tuple(self._from_place() if is_place else self._from_memory(source))

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[PreferencePair]:
        return iter(self.pairs)

    @property
    def groups(self) -> LoadedGroups:
        """Gather the pairs by prompt."""
        ties = +Counter({PairDrop.TIE: self._account.ties})
        return LoadedGroups((self.section,), group_pairs(self.pairs), ties, self._account.notes())

    def _from_place(self) -> Iterator[PreferencePair]:
        read_prompt_texts(self.section)
        check_dataset(self.section)
        return iter_dataset(self.section, number=0, account=self._account, advance=lambda amount: None)

    def _from_memory(self, source: Any) -> Iterator[PreferencePair]:
        name = type(source).__name__
        if hasattr(source, "formatted_ds") or hasattr(source, "task_spec"):
            rows, own = rows_of_object(source, split=self.section.split or "train", name=name)
            return pairs_of_set(self.section, rows, shown=name, account=self._account, own=own)
        return pairs_of_set(self.section, numbered(source), shown=name, account=self._account)


class DPOTrainer:
    """Trains a policy with DPO; all of `dpo train` but the command line."""

    def __init__(
        self,
        model: Any,
        train_dataset: DPODataset | str | Path | Rows | Any,
        val_dataset: DPODataset | Mapping[str, Any] | str | Path | Rows | Any = None,
        config: Wanted = None,
        *,
        tokenizer: Any = None,
        output_dir: str | Path | None = None,
    ) -> None:
        """Gather what a run needs; nothing is computed yet.

        Args:
            model: A folder or hub name, or a loaded causal language model, which is then trained in place.
            train_dataset: A `DPODataset`, or what one can be made of.
            val_dataset: Likewise, or several of them by name.
            config: Settings; see `trainer.config.from_python.configuration`.
            tokenizer: Of a loaded model; none: that of the folder or hub name that the model was loaded from.
            output_dir: New folder for the run; none: `output_dir` of the settings, else runs/<time>.

        Raises:
            InputError: a data set or the tokenizer can't be read.
            UsageError: a setting is wrong.
        """
        self._train = _dataset(train_dataset)
        named = val_dataset if isinstance(val_dataset, Mapping) else {DEFAULT_SET: val_dataset}
        self._validation = {name: _dataset(each) for name, each in named.items() if each is not None}
        own: dict[str, Any] = {"data": {"train": [self._train.section.model_dump(mode="json")]}}
        own["data"] |= {"validation": None, "val_data_paths": _sections(self._validation)} if self._validation else {}
        own |= {} if output_dir is None else {"output_dir": str(output_dir)}
        self.config, self.model, self.tokenizer = _with_model(model, tokenizer, config, own)
        self.result: RunResult | None = None

    def train(self) -> RunResult | None:
        """Train; give the result on the main process, None on the others.

        Raises:
            InputError: the model can't be read.
            UsageError: model and tokenizer can't serve, or the folder of the run is in use.
            DpoError: there is nothing to train on, or the training went wrong.
        """
        preflight(self.config)
        validation = {name: each.groups for name, each in self._validation.items()}
        given = Given(self.model, self.tokenizer, self._train.groups, validation)
        with nullcontext() if self.model is None else _as_it_was(self.model):
            self.result = train(self.config, given)
        return self.result


def evaluate(
    model: Any,
    dataset: DPODataset | str | Path | Rows | Any,
    *,
    reference: str | Path | None = None,
    config: Wanted = None,
    tokenizer: Any = None,
) -> dict[str, float]:
    """Measure a policy on preference pairs: accuracy, margin, log-probs and what else a validation measures.

    Without a reference a response's reward is its log-prob, so that accuracy is the share of pairs whose chosen
    response the policy finds the more probable one; with `dpo.preference_average_log_probs` by token.

    Args:
        model: A folder or hub name, or a loaded causal language model, which is left as it was.
        dataset: A `DPODataset`, or what one can be made of.
        reference: Folder or hub name of the policy to compare with.
        config: Settings as of a training; none: those that the policy was trained with, where its folder has them.
        tokenizer: Of a loaded model; none: that of the folder or hub name that the model was loaded from.

    Raises:
        InputError: pairs, model or tokenizer can't be read.
        UsageError: model and tokenizer can't serve, or a setting is wrong.
        DpoError: no pair can be measured.
    """
    pairs = _dataset(dataset)
    config = _as_trained(model, has_reference=reference is not None) if config is None else config
    wanted = {"model_name": None, "mode": "none"} if reference is None else {"model_name": str(reference)}
    own = {"data": {"train": [pairs.section.model_dump(mode="json")]}, "reference": wanted}
    settings, loaded, tokens = _with_model(model, tokenizer, config, own)
    accelerator, settings = start_accelerator(settings)
    policy = settings.policy
    if loaded is None:
        loaded, tokens = load_policy(
            policy.model_name, tokenizer=policy.tokenizer, overrides=policy.hf_config_overrides
        )
    with _as_it_was(loaded):
        disable_dropout(loaded)
        data = tokenize(settings, pairs.groups, loaded, tokens, shown=False)
        refs = every_pair(data.groups)
        training = set_up(settings, accelerator, loaded, data, [Step(0, refs)])
        metrics = pair_metrics(training, training.packer, training.reference, refs)
    return metrics | {f"dropped/{reason}": float(count) for reason, count in data.dropped.items()}


def _as_trained(model: Any, *, has_reference: bool) -> Wanted:
    """Read what the policy's folder says of how it was trained, as far as it matters to a measurement.

    Without a reference the loss may have no meaning, so it is then that of DPO.
    """
    place = model if isinstance(model, (str, Path)) else model.config.name_or_path
    path = Path(place) / CONFIG_FILE
    if not path.is_file():
        return None
    told = json.loads(path.read_text(encoding="utf-8"))
    keys = {"dpo": None, "loss": None, "policy": ("tokenizer", "max_total_sequence_length"), "data": ("loss_mask",)}
    sections = {name: told[name] for name in keys if name in told and (has_reference or name != "loss")}
    return {
        name: section
        if keys[name] is None
        else {key: value for key, value in section.items() if key in (keys[name] or ())}
        for name, section in sections.items()
    }


def _dataset(source: Any) -> DPODataset:
    return source if isinstance(source, DPODataset) else DPODataset(source)


def _sections(datasets: Mapping[str, DPODataset]) -> dict[str, Any]:
    return {name: each.section.model_dump(mode="json", exclude={"weight"}) for name, each in datasets.items()}


def _with_model(model: Any, tokenizer: Any, config: Wanted, own: Mapping[str, Any]) -> tuple[TrainConfig, Any, Any]:
    """Make the configuration for a model by name, or for one that is loaded, with its tokenizer."""
    if isinstance(model, (str, Path)):
        return configuration(config, {**own, "policy": {"model_name": str(model)}}), None, None
    name = str(model.config.name_or_path) or MODEL_WITHOUT_NAME
    tokens = load_tokenizer(name) if tokenizer is None else tokenizer
    shown = name if Path(name).is_dir() or name.count("/") <= 1 else Path(name).name
    return configuration(config, {**own, "policy": {"model_name": shown}}), model, tokens


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Set back what a measurement changes of a model: modes, dropout, attention, device."""
    base: Any = model
    attention = base.config._attn_implementation
    device = next(model.parameters()).device
    kept = [(module, dict(_numbers(module)), module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, numbers, was_training in kept:
            module.training = was_training
            for name, value in numbers.items():
                setattr(module, name, value)
        base.set_attn_implementation(attention)
        model.to(device)


def _numbers(module: nn.Module) -> Iterator[tuple[str, float]]:
    """Name what `disable_dropout` may set to 0."""
    return ((name, value) for name, value in vars(module).items() if isinstance(value, float))
