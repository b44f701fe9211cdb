"""A state of DeepSpeed's, gathered, taken up by another engine, and gone on from; run by torchrun on two processes.

python zero_processes.py STAGE OPTIMIZER
"""

import sys
import time
from typing import Any

import deepspeed
import torch
from torch import nn

from trainer.model.zero import full_state, load_full_state

OPTIMIZERS = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
SETTLE_SECONDS = 0.5
PLACES = 5 * 7 + 7 + 3  # weights that are trained, of which two processes have no equal parts


def engine_of(stage: int, optimizer: str) -> Any:
    """Make the same small model on each process, one of its weights frozen, and an engine around it."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3))
    model[1].weight.requires_grad_(False)
    config = {
        "zero_optimization": {"stage": stage},
        "train_micro_batch_size_per_gpu": 1,
        "gradient_clipping": 0.5,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    if stage == 3:
        deepspeed.zero.Init(module=model, config_dict_or_path=config)
    made = OPTIMIZERS[optimizer](model.parameters(), lr=1e-2)
    return deepspeed.initialize(model=model, optimizer=made, config=config)[0]


def step(engine: Any, number: int) -> None:
    """Learn from numbers of this process."""
    seed = 10 * number + torch.distributed.get_rank()
    numbers = torch.randn(2, 5, generator=torch.Generator().manual_seed(seed))
    engine.backward(engine(numbers).square().sum())
    engine.step()


def main(stage: int, optimizer: str) -> None:
    """Step twice, hand the state on, step once more in both engines, and compare."""
    deepspeed.init_distributed(dist_backend="gloo")
    first = engine_of(stage, optimizer)
    step(first, 0)
    step(first, 1)
    state = full_state(first)
    assert sum(value.numel() for name, value in state.items() if name.startswith("weights.")) == PLACES
    second = engine_of(stage, optimizer)
    load_full_state(second, state)
    taken_up = full_state(second)
    assert state.keys() == taken_up.keys()
    assert all(torch.equal(value, taken_up[name]) for name, value in state.items())
    step(first, 2)
    step(second, 2)
    one, two = full_state(first), full_state(second)
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert not torch.equal(one["weights.0.weight"], state["weights.0.weight"])
    sys.stdout.write("content\n")
    sys.stdout.flush()
    torch.distributed.barrier()
    time.sleep(SETTLE_SECONDS)  # a process that ends while gloo's threads are at work may abort
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
