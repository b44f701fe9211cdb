"""The way through an evaluation: one model at a time in memory, each loaded once for all that is asked of it."""

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from schemas.errors import InputError, UsageError
from schemas.streams import place_text
from schemas.terminal import counted, path_text, printable, progress
from trainer.config.policy import TokenizerSection
from trainer.config.preflight import MODEL_REMEDY
from trainer.config.sections import TrainConfig
from trainer.data.groups import PreferenceGroup
from trainer.data.template import style_of
from trainer.data.tokenize import TokenizedPairs, end_of_turn_ids
from trainer.evaluation.abilities import Results, compared_abilities, load_tasks, measure_abilities
from trainer.evaluation.answers import compared, encode_prompts, questions, sample_rows
from trainer.evaluation.generation import answer_of, generate_answers, refuse_no_room
from trainer.evaluation.pair_scores import PairScores, pair_scores
from trainer.evaluation.prompts import Prompt, read_prompts
from trainer.evaluation.question import Answer, Question
from trainer.evaluation.request import Generation, Request
from trainer.evaluation.scoring import Scored, score
from trainer.evaluation.vllm_generation import generate_with_vllm, uses_vllm
from trainer.launch.processes import place_of
from trainer.model.policy import OTHER_TOKENIZER_REMEDY, load_policy, load_shape
from trainer.model.reference_cache import start_digest
from trainer.run.start import LoadedGroups, load_groups, refuse_too_long, start_accelerator, tokenize

Say = Callable[[str], None]


@dataclass(frozen=True)
class Part:
    """What is found out of one of the two models."""

    name: str
    digest: str  # of its weights
    scored: Scored
    answers: list[Answer] | None
    abilities: Results | None


@dataclass(frozen=True)
class Sampled:
    """The answers of both policies."""

    rows: list[dict[str, Any]]  # of samples.jsonl
    metrics: dict[str, Any]
    num_prompts: int
    engine: str


@dataclass(frozen=True)
class Evaluation:
    """All that an evaluation has found."""

    request: Request
    scores: PairScores
    data: TokenizedPairs
    groups: list[PreferenceGroup]  # with texts
    notes: tuple[str, ...]  # what the numbers hang on
    policy: Part
    reference: Part | None
    precision: str
    device: str
    sampled: Sampled | None
    abilities: list[dict[str, Any]] | None


class _Work:
    """What both models are asked, and with what."""

    def __init__(self, request: Request, accelerator: Accelerator, say: Say) -> None:
        self.request = request
        self.accelerator = accelerator
        self.say = say
        self.manager = None if request.abilities is None else load_tasks(request.abilities)
        options = request.generation
        is_on_gpu = accelerator.device.type == "cuda"
        self.with_vllm = options is not None and uses_vllm(options.engine, is_on_gpu=is_on_gpu)
        self.prompts: list[Prompt] = [] if options is None else _read(options)
        self.asked: list[Question] = []  # once there is a tokenizer
        self.tokenizer: Any = None
        self.end_ids: frozenset[int] = frozenset()

    def learn_tokenizer(self, tokenizer: Any, model: Any) -> None:
        """Tokenise the prompts, for both policies alike."""
        self.tokenizer = tokenizer
        self.end_ids = end_of_turn_ids(tokenizer, model.generation_config)
        options = self.request.generation
        if options is not None:
            style = style_of(self.request.config.policy.tokenizer)
            ids = encode_prompts(self.prompts, tokenizer, style, self.end_ids)
            self.asked = questions(ids, samples_per_prompt=options.samples_per_prompt, seed=options.seed)
            self.refuse_no_room(model.config)

    def refuse_no_room(self, config: Any) -> None:
        """Refuse prompts behind which a model has no place to write, before anything is computed."""
        for question in self.asked:
            refuse_no_room(config, len(question.ids), self.prompts[question.prompt].source)

    def answers(self, model: Any, what: str) -> list[Answer] | None:
        """Let a loaded model answer; None where nothing is asked, or vLLM will."""
        options = self.request.generation
        if options is None or self.with_vllm:
            return None
        with progress(f"answers of the {what}", total=len(self.asked), unit="answers") as advance:
            return generate_answers(
                model,
                self.tokenizer,
                self.asked,
                options,
                end_ids=self.end_ids,
                autocast=self.accelerator.autocast,
                advance=advance,
            )

    def answers_with_vllm(self, name: str, precision: str) -> list[Answer]:
        """Let vLLM answer, once the GPU's memory is free."""
        assert self.request.generation is not None
        dtype = "bfloat16" if precision == "bfloat16" else "float32"
        options = self.request.generation
        rows = generate_with_vllm(name, self.asked, options, end_ids=self.end_ids, dtype=dtype)
        return [answer_of(row, self.tokenizer, self.end_ids) for row in rows]

    def abilities(self, model: Any, what: str) -> Results | None:
        """Let a loaded model do the harness' tasks."""
        if self.request.abilities is None:
            return None
        self.say(f"{what}: tasks of the harness: {', '.join(self.request.abilities.tasks)}")
        options, autocast = self.request.abilities, self.accelerator.autocast
        return measure_abilities(model, self.tokenizer, options, self.manager, autocast=autocast)


def run_evaluation(request: Request, say: Say = lambda text: None) -> Evaluation:
    """Measure a policy; `say` is told what people should know meanwhile.

    Raises:
        InputError: pairs, prompts or a model can't be read.
        UsageError: a model, tokenizer or option can't serve.
        DpoError: no pair can be measured, or the work failed.
    """
    if (place := place_of()) is not None and place.world_size > 1:
        raise UsageError("dpo eval is one process: start it without a launcher")
    judged = request.judged
    accelerator, config = start_accelerator(request.config)
    work = _Work(request, accelerator, say)
    loaded = load_groups(config.data.train, shown=True)
    with _told_of("MODEL"):
        model, tokenizer = load_policy(judged.policy, tokenizer=config.policy.tokenizer)
    data = _tokenised(config, loaded, model, tokenizer)
    work.learn_tokenizer(tokenizer, model)
    if judged.reference is not None:
        _hold_reference(work, judged.reference, data)
    _tell_data(data, say)
    notes = (*data.notes, *judged.notes)
    for note in notes:
        say(note)
    for path in trained_on(request):
        say(f"the policy was trained on {path}; measure on pairs of other prompts")
    policy = _part(work, config, model, data, name=judged.policy, what="policy")
    del model
    _free(accelerator)
    reference = None
    if judged.reference is not None:
        say(f"reference: {printable(judged.reference)}")
        other, _ = load_policy(judged.reference, tokenizer=_shared(config), overrides=judged.reference_overrides)
        reference = _part(work, config, other, data, name=judged.reference, what="reference", known=policy)
        del other
        _free(accelerator)
    scores = pair_scores(
        data.groups,
        policy.scored.logps,
        None if reference is None else reference.scored.logps,
        beta=config.dpo.reference_policy_kl_penalty,
    )
    return Evaluation(
        request=request,
        scores=scores,
        data=data,
        groups=loaded.groups,
        notes=notes,
        policy=policy,
        reference=reference,
        precision=config.policy.precision,
        device=accelerator.device.type,
        sampled=_sampled(work, policy, reference, config.policy.precision),
        abilities=None
        if reference is None or reference.abilities is None or policy.abilities is None
        else compared_abilities(reference.abilities, policy.abilities),
    )


def _tokenised(config: TrainConfig, loaded: LoadedGroups, model: Any, tokenizer: Any) -> TokenizedPairs:
    """Tokenise as a training does, but for what holds of trainings alone.

    A training tells what each of several sets gives to an epoch, and holds a reference to the very tokenizer of the
    policy, which a start without one of its own has not.
    """
    reference = config.reference.model_copy(update={"model_name": None})
    alone = config.model_copy(update={"reference": reference})
    return tokenize(alone, replace(loaded, sets=()), model, tokenizer, shown=True)


def _hold_reference(work: _Work, name: str, data: TokenizedPairs) -> None:
    """Look whether the reference can be loaded and reads what the policy does, before hours go into the policy."""
    request = work.request
    with _told_of("--reference"):
        shape, _ = load_shape(name, tokenizer=_shared(request.config), overrides=request.judged.reference_overrides)
        refuse_too_long(shape.config, data.longest)
        work.refuse_no_room(shape.config)


def _shared(config: TrainConfig) -> TokenizerSection:
    """Name the policy's tokenizer, which the reference has to read."""
    return TokenizerSection(name=config.policy.tokenizer_name)


@contextmanager
def _told_of(option: str) -> Iterator[None]:
    """Say which of the two models an error is about, with remedies that this command has."""
    try:
        yield
    except (InputError, UsageError) as error:
        told = str(error).replace(MODEL_REMEDY, "name a local folder or another hub name")
        if option == "--reference":
            told = told.replace(OTHER_TOKENIZER_REMEDY, "a reference must share the policy's tokenizer")
        raise type(error)(f"{option}: {told}") from error


def _part(
    work: _Work, config: Any, model: Any, data: TokenizedPairs, *, name: str, what: str, known: Part | None = None
) -> Part:
    """Ask a model for all that is wanted of it; one with the weights of a known one has its numbers."""
    digest = start_digest(work.accelerator, model)
    if known is not None and known.digest == digest:
        work.say("the reference has the policy's own weights, so nothing can differ")
        return Part(name, digest, known.scored, known.answers, known.abilities)
    scored = score(config, work.accelerator, model, data.groups, digest=digest, what=what, is_kept=known is not None)
    answers = work.answers(model, what)
    return Part(name, digest, scored, answers, work.abilities(model, what))


def _sampled(work: _Work, policy: Part, reference: Part | None, precision: str) -> Sampled | None:
    if work.request.generation is None or reference is None:
        return None
    if work.with_vllm:
        work.say("answers by vLLM")
        before, after = (work.answers_with_vllm(part.name, precision) for part in (reference, policy))
    else:
        assert reference.answers is not None
        assert policy.answers is not None
        before, after = reference.answers, policy.answers
    rows = list(sample_rows(work.prompts, work.asked, before, after))
    engine = "vllm" if work.with_vllm else "transformers"
    return Sampled(rows, compared(work.asked, before, after), len(work.prompts), engine)


def trained_on(request: Request) -> list[str]:
    """Name the files of the request that the policy was trained on."""
    known = set(request.judged.trained_on)
    paths = [each.data_path for each in request.config.data.train if each.data_path is not None]
    return [place_text(path) for path in paths if Path(os.path.realpath(path)) in known]


def _read(options: Generation) -> list[Prompt]:
    total = sum(path.stat().st_size for path in options.prompts)
    with progress("prompts", total=total, unit="bytes") as advance:
        try:
            return read_prompts(options.prompts, advance)
        except InputError:
            raise
        except OSError as error:
            raise InputError(f"{path_text(options.prompts[0])}: {error.strerror or error}") from error


def _tell_data(data: TokenizedPairs, say: Say) -> None:
    num_responses = sum(len(group.responses) for group in data.groups)
    responses, prompts = counted(num_responses, "distinct response"), counted(len(data.groups), "prompt")
    say(f"{counted(data.num_pairs, 'pair')} of {responses} to {prompts}")
    for reason, number in data.dropped.items():
        say(f"{counted(number, 'pair')} left out: {reason}")


def _free(accelerator: Accelerator) -> None:
    """Give a model's memory back before the next one is loaded."""
    gc.collect()
    if accelerator.device.type == "cuda":
        torch.cuda.empty_cache()
