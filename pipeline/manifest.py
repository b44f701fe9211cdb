"""The manifest beside the pairs: what they were made of, how, and what became of every row.

The same input, settings and versions give the same manifest.
"""

import json
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.attrition import Attrition
from pipeline.output import Written
from pipeline.settings import Settings
from schemas.atomic import atomic_writer
from schemas.terminal import path_text

PACKAGES = ("dpo", "polars", "msgspec", "pyarrow")


def manifest_path(output: Path) -> Path:
    """Name the manifest of a file of pairs."""
    return output.with_name(f"{output.name}.manifest.json")


def write_manifest(
    path: Path,
    *,
    settings: Settings,
    inputs: Iterable[dict[str, Any]],
    outputs: Iterable[Written],
    attrition: Attrition,
    labels: dict[str, Any] | None = None,
) -> None:
    """Write the manifest, after all that it speaks of is in its place.

    Raises:
        DpoError: it can't be written.
    """
    content = {
        "settings": settings.as_dict(),
        "inputs": list(inputs),
        **({} if labels is None else {"labels": labels}),
        "outputs": [
            {"path": path_text(out.path), "pairs": out.num_pairs, "bytes": out.num_bytes, "sha256": out.sha256}
            for out in outputs
        ],
        "attrition": attrition.as_dict(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }
    with atomic_writer(path) as stream:
        stream.write(json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n")
