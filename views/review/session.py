"""Who may see the pages, and which form was shown to whom: cookies and forms that are signed, and never stored.

The keys are drawn when the server starts, so what an earlier start gave out is worth nothing.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace

import msgspec

MAX_NAME_CHARACTERS = 60


@dataclass(frozen=True)
class Session:
    """What a browser's cookie says."""

    reviewer: str = ""  # none was named yet
    shows_differences: bool = False

    def named(self, reviewer: str) -> "Session":
        """Give the session of this reviewer."""
        return replace(self, reviewer=reviewer)


class Keys:
    """What a start of the server gives out, and knows again."""

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(24)
        """Stands in the address that is printed, and lets a browser in."""
        self._key = secrets.token_bytes(32)
        self._tokens_for_once: set[str] = set()

    def token_for_once(self) -> str:
        """Give a token that lets one browser in: others can see what a browser was started with."""
        token = secrets.token_urlsafe(24)
        self._tokens_for_once.add(token)
        return token

    def opens(self, token: str) -> bool:
        """Say whether this token lets a browser in."""
        if token in self._tokens_for_once:
            self._tokens_for_once.discard(token)
            return True
        return hmac.compare_digest(token.encode(), self.token.encode())

    def cookie(self, session: Session) -> str:
        """Give the value of the cookie of a session."""
        content = base64.urlsafe_b64encode(msgspec.json.encode(session)).decode()
        return f"{content}.{self.signature('cookie', content)}"

    def session(self, cookie: str) -> Session | None:
        """Read a cookie; None where this start of the server did not give it out."""
        content, _, signature = cookie.partition(".")
        if not self.signed(signature, "cookie", content):
            return None
        try:
            return msgspec.json.decode(base64.urlsafe_b64decode(content), type=Session)
        except (binascii.Error, msgspec.MsgspecError):
            return None

    def signature(self, *parts: object) -> str:
        """Sign what a form is for, so that it is taken only from the page, and the person, that it was shown to."""
        content = msgspec.json.encode([str(part) for part in parts])
        return hmac.new(self._key, content, hashlib.sha256).hexdigest()

    def signed(self, signature: str, *parts: object) -> bool:
        """Say whether this is the signature of these parts."""
        return hmac.compare_digest(signature.encode(), self.signature(*parts).encode())


def spelled_as_known(name: str, known: Iterable[str]) -> str:
    """Give the name under which somebody has answered already, if this one is it in another case of letters."""
    return next((each for each in known if each.casefold() == name.casefold()), name)


def tidy_name(name: str) -> str:
    """Bring a reviewer's name to one spelling: no margins, no double spaces, nothing that can't be seen."""
    seen = "".join(char for char in unicodedata.normalize("NFC", name) if unicodedata.category(char)[0] != "C")
    return " ".join(seen.split())[:MAX_NAME_CHARACTERS].strip()
