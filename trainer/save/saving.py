"""Saving the policy: during the run as a checkpoint, and at its end."""

from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from schemas.errors import DpoError
from trainer.model.merged import save_weights
from trainer.run.prepare import Run
from trainer.run.state import RunState
from trainer.run.training import Training
from trainer.save.card import write_run_card
from trainer.save.card_data import PairCounts
from trainer.save.run_folder import write_config


def policy_weights(training: Training) -> dict[str, Any]:
    """Give the policy's weights by their own names; on all processes, because sharded weights are gathered."""
    state_dict = training.accelerator.get_state_dict(training.scorer)
    return {name.removeprefix("model."): value for name, value in state_dict.items()}


def save_checkpoint(run: Run, state: RunState) -> None:
    """Save a checkpoint; where that fails, all processes end, because they would wait for one another.

    Raises:
        DpoError: it can't be written.
    """
    weights = policy_weights(run.training)
    problem: str | None = None
    if run.accelerator.is_main_process:
        try:
            run.checkpoints.save(
                state.step,
                state.comparable,
                state.training_info(),
                lambda folder: _write_policy(run, folder, weights, last_step=state.step),
            )
        except (DpoError, OSError) as error:
            problem = str(error)
    problem = of_main(problem)
    if problem is not None:
        raise DpoError(problem)


def save_policy(run: Run, weights: dict[str, Any]) -> None:
    """Save the run's policy, on the main process.

    Raises:
        DpoError: it can't be written.
    """
    run.folder.save_policy(lambda folder: _write_policy(run, folder, weights))


def of_main(value: Any) -> Any:
    """Give every process what the main one has."""
    values = [value]
    broadcast_object_list(values)
    return values[0]


def _write_policy(run: Run, folder: Path, weights: dict[str, Any], *, last_step: int | None = None) -> None:
    """Write what `from_pretrained` loads, the configuration and the model card; the model itself stays as it is."""
    save_weights(run.model, folder, weights, save=run.config.policy.lora.save)
    run.tokenizer.save_pretrained(folder)
    write_config(run.config, folder)
    counts, verdicts = PairCounts.of(run.data), run.health.verdicts()
    write_run_card(folder, run.config, counts=counts, verdicts=verdicts, last_step=last_step)
