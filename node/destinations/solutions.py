"""The solutions of the Experience Cloud, and the token that each of them has."""

import re
from dataclasses import dataclass, field

from ..errors import InvalidInput
from .kinds import Settings
from .records import HERE

SOLUTIONS = {
    "audience-manager": "Audience Manager",
    "analytics": "Analytics",
    "advertising-cloud": "Advertising Cloud",
    "campaign": "Campaign",
    "target": "Target",
    "marketo": "Marketo",
}
TOKEN = re.compile(r"[!-~]{1,4096}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """One of a connection's solutions, with the settings of its own."""

    name: str
    settings: dict[str, str]
    token: bytes | None = field(repr=False)  # none: it is this project's own side


def with_tokens(settings: Settings, tokens: bytes | None) -> list[Solution]:
    """Return the solutions that checked settings name, each with its token: a line SOLUTION=TOKEN each, or one token for
    all. Raises InvalidInput."""
    own = [name for name in SOLUTIONS if settings.get(name) == HERE]
    named = [name for name in SOLUTIONS if name in settings and name not in own]
    given: dict[str, bytes | None] = {**_tokens(tokens or b"", named), **dict.fromkeys(own)}
    without = [name for name in named if name not in given]
    if without or given.keys() - {*named, *own}:
        wrong = without[0] if without else min(given.keys() - {*named, *own})
        raise InvalidInput(
            f"{wrong} has an address and no token" if without else f"{wrong} has a token and no address",
            hint="hand over a file with one token for all, or with a line SOLUTION=TOKEN for each",
        )
    shared = {name: value for name, value in settings.items() if name not in SOLUTIONS}
    return [
        Solution(name=name, settings={"url": settings[name], **shared}, token=given[name]) for name in (*own, *named)
    ]


def checked_token(given: bytes, noun: str) -> bytes:
    """Return a token without what stands around it; raises InvalidInput."""
    token = given.strip()
    if not TOKEN.fullmatch(token.decode(errors="replace")):
        raise InvalidInput(f"that is no token of {noun}", hint="it has no spaces, and at most 4,096 characters")
    return token


def _tokens(text: bytes, named: list[str]) -> dict[str, bytes]:
    lines = [line.strip() for line in text.decode(errors="replace").splitlines() if line.strip()]
    pairs = [line.partition("=") for line in lines]
    if not all(name.strip() in SOLUTIONS for name, _, _ in pairs):
        pairs = [(name, "=", lines[0]) for name in named or [""]] if len(lines) == 1 else [("", "", "")]
    found = {name.strip(): token.strip() for name, _, token in pairs}
    if "" in found or len(found) < len(pairs) or not all(map(TOKEN.fullmatch, found.values())):
        raise InvalidInput(
            "these are no tokens of solutions",
            hint=f"write one token, or a line SOLUTION=TOKEN each, of {', '.join(SOLUTIONS)}",
        )
    return {name: token.encode() for name, token in found.items()}
