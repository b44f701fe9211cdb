"""run.json and health.json: what a run tells of itself beside its configuration and its metrics.

run.json says what it is trained on (counts, digests), how many steps it will have, when it was begun and gone on with,
and how it ended; health.json what was seen in its metrics. Programs and the run's report read them.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from schemas.atomic import atomic_writer
from schemas.secrets import without_secrets
from trainer.config.data import DatasetSection
from trainer.data.tokenize import TokenizedPairs
from trainer.save.card_data import PairCounts, source_of
from trainer.save.run_folder import HEALTH_FILE, RUN_FILE
from trainer.watch.health import Health

TRAINING = "training"
"""What the pairs are called that are trained on, beside the names of validation sets."""

End = Literal["finished", "stopped", "failed"]


def data_facts(name: str, data: TokenizedPairs, digest: str, sources: Sequence[DatasetSection]) -> dict[str, Any]:
    """Say what a set of pairs is: counts, the digest of its tokens, its files with theirs."""
    counts = PairCounts.of(data)
    return {
        "name": name,
        "pairs": counts.pairs,
        "prompts": counts.prompts,
        "responses": counts.responses,
        "dropped": dict(counts.dropped),
        "digest": digest,
        "sources": [{"name": each.name, "sha256": each.sha256} for each in map(source_of, sources)],
    }


def write_begin(folder: Path, facts: Mapping[str, Any], *, steps_done: int) -> None:
    """Write run.json of a run that begins, or goes on after so many steps.

    Raises:
        DpoError: it can't be written.
    """
    known = _read(folder / RUN_FILE) if steps_done else {}
    resumed = known.get("resumed") if isinstance(known.get("resumed"), list) else []
    again = [{"step": steps_done, "at": _now()}] if steps_done else []
    about = {"dpo": version("dpo"), "begun": known.get("begun") or _now(), "resumed": [*(resumed or []), *again]}
    _write(folder / RUN_FILE, {**about, **facts, "ended": None})


def write_end(folder: Path, how: End, why: str) -> None:
    """Add to run.json how the run ended.

    Raises:
        DpoError: it can't be written.
    """
    ended = {"how": how, "why": without_secrets(why), "at": _now()}
    _write(folder / RUN_FILE, {**_read(folder / RUN_FILE), "ended": ended})


def write_health(folder: Path, health: Health) -> None:
    """Write what was seen so far.

    Raises:
        DpoError: it can't be written.
    """
    _write(folder / HEALTH_FILE, health.as_dict())


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # of a run by another version
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_writer(path) as stream:
        stream.write((json.dumps(content, indent=2) + "\n").encode())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
