"""The model card: README.md in the policy's folder, with what was trained on what, how, and with what result.

It may be published, so it tells names of files, never where they lie on this machine, and whatever comes from data or
settings is written so that it can't become markup.
"""

import html
import json
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import ModelCardData

from schemas.secrets import without_secrets
from schemas.terminal import counted, excerpt, printable
from trainer.config.base import Section
from trainer.config.sections import TrainConfig
from trainer.data.sources import is_hub_name
from trainer.save.card_data import PairCounts, Source, source_of

CARD_FILE = "README.md"
LIBRARIES = ("transformers", "peft")
LIBRARY = re.compile(r"^library_name: \w+$", re.MULTILINE)
LOADING = "## Loading"

Kind = Literal["merged", "adapter", "both"]
"""What a policy's folder holds."""

PACKAGES = ("dpo", "torch", "transformers", "accelerate", "peft")
NOT_TOLD = ("data.train", "data.validation", "data.val_data_paths", "hub.", "logger.", "cluster.", "output_dir")
NOT_TOLD_EITHER = ("checkpointing.checkpoint_dir", "reference.cache_dir")
"""Settings that are in another section of the card, or about the machine."""

OPERATION = re.compile(
    r"^(lr|mfu|consumed_samples|num_valid_samples|memory_gb|.*_seconds|.*_per_second.*|.*_factor|total_.*|global_.*)$"
)
"""Metrics about the run, not about the policy."""

MARKUP = re.compile(r"([\\`*_\[\]#!|~$]|:(?=//))")
"""What Markdown reads something into; without a colon an address is no link."""

PATH = re.compile(r"[^\s{}'\"]*/[^\s{}'\"]*")


@dataclass(frozen=True)
class Result:
    """What a run came to."""

    lines: Sequence[Mapping[str, Any]]  # of metrics.jsonl
    best: Mapping[str, Any] | None = None  # best.json
    verdicts: Sequence[str] | None = None  # on the run's health, in words; None: not judged

    @classmethod
    def of(
        cls, run: Path, best_file: Path, *, last_step: int | None = None, verdicts: Sequence[str] | None = None
    ) -> "Result":
        """Read the files of a run, up to a step."""
        lines = [json.loads(line) for line in _text(run / "metrics.jsonl").splitlines()]
        best = json.loads(_text(best_file) or "null")
        return cls([line for line in lines if last_step is None or line["step"] <= last_step], best, verdicts)

    def series(self, prefix: str) -> dict[str, tuple[float, float]]:
        """Give the first and the last value of each metric with a prefix, those about the run itself left out."""
        found: dict[str, tuple[float, float]] = {}
        for line in self.lines:
            for name, value in line.items():
                metric = name.removeprefix(prefix)
                if name.startswith(prefix) and value is not None and not OPERATION.match(metric):
                    found[metric] = (found.get(metric, (value, value))[0], value)
        return found

    @property
    def validation_sets(self) -> list[str]:
        """Name the sets that were validated on."""
        names = [name.partition("/")[0] for line in self.lines for name in line if name.startswith("validation-")]
        return list(dict.fromkeys(name.removeprefix("validation-") for name in names))


def write_run_card(
    folder: Path,
    config: TrainConfig,
    *,
    counts: PairCounts | None = None,
    verdicts: Sequence[str] | None = None,
    last_step: int | None = None,
) -> None:
    """Write README.md into the folder of a policy that a run saves; `last_step` is that of a checkpoint."""
    run = config.output_dir
    place = config.hub.repo_id or f"{run.name}/policy"
    try:
        result = Result.of(run, best_file(config, run), last_step=last_step, verdicts=verdicts)
        card = model_card(config, title=run.name, place=place, kind=kind_of(config), result=result, counts=counts)
    except Exception as error:  # whatever is wrong with the words about a policy, it must not be lost for them
        card = card_not_made(run.name, error)
    (folder / CARD_FILE).write_text(card, encoding="utf-8")


def card_not_made(title: str, error: Exception) -> str:
    """Say on a card why it says nothing else."""
    return f"# {_plain(title)}\n\nThis card could not be made: {_plain(repr(error))}\n"


def kind_of(config: TrainConfig) -> Kind:
    """Say what a run's policy folder holds."""
    return config.policy.lora.save if config.policy.lora.rank else "merged"


def best_file(config: TrainConfig, run: Path) -> Path:
    """Say where a run, whose folder may have been moved, tells which of its checkpoints is the best."""
    return (config.checkpointing.checkpoint_dir or run / "checkpoints") / "best.json"


def model_card(
    config: TrainConfig, *, title: str, place: str, kind: Kind, result: Result, counts: PairCounts | None = None
) -> str:
    """Describe a policy; `place` is what from_pretrained is given: its repository on the hub, or its folder."""
    sources = [source_of(each) for each in config.data.train]
    base = _name_alone(config.policy.model_name)
    parts = [
        f"---\n{_front_matter(config, sources, kind)}\n---",
        f"# {_plain(title)}",
        f"{_plain(base)}, trained by preference optimisation with dpo {_plain(version('dpo'))}.",
        "## Training\n\n" + _table(("what", "value"), _training(config, result)),
        "## Data\n\n" + "\n\n".join(_data(sources, counts)),
        "## Settings that differ from the defaults\n\n" + _table(("key", "value", "default"), _changed(config)),
        "## Metrics\n\n" + ("\n\n".join(_metrics(result)) or "None."),
        *_health(result),
        "## Versions\n\n" + _table(("package", "version"), _versions()),
        loading(kind, place),
    ]
    return without_secrets("\n\n".join(parts))


def loading(kind: Kind, place: str) -> str:
    """Say how a policy is loaded."""
    auto = "AutoPeftModelForCausalLM" if kind == "adapter" else "AutoModelForCausalLM"
    imports = f"from transformers import {auto}, AutoTokenizer"
    if kind == "adapter":
        imports = f"from peft import {auto}\nfrom transformers import AutoTokenizer"
    quoted = json.dumps(printable(place), ensure_ascii=False)
    lines = [
        imports,
        "",
        f"model = {auto}.from_pretrained({quoted})",
        f"tokenizer = AutoTokenizer.from_pretrained({quoted})",
    ]
    beside = "\n\nThe adapters alone are in the folder `adapter`.\n" if kind == "both" else "\n"
    return f"{LOADING}\n\n```python\n" + "\n".join(lines) + "\n```" + beside


def with_loading(card: str, kind: Kind, place: str) -> str:
    """Give a card for another form of the same policy: its last part is about loading it."""
    if LOADING not in card:
        return card
    card = LIBRARY.sub(f"library_name: {LIBRARIES[kind == 'adapter']}", card, count=1)
    return card.rpartition(LOADING)[0] + loading(kind, place)


def _front_matter(config: TrainConfig, sources: Sequence[Source], kind: Kind) -> str:
    """Write what the hub reads; it knows models and data sets by their names there only."""
    base = config.policy.model_name
    lora = ["lora"] if config.policy.lora.rank else []
    data = ModelCardData(
        base_model=base if _is_on_hub(base) else None,
        library_name=LIBRARIES[kind == "adapter"],
        pipeline_tag="text-generation",
        tags=["dpo", *lora],
        datasets=[each.name for each in sources if each.is_on_hub] or None,
    )
    return str(data.to_yaml())


def _training(config: TrainConfig, result: Result) -> Iterator[tuple[str, str]]:
    policy, lora = config.policy, config.policy.lora
    yield "base model", _name_alone(policy.model_name)
    if not lora.rank:
        yield "trained", "all weights"
    else:
        quantized = "" if lora.quantization == "none" else f" on weights in {lora.quantization}"
        yield "trained", f"adapters of rank {lora.rank}{quantized}"
    losses = config.loss.weights.items()
    yield "loss", " + ".join(name if len(losses) == 1 else f"{weight:g} {name}" for name, weight in losses)
    yield "beta", f"{config.dpo.reference_policy_kl_penalty:g}"
    reference = config.reference.model_name
    own = "none" if config.reference_mode == "none" else "the base model"
    yield "reference", own if reference is None else _name_alone(reference)
    yield "steps", f"{max((int(line['step']) for line in result.lines), default=0):,}"
    yield "pairs of a step", f"{policy.train_global_batch_size:,}"
    yield "highest learning rate", f"{policy.optimizer.lr:g}"
    yield "precision", policy.precision
    yield "seed", str(config.dpo.seed)


def _data(sources: Sequence[Source], counts: PairCounts | None) -> Iterator[str]:
    """Yield the files, what was trained on, and how the pairs came to be."""
    files = [(each.name, "on the hub" if each.is_on_hub else each.sha256 or "") for each in sources]
    yield _table(("pairs", "sha256"), files)
    if counts is not None:
        yield (
            f"Trained on {counted(counts.pairs, 'pair')} of {counted(counts.responses, 'distinct response')} to "
            f"{counted(counts.prompts, 'prompt')}."
        )
        if counts.dropped:
            rows = [(reason, f"{count:,}") for reason, count in counts.dropped.items()]
            yield "Pairs that were left out:\n\n" + _table(("reason", "pairs"), rows)
    for source in sources:
        if source.inputs:
            yield f"{_plain(source.name)} was collected from\n\n" + _table(("rollouts", "sha256"), source.inputs)
        if source.attrition:
            rows = [(name, f"{count:,}") for name, count in source.attrition.items()]
            yield f"From rollouts to the pairs of {_plain(source.name)}:\n\n" + _table(("what", "number"), rows)


def _metrics(result: Result) -> Iterator[str]:
    kinds = {"train/": "training"} | {f"validation-{name}/": f"validation {name}" for name in result.validation_sets}
    for prefix, title in kinds.items():
        values = sorted(result.series(prefix).items())
        yield _table(
            (title, "first", "last"), [(name, f"{first:.4g}", f"{last:.4g}") for name, (first, last) in values]
        )
    if result.best:
        value = f"{result.best['metric']} {float(result.best['value']):.4g}"
        yield f"Best checkpoint: step {int(result.best['step']):,}, {_plain(value)}."


def _health(result: Result) -> Iterator[str]:
    if result.verdicts is not None:
        found = "\n".join(f"- {_plain(each)}" for each in result.verdicts)
        yield f"## Health of the run\n\n{found or 'Nothing stood out.'}"


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", platform.python_version()
    yield from ((name, version(name)) for name in PACKAGES)


def _changed(section: Section, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield the keys whose values are not the defaults."""
    for name, field in type(section).model_fields.items():
        key, value, default = f"{prefix}{name}", getattr(section, name), field.get_default(call_default_factory=True)
        if key.startswith(NOT_TOLD) or f"{key}." in NOT_TOLD or key in NOT_TOLD_EITHER:
            continue
        if isinstance(value, Section):
            yield from _changed(value, f"{key}.")
        elif value != default:
            yield key, _shown(value), _shown(default)


def _shown(value: Any) -> str:
    """Show a setting on one line, of paths only the last part."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_shown, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_shown(each)}" for name, each in value.items())
    if isinstance(value, str):
        return excerpt(_name_alone(value))[1:-1]
    return _name_alone(str(value)) if isinstance(value, Path) else json.dumps(value, default=str)


def _name_alone(text: str) -> str:
    """Give a hub name as it is, and of a path the last part."""
    return Path(text).name if PATH.fullmatch(text) and not _is_on_hub(text) else text


def _is_on_hub(text: str) -> bool:
    return is_hub_name(Path(text)) and not Path(text).exists()


def _table(head: Sequence[str], rows: Any) -> str:
    """Write a table; a cell is text and nothing else."""
    lines = ["| " + " | ".join(map(_plain, head)) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(map(_plain, row)) + " |" for row in rows]
    return "\n".join(lines) if len(lines) > 2 else "None."


def _plain(text: str) -> str:
    """Write text so that neither Markdown nor HTML reads anything into it."""
    return MARKUP.sub(r"\\\1", html.escape(printable(text), quote=False))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
