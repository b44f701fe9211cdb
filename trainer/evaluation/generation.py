"""Sampling with transformers: many answers at once, each by the random numbers of its own seed.

`generate` draws for a batch from one stream, so an answer would hang on what else is in its batch, and on how long the
others are. Here a logits processor does the drawing: it leaves one token possible, the one at the answer's own random
number in the cumulated probabilities, and `generate` takes that.

What holds: the same seed, batch size, weights and machine give the same bytes. With another batch size the random
numbers are the same; a token then differs only where rounding, which hangs on the padding, moves a probability across
its random number.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from schemas.errors import UsageError
from trainer.evaluation.question import Answer, Question
from trainer.evaluation.request import Generation


class SeededChoice(LogitsProcessor):
    """Chooses the next token of each answer by its own random numbers.

    Legend: `A` answers, `V` vocabulary, `L` most tokens of an answer.
    """

    def __init__(self, seeds: Sequence[int], *, most: int, num_prompt: int, temperature: float, top_p: float) -> None:
        self.numbers = torch.stack([_random_numbers(seed, most) for seed in seeds])  # (A, L)
        self.num_prompt = num_prompt
        self.temperature = temperature
        self.top_p = top_p

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Leave one token of each answer possible: (A, V)."""
        place = input_ids.shape[1] - self.num_prompt
        if self.temperature == 0:
            chosen = scores.argmax(dim=-1)
        else:
            probabilities = torch.softmax(scores.double() / self.temperature, dim=-1)
            numbers = self.numbers[:, place].to(scores.device)
            chosen = choose(nucleus(probabilities, self.top_p), numbers)
        kept = torch.full_like(scores, -torch.inf)
        return kept.scatter_(1, chosen[:, None], 0.0)


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Keep the most probable tokens that come to `top_p` together, at least one; the others get 0: (A, V)."""
    if top_p >= 1:
        return probabilities
    ordered, places = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered
    ordered = ordered.masked_fill(before >= top_p, 0.0)
    return torch.zeros_like(probabilities).scatter_(1, places, ordered)


def choose(weights: Tensor, numbers: Tensor) -> Tensor:
    """Give for each row the token in whose part of the cumulated weights its number (0 to 1) lies: (A,)."""
    ends = weights.cumsum(dim=-1)
    places = torch.searchsorted(ends, (numbers * ends[:, -1])[:, None], right=True)[:, 0]
    last = weights.shape[1] - 1 - (weights > 0).flip(-1).to(torch.uint8).argmax(dim=-1)  # rounding may pass the end
    return torch.minimum(places, last)


def _random_numbers(seed: int, most: int) -> Tensor:
    """Give an answer's random numbers: (L,). A longer limit has the same ones at its beginning."""
    stream = torch.Generator().manual_seed(seed)
    return torch.rand(most, generator=stream, dtype=torch.float64)


@torch.no_grad()
def generate_answers(
    model: Any,
    tokenizer: Any,
    asked: Sequence[Question],
    options: Generation,
    *,
    end_ids: frozenset[int],
    autocast: Callable[[], AbstractContextManager[Any]],
    advance: Callable[[int], None] = lambda amount: None,
) -> list[Answer]:
    """Answer all questions, the longest prompts first, so that what needs the most memory comes first."""
    found: dict[int, Answer] = {}
    order = sorted(range(len(asked)), key=lambda place: (-len(asked[place].ids), place))
    kept, was_training = model.generation_config, model.training
    model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]  # the model's may ask for penalties
    model.eval()
    try:
        for start in range(0, len(order), options.batch_size):
            places = order[start : start + options.batch_size]
            with autocast():
                rows = _batch(model, [asked[place] for place in places], options, end_ids)
            for place, row in zip(places, rows, strict=True):
                found[place] = answer_of(row, tokenizer, end_ids)
            advance(len(places))
    finally:
        model.generation_config = kept
        model.train(was_training)
    return [found[place] for place in range(len(asked))]


def answer_of(ids: Sequence[int], tokenizer: Any, end_ids: frozenset[int]) -> Answer:
    """Give the text up to the end of the turn."""
    end = next((place for place, token in enumerate(ids) if token in end_ids), None)
    text = str(tokenizer.decode(list(ids[:end]), skip_special_tokens=True))
    return Answer(text, len(ids) if end is None else end + 1, end is None)


def refuse_no_room(config: Any, num_prompt: int, source: str) -> None:
    """Refuse a prompt behind which nothing can be written, before anything is computed.

    Raises:
        UsageError: it fills the model's places.
    """
    places = _places(config)
    if places is not None and num_prompt >= places:
        raise UsageError(
            f"--generate: {source}: the prompt has {num_prompt:,} tokens, and the model's places end at {places:,}"
        )


def _places(config: Any) -> int | None:
    """Give how many tokens a model such as GPT-2 has places for; None of one that has no such end."""
    text = config.get_text_config()
    places: int | None = getattr(text, "max_position_embeddings", None)
    return None if getattr(text, "rope_parameters", None) else places


def _batch(model: Any, asked: Sequence[Question], options: Generation, end_ids: frozenset[int]) -> list[list[int]]:
    """Generate behind some prompts, padded on the left; give the tokens of each answer."""
    longest = max(len(one.ids) for one in asked)
    places = _places(model.config)
    most = options.max_new_tokens if places is None else min(options.max_new_tokens, places - longest)
    input_ids = torch.zeros(len(asked), longest, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    for number, one in enumerate(asked):
        input_ids[number, longest - len(one.ids) :] = torch.tensor(one.ids)
        attention_mask[number, longest - len(one.ids) :] = 1
    choice = SeededChoice(
        [one.seed for one in asked],
        most=most,
        num_prompt=longest,
        temperature=options.temperature,
        top_p=options.top_p,
    )
    make: Any = GenerationConfig
    settings = make(
        max_new_tokens=most,
        do_sample=False,  # the processor has drawn already
        use_cache=True,
        bos_token_id=getattr(model.config.get_text_config(), "bos_token_id", None),
        eos_token_id=sorted(end_ids),
        pad_token_id=min(end_ids, default=0),  # stands only behind an end
    )
    output = model.generate(
        input_ids=input_ids.to(model.device),
        attention_mask=attention_mask.to(model.device),
        generation_config=settings,
        logits_processor=LogitsProcessorList([choice]),
    )
    rows: list[list[int]] = output[:, longest:].tolist()
    return rows
