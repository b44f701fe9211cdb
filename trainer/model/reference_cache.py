"""Reference log-probs on disk, for other runs over the same responses: another beta, another loss.

A folder for each pair of weights and settings, and in it Parquet files of key and log-probs. A key is a digest of the
token ids of prompt and response and of the loss mask, so a changed chat template or tokenizer misses; the folder's name
is a digest of every weight and of all that decides how log-probs are rounded. Files are only ever added, whole; a
file's name is the digest of its content, so that a damaged one is not believed.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
import transformers
from numpy.typing import NDArray

from schemas.atomic import atomic_writer
from trainer.config.sections import DEFAULT_CACHE
from trainer.data.plan import ResponseRef
from trainer.data.tokenize import TokenizedGroup
from trainer.model.batch import num_trained
from trainer.model.lora import base_name

FORMAT = 1
"""Of the files, and of what a log-prob is; another number is another folder."""

KEY_BYTES = 16
VOLATILE = ("_name_or_path", "name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")
"""Configuration keys that say where a model lies, not what it computes."""


@dataclass(frozen=True)
class ReferenceCache:
    """The cached log-probs of one model under one way to compute them."""

    folder: Path

    def load(
        self, refs: Sequence[ResponseRef], groups: Sequence[TokenizedGroup]
    ) -> Iterator[tuple[ResponseRef, NDArray[np.float32]]]:
        """Yield the responses that are in the cache. A file that can't be read counts as not there."""
        wanted: dict[bytes, list[ResponseRef]] = {}  # groups with other texts may have the same tokens
        for ref in refs:
            wanted.setdefault(_key(groups[ref.group], ref.response), []).append(ref)
        for file in _files(self.folder):
            for key, logps in _read(file, wanted.keys()):
                ref = wanted[key][0]
                if len(logps) == num_trained(groups[ref.group], ref.response):
                    for same in wanted.pop(key):
                        yield same, logps

    def store(self, logps: Iterable[tuple[ResponseRef, NDArray[np.float32]]], groups: Sequence[TokenizedGroup]) -> None:
        """Add log-probs, in a file of their own.

        Raises:
            DpoError: the file can't be written.
        """
        keys, values = [], []
        for ref, tokens in logps:
            keys.append(_key(groups[ref.group], ref.response))
            values.append(tokens)
        stream = io.BytesIO()
        schema: dict[str, pl.DataType] = {"key": pl.Binary(), "logps": pl.List(pl.Float32)}
        pl.DataFrame({"key": keys, "logps": values}, schema=schema).write_parquet(stream)
        content = stream.getvalue()
        with atomic_writer(self.folder / _file_name(content)) as file:
            file.write(content)


def open_cache(folder: Path, model: Any, *, precision: str, backend: str, device: str) -> ReferenceCache:
    """Find the place of a model's log-probs."""
    name = f"{weights_digest(model)}-{settings_digest(model, precision=precision, backend=backend, device=device)}"
    return ReferenceCache(cache_folder(folder) / name)


def cache_folder(folder: Path) -> Path:
    """Give the folder that is meant: the default one lies where the user's caches lie."""
    caches = os.environ.get("XDG_CACHE_HOME")
    if folder == DEFAULT_CACHE and caches:
        return Path(caches) / "dpo" / "reference"
    return folder.expanduser()


def weights_digest(model: Any) -> str:
    """Digest name, type, shape and content of every weight, without adapters, which are off for the reference."""
    weights = {base_name(name): weight for name, weight in model.state_dict().items() if ".lora_" not in name}
    with ThreadPoolExecutor() as pool:  # hashlib lets other threads run
        parts = pool.map(_tensor_digest, weights.items())
        return hashlib.sha256(b"".join(parts)).hexdigest()[: 2 * KEY_BYTES]


def settings_digest(model: Any, *, precision: str, backend: str, device: str) -> str:
    """Digest what beside weights and tokens decides the log-probs, down to rounding."""
    settings = {
        "format": FORMAT,
        "model": {key: value for key, value in model.config.to_dict().items() if key not in VOLATILE},
        "precision": precision,
        "backend": backend,
        "device": device,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    if hasattr(model.config, "quantization_config"):  # bitsandbytes makes the weights whole, and rounds where it does
        settings["bitsandbytes"] = version("bitsandbytes")
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[: 2 * KEY_BYTES]


def _tensor_digest(item: tuple[str, torch.Tensor]) -> bytes:
    name, tensor = item
    content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    digest = hashlib.sha256(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(content.data)
    return digest.digest()


def _key(group: TokenizedGroup, response: int) -> bytes:
    tokens = group.responses[response]
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    for ids in (group.prompt, tokens.ids, tokens.loss_mask):
        digest.update(len(ids).to_bytes(8, "little"))
        digest.update(np.asarray(ids, dtype="<i4").tobytes())
    return digest.digest()


def _files(folder: Path) -> list[Path]:
    """List the files of a folder; none where it isn't there or may not be looked into."""
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".parquet")
    except OSError:
        return []


def _file_name(content: bytes) -> str:
    return f"{hashlib.blake2b(content, digest_size=KEY_BYTES).hexdigest()}.parquet"


def _read(file: Path, keys: Iterable[bytes]) -> Iterator[tuple[bytes, NDArray[np.float32]]]:
    """Yield those of the keys that are in a file, with their log-probs; none where its name is not its digest."""
    wanted = pl.LazyFrame({"key": list(keys)}, schema={"key": pl.Binary})
    try:
        content = file.read_bytes()
        if _file_name(content) != file.name:  # a decoder may crash on a damaged file, or give other numbers
            return
        found = pl.scan_parquet(io.BytesIO(content)).join(wanted, on="key", how="semi").unique("key").collect()
    except (OSError, pl.exceptions.PolarsError):
        return
    for key, logps in zip(found["key"], found["logps"], strict=True):
        yield key, logps.to_numpy(writable=True)
