"""`dpo review --export`: what people decided as pairs, as labels or for other tools; every item is accounted for."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from pipeline.gate.pair.pair_rules import is_blank
from pipeline.identify import comparable
from pipeline.labels import prompt_digest, response_digest
from schemas.atomic import refuse_unwritable
from schemas.errors import DpoError, UsageError
from schemas.preference import write_rows
from schemas.terminal import path_text
from views.review.answer import Answer, Verdict
from views.review.argilla import write_argilla
from views.review.consensus import PREFERENCES, VOTES, Consensus, Decision, LeftOut, decisions
from views.review.item import Item
from views.review.label_studio import write_label_studio
from views.review.pair_rows import SIDES, binary_row, label_row, needs_messages, ranked_row
from views.review.readable import readable
from views.review.sheet import sheets_of


class ExportFormat(StrEnum):
    """The form of what is exported."""

    BINARY = "binary"
    PREFERENCE = "preference"
    LABELS = "labels"
    ARGILLA = "argilla"
    LABEL_STUDIO = "label-studio"


FOREIGN = (ExportFormat.ARGILLA, ExportFormat.LABEL_STUDIO)
"""Forms that hold items as they are, so that they can be reviewed elsewhere."""


@dataclass(frozen=True)
class Exported:
    """What an export did. `items` = `written` + the sum of `left_out`, exactly."""

    items: int
    written: int
    paths: tuple[Path, ...]
    turned: int = 0  # pairs that people have the other way round than the file
    left_out: Counter[LeftOut] = field(default_factory=Counter)
    is_trl: bool = False  # the rows of pairs hold messages on both sides

    def as_dict(self) -> dict[str, Any]:
        """Give the account as JSON types."""
        return {
            "items": self.items,
            "written": self.written,
            "turned": self.turned,
            "left_out": {reason.value: self.left_out[reason] for reason in LeftOut if self.left_out[reason]},
            "outputs": [path_text(path) for path in self.paths],
        }


def export_review(
    items: Sequence[Item],
    answers: Sequence[Answer],
    output: Path,
    form: ExportFormat,
    *,
    consensus: Consensus = Consensus.MAJORITY,
    notes: bool = True,
) -> Exported:
    """Write what people say of items; an item of which nothing is written is counted under its reason.

    Args:
        items: All items, answered or not.
        answers: One for each person and item at most.
        consensus: When several people count as one.
        notes: Write people's notes into the rows of pairs.

    Raises:
        UsageError: the output's name does not fit the form.
        DpoError: nothing is left to write, or it can't be written.
    """
    if form is ExportFormat.ARGILLA:  # a folder
        return _export_foreign(items, answers, output, form)
    refuse_unwritable(output)
    if form is ExportFormat.LABEL_STUDIO:
        return _export_foreign(items, answers, output, form)
    _refuse_suffix(output)
    decided = decisions(items, answers, consensus)
    reasons = _reasons(decided, is_pair=form is not ExportFormat.LABELS)
    kept = [decision for decision, reason in zip(decided, reasons, strict=True) if reason is None]
    left_out = Counter(reason for reason in reasons if reason is not None)
    if not kept:
        told = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())
        raise DpoError(f"nothing to export: of {len(items):,} items {told}; nothing was written")
    is_trl = form is ExportFormat.BINARY and any(needs_messages(decision.item) for decision in kept)
    rows = [_row_maker(form, is_trl=is_trl, notes=notes)(decision) for decision in kept]
    write_rows(output, rows)
    num_turned = sum(decision.chosen for decision in kept if decision.item.names == SIDES)
    exported = Exported(len(items), len(kept), (output,), num_turned, left_out, is_trl)
    assert exported.items == exported.written + left_out.total(), exported
    return exported


def _export_foreign(items: Sequence[Item], answers: Sequence[Answer], output: Path, form: ExportFormat) -> Exported:
    if not items:
        raise DpoError("nothing to export: there are no items")
    sheets = sheets_of(items, answers)
    paths: tuple[Path, ...] = (output,)
    if form is ExportFormat.ARGILLA:
        write_argilla(output, sheets)
    else:
        paths = (output, write_label_studio(output, sheets))
    return Exported(len(items), len(items), paths)


def _row_maker(form: ExportFormat, *, is_trl: bool, notes: bool) -> Callable[[Decision], dict[str, Any]]:
    if form is ExportFormat.LABELS:
        return label_row
    if form is ExportFormat.PREFERENCE:
        return lambda decision: ranked_row(decision, notes=notes)
    return lambda decision: binary_row(decision, as_messages=is_trl, notes=notes)


def _reasons(decided: Iterable[Decision], *, is_pair: bool) -> list[LeftOut | None]:
    """Say of each item why it is left out; None for those that are written.

    What neither response is better of is no pair, yet a label.
    """
    decided = list(decided)
    reasons = [_own_reason(decision, is_pair=is_pair) for decision in decided]
    of_content: dict[tuple[bytes, frozenset[bytes]], list[int]] = {}
    for place, decision in enumerate(decided):
        if reasons[place] is None:
            of_content.setdefault(_content(decision.item), []).append(place)
    for places in of_content.values():
        said = {_said(decided[place]) for place in places}
        for place in places[1:] if len(said) == 1 else places:
            reasons[place] = LeftOut.REPEATED if len(said) == 1 else LeftOut.CONTRADICTING
    return reasons


def _own_reason(decision: Decision, *, is_pair: bool) -> LeftOut | None:
    if not is_pair and decision.verdict in VOTES:
        first, second = map(response_digest, decision.item.responses)
        return LeftOut.SAME_RESPONSES if first == second else None
    if decision.reason is not None:
        return decision.reason
    responses = decision.item.responses
    if any(is_blank(response[-1]["content"]) and not response[-1].get("tool_calls") for response in responses):
        return LeftOut.EMPTY_RESPONSE
    first_text, second_text = (comparable(readable(response)) for response in responses)
    return LeftOut.SAME_RESPONSES if first_text == second_text else None


def _content(item: Item) -> tuple[bytes, frozenset[bytes]]:
    return prompt_digest(item.prompt, item.tools), frozenset(map(response_digest, item.responses))


def _said(decision: Decision) -> bytes | None:
    """Name the better response by its content; None where neither is."""
    if decision.verdict not in PREFERENCES:
        return None
    return response_digest(decision.item.responses[int(decision.verdict is Verdict.SECOND)])


def _refuse_suffix(output: Path) -> None:
    if output.suffix.lower() != ".jsonl" and not (output.exists() and not output.is_file()):
        raise UsageError(f"{path_text(output)}: pairs and labels are written as JSONL; name a .jsonl file")
