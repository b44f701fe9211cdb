"""Items and answers as a folder that Argilla's `rg.Dataset.from_disk` reads (Argilla SDK 2).

Its names are those of the SDK's reference: fields, questions, metadata properties, records with suggestions (the
verifier's) and responses (of the reviewers). A response belongs to a user of the Argilla server, known by a UUID; ours
are made of the reviewers' names, and users.json says which is whose, so that such users can be made first.
"""

import json
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from schemas.atomic import atomic_writer
from schemas.errors import UsageError
from schemas.terminal import path_text
from views.review.answer import CRITERIA, Answer, Verdict
from views.review.item import Item
from views.review.readable import spoken
from views.review.sheet import SIDES, Sheet

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:dpo:review:reviewer")
GUIDELINES = "Which of the two responses answers the prompt better? Left and right were drawn by chance."
PREFERENCES = {
    "left": "The left one is better",
    "right": "The right one is better",
    Verdict.TIE.value: "Both are as good",
    Verdict.BOTH_BAD.value: "Both are bad",
}
RATED = f"{CRITERIA[0]}_{SIDES[0]}"
"""The question that must be answered of a single response."""
Row = dict[str, Any]


def write_argilla(folder: Path, sheets: Sequence[Sheet]) -> None:
    """Write the folder, which must be new or empty.

    Raises:
        UsageError: there is something else.
        DpoError: it can't be written.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(f"{path_text(folder)}: is there already; Argilla's form is a folder, so name a new one")
    sides = SIDES[: max(len(sheet.places) for sheet in sheets)]
    reviewers = sorted({answer.reviewer for sheet in sheets for answer in sheet.answers})
    settings, dataset = _settings(sides), {"name": folder.resolve().name, "guidelines": GUIDELINES}
    _write(folder / "records.json", [_record(sheet) for sheet in sheets])
    _write(folder / "users.json", [{"id": user_id(name), "username": name} for name in reviewers])
    _write(folder / ".argilla" / "settings.json", settings)
    _write(folder / ".argilla" / "dataset.json", {**dataset, "status": "draft", "allow_extra_metadata": False})


def user_id(reviewer: str) -> str:
    """Give the UUID that stands for a reviewer, the same in every export."""
    return str(uuid.uuid5(NAMESPACE, reviewer))


def _settings(sides: Sequence[str]) -> Row:
    compared = [_question("preference", "label_selection", options=_options())] if len(sides) == 2 else []
    names = [f"{criterion}_{side}" for criterion in CRITERIA for side in sides]
    scale = [{"value": each} for each in range(1, 6)]
    # Argilla asks for one question that must be answered
    ratings = [_question(name, "rating", is_required=not compared and name == RATED, options=scale) for name in names]
    note = _question("note", "text", is_required=False, use_markdown=False)
    return {
        "guidelines": GUIDELINES,
        "fields": [_field("prompt", "chat"), *(_field(side, "text") for side in sides)],
        "questions": [*compared, *ratings, note],
        "vectors": [],
        "metadata": [*_metadata(sides)],
        "allow_extra_metadata": False,
        "distribution": {"strategy": "overlap", "min_submitted": 1},
        "mapping": None,
    }


def _options() -> list[Row]:
    return [{"value": value, "text": text, "description": None} for value, text in PREFERENCES.items()]


def _question(name: str, kind: str, *, is_required: bool = True, **settings: Any) -> Row:
    title = name.replace("_", " ").capitalize()
    if kind == "label_selection":
        settings["visible_options"] = None
    return {"name": name, "title": title, "required": is_required, "settings": {"type": kind, **settings}}


def _field(name: str, kind: str) -> Row:
    # never as Markdown: a response could bring images and links with it
    settings = {"type": kind, "use_markdown": False}
    return {"name": name, "title": name.capitalize(), "required": name == "prompt", "settings": settings}


def _metadata(sides: Sequence[str]) -> Iterable[Row]:
    terms = ["key", "place", "agent", "group", *(f"{side}_is" for side in sides)]
    for name in terms:
        settings: Row = {"type": "terms", "values": None, "visible_for_annotators": False}
        yield {"name": name, "title": name, "settings": settings, "visible_for_annotators": False}
    for side in sides:
        settings = {"type": "float", "min": None, "max": None, "visible_for_annotators": False}
        name = f"{side}_reward"
        yield {"name": name, "title": name, "settings": settings, "visible_for_annotators": False}


def _record(sheet: Sheet) -> Row:
    suggestion = sheet.suggestion
    suggestions = {}
    if suggestion is not None:
        side, agent = suggestion
        suggestions["preference"] = {"value": side, "score": None, "agent": agent}
    responses: dict[str, list[Row]] = {}
    for answer in sheet.answers:
        values = _values(sheet, answer)
        is_whole = _required(sheet) in values
        told = {"user_id": user_id(answer.reviewer), "status": "submitted" if is_whole else "draft"}
        for question, value in values.items():
            responses.setdefault(question, []).append({"value": value, **told})
    return {
        "id": sheet.item.key,
        "fields": {"prompt": _chat(sheet.item), **sheet.responses},
        "metadata": sheet.about,
        "suggestions": suggestions,
        "responses": responses,
        "vectors": {},
        "status": "pending",
        "_server_id": None,
    }


def _required(sheet: Sheet) -> str:
    return "preference" if len(sheet.places) == 2 else RATED


def _chat(item: Item) -> list[Row]:
    return [{"role": message["role"], "content": spoken(message)} for message in item.prompt]


def _values(sheet: Sheet, answer: Answer) -> Row:
    """Give what a person answered, by question; nothing of an item that was skipped."""
    if answer.verdict is Verdict.SKIP:
        return {}
    verdict = {} if answer.verdict is Verdict.RATED else {"preference": sheet.verdict_of(answer)}
    note = {"note": answer.note} if answer.note else {}
    return {**verdict, **sheet.ratings_of(answer), **note}


def _write(path: Path, content: object) -> None:
    with atomic_writer(path) as stream:
        stream.write(json.dumps(content, indent=1).encode() + b"\n")
