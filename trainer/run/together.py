"""What all processes do, so that where it fails on one, all of them end and none waits for another."""

from collections.abc import Callable
from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from schemas.errors import DpoError, InputError, UsageError
from schemas.terminal import reason_with_path

Value = TypeVar("Value")

KINDS = {kind.exit_code: kind for kind in (DpoError, UsageError, InputError)}


def together(accelerator: Accelerator, call: Callable[[], Value]) -> Value:
    """Do something on every process and give what came of it here; all processes must call this.

    Raises:
        DpoError: it failed on one of them; on all it is the same error, which the main process has to tell.
    """
    value, problem = None, None
    try:
        value = call()
    except DpoError as error:
        if accelerator.num_processes == 1:
            raise
        problem = error.exit_code, str(error)
    except OSError as error:
        problem = DpoError.exit_code, f"can't go on: {reason_with_path(error)}"
    problems = gather_object([problem]) if accelerator.num_processes > 1 else [problem]
    failed = [(process, *each) for process, each in enumerate(problems) if each is not None]
    if not failed:
        return value  # type: ignore[return-value]
    process, exit_code, text = failed[0]
    raise _told_by_main(accelerator, KINDS[exit_code](text if process == 0 else f"process {process}: {text}"))


def on_main(accelerator: Accelerator, call: Callable[[], Value]) -> Value:
    """Do something on the main process and give what came of it to all; all processes must call this.

    Raises:
        DpoError: it failed; the main process has to tell.
    """
    value = together(accelerator, lambda: call() if accelerator.is_main_process else None)
    return of_main(accelerator, value)  # type: ignore[return-value]


def of_main(accelerator: Accelerator, value: Value) -> Value:
    """Give every process what the main one has."""
    if accelerator.num_processes == 1:
        return value
    values = [value]
    broadcast_object_list(values)
    return values[0]


def _told_by_main(accelerator: Accelerator, error: DpoError) -> DpoError:
    error.is_told_elsewhere = not accelerator.is_main_process
    return error
