"""The self-check: what is computed rightly passes, and each way to go silently wrong is caught."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from schemas.errors import DpoError
from tests.architectures import HYBRID, SHARING, WINDOW, build
from tests.pairwise import CPU, all_pairs, random_group
from trainer.data.plan import ResponseRef
from trainer.data.tokenize import TokenizedGroup, TokenizedResponse
from trainer.model import attention, head, segments
from trainer.model.attention import Attention, choose_attention
from trainer.model.packing import Fragment, Packer, Row
from trainer.model.scorer import ResponseScorer
from trainer.model.self_check import MAX_RESPONSES, MAX_TOKENS, self_check

GROUPS = [
    random_group(17, (11, 3, 16, 7), all_pairs(4)),
    random_group(9, (9, 2), [(1, 0)], masked=True),
    random_group(8, (1, 13, 5), [(0, 1), (2, 1)]),
]


def first_row(scorer: ResponseScorer) -> Row:
    refs = [ResponseRef(number, place) for number, group in enumerate(GROUPS) for place in range(len(group.responses))]
    (row,) = Packer(GROUPS, scorer.attention.layout, 10_000).rows(refs)
    return row


def scorer_of(name: str, wanted: str = "auto") -> ResponseScorer:
    model = build(name)
    return ResponseScorer(model, choose_attention(model, wanted, CPU)).train()


def check(scorer: ResponseScorer, precision: str = "float32") -> float:
    return self_check(scorer, first_row(scorer), GROUPS, precision=precision, device=CPU)


@pytest.mark.parametrize("name", [*SHARING, *HYBRID])
def test_what_is_right_passes(name: str) -> None:
    scorer = scorer_of(name)
    implementation = scorer.model.config._attn_implementation
    assert check(scorer) < 1e-5
    assert scorer.model.config._attn_implementation == implementation  # the check puts back what it changes


@pytest.mark.parametrize("name", ["llama", "mistral_window", "gemma3"])
@pytest.mark.parametrize("wanted", ["segments", "dense", "rows"])
def test_every_back_end_passes(name: str, wanted: str) -> None:
    assert check(scorer_of(name, wanted)) < 1e-5


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3", "granite"])
def test_bfloat16_passes_within_its_rounding(name: str) -> None:
    assert 1e-4 < check(scorer_of(name), "bfloat16") < 0.1  # it is computed in bfloat16, and good enough


class Silent(Attention):
    """A back end that hands no mask to the model, as if it saw for itself what is what."""

    def masks(self, *args: Any) -> None:
        return None


def unmasked(scorer: ResponseScorer) -> None:
    scorer.attention = Silent(**vars(scorer.attention))


def windowless(scorer: ResponseScorer) -> None:
    scorer.attention = replace(scorer.attention, windows=dict.fromkeys(scorer.attention.windows))


class Boolean(Attention):
    """A back end that hands eager attention, which adds its mask, the one that SDPA wants."""

    def masks(self, *args: Any) -> Any:
        return replace(Attention(**vars(self)), implementation="sdpa").masks(*args)


def boolean_for_eager(scorer: ResponseScorer) -> None:
    scorer.attention = Boolean(**vars(scorer.attention))


def blind_to_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        segments.SegmentTable, "parents", lambda table: torch.full((table.num_tokens,), segments.NO_PARENT).numpy()
    )


def sees_other_responses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        attention,
        "dense_mask",
        lambda table, *rest: torch.ones(table.num_tokens, table.num_tokens).tril().bool()[None, None],
    )


def running_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments.SegmentTable, "positions", lambda table: torch.arange(table.num_tokens).numpy())


@pytest.mark.parametrize(
    ("name", "wanted", "spoil"),
    [
        ("llama", "dense", unmasked),
        ("gemma3", "dense", unmasked),
        ("mistral_window", "segments", windowless),
        ("mistral_window", "dense", windowless),
        ("gemma3", "segments", windowless),
        ("cohere2", "dense", windowless),
        ("gpt_oss", "dense", boolean_for_eager),
        ("gemma2", "dense", boolean_for_eager),
    ],
)
def test_a_mask_that_the_model_takes_otherwise_is_caught(
    name: str, wanted: str, spoil: Callable[[ResponseScorer], None]
) -> None:
    scorer = scorer_of(name, wanted)
    spoil(scorer)
    with pytest.raises(DpoError, match="self-check"):
        check(scorer)


@pytest.mark.parametrize("spoil", [blind_to_the_prompt, sees_other_responses, running_positions])
def test_a_row_that_is_laid_out_wrongly_is_caught(
    spoil: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = scorer_of("llama", "dense")
    spoil(monkeypatch)
    with pytest.raises(DpoError, match="self-check"):
        check(scorer)


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "granite", "cohere", "falcon_h1"])
def test_a_head_that_leaves_out_what_the_model_does_is_caught(name: str) -> None:
    scorer = scorer_of(name)
    scorer.transform = head.LogitTransform()
    with pytest.raises(DpoError, match="self-check"):
        check(scorer)


def test_a_window_of_one_too_many_is_caught() -> None:
    scorer = scorer_of("mistral_window")
    scorer.attention = replace(scorer.attention, windows={"full_attention": WINDOW + 1})
    with pytest.raises(DpoError, match="self-check"):
        check(scorer)


def test_not_a_number_is_caught_where_the_model_gives_one() -> None:
    scorer = scorer_of("llama")
    scorer.transform = head.LogitTransform(scale=torch.nan)
    with pytest.raises(DpoError, match="self-check"):
        check(scorer)


def test_not_a_number_that_the_model_gives_itself_is_left_to_the_first_step() -> None:
    scorer = scorer_of("llama")
    scorer.model.get_input_embeddings().weight.data[GROUPS[0].responses[1].ids[0]] = torch.nan
    assert math.isnan(check(scorer))


def test_bfloat16_still_catches_a_wrong_mask() -> None:
    scorer = scorer_of("gemma3", "dense")
    unmasked(scorer)
    with pytest.raises(DpoError, match=r"bfloat16; tolerance 0\.1"):
        check(scorer, "bfloat16")


def test_the_message_names_the_model_and_both_numbers() -> None:
    scorer = scorer_of("mistral_window")
    scorer.model.config.name_or_path = "some/model"
    windowless(scorer)
    with pytest.raises(DpoError) as caught:
        check(scorer)
    message = str(caught.value)
    assert "some/model (mistral)" in message
    assert "a response of f:0" in message  # the row of the file
    assert "policy.attention=segments" in message
    assert "--no-self-check" in message
    packed, alone = map(float, re.findall(r"-\d+\.\d{4}", message))
    # the number for the model alone is the model's own: it is one of those that a plain softmax gives
    with torch.no_grad():
        plain = [
            float(logps_of(scorer.model, group, response).sum()) for group in GROUPS for response in group.responses
        ]
    assert min(abs(value - alone) for value in plain) < 1e-3
    assert abs(packed - alone) > 1e-2


def logps_of(model: Any, group: TokenizedGroup, response: TokenizedResponse) -> torch.Tensor:
    model.set_attn_implementation("eager")
    logits = model(torch.tensor([[*group.prompt, *response.ids]])).logits[0, len(group.prompt) - 1 : -1]
    logps = torch.log_softmax(logits, dim=-1).gather(1, torch.tensor(response.ids)[:, None]).squeeze(1)
    return logps[torch.tensor(response.loss_mask) > 0]


def test_of_many_and_long_responses_a_part_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    long = random_group(20, (MAX_TOKENS + 50, *range(1, 2 * MAX_RESPONSES)), [(0, 1)])
    scorer = scorer_of("llama")
    sizes = []
    scorer.model.register_forward_hook(lambda module, given, outputs: sizes.append(outputs.logits.shape))
    row = Row((Fragment(0, tuple(range(2 * MAX_RESPONSES))),))
    assert self_check(scorer, row, [long], precision="float32", device=CPU) < 1e-5
    assert len(sizes) == MAX_RESPONSES
    assert max(shape[1] for shape in sizes) == MAX_TOKENS + 1  # logits of the last tokens alone


def test_no_gradient_is_left() -> None:
    scorer = scorer_of("llama")
    check(scorer)
    assert all(parameter.grad is None for parameter in scorer.parameters())
