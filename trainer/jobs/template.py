"""Filling the templates of job files: `%%{name}` inside a line is a word, alone on a line a block of lines."""

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files

Values = Mapping[str, str | int | Sequence[str]]
"""What stands in the places of a template: words, or the lines of a block."""

PLACE = re.compile(r"%%\{(\w+)\}")
BLOCK = re.compile(r"(?P<margin> *)%%\{(?P<name>\w+)\}")


def filled(name: str, values: Values) -> str:
    """Fill a template of trainer/jobs/templates.

    The lines of a block all get the margin that its place has; a block without lines leaves no line.
    """
    template = (files("trainer.jobs") / "templates" / name).read_text(encoding="utf-8")
    return "".join(f"{line}\n" for line in _lines(template, values))


def _lines(template: str, values: Values) -> Iterator[str]:
    for line in template.splitlines():
        block = BLOCK.fullmatch(line)
        value = values[block["name"]] if block is not None else ""
        if block is not None and not isinstance(value, (str, int)):
            yield from (f"{block['margin']}{each}".rstrip() for each in value)
        else:
            yield PLACE.sub(lambda place: str(values[place[1]]), line)
