"""The policy as DDP and FSDP see it: token rows in, log-probs of the trained tokens out.

The head runs inside this module's forward, so that every gradient passes through what the distributed wrappers watch.
For the same reason the model's own ways to compute, its log-probs and its answers, are methods of this module.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from schemas.errors import UsageError
from trainer.model.attention import Attention
from trainer.model.batch import TokenRows
from trainer.model.head import Measure, logit_transform, plain_head, token_scores


class ResponseScorer(nn.Module):
    """Computes the log-probs of the trained tokens of rows under a causal language model."""

    def __init__(self, model: Any, attention: Attention) -> None:
        super().__init__()
        self.model = model
        self.attention = attention
        self.transform = logit_transform(model.config)
        self.autocast: Callable[[], AbstractContextManager[Any]] = nullcontext  # where no wrapper brings one
        self._no_split_modules = getattr(model, "_no_split_modules", None)  # where FSDP cuts
        plain_head(self.base)
        decoder_of(self.base)
        self.base.set_attn_implementation(attention.implementation)

    @property
    def base(self) -> Any:
        """Give the language model itself, where an adapter is wrapped around it."""
        return self.model.get_base_model() if is_lora(self.model) else self.model

    def forward(self, rows: TokenRows, measures: tuple[Measure, ...] = ()) -> Tensor:
        """Give the log-prob of each trained token: (N,), float32, response after response.

        With measures, these stand beneath the log-probs: (1 + measures, N). It is one tensor in any case, because that
        is what the distributed wrappers handle best; only the log-probs have a gradient.
        """
        base = self.base
        with self.autocast():
            outputs = decoder_of(base)(
                input_ids=rows.input_ids,  # (B, T)
                position_ids=rows.position_ids,
                attention_mask=self._mask(rows, base),
                use_cache=False,
            )
            hidden = outputs.last_hidden_state.flatten(0, 1)[rows.predictors]  # (B, T, H) -> (N, H)
            scores = token_scores(hidden, plain_head(base), rows.targets, self.transform, measures)
        return torch.stack(scores) if measures else scores[0]

    def plain_logps(self, rows: TokenRows, most: int) -> Tensor:
        """Give the log-probs of the last trained tokens of one sequence, by the model's own attention and head.

        (at most `most`,), float32.
        """
        places = rows.predictors[-most:]
        num_tokens = rows.input_ids.shape[1]
        self.base.set_attn_implementation(self.attention.plain_implementation)
        try:
            with self.autocast():
                logits = self.base(
                    input_ids=rows.input_ids, use_cache=False, logits_to_keep=num_tokens - int(places[0])
                ).logits  # (1, those kept, V): the last ones
        finally:
            self.base.set_attn_implementation(self.attention.implementation)
        kept = logits[0, places - (num_tokens - logits.shape[1])]
        logps = torch.log_softmax(kept.float(), dim=-1)
        return logps.gather(1, rows.targets[-most:, None]).squeeze(1)

    def generate(self, **options: Any) -> Any:
        """Let the model answer, as `generate` of transformers does."""
        with self.autocast():
            return self.base.generate(**options)

    def _mask(self, rows: TokenRows, base: Any) -> Any:
        if rows.table is None:
            return rows.attention_mask
        device = rows.input_ids.device
        is_autocast = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if is_autocast else base.dtype
        return self.attention.masks(rows.table, device, dtype)


def decoder_of(model: Any) -> nn.Module:
    """Give what turns a model's tokens into hidden states: all of it but the head.

    Raises:
        UsageError: the model has no such part.
    """
    for part in (model.get_decoder(), model.base_model, getattr(model, "model", None)):
        if isinstance(part, PreTrainedModel) and part is not model:
            return part
    raise UsageError(f"{model.config.model_type}: the model has no decoder apart from its head, so it can't be trained")


def decoder_layers(model: Any) -> list[nn.Module]:
    """Give the decoder's layers, whatever a model calls them."""
    lists = [part for part in decoder_of(model).children() if isinstance(part, nn.ModuleList)]
    return max(map(list, lists), key=len, default=[decoder_of(model)])


def is_lora(model: Any) -> bool:
    """Say whether adapters are wrapped around a model."""
    return hasattr(model, "peft_config")
