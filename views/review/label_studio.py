"""Items and answers as tasks of Label Studio, with the labelling configuration that they fit.

The tasks are of Label Studio's basic JSON form: `data`, `predictions` (the verifier's) and `annotations` (of the
reviewers). The configuration asks by Choices, not by the tag Pairwise, which knows left and right alone: so a tie is a
verdict like any other, and nobody can give two. It holds no foreign text, and says of the texts that they are no
addresses to be fetched.
"""

import json
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from schemas.atomic import atomic_writer
from schemas.errors import UsageError
from schemas.terminal import path_text
from views.review.answer import CRITERIA, Answer, Verdict
from views.review.sheet import SIDES, Sheet

CHOICES = ("left", "right", "tie", "both bad")
STYLE = ".htx-text { white-space: pre-wrap; } .sides { display: flex; gap: 1em; } .sides > * { flex: 1; }"
Row = dict[str, Any]


def write_label_studio(path: Path, sheets: Sequence[Sheet]) -> Path:
    """Write the tasks, and the configuration beside them, as XML; give its path.

    Raises:
        UsageError: the name leaves no other one for the configuration.
        DpoError: they can't be written.
    """
    if path.suffix.lower() != ".json":
        raise UsageError(f"{path_text(path)}: Label Studio imports tasks as one .json file; name it so")
    sides = SIDES[: max(len(sheet.places) for sheet in sheets)]
    with atomic_writer(path) as stream:
        stream.write(json.dumps([_task(sheet) for sheet in sheets], indent=1).encode() + b"\n")
    beside = path.with_suffix(".xml")
    with atomic_writer(beside) as stream:
        stream.write(labelling_config(sides).encode())
    return beside


def labelling_config(sides: Sequence[str]) -> str:
    """Give the configuration for two responses, or for one."""
    lines = ["<View>", f"  <Style>{escape(STYLE)}</Style>", '  <Header value="Prompt"/>', _text("prompt")]
    lines += ['  <View className="sides">', *(_text(side) for side in sides), "  </View>"]
    if len(sides) == 2:
        lines.append('  <Header value="Which response is better? Left and right were drawn by chance."/>')
        lines.append('  <Choices name="preference" toName="prompt" choice="single-radio" showInline="true">')
        lines += [f'    <Choice value="{choice}" hotkey="{key}"/>' for key, choice in enumerate(CHOICES, start=1)]
        lines.append("  </Choices>")
    for criterion in CRITERIA:
        for side in sides:
            lines.append(f"  <Header value={quoteattr(f'{criterion.capitalize()}, {side}')}/>")
            lines.append(f'  <Rating name="{criterion}_{side}" toName="{side}" maxRating="5"/>')
    lines.append('  <TextArea name="note" toName="prompt" placeholder="Note" rows="2"/>')
    return "\n".join([*lines, "</View>"]) + "\n"


def _text(name: str) -> str:
    return f'  <Text name="{name}" value="${name}" valueType="text"/>'


def _task(sheet: Sheet) -> Row:
    predictions = []
    if sheet.suggestion is not None:
        side, model = sheet.suggestion
        predictions.append({"model_version": model, "result": [_choice(sheet, side, of=model)]})
    reviewers = [answer.reviewer for answer in sheet.answers]
    return {
        "data": {"prompt": sheet.prompt, **sheet.responses, **sheet.about, "reviewers": reviewers},
        "predictions": predictions,
        "annotations": [_annotation(sheet, answer) for answer in sheet.answers],
    }


def _annotation(sheet: Sheet, answer: Answer) -> Row:
    """Give what a person answered; who it was stands in the task's `reviewers`, in the same order."""
    is_skipped = answer.verdict is Verdict.SKIP
    told = {"was_cancelled": is_skipped, "lead_time": answer.seconds, "created_at": answer.at}
    return {"result": [] if is_skipped else [*_results(sheet, answer)], **told}


def _results(sheet: Sheet, answer: Answer) -> Iterable[Row]:
    of = answer.reviewer
    if answer.verdict is not Verdict.RATED:
        yield _choice(sheet, sheet.verdict_of(answer).replace("_", " "), of=of)
    for name, value in sheet.ratings_of(answer).items():
        yield _region(sheet, of, name, name.rpartition("_")[2], "rating", {"rating": value})
    if answer.note:
        yield _region(sheet, of, "note", "prompt", "textarea", {"text": [answer.note]})


def _choice(sheet: Sheet, choice: str, *, of: str) -> Row:
    return _region(sheet, of, "preference", "prompt", "choices", {"choices": [choice]})


def _region(sheet: Sheet, of: str, name: str, target: str, kind: str, value: Row) -> Row:
    number = uuid.uuid5(uuid.NAMESPACE_URL, f"urn:dpo:review:{sheet.item.key}:{name}:{of}")
    return {"id": number.hex[:10], "from_name": name, "to_name": target, "type": kind, "value": value}
