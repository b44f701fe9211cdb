"""Attrition as a stream that narrows: how many rows come to each stage, and what leaves before the next one.

Told in rows from beginning to end, so that the widths can be compared; groups and pairs are told in words.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipeline.attrition import MEANING, PAIR_REASONS, Attrition, Reason, named
from pipeline.manifest import manifest_path
from pipeline.show import HINTS
from schemas.terminal import counted

UNREAD = (Reason.LINE_TOO_LONG, Reason.NOT_JSON, Reason.NOT_A_ROLLOUT)
WITHOUT_PARTNER = (Reason.SINGLE_ROLLOUT, Reason.EQUAL_REWARDS)
MOST_MANIFEST_BYTES = 16 << 20
WIDTH, TURN = 80, 22
"""Of a hundred, how wide all rows are, and how far down what leaves has turned to the right."""
LEAST_WIDTH = 0.8  # so that one row of a million can be seen


@dataclass(frozen=True)
class Loss:
    """Rows that leave for one reason."""

    reason: str
    count: int
    share: float  # of all rows
    meaning: str
    remedy: str


@dataclass(frozen=True)
class Stage:
    """Rows that have come so far, what that means, and what leaves before the next stage."""

    count: int
    name: str
    losses: tuple[Loss, ...]
    stream: Markup  # an SVG, decoration of what the words say


def flow_of(attrition: Attrition) -> list[Stage]:
    """Take an account to its stages."""
    usable = tuple(each for each in Reason if each not in (*UNREAD, *WITHOUT_PARTNER, *PAIR_REASONS))
    stages = (
        ("rows read", UNREAD),
        ("are rollouts", usable),
        ("are usable", WITHOUT_PARTNER),
        ("have a rollout of the same task with another reward", PAIR_REASONS),
        ("are in pairs", ()),
    )
    found, count = [], attrition.rows
    for name, reasons in stages:
        losses = tuple(_loss(reason, attrition) for reason in reasons if attrition.dropped[reason])
        left = count - sum(loss.count for loss in losses)
        found.append(Stage(count, name, losses, _stream(count, left, attrition.rows, is_last=not reasons)))
        count = left
    return found


def flow_words(attrition: Attrition) -> str:
    """Tell what became of the rows in one sentence."""
    if not attrition.rows:
        return "There are no rows."
    lost = attrition.rows - attrition.paired_rollouts
    return (
        f"{attrition.paired_rollouts:,} of {counted(attrition.rows, 'row')} are in pairs and {lost:,} are not. "
        f"{counted(attrition.groups, 'prompt')} have usable rollouts, {attrition.varied_groups:,} with different "
        f"rewards, {attrition.paired_groups:,} with pairs: {counted(attrition.pairs, 'pair')} in all."
    )


def flow_dict(attrition: Attrition) -> dict[str, Any]:
    """Give the account and its stages as JSON types."""
    stages = [
        {"rows": stage.count, "stage": stage.name, "losses": [asdict(loss) for loss in stage.losses]}
        for stage in flow_of(attrition)
    ]
    return {**attrition.as_dict(), "stages": stages}


def left_out_pairs(attrition: Attrition) -> list[tuple[int, str]]:
    """Give the pairs of different rewards that were not taken, with the reason."""
    return [(count, reason) for reason, count in named(attrition.left_out).items()]


@dataclass(frozen=True)
class Told:
    """What the manifest beside a file of pairs says, or why it is not used."""

    attrition: Attrition | None
    note: str = ""
    settings: Mapping[str, Any] | None = None
    inputs: tuple[str, ...] = ()


def told_by_manifest(pairs: Path) -> Told | None:
    """Read the manifest beside a file of pairs; None where there is none."""
    path = manifest_path(pairs)
    try:
        if not path.is_file() or not pairs.is_file():
            return None
        if path.stat().st_size > MOST_MANIFEST_BYTES:
            return Told(None, "The manifest beside the file is too large to be one.")
        content = json.loads(path.read_bytes())
        digests = {output["sha256"] for output in content["outputs"]}
        inputs = tuple(str(each["path"]) for each in content["inputs"])
        attrition, settings = _account(content["attrition"]), dict(content["settings"])
        with pairs.open("rb") as stream:
            digest = file_digest(stream, "sha256").hexdigest()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError, RecursionError):
        return Told(None, "The manifest beside the file can't be read, so nothing is told of what the pairs are from.")
    if digest not in digests:
        note = "The file was changed after dpo collect-pairs wrote it, so its manifest's account is left out."
        return Told(None, note)
    return Told(attrition, settings=settings, inputs=inputs)


def _account(content: Mapping[str, Any]) -> Attrition:
    """Read an account back."""
    dropped = {Reason(reason): int(count) for reason, count in content["dropped"].items()}
    left_out = {Reason(reason): int(count) for reason, count in content["left_out_pairs"].items()}
    attrition = Attrition(
        rows=int(content["rows"]),
        dropped=Counter(dropped),
        parsed=int(content["parsed"]),
        eligible=int(content["eligible"]),
        groups=int(content["groups"]),
        varied_groups=int(content["varied_groups"]),
        paired_groups=int(content["paired_groups"]),
        paired_rollouts=int(content["paired_rollouts"]),
        pairs=int(content["pairs"]),
        left_out=Counter(left_out),
        several_messages=int(content.get("pairs_of_several_messages", 0)),
        labels=None,
    )
    attrition.check()
    return attrition


def _loss(reason: Reason, attrition: Attrition) -> Loss:
    count = attrition.dropped[reason]
    return Loss(reason.value, count, count / attrition.rows, MEANING[reason], HINTS.get(reason, ""))


def _stream(count: int, left: int, rows: int, *, is_last: bool) -> Markup:
    """Draw a piece of the stream: what goes on, straight down, and what leaves, to the right."""
    before, after = (max(WIDTH * each / rows, LEAST_WIDTH) if each else 0.0 for each in (count, left))
    if is_last:
        shape = Markup('<path class="kept" d="M0 0H{0:.2f}V60L{1:.2f} 100L0 60Z"/>').format(before, before / 2)
    else:
        shape = Markup('<path class="kept" d="M0 0H{0:.2f}V100H0Z"/>').format(after)
    if left < count:
        start = min(after, before - LEAST_WIDTH)
        end = TURN + min(max(before - start, 3), 60)
        lost = Markup(
            '<path class="lost" d="M{a:.2f} 0H{b:.2f}C{b:.2f} {top} {b:.2f} {top} 100 {top}V{end:.2f}'
            'C{a:.2f} {end:.2f} {a:.2f} {end:.2f} {a:.2f} 0Z"/>'
        )
        shape += lost.format(a=start, b=before, top=TURN, end=end)
    head = Markup('<svg class="stream" viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">')
    return head + shape + Markup("</svg>")
