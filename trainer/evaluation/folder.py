"""The folder of an evaluation; eval.json comes last, so that a folder that has it is whole."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from schemas.atomic import atomic_writer
from schemas.terminal import printable

RESULT_FILE = "eval.json"
PAIRS_FILE = "pairs.jsonl"
SHOWN_FILE = "most_wrong.jsonl"
SAMPLES_FILE = "samples.jsonl"
PAGE_FILE = "report.html"
PAGE_SECONDS = 300


def write_folder(
    folder: Path,
    result: Mapping[str, Any],
    *,
    pairs: Iterable[Mapping[str, Any]],
    shown: Iterable[Mapping[str, Any]],
    samples: Iterable[Mapping[str, Any]] | None,
) -> None:
    """Write the files of an evaluation.

    Raises:
        DpoError: one can't be written.
    """
    files = {PAIRS_FILE: pairs, SHOWN_FILE: shown} | ({} if samples is None else {SAMPLES_FILE: samples})
    for name, rows in files.items():
        with atomic_writer(folder / name) as stream:
            for row in rows:  # ASCII, for a text of a tokenizer may have half a character
                stream.write(json.dumps(row, allow_nan=False).encode() + b"\n")
    with atomic_writer(folder / RESULT_FILE) as stream:
        stream.write(json.dumps(result, indent=2, allow_nan=False).encode() + b"\n")


def make_page(folder: Path) -> str | None:
    """Let `dpo report` make the page in a process of its own; give why there is none, where that failed."""
    command = [sys.executable, "-m", "cli", "report", str(folder), "-o", str(folder / PAGE_FILE)]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONSAFEPATH": "1"},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PAGE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return printable(str(error))
    if done.returncode == 0:
        return None
    last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
    return printable(last[0])
