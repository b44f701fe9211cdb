"""The folder of an evaluation; eval.json comes last, so that a folder that has it is whole."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from schemas.atomic import atomic_writer
from schemas.errors import DpoError
from schemas.terminal import path_text, printable

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
) -> Path:
    """Write the files of an evaluation; give the folder, which has a number where another has taken the name meanwhile.

    Raises:
        DpoError: one can't be written.
    """
    folder = _claimed(folder)
    files = {PAIRS_FILE: pairs, SHOWN_FILE: shown} | ({} if samples is None else {SAMPLES_FILE: samples})
    for name, rows in files.items():
        with atomic_writer(folder / name) as stream:
            for row in rows:  # ASCII, for a text of a tokenizer may have half a character
                stream.write(json.dumps(row, allow_nan=False).encode() + b"\n")
    with atomic_writer(folder / RESULT_FILE) as stream:
        stream.write(json.dumps(result, indent=2, allow_nan=False).encode() + b"\n")
    return folder


def _claimed(folder: Path) -> Path:
    """Make the folder; several evaluations that start in one second have the same name for theirs.

    Raises:
        DpoError: it can't be made.
    """
    for number in itertools.count(1):
        place = folder if number == 1 else folder.absolute().with_name(f"{folder.name}-{number}")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.mkdir()
        except FileExistsError:
            if place.is_dir() and not any(place.iterdir()):
                break
        except OSError as error:
            raise DpoError(f"{path_text(place)}: can't be made: {error.strerror or error}") from error
        else:
            break
    return place


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
