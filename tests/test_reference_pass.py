"""A reference pass that is interrupted keeps what it has, and goes on to the bits of one that was not."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import torch

from tests.architectures import build
from tests.reference_passes import GROUPS, NUM_RESPONSES, TOKENS, Machine, computed, interrupted
from trainer.data.plan import ResponseRef
from trainer.model.reference_cache import weights_digest

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Make a machine that a pass is made on."""
    machine = Machine()
    machine.set_up(monkeypatch)
    return machine


def test_an_interrupted_pass_goes_on_to_the_same_bits(machine: Machine, tmp_path: Path) -> None:
    whole = computed(machine, None)
    num_rows = machine.minutes
    assert num_rows > 12
    for at in (4, 5, 7, 11, num_rows - 1):
        cache = tmp_path / str(at)
        interrupted(machine, cache, at=at)
        assert len([*cache.glob("*")]) == at // 5  # a piece each 300 seconds
        found = computed(machine, cache)
        assert machine.minutes == num_rows - at // 5 * 5
        assert found.num_from_cache + machine.num_responses == NUM_RESPONSES
        assert torch.equal(found.tokens, whole.tokens)


def test_a_pass_that_is_interrupted_again_and_again_ends(machine: Machine, tmp_path: Path) -> None:
    whole = computed(machine, None)
    num_rows = machine.minutes
    while num_rows > 6:
        interrupted(machine, tmp_path, at=6)  # each time, five rows more are kept
        num_rows -= 5
    assert torch.equal(computed(machine, tmp_path).tokens, whole.tokens)
    assert machine.minutes == num_rows
    assert torch.equal(computed(machine, tmp_path).tokens, whole.tokens)
    assert machine.minutes == 0


def test_an_interrupted_pass_over_partly_known_responses_goes_on_to_the_same_bits(
    machine: Machine, tmp_path: Path
) -> None:
    """A third of the groups is known of another run, in rows of its own; what is left is packed without them."""
    computed(machine, tmp_path / "whole", GROUPS[::3])
    num_known = machine.num_responses
    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    whole = computed(machine, tmp_path / "whole")
    num_rows = machine.minutes
    assert machine.num_responses == NUM_RESPONSES - num_known
    interrupted(machine, tmp_path / "part", at=6)
    found = computed(machine, tmp_path / "part")
    assert machine.minutes == num_rows - 5
    assert torch.equal(found.tokens, whole.tokens)
    assert not torch.equal(found.tokens, computed(machine, None).tokens)


def test_what_a_pass_has_computed_goes_before_what_others_have(machine: Machine, tmp_path: Path) -> None:
    """While it is interrupted, another run stores log-probs of the same responses, from rows of its own."""
    whole = computed(machine, None)
    interrupted(machine, tmp_path / "own", at=6)
    (own,) = (tmp_path / "own").iterdir()
    stored = pl.read_parquet(own)["key"].to_list()
    computed(machine, tmp_path / "other", max_tokens=2 * TOKENS)
    for file in (tmp_path / "other").iterdir():
        shutil.copy(file, tmp_path / "own")
    found = computed(machine, tmp_path / "own")
    assert machine.minutes == 0
    for key in stored:
        span = found.index.span_of(found.index.keys.index(key))
        assert torch.equal(found.tokens[span], whole.tokens[span])
    assert not torch.equal(found.tokens, whole.tokens)


def test_a_row_that_was_cut_short_is_not_taken_for_done(machine: Machine, tmp_path: Path) -> None:
    """A piece that was lost or spoilt is computed again, in the rows that it had."""
    whole = computed(machine, tmp_path)
    for number, file in enumerate(sorted(tmp_path.iterdir())):
        if number % 2:
            file.write_bytes(file.read_bytes()[:-1])
        else:
            file.unlink()
        found = computed(machine, tmp_path)
        assert 0 < machine.num_responses < NUM_RESPONSES
        assert torch.equal(found.tokens, whole.tokens)


def test_pieces_that_cannot_be_written_are_written_later(machine: Machine, tmp_path: Path) -> None:
    """A file takes the cache's place after the first piece, and gives it back before the last."""
    cache, elsewhere = tmp_path / "cache", tmp_path / "elsewhere"

    def take() -> None:
        cache.rename(elsewhere)
        cache.touch()

    def give_back() -> None:
        cache.unlink()
        elsewhere.rename(cache)

    whole = computed(machine, None)
    num_rows = machine.minutes
    machine.at = {7: take, num_rows - 1: give_back}
    found = computed(machine, cache)
    assert found.cache_problem == ""
    assert torch.equal(found.tokens, whole.tokens)
    assert len([*cache.iterdir()]) == 2
    machine.at = {}
    assert torch.equal(computed(machine, cache).tokens, whole.tokens)
    assert machine.minutes == 0


def test_pieces_that_cannot_be_written_end_no_pass(machine: Machine, tmp_path: Path) -> None:
    cache = tmp_path / "cache"

    def take() -> None:
        shutil.rmtree(cache)
        cache.touch()

    machine.at = {7: take}
    found = computed(machine, cache)
    assert "can't be written" in found.cache_problem
    machine.at = {}
    assert torch.equal(found.tokens, computed(machine, None).tokens)


def test_responses_that_no_token_tells_apart_have_one_log_prob(machine: Machine, tmp_path: Path) -> None:
    """In rows of their own they would round otherwise, and a run that reads them from the cache would end elsewhere."""
    twice = [*GROUPS, *GROUPS[:5]]
    first = computed(machine, tmp_path, twice)
    assert machine.num_responses == NUM_RESPONSES
    for group, responses in ((number, GROUPS[number].responses) for number in range(5)):
        for response in range(len(responses)):
            one, two = ResponseRef(group, response), ResponseRef(len(GROUPS) + group, response)
            assert first.index.span(one) == first.index.span(two)
    assert torch.equal(computed(machine, tmp_path, twice).tokens, first.tokens)


@pytest.mark.slow
def test_two_processes_go_on_together_or_one_of_them_alone(machine: Machine, tmp_path: Path) -> None:
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node=2")
    subprocess.run(
        [sys.executable, "-m", *launcher, "-m", "tests.reference_passes", str(tmp_path)],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=120,
        check=True,
    )
    found = [json.loads((tmp_path / f"{process}.json").read_text()) for process in range(2)]
    alone = computed(machine, None)
    for each in found:
        assert each["digest"] == weights_digest(build("llama", seed=3))
        assert each["num_rows"] == -(-machine.minutes // 2)
        assert each["num_rows_left"] == each["num_rows"] - 5
        assert each["is_same"]
        assert each["tokens"] == alone.tokens.tolist()
    num_rows = machine.minutes
    assert torch.equal(computed(machine, tmp_path / "copy").tokens, alone.tokens)
    assert machine.minutes == num_rows - 2 * 5
