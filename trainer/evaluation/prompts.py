"""The prompts that both policies answer: of NeMo Gym's tasks and rollouts, of pairs, or prompts alone.

Each distinct prompt is answered once, so a file of many rollouts of a task is one prompt.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import DpoError, InputError
from schemas.forms import DEFAULT_KEYS, form_of
from schemas.lines import LineError
from schemas.preference import Message, iter_pairs
from schemas.rows import read_rows
from schemas.terminal import bare_excerpt, counted, path_text

TASK_KEY = "responses_create_params"
TEXT_PARTS = frozenset({"input_text", "output_text", "text"})
ROLES = ("system", "developer", "user", "assistant", "tool")
FORMS = f"a task with {TASK_KEY}.input, a preference pair, or an object with prompt (text or messages)"


@dataclass(frozen=True)
class Prompt:
    """A conversation that waits for an answer."""

    messages: tuple[Message, ...]
    source: str  # file:line of the first row that has it
    tools: tuple[dict[str, Any], ...] = ()


def read_prompts(paths: Sequence[Path], advance: Callable[[int], None] = lambda amount: None) -> list[Prompt]:
    """Read the distinct prompts of some files, in their order.

    Raises:
        InputError: a file can't be read, or a row has no prompt that can be asked; the first is named.
        DpoError: there is none.
    """
    found: dict[str, Prompt] = {}
    for path in paths:
        for prompt in _prompts_of(path, advance):
            found.setdefault(json.dumps([prompt.messages, prompt.tools], sort_keys=True), prompt)
    if not found:
        raise DpoError(f"{', '.join(map(path_text, paths))}: no prompts; expected rows with {FORMS}")
    return list(found.values())


def _prompts_of(path: Path, advance: Callable[[int], None]) -> Iterator[Prompt]:
    """Read a file, whose first row says whether it holds pairs; those are checked as elsewhere."""
    rows = read_rows(path, advance)
    first = next(rows, None)
    row = None if first is None else first[1]
    if isinstance(row, dict) and _may_be_pair(row) and form_of(row, DEFAULT_KEYS) is not None:
        yield from (Prompt(pair.prompt, pair.source, pair.tools) for pair in iter_pairs(path, advance))
        return
    bad: list[str] = []
    for number, row in _again(first, rows):
        place = f"{path_text(path)}:{number}"
        try:
            if isinstance(row, LineError):
                raise row
            yield _prompt(row, place)
        except LineError as error:
            bad.append(f"{place}: {error}")
    if bad:
        raise InputError(f"{bad[0]}; {counted(len(bad), 'row')} can't be asked")


def _may_be_pair(row: Mapping[str, Any]) -> bool:
    """Tell tasks and bare prompts, which no form of pairs is, from the rest."""
    return TASK_KEY not in row and ("prompt" not in row or "chosen" in row)


def _again(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    if first is not None:
        yield first
        yield from rest


def _prompt(row: object, place: str) -> Prompt:
    if not isinstance(row, Mapping):
        raise LineError(f"got {type(row).__name__}, expected {FORMS}")
    task = row.get(TASK_KEY)
    if isinstance(task, Mapping):
        messages = _messages(task.get("input"), f"/{TASK_KEY}/input")
        if isinstance(task.get("instructions"), str) and task["instructions"]:
            messages = (Message(role="system", content=task["instructions"]), *messages)
        return Prompt(messages, place, tuple(_tool(tool) for tool in _list(task.get("tools"), f"/{TASK_KEY}/tools")))
    if "prompt" not in row:
        raise LineError(f"got the keys {bare_excerpt(', '.join(map(str, row)))}, expected {FORMS}")
    tools = tuple(_tool(tool) for tool in _list(row.get("tools"), "/tools"))
    return Prompt(_messages(row["prompt"], "/prompt"), place, tools)


def _messages(value: object, where: str) -> tuple[Message, ...]:
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise LineError(f"{where}: got {'an empty list' if value == [] else type(value).__name__}, expected a prompt")
    messages = tuple(_message(item, f"{where}/{place}") for place, item in enumerate(value))
    if not any(message["content"].strip() for message in messages):
        raise LineError(f"{where}: got messages without a text, expected a prompt")
    if messages[-1]["role"] == "assistant":
        raise LineError(f"{where}: got a conversation that ends with the assistant, expected one that waits for it")
    return messages


def _message(item: object, where: str) -> Message:
    kind = item.get("type", "message") if isinstance(item, Mapping) else type(item).__name__
    if not isinstance(item, Mapping) or kind != "message":
        raise LineError(
            f"{where}: got {bare_excerpt(str(kind))}, expected a message; of prompts with calls, `dpo collect-pairs` "
            "makes pairs, whose prompts are taken too"
        )
    role = item.get("role")
    if role not in ROLES:
        raise LineError(f"{where}/role: got {bare_excerpt(str(role))}, expected one of {', '.join(ROLES)}")
    calls = item.get("tool_calls")
    content = "" if calls and item.get("content") is None else _text(item.get("content"), f"{where}/content")
    message = Message(role=str(role), content=content)
    if calls:
        message["tool_calls"] = _list(calls, f"{where}/tool_calls")
    if isinstance(item.get("tool_call_id"), str):
        message["tool_call_id"] = item["tool_call_id"]
    return message


def _text(content: object, where: str) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, Mapping) and part.get("type") in TEXT_PARTS]
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) == len(content):
            return "".join(texts)
    raise LineError(f"{where}: got what is no text, expected a string or parts of text")


def _list(value: object, where: str) -> list[Any]:
    if not value:
        return []
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise LineError(f"{where}: got something else, expected an array of objects")
    return value


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    """Bring a tool of the Responses API to the shape that chat templates take."""
    if isinstance(tool.get("function"), dict):
        return tool
    function = {key: tool[key] for key in ("name", "description", "parameters") if tool.get(key) is not None}
    return {"type": "function", "function": function}
