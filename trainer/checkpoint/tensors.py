"""The tensors of a training: what is trained, and the optimizer's state of it; safetensors files, one of each process.

torch.distributed.checkpoint writes them, each process what it holds, and reads them on any number of processes. A file
names in its header, as JSON, which part of which tensor it has; there is no pickle.
"""

import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from schemas.errors import UsageError
from trainer.model.zero import full_state, load_full_state, zero_stage
from trainer.run.training import Training

WEIGHTS, OPTIMIZER = "weights.", "optimizer."
MAX_NAMED = 3
KNOWN_BY = {"adamw": "exp_avg", "adamw_8bit": "state1"}
"""A part of the state of each optimizer that has one."""

Numbers = dict[str, dict[str, int | float]]
"""What an optimizer keeps of a parameter that is no tensor, by the parameter's name."""


def write_tensors(training: Training, folder: Path) -> None:
    """Write the weights that are trained and the optimizer's state; every process must call it, with one folder.

    Raises:
        OSError: a process can't write its part; all of them raise it.
    """
    tensors = full_state(training.scorer) if zero_stage(training.accelerator) else _own_state(training)
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    with _together() as is_alone:
        save(tensors, storage_writer=writer, no_dist=is_alone)


def numbers_of(training: Training) -> Numbers:
    """Give what of the optimizer's state is no tensor."""
    found: Numbers = {}
    if zero_stage(training.accelerator):
        return found
    for name, parameter in trained_parameters(training):
        state = training.optimizer.optimizer.state.get(parameter, {})
        numbers = {key: value for key, value in state.items() if isinstance(value, int | float)}
        if numbers:
            found[name] = numbers
    return found


def read_tensors(training: Training, folder: Path, numbers: Mapping[str, Mapping[str, float]]) -> None:
    """Put what was written into the model and the optimizer; every process must call it.

    Of another optimizer there is nothing to take up, so that this one begins anew.

    Raises:
        UsageError: the files are of another model or other adapters.
        OSError: a process can't read them; all of them raise it.
    """
    reader = HuggingFaceStorageReader(str(folder))
    known, numbers = _of_this_optimizer(training, dict(reader.read_metadata().state_dict_metadata), numbers)
    if zero_stage(training.accelerator):
        _read_full_state(training, reader, known)
        return
    parameters = dict(trained_parameters(training))
    _refuse_others(parameters, known)
    tensors: dict[str, Tensor] = {f"{WEIGHTS}{name}": each.detach() for name, each in parameters.items()}
    states: dict[str, dict[str, Any]] = defaultdict(dict)
    for key, metadata in known.items():
        if key.startswith(OPTIMIZER):
            name, _, part = key.removeprefix(OPTIMIZER).rpartition(".")
            tensors[key] = _room(training, parameters[name], metadata)
            states[name][part] = tensors[key]
    with _together() as is_alone:
        load(tensors, storage_reader=reader, no_dist=is_alone)
    for name, parameter in parameters.items():
        if name in states or name in numbers:
            training.optimizer.optimizer.state[parameter] = {**numbers.get(name, {}), **states[name]}


def _own_state(training: Training) -> dict[str, Tensor]:
    """Give what this process holds; safetensors writes no tensor whose memory has another order than its places."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in trained_parameters(training):
        tensors[f"{WEIGHTS}{name}"] = parameter.detach().contiguous()
        for key, value in training.optimizer.optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{OPTIMIZER}{name}.{key}"] = value.contiguous()
    return tensors


def _of_this_optimizer(
    training: Training, known: dict[str, Any], numbers: Mapping[str, Mapping[str, float]]
) -> tuple[dict[str, Any], Mapping[str, Mapping[str, float]]]:
    """Leave out the state of an optimizer of another kind."""
    part = KNOWN_BY.get(training.config.policy.optimizer.name)
    if any(key.startswith(OPTIMIZER) and key.endswith(f".{part}") for key in known):
        return known, numbers
    return {key: value for key, value in known.items() if not key.startswith(OPTIMIZER)}, {}


def _read_full_state(training: Training, reader: Any, known: Mapping[str, Any]) -> None:
    """Read all into the memory of the CPU and hand it to DeepSpeed, which takes its parts."""
    ours = full_state(training.scorer)
    _refuse_others({name.removeprefix(WEIGHTS): each for name, each in ours.items() if name.startswith(WEIGHTS)}, known)
    tensors = {name: torch.zeros(each.size, dtype=each.properties.dtype) for name, each in known.items()}
    with _together() as is_alone:
        load(tensors, storage_reader=reader, no_dist=is_alone)
    load_full_state(training.scorer, tensors)


def trained_parameters(training: Training) -> Iterator[tuple[str, nn.Parameter]]:
    """Name the parameters that are trained, as they are called on one process."""
    model = training.accelerator.unwrap_model(training.scorer)
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def _room(training: Training, parameter: nn.Parameter, metadata: Any) -> Tensor:
    """Make the tensor that is read into: spread over the processes as the parameter where it is of its shape."""
    dtype = metadata.properties.dtype
    if metadata.size == parameter.shape:
        return torch.zeros_like(parameter, dtype=dtype, requires_grad=False)
    group = training.optimizer.optimizer.param_groups[0]
    is_counter = not metadata.size and not (group.get("fused") or group.get("capturable"))  # as AdamW has its step
    return torch.zeros(metadata.size, dtype=dtype, device="cpu" if is_counter else parameter.device)


def _refuse_others(parameters: Mapping[str, Tensor], known: Mapping[str, Any]) -> None:
    saved = {key.removeprefix(WEIGHTS) for key in known if key.startswith(WEIGHTS)}
    if different := sorted(saved ^ parameters.keys()):
        more = ", …" if len(different) > MAX_NAMED else ""
        raise UsageError(
            f"the checkpoint trains other weights than this run: {', '.join(different[:MAX_NAMED])}{more} "
            f"{'is' if len(different) == 1 else 'are'} in one of them alone; the model and policy.lora.* must be those "
            "of the checkpoint"
        )
    for name, parameter in parameters.items():
        size = known[f"{WEIGHTS}{name}"].size
        if size != parameter.shape:
            raise UsageError(
                f"the checkpoint has {name} of shape {tuple(size)}, and this run {tuple(parameter.shape)}; the model "
                "and policy.lora.* must be those of the checkpoint"
            )


@contextmanager
def _together() -> Iterator[bool]:
    """Say whether this is the only process; and tell what fails on one of many plainly, which torch wraps up."""
    is_alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
            yield is_alone
    except CheckpointException as error:  # which is no Exception
        process, (reason, _) = next(iter(error.failures.items()))
        text = str(getattr(reason, "strerror", None) or reason)
        raise OSError(text if is_alone else f"process {process}: {text}") from error
