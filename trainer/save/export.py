"""`dpo export`: from a run or a policy to a folder that others load: merged weights in the wanted type, or adapters.

The source is read through `from_pretrained`, so what is written is known to load.
"""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from schemas.errors import DpoError, InputError, UsageError
from schemas.terminal import one_line, path_text, printable
from trainer.config.policy import LoraSection
from trainer.config.sections import POLICY_FOLDER, TrainConfig
from trainer.model.lora import load_adapter
from trainer.model.merged import ADAPTER_FOLDER, merged_state_dict, plain_model
from trainer.model.overrides import overridden
from trainer.model.policy import CODE_KEY, CODE_REMEDY, is_empty
from trainer.model.quantized import load_kwargs
from trainer.model.weight_files import weights_problem
from trainer.save.card import CARD_FILE, Kind, Result, best_file, card_not_made, model_card, with_loading
from trainer.save.run_folder import CONFIG_FILE
from trainer.save.whole_folder import whole_folder

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
CHECKPOINT = re.compile(r"step_\d+")

Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Source:
    """A policy that is to be exported."""

    policy: Path
    run: Path | None  # the run's folder, where the policy lies in one
    step: int | None  # of a checkpoint

    @property
    def is_adapter(self) -> bool:
        """Say whether the folder holds adapters and no model."""
        return (self.policy / ADAPTER_CONFIG).is_file()

    @property
    def adapter(self) -> Path | None:
        """Give the folder of the adapters, where there are some."""
        beside = self.policy / ADAPTER_FOLDER
        if self.is_adapter:
            return self.policy
        return beside if (beside / ADAPTER_CONFIG).is_file() else None


@dataclass(frozen=True)
class Exported:
    """What was written."""

    folder: Path
    source: Path
    kind: Kind
    dtype: str
    num_bytes: int

    def as_dict(self) -> dict[str, object]:
        """Give it as JSON types."""
        return {
            "folder": str(self.folder),
            "source": str(self.source),
            "kind": self.kind,
            "dtype": self.dtype,
            "bytes": self.num_bytes,
        }


def find_source(path: Path, checkpoint: str | None) -> Source:
    """Find the policy that is meant: of a run the last one, the best, or a step's; or a policy's own folder.

    Raises:
        InputError: there is none.
        UsageError: a checkpoint of a folder that is no run, or of a name that none has.
    """
    if not path.is_dir():
        raise InputError(f"{path_text(path)}: no such folder; name a run's folder or a policy's")
    is_policy = (path / "config.json").is_file() or (path / ADAPTER_CONFIG).is_file()
    if checkpoint is None:
        policy = path if is_policy else path / POLICY_FOLDER
    elif is_policy:
        raise UsageError(f"{path_text(path)}: is a policy, which has no checkpoints; name its run")
    else:
        policy = _checkpoint(path, checkpoint)
    if not any((policy / name).is_file() for name in ("config.json", ADAPTER_CONFIG)):
        missing = path_text(policy.relative_to(path)) if policy.is_relative_to(path) else path_text(policy)
        offer = f"; there are {', '.join(names)}, name one with --checkpoint" if (names := _checkpoints(path)) else ""
        raise InputError(f"{path_text(path)}: neither a policy nor a run with one: no {missing}{offer}")
    return Source(policy, *_origin(policy))


def _checkpoint(run: Path, name: str) -> Path:
    """Give the policy of a checkpoint of a run."""
    if name == "last":
        return run / POLICY_FOLDER
    folder = _checkpoint_folder(run)
    if name == "best":
        file = folder / "best.json"
        try:
            found = folder / json.loads(file.read_bytes())["path"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path_text(file)}: can't be read, so no checkpoint is known to be the best; the run needs a "
                "validation set or checkpointing.metric_name for that"
            ) from error
        policy: Path = found.resolve()
        return policy
    if CHECKPOINT.fullmatch(name) and (folder / name).is_dir():
        return folder / name / POLICY_FOLDER
    best = ["best"] if (folder / "best.json").is_file() else []
    offer = ", ".join(["last", *best, *_checkpoints(run)])
    raise UsageError(f"--checkpoint {printable(name)}: the run has no such checkpoint; there are {offer}")


def _checkpoints(run: Path) -> list[str]:
    names = [path.name for path in _checkpoint_folder(run).glob("step_*") if CHECKPOINT.fullmatch(path.name)]
    return sorted(names, key=lambda name: int(name.removeprefix("step_")))


def _checkpoint_folder(run: Path) -> Path:
    """Say where a run keeps its checkpoints: in its folder, or where its configuration says."""
    config = read_config(run)
    named = None if config is None else config.checkpointing.checkpoint_dir
    return run / "checkpoints" if named is None else named


def _origin(policy: Path) -> tuple[Path | None, int | None]:
    """Tell a policy's run and step from where it lies."""
    parents = policy.resolve().parents
    step = parents[0].name if parents else ""
    if CHECKPOINT.fullmatch(step):
        return (parents[2] if len(parents) > 2 else None), int(step.removeprefix("step_"))
    return (parents[0] if (parents[0] / "metrics.jsonl").is_file() else None), None


def export(source: Source, target: Path, *, as_adapter: bool, dtype: Dtype, place: str | None = None) -> Exported:
    """Write a policy into a new folder, whole or not at all; `place` is its repository, where it will have one.

    Raises:
        InputError: the source, or the base of its adapters, can't be loaded.
        UsageError: adapters are wanted and there are none.
        DpoError: it can't be written, or its weights don't fit the type.
    """
    if as_adapter and source.adapter is None:
        raise UsageError(
            f"{path_text(source.policy)}: holds the model alone, no adapters; policy.lora.save=both keeps them"
        )
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with whole_folder(target.resolve()) as folder:
        if as_adapter and source.adapter is not None:
            _base_of(source.adapter)
            _copy_adapter(source.adapter, folder)
        else:
            _write_model(source, folder, getattr(torch, dtype))
        _tokenizer(source.policy).save_pretrained(folder)
        _write_papers(source, folder, kind="adapter" if as_adapter else "merged", place=place or target.name)
        num_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Exported(target, source.policy, "adapter" if as_adapter else "merged", dtype, num_bytes)


def _write_model(source: Source, folder: Path, dtype: torch.dtype) -> None:
    model, weights = _merged(source) if source.is_adapter else _loaded(source.policy)
    rounded: dict[int, torch.Tensor] = {}  # by place in memory, so that tied weights stay one
    for name, weight in weights.items():
        if weight.is_floating_point() and weight.data_ptr() not in rounded:
            rounded[weight.data_ptr()] = _fitting(weight, dtype, f"{path_text(source.policy)}: {name}")
    state_dict = {name: rounded.get(weight.data_ptr(), weight) for name, weight in weights.items()}
    model.to(dtype).save_pretrained(folder, state_dict=state_dict)  # the folder's config.json has the model's type


def _fitting(weight: torch.Tensor, dtype: torch.dtype, what: str) -> torch.Tensor:
    """Round a weight to a type that can hold it."""
    rounded = weight.to(dtype)
    if not rounded.isfinite().all():
        raise DpoError(f"{what} has values that are not finite in {dtype}; export with --dtype bfloat16 or float32")
    return rounded


def _loaded(policy: Path) -> tuple[Any, dict[str, torch.Tensor]]:
    model = _load(str(policy), {}, {})
    return model, model.state_dict()


def _merged(source: Source) -> tuple[Any, dict[str, torch.Tensor]]:
    """Merge adapters into their base, as the run had it: quantised where it was, its configuration overridden."""
    base = _base_of(source.policy)
    config = read_config(source.policy)
    lora = LoraSection() if config is None else config.policy.lora
    overrides = {} if config is None else config.policy.hf_config_overrides
    whole = _load(base, load_kwargs(lora, "float32"), overrides)
    with _loading(f"{path_text(source.policy)}: its adapters"):
        model = load_adapter(whole, source.policy)
    return plain_model(model), merged_state_dict(model)


def _load(name: str, options: Mapping[str, Any], overrides: Mapping[str, Any]) -> Any:
    with _loading(f"model {printable(name)}:"):
        config: Any = overridden(AutoConfig.from_pretrained(name, trust_remote_code=False), overrides)
        if (problem := weights_problem(name, config)) is not None:
            raise ValueError(problem)
        model: Any = AutoModelForCausalLM.from_pretrained(
            name, config=config, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, **options
        )
    model.config.__dict__.pop(CODE_KEY, None)
    return model


def _tokenizer(policy: Path) -> Any:
    with _loading(f"{path_text(policy)}: its tokenizer"):
        tokenizer: Any = AutoTokenizer.from_pretrained(policy, trust_remote_code=False)
    tokenizer.init_kwargs.pop(CODE_KEY, None)
    if is_empty(tokenizer):
        raise InputError(f"{path_text(policy)}: has no tokenizer; copy tokenizer.json of its base into it")
    return tokenizer


@contextmanager
def _loading(what: str) -> Iterator[None]:
    """Say in one line what can't be loaded."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:  # the hub, the file system, peft and safetensors each raise their own
        if "trust_remote_code" in str(error):
            raise InputError(f"{what} brings code of its own, which is never run; {CODE_REMEDY}") from error
        raise InputError(f"{what} can't be loaded: {one_line(error)}") from error


def _base_of(adapter: Path) -> str:
    """Read the name of the model that adapters belong to, and see that their weights are whole."""
    with _loading(f"{path_text(adapter)}: its adapters"):
        base = json.loads((adapter / ADAPTER_CONFIG).read_bytes())["base_model_name_or_path"]
        if not (adapter / ADAPTER_WEIGHTS).is_file():
            raise ValueError(f"there is no {ADAPTER_WEIGHTS}; adapters in pickles are not read")
        with safe_open(adapter / ADAPTER_WEIGHTS, "pt") as weights:
            weights.keys()
    if not isinstance(base, str) or not base:
        raise InputError(f"{path_text(adapter / ADAPTER_CONFIG)}: names no base_model_name_or_path")
    return base


def _copy_adapter(adapter: Path, folder: Path) -> None:
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        shutil.copyfile(adapter / name, folder / name)


def _write_papers(source: Source, folder: Path, *, kind: Kind, place: str) -> None:
    """Write the model card and the configuration."""
    papers = source.policy / CONFIG_FILE
    if papers.is_file():
        shutil.copyfile(papers, folder / CONFIG_FILE)
    card = _card(source, kind=kind, place=place)
    if card is not None:
        (folder / CARD_FILE).write_text(card, encoding="utf-8")


def _card(source: Source, *, kind: Kind, place: str) -> str | None:
    """Give the run's own card, which knows most, or make one of what the run left; None of another tool's policy."""
    config, card = read_config(source.policy), source.policy / CARD_FILE
    if card.is_file():
        return with_loading(card.read_text(encoding="utf-8", errors="replace"), kind, place)
    if config is None:
        return None
    run = source.run or source.policy.parent
    try:
        result = Result.of(run, best_file(config, run), last_step=source.step)
        return model_card(config, title=config.output_dir.name, place=place, kind=kind, result=result)
    except Exception as error:  # the files of a run that broke off may be torn; the policy is worth more than words
        return card_not_made(config.output_dir.name, error)


def read_config(folder: Path) -> TrainConfig | None:
    """Read the configuration of a run or a policy; None where it isn't ours or of another version."""
    try:
        return TrainConfig.model_validate_json((folder / CONFIG_FILE).read_bytes())
    except (OSError, ValidationError):
        return None
