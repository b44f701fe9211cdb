"""Which files a model's weights come from: safetensors of its own, and nothing that could run code when it is read.

`from_pretrained(use_safetensors=True)` still reads what an index names, or what stands in the model's configuration,
and files of PyTorch's are pickles. So these names are looked at first.
"""

import json
from pathlib import Path, PurePosixPath
from typing import Any

from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file
from transformers.utils.peft_utils import ADAPTER_CONFIG_NAME

from schemas.terminal import excerpt, printable

PICKLE_SUFFIXES = (".bin", ".ckpt", ".distcp", ".pkl", ".pt", ".pth")
CONVERT = "convert them to safetensors where that can do no harm, or name a model that has them"


def weights_problem(name: str, config: Any) -> str | None:
    """Say why a model's weights are not read; `config` is its configuration, `name` its folder or hub name."""
    if _find(name, ADAPTER_CONFIG_NAME):
        return f"holds adapters ({ADAPTER_CONFIG_NAME}) for another model; merge them first with dpo export"
    named = getattr(config, "transformers_weights", None)
    if named is not None and not _is_inside(named, (".safetensors", ".safetensors.index.json")):
        return f"config.json names {excerpt(named)} as its weights, which is no file of safetensors beside it"
    index = _find(name, str(named) if str(named).endswith(".json") else SAFE_WEIGHTS_INDEX_NAME)
    if index is not None:
        for file in dict.fromkeys(json.loads(index.read_bytes())["weight_map"].values()):
            if not _is_inside(file, (".safetensors",)):
                return f"{index.name} names {excerpt(file)}, which is no file of safetensors beside it"
    elif named is None and (pickles := _pickles_alone(Path(name))):
        return f"its weights are pickles ({pickles}), which can run code when they are read; {CONVERT}"
    return None


def _find(name: str, file: str) -> Path | None:
    """Find a small file of a model, as transformers itself does; None where there is none."""
    found = cached_file(
        name,
        file,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if found is None else Path(found)


def _is_inside(file: object, suffixes: tuple[str, ...]) -> bool:
    """Say whether a name leads to a file of such a kind in the model's folder, or in one below it."""
    path = PurePosixPath(str(file))
    return str(file).endswith(suffixes) and not path.is_absolute() and ".." not in path.parts


def _pickles_alone(folder: Path) -> str:
    """Name the files of weights of a local folder that has no safetensors."""
    if not folder.is_dir() or (folder / SAFE_WEIGHTS_NAME).is_file():
        return ""
    return printable(", ".join(sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES)[:3]))
