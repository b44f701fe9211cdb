"""The rules on a single pair: one function for each, in one table."""

from collections.abc import Callable, Iterator

from pipeline.gate.finding import Problem
from pipeline.gate.rules import Rule
from pipeline.gate.settings import GateSettings
from pipeline.gate.view import PairView

PairCheck = Callable[[PairView, GateSettings], Iterator[Problem]]

PAIR_CHECKS: dict[Rule, PairCheck] = {}
