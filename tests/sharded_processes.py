"""What each of two processes looks at in `test_sharded_model.py`; run by torchrun, which starts both."""

import sys
import time
from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor

from schemas.errors import DpoError
from tests.tiny_models import tiny_qwen3
from trainer.config.sections import TrainConfig
from trainer.config.settings import resolve
from trainer.data.plan import ResponseRef
from trainer.data.tokenize import TokenizedGroup, TokenizedResponse
from trainer.model.attention import choose_attention
from trainer.model.batch import TokenRows, token_rows
from trainer.model.packing import Fragment, Layout, Packer, Row
from trainer.model.scorer import ResponseScorer
from trainer.model.sharded import full_weights, shard
from trainer.run.processes import connect, refuse_different

SETTLE_SECONDS = 0.5
GROUP = TokenizedGroup(
    prompt=tuple(range(10, 20)),
    responses=tuple(TokenizedResponse(ids=ids, loss_mask=(1,) * len(ids)) for ids in ((30, 31, 32), (40, 41))),
    pairs=(),
)


def configured() -> TrainConfig:
    """Ask for bfloat16 and FSDP2 on the CPU."""
    return resolve(
        ["policy.precision=bfloat16", "cluster.gpus_per_node=none", "cluster.accelerate_config=fsdp2"],
        train_data_path="pairs.jsonl",
        model_name="policy",
        output_dir="run",
    )


def row_of(scorer: ResponseScorer) -> TokenRows:
    """Lay both responses behind their prompt."""
    packer = Packer([GROUP], scorer.attention.layout, 64)
    (row,) = packer.rows([ResponseRef(0, 0), ResponseRef(0, 1)])
    return token_rows(row, [GROUP], packer.layout, pads_to=scorer.attention.pads_to)


def made() -> ResponseScorer:
    """Make the same random policy on each process."""
    model = tiny_qwen3()
    return ResponseScorer(model, choose_attention(model, "dense", torch.device("cpu")))


def main() -> None:
    """Compute with a policy that is whole and with the same one in parts, and compare."""
    accelerator = connect(configured())
    is_main = accelerator.is_main_process
    assert accelerator.is_fsdp2
    whole, parts = made(), made()
    rows = row_of(whole)
    names = {name: value.clone() for name, value in whole.state_dict().items()}
    shard(parts, accelerator)
    assert all(isinstance(value, DTensor) for value in parts.parameters())
    assert sum(value.to_local().numel() for value in parts.parameters()) < 0.6 * sum(
        value.numel() for value in whole.parameters()
    )

    dtypes: set[tuple[torch.dtype, torch.dtype]] = set()

    def look(layer: Any, inputs: Any) -> None:
        dtypes.add((layer.mlp.up_proj.weight.dtype, inputs[0].dtype))

    parts.model.model.layers[0].register_forward_pre_hook(look)  # behind FSDP's own
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = whole(rows)
    found = parts(rows)
    assert dtypes == {(torch.bfloat16, torch.float32)}, dtypes  # of gathered matrices, and of the residual stream
    assert found.dtype is torch.float32
    assert not torch.equal(found, found.bfloat16().float())  # nor were they rounded on the way
    torch.testing.assert_close(found, expected, rtol=0, atol=0.05)

    # Gradients are averaged in float32: in bfloat16 the average of the two processes' would be a bfloat16.
    weight = (1.0, 1.37)[accelerator.process_index]
    (found * weight).sum().backward()
    gradient = parts.model.model.layers[0].mlp.up_proj.weight.grad.full_tensor()
    assert gradient.dtype is torch.float32
    assert not torch.equal(gradient, gradient.bfloat16().float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (whole(rows) * 1.185).sum().backward()
    near = whole.model.model.layers[0].mlp.up_proj.weight.grad
    assert float((gradient - near).norm() / near.norm()) < 0.02

    with torch.no_grad():
        parts(rows)
        parts.plain_logps(row_of_one(), 8)
        parts.generate(input_ids=torch.tensor([[10, 11, 12]]), max_new_tokens=2, do_sample=False, synced_gpus=True)
    assert all(isinstance(value, DTensor) for value in parts.parameters())  # nothing is left whole

    weights = full_weights(parts, keeps=is_main)
    assert weights.keys() == (names.keys() if is_main else set())
    assert all(torch.equal(value, names[name]) for name, value in weights.items())
    if is_main:  # tied weights are one tensor, as save_pretrained expects them
        assert weights["model.lm_head.weight"] is weights["model.model.embed_tokens.weight"]

    refuse_different(accelerator, {"pairs": "a", "model": 1})
    with pytest.raises(DpoError, match="process 1 of 2 has other pairs than process 0"):
        refuse_different(accelerator, {"pairs": f"digest {accelerator.process_index}", "model": 1})
    sys.stdout.write(f"process {accelerator.process_index} is content\n")
    sys.stdout.flush()
    accelerator.wait_for_everyone()
    time.sleep(SETTLE_SECONDS)  # a process group that is left while gloo's threads are at work may hang
    accelerator.end_training()


def row_of_one() -> TokenRows:
    """Lay one response alone behind its prompt."""
    return token_rows(Row((Fragment(0, (0,)),)), [GROUP], Layout.ROWS)


if __name__ == "__main__":
    main()
