"""Tests that AND, OR, NOT and parentheses join: what the rules of traits and of segments have in common.

AND binds tighter than OR. A rule is refused that somebody meets of whom nothing is known, such as a lone NOT: it would take
in everybody, and no index and no bitmap could say whom.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from ..errors import InvalidInput
from ..segments import trees
from ..segments.rules import MAX_DEPTH, MAX_EXPRESSION, storable
from ..segments.trees import Tree

WORDS = ("AND", "OR", "NOT")
SHOWN = 40  # characters that an error shows of a rule

_TOKEN = re.compile(
    r"""\s*(?:(?P<quoted>"(?:[^"]|"")*")
          |(?P<sign>==|=>|=|!=|<=|>=|<|>|[()\[\],])
          |(?P<word>[^\s()\[\],"=<>!]+)
          |(?P<other>\S))""",
    re.VERBOSE,
)


class Token(NamedTuple):
    kind: str  # "quoted", "sign", "word", "other", "end"
    text: str
    place: int  # in the rule, from 0

    def is_word(self, word: str) -> bool:
        return self.kind in ("word", "sign") and self.text.upper() == word


class Reader:
    """Reads a rule from left to right; `test` reads one test of it and returns its leaf, or a tree of leaves."""

    def __init__(self, text: str, test: "Callable[[Reader], Tree]", *, hint: str) -> None:
        self._hint, self._test = hint, test
        if len(text) > MAX_EXPRESSION:
            raise InvalidInput(f"the rule is over {MAX_EXPRESSION} characters long", hint=hint)
        if not storable(text):
            raise InvalidInput("the rule has characters that are no text", hint=hint)
        self._tokens = [
            Token(found.lastgroup or "", found[found.lastgroup or 0], found.start(found.lastgroup or 0))
            for found in _TOKEN.finditer(text)
        ]
        self._tokens.append(Token("end", "", len(text)))
        self._next = 0

    def rule(self, written: Callable[[Tree], str], unknown: Callable[[Tree], bool]) -> Tree:
        """Return the canonical tree of the whole text; raises InvalidInput.

        `unknown` says of a leaf whether somebody meets it of whom nothing is known.
        """
        tree = trees.canonical(self._alternatives(0))
        if self.token.kind != "end":
            raise self.expected("AND, OR or the end")
        if _levels(tree) > MAX_DEPTH:
            raise self._too_deep()
        if len(written(tree)) > MAX_EXPRESSION:
            raise InvalidInput(f"the rule is over {MAX_EXPRESSION} characters long, written out", hint=self._hint)
        if holds(tree, unknown):
            raise InvalidInput(
                "everybody of whom nothing is known meets the rule",
                hint=f"join it by AND with what has to be there; {self._hint}",
            )
        return tree

    @property
    def token(self) -> Token:
        return self._tokens[self._next]

    def take(self) -> Token:
        """Return the next token and step over it."""
        found = self.token
        self._next += found.kind != "end"
        return found

    def took(self, word: str) -> bool:
        """Step over a word or sign if it is the next one; return whether it was."""
        if not self.token.is_word(word):
            return False
        self._next += 1
        return True

    def expect(self, word: str) -> None:
        if not self.took(word):
            raise self.expected(repr(word))

    def expected(self, what: str) -> InvalidInput:
        """Return the error that something else stands where `what` has to be."""
        found = self.token
        if found.kind == "end":
            shown = "the end"
        elif found.text == '"':
            shown = "a quote that does not end"
        else:
            shown = repr(found.text[:SHOWN])
        return self.refused(f"expected {what} but found {shown}")

    def refused(self, reason: str, token: Token | None = None) -> InvalidInput:
        """Return the error that a rule cannot be read at the next token, or at another one."""
        place = (token or self.token).place + 1
        return InvalidInput(f"the rule cannot be read at character {place}: {reason}", hint=self._hint)

    def _alternatives(self, depth: int) -> Tree:
        return self._chain("OR", self._conjunction, depth)

    def _conjunction(self, depth: int) -> Tree:
        return self._chain("AND", self._negation, depth)

    def _chain(self, word: str, part: Callable[[int], Tree], depth: int) -> Tree:
        parts = [part(depth)]
        while self.took(word):
            parts.append(part(depth))
        return parts[0] if len(parts) == 1 else {"combinator": word.lower(), "rules": parts}

    def _negation(self, depth: int) -> Tree:
        negated = False
        while self.took("NOT"):
            negated = not negated
        if self.took("("):
            if depth == MAX_DEPTH:
                raise self._too_deep()
            tree = self._alternatives(depth + 1)
            self.expect(")")
        else:
            tree = self._test(self)
        return {"combinator": "and", "not": True, "rules": [tree]} if negated else tree

    def _too_deep(self) -> InvalidInput:
        return self.refused(f"it is nested more than {MAX_DEPTH} deep")


def holds(tree: Tree, test: Callable[[Tree], bool]) -> bool:
    """Return whether a tree is met, given whether each of its leaves is."""
    if "rules" not in tree:
        return test(tree)
    found = (all if tree["combinator"] == "and" else any)(holds(each, test) for each in tree["rules"])
    return found != bool(tree.get("not"))


def _levels(tree: Tree) -> int:
    return 1 + max(map(_levels, tree["rules"])) if "rules" in tree else 0
