"""The reference: cached = online = computed plainly, kept on disk for other runs, and never taken for another's."""

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from accelerate import Accelerator

from tests.architectures import build
from tests.pairwise import BETA, CPU, all_pairs, config_of, random_group, step_of
from tests.tiny_models import save_tiny_policy, tiny_qwen3
from trainer.config.sections import DEFAULT_CACHE
from trainer.data.plan import ResponseRef
from trainer.data.tokenize import TokenizedGroup, TokenizedPairs
from trainer.model.attention import choose_attention
from trainer.model.batch import token_rows
from trainer.model.packing import Layout, Packer
from trainer.model.reference import (
    CachedReference,
    NoReference,
    OnlineReference,
    Reference,
    ResponseIndex,
    compute_reference,
)
from trainer.model.reference_cache import ReferenceCache, cache_folder, open_cache, weights_digest
from trainer.model.scorer import ResponseScorer
from trainer.run.setup import set_up
from trainer.run.step import train_step

GROUPS = [
    random_group(17, (11, 3, 16, 7), all_pairs(4), masked=True),
    random_group(1, (9, 2), [(1, 0)]),
    random_group(8, (1, 13, 5), [(0, 1), (2, 1)]),
]
REFS = [ResponseRef(number, place) for number, group in enumerate(GROUPS) for place in range(len(group.responses))]


class Counting:
    """A scorer that counts the responses that it computes."""

    def __init__(self, model: Any) -> None:
        self.scorer = ResponseScorer(model, choose_attention(model, "auto", CPU))
        self.num_responses = 0

    def __call__(self, rows: Any) -> torch.Tensor:
        self.num_responses += len(rows.responses)
        return self.scorer(rows)


def computed(
    folder: Path | None, model: Any, groups: Sequence[TokenizedGroup] = GROUPS, **settings: str
) -> tuple[CachedReference, int]:
    """Give the reference log-probs, and how many responses were computed for them."""
    scorer = Counting(model)
    options = {"precision": "float32", "backend": "segments", "device": "cpu", **settings}
    cache = None if folder is None else open_cache(folder, model, digest=weights_digest(model), **options)
    packer = Packer(groups, Layout.TREE, 60)
    return compute_reference(scorer, packer, Accelerator(cpu=True), cache=cache), scorer.num_responses


def plain_logps(model: Any, group: TokenizedGroup, response: int) -> torch.Tensor:
    """Take the log-probs of a response's trained tokens from a plain softmax."""
    model = copy.deepcopy(model)
    model.set_attn_implementation("eager")
    tokens = group.responses[response]
    with torch.no_grad():
        logits = model(torch.tensor([[*group.prompt, *tokens.ids]])).logits[0, len(group.prompt) - 1 : -1]
    logps = torch.log_softmax(logits, dim=-1).gather(1, torch.tensor(tokens.ids)[:, None]).squeeze(1)
    return logps[torch.tensor(tokens.loss_mask) > 0]


def of_all(reference: Reference, groups: Sequence[TokenizedGroup] = GROUPS) -> list[torch.Tensor]:
    """Ask a reference for all responses, in rows packed otherwise than it was computed in."""
    refs = [ResponseRef(number, place) for number, group in enumerate(groups) for place in range(len(group.responses))]
    found = {}
    for row in Packer(groups, Layout.TREE, 40).rows(refs):
        rows = token_rows(row, groups, Layout.TREE)
        found |= dict(zip(rows.responses, reference.of(rows).per_response, strict=True))
    return [found[ref] for ref in refs]


def in_cache(cache: ReferenceCache) -> dict[bytes, Any]:
    """Read what a cache has of all responses, by their keys."""
    index = ResponseIndex(GROUPS)
    lengths = dict(zip(index.keys, index.lengths, strict=True))
    return {found.key: found.logps for found in cache.load(lengths, plan="")}


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_cached_equals_online_equals_a_plain_softmax(tmp_path: Path) -> None:
    model = build("llama", seed=3)
    plain = [plain_logps(model, GROUPS[ref.group], ref.response) for ref in REFS]
    scorer = ResponseScorer(model, choose_attention(model, "auto", CPU))
    for reference in (
        computed(None, model)[0],
        computed(tmp_path, model)[0],
        computed(tmp_path, model)[0],  # from disk
        OnlineReference(scorer),
    ):
        for found, expected in zip(of_all(reference), plain, strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
            assert not found.requires_grad


def test_a_second_run_computes_nothing_and_has_the_same_bits(tmp_path: Path) -> None:
    first, num_first = computed(tmp_path, build("llama"))
    second, num_second = computed(tmp_path, build("llama"))  # another process would load it anew too
    assert (num_first, num_second) == (len(REFS), 0)
    assert torch.equal(first.tokens, second.tokens)


def test_only_new_responses_are_computed(tmp_path: Path) -> None:
    model = build("llama")
    assert computed(tmp_path, model, GROUPS[:2])[1] == 6
    new = random_group(17, (4,), [])
    longer = replace(GROUPS[0], responses=(*new.responses, *GROUPS[0].responses))  # all others have other positions
    assert computed(tmp_path, model, [GROUPS[2], longer, GROUPS[1]])[1] == 3 + 1
    assert computed(tmp_path, model, [GROUPS[2], longer, GROUPS[1]])[1] == 0
    assert len(files_in(tmp_path)) == 2  # files are only ever added


def test_the_same_response_in_two_groups_is_found_for_both(tmp_path: Path) -> None:
    """Prompts that differ in what no token shows are two groups with the same ids."""
    twice = [GROUPS[0], GROUPS[0]]
    first, _ = computed(tmp_path, build("llama"), twice)
    second, num_computed = computed(tmp_path, build("llama"), twice)
    assert num_computed == 0
    assert torch.equal(first.tokens, second.tokens)


def changed_weight(model: Any) -> None:
    model.model.layers[0].mlp.up_proj.weight.data[3, 5] += 1e-6


def changed_embedding(model: Any) -> None:
    model.get_input_embeddings().weight.data[63, 31] *= 1.001


@pytest.mark.parametrize("change", [changed_weight, changed_embedding])
def test_a_changed_weight_misses(change: Callable[[Any], None], tmp_path: Path) -> None:
    computed(tmp_path, build("llama"))
    model = build("llama")
    change(model)
    reference, num_computed = computed(tmp_path, model)
    assert num_computed == len(REFS)
    assert torch.equal(reference.tokens, computed(None, model)[0].tokens)


def test_swapped_weights_miss() -> None:
    model, swapped = build("llama"), build("llama")
    one, two = swapped.model.layers
    weight = one.mlp.up_proj.weight.data.clone()
    one.mlp.up_proj.weight.data.copy_(two.mlp.up_proj.weight.data)
    two.mlp.up_proj.weight.data.copy_(weight)
    assert weights_digest(model) != weights_digest(swapped)
    assert weights_digest(model) == weights_digest(copy.deepcopy(model))
    assert weights_digest(model) != weights_digest(copy.deepcopy(model).to(torch.bfloat16))


@pytest.mark.parametrize("settings", [{"precision": "bfloat16"}, {"backend": "dense"}, {"device": "cuda"}])
def test_what_decides_the_rounding_misses(settings: dict[str, str], tmp_path: Path) -> None:
    computed(tmp_path, build("llama"))
    assert computed(tmp_path, build("llama"), **settings)[1] == len(REFS)


def test_what_the_configuration_computes_misses_and_where_it_lies_does_not(tmp_path: Path) -> None:
    computed(tmp_path, build("llama"))
    moved = build("llama")
    moved.config.name_or_path = "another/folder"
    assert computed(tmp_path, moved)[1] == 0
    scaled = build("llama")
    scaled.config.logit_scale = 0.5
    assert computed(tmp_path, scaled)[1] == len(REFS)


def other_prompt(group: TokenizedGroup) -> TokenizedGroup:
    return replace(group, prompt=(*group.prompt[:-1], group.prompt[-1] ^ 1))


def other_token(group: TokenizedGroup) -> TokenizedGroup:
    first, *rest = group.responses
    return replace(group, responses=(replace(first, ids=(first.ids[0] ^ 1, *first.ids[1:])), *rest))


def other_mask(group: TokenizedGroup) -> TokenizedGroup:
    """Train on another token instead of one, so that their number is the same."""
    first, *rest = group.responses
    mask = [*first.loss_mask]
    one, zero = mask.index(1), mask.index(0)
    mask[one], mask[zero] = 0, 1
    return replace(group, responses=(replace(first, loss_mask=tuple(mask)), *rest))


def other_border(group: TokenizedGroup) -> TokenizedGroup:
    """Move the last token of the prompt into the first response: the tokens in a row are the same."""
    first, *rest = group.responses
    moved = replace(first, ids=(group.prompt[-1], *first.ids), loss_mask=(0, *first.loss_mask))
    return replace(group, prompt=group.prompt[:-1], responses=(moved, *rest))


@pytest.mark.parametrize(
    ("change", "num_missed"), [(other_prompt, 4), (other_token, 1), (other_mask, 1), (other_border, 4)]
)
def test_other_tokens_as_of_another_template_miss(
    change: Callable[[TokenizedGroup], TokenizedGroup], num_missed: int, tmp_path: Path
) -> None:
    model = build("llama")
    computed(tmp_path, model)
    groups = [change(GROUPS[0]), *GROUPS[1:]]
    found, num_computed = computed(tmp_path, model, groups)
    assert num_computed == num_missed
    torch.testing.assert_close(found.tokens, computed(None, model, groups)[0].tokens, rtol=0, atol=2e-5)


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def without_its_end(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def garbage(file: Path) -> None:
    file.write_bytes(bytes(range(256)) * 8)


def overwritten_inside(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[4:-8] = bytes(len(content) - 12)  # the marks at both ends and the footer's length are right
    file.write_bytes(content)


def other_columns(file: Path) -> None:
    pl.DataFrame({"a": [1]}).write_parquet(file)


def other_types(file: Path) -> None:
    pl.DataFrame({"key": ["x"], "logps": [1]}).write_parquet(file)


def numbers_for_lists(file: Path) -> None:
    pl.read_parquet(file).with_columns(logps=pl.lit(1.0)).write_parquet(file)


def missing_values(file: Path) -> None:
    frame = pl.read_parquet(file)
    frame.with_columns(logps=pl.lit(None, dtype=frame.schema["logps"])).write_parquet(file)


def missing_numbers(file: Path) -> None:
    pl.read_parquet(file).with_columns(pl.col("logps").list.eval(pl.lit(None, dtype=pl.Float32))).write_parquet(file)


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize(
    "spoil",
    [
        truncated,
        without_its_end,
        empty,
        garbage,
        overwritten_inside,
        other_columns,
        other_types,
        numbers_for_lists,
        missing_values,
        missing_numbers,
        a_folder,
    ],
)
def test_a_spoilt_file_is_a_miss(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    model = build("llama")
    expected, _ = computed(tmp_path, model, GROUPS[:2])
    (file,) = files_in(tmp_path)
    spoil(file)
    # of a folder in the way of the file to write, and not of other groups' file, nobody can make anything
    groups = GROUPS[1:] if spoil is a_folder else GROUPS[:2]
    found, num_computed = computed(tmp_path, model, groups)
    assert num_computed == sum(len(group.responses) for group in groups)
    if groups == GROUPS[:2]:
        assert torch.equal(found.tokens, expected.tokens)
        assert computed(tmp_path, model, groups)[1] == 0  # and the file is whole again


def test_a_flipped_bit_anywhere_is_a_miss(tmp_path: Path) -> None:
    model = build("llama")
    computed(tmp_path, model)
    (file,) = files_in(tmp_path)
    content = file.read_bytes()
    cache = ReferenceCache(file.parent)
    assert len(in_cache(cache)) == len(REFS)
    for place in range(0, len(content), 7):
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert in_cache(cache) == {}


def test_writers_at_the_same_time_do_no_harm(tmp_path: Path) -> None:
    """Eight writers, of two sets of responses, while others read: readers see whole files or none."""
    expected, _ = computed(None, build("llama"))
    cache = ReferenceCache(tmp_path / "model")
    keys = expected.index.keys
    logps = {key: expected.tokens[expected.index.span(ref)].numpy() for key, ref in zip(keys, REFS, strict=True)}

    def work(number: int) -> None:
        for _ in range(5):
            cache.store(((key, logps[key]) for key in keys[: 5 + number % 2]), plan="rows")
            for key, found in in_cache(cache).items():
                assert (found == logps[key]).all()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert in_cache(cache).keys() == {*keys[:6]}
    assert len(files_in(tmp_path)) == 2  # and nothing unfinished


def test_the_default_cache_lies_with_the_users_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder(DEFAULT_CACHE) == tmp_path / "dpo" / "reference"
    assert cache_folder(tmp_path / "mine") == tmp_path / "mine"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder(DEFAULT_CACHE) == tmp_path / ".cache" / "dpo" / "reference"


# From here on, references as a run makes them.


def set_up_with(*settings: str) -> tuple[Any, Any]:
    """Set a run up on a random model; give it and the model."""
    model = tiny_qwen3(seed=0)
    config = config_of("policy.tokens_per_microbatch=60", *settings)
    data = TokenizedPairs(GROUPS, {})
    return set_up(config, Accelerator(cpu=True), model, data, [step_of(GROUPS)]), model


@pytest.mark.parametrize("mode", ["cached", "online"])
def test_a_reference_model_of_its_own_is_used(mode: str, tmp_path: Path) -> None:
    folder = save_tiny_policy(tmp_path / "reference", seed=5)
    training, model = set_up_with(
        f"reference.mode={mode}", f"reference.model_name={folder}", f"reference.cache_dir={tmp_path / 'cache'}"
    )
    other = tiny_qwen3(seed=5)
    assert training.start_digest == weights_digest(tiny_qwen3(seed=0))
    assert training.reference_digest == weights_digest(other)
    for found, ref in zip(of_all(training.reference), REFS, strict=True):
        torch.testing.assert_close(found, plain_logps(other, GROUPS[ref.group], ref.response), rtol=0, atol=5e-5)
    assert bool(files_in(tmp_path / "cache")) == (mode == "cached")
    metrics = train_step(training, step_of(GROUPS))
    assert abs(metrics["preference_loss"] - 0.6931) > 0.01
    # and it does not learn: the policy has moved, the reference gives what it gave
    assert not torch.equal(model.lm_head.weight, tiny_qwen3(seed=0).lm_head.weight)
    for found, ref in zip(of_all(training.reference), REFS, strict=True):
        torch.testing.assert_close(found, plain_logps(other, GROUPS[ref.group], ref.response), rtol=0, atol=5e-5)


@pytest.mark.parametrize("mode", ["cached", "online"])
def test_the_start_policy_stays_the_reference_while_the_policy_learns(mode: str, tmp_path: Path) -> None:
    training, _ = set_up_with(f"reference.mode={mode}", f"reference.cache_dir={tmp_path}", "policy.optimizer.lr=0.01")
    losses = [train_step(training, step_of(GROUPS))["preference_loss"] for _ in range(3)]
    assert (training.start_digest, training.reference_digest) == (weights_digest(tiny_qwen3(seed=0)), None)
    assert losses[0] == pytest.approx(0.693147, abs=1e-5)
    assert losses[2] < losses[0] - 1e-3
    start = tiny_qwen3(seed=0)
    for found, ref in zip(of_all(training.reference), REFS, strict=True):
        torch.testing.assert_close(found, plain_logps(start, GROUPS[ref.group], ref.response), rtol=0, atol=5e-5)


def test_no_reference_is_zero_log_probs() -> None:
    training, model = set_up_with("reference.mode=none")
    assert isinstance(training.reference, NoReference)
    assert all(not found.any() for found in of_all(training.reference))
    margins = [
        plain_logps(model, group, pair.chosen).sum() - plain_logps(model, group, pair.rejected).sum()
        for group in GROUPS
        for pair in group.pairs
    ]
    expected = -torch.nn.functional.logsigmoid(BETA * torch.stack(margins)).mean().item()
    assert train_step(training, step_of(GROUPS))["loss"] == pytest.approx(expected, rel=1e-5)


def test_another_beta_hits_and_null_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    class Watched(ReferenceCache):
        def store(self, logps: Any, *, plan: str) -> None:
            kept = list(logps)
            calls.append(len(kept))
            super().store(kept, plan=plan)

    def opened(*args: Any, **options: Any) -> ReferenceCache:
        return Watched(open_cache(*args, **options).folder)

    monkeypatch.setattr("trainer.run.setup.open_cache", opened)
    cache = f"reference.cache_dir={tmp_path / 'cache'}"
    set_up_with(cache)
    set_up_with(cache, "dpo.reference_policy_kl_penalty=0.7", "dpo.seed=3", "policy.optimizer.lr=0.1")
    assert calls == [len(REFS)]
    set_up_with(cache, "policy.attention=dense")
    assert calls == [len(REFS), len(REFS)]
    set_up_with("reference.cache_dir=null")
    assert len(calls) == 2


def test_a_reference_may_have_longer_embeddings(tmp_path: Path) -> None:
    """As Qwen2.5's 7B has, whose tokenizer is the 1.5B's; the tokenizers are compared where the run starts."""
    folder = save_tiny_policy(tmp_path / "reference", vocab_size=300)
    training, _ = set_up_with(f"reference.model_name={folder}", "reference.cache_dir=null")
    assert isinstance(training.reference, CachedReference)


@pytest.mark.parametrize("place", ["file/cache", "/proc/cache"])
def test_a_cache_that_cannot_be_written_is_told_and_not_fatal(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    training, _ = set_up_with(f"reference.cache_dir={tmp_path / place}")
    assert isinstance(training.reference, CachedReference)
    (note,) = (note for note in training.notes if note.startswith("reference:"))
    for part in ("not kept for other runs", "can't be written", "reference.cache_dir=null"):
        assert part in note
