"""What access keys look like. Their shapes are public, so that they can be found; placeholders are left alone."""

import re
from typing import NamedTuple

from pipeline.gate.pair.screen import screen

MIN_DISTINCT = 8
"""Characters in a key; placeholders such as ghp_xxxx have fewer."""
KNOWN_EXAMPLES = ("EXAMPLE", "eyJzdWIiOiIxMjM0NTY3ODkw")
"""In keys of documentations: those of AWS end so, and the token of jwt.io is for the subject 1234567890."""


class _Kind(NamedTuple):
    """A kind of key: what it is called, and how it is written, its fixed beginning apart."""

    name: str
    beginning: str
    rest: str


KINDS = (
    _Kind("an AWS access key", "A[KS]IA", "[A-Z2-7]{16}"),
    _Kind("a GitHub token", "gh[oprsu]_", "[A-Za-z0-9]{36,}"),
    _Kind("a GitHub token", "github_pat_", "[A-Za-z0-9]{22}_[A-Za-z0-9]{59}"),
    _Kind("a GitLab token", "glpat-", "[A-Za-z0-9_-]{20,}"),
    _Kind("an Anthropic key", "sk-ant-", "[A-Za-z0-9_-]{40,}"),
    _Kind("an OpenAI key", "sk-(?:proj|svcacct|admin)-", "[A-Za-z0-9_-]{40,}"),
    _Kind("an OpenAI key", "sk-", "[A-Za-z0-9]{32,}"),
    _Kind("a Stripe key", "sk_live_", "[A-Za-z0-9]{24,}"),
    _Kind("a Hugging Face token", "hf_", "[A-Za-z0-9]{34}"),
    _Kind("a Slack token", "xox[abeoprs]-", "[0-9]{8,}-[A-Za-z0-9-]{10,}"),
    _Kind("a Google API key", "AIza", "[A-Za-z0-9_-]{35}"),
    _Kind("an NVIDIA key", "nvapi-", "[A-Za-z0-9_-]{60,}"),
    _Kind("an npm token", "npm_", "[A-Za-z0-9]{36}"),
    _Kind("a JSON Web Token", "eyJ", r"[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{20,}"),
)
PRIVATE_KEY = "-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
BODY = "(?:[^-]|-[^-]){0,400}?[A-Za-z0-9+/]{40}"
"""Of a private key, whose first lines may tell how it is encrypted."""

KEYS = "|".join((PRIVATE_KEY, *(f"{kind.beginning}{kind.rest}" for kind in KINDS)))
has_key = screen(KEYS)
_key = re.compile(
    f"(?<![A-Za-z0-9_-])(?:{'|'.join(f'({kind.beginning})({kind.rest})' for kind in KINDS)})(?![A-Za-z0-9])"
)
_private_key = re.compile(PRIVATE_KEY + BODY)


def secret_in(text: str) -> str:
    """Say of which kind the first key in a text is, and how long; nothing where there is none."""
    for found in _key.finditer(text):
        group = found.lastindex or 0
        is_example = len(set(found[group])) < MIN_DISTINCT or any(each in found[0] for each in KNOWN_EXAMPLES)
        if not is_example:
            return f"{KINDS[group // 2 - 1].name} of {len(found[0])} characters"
    return "a private key" if _private_key.search(text) else ""
