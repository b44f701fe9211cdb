"""How many GPUs a process sees, found out without taking hold of one."""

import os


def num_gpus() -> int:
    """Count the GPUs that this process may use, by CUDA_VISIBLE_DEVICES where that is set.

    torch asks the driver's library NVML, and makes no context on a device.
    """
    import torch

    count = torch.cuda.device_count()
    if count or torch.accelerator.current_accelerator(check_available=True) is None:
        return count
    return torch.accelerator.device_count()


def hide_gpus() -> None:
    """Let torch see no GPU, in this process and in those that it starts; before torch has looked for any."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    if "HIP_VISIBLE_DEVICES" in os.environ:  # which ROCm prefers
        os.environ["HIP_VISIBLE_DEVICES"] = "-1"
