"""What the policy answers to a few prompts while it learns: on stderr, in samples.jsonl, and for the trackers.

Answers are greedy, so they differ from step to step by the weights alone. Training goes on from the bit where it was:
the model's attention, its modes, its generation settings and the random numbers are as before.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor
from transformers import GenerationConfig

from trainer.config.data import DEFAULT_SET
from trainer.config.sections import TrainConfig
from trainer.data.tokenize import TokenizedGroup, TokenizedResponse
from trainer.model.scorer import ResponseScorer
from trainer.model.sharded import is_sharded
from trainer.model.zero import zero_stage

TRAIN_SET = "train"
"""What the training data are called where there is no validation set."""

SAMPLES_AT_ONCE = 8
SHOWN_CHARACTERS = 96
"""Of each text on stderr; samples.jsonl has all of it."""

WHOLE = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
"""Where the main process has all the weights, and may use them while the others wait."""


@dataclass(frozen=True)
class Sample:
    """An answer of the policy beside the two that it learns from."""

    step: int
    set: str
    prompt: str
    response: str
    chosen: str
    rejected: str

    def as_dict(self) -> dict[str, object]:
        """Give the sample as JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Samples:
    """Which prompts are answered, when, and by what."""

    config: TrainConfig
    accelerator: Accelerator
    scorer: ResponseScorer
    tokenizer: Any
    end_ids: frozenset[int]
    set_name: str
    groups: tuple[TokenizedGroup, ...]
    path: Path
    say: Callable[[str], None]
    failed: list[str] = field(default_factory=list)  # why there will be no more

    def is_due(self, step: int, *, validated: bool) -> bool:
        """Say whether prompts are to be answered after this step."""
        if not self.groups or self.failed:
            return False
        period = _period(self.config)
        return step % period == 0 if period else validated

    def take(self, step: int) -> list[Sample]:
        """Answer the prompts, show them and write them down; all processes must call this, the main one has the result.

        A model that can't generate costs the samples, not the run.
        """
        is_main = self.accelerator.is_main_process
        if not self.groups or self.failed or not (is_main or _answer_in_step(self.accelerator)):
            return []
        try:
            samples = list(self._answer(step))
        except Exception as error:  # each architecture has its own ways not to generate
            self.failed.append(str(error))
            self.say(f"warning: samples: {type(error).__name__}: {_cut(str(error))}; there will be none in this run")
            return []
        if not is_main:
            return []
        with self.path.open("a", encoding="utf-8") as stream:
            stream.writelines(json.dumps(sample.as_dict()) + "\n" for sample in samples)
        for sample in samples:
            for line in _lines(sample):
                self.say(line)
        return samples

    def _answer(self, step: int) -> Iterator[Sample]:
        with _generating(self.scorer, self.accelerator):
            for start in range(0, len(self.groups), SAMPLES_AT_ONCE):
                groups = self.groups[start : start + SAMPLES_AT_ONCE]
                answers = _greedy(
                    self.scorer,
                    [group.prompt for group in groups],
                    end_ids=self.end_ids,
                    max_new_tokens=self.config.logger.sample_max_new_tokens,
                    accelerator=self.accelerator,
                )
                for group, answer in zip(groups, answers, strict=True):
                    yield self._sample(step, group, answer)

    def _sample(self, step: int, group: TokenizedGroup, answer: list[int]) -> Sample:
        pair = group.pairs[0]
        return Sample(
            step=step,
            set=self.set_name,
            prompt=self._text(group.prompt),
            response=self._text(answer),
            chosen=self._response_text(group.responses[pair.chosen]),
            rejected=self._response_text(group.responses[pair.rejected]),
        )

    def _response_text(self, response: TokenizedResponse) -> str:
        ids = list(response.ids)
        while ids and ids[-1] in self.end_ids:
            ids.pop()
        return self._text(ids)

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))


def start_samples(
    config: TrainConfig,
    accelerator: Accelerator,
    scorer: Any,
    tokenizer: Any,
    *,
    end_ids: frozenset[int],
    sets: Mapping[str, Sequence[TokenizedGroup]],
    training: Sequence[TokenizedGroup],
    path: Path,
    say: Callable[[str], None] = lambda text: None,
) -> Samples:
    """Choose the prompts: of the validation set `default`, else of the first one, else of the training data.

    `scorer` is the policy, wrapped or not; `path` is the file that the answers are added to.
    """
    name = DEFAULT_SET if DEFAULT_SET in sets else next(iter(sets), TRAIN_SET)
    groups = tuple(sets.get(name, training)[: config.logger.num_val_samples_to_print])
    if groups and not sets and not _period(config):
        say("samples: none, for there are no validations; logger.sample_period=50 takes every 50th step")
    if groups and not (accelerator.distributed_type in WHOLE or is_sharded(accelerator) or zero_stage(accelerator)):
        say(f"samples: none under {accelerator.distributed_type.value}, where no process has the whole policy")
        groups = ()
    is_wrapped = groups and not is_sharded(accelerator)
    plain = accelerator.unwrap_model(scorer, keep_torch_compile=True) if is_wrapped else scorer
    return Samples(config, accelerator, plain, tokenizer, end_ids, name, groups, path, say)


def _answer_in_step(accelerator: Accelerator) -> bool:
    """Say whether no process has all the weights, so that all of them answer the same prompts, each with its part."""
    return is_sharded(accelerator) or zero_stage(accelerator) == 3


def _period(config: TrainConfig) -> int:
    """Give the steps from answers to answers; 0: they come with the validations."""
    without_sets = 0 if config.data.validation_sets else config.dpo.val_period  # else they would never come
    return config.logger.sample_period or without_sets


def _greedy(
    scorer: ResponseScorer,
    prompts: Sequence[Sequence[int]],
    *,
    end_ids: frozenset[int],
    max_new_tokens: int,
    accelerator: Accelerator,
) -> list[list[int]]:
    """Generate after each prompt, all at once, padded on the left; give the tokens before the end of the turn."""
    model, device = scorer.base, accelerator.device
    longest = max(map(len, prompts))
    input_ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    for number, prompt in enumerate(prompts):
        input_ids[number, longest - len(prompt) :] = torch.tensor(prompt)
        attention_mask[number, longest - len(prompt) :] = 1
    output: Tensor = scorer.generate(
        input_ids=input_ids.to(device),
        attention_mask=attention_mask.to(device),
        generation_config=_settings(model, end_ids, _room(model.config, longest, max_new_tokens)),
        synced_gpus=_answer_in_step(accelerator),  # none ends before the others, who need its part of the weights
    )
    return [_before_end(row, end_ids) for row in output[:, longest:].tolist()]


def _settings(model: Any, end_ids: frozenset[int], max_new_tokens: int) -> GenerationConfig:
    make: Any = GenerationConfig
    settings: GenerationConfig = make(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        use_cache=True,
        bos_token_id=getattr(model.config.get_text_config(), "bos_token_id", None),
        eos_token_id=sorted(end_ids),
        pad_token_id=min(end_ids, default=0),  # stands only behind an end
    )
    return settings


def _room(config: Any, num_prompt: int, max_new_tokens: int) -> int:
    """Keep a model whose places end (GPT-2) from going beyond them."""
    text = config.get_text_config()
    most: int | None = getattr(text, "max_position_embeddings", None)
    if most is None or getattr(text, "rope_parameters", None):
        return max_new_tokens
    return max(1, min(max_new_tokens, most - num_prompt))


def _before_end(ids: list[int], end_ids: frozenset[int]) -> list[int]:
    place = next((place for place, token in enumerate(ids) if token in end_ids), len(ids))
    return ids[:place]


@contextmanager
def _generating(scorer: ResponseScorer, accelerator: Accelerator) -> Iterator[None]:
    """Make the policy one that generates, in training's precision, and set everything back behind it."""
    base = scorer.base
    modes = {module: module.training for module in scorer.modules()}
    settings = base.generation_config
    device = accelerator.device
    devices = [device] if device.type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices))
        stack.enter_context(torch.no_grad())
        stack.enter_context(accelerator.autocast())
        stack.enter_context(torch.compiler.set_stance("force_eager"))  # a length a token would be compiled each time
        try:
            scorer.train(False)
            base.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]  # the model's may ask for temperatures and penalties
            base.set_attn_implementation(scorer.attention.plain_implementation)
            yield
        finally:
            base.set_attn_implementation(scorer.attention.implementation)
            base.generation_config = settings
            for module, was_training in modes.items():
                module.training = was_training


def _lines(sample: Sample) -> Iterator[str]:
    yield f"sample after step {sample.step}, set {sample.set}"
    yield f"  prompt    {_cut(sample.prompt, keeps_end=True)}"
    yield f"  answer    {_cut(sample.response)}"
    yield f"  chosen    {_cut(sample.chosen)}"


def _cut(text: str, *, keeps_end: bool = False) -> str:
    text = " ".join(text.split())
    if len(text) <= SHOWN_CHARACTERS:
        return text
    return f"…{text[1 - SHOWN_CHARACTERS :]}" if keeps_end else f"{text[: SHOWN_CHARACTERS - 1]}…"
