"""How much is computed, how much that saves, and how fast it goes.

Legend: `N` weights in matrix products, `T` tokens computed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trainer.data.plan import PairRef, sides
from trainer.data.tokenize import TokenizedGroup
from trainer.model.batch import num_trained
from trainer.model.packing import Layout, Packer, Row
from trainer.model.segments import row_segments

PEAK_FLOPS = {
    "B200": 2250e12,
    "H200": 989e12,
    "GH200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
}
"""Dense bfloat16 peak of a GPU, by whole words of its name; the first that fits counts (vendors' data sheets)."""


@dataclass(frozen=True)
class Work:
    """What some pairs need: as every pair by itself, as each response by itself, and as it is computed."""

    pair_tokens: int  # two full sequences for each pair
    response_tokens: int  # a full sequence for each distinct response
    tokens: int  # what is computed: each prompt once in a row, each distinct response once
    trained_tokens: int  # of the distinct responses: only these go through the head
    visible: int  # pairs of a token and one that it sees, in what is computed

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.pair_tokens + other.pair_tokens,
            self.response_tokens + other.response_tokens,
            self.tokens + other.tokens,
            self.trained_tokens + other.trained_tokens,
            self.visible + other.visible,
        )

    @property
    def dedup_factor(self) -> float:
        """Say how many times as much pair by pair would be, for responses that stand in several pairs."""
        return self.pair_tokens / self.response_tokens

    @property
    def sharing_factor(self) -> float:
        """Say how many times as much each response behind a prompt of its own would be."""
        return self.response_tokens / self.tokens


def work_of(pairs: Sequence[PairRef], rows: Sequence[Row], packer: Packer) -> Work:
    """Count the tokens of a step's pairs and rows; fillers and padding count for nothing."""
    groups = packer.groups
    pair_tokens = sum(_sequence_tokens(groups, ref) for pair in pairs for ref in sides(pair, groups))
    rows = [row for row in rows if not row.is_filler]
    refs = [ref for row in rows for ref in row.refs()]
    lengths = [_sequence_tokens(groups, ref) for ref in refs]
    if packer.layout is Layout.TREE:
        tables = [row_segments(row, groups) for row in rows]
        tokens, visible = sum(table.num_tokens for table in tables), sum(table.num_visible() for table in tables)
    else:
        tokens, visible = sum(lengths), sum(length * (length + 1) // 2 for length in lengths)
    return Work(
        pair_tokens=pair_tokens,
        response_tokens=sum(lengths),
        tokens=tokens,
        trained_tokens=sum(num_trained(groups[ref.group], ref.response) for ref in refs),
        visible=visible,
    )


def _sequence_tokens(groups: Sequence[TokenizedGroup], ref: Any) -> int:
    group = groups[ref.group]
    return len(group.prompt) + len(group.responses[ref.response].ids)


@dataclass(frozen=True)
class FlopCounter:
    """Counts the floating-point operations of a step, and relates them to what the device could do."""

    weights_per_token: int  # N, without the head
    head_weights: int  # only trained tokens go through these
    attention_per_visible: int  # layers x query heads x head size
    peak_flops: float | None  # of one device; None where it isn't known

    def step_flops(self, work: Work) -> float:
        """Count forward and backward, no recompute: 6 for each weight and token, 12 for each visible pair, layer and
        dimension of its query heads."""
        weights = self.weights_per_token * work.tokens + self.head_weights * work.trained_tokens
        return 6.0 * weights + 12.0 * self.attention_per_visible * work.visible

    def mfu(self, work: Work, seconds: float, num_devices: int) -> float | None:
        """Give the share of the devices' peak that a step used (model FLOPs utilisation)."""
        if self.peak_flops is None:
            return None
        return self.step_flops(work) / (seconds * self.peak_flops * num_devices)


def flop_counter(model: Any, device: torch.device) -> FlopCounter:
    """Count a model's weights that each token is multiplied with; of experts, those that a token is sent to."""
    config = model.config.get_text_config()
    return FlopCounter(
        weights_per_token=_weights_per_token(model, config),
        head_weights=model.get_output_embeddings().weight.numel(),
        attention_per_visible=sum(query_width(each) for each in layer_configs(config)),
        peak_flops=peak_flops(device),
    )


def layer_configs(config: Any) -> list[Any]:
    """Give the configuration of each layer; of some models (Gemma 4) they differ."""
    return list(getattr(config, "per_layer_config", None) or [config] * config.num_hidden_layers)


def query_width(config: Any) -> int:
    """Give the width of all queries of a token in a layer; 0 for a model without attention."""
    heads = int(getattr(config, "num_attention_heads", None) or 0)
    return heads * int(getattr(config, "head_dim", None) or config.hidden_size // heads) if heads else 0


def peak_flops(device: torch.device) -> float | None:
    """Look a GPU's dense bfloat16 peak up; None where it isn't known."""
    if device.type != "cuda":
        return None
    return peak_of(torch.cuda.get_device_name(device))


def peak_of(name: str) -> float | None:
    """Look the peak up by the device's name: an L4 is no L40, an A100 no RTX A1000."""
    return next((peak for words, peak in PEAK_FLOPS.items() if re.search(rf"\b{words}\b", name)), None)


def _weights_per_token(model: Any, config: Any) -> int:
    """Count the weights of matrices but the embedding and the head."""
    ends = (model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    num_experts = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None) or 1
    share_of_experts = getattr(config, "num_experts_per_tok", num_experts) / num_experts
    total = 0.0
    for name, parameter in model.named_parameters():
        if parameter.dim() >= 2 and not any(parameter is end for end in ends):
            total += parameter.numel() * (share_of_experts if ".experts." in name else 1.0)
    return round(total)
