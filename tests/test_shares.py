"""The estimate of memory where processes share the model."""

from pathlib import Path

import pytest

from tests.tiny_models import tiny_qwen3
from trainer.config.settings import resolve
from trainer.cost.memory import MemoryEstimate
from trainer.cost.shares import num_shares, shared_memory

# The tiny policy: an embedding, tied, of 259 x 32 and a last norm of 32 lie outside of its layers; a layer has
# 32 x (32 + 16 + 16) + 32 x 32 of attention, 3 x 32 x 64 of MLP, two norms of 32 and two of 8.
OUTSIDE = 259 * 32 + 32
LAYER = 32 * 64 + 32 * 32 + 3 * 32 * 64 + 2 * 32 + 2 * 8
ALL = OUTSIDE + 2 * LAYER
WHOLE = MemoryEstimate(
    weights=4 * ALL, copies=100, gradients=4 * ALL, optimizer=8 * ALL, activations=7, head=9, reference=0
)


@pytest.mark.parametrize(
    ("profile", "precision", "expected"),
    [
        ("ddp", "float32", WHOLE.as_dict()),
        (
            "zero2",
            "float32",
            WHOLE.as_dict() | {"gradients": 4 * ALL // 4 + 4 * LAYER, "optimizer": 8 * ALL // 4},
        ),
        (
            "fsdp2",
            "bfloat16",
            WHOLE.as_dict()
            | {
                "weights": 4 * ALL // 4 + 4 * OUTSIDE + 2 * 2 * LAYER,
                "copies": 0,
                "gradients": 4 * ALL // 4 + 4 * LAYER,
                "optimizer": 8 * ALL // 4,
            },
        ),
    ],
)
def test_parts_of_four(profile: str, precision: str, expected: dict[str, int]) -> None:
    settings = [f"cluster.accelerate_config={profile}", f"policy.precision={precision}"]
    config = resolve(settings, train_data_path=Path("pairs.jsonl"), model_name="policy", output_dir=Path("run"))
    found = shared_memory(WHOLE, tiny_qwen3(), config, 4).as_dict()
    assert {**found, "total": 0} == {**expected, "total": 0}


def test_a_node_of_several_has_a_copy() -> None:
    settings = ["cluster.accelerate_config=hsdp", "cluster.num_nodes=2", "cluster.gpus_per_node=4"]
    config = resolve(settings, train_data_path=Path("pairs.jsonl"), model_name="policy", output_dir=Path("run"))
    assert num_shares(config, 8) == (4, 4)
