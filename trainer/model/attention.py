"""How a model's attention is computed over a row: the back ends, and which of them serves a model.

A mask handed to a model in the wrong form is no error there: gradients are simply wrong by half. So a positive list of
layer types decides which models share prompts at all, each back end gives the mask in the one form that it needs, and
the first row of a run is computed in the plain way too (`trainer/model/self_check.py`).
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from schemas.errors import UsageError
from trainer.model.masks import BLOCK, additive_mask, block_mask, carrier, dense_mask, segment_queries
from trainer.model.packing import Layout
from trainer.model.segments import SegmentTable

SEGMENT_ATTENTION = "dpo_segments"
FULL, SLIDING = "full_attention", "sliding_attention"
"""The layer types whose masks a segment table gives; a model with any other has its responses in rows of their own."""

LINEAR_MARKS = ("layers_block_type", "block_types", "hybrid_override_pattern", "attn_layer_indices", "full_attn_idxs")
"""Configuration keys of models that mix attention with something that a mask does not reach (Mamba, convolution)."""

POSITION_MARKS = ("alibi", "use_alibi", "position_embedding_type", "attention_chunk_size")
"""Configuration keys of models whose attention knows places by other means than position ids."""

OTHER_PLACES = ("bloom", "falcon", "gpt_neo", "mpt", "rwkv")
"""Types of models that do so, or have no attention, without such a key."""


class Backend(StrEnum):
    """How attention over a row is computed."""

    FLEX = "flex"  # FlexAttention with a block mask: on a GPU
    SEGMENTS = "segments"  # SDPA segment by segment: on a CPU, where it saves what a dense mask would waste
    DENSE = "dense"  # SDPA, or eager attention, with a dense mask: the oracle, and for models that need it
    ROWS = "rows"  # nothing shared: each response behind a prompt of its own


@dataclass(frozen=True)
class Attention:
    """The back end of a run, and what the model's layers are."""

    backend: Backend
    implementation: str  # transformers' name
    plain_implementation: str  # for responses in rows of their own
    windows: dict[str, int | None]  # of each layer type

    @property
    def layout(self) -> Layout:
        """Say how responses lie in memory."""
        return Layout.ROWS if self.backend is Backend.ROWS else Layout.TREE

    @property
    def pads_to(self) -> int:
        """Say which multiple a row's length must be."""
        return BLOCK if self.backend is Backend.FLEX else 1

    def masks(self, table: SegmentTable, device: torch.device, dtype: torch.dtype) -> Any:
        """Make the finished mask of a row, or one for each layer type where a model has several."""
        masks = {kind: self._mask(table, window, device, dtype) for kind, window in self.windows.items()}
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _mask(self, table: SegmentTable, window: int | None, device: torch.device, dtype: torch.dtype) -> Any:
        match self.backend:
            case Backend.FLEX:
                return block_mask(table, window, device)
            case Backend.SEGMENTS:
                return carrier(segment_queries(table, window, device))
            case _ if self.implementation == "eager":
                return additive_mask(table, window, device, dtype)
            case _:
                return dense_mask(table, window, device)


def choose_attention(model: Any, wanted: str, device: torch.device) -> Attention:
    """Choose the back end for a model: the wanted one, or for `auto` the best that serves.

    Raises:
        UsageError: the wanted one can't serve this model.
    """
    plain = "eager" if _needs_eager(model) else "sdpa"
    windows = shared_windows(model.config)
    if wanted == "auto":
        backend = Backend.ROWS if windows is None else _best(model, device, plain)
    else:
        backend = Backend(wanted)
        _refuse_unfit(model, backend, windows, plain, device)
    implementations = {Backend.FLEX: "flex_attention", Backend.SEGMENTS: SEGMENT_ATTENTION}
    return Attention(backend, implementations.get(backend, plain), plain, windows or {FULL: None})


def shared_windows(config: Any) -> dict[str, int | None] | None:
    """Give the sliding window of each layer type, None where a mask can't say what the layers see."""
    config = config.get_text_config()
    if any(getattr(config, name, None) for name in (*LINEAR_MARKS, *POSITION_MARKS)):
        return None
    if config.model_type in OTHER_PLACES:
        return None
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return {FULL: window if getattr(config, "use_sliding_window", True) else None}
    if not {*kinds} <= {FULL, SLIDING}:
        return None
    return {kind: window if kind == SLIDING else None for kind in sorted({*kinds})}


def _needs_eager(model: Any) -> bool:
    """Say whether SDPA would leave out what the model's attention does (GPT-OSS's sinks, Gemma 2's soft-capping)."""
    return (
        not model._supports_sdpa or getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None
    )


def _best(model: Any, device: torch.device, plain: str) -> Backend:
    if device.type == "cuda" and model._supports_flex_attn:
        return Backend.FLEX
    return Backend.SEGMENTS if device.type == "cpu" and plain == "sdpa" else Backend.DENSE


def _refuse_unfit(
    model: Any, backend: Backend, windows: dict[str, int | None] | None, plain: str, device: torch.device
) -> None:
    name = f"policy.attention={backend}: {model.config.model_type}"
    if backend is not Backend.ROWS and windows is None:
        raise UsageError(f"{name} has layers that can't share a prompt by a mask; use policy.attention=rows")
    if backend is Backend.SEGMENTS and plain == "eager":
        raise UsageError(f"{name} has attention that SDPA does not compute; use policy.attention=dense")
    if backend is Backend.FLEX and not model._supports_flex_attn:
        raise UsageError(f"{name} does not support FlexAttention; use policy.attention=dense")
    if backend is Backend.FLEX and device.type == "cpu":
        raise UsageError(f"{name}: FlexAttention has no backward pass on a CPU; use policy.attention=segments")


def segment_attention(
    module: Any,
    query: Tensor,  # (1, heads, T, head size)
    key: Tensor,  # (1, key heads, T, head size)
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend segment by segment, each to its parent's keys and its own, as one of transformers' attention functions."""
    refused = [name for name in ("softcap", "s_aux", "position_bias") if kwargs.get(name) is not None]
    if refused or dropout:
        raise UsageError(f"this model's attention needs {', '.join(refused) or 'dropout'}; use policy.attention=dense")
    queries = getattr(attention_mask, "segment_queries", None)
    if queries is None:
        raise UsageError("this model's attention is given another mask than the model; use policy.attention=rows")
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    outputs = [
        scaled_dot_product_attention(
            query[:, :, part.segment],
            _behind(key, part.parent, part.segment),
            _behind(value, part.parent, part.segment),
            attn_mask=part.mask,
            is_causal=part.mask is None,
            scale=scaling,
        )
        for part in queries
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _behind(states: Tensor, parent: slice, segment: slice) -> Tensor:
    if parent.start == parent.stop:
        return states[:, :, segment]
    return torch.cat([states[:, :, parent], states[:, :, segment]], dim=2)


AttentionInterface.register(SEGMENT_ATTENTION, segment_attention)
