"""What a model card says of the pairs: their files by name and digest, and how they came to be.

`dpo collect-pairs` leaves a manifest beside its pairs. It is read as what it is, a file of JSON.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.terminal import printable
from trainer.config.data import HUB_SETS, DatasetSection
from trainer.data.sources import is_hub_name

if TYPE_CHECKING:
    from trainer.data.tokenize import TokenizedPairs

MANIFEST_SUFFIX = ".manifest.json"


@dataclass(frozen=True)
class PairCounts:
    """What of the data a run trained on."""

    pairs: int
    prompts: int
    responses: int
    dropped: Mapping[str, int] = field(default_factory=dict)  # by reason

    @classmethod
    def of(cls, data: "TokenizedPairs") -> "PairCounts":
        """Count what is trained on."""
        return cls(
            pairs=data.num_pairs,
            prompts=len(data.groups),
            responses=sum(len(group.responses) for group in data.groups),
            dropped={str(reason): count for reason, count in data.dropped.items()},
        )


@dataclass(frozen=True)
class Source:
    """A set of pairs: a file by its name, or a data set of the hub."""

    name: str
    is_on_hub: bool = False
    sha256: str | None = None
    attrition: Mapping[str, int] = field(default_factory=dict)  # from rollouts to pairs; of what was dropped by reason
    inputs: tuple[tuple[str, str], ...] = ()  # the rollouts' files and digests


def source_of(dataset: DatasetSection) -> Source:
    """Look at a set of pairs; of paths and addresses only the last part is told."""
    path = dataset.data_path
    if path is None:
        return Source(HUB_SETS.get(dataset.dataset_name or "", str(dataset.dataset_name)), is_on_hub=True)
    if path.is_file():
        digest = _sha256(path)
        attrition, inputs = _history(path, digest)
        return Source(printable(path.name), sha256=digest, attrition=attrition, inputs=inputs)
    if not path.exists() and is_hub_name(path):
        return Source(str(path), is_on_hub=True)
    return Source("stdin" if path.name == "-" else _last_part(str(path)))


def _last_part(path: str) -> str:
    """Give the name of what a path or an address leads to; an address may end with a signature."""
    return printable(Path(path.partition("?")[0]).name)


def _sha256(path: Path) -> str | None:
    try:
        state = path.stat()
        return _digest(path, state.st_size, state.st_mtime_ns)
    except OSError:  # a card is not worth a run
        return None


@lru_cache
def _digest(path: Path, size: int, changed: int) -> str:
    """Digest a file once for all checkpoints of a run, and again where it has changed."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _history(pairs: Path, sha256: str | None) -> tuple[dict[str, int], tuple[tuple[str, str], ...]]:
    """Read the manifest beside a file of pairs; nothing where there is none, or it is about another content."""
    try:
        manifest = json.loads(pairs.with_name(pairs.name + MANIFEST_SUFFIX).read_bytes())
        if sha256 not in [each["sha256"] for each in manifest["outputs"]]:
            return {}, ()
        inputs = tuple((_last_part(each["path"]), str(each["sha256"])[:64]) for each in manifest["inputs"])
        return _attrition(manifest["attrition"]), inputs
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # another tool's, or of another version
        return {}, ()


def _attrition(table: Mapping[str, Any]) -> dict[str, int]:
    """Flatten the way from rollouts to pairs, without what is 0."""
    flat: dict[str, int] = {}
    for name, value in table.items():
        by_reason = value if isinstance(value, dict) else None
        parts = {name: value} if by_reason is None else {f"{name}: {each}": by_reason[each] for each in by_reason}
        flat |= {printable(key): count for key, count in parts.items() if isinstance(count, int) and count}
    return flat
