"""How long prompt and response are in tokens of the user's tokenizer; no torch, no transformers."""

from collections.abc import Callable, Iterator

from pipeline.gate.finding import Problem
from pipeline.gate.settings import GateSettings
from pipeline.gate.view import PairView

TokenCounter = Callable[[str], int]


def token_counter(settings: GateSettings) -> TokenCounter | None:
    """Load the tokenizer that the settings name, if any."""
    return None


def too_long(view: PairView, settings: GateSettings, count_tokens: TokenCounter) -> Iterator[Problem]:
    """Find a pair whose prompt and longer response have more than `max_tokens`."""
    return iter(())
