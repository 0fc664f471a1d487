"""Users of a node, commands in their names, and what they are refused."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from node.access.audit import Result
from node.access.users import Token
from node.node import Node
from psi.errors import VesicaError


@contextmanager
def signed_in(node: Node, token: Token | str | None) -> Iterator[Node]:
    """Open a home once more, as a command does, for the user whose token it is."""
    with Node.open(node.home.path, now=node.home.now) as opened:
        opened.sign_in(token.text if isinstance(token, Token) else token)
        yield opened


def crew(node: Node, **roles: str) -> dict[str, Token]:
    """Make ann, administrator of the node, and a user of each other name with one role; return their tokens."""
    tokens = {"ann": node.users.create("ann", ["administrator"])}
    with signed_in(node, tokens["ann"]) as anns:
        return tokens | {name: anns.users.create(name, [role]) for name, role in roles.items()}


def denied(node: Node, act: str) -> list[tuple[str, str]]:
    """Return who was refused an act, newest first, and with what code."""
    with node.home.guard.itself():
        return [
            (entry.actor, entry.detail["error"]["code"]) for entry in node.audit.entries(act=act, result=Result.DENY)
        ]


def told(error: type[VesicaError], act: Any, name: str, *more: Any, **options: Any) -> tuple[str, str]:
    """Return what a refusal says and proposes, with a place for the name that was asked for."""
    with pytest.raises(error) as caught:
        act(name, *more, **options)
    text, hint = (re.sub(rf"\b{re.escape(name)}\b", "NAME", each) for each in (str(caught.value), caught.value.hint))
    return text, hint
