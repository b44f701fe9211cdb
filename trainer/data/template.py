"""How conversations become text: by a chat template and its options, or plainly; nothing here imports torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from schemas.errors import UsageError
from schemas.terminal import path_text
from trainer.config.policy import TokenizerSection

DEFAULT_TEMPLATE = "default"


@dataclass(frozen=True)
class Style:
    """Whether there is a template, and the options that it is given."""

    is_plain: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


CHAT = Style()
"""The tokenizer's template without options."""


def style_of(section: TokenizerSection) -> Style:
    """Say how conversations become text."""
    return Style(section.is_plain, section.chat_template_kwargs)


def read_template(section: TokenizerSection) -> str | None:
    """Give the text of a template that is not the tokenizer's own; None where it is that, or none.

    Raises:
        UsageError: the template's file can't be read, or is empty.
    """
    template = section.chat_template
    if template is None or template == DEFAULT_TEMPLATE:
        return None
    if not template.endswith(".jinja"):
        return template
    path, reason = Path(template), "is empty"
    try:
        if text := path.read_text(encoding="utf-8-sig"):
            return text
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
    except UnicodeDecodeError:
        reason = "is no UTF-8 text"
    raise UsageError(f"policy.tokenizer.chat_template={path_text(path)}: {reason}")
