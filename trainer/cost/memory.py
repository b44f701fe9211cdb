"""How much memory a run will take on one device: an estimate from the model's shape, before any weight is loaded.

Each term says what autograd keeps of an operation as transformers writes it; tests/test_memory.py holds the sum to what
it does keep. FlexAttention's term is derived, not measured: it keeps nothing on a CPU.

Legend: `T` tokens of a row, `N` trained tokens among them, `H` hidden size, `V` vocabulary.
"""

from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass
from itertools import pairwise
from typing import Any

from torch import nn

from trainer.config.sections import TrainConfig
from trainer.cost.throughput import layer_configs
from trainer.model.attention import Attention, Backend
from trainer.model.head import TILE_TOKENS, TILE_VOCABULARY
from trainer.model.lora import LINEAR
from trainer.model.packing import Layout
from trainer.model.scorer import decoder_layers, is_lora
from trainer.model.segments import NO_PARENT, Segment, SegmentTable

FLOAT = 4
"""Bytes of a float32: weights, gradients, moments, the residual stream and all norms, whatever the precision."""

LOWER = 2
"""Bytes of a bfloat16."""

MOMENTS = {"adamw": 2 * FLOAT, "adamw_8bit": 2, "sgd": 0}
"""Bytes for each trained weight that an optimizer keeps."""

NF4_BLOCK, NF4_SCALES = 64, 256
"""Weights that share a scale of one byte, and scales that share a float32."""

INDEX = 8
"""Bytes of an index."""

SMALL_PER_TOKEN = 64
"""Bytes for each token of ids, positions, rotations' indices and the roots that norms divide by."""


@dataclass(frozen=True)
class RowShape:
    """What of a row decides how much memory its activations take."""

    tokens: int  # T
    trained: int  # N
    prompt_tokens: int
    keys: int  # that responses see, their prompt's and their own, summed over responses
    mask: int  # a response's tokens times its keys, summed over responses

    @classmethod
    def of(cls, table: SegmentTable, trained: int) -> "RowShape":
        """Measure a row of shared prompts."""
        responses = [one for one in table.segments if one.parent != NO_PARENT]
        keys = [table.offset(one) + one.end - one.start for one in responses]
        return cls(
            tokens=table.num_tokens,
            trained=trained,
            prompt_tokens=table.num_tokens - sum(one.end - one.start for one in responses),
            keys=sum(keys),
            mask=sum((one.end - one.start) * seen for one, seen in zip(responses, keys, strict=True)),
        )

    @classmethod
    def of_sequences(cls, number: int, longest: int, trained: int) -> "RowShape":
        """Measure a row of sequences that share nothing."""
        tokens = number * longest
        return cls(tokens, trained, prompt_tokens=0, keys=tokens, mask=tokens * longest)

    @classmethod
    def fullest(cls, config: TrainConfig, layout: Layout) -> "RowShape":
        """Imagine a full row: prompts and responses each half as long as the longest sequence may be, one prompt."""
        tokens, longest = config.policy.row_tokens, config.policy.max_total_sequence_length
        half = -(-longest // 2)
        if layout is Layout.ROWS:
            return cls.of_sequences(tokens // longest, longest, trained=tokens // longest * half)
        borders = [*range(half, tokens, half), tokens]
        responses = [Segment(start, end, 0) for start, end in pairwise(borders)]
        return cls.of(SegmentTable((Segment(0, half, NO_PARENT), *responses)), trained=tokens - half)

    def covering(self, other: "RowShape") -> "RowShape":
        """Give a row that takes no less than either."""
        return RowShape(*map(max, astuple(self), astuple(other)))


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device at the highest point of a step, in the parts that a user can do something about.

    Not counted: what the allocator holds back or can't use, the device's context and its libraries' workspaces
    (together about 1 GB on a GPU), buffers of DDP, and what FSDP saves by sharding.
    """

    weights: int  # in float32, those of QLoRA in 4 or 8 bits
    copies: int  # of the weights in bfloat16, under autocast
    gradients: int
    optimizer: int
    activations: int  # kept for the backward pass of a row
    head: int  # tiles of logits and the head's gradients; or one layer's backward pass, where that takes more
    reference: int  # a second model, where it computes in each step

    @property
    def total(self) -> int:
        """Sum the parts up."""
        return sum(asdict(self).values())

    def as_dict(self) -> dict[str, int]:
        """Give the parts and their total."""
        return asdict(self) | {"total": self.total}


def estimate_memory(
    model: Any, config: TrainConfig, attention: Attention, row: RowShape | None = None, *, reference: Any = None
) -> MemoryEstimate:
    """Estimate the memory of a run; the model may be on the meta device, only its shape is read.

    `row` is the largest row, and a full one where it isn't known. `reference` is a second model where the run has one
    other than a copy of the policy. The precision must be named: auto counts as float32.

    Made for decoders like Llama's: attention, gated MLP or experts, norms before them. What autograd keeps on a CPU it
    tells within a fifth for Llama, Qwen 2 and 3, Qwen3-MoE and Gemma 3.
    """
    base = model.get_base_model() if is_lora(model) else model
    row = row or RowShape.fullest(config, attention.layout)
    element = LOWER if config.policy.precision == "bfloat16" else FLOAT
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    layers = [layer_bytes(layer, base.config, attention, row, element) for layer in decoder_layers(base)]
    inputs = len(layers) * row.tokens * _hidden(base.config) * FLOAT
    is_checkpointed = config.policy.gradient_checkpointing
    one_layer = _layer_backward(base, row, element) + (max(layers) if is_checkpointed else 0)
    return MemoryEstimate(
        weights=_numel(model) * FLOAT - _saved_by_quantization(base, config.policy.lora.quantization),
        copies=_copied_weights(base, config.policy.lora.quantization) * LOWER if element == LOWER else 0,
        gradients=trained * FLOAT,
        optimizer=trained * MOMENTS[config.policy.optimizer.name],
        activations=(inputs if is_checkpointed else sum(layers)) + ends_bytes(base, row, element),
        head=max(head_bytes(base, row, element), one_layer),
        reference=_reference_bytes(model, config, reference),
    )


def layer_bytes(layer: nn.Module, config: Any, attention: Attention, row: RowShape, element: int) -> int:
    """Count what one decoder layer keeps for its backward pass; `element` is the size of a matrix product's numbers.

    A norm keeps its input and the normed values in float32. A matrix keeps its input: in float32 matrices share it,
    under autocast each has a copy. A gated MLP keeps its gate before and after the activation and what it multiplies.
    """
    intermediate = sum(linear.in_features for linear in _downs(layer))
    per_token = _norm_bytes(layer, config, element) + _input_bytes(layer, config, element) + 3 * intermediate * element
    if _has_experts(layer):
        per_token += _expert_bytes(config, element)
    return row.tokens * per_token + attention_bytes(config, attention, row, element)


def _norm_bytes(layer: nn.Module, config: Any, element: int) -> int:
    """Count for each token what norms keep; the normed values only for the gradient of a weight that is trained."""
    norms = [name for name, _ in layer.named_modules() if name.endswith("norm")]
    of_hidden = sum("." not in name for name in norms) * _hidden(config)
    of_heads = sum(_head_widths(config)) if any("." in name for name in norms) else 0  # queries and keys, not rotated
    normed = of_hidden * FLOAT + of_heads * element if _trains_norms(layer) else 0
    return (of_hidden + of_heads) * FLOAT + normed


def _trains_norms(layer: nn.Module) -> bool:
    return any(parameter.requires_grad for name, parameter in layer.named_parameters() if "norm" in name)


def _input_bytes(layer: nn.Module, config: Any, element: int) -> int:
    """Count for each token what matrices keep of their inputs."""
    linears = [module for module in layer.modules() if isinstance(module, nn.Linear)]
    if element == LOWER:  # frozen matrices keep none: an input is for the gradient of the weight
        return sum(linear.in_features for linear in linears if linear.weight.requires_grad) * element
    num_norms = sum(name.endswith("norm") for name, _ in layer.named_children())
    intermediate = sum(linear.in_features for linear in _downs(layer))
    return (num_norms * _hidden(config) + _head_widths(config)[0] + intermediate) * element


def attention_bytes(config: Any, attention: Attention, row: RowShape, element: int) -> int:
    """Count what attention keeps: queries, keys, values, output, one sum for each head, and the mask as it is used."""
    query, key = _head_widths(config)
    heads = _heads(config)
    tokens = row.tokens
    sums = tokens * heads * FLOAT
    match attention.backend:
        case Backend.FLEX:
            shares_keys = heads & (heads - 1) == 0  # else transformers repeats them for each head
            return tokens * (2 * query + 2 * (key if shares_keys else query)) * element + 2 * sums
        case Backend.SEGMENTS:
            # Values, and in float32 keys, are kept as a whole, because the prompt's are a part of them; the responses'
            # are copied behind their prompt's.
            whole = tokens + (row.prompt_tokens if element == LOWER else tokens)
            return (query * (2 * tokens + whole + 2 * row.keys) + row.mask) * element + sums
        case Backend.ROWS:
            return (4 * query * tokens + row.mask) * element + sums
        case _:
            square = tokens * tokens
            kept = square * heads * (FLOAT + element) if attention.implementation == "eager" else square * element
            return 4 * tokens * query * element + kept + sums


def head_bytes(model: Any, row: RowShape, element: int) -> int:
    """Count the head's backward pass: three tiles of float32, the gradients of hidden states and weight in float32."""
    words, hidden = map(int, model.get_output_embeddings().weight.shape)
    tile_words = min(words, TILE_VOCABULARY)
    tiles = 3 * min(row.trained, TILE_TOKENS) * tile_words * FLOAT
    cast = tile_words * hidden * LOWER if element == LOWER else 0
    gradient = words * hidden * FLOAT if model.get_output_embeddings().weight.requires_grad else 0
    return int(tiles + cast + row.trained * hidden * FLOAT + gradient)


def ends_bytes(model: Any, row: RowShape, element: int) -> int:
    """Count what is kept outside of the layers: the last norm, the rotations, the hidden states that the head reads."""
    hidden = _hidden(model.config)
    rotations = 2 * _head_widths(model.config)[0] // _heads(model.config) * FLOAT
    norm = (2 if _trains_norms(decoder_layers(model)[-1]) else 1) * hidden * FLOAT
    return row.tokens * (norm + rotations + SMALL_PER_TOKEN) + row.trained * hidden * element


def _layer_backward(model: Any, row: RowShape, element: int) -> int:
    """Count what the backward pass of one layer makes and drops: gradients of its widest activations, and of its
    largest weight before it is added to what earlier rows gave."""
    layer = decoder_layers(model)[-1]
    largest = max((int(one.numel()) for one in layer.parameters() if one.requires_grad), default=0)
    intermediate = sum(linear.in_features for linear in _downs(layer))
    wide = intermediate * element + 2 * _hidden(model.config) * FLOAT
    if _has_experts(layer):
        wide += _expert_bytes(model.config, element) // 4
    return row.tokens * wide + largest * FLOAT


def _expert_bytes(config: Any, element: int) -> int:
    """Count for each token what its experts keep: they compute in float32, because autocast passes them by."""
    config = _text(config)
    width = getattr(config, "moe_intermediate_size", None) or config.intermediate_size
    per_expert = (4 * width + 2 * config.hidden_size) * FLOAT + 4 * INDEX
    router = _num_experts(config) * FLOAT + config.hidden_size * element
    return int((getattr(config, "num_experts_per_tok", None) or 1) * per_expert + router)


def _has_experts(layer: nn.Module) -> bool:
    return any(name.endswith("experts") for name, _ in layer.named_modules())


def _downs(layer: nn.Module) -> Iterator[nn.Linear]:
    """Yield the last matrices of the layer's MLPs."""
    for name, module in layer.named_modules():
        if name.endswith(("down_proj", "down_proj.base_layer")) and isinstance(module, nn.Linear):
            yield module


def _reference_bytes(model: Any, config: TrainConfig, reference: Any) -> int:
    """Count the weights of a model that stays beside the policy."""
    if config.reference_mode != "online":
        return 0
    if reference is not None:
        return _numel(reference) * FLOAT
    return 0 if is_lora(model) else _numel(model) * FLOAT  # without adapters the policy is its own reference


def _copied_weights(model: Any, quantization: str) -> int:
    """Count the weights that autocast copies: matrices but the head, whose tiles are cast one by one.

    What is quantised is made whole where it is needed, one matrix at a time, and not kept.
    """
    head = model.get_output_embeddings()
    quantized = {*_quantized(model, quantization)}
    linears = (module for module in model.modules() if isinstance(module, nn.Linear) and module is not head)
    return sum(int(linear.weight.numel()) for linear in linears if linear not in quantized)


def _quantized(model: Any, quantization: str) -> list[Any]:
    """List the layers that bitsandbytes takes: all frozen matrices but the head."""
    if quantization == "none":
        return []
    head = model.get_output_embeddings()
    linears = (module for module in model.modules() if isinstance(module, LINEAR) and module is not head)
    return [linear for linear in linears if not linear.weight.requires_grad]


def _saved_by_quantization(model: Any, quantization: str) -> int:
    """Count the bytes by which quantised weights, with their scales, are smaller than in float32."""
    saved = 0.0
    for linear in _quantized(model, quantization):
        number = int(linear.weight.numel())
        if quantization == "nf4":
            saved += number * (FLOAT - 0.5 - 1 / NF4_BLOCK - FLOAT / NF4_BLOCK / NF4_SCALES)
        else:
            saved += number * (FLOAT - 1) - linear.weight.shape[0] * FLOAT
    return int(saved)


def _numel(model: Any) -> int:
    return sum(int(parameter.numel()) for parameter in model.parameters())


def _num_experts(config: Any) -> int:
    return int(getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None) or 1)


def _heads(config: Any) -> int:
    return int(getattr(_text(config), "num_attention_heads", None) or 1)


def _head_widths(config: Any) -> tuple[int, int]:
    """Give the width of all queries of a token, and of all its keys, in the layer where they are widest."""
    widths = []
    for layer in layer_configs(_text(config)):
        heads = _heads(layer)
        size = int(getattr(layer, "head_dim", None) or layer.hidden_size // heads)
        widths.append((heads * size, int(getattr(layer, "num_key_value_heads", None) or heads) * size))
    return max(widths)


def _hidden(config: Any) -> int:
    return int(_text(config).hidden_size)


def _text(config: Any) -> Any:
    return config.get_text_config()
