"""Rules of traits: tests of the signals of one call, as in `(a == "1" OR b == "1") AND price >= 100`.

    test  = key op value           key = digits* letter {letter | digit | "-" | "_"}, or quoted
    op    = "==" | "=" | "!=" | "<" | ">" | "<=" | ">=" | "=>"
          | contains | startswith | endswith | matcheswords | matchesregex
    value = quoted | number | word          quoted = '"' {any but '"', or '""' for one} '"'

Keys and values are case-sensitive, the words are not. What a test means is in trait_index.py.
"""

import re
from functools import lru_cache
from typing import Any

from ..errors import InvalidInput
from ..segments import trees
from ..segments.trees import Tree
from .expressions import WORDS, Reader

MAX_PATTERN = 1_000  # characters of a regular expression
PATTERN_MEMORY = (
    1 << 20
)  # bytes that one, or some that are matched at once, may take with the states of their automaton

_OPERATORS = {  # as written, and react-querybuilder's word
    "==": "=",
    "=": "=",
    "!=": "!=",
    "<": "<",
    ">": ">",
    "<=": "<=",
    ">=": ">=",
    "=>": ">=",
    "contains": "contains",
    "startswith": "beginsWith",
    "endswith": "endsWith",
    "matcheswords": "matchesWords",
    "matchesregex": "matchesRegex",
}
_WRITTEN = {word: sign for sign, word in reversed(_OPERATORS.items())}
_RELATIONAL = ("<", ">", "<=", ">=")
_NUMBER = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?")
_WORD = re.compile(r"\w+")
_KEY = re.compile(r"[0-9]*[A-Za-z][A-Za-z0-9_-]*")
_HINT = 'write for example: (a == "1" OR b == "1") AND price >= 100 AND NOT page contains "sale"'


def parse(text: str) -> Tree:
    """Return the canonical tree of a rule; raises InvalidInput with the place and what was expected there.

    A leaf has a key as its `field`, an `operator`, and always a text as its `value`.
    """
    return Reader(text, _test, hint=_HINT).rule(written, lambda leaf: False)


def written(tree: Tree) -> str:
    """Return a canonical tree as text, which parses to the same tree."""
    return trees.written(tree, _written_test)


def number(text: str) -> str | None:
    """Return a decimal number in the one way to write its value ("+07.50" is "7.5"), None for what is no number.

    There is no exponent: identifiers such as "12e5" are texts.
    """
    found = _NUMBER.fullmatch(text)
    if found is None or not (found[2] or found[3]):
        return None
    whole, fraction = found[2].lstrip("0") or "0", (found[3] or "").rstrip("0")
    value = f"{whole}.{fraction}" if fraction else whole
    return f"-{value}" if found[1] == "-" and value != "0" else value


def words(text: str) -> list[str]:
    """Return the words of a text, which are runs of letters, digits and "_"."""
    return _WORD.findall(text)


@lru_cache(100)
def compiled(pattern: str) -> Any:
    """Return a regular expression of RE2, which takes linear time and bounded memory; raises InvalidInput."""
    import re2

    try:
        return re2.compile(pattern.encode(), pattern_options())
    except re2.error as error:
        reason = error.args[0] if error.args else b""
        shown = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise InvalidInput(f"the regular expression cannot be used: {shown[:100]!r}", hint=_HINT) from error


def pattern_options() -> Any:
    import re2

    options = re2.Options()
    options.log_errors, options.max_mem, options.never_capture = False, PATTERN_MEMORY, True
    return options


def _test(reader: Reader) -> Tree:
    key = _key(reader)
    sign = reader.token
    operator = _OPERATORS.get(sign.text.lower()) if sign.kind in ("sign", "word") else None
    if operator is None:
        raise reader.expected("an operator such as ==, >= or contains")
    reader.take()
    place = reader.token
    value = _value(reader)
    if operator in ("contains", "beginsWith", "endsWith") and not value:
        raise reader.refused(f"{sign.text} needs a text that is not empty", place)
    if operator == "matchesWords" and not words(value):
        raise reader.refused(f"{sign.text} needs a word at least", place)
    if operator == "matchesRegex":
        try:
            if len(value) > MAX_PATTERN:
                raise InvalidInput(f"the regular expression is over {MAX_PATTERN} characters long")
            compiled(value)
        except InvalidInput as error:
            raise reader.refused(str(error), place) from error
    return {"field": key, "operator": operator, "value": value}


def _key(reader: Reader) -> str:
    found = reader.token
    if found.kind == "quoted" and len(found.text) > 2:
        return _unquoted(reader.take().text)
    if found.kind != "word" or found.text.upper() in WORDS:
        raise reader.expected("a key")
    if not _KEY.fullmatch(found.text):
        raise reader.expected("a key, which stands in quotes if it is more than digits, letters, '-' and '_'")
    return reader.take().text


def _value(reader: Reader) -> str:
    found = reader.token
    if found.kind == "quoted":
        return _unquoted(reader.take().text)
    if found.kind != "word" or found.text.upper() in WORDS:
        raise reader.expected("a value")
    return reader.take().text


def _unquoted(text: str) -> str:
    return text[1:-1].replace('""', '"')


def _written_test(leaf: Tree) -> str:
    key, operator, value = leaf["field"], leaf["operator"], leaf["value"]
    plain = _KEY.fullmatch(key) and key.upper() not in WORDS
    bare = operator in _RELATIONAL and number(value) is not None
    return f"{key if plain else _quoted(key)} {_WRITTEN[operator]} {value if bare else _quoted(value)}"


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
