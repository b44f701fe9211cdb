"""Compares two policies on the held-out prompts: is the trained one better, and how sure is that?

    python data/samples/compare.py BEFORE_MODEL AFTER_MODEL [--prompts FILE] [--samples 4] [--seed 0] [--json]

Both policies answer every prompt with the same random numbers, the verifier scores the answers, and a
paired bootstrap over prompts gives a 95 % interval for the difference in mean reward. Exit code 0: the whole
interval is above zero. 1: it is not. 2: wrong arguments. 3: a path is missing or cannot be read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from sort_task import verify

DEFAULT_PROMPTS = Path(__file__).resolve().parent / "heldout.jsonl"
RESAMPLES = 10_000
LEVEL = 0.95
EXAMPLES = 3

EXIT_BETTER = 0
EXIT_NOT_BETTER = 1
EXIT_BAD_PATH = 3


class InputError(Exception):
    """An input that cannot be used; the message is one line for the user."""


@dataclass(frozen=True)
class Prompt:
    """A held-out prompt and its right answer."""

    chat: list[dict[str, str]]
    expected_answer: str


@dataclass(frozen=True)
class Interval:
    """The two ends of a confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Example:
    """One prompt with one answer of each policy."""

    prompt: str
    expected_answer: str
    before: str
    after: str


@dataclass(frozen=True)
class Comparison:
    """What is printed, and written with --json."""

    prompts: int
    samples: int
    mean_before: float
    mean_after: float
    difference: float
    interval: Interval
    improved: int
    worse: int
    same: int
    examples: tuple[Example, ...]

    @property
    def better(self) -> bool:
        """Whether the whole interval is above zero."""
        return self.interval.low > 0


@dataclass(frozen=True)
class Scored:
    """The answers of one policy to all prompts, and their rewards."""

    texts: list[list[str]]
    rewards: list[list[float]]

    @property
    def per_prompt(self) -> list[float]:
        """The mean reward of each prompt."""
        return [sum(row) / len(row) for row in self.rewards]


def paired_bootstrap(
    before: Sequence[float],
    after: Sequence[float],
    seed: int,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """Percentile interval of the mean of `after - before`, with whole prompts resampled."""
    if len(before) != len(after) or not before:
        raise ValueError(f"need two equally long, non-empty sequences, got {len(before)} and {len(after)}")
    differences = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(0, len(differences), size=(resamples, len(differences)))
    tail = (1 - level) / 2
    low, high = np.quantile(differences[picks].mean(axis=1), [tail, 1 - tail])
    return Interval(float(low), float(high))


def read_prompts(path: Path) -> list[Prompt]:
    """Read prompts in NeMo Gym's data set format."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the prompts file {path}: {error}; give it with --prompts") from None
    prompts = [_read_prompt(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not prompts:
        raise InputError(f"{path} holds no prompts; expected one JSON object per line")
    return prompts


def _read_prompt(path: Path, number: int, line: str) -> Prompt:
    try:
        row = json.loads(line)
        chat = [{"role": str(m["role"]), "content": str(m["content"])} for m in row["responses_create_params"]["input"]]
        return Prompt(chat, str(row["expected_answer"]))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}, line {number}: {type(error).__name__}: {error}; expected a JSON object with "
            "responses_create_params.input and expected_answer"
        ) from None


def check_model_path(path: Path) -> None:
    """Fail before the slow imports, with a line that says what is missing."""
    if not path.is_dir():
        raise InputError(f"there is no model folder at {path}; give the folder that holds the model's config.json")
    if not (path / "config.json").is_file():
        raise InputError(f"{path} holds no config.json; give the folder of a saved model")


def score_policy(path: Path, prompts: Sequence[Prompt], samples: int, seed: int) -> Scored:
    """Sample the policy at `path` on all prompts and verify its answers."""
    # Imported late: torch takes seconds, and neither --help nor a wrong path should wait for it.
    from sampling import load_policy, sample_answers

    try:
        policy = load_policy(path)
    except (OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise InputError(f"cannot load the model in {path}: {first_line}; is it a saved model?") from None
    answers = sample_answers(policy, [prompt.chat for prompt in prompts], samples, seed)
    texts = [[answer.text for answer in row] for row in answers]
    rewards = [
        [verify(text, prompt.expected_answer).reward for text in row]
        for prompt, row in zip(prompts, texts, strict=True)
    ]
    return Scored(texts, rewards)


def compare(prompts: Sequence[Prompt], before: Scored, after: Scored, seed: int) -> Comparison:
    """Put the two sets of scores side by side."""
    old, new = before.per_prompt, after.per_prompt
    mean_before, mean_after = float(np.mean(old)), float(np.mean(new))
    return Comparison(
        prompts=len(prompts),
        samples=len(before.texts[0]),
        mean_before=mean_before,
        mean_after=mean_after,
        difference=mean_after - mean_before,
        interval=paired_bootstrap(old, new, seed),
        improved=sum(b > a for a, b in zip(old, new, strict=True)),
        worse=sum(b < a for a, b in zip(old, new, strict=True)),
        same=sum(b == a for a, b in zip(old, new, strict=True)),
        examples=tuple(pick_examples(prompts, before, after)),
    )


def pick_examples(prompts: Sequence[Prompt], before: Scored, after: Scored) -> list[Example]:
    """The first answers to the first prompts where the policies differ, better or worse, in file order."""
    examples: list[Example] = []
    for index, prompt in enumerate(prompts):
        if before.rewards[index][0] != after.rewards[index][0] and len(examples) < EXAMPLES:
            question = prompt.chat[-1]["content"]
            old, new = before.texts[index][0], after.texts[index][0]
            examples.append(Example(question, prompt.expected_answer, old, new))
    return examples


def on_one_line(text: str) -> str:
    """The text with its line feeds and control characters made visible."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def print_report(result: Comparison, console: Console) -> None:
    """Print the comparison for a person."""
    console.print(f"{result.prompts} held-out prompts, {result.samples} samples each, temperature 1.0")
    console.print(f"mean reward before  {result.mean_before:.3f}")
    console.print(f"mean reward after   {result.mean_after:.3f}")
    low, high = result.interval.low, result.interval.high
    console.print(f"difference         {result.difference:+.3f}   95 % interval [{low:+.3f}, {high:+.3f}]")
    console.print(f"prompts improved {result.improved}, worse {result.worse}, same {result.same}")
    for example in result.examples:
        console.print(f"\nprompt         {on_one_line(example.prompt)}")
        for when, answer in (("before", example.before), ("after", example.after)):
            verdict = "right" if verify(answer, example.expected_answer).reward else "wrong"
            console.print(f"{when:<6}  {verdict}  {on_one_line(answer)}")
    if result.better:
        console.print("\nThe policy after training is better: the whole interval is above zero.")
    else:
        console.print("\nNo proof that training helped: the interval reaches zero or below.")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line; argparse itself leaves with exit code 2."""
    parser = argparse.ArgumentParser(description="Compare two policies on held-out prompts.")
    parser.add_argument("before", type=Path, metavar="BEFORE_MODEL")
    parser.add_argument("after", type=Path, metavar="AFTER_MODEL")
    parser.add_argument("--prompts", type=Path, default=DEFAULT_PROMPTS, help="default: heldout.jsonl beside me")
    parser.add_argument("--samples", type=int, default=4, help="answers to each prompt (default 4)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the report")
    args = parser.parse_args(argv)
    if args.samples < 1:
        parser.error(f"--samples must be at least 1, got {args.samples}")
    if args.seed < 0:
        parser.error(f"--seed must not be negative, got {args.seed}")
    return args


def main(argv: list[str] | None = None) -> int:
    """Run the comparison and return the exit code."""
    args = parse_arguments(argv)
    try:
        prompts = read_prompts(args.prompts)
        check_model_path(args.before)
        check_model_path(args.after)
        before = score_policy(args.before, prompts, args.samples, args.seed)
        after = score_policy(args.after, prompts, args.samples, args.seed)
    except InputError as error:
        print(f"compare.py: {error}", file=sys.stderr)
        return EXIT_BAD_PATH
    result = compare(prompts, before, after, args.seed)
    if args.json:
        print(json.dumps({**asdict(result), "better": result.better}, ensure_ascii=False))
    else:
        # Model text can look like Rich markup, and must come out as it is.
        print_report(result, Console(markup=False, highlight=False, soft_wrap=True))
    return EXIT_BETTER if result.better else EXIT_NOT_BETTER


if __name__ == "__main__":
    raise SystemExit(main())
