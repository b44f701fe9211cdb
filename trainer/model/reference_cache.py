"""Reference log-probs on disk, for other runs over the same responses (another beta, another loss), and for a run that
was interrupted.

A folder for each pair of weights and settings, and in it Parquet files of key and log-probs. A key is a digest of the
token ids of prompt and response and of the loss mask, so a changed chat template or tokenizer misses; the folder's name
is a digest of every weight and of all that decides how log-probs are rounded. Files are only ever added, whole; a
file's name is the digest of its content, so that a damaged one is not believed, and the name of the plan of rows that
its log-probs were computed in: rounding hangs on a response's neighbours, so a pass that goes on has to know which of
its rows are done.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
import transformers
from accelerate import Accelerator
from numpy.typing import NDArray

from schemas.atomic import atomic_writer
from trainer.config.sections import DEFAULT_CACHE
from trainer.data.tokenize import TokenIds, TokenizedGroup
from trainer.model.lora import base_name

FORMAT = 1
"""Of the files, and of what a log-prob is; another number is another folder."""

KEY_BYTES = 16
VOLATILE = ("_name_or_path", "name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")
"""Configuration keys that say where a model lies, not what it computes."""


class CachedLogps(NamedTuple):
    """What the cache has of a response."""

    key: bytes
    logps: NDArray[np.float32]  # (trained tokens,)
    is_of_plan: bool  # computed in the rows of the plan that was asked for


@dataclass(frozen=True)
class ReferenceCache:
    """The cached log-probs of one model under one way to compute them."""

    folder: Path

    def load(self, lengths: Mapping[bytes, int], *, plan: str) -> Iterator[CachedLogps]:
        """Yield what is in the cache of responses, given by their keys and numbers of trained tokens.

        What the plan's own rows gave goes before what others did. A file that can't be read counts as not there.
        """
        left = dict(lengths)
        wanted = pl.LazyFrame({"key": list(left)}, schema={"key": pl.Binary})
        for file in sorted(_files(self.folder), key=lambda one: _plan_of(one) != plan):
            for key, logps in _read(file, wanted):
                if left.get(key) == len(logps):
                    del left[key]
                    yield CachedLogps(key, logps, _plan_of(file) == plan)

    def store(self, logps: Iterable[tuple[bytes, NDArray[np.float32]]], *, plan: str) -> None:
        """Add log-probs by their responses' keys, in a file of their own.

        Raises:
            DpoError: the file can't be written.
        """
        keys, values = [], []
        for key, tokens in logps:
            keys.append(key)
            values.append(tokens)
        stream = io.BytesIO()
        schema: dict[str, pl.DataType] = {"key": pl.Binary(), "logps": pl.List(pl.Float32)}
        pl.DataFrame({"key": keys, "logps": values}, schema=schema).write_parquet(stream)
        content = stream.getvalue()
        with atomic_writer(self.folder / f"{_content_digest(content)}-{plan}.parquet") as file:
            file.write(content)


def open_cache(folder: Path, model: Any, *, digest: str, precision: str, backend: str, device: str) -> ReferenceCache:
    """Find the place of the log-probs of a model, whose weights have this digest."""
    settings = settings_digest(model, precision=precision, backend=backend, device=device)
    return ReferenceCache(cache_folder(folder) / f"{digest}-{settings}")


def cache_folder(folder: Path) -> Path:
    """Give the folder that is meant: the default one lies where the user's caches lie."""
    caches = os.environ.get("XDG_CACHE_HOME")
    if folder == DEFAULT_CACHE and caches:
        return Path(caches) / "dpo" / "reference"
    return folder.expanduser()


def start_digest(accelerator: Accelerator, model: Any) -> str:
    """Give `weights_digest` on all processes, each of which digests its share.

    All of them must call it, and hold all weights: it comes before these are sharded.
    """
    weights = list(_weights(model).items())
    falling = sorted(range(len(weights)), key=lambda number: -weights[number][1].nbytes)
    mine = falling[accelerator.process_index :: accelerator.num_processes]
    digests = torch.zeros(len(weights), hashlib.sha256().digest_size, dtype=torch.int64)
    for number, digest in zip(mine, _tensor_digests([weights[number] for number in mine]), strict=True):
        digests[number] = torch.tensor(list(digest))
    digests = accelerator.reduce(digests.to(accelerator.device), reduction="sum")
    return _joined(bytes(digests.flatten().tolist()))


def weights_digest(model: Any) -> str:
    """Digest name, type, shape and content of every weight, without adapters, which are off for the reference."""
    return _joined(b"".join(_tensor_digests(_weights(model).items())))


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


def response_keys(group: TokenizedGroup) -> Iterator[bytes]:
    """Give the key of each response: a digest of the prompt's ids, its own and its loss mask."""
    prompt = hashlib.blake2b(digest_size=KEY_BYTES)
    _add_ids(prompt, group.prompt)
    for response in group.responses:
        digest = prompt.copy()
        _add_ids(digest, response.ids)
        _add_ids(digest, response.loss_mask)
        yield digest.digest()


def plan_digest(keys: Iterable[bytes], max_tokens: int) -> str:
    """Name the plan of rows of so many tokens for all responses of some data."""
    return hashlib.blake2b(b"".join([str(max_tokens).encode(), *keys]), digest_size=KEY_BYTES).hexdigest()


def _add_ids(digest: hashlib.blake2b, ids: TokenIds) -> None:
    digest.update(len(ids).to_bytes(8, "little"))
    digest.update(np.asarray(ids, dtype="<i4").tobytes())


def _weights(model: Any) -> dict[str, torch.Tensor]:
    return {base_name(name): weight for name, weight in model.state_dict().items() if ".lora_" not in name}


def _tensor_digests(weights: Iterable[tuple[str, torch.Tensor]]) -> list[bytes]:
    with ThreadPoolExecutor() as pool:  # hashlib lets other threads run
        return list(pool.map(_tensor_digest, weights))


def _tensor_digest(item: tuple[str, torch.Tensor]) -> bytes:
    name, tensor = item
    content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    digest = hashlib.sha256(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(content.data)
    return digest.digest()


def _joined(digests: bytes) -> str:
    return hashlib.sha256(digests).hexdigest()[: 2 * KEY_BYTES]


def _files(folder: Path) -> list[Path]:
    """List the files of a folder; none where it isn't there or may not be looked into."""
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".parquet")
    except OSError:
        return []


def _plan_of(file: Path) -> str:
    return file.stem.partition("-")[2]


def _content_digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=KEY_BYTES).hexdigest()


def _read(file: Path, wanted: pl.LazyFrame) -> Iterator[tuple[bytes, NDArray[np.float32]]]:
    """Yield the wanted keys that are in a file, with their log-probs; none where its name is not its digest."""
    try:
        content = file.read_bytes()
        # a decoder may crash on a damaged file, or give other numbers
        if _content_digest(content) != file.stem.partition("-")[0]:
            return
        found = pl.scan_parquet(io.BytesIO(content)).join(wanted, on="key", how="semi").unique("key").collect()
    except (OSError, pl.exceptions.PolarsError):
        return
    for key, logps in zip(found["key"], found["logps"], strict=True):
        yield key, logps.to_numpy(writable=True)
