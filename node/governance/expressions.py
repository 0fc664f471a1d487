"""Label expressions, the conditions of policies: `C1 OR (C3 AND C7)`. AND binds tighter than OR."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from protocol.labels import spelled_label

from ..errors import InvalidInput

MAX_EXPRESSION = 1_000  # characters
MAX_DEPTH = 50  # parentheses inside one another


@dataclass(frozen=True, slots=True)
class Group:
    operator: Literal["AND", "OR"]
    parts: "tuple[Expression, ...]"


Expression = str | Group  # a str is one label


@lru_cache(1_000)  # a check of all feeds asks for the same ones
def parse(text: str) -> Expression:
    """Parse a label expression; raises InvalidInput that names the word which does not fit."""
    if len(text) > MAX_EXPRESSION:
        raise _invalid(text, f"it is longer than {MAX_EXPRESSION} characters")
    words = [match[0] for match in re.finditer(r"[()]|[^()\s]+", text)]
    expression, rest = _alternatives(words, text, 0)
    if rest:
        raise _invalid(text, f"{rest[0][:40]!r} does not belong there")
    return expression


def labels_of(expression: Expression) -> set[str]:
    if isinstance(expression, str):
        return {expression}
    return set().union(*(labels_of(part) for part in expression.parts))


def met_by(expression: Expression, labels: Iterable[str]) -> set[str] | None:
    """Return those of the labels that meet an expression, None where they do not meet it."""
    given = labels if isinstance(labels, set) else set(labels)
    if isinstance(expression, str):
        return {expression} if expression in given else None
    found = [met_by(part, given) for part in expression.parts]
    if (all if expression.operator == "AND" else any)(part is not None for part in found):
        return set().union(*(part for part in found if part is not None))
    return None


def _alternatives(words: list[str], text: str, depth: int) -> tuple[Expression, list[str]]:
    return _chain(words, text, depth, "OR", _conjunction)


def _conjunction(words: list[str], text: str, depth: int) -> tuple[Expression, list[str]]:
    return _chain(words, text, depth, "AND", _atom)


def _chain(
    words: list[str], text: str, depth: int, operator: Literal["AND", "OR"], part: "_Parser"
) -> tuple[Expression, list[str]]:
    first, rest = part(words, text, depth)
    parts = [first]
    while rest and rest[0].upper() == operator:
        following, rest = part(rest[1:], text, depth)
        parts.append(following)
    return (parts[0] if len(parts) == 1 else Group(operator, tuple(parts))), rest


def _atom(words: list[str], text: str, depth: int) -> tuple[Expression, list[str]]:
    if not words:
        raise _invalid(text, "it ends where a label is missing")
    word, rest = words[0], words[1:]
    if word == "(":
        if depth == MAX_DEPTH:
            raise _invalid(text, f"it is nested more than {MAX_DEPTH} deep")
        expression, rest = _alternatives(rest, text, depth + 1)
        if not rest or rest[0] != ")":
            raise _invalid(text, "a ')' is missing")
        return expression, rest[1:]
    if word == ")" or word.upper() in ("AND", "OR", "NOT"):
        raise _invalid(text, f"{word!r} stands where a label is missing")
    return spelled_label(word), rest


_Parser = Callable[[list[str], str, int], tuple[Expression, list[str]]]


def written(expression: Expression) -> str:
    """Return an expression as text, with the parentheses that it needs."""
    if isinstance(expression, str):
        return expression
    parts = (f"({written(part)})" if isinstance(part, Group) else part for part in expression.parts)
    return f" {expression.operator} ".join(parts)


def _invalid(text: str, reason: str) -> InvalidInput:
    return InvalidInput(
        f"cannot read the label expression {text[:80]!r}: {reason}", hint="for example 'C1 OR (C3 AND C7)'"
    )
