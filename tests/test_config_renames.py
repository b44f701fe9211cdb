"""Names of other tools and of earlier versions: each is answered with ours, or with why it has no place here."""

from pathlib import Path

import pytest

from schemas.errors import UsageError
from trainer.config.keys import option_keys, section_keys
from trainer.config.settings import resolve
from trainer.imports.conversions import CONVERSIONS, LOSSES
from trainer.imports.refused import REFUSED, refusal_of
from trainer.imports.renames import LOSS_NAMES, REMARKS, RENAMED

OURS = {*option_keys(), *section_keys()}


def answer_to(key: str) -> str:
    with pytest.raises(UsageError) as caught:
        resolve([f"{key}=1"], train_data_path=Path("pairs.jsonl"))
    return str(caught.value)


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_name_is_answered_with_the_new_one(old: str, new: str) -> None:
    assert answer_to(old).startswith(f"{old}: is {new} here")
    assert REMARKS.get(old, "") in answer_to(old)


@pytest.mark.parametrize("key", sorted(REFUSED.keys() - RENAMED.keys()))
def test_a_name_without_a_place_is_answered_with_the_reason(key: str) -> None:
    assert answer_to(key) == f"{key}: has no place here: {REFUSED[key].reason}"


def test_all_keys_below_one_without_a_place_have_none() -> None:
    answer = answer_to("policy.megatron_cfg.optimizer.use_distributed_optimizer")
    assert answer.startswith("policy.megatron_cfg: has no place here: there is no Megatron back end")
    assert refusal_of("policy.dtensor_cfg.env_vars.X")[0] == "policy.dtensor_cfg.env_vars"
    assert refusal_of("policy.megatron") is None


@pytest.mark.parametrize(
    ("old", "answer"),
    [
        ("loss_fn.reference_policy_kl_penalty", "dpo.reference_policy_kl_penalty"),
        ("loss_fn.sft_average_log_probs", "dpo.sft_average_log_probs"),
        ("data.train_data_path", "data.train.data_path"),
        ("data.val_data_path", "data.validation.data_path"),
        ("data.max_input_seq_length", "policy.max_total_sequence_length"),
        ("dpo.preference_loss", "loss.name"),
        ("policy.optimizer.kwargs.lr", "policy.optimizer.lr"),
        ("policy.dtensor_cfg.activation_checkpointing", "policy.gradient_checkpointing"),
        ("per_device_train_batch_size", "policy.train_micro_batch_size"),
        ("training.batch_size", "policy.train_global_batch_size"),
        ("policy.sequence_packing.enabled", "rows are always packed"),
        ("policy.dynamic_batching.enabled", "rows are always packed"),
        ("data.num_workers", "pairs are tokenised once"),
        ("logger.monitor_gpus", "memory is in the metrics of each step"),
        ("checkpointing.save_optimizer", "a checkpoint has the optimizer"),
        ("policy.dtensor_cfg.tensor_parallel_size", "cluster.accelerate_config"),
    ],
)
def test_the_names_that_people_have_in_their_scripts(old: str, answer: str) -> None:
    assert answer in answer_to(old)


def test_the_tables_speak_of_what_is() -> None:
    assert set(RENAMED.values()) <= OURS
    assert set(REMARKS) <= set(RENAMED)
    assert not OURS & {*RENAMED, *REFUSED}, "an option of ours would be refused"
    assert set(CONVERSIONS) <= {*OURS, *RENAMED}
    assert set(LOSS_NAMES.values()) <= set(LOSSES)


def test_an_old_name_is_told_with_a_plus_and_among_others() -> None:
    with pytest.raises(UsageError) as caught:
        resolve(["++policy.dtensor_cfg._v2=true", "+loss_type=ipo", "dpo.seed=x"], train_data_path=Path("p"))
    assert str(caught.value).splitlines()[1:] == [
        "  policy.dtensor_cfg._v2: has no place here: there is one trainer",
        "  loss_type: is loss.name here",
        "  dpo.seed='x': Input should be a valid integer, unable to parse string as an integer",
    ]
