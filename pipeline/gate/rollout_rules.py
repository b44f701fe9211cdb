"""The rules on a single rollout: what `dpo collect-pairs` would leave out, and why."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pipeline.attrition import MEANING, RowDropped
from pipeline.gate.finding import Problem
from pipeline.gate.pair.keys import KEY_BYTES, KEY_MASK, key_of
from pipeline.gate.rules import Rule
from pipeline.gate.settings import GateSettings
from pipeline.prompts import Prompts
from pipeline.record import decode_record
from pipeline.rollout import rollout_of
from pipeline.settings import Format, Settings
from schemas.terminal import bare_excerpt

if TYPE_CHECKING:
    from pipeline.gate.gate import Gathered

COLLECTED = Settings(format=Format.TRL)
"""As `collect-pairs` reads rollouts in the form that holds most of them: several turns, and tools."""


class RolloutReader:
    """Reads rollouts as `collect-pairs` does; remembers prompts."""

    def __init__(self, settings: GateSettings) -> None:
        """Start with nothing remembered."""
        self._settings = settings
        self._prompts = Prompts(keep_reasoning=True, clusters=settings.folds_prompts)

    def problems(self, row: dict[str, Any], content: bytes, *, line: int, gathered: "Gathered") -> Iterator[Problem]:
        """Yield what is wrong with a rollout that fits its schema; `content` is its line."""
        reward = float(row["reward"])
        limits = self._settings.limits
        if self._settings.finds(Rule.REWARD_RANGE):
            if limits.min_reward is not None and reward < limits.min_reward:
                yield Problem(Rule.REWARD_RANGE, "/reward", f"{reward:g}", f"at least {limits.min_reward:g}")
            if limits.max_reward is not None and reward > limits.max_reward:
                yield Problem(Rule.REWARD_RANGE, "/reward", f"{reward:g}", f"at most {limits.max_reward:g}")
        try:
            rollout = rollout_of(decode_record(content), content, COLLECTED, prompts=self._prompts)
        except RowDropped as drop:
            if self._settings.finds(Rule.UNUSABLE_ROLLOUT):
                met = MEANING[drop.reason].partition(";")[0]  # behind it are options of collect-pairs
                got = f"{drop.reason}: {met}" + (f" ({bare_excerpt(drop.detail)})" if drop.detail else "")
                yield Problem(Rule.UNUSABLE_ROLLOUT, "", got, "a rollout that pairs can be made of")
            return
        # a name that is only one in its file may be that of another rollout in the next one
        same = rollout.sample_number & KEY_MASK if rollout.is_named_everywhere else key_of(content)
        folds = self._settings.folds_prompts
        prompt = rollout.question.cluster & KEY_MASK if folds else int.from_bytes(rollout.group[:KEY_BYTES])
        gathered.append(line, prompt=prompt, row=same, reward=rollout.reward)
        gathered.statistics.add_rollout(rollout, row, self._settings)
