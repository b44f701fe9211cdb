"""Prompts, converted once for all rollouts that share them."""

from typing import Any, NamedTuple

import msgspec

from pipeline.attrition import Reason, RowDropped
from pipeline.convert import Turn, asks_twice, chat_tools, prompt_turns
from pipeline.identify import Question, question_of
from pipeline.record import ABSENT, Params, decode_params, value_of
from schemas.preference import Message

REMEMBERED_BYTES = 2 << 20
NO_TOOLS = (b"", b"[]", b"null")


class Asked(NamedTuple):
    """A row's `responses_create_params`, converted."""

    params: Params
    messages: list[Message]
    tools: list[dict[str, Any]]
    question: Question | None  # None where the prompt is empty
    open_calls: frozenset[str]  # the ids of the calls that the prompt holds
    has_tools: bool  # tools are offered, or were used already
    keys: dict[tuple[str | None, int], bytes]  # agent and task index -> group key, as far as it was needed


class Prompts:
    """Converts prompts, and remembers the last of them: rollouts of one task lie close together.

    The memory is bounded by the bytes that came in, since a prompt may be of any size.
    """

    def __init__(self, *, keep_reasoning: bool, clusters: bool) -> None:
        """Start with nothing remembered."""
        self.keep_reasoning = keep_reasoning
        self.clusters = clusters
        self._remembered: dict[bytes, Asked | RowDropped] = {}
        self._num_bytes = 0

    def asked(self, params: msgspec.Raw, tools: msgspec.Raw = ABSENT) -> Asked:
        """Convert `responses_create_params`; `tools` are those of the response, which count where these have none.

        Raises:
            RowDropped: they hold what is not known, or media.
        """
        content, injected = bytes(params), b"" if tools is ABSENT else bytes(tools)
        if injected in NO_TOOLS:
            injected = b""
        key = content + injected
        asked = self._remembered.get(key)
        if asked is None:
            asked = self._convert(content, injected)
            self._remember(key, asked)
        if isinstance(asked, RowDropped):
            raise RowDropped(asked.reason, asked.detail)
        return asked

    def question_and_answer(self, asked: Asked, turns: list[Turn], *, has_index: bool) -> tuple[Question, list[Turn]]:
        """Find the question, also where an agent built it itself; give the turns that are left as the answer.

        What a trajectory begins with before the policy speaks is part of the prompt. If that is nothing, and an index
        tells the task, the metadata's `problem_statement` is the prompt.

        Raises:
            RowDropped: the prompt is empty.
        """
        if asked.question is not None and turns and turns[0].message["role"] == "assistant":
            return asked.question, turns
        num_lifted = 0
        while num_lifted < len(turns) and turns[num_lifted].message["role"] in {"system", "developer", "user"}:
            num_lifted += 1
        lifted, answer = [turn.message for turn in turns[:num_lifted]], turns[num_lifted:]
        if asked.question is not None and (
            not lifted or lifted == asked.messages
        ):  # the trajectory may repeat the prompt
            return asked.question, answer
        repeats = lifted[: len(asked.messages)] == asked.messages  # an agent that was given the system message
        prompt = lifted if repeats else [*asked.messages, *lifted]
        if not says_something(prompt):
            metadata = asked.params.metadata
            statement = metadata.get("problem_statement") if isinstance(metadata, dict) else None
            if not has_index or not isinstance(statement, str) or not statement.strip():
                raise RowDropped(Reason.PROMPT_EMPTY)
            prompt.append(Message(role="user", content=statement))
        # turns of the trajectory are in order; only between those of the input an answer may be lost
        twice = asks_twice(asked.messages)
        question = question_of(prompt, asked.tools, asked.params, asks_twice=twice, clusters=self.clusters)
        return question, answer

    def _convert(self, content: bytes, injected: bytes) -> Asked | RowDropped:
        try:
            params = decode_params(content)
            if params is None:
                return RowDropped(Reason.NOT_A_ROLLOUT, "responses_create_params is no object")
            tools = chat_tools(params.tools or (value_of(msgspec.Raw(injected)) if injected else None))
            messages = [turn.message for turn in prompt_turns(params, keep_reasoning=self.keep_reasoning)]
            question = None
            if says_something(messages):
                twice = asks_twice(messages)
                question = question_of(messages, tools, params, asks_twice=twice, clusters=self.clusters)
        except RowDropped as drop:
            return drop
        used = any("tool_calls" in message or message["role"] == "tool" for message in messages)
        calls = frozenset(call["id"] for message in messages for call in message.get("tool_calls", ()) if "id" in call)
        return Asked(params, messages, tools, question, calls, bool(tools) or used, {})

    def _remember(self, content: bytes, asked: Asked | RowDropped) -> None:
        self._remembered[content] = asked
        self._num_bytes += len(content)
        while self._num_bytes > REMEMBERED_BYTES:
            oldest = next(iter(self._remembered))
            del self._remembered[oldest]
            self._num_bytes -= len(oldest)


def says_something(prompt: list[Message]) -> bool:
    """Tell whether a prompt asks anything: a system message alone does not."""
    return any(message["content"].strip() for message in prompt if message["role"] not in {"system", "developer"})
