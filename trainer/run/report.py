"""What a run says on stderr: where it starts from, how it goes, what it ends with."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from schemas.terminal import counted, printable, stderr_console
from trainer.config.sections import TrainConfig
from trainer.data.tokenize import PairDrop, TokenizedPairs

LINES_PER_RUN = 10
"""Step lines that a run prints where stderr is no terminal; metrics.jsonl has every step."""


class RunReport:
    """Prints for people, on the main process only."""

    def __init__(self, *, num_steps: int, shown: bool) -> None:
        self.num_steps = num_steps
        self.shown = shown
        self.console: Console = stderr_console()

    def start(self, config: TrainConfig, data: TokenizedPairs, *, num_processes: int) -> None:
        """Say what is trained on what."""
        num_responses = sum(len(group.responses) for group in data.groups)
        self.say(
            f"{counted(data.num_pairs, 'pair')} of {num_responses:,} distinct responses to "
            f"{counted(len(data.groups), 'prompt')}"
        )
        for reason, count in data.dropped.items():
            share = count / (data.num_pairs + data.dropped.total())
            longest = f"; the longest has {data.longest_dropped:,} tokens" if reason is PairDrop.TOO_LONG else ""
            self.say(f"{counted(count, 'pair')} dropped ({share:.0%}): {reason}{longest}")
        batch_size = config.policy.train_global_batch_size
        self.say(
            f"{config.policy.model_name}, {counted(self.num_steps, 'step')} of {counted(batch_size, 'pair')}, "
            f"beta {config.dpo.reference_policy_kl_penalty:g}, lr {config.policy.optimizer.lr:g}, "
            f"{config.policy.precision}, {num_processes} process{'es' if num_processes > 1 else ''}"
        )

    @contextmanager
    def live(self) -> Iterator[Callable[[int, dict[str, float]], None]]:
        """Show about `LINES_PER_RUN` step lines, and on a terminal a progress bar below them."""
        every = -(-self.num_steps // LINES_PER_RUN)
        with _step_bar(self.console, self.num_steps, shown=self.shown and self.console.is_terminal) as advance:

            def show(number: int, metrics: dict[str, float]) -> None:
                advance(number, metrics)
                if number % every == 0 or number in {1, self.num_steps}:
                    self.say(f"step {number:>4}/{self.num_steps}  {_columns(metrics)}")

            yield show

    def finish(self, seconds: float, policy_dir: Path) -> None:
        """Say where the policy is."""
        self.say(f"trained in {seconds:.0f} s; the policy is in {policy_dir}")

    def say(self, text: str) -> None:
        """Print a line, on the main process."""
        if self.shown:
            self.console.print(printable(text), soft_wrap=True)


@contextmanager
def _step_bar(console: Console, num_steps: int, *, shown: bool) -> Iterator[Callable[[int, dict[str, float]], None]]:
    columns = (MofNCompleteColumn(), BarColumn(bar_width=16), TimeRemainingColumn(compact=True))
    values = TextColumn("{task.fields[values]}")
    with Progress(*columns, values, console=console, transient=True, disable=not shown) as bar:
        task = bar.add_task("", total=num_steps, values="")
        yield lambda number, metrics: bar.update(task, completed=number, values=_short_columns(metrics))


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
