"""From preference pairs to a trained policy: tokenise, plan, log-probs, loss, loop.

This package imports `schemas`, never `pipeline`. `trainer.config` starts without torch; the names below bring it when
they are first used, as in `from trainer import DPOTrainer`.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.api import DPODataset as DPODataset
    from trainer.api import DPOTrainer as DPOTrainer
    from trainer.api import evaluate as evaluate
    from trainer.config.sections import TrainConfig as TrainConfig

_HOMES = {
    "DPODataset": "trainer.api",
    "DPOTrainer": "trainer.api",
    "TrainConfig": "trainer.config.sections",
    "evaluate": "trainer.api",
}

# Accelerate imports bitsandbytes where it is installed, and on a CPU that warns of a kernel nobody asked for.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def __getattr__(name: str) -> Any:
    """Import what is asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
