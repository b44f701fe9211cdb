"""Reference passes on a machine whose minutes are rows, alone or, run as a module, on several processes."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from tests.architectures import build
from tests.pairwise import CPU, all_pairs, random_group
from trainer.data.tokenize import TokenizedGroup
from trainer.model import packing, reference
from trainer.model.attention import choose_attention
from trainer.model.packing import Layout, Packer
from trainer.model.reference import CachedReference, compute_reference
from trainer.model.reference_cache import ReferenceCache, start_digest
from trainer.model.scorer import ResponseScorer

LENGTHS = ((3, 17, 9, 30), (5, 4), (21, 2, 11), (8, 8, 8), (1, 40), (13, 29))
GROUPS = [random_group(4 + 3 * (number % 5), LENGTHS[number % 6], all_pairs(2), seed=number) for number in range(24)]
NUM_RESPONSES = sum(len(group.responses) for group in GROUPS)
TOKENS = 80  # of a row, so that most have two or three of the groups


class Interrupted(Exception):
    """Ends a pass as a signal would."""


class Machine:
    """Computes rows of a small model, a minute each by its clock; things may happen in some of the minutes.

    What else is in a row decides how a GPU rounds. Here it decides that too, and so that no difference can hide.
    """

    def __init__(self) -> None:
        model = build("llama", seed=3)
        self.scorer = ResponseScorer(model, choose_attention(model, "auto", CPU))
        self.minutes = 0
        self.num_responses = 0
        self.at: dict[int, Callable[[], None]] = {}  # what happens in which minute

    def monotonic(self) -> float:
        return 60.0 * self.minutes

    def set_up(self, patches: pytest.MonkeyPatch) -> None:
        """Let a pass look at this machine's clock, after each of its rows, which are of several windows."""
        patches.setattr(reference, "time", self)
        patches.setattr(reference, "ROWS_PER_LOOK", 1)
        patches.setattr(packing, "WINDOW", 10)

    def __call__(self, rows: Any) -> torch.Tensor:
        self.at.get(self.minutes, lambda: None)()
        self.minutes += 1
        self.num_responses += len(rows.responses)
        return self.scorer(rows) + 1e-5 * rows.input_ids.sum()


def computed(
    machine: Machine,
    folder: Path | None,
    groups: list[TokenizedGroup] = GROUPS,
    *,
    max_tokens: int = TOKENS,
) -> CachedReference:
    """Make a pass; its minutes begin at 0."""
    machine.minutes = machine.num_responses = 0
    packer = Packer(groups, Layout.TREE, max_tokens)
    cache = None if folder is None else ReferenceCache(folder)
    return compute_reference(machine, packer, Accelerator(cpu=True), cache=cache)


def interrupted(machine: Machine, cache: Path | None, *, at: int, groups: list[TokenizedGroup] = GROUPS) -> None:
    """Make a pass that ends in a minute of it, before the row of that minute is computed."""

    def interrupt() -> None:
        raise Interrupted

    machine.at = {at: interrupt}
    with pytest.raises(Interrupted):
        computed(machine, cache, groups)
    machine.at = {}


def main(folder: Path) -> None:
    """Make a whole pass, one that is interrupted and one that goes on; write down what this process found."""
    accelerator = Accelerator(cpu=True)
    machine = Machine()
    with pytest.MonkeyPatch.context() as patches:
        machine.set_up(patches)
        whole = computed(machine, None)
        num_rows = machine.minutes
        cache = folder / "cache" if accelerator.is_main_process else None
        interrupted(machine, cache, at=6)
        if accelerator.is_main_process:
            shutil.copytree(folder / "cache", folder / "copy")
        found = computed(machine, cache)
    told = {
        "digest": start_digest(accelerator, machine.scorer.model),
        "num_rows": num_rows,
        "num_rows_left": machine.minutes,
        "is_same": torch.equal(found.tokens, whole.tokens),
        "tokens": whole.tokens.tolist(),
    }
    (folder / f"{accelerator.process_index}.json").write_text(json.dumps(told))
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
