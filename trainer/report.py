"""What a run says on stderr: where it starts from, how it goes, what it ends with."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from schemas.terminal import printable, stderr_console
from trainer.config import TrainConfig
from trainer.tokenize import TokenizedPairs

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
        self._say(f"{data.num_pairs:,} pairs of {num_responses:,} distinct responses to {len(data.groups):,} prompts")
        for reason, count in data.dropped.items():
            self._say(f"{count:,} pairs dropped: {reason}")
        self._say(
            f"{config.policy.model_name}, {self.num_steps} steps of {config.policy.train_global_batch_size} pairs, "
            f"beta {config.dpo.reference_policy_kl_penalty:g}, lr {config.policy.optimizer.lr:g}, "
            f"{config.policy.precision}, {num_processes} process{'es' if num_processes > 1 else ''}"
        )

    @contextmanager
    def live(self) -> Iterator[Callable[[int, dict[str, float]], None]]:
        """Show each step: as a progress bar on a terminal, else as about `LINES_PER_RUN` lines."""
        if not self.shown:
            yield lambda number, metrics: None
        elif self.console.is_terminal:
            with _step_bar(self.console, self.num_steps) as show:
                yield show
        else:
            every = -(-self.num_steps // LINES_PER_RUN)
            yield (
                lambda number, metrics: (
                    self._say(f"step {number:>4}/{self.num_steps}  {_columns(metrics)}")
                    if number % every == 0 or number in {1, self.num_steps}
                    else None
                )
            )

    def finish(self, seconds: float, policy_dir: Path) -> None:
        """Say where the policy is."""
        self._say(f"trained in {seconds:.0f} s; the policy is in {policy_dir}")

    def _say(self, text: str) -> None:
        if self.shown:
            self.console.print(printable(text), soft_wrap=True)


@contextmanager
def _step_bar(console: Console, num_steps: int) -> Iterator[Callable[[int, dict[str, float]], None]]:
    columns = (MofNCompleteColumn(), BarColumn(bar_width=16), TimeRemainingColumn(compact=True))
    with Progress(*columns, TextColumn("{task.fields[values]}"), console=console) as bar:
        task = bar.add_task("", total=num_steps, values="")
        yield lambda number, metrics: bar.update(task, completed=number, values=_short_columns(metrics))


def _short_columns(metrics: dict[str, float]) -> str:
    """Show what fits beside a bar on 80 columns."""
    pairs_per_second = metrics["num_valid_samples"] / metrics["step_seconds"]
    return f"loss {metrics['loss']:.4f} margin {metrics['margin_mean']:+.3f} {pairs_per_second:,.0f} pairs/s"


def _columns(metrics: dict[str, float]) -> str:
    pairs_per_second = metrics["num_valid_samples"] / metrics["step_seconds"]
    return (
        f"loss {metrics['loss']:.4f}  accuracy {metrics['accuracy']:.2f}  margin {metrics['margin_mean']:+.4f}  "
        f"grad {metrics['grad_norm']:.2f}  lr {metrics['lr']:.1e}  {pairs_per_second:,.0f} pairs/s"
    )
