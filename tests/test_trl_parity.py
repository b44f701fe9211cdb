"""Loss and gradients against TRL's DPOTrainer, the real one, on a random model in float32.

The pairs share a prompt and responses, as pairs of rollouts do: TRL computes six rows, this trainer the five distinct
responses. The reference has other weights than the policy, so that the loss is not the trivial ln 2.
"""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar

from tests.tiny_models import byte_tokenizer, tiny_qwen3
from trainer.batch import pair_batch, sequences_of
from trainer.groups import GroupPair
from trainer.logps import response_logps
from trainer.objective import pair_terms
from trainer.plan import PairRef
from trainer.tokenize import TokenizedGroup

BETA = 0.3
PROMPT, OTHER_PROMPT = "What is 6 x 7?", "Name a colour."
GOOD, BAD, WORSE = "It is 42, of course.", "41", "I do not know that, sorry"
RED, DARK = "Red.", "Dark!"
PAIRS = [(PROMPT, GOOD, BAD), (PROMPT, GOOD, WORSE), (OTHER_PROMPT, RED, DARK)]


def trl_loss_and_gradients(policy: Any, reference: Any, folder: Path) -> tuple[float, dict[str, torch.Tensor]]:
    """Run TRL's own loss on all three pairs at once."""
    from trl import DPOConfig, DPOTrainer

    disable_progress_bar()
    rows = [{"prompt": prompt, "chosen": chosen, "rejected": rejected} for prompt, chosen, rejected in PAIRS]
    config = DPOConfig(
        output_dir=str(folder),
        beta=BETA,
        per_device_train_batch_size=len(PAIRS),
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        report_to=[],
        max_length=None,
        disable_tqdm=True,
    )
    trainer = DPOTrainer(
        model=policy,
        ref_model=reference,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=byte_tokenizer(),
    )
    inputs = next(iter(trainer.get_train_dataloader()))
    assert inputs["input_ids"].shape[0] == 2 * len(PAIRS)
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    return loss.item(), _gradients(trainer.model)


def our_loss_and_gradients(policy: Any, reference: Any) -> tuple[float, dict[str, torch.Tensor]]:
    """Compute the five distinct responses once each, and the loss of the three pairs from them."""
    tokenizer = byte_tokenizer()

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text)["input_ids"])

    end = (tokenizer.eos_token_id,)
    groups = [
        TokenizedGroup(
            prompt=ids(PROMPT),
            responses=(ids(GOOD) + end, ids(BAD) + end, ids(WORSE) + end),
            pairs=(GroupPair(0, 1, "a"), GroupPair(0, 2, "b")),
        ),
        TokenizedGroup(ids(OTHER_PROMPT), (ids(RED) + end, ids(DARK) + end), (GroupPair(0, 1, "c"),)),
    ]
    batch = pair_batch([PairRef(0, 0), PairRef(0, 1), PairRef(1, 0)], groups)
    sequences = sequences_of(batch.responses, groups)
    assert sequences.input_ids.shape[0] == 5
    with torch.no_grad():
        reference_logps = response_logps(reference, sequences)
    terms = pair_terms(
        response_logps(policy, sequences),
        reference_logps,
        chosen=batch.chosen,
        rejected=batch.rejected,
        beta=BETA,
        preference_weight=1.0,
        sft_weight=0.0,
        average_preference=False,
        average_sft=False,
    )
    loss = terms.loss.sum() / len(PAIRS)
    loss.backward()
    return loss.item(), _gradients(policy)


def _gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_equals_trl(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TRL and what it imports
        theirs, their_gradients = trl_loss_and_gradients(tiny_qwen3(seed=1), tiny_qwen3(seed=2), tmp_path)
    ours, our_gradients = our_loss_and_gradients(tiny_qwen3(seed=1), tiny_qwen3(seed=2))
    assert abs(ours - 0.6931) > 0.05
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert our_gradients.keys() == their_gradients.keys()
    for name, gradient in our_gradients.items():
        difference = (gradient - their_gradients[name]).norm() / their_gradients[name].norm()
        assert difference < 1e-5, (name, difference)
