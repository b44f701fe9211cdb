"""What is found wrong between pairs, tokenizers and models before a run begins."""

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import GPT2Config, LlamaConfig, Phi3Config, PreTrainedTokenizerFast

from schemas.errors import UsageError
from tests.architectures import WIDTHS
from tests.pairwise import config_of
from tests.tiny_models import byte_tokenizer, save_tiny_policy, tiny_qwen3
from trainer.config.data import TrainDatasetSection
from trainer.data.tokenize import PairDrop
from trainer.run.start import load_groups, refuse_other_reference, refuse_too_long, tokenize

LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
MOVING: dict[str, Any] = {
    "gpt2": GPT2Config(n_positions=16),  # a table of places
    "longrope": Phi3Config(
        **WIDTHS,
        pad_token_id=0,
        max_position_embeddings=64,
        original_max_position_embeddings=16,
        rope_parameters=LONGROPE | {"original_max_position_embeddings": 16},
    ),
    "dynamic": LlamaConfig(
        **WIDTHS,
        max_position_embeddings=16,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
    ),
}


@pytest.mark.parametrize("name", MOVING)
def test_places_that_end_or_change_are_not_passed(name: str) -> None:
    refuse_too_long(MOVING[name], 16)
    with pytest.raises(UsageError, match=r"17 tokens, .* at 16; lower policy.max_total_sequence_length to 16"):
        refuse_too_long(MOVING[name], 17)


def test_other_rotations_go_on() -> None:
    refuse_too_long(LlamaConfig(max_position_embeddings=16), 1000)


def test_a_reference_with_another_tokenizer_of_the_same_size_is_refused(tmp_path: Path) -> None:
    folder = save_tiny_policy(tmp_path / "reference")
    config = config_of(f"reference.model_name={folder}")
    refuse_other_reference(config, byte_tokenizer())
    text = byte_tokenizer().backend_tokenizer.to_str().replace('"a":', '"?":').replace('"b":', '"a":')
    swapped = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(text.replace('"?":', '"b":')))
    with pytest.raises(UsageError, match=r"its tokenizer is another than the policy's \(\d+ tokens differ\)"):
        refuse_other_reference(config, swapped)


def test_what_was_met_on_reading_is_told_with_what_was_dropped(tmp_path: Path, write_jsonl: Any) -> None:
    tie = {"context": [{"role": "user", "content": "Q"}], "response1": "a", "response2": "b", "overall_preference": 0}
    rows = [tie, tie | {"overall_preference": -1}, tie | {"overall_preference": 2, "response2": "b" * 200}]
    sections = (
        TrainDatasetSection(data_path=write_jsonl(tmp_path / "a.jsonl", rows), weight=3.0),
        TrainDatasetSection(
            data_path=write_jsonl(tmp_path / "b.jsonl", [{"prompt": "P", "chosen": "1", "rejected": "2"}])
        ),
    )
    config = config_of("policy.max_total_sequence_length=100")
    data = tokenize(config, load_groups(sections, shown=False), tiny_qwen3(), byte_tokenizer(), shown=False)
    assert data.dropped == {PairDrop.TOO_LONG: 1, PairDrop.TIE: 1}
    assert data.notes == (
        f"{tmp_path}/a.jsonl: 1 pair, 3 of them in an epoch",
        f"{tmp_path}/b.jsonl: 1 pair, 1 of them in an epoch",
    )
    alone = tokenize(config, load_groups(sections[1:], shown=False), tiny_qwen3(), byte_tokenizer(), shown=False)
    assert (alone.dropped, alone.notes) == ({}, ())
