"""What a run says on stderr: where it starts from, how it goes, what it ends with."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from schemas.terminal import counted, path_text, printable, stderr_console
from trainer.checkpoint.checkpoints import BestPolicy, Checkpoints, free_bytes, most_bytes
from trainer.config.sections import TrainConfig
from trainer.data.tokenize import PairDrop, TokenizedPairs
from trainer.run.schedule import Schedule
from trainer.run.validation import ValidationData

LINES_PER_RUN = 10
"""Step lines that a run prints where stderr is no terminal; metrics.jsonl has every step."""

LONG_SECONDS = 2.0
"""A validation that takes longer shows on a terminal how far it is."""

Update = Callable[[int | None, str], None]
"""Shows the number of the step, where it is a new one, and a text beside the bar."""


class RunReport:
    """Prints for people, on the main process only."""

    def __init__(self, *, num_steps: int, shown: bool) -> None:
        self.num_steps = num_steps
        self.shown = shown
        self.console: Console = stderr_console()
        self._update: Update = lambda number, text: None

    def start(self, config: TrainConfig, data: TokenizedPairs, *, num_processes: int) -> None:
        """Say what is trained on what."""
        num_responses = sum(len(group.responses) for group in data.groups)
        self.say(
            f"{counted(data.num_pairs, 'pair')} of {num_responses:,} distinct responses to "
            f"{counted(len(data.groups), 'prompt')}"
        )
        self._drops(data)
        batch_size = config.policy.train_global_batch_size
        self.say(
            f"{config.policy.model_name}, {counted(self.num_steps, 'step')} of {counted(batch_size, 'pair')}, "
            f"{_loss_name(config)}beta {config.dpo.reference_policy_kl_penalty:g}, "
            f"lr {config.policy.optimizer.lr:g}, "
            f"{config.policy.precision}, {num_processes} process{'es' if num_processes > 1 else ''}"
        )

        if data.num_pairs < batch_size:
            self.say(
                f"fewer pairs than a step takes, so an epoch is a single step of {counted(data.num_pairs, 'pair')}; "
                "policy.train_global_batch_size= makes steps smaller"
            )

    def held_out(self, sets: Sequence[ValidationData], schedule: Schedule) -> None:
        """Say what is validated on."""
        for each in sets:
            self.say(
                f"validation {each.name}: {counted(each.data.num_pairs, 'pair')} to "
                f"{counted(len(each.data.groups), 'prompt')}"
            )
            self._drops(each.data, f"validation {each.name}: ")
        if sets:
            self.say(f"{counted(schedule.num_validations, 'validation')} of {_sets(sets)}")

    def saving(self, checkpoints: Checkpoints, schedule: Schedule, *, policy: int, state: int) -> None:
        """Say how many checkpoints there will be, and by what they are compared; their parts have so many bytes."""
        options, number = checkpoints.options, schedule.num_checkpoints
        if options.checkpoint_must_save_by is not None:
            self.say(f"within {options.checkpoint_must_save_by} (days:hours:minutes:seconds) the run saves and ends")
        if number:
            self._checkpoints(checkpoints, number)
        folder = checkpoints.folder if number else checkpoints.config.output_dir
        needed, free = most_bytes(number, options, policy=policy, state=state), free_bytes(folder)
        if needed > free:
            what = "checkpoints and policy" if number else "the policy"
            fewer = "keep fewer with checkpointing.keep_top_k, or save less often with checkpointing.save_period"
            self.say(
                f"the disk has {free / 1e9:,.1f} GB free, {what} may take {needed / 1e9:,.1f} GB; "
                f"{fewer if number else 'make room before the run ends, or it is lost'}"
            )

    def _checkpoints(self, checkpoints: Checkpoints, number: int) -> None:
        options = checkpoints.options
        stay = options.keep_top_k
        if stay is None or number <= stay:
            kept = "all are kept"
        elif checkpoints.metric is None:
            kept = f"the newest {stay} are kept" if stay > 1 else "the newest is kept"
        else:
            side = "highest" if options.higher_is_better else "lowest"
            kept = f"{stay} with the {side} {checkpoints.metric} and the newest are kept"
        every = counted(options.save_period, "step") if options.save_period > 1 else "step"
        self.say(f"{counted(number, 'checkpoint')}, every {every}, in {path_text(checkpoints.folder)}; {kept}")

    def _drops(self, data: TokenizedPairs, prefix: str = "") -> None:
        for reason, count in data.dropped.items():
            share = count / (data.num_pairs + data.dropped.total())
            longest = f"; the longest has {data.longest_dropped:,} tokens" if reason is PairDrop.TOO_LONG else ""
            self.say(f"{prefix}{counted(count, 'pair')} dropped ({share:.0%}): {reason}{longest}")
        for note in data.notes:
            self.say(f"{prefix}{note}")

    @contextmanager
    def live(self) -> Iterator[None]:
        """Show, on a terminal, a progress bar below what is said while the block runs."""
        with _step_bar(self.console, self.num_steps, shown=self.shown and self.console.is_terminal) as update:
            self._update = update
            yield

    def step(self, number: int, metrics: dict[str, float]) -> None:
        """Show a step; about `LINES_PER_RUN` have a line."""
        self._update(number, _short_columns(metrics))
        every = -(-self.num_steps // LINES_PER_RUN)
        if number % every == 0 or number in {1, self.num_steps}:
            self.say(f"step {number:>4}/{self.num_steps}  {_columns(metrics)}")

    def validating(self, sets: Mapping[str, int]) -> Callable[[str, int], None]:
        """Show how far a validation is, where it takes long; `sets` have the number of responses of each."""
        started, done = time.monotonic(), dict.fromkeys(sets, 0)

        def advance(name: str, amount: int) -> None:
            done[name] += amount
            if time.monotonic() - started > LONG_SECONDS:
                self._update(None, f"validation {name} {done[name] / sets[name]:.0%}")

        return advance

    def validated(self, number: int, metrics: Mapping[str, float], names: Sequence[str]) -> None:
        """Show what a validation found, a line for each set."""
        for name in names:
            prefix = f"validation-{name}/"
            own = {key.removeprefix(prefix): value for key, value in metrics.items() if key.startswith(prefix)}
            self.say(
                f"step {number:>4}/{self.num_steps}  validation {name}: loss {own['loss']:.4f}  "
                f"accuracy {own['accuracy']:.2f}  margin {_signed(own['margin_mean'], 4)}  "
                f"{counted(int(own['num_valid_samples']), 'pair')} in "
                f"{metrics[f'timing/validation-{name}/total_validation_time']:.1f} s"
            )

    def finish(self, seconds: float, policy_dir: Path, *, best: BestPolicy | None) -> None:
        """Say where the policy is, and where the best is."""
        self.say(f"trained in {seconds:.0f} s; the policy is in {policy_dir}")
        if best is not None:
            place = "this policy" if best.path == str(policy_dir) else f"the policy of step {best.step}, in {best.path}"
            self.say(f"best by {best.metric}, {best.value:.4f}: {place}")

    def say(self, text: str) -> None:
        """Print a line, on the main process."""
        if self.shown:
            self.console.print(printable(text), soft_wrap=True)


@contextmanager
def _step_bar(console: Console, num_steps: int, *, shown: bool) -> Iterator[Update]:
    columns = (MofNCompleteColumn(), BarColumn(bar_width=16), TimeRemainingColumn(compact=True))
    values = TextColumn("{task.fields[values]}")
    with Progress(*columns, values, console=console, transient=True, disable=not shown) as bar:
        task = bar.add_task("", total=num_steps, values="")
        yield lambda number, text: bar.update(task, completed=number, values=text)


def _loss_name(config: TrainConfig) -> str:
    """Name the losses where it is not plain DPO."""
    weights = config.loss.weights
    if weights == {"sigmoid": 1.0}:
        return ""
    if len(weights) == 1:
        return f"loss {next(iter(weights))}, "
    return f"loss {' + '.join(f'{weight:g} {name}' for name, weight in weights.items())}, "


def _sets(sets: Sequence[ValidationData]) -> str:
    return "the set" if len(sets) == 1 else f"{len(sets)} sets"


def _short_columns(metrics: dict[str, float]) -> str:
    """Show what fits beside a bar on 80 columns."""
    speed = f"{metrics['pairs_per_second']:,.0f} pairs/s"
    return f"loss {metrics['loss']:.4f} margin {_signed(metrics['margin_mean'], 3)} {speed}"


def _columns(metrics: dict[str, float]) -> str:
    mfu = f"  MFU {metrics['mfu']:.0%}" if "mfu" in metrics else ""
    return (
        f"loss {metrics['loss']:.4f}  accuracy {metrics['accuracy']:.2f}  margin {_signed(metrics['margin_mean'], 4)}  "
        f"grad {metrics['grad_norm']:.2f}  lr {metrics['lr']:.1e}  {metrics['pairs_per_second']:,.0f} pairs/s  "
        f"{metrics['tokens_per_second']:,.0f} tokens/s{mfu}"
    )


def _signed(value: float, digits: int) -> str:
    """Show a number with its sign; what rounds to zero is +0."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"
