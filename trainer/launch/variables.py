"""Numbers that launchers and schedulers leave in environment variables; texts of Slurm's."""

import re
from collections.abc import Mapping

from schemas.errors import UsageError
from schemas.terminal import excerpt

FIRST_OWN_STEP = 0xFFFF_FFF0
"""Slurm's numbers of steps from here on mean the batch script, an interactive shell and the like."""


def number(environment: Mapping[str, str], *names: str, least: int = 0) -> int | None:
    """Read the first of some variables that is set.

    Raises:
        UsageError: it is no whole number, or less than `least`.
    """
    for name in names:
        text = environment.get(name, "").strip()
        if not text:
            continue
        if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) < least:
            raise UsageError(
                f"the environment variable {name}={excerpt(text)}: expected a whole number from {least} on"
            )
        return int(text)
    return None


def needed(environment: Mapping[str, str], name: str, *, beside: str, least: int = 0) -> int:
    """Read a variable that has to be there.

    Raises:
        UsageError: it isn't, or is no number.
    """
    value = number(environment, name, least=least)
    if value is None:
        raise UsageError(
            f"the environment has {beside}, and no {name}; set it too, or unset {beside} for a run of its own"
        )
    return value


def first_host(hosts: str) -> str:
    """Name the first of Slurm's hosts: node[07-09,12],login is node07."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", hosts)
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first.group() if first else hosts).strip()


def tasks_of_nodes(tasks: str) -> list[int]:
    """Read Slurm's tasks of each node: 4(x2),1 is 4, 4, 1."""
    numbers = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", tasks):
        numbers += [int(count)] * int(times or 1)
    return numbers
