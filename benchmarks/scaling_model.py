"""What many GPUs would lose: to unequal rows, counted with the trainer's own packing, and to communication, on paper.

    python benchmarks/scaling_model.py                 # both tables, as Markdown

Unequal rows: an epoch of made-up prompts and responses of log-normal length is planned and packed as `dpo train` does
it for so many processes. Nothing of that is estimated but the lengths, and that a row takes as long as it has tokens.

Communication: the bytes that each way to share a model moves, over the bandwidth that the constants below assume. It
leaves out what they don't name: latency of collectives, attention's operations, the update of the weights, validation,
saving, the second pass over responses whose pairs reach across rows, and other traffic on the network.
"""

import argparse
import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from trainer.data.groups import GroupPair
from trainer.data.plan import plan_steps
from trainer.data.tokenize import TokenizedGroup, TokenizedResponse
from trainer.model.packing import Layout, Packer

GPUS_PER_NODE = 8
NVLINK = 450e9
"""Bytes a second that a GPU of an H100 node can send to its neighbours."""
NETWORK = 50e9
"""Bytes a second for each GPU into the network: InfiniBand, 400 Gbit/s."""
USABLE = 0.75
"""Share of both that large collectives reach."""
PEAK, MFU = 989e12, 0.4
"""Dense bfloat16 operations a second of an H100, and the share of them that a row reaches."""
DEVICE_BYTES = 80e9

ROW_TOKENS = 16_384
TRAINED = 0.8
"""Share of a row's tokens that go through the head."""
LORA_RANK = 16
WHOLE, HALF = 4, 2
"""Bytes of a float32 and of a bfloat16."""


@dataclass(frozen=True)
class Model:
    """The shape of a decoder."""

    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    is_tied: bool
    head_dim: int = 128

    @property
    def _matrices(self) -> list[tuple[int, int]]:
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = [(self.hidden, query), (self.hidden, key), (self.hidden, key), (query, self.hidden)]
        return [*attention, *[(self.hidden, self.intermediate)] * 2, (self.intermediate, self.hidden)]

    @property
    def in_layers(self) -> int:
        """Count the weights of all layers."""
        return self.layers * sum(rows * columns for rows, columns in self._matrices)

    @property
    def head(self) -> int:
        """Count the weights of the head."""
        return self.vocabulary * self.hidden

    @property
    def outside(self) -> int:
        """Count the weights outside of the layers: the embedding, and the head where it is not the same."""
        return self.head * (1 if self.is_tied else 2)

    @property
    def adapters(self) -> int:
        """Count the weights of adapters beside every matrix of the layers."""
        return self.layers * LORA_RANK * sum(rows + columns for rows, columns in self._matrices)


MODELS = (
    Model("1.7B", 28, 2048, 6144, 16, 8, 151_936, is_tied=True),
    Model("8B", 36, 4096, 12_288, 32, 8, 151_936, is_tied=False),
    Model("70B", 80, 8192, 28_672, 64, 8, 128_256, is_tied=False),
)
"""Shapes of Qwen3-1.7B, Qwen3-8B and Llama-3.1-70B."""


@dataclass(frozen=True)
class Way:
    """How processes share a model; weights are held in float32, and so are gradients and AdamW's two moments."""

    model: Model
    profile: str  # ddp, fsdp2 or hsdp
    num_gpus: int
    is_lora: bool = False

    @property
    def shards(self) -> int:
        """Count the parts that weights are cut into."""
        return {"ddp": 1, "hsdp": GPUS_PER_NODE, "fsdp2": self.num_gpus}[self.profile]

    @property
    def replicas(self) -> int:
        """Count the copies of the model."""
        return self.num_gpus // self.shards

    @property
    def trained(self) -> int:
        """Count the weights that have gradients."""
        return self.model.adapters if self.is_lora else self.model.in_layers + self.model.outside

    @property
    def state_bytes(self) -> float:
        """Count what weights, gradients and moments take on each GPU."""
        weights = self.model.in_layers + self.model.outside + (self.model.adapters if self.is_lora else 0)
        return (WHOLE * weights + 3 * WHOLE * self.trained) / self.shards

    @property
    def row_bytes(self) -> float:
        """Count what each GPU sends for a row.

        With shards, layers are gathered for the forward and again for the backward pass, what lies outside of them
        once, in float32; gradients are scattered in float32.
        """
        gathered = 2 * HALF * self.model.in_layers + WHOLE * self.model.outside
        return (self.shards - 1) / self.shards * (gathered + WHOLE * self.trained)

    @property
    def step_bytes(self) -> float:
        """Count what each GPU sends once a step: copies of a shard average their gradients, there and back."""
        return 2 * (self.replicas - 1) / self.replicas * WHOLE * self.trained / self.shards

    @property
    def row_seconds(self) -> float:
        """Say how long a row computes."""
        passes = 4 if self.is_lora else 6  # a multiplication and an addition, forward, and backward for each gradient
        operations = passes * ROW_TOKENS * (self.model.in_layers + TRAINED * self.model.head)
        return operations / (PEAK * MFU)

    def _seconds(self) -> tuple[float, float]:
        """Say how long the network takes for a row, and for what is sent once a step."""
        of_step = NETWORK if self.profile == "hsdp" else _ring(self.num_gpus)
        return self.row_bytes / (USABLE * _ring(self.shards)), self.step_bytes / (USABLE * of_step)

    def efficiency(self, num_rows: int) -> float:
        """Give the share of a step's time that is computed in, where nothing is sent while something is computed."""
        of_row, of_step = self._seconds()
        return num_rows * self.row_seconds / (num_rows * (self.row_seconds + of_row) + of_step)

    @property
    def hidden_from(self) -> float:
        """Say of how many tokens a row must be for all of it to be sent while something is computed.

        What a row sends has that row's time; what a step sends, the backward pass of its last row, two thirds of it.
        """
        of_row, of_step = self._seconds()
        return ROW_TOKENS * max(of_row, of_step * 3 / 2) / self.row_seconds


def _ring(num_gpus: int) -> float:
    """Give the bandwidth of rings over GPUs: a ring through several nodes leaves each by one of its network ports."""
    return NVLINK if num_gpus <= GPUS_PER_NODE else min(NVLINK, GPUS_PER_NODE * NETWORK)


def communication() -> list[str]:
    """Make the table of what communication costs."""
    lines = [
        "| model | way | GPUs | state a GPU | a row sends | a step sends | a row computes | 1 row a step | 8 rows | "
        "hidden from |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    ways = [("ddp", 8), ("ddp", 64), ("fsdp2", 8), ("fsdp2", 64), ("hsdp", 64)]
    every = [Way(model, *way, is_lora) for model in MODELS for is_lora in (False, True) for way in ways]
    for way in every:
        if way.state_bytes < DEVICE_BYTES:
            lines.append(
                f"| {way.model.name}{', LoRA' if way.is_lora else ''} | {way.profile} | {way.num_gpus} | "
                f"{way.state_bytes / 1e9:,.1f} GB | {way.row_bytes / 1e9:,.1f} GB | {way.step_bytes / 1e9:,.2f} GB | "
                f"{way.row_seconds:,.2f} s | {way.efficiency(1):.0%} | {way.efficiency(8):.0%} | "
                f"{way.hidden_from:,.0f} |"
            )
    return lines


@dataclass(frozen=True)
class Data:
    """Made-up groups: eight responses a prompt."""

    about: str
    has_all_pairs: bool


DATA = (Data("best and worst of 8", has_all_pairs=False), Data("right with wrong of 8", has_all_pairs=True))
PROMPT, RESPONSE = (256, 0.7), (512, 0.6)
"""Median and spread (of the logarithm) of their tokens."""
MOST = 4096


def made_groups(data: Data, num_prompts: int, seed: int = 0) -> list[TokenizedGroup]:
    """Draw groups: lengths, and which responses are right. How hard a prompt is, is even between never and always."""
    rng = random.Random(seed)

    def length(median: float, spread: float) -> int:
        return max(8, min(MOST, round(median * rng.lognormvariate(0, spread))))

    groups = []
    while len(groups) < num_prompts:
        chance = rng.random()
        is_right = [rng.random() < chance for _ in range(8)]
        right = [place for place in range(8) if is_right[place]]
        wrong = [place for place in range(8) if not is_right[place]]
        pairs = [(chosen, rejected) for chosen in right for rejected in wrong]
        if not pairs:
            continue
        lengths = [length(*RESPONSE) for _ in range(8)]
        if not data.has_all_pairs:
            lengths, pairs = [lengths[right[0]], lengths[wrong[0]]], [(0, 1)]
        responses = tuple(TokenizedResponse(range(each), range(each)) for each in lengths)
        members = tuple(GroupPair(*pair, source="") for pair in pairs)
        groups.append(TokenizedGroup(range(length(*PROMPT)), responses, members))
    return groups


def balance(data: Data, batch_size: int, row_tokens: int, num_processes: int, num_steps: int) -> str:
    """Plan and pack steps as the trainer does; give a line of the table."""
    groups = made_groups(data, num_prompts=batch_size * num_steps if not data.has_all_pairs else batch_size)
    steps = plan_steps(groups, seed=0, global_batch_size=batch_size, num_epochs=1, max_steps=num_steps)
    packer = Packer(groups, Layout.TREE, row_tokens)
    tokens, rows_each, idle, unequal, useful, across = [], [], [], [], [], []
    for step in steps:
        rows = packer.rows(step.responses(groups), num_processes=num_processes)
        sizes = [0 if row.is_filler else packer.num_tokens(row) for row in rows]
        at_once = [sizes[start : start + num_processes] for start in range(0, len(sizes), num_processes)]
        tokens.append(sum(sizes))
        rows_each.append(len(at_once))
        idle.append(sum(row.is_filler for row in rows) / len(rows))
        unequal += [max(each) / statistics.fmean(each) for each in at_once]
        useful.append(sum(sizes) / (num_processes * sum(map(max, at_once))))
        row_of = {ref: number for number, row in enumerate(rows) if not row.is_filler for ref in row.refs()}
        members = [(ref.group, groups[ref.group].pairs[ref.pair]) for ref in step.pairs]
        across.append(
            statistics.fmean(
                row_of[(group, pair.chosen)] != row_of[(group, pair.rejected)]  # type: ignore[index]
                for group, pair in members
            )
        )
    mean = statistics.fmean
    return (
        f"| {data.about} | {batch_size:,} | {mean(tokens):,.0f} | {row_tokens:,} | {num_processes} | "
        f"{mean(rows_each):.1f} | {mean(idle):.0%} | {mean(unequal):.2f} | {mean(across):.0%} | "
        f"**{mean(useful):.0%}** |"
    )


def imbalance(batch_sizes: Sequence[int], row_tokens: Sequence[int], num_steps: int) -> list[str]:
    """Make the table of what unequal rows cost."""
    lines = [
        "| pairs of a prompt | pairs a step | tokens a step | a row at most | processes | rows of each | empty rows | "
        "largest / mean | pairs across rows | computing |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    return lines + [
        balance(data, batch_size, most, num_processes, num_steps)
        for data in DATA
        for batch_size in batch_sizes
        for num_processes in (8, 64)
        for most in row_tokens
    ]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[128, 1024])
    parser.add_argument("--row-tokens", nargs="+", type=int, default=[16_384, 5_120])
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    print("\n".join(imbalance(args.batch_sizes, args.row_tokens, args.steps)), end="\n\n")
    print("\n".join(communication()))


if __name__ == "__main__":
    main()
