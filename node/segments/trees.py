"""A rule's tree in react-querybuilder's JSON shape: read from JSON or YAML, and written as JSON, YAML or text.

A tree from a file is as hostile as a text. It is checked here, written as text, and read by the parser of texts, so that
a tree can say nothing that a text cannot (rules.py).
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from psi.errors import Remedy

from ..errors import InvalidInput
from ..homes import check_input
from ..inputs.sql import quoted
from ..storage.records import Document
from .references import PATTERN

Tree = dict[str, Any]

MAX_FILE = 256 * 1024  # bytes, many times what the parser of texts takes
MAX_NODES = 2_000  # groups and comparisons
MAX_NESTED = 40  # groups in one another: no deeper than a text may be
_HINT, _REMEDY = "see how one looks", Remedy("segment.show", {"tree": "yaml"})

COMPARISONS = ("=", "!=", "<", "<=", ">", ">=")
_NEGATED = {  # react-querybuilder's words for the opposite
    "notNull": "null",
    "notIn": "in",
    "notBetween": "between",
    "doesNotContain": "contains",
    "doesNotBeginWith": "beginsWith",
    "doesNotEndWith": "endsWith",
}
_PATTERNS = {"contains": "%{}%", "beginsWith": "{}%", "endsWith": "%{}"}
REFERENCE = re.compile(PATTERN)


def load(path: Path) -> object:
    """Return the content of a JSON or YAML file; raises InvalidInput."""
    check_input(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
    except OSError as error:
        raise InvalidInput(
            f"cannot read {path}: {error.strerror}", hint="check the path and its permissions"
        ) from error
    if len(content) > MAX_FILE:
        raise InvalidInput(f"{path.name} is over {MAX_FILE // 1024} KiB", hint="build it from smaller segments")
    try:
        text = content.decode("utf-8-sig")
        return json.loads(text) if text.lstrip().startswith("{") else from_yaml(text)
    except (ValueError, RecursionError) as error:  # also of JSON, of numbers, and of UTF-8
        raise InvalidInput(
            f"{path.name} is neither JSON nor YAML that can be read", hint=_HINT, remedy=_REMEDY
        ) from error


def read(document: object) -> Tree:
    """Return the canonical tree of a document; raises InvalidInput for what is no tree."""
    return canonical(_node(document, 0, [0]))


def canonical(tree: Tree) -> Tree:
    """Return the one tree for what can be written in several ways: no needless group but the outermost."""
    found = _simplified(tree)
    return found if "rules" in found else {"combinator": "and", "rules": [found]}


def written(tree: Tree, test: Callable[[Tree], str] | None = None) -> str:
    """Return a canonical tree as text, which parses to the same tree; `test` writes a leaf in another language."""
    if "rules" not in tree:
        return (test or _comparison)(tree)
    parts = [
        f"({written(each, test)})" if "rules" in each and "not" not in each else written(each, test)
        for each in tree["rules"]
    ]
    inner = f" {tree['combinator'].upper()} ".join(parts)
    if "not" not in tree:
        return inner
    return f"NOT ({inner})" if len(parts) > 1 else f"NOT {inner}"


def dumped(tree: Tree, form: str) -> str:
    """Return a tree as "json" or "yaml", in the form that `load` reads."""
    if form == "json":
        return json.dumps(tree, indent=2, ensure_ascii=False)
    import yaml

    text: str = yaml.dump(tree, Dumper=_dumper(), sort_keys=False, allow_unicode=True)
    return text.rstrip("\n")


def _simplified(tree: Tree) -> Tree:
    if "rules" not in tree:
        return tree
    rules, negated = [_simplified(each) for each in tree["rules"]], bool(tree.get("not"))
    combinator = tree["combinator"]
    if len(rules) == 1:
        only = rules[0]
        if "rules" in only:
            combinator, rules, negated = only["combinator"], only["rules"], negated != ("not" in only)
        elif not negated:
            return only
        if len(rules) == 1:
            if not negated:
                return rules[0]
            combinator = "and"
    return {"combinator": combinator, **({"not": True} if negated else {}), "rules": rules}


# Reading


def _node(found: object, depth: int, seen: list[int]) -> Tree:
    seen[0] += 1
    if seen[0] > MAX_NODES or depth > MAX_NESTED:
        raise InvalidInput("the tree is too large or nested too deeply", hint="build it from smaller segments")
    if not isinstance(found, Mapping):
        raise _no_tree(f"{_short(found)} is neither a group nor a comparison")
    if "rules" in found:
        _check_keys(found, {"combinator", "not", "rules"})
        combinator, rules, negated = found.get("combinator"), found["rules"], found.get("not", False)
        if combinator not in ("and", "or"):
            raise _no_tree(f"a combinator is 'and' or 'or', not {_short(combinator)}")
        if not isinstance(negated, bool):
            raise _no_tree("'not' is true or false")
        if not isinstance(rules, list) or not rules:
            raise _no_tree("a group has a list of rules with one at least")
        inner = [_node(each, depth + 1, seen) for each in rules]
        return {"combinator": combinator, **({"not": True} if negated else {}), "rules": inner}
    _check_keys(found, {"field", "operator", "value"})
    field, operator, value = found.get("field"), found.get("operator"), found.get("value")
    if not isinstance(field, str) or not isinstance(operator, str):
        raise _no_tree("a comparison has a field and an operator")
    if operator in _NEGATED:
        return {"combinator": "and", "not": True, "rules": [_leaf(field, _NEGATED[operator], value)]}
    return _leaf(field, operator, value)


def _leaf(field: str, operator: str, value: object) -> Tree:
    if REFERENCE.fullmatch(field) and (operator, value) != ("=", True):
        raise _no_tree(f"{field} is a segment: its operator is '=' and its value true")
    if operator in _PATTERNS:
        if not isinstance(value, str) or "%" in value or "_" in value:
            raise _no_tree(f"{operator} needs a text without '%' and '_'")
        operator, value = "like", _PATTERNS[operator].format(value)
    match operator:
        case "null":
            checked: object = None
        case "in" | "between":
            given = [each.strip() for each in value.split(",")] if isinstance(value, str) else value
            if not isinstance(given, list) or not given or (operator == "between" and len(given) != 2):
                raise _no_tree(f"{operator} needs a list of {'two ' if operator == 'between' else ''}values")
            checked = [_value(each) for each in given]
        case "like":
            checked = _value(value)
            if not isinstance(checked, str):
                raise _no_tree("like needs a text")
        case _ if operator in COMPARISONS:
            checked = _value(value)
        case _:
            raise _no_tree(f"there is no operator {_short(operator)}")
    return {"field": field, "operator": operator, "value": checked}


def _value(value: object) -> str | int | float | bool:
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int) and abs(value) < 2**53:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise _no_tree(f"{_short(value)} is no value: a text, a number, true or false")


def _check_keys(found: Mapping[Any, Any], known: set[str]) -> None:
    if found.get("valueSource", "value") != "value":
        raise _no_tree("a field is compared with values, not with another field")
    for key in found:
        if key not in known | {"id", "valueSource"}:  # a builder's own marks, which mean nothing here
            raise _no_tree(f"there is no {_short(key)} in a tree")


def _short(found: object) -> str:
    """Return what a message may show of something of any size."""
    if isinstance(found, str | bool) or found is None:
        return repr(found if not isinstance(found, str) else found[:40])
    return f"a {type(found).__name__}"


def _no_tree(reason: str) -> InvalidInput:
    return InvalidInput(f"the tree cannot be read: {reason}", hint=_HINT, remedy=_REMEDY)


@cache
def _loader() -> Any:
    """Return PyYAML's safe loader without aliases (a few lines that stand for millions), and without its old readings
    of NO as false, 12:30 as 750, and dates."""
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers: Document = {}  # noqa: RUF012 - PyYAML's way

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("aliases are not taken")
            return super().compose_node(parent, index)

    for tag, pattern, first in (
        ("bool", r"true|false", "tf"),
        ("null", r"null|~|", ["n", "~", ""]),
        ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
        ("float", r"[-+]?[0-9]+\.[0-9]*(?:[eE][-+][0-9]+)?", "-+0123456789"),
    ):
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"(?:{pattern})\Z"), list(first))
    return Loader


def from_yaml(text: str) -> object:
    """Return what a YAML text contains; raises ValueError."""
    import yaml

    try:
        return yaml.load(text, Loader=_loader())  # noqa: S506 - a safe loader
    except yaml.YAMLError as error:
        raise ValueError("no YAML") from error


# Writing


@cache
def _dumper() -> Any:
    """Return PyYAML's safe dumper that quotes every line break of Unicode: unquoted, the reader makes a space of it."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def represent_str(self, data: str) -> Any:
            return self.represent_scalar("tag:yaml.org,2002:str", data, style='"' if _BREAK.search(data) else None)

    Dumper.add_representer(str, Dumper.represent_str)
    return Dumper


_BREAK = re.compile("[\x85\u2028\u2029]")


def _comparison(leaf: Tree) -> str:
    field, operator, value = leaf["field"], leaf["operator"], leaf["value"]
    if REFERENCE.fullmatch(field):
        return str(field)
    name = field if _is_plain(field) else quoted(field)
    match operator:
        case "null":
            return f"{name} IS NULL"
        case "in":
            return f"{name} IN ({', '.join(map(_literal, value))})"
        case "between":
            return f"{name} BETWEEN {_literal(value[0])} AND {_literal(value[1])}"
        case "like":
            return f"{name} LIKE {_literal(value)}"
    return f"{name} {operator} {_literal(value)}"


def _is_plain(name: str) -> bool:
    """Return whether a name can be written without quotes: words and dots, none of which means something else."""
    from sqlglot import TokenType, tokenize

    if re.fullmatch(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*", name, re.ASCII) is None:
        return False
    return all(token.token_type in (TokenType.VAR, TokenType.DOT) for token in tokenize(name, read="duckdb"))


def _literal(value: str | int | float | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)
