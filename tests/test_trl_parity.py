"""Loss and gradients against TRL's DPOTrainer, the real one, on random models in float32.

The pairs share prompts and responses, as pairs of rollouts do: four responses with all six pairs, three with two, and a
pair by itself. TRL computes two padded rows for each pair, this trainer each of the nine distinct responses once, in
packed rows. The reference has other weights than the policy, so that the loss is not the trivial ln 2.
"""

import warnings
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar

from tests.architectures import HYBRID, SHARING, build
from tests.pairwise import BETA, Outcome, all_pairs, assert_same, gradients_of, longest_of, step_of, training_of
from tests.tiny_models import byte_tokenizer
from trainer.data.groups import GroupPair
from trainer.data.tokenize import TokenizedGroup, TokenizedResponse
from trainer.run.step import step_rows, train_step

VOCABULARY = 259  # of the byte tokenizer

GROUPS: list[tuple[str, list[str], list[tuple[int, int]]]] = [
    ("What is 6 x 7?", ["It is 42, of course.", "41", "I do not know that, sorry", "42"], all_pairs(4)),
    ("Say something of a colour, please.", ["Red.", "Blue is a colour.", "No"], [(1, 0), (1, 2)]),
    ("?", ["!", "What?"], [(1, 0)]),
]
"""Prompts, their responses, and which are paired."""

NUM_PAIRS = 9

TRLS_ROUNDING = {"gemma3": 2e-5, "qwen3_5": 3e-5}
"""Of gradients, where TRL's own differ from those in float64 by more than 1e-5 (for Gemma 3, ours by 3e-6)."""


def trl_outcome(policy: Any, reference: Any, folder: Path, **options: Any) -> Outcome:
    """Run TRL's own loss on all pairs at once."""
    from trl import DPOConfig, DPOTrainer

    disable_progress_bar()
    rows = [
        {"prompt": prompt, "chosen": responses[chosen], "rejected": responses[rejected]}
        for prompt, responses, pairs in GROUPS
        for chosen, rejected in pairs
    ]
    config = DPOConfig(
        output_dir=str(folder),
        beta=BETA,
        per_device_train_batch_size=NUM_PAIRS,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        report_to=[],
        max_length=None,
        disable_tqdm=True,
        # TRL adds its load-balancing loss to a mixture of experts unless told not to; it is no part of DPO
        router_aux_loss_coef=0.0 if hasattr(policy.config, "output_router_logits") else None,
        **options,
    )
    trainer = DPOTrainer(
        model=policy,
        ref_model=reference,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=byte_tokenizer(),
    )
    inputs = next(iter(trainer.get_train_dataloader()))
    assert inputs["input_ids"].shape[0] == 2 * NUM_PAIRS
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    return Outcome(loss.item(), gradients_of(trainer.model))


def tokenized_groups() -> list[TokenizedGroup]:
    tokenizer = byte_tokenizer()

    def response(text: str) -> TokenizedResponse:
        ids = (*tokenizer(text)["input_ids"], tokenizer.eos_token_id)
        return TokenizedResponse(ids, (1,) * len(ids))

    return [
        TokenizedGroup(
            tuple(tokenizer(prompt)["input_ids"]),
            tuple(map(response, responses)),
            tuple(GroupPair(*pair, "pairs.jsonl:1") for pair in pairs),
        )
        for prompt, responses, pairs in GROUPS
    ]


@pytest.mark.parametrize("name", [*SHARING, *HYBRID])
def test_equals_trl(name: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TRL and what it imports
        policy, reference = (build(name, seed=seed, vocabulary=VOCABULARY) for seed in (1, 2))
        theirs = trl_outcome(policy, reference, tmp_path)
    assert abs(theirs.loss - 0.6931) > 0.005
    groups = tokenized_groups()
    for budget in (longest_of(groups), 10_000):
        policy, reference = (build(name, seed=seed, vocabulary=VOCABULARY) for seed in (1, 2))
        training = training_of(policy, reference, groups, f"policy.tokens_per_microbatch={budget}")
        step = step_of(groups)
        assert sum(len(row.refs()) for row in step_rows(step, training).all_rows) == 9
        ours = train_step(training, step)
        outcome = Outcome(ours["loss"], gradients_of(policy))
        assert_same(outcome, theirs, loss=2e-6, gradient=TRLS_ROUNDING.get(name, 1e-5))


SMOOTHED = "loss.label_smoothing=0.15"

LOSSES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "hinge": ({"loss_type": "hinge"}, ("loss.name=hinge",)),
    "ipo": ({"loss_type": "ipo"}, ("loss.name=ipo",)),
    "exo": ({"loss_type": "exo_pair", "label_smoothing": 0.15}, ("loss.name=exo", SMOOTHED)),
    "nca": ({"loss_type": "nca_pair"}, ("loss.name=nca",)),
    "robust": ({"loss_type": "robust", "label_smoothing": 0.15}, ("loss.name=robust", SMOOTHED)),
    "bco": ({"loss_type": "bco_pair"}, ("loss.name=bco",)),
    "sppo": ({"loss_type": "sppo_hard"}, ("loss.name=sppo",)),
    "aot": ({"loss_type": "aot"}, ("loss.name=aot",)),
    "aot_smoothed": ({"loss_type": "aot", "label_smoothing": 0.15}, ("loss.name=aot", SMOOTHED)),
    "aot_unpaired": (
        {"loss_type": "aot_unpaired", "label_smoothing": 0.15},
        ("loss.name=aot_unpaired", SMOOTHED),
    ),
    "apo_zero": ({"loss_type": "apo_zero"}, ("loss.name=apo_zero",)),
    "apo_down": ({"loss_type": "apo_down"}, ("loss.name=apo_down",)),
    "discopop": (
        {"loss_type": "discopop", "discopop_tau": 0.4},
        ("loss.name=discopop", "loss.discopop_temperature=0.4"),
    ),
    "sigmoid_norm": ({"loss_type": "sigmoid_norm"}, ("loss.name=sigmoid_norm",)),
    "averaged": ({"loss_type": "sigmoid_norm"}, ("dpo.preference_average_log_probs=true",)),
    "mix": (
        {"loss_type": ["sigmoid", "bco_pair", "ipo"], "loss_weights": [0.8, 0.2, 0.01]},
        ('loss.mix={"sigmoid": 0.8, "bco": 0.2, "ipo": 0.01}',),
    ),
    "ld": ({"ld_alpha": 0.4}, ("loss.ld_alpha=0.4",)),
    "ld_ipo": ({"loss_type": "ipo", "ld_alpha": 0.4}, ("loss.name=ipo", "loss.ld_alpha=0.4")),
    "ld_aot": ({"loss_type": "aot", "ld_alpha": 0.0}, ("loss.name=aot", "loss.ld_alpha=0")),
    "wpo": ({"use_weighting": True}, ("loss.wpo_weighting=true",)),
    "wpo_nca": ({"loss_type": "nca_pair", "use_weighting": True}, ("loss.name=nca", "loss.wpo_weighting=true")),
    "forward_kl": ({"f_divergence_type": "forward_kl"}, ("loss.f_divergence=forward_kl",)),
    "js": ({"f_divergence_type": "js_divergence"}, ("loss.f_divergence=js",)),
    "alpha": (
        {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.7},
        ("loss.f_divergence=alpha", "loss.f_alpha=0.7"),
    ),
    "js_ipo": (
        {"f_divergence_type": "js_divergence", "loss_type": "ipo"},
        ("loss.f_divergence=js", "loss.name=ipo"),
    ),
}
"""Each loss and modifier that TRL has: its options, and ours."""


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_equals_trl(name: str, tmp_path: Path) -> None:
    """In one row and in many, so that the pairs that are compared with one another lie apart."""
    options, settings = LOSSES[name]

    def model(seed: int) -> Any:
        return build("llama", seed=seed, vocabulary=VOCABULARY)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # its models in float64: TRL takes differences of long sums in float32, and rounds by 2e-5 of a gradient
        theirs = trl_outcome(model(1).double(), model(2).double(), tmp_path, **options)
    assert abs(theirs.loss - 0.6931) > 1e-4
    groups = tokenized_groups()
    for budget in (longest_of(groups), 10_000):
        policy = model(1)
        training = training_of(policy, model(2), groups, f"policy.tokens_per_microbatch={budget}", *settings)
        ours = train_step(training, step_of(groups))
        assert_same(Outcome(ours["loss"], gradients_of(policy)), theirs, loss=2e-6)
