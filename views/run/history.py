"""metrics.jsonl as it is drawn: each metric over the steps, of long runs the least and the greatest of many steps.

A run of a million steps has more than a gigabyte of metrics, and a plot some hundreds of dots across. So lines are read
one by one, and of each metric no more is kept than can be seen; that the extremes stay is what a plot is looked at for.
"""

import math
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from schemas.errors import InputError
from schemas.terminal import path_text, progress, reason
from views.plots import Series

METRICS_FILE = "metrics.jsonl"
TRAIN = "train/"
VALIDATION = "validation-"
ELAPSED = "timing/elapsed_seconds"

KEPT = 20_000
"""Values of a metric that are kept as they are; of more, those that stand out."""
BUCKETS = 400
"""Across a plot; in each the least and the greatest value are drawn."""
MOST_METRICS = 1_000
"""Names that are followed: a run has some dozens, and some for each environment and set."""
RECENT = 10
"""Steps whose mean stands for how things are now: a single batch differs from the next."""
MOST_LINE = 1 << 20
STEP_MARK = b'"train/'
REPORT_LINES = 2_000

FOLLOWED = (
    *("loss", "accuracy", "margin_mean", "rewards_chosen_mean", "rewards_rejected_mean"),
    *("logps_chosen_mean", "logps_rejected_mean", "chosen_fell", "both_fell", "kl"),
    *("grad_norm", "lr", "pairs_per_second", "tokens_per_second", "memory_gb"),
)
"""Metrics of a step that are looked at; of the others nothing is read, which is three times as fast."""

Line = dict[str, float | None]
_decode_validation = msgspec.json.Decoder(Line).decode
_Step = msgspec.defstruct(
    "_Step",
    [
        ("step", int),
        ("epoch", int | None, None),
        ("elapsed", float | None, None),
        *((name, float | None | msgspec.UnsetType, msgspec.UNSET) for name in FOLLOWED),
    ],
    rename={"elapsed": ELAPSED, **{name: f"{TRAIN}{name}" for name in FOLLOWED}},
)
_decode_step = msgspec.json.Decoder(_Step).decode


@dataclass
class Column:
    """A metric over the steps."""

    x: "array[float]" = field(default_factory=lambda: array("d"))
    y: "array[float]" = field(default_factory=lambda: array("d"))
    count: int = 0  # of finite values
    total: float = 0.0
    num_odd: int = 0  # steps with no finite number
    first_odd: int | None = None

    def add(self, step: float, value: float | None) -> None:
        """Take the value of a step; None is no finite number."""
        self.x.append(step)
        self.y.append(math.nan if value is None else value)
        if value is None:
            self.num_odd += 1
            self.first_odd = int(step) if self.first_odd is None else self.first_odd
        else:
            self.count += 1
            self.total += value
        if len(self.x) > KEPT:
            self.x, self.y = thinned(self.x, self.y, buckets=KEPT // 10)

    def forget_from(self, step: float) -> None:
        """Drop what comes at a step and behind it: the run has gone back there."""
        while self.x and self.x[-1] >= step:
            self.x.pop()
            self.y.pop()

    @property
    def mean(self) -> float:
        """Give the mean of all values, nan where there is none."""
        return self.total / self.count if self.count else math.nan

    @property
    def points(self) -> Iterator[tuple[int, float]]:
        """Yield steps and finite values."""
        return ((int(x), y) for x, y in zip(self.x, self.y, strict=True) if math.isfinite(y))

    def series(self, name: str) -> Series:
        """Give what is drawn."""
        x, y = thinned(self.x, self.y, buckets=BUCKETS)
        return Series(name, x, y)


@dataclass
class History:
    """What the metrics of a run say."""

    columns: dict[str, Column] = field(default_factory=dict)  # by their names in metrics.jsonl
    recent: "deque[dict[str, Any]]" = field(default_factory=lambda: deque(maxlen=RECENT))  # the latest steps
    validation: Line = field(default_factory=dict)  # the latest
    step: int = 0  # the last that is done
    epoch: int = 0
    elapsed_seconds: float = math.nan
    num_unreadable: int = 0  # lines; the last one may be in the midst of being written, and doesn't count

    def column(self, name: str) -> Column:
        """Give a metric; an empty one where the run does not have it."""
        return self.columns.get(name) or Column()

    def has(self, name: str) -> bool:
        """Say whether there is a number of that name."""
        return self.column(name).count > 0

    def lately(self, name: str) -> float:
        """Give the mean of a followed metric over the latest steps, nan where there is none."""
        values = [value for line in self.recent if isinstance(value := line.get(name), float)]
        return math.fsum(values) / len(values) if values else math.nan

    def sets(self) -> list[str]:
        """Name the validation sets, in the order in which they came."""
        found = (_set_of(name) for name in self.columns if name.startswith(VALIDATION))
        return list(dict.fromkeys(name for name in found if name))

    def add_step(self, values: tuple[Any, ...]) -> None:
        """Take in what was measured in a step: its number, the epoch, the time so far, and what is followed."""
        step, epoch, elapsed, *metrics = values
        if step <= self.step and self.recent:
            self._go_back(step)
        self.step, self.epoch = step, epoch or self.epoch
        self.elapsed_seconds = elapsed or self.elapsed_seconds
        self.recent.append(dict(zip(FOLLOWED, metrics, strict=True)) | {"step": step})
        for name, value in zip(FOLLOWED, metrics, strict=True):
            if value is not msgspec.UNSET:
                self._add(f"{TRAIN}{name}", step, value)

    def add_validation(self, line: Line) -> None:
        """Take in what a validation has found."""
        self.validation = line
        self.elapsed_seconds = line.get(ELAPSED) or self.elapsed_seconds
        for name, value in line.items():
            if name.startswith(VALIDATION):
                self._add(name, line["step"] or 0, value)

    def _add(self, name: str, step: float, value: float | None) -> None:
        column = self.columns.get(name)
        if column is None:
            if len(self.columns) >= MOST_METRICS:
                return
            column = self.columns[name] = Column()
        column.add(step, value)

    def _go_back(self, step: float) -> None:
        """Forget the steps that are done a second time, as after a resume in a copy of the folder."""
        for column in self.columns.values():
            column.forget_from(step)
        kept = [line for line in self.recent if line["step"] < step]
        self.recent.clear()
        self.recent.extend(kept)


def read_history(folder: Path, *, shown: bool = True) -> History:
    """Read the metrics of a run; nothing where it has none yet.

    Raises:
        InputError: they can't be read.
    """
    path = folder / METRICS_FILE
    history = History()
    try:
        if not path.exists():
            return history
        size = path.stat().st_size
        with progress(f"reading {path_text(path)}", total=size, unit="bytes", shown=shown) as advance:
            for line in _lines(path, advance):
                history.num_unreadable += not _taken(history, line)
    except OSError as error:
        raise InputError(f"{path_text(path)}: can't be read: {reason(error)}") from error
    return history


def _lines(path: Path, advance: Callable[[int], None]) -> Iterator[bytes]:
    """Yield the lines that are whole; a running run may be in the midst of the last one."""
    passed = 0
    with path.open("rb") as stream:
        for number, text in enumerate(iter(lambda: stream.readline(MOST_LINE), b""), start=1):
            passed += len(text)
            if number % REPORT_LINES == 0:
                advance(passed)
                passed = 0
            if not text.endswith(b"\n") and len(text) < MOST_LINE:
                return
            if text.strip():
                yield text


def _taken(history: History, line: bytes) -> bool:
    """Take a line in; say whether it is one of the run's."""
    try:
        if STEP_MARK in line:
            values = msgspec.structs.astuple(_decode_step(line))
            if values[0] < 0:
                return False
            history.add_step(values)
            return True
        found = _decode_validation(line)
        if (found.get("step") or 0) < 0 or "step" not in found:
            return False
        history.add_validation(found)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError):
        return False
    return True


def thinned(x: "array[float]", y: "array[float]", *, buckets: int) -> tuple["array[float]", "array[float]"]:
    """Keep, of each of so many stretches of the axis, the least and the greatest value, and both ends of the whole.

    Where a stretch has no finite value at all, one gap stays.
    """
    if len(x) <= 2 * buckets:
        return x, y
    start, width = x[0], (x[-1] - x[0]) / buckets or 1.0
    kept: dict[int, tuple[int, int]] = {}
    for place, (at, value) in enumerate(zip(x, y, strict=True)):
        bucket = min(int((at - start) / width), buckets - 1)
        least, greatest = kept.get(bucket, (place, place))
        kept[bucket] = (
            place if value < y[least] or y[least] != y[least] else least,
            place if value > y[greatest] or y[greatest] != y[greatest] else greatest,
        )
    places = sorted({0, len(x) - 1, *(place for pair in kept.values() for place in pair)})
    return array("d", (x[place] for place in places)), array("d", (y[place] for place in places))


def latest(line: Mapping[str, float | None], name: str) -> float:
    """Give a metric of a line, nan where it has none."""
    value = line.get(name)
    return math.nan if value is None else value


def _set_of(name: str) -> str:
    return name.removeprefix(VALIDATION).partition("/")[0]
