"""Segment rules: an expression as our own tree, and the query that is built from the tree.

The text is hostile: sqlglot only parses it, what is not on the list below is refused, and only values, as parameters, and
names of known fields reach the database. A tree is read through its text (trees.py).
A comparison with a missing value is false, so that NOT takes in the profiles that have none.
"""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from ..errors import Failure, InvalidInput, nearest, spaced
from ..governance.lineage import REFERENCES, place_of
from ..inputs.sql import SPILLED, quoted
from ..people.audiences import numbers
from ..people.snapshots import NUMBER
from ..storage.records import Document
from ..storage.temporary import new_directory
from . import trees
from .references import NAMES, PATTERN
from .rule_query import RuleQuery
from .trees import Tree

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection
    from sqlglot import exp

FieldPath = tuple[str, str]  # dataset, column

PROFILES = 1 << 19  # that a rule is evaluated for at once: a table of them takes some 50 MB
MAX_EXPRESSION = 10_000  # characters: no person writes more, and a parser's stack is finite
MAX_DEPTH = 40
STOPPED = 40  # characters that an error shows of where the parser stopped
MAX_LIST = 1_000  # values of an IN

_SETTINGS = {
    "memory_limit": "1GB",
    "temp_directory": "",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
}

_SEGMENT = re.compile(rf"""'(?:[^']|'')*'|"(?:[^"]|"")*"|\b({PATTERN})""")


@dataclass(frozen=True, slots=True)
class Rule:
    """A parsed rule. `uses` is what it reads: "dataset.field", "own.SEGMENT", "received.PARTNER.SEGMENT", sorted."""

    tree: Tree

    @property
    def uses(self) -> list[str]:
        return sorted({leaf["field"] for leaf in leaves(self.tree)})


def parse(expression: str, fields: Mapping[str, FieldPath]) -> Rule:
    """Read an expression over `fields` (every name that may be written, and what it stands for) and over segments."""
    import sqlglot
    from sqlglot.errors import SqlglotError

    if len(expression) > MAX_EXPRESSION:
        raise InvalidInput(f"the rule is over {MAX_EXPRESSION} characters long", hint="build it from smaller segments")
    if not expression.strip():
        raise InvalidInput("the rule is empty", hint=_HINT)
    if not storable(expression):
        raise InvalidInput("the rule has characters that are no text", hint=_HINT)
    try:
        found = sqlglot.parse(_SEGMENT.sub(_quote_segment, expression), read="duckdb")
        if len(found) != 1 or found[0] is None:
            raise InvalidInput("the rule is more than one expression", hint=_HINT)
        return Rule(trees.canonical(_Parser(fields).node(found[0], 0)))
    except (SqlglotError, RecursionError) as error:
        raise InvalidInput(f"the rule cannot be read{_where(error, expression)}", hint=_HINT) from error


def _where(error: Exception, expression: str) -> str:
    """Return where the parser stopped in an expression, in which it saw the names of segments quoted; "" if unknown."""
    from sqlglot.errors import ParseError

    if not isinstance(error, ParseError) or not error.errors:
        return ": a quote is open" if expression.count("'") % 2 else ""
    stop = error.errors[0]
    seen = _SEGMENT.sub(_quote_segment, expression).split("\n")
    place = sum(len(line) + 1 for line in seen[: stop["line"] - 1]) + stop["col"] - len(stop["highlight"])
    added = 0
    for each in _SEGMENT.finditer(expression):
        if each.start() + added >= place:
            break
        added += len(_quote_segment(each)) - len(each[0])
    rest = expression[place - added :].strip()
    if len(rest) <= len(stop["highlight"]):
        return f": something is missing or too much at its end, {expression.strip()[-STOPPED:]!r}"
    return f" from here on: {rest[:STOPPED]!r}"


def storable(text: str) -> bool:
    """Return whether a text can be stored and sent: no NUL and no half of a surrogate pair."""
    return "\0" not in text and not any("\ud800" <= each <= "\udfff" for each in text)


def leaves(tree: Tree) -> Iterator[Tree]:
    """Yield the comparisons and segment references of a tree."""
    if "rules" in tree:
        for each in tree["rules"]:
            yield from leaves(each)
    else:
        yield tree


_HINT = "write for example: orders >= 5 AND (country IN ('GB', 'IE') OR own.vip) AND NOT received.partner.lapsed"

_HYPHEN = "a segment is own.NAME, and needs no quotes; an attribute with a hyphen stands in double quotes, a text in single ones"


def _quote_segment(match: re.Match[str]) -> str:
    """Quote the names of a segment reference: they may have '-' and '.'."""
    place = place_of(match[1] or "")
    if place is None:
        return match[0]
    word, *names = match[0].split(".", NAMES[place.kind])
    return ".".join([word, *(f'"{name}"' for name in names)])


class _Parser:
    def __init__(self, fields: Mapping[str, FieldPath]) -> None:
        self._fields = fields

    def node(self, found: "exp.Expr", depth: int) -> Tree:
        from sqlglot import exp

        if depth > MAX_DEPTH:
            raise InvalidInput("the rule is nested too deeply", hint="build it from smaller segments")
        _check_arguments(found)
        match found:
            case exp.Paren():
                return self.node(found.this, depth + 1)
            case exp.And() | exp.Or():
                kind = type(found)
                return {
                    "combinator": "and" if kind is exp.And else "or",
                    "rules": [self.node(each, depth + 1) for each in _chain(found, kind)],
                }
            case exp.Not():
                return {"combinator": "and", "not": True, "rules": [self.node(found.this, depth + 1)]}
            case exp.Column():
                return self._segment(found)
            case exp.EQ() | exp.NEQ() | exp.LT() | exp.LTE() | exp.GT() | exp.GTE():
                return self._comparison(found)
            case exp.Like() if isinstance(found.expression, exp.Literal) and found.expression.is_string:
                leaf = self._leaf(found.this, "like", found.expression.name)
                return {"combinator": "and", "not": True, "rules": [leaf]} if found.args.get("negate") else leaf
            case exp.Is() if isinstance(found.expression, exp.Null):
                return self._leaf(found.this, "null", None)
            case exp.In() if found.expressions:
                values = [_value(each) for each in found.expressions]
                if len(values) > MAX_LIST:
                    raise InvalidInput(f"an IN has over {MAX_LIST} values", hint="import them as a segment's members")
                return self._leaf(found.this, "in", values)
            case exp.Between():
                return self._leaf(found.this, "between", [_value(found.args["low"]), _value(found.args["high"])])
        raise _unsupported(found)

    def _comparison(self, found: "exp.Expr") -> Tree:
        from sqlglot import exp

        left, operator, right = found.this, _OPERATORS[type(found).__name__], found.expression
        if isinstance(right, exp.Column) and not isinstance(left, exp.Column):
            left, operator, right = right, _FLIPPED.get(operator, operator), left
        return self._leaf(left, operator, _value(right))

    def _leaf(self, column: "exp.Expr", operator: str, value: Any) -> Tree:
        from sqlglot import exp

        if not isinstance(column, exp.Column):
            raise _unsupported(column)
        _check_arguments(column)
        name = _name(column)
        if name in self._fields:
            dataset, field = self._fields[name]
            return {"field": f"{dataset}.{field}", "operator": operator, "value": value}
        if place_of(name) is not None:
            raise InvalidInput(f"{name[:200]} is a segment, not a value", hint=f"write {name[:200]} alone, or NOT")
        known = ", ".join(sorted(name for name in self._fields if "." in name)[:20]) or "none yet"
        raise InvalidInput(
            f"there is no attribute {name[:200]!r}, or more than one dataset has it",
            hint=f"{nearest(name, self._fields)}attributes are {known}; texts stand in single quotes",
        )

    def _segment(self, column: "exp.Column") -> Tree:
        parts = [part.name for part in column.parts]
        if parts[0] in REFERENCES and len(parts) == 1 + NAMES[REFERENCES[parts[0]]]:
            return {"field": ".".join(parts), "operator": "=", "value": True}
        if _name(column) in self._fields:
            raise InvalidInput(f"{_name(column)!r} is not a condition", hint=f"compare it: {_name(column)} = true")
        raise self._unknown(column)

    def _unknown(self, column: "exp.Column") -> InvalidInput:
        return InvalidInput(
            f"there is no segment {_name(column)[:200]!r}", hint="write own.NAME or received.PARTNER.NAME"
        )


_ARGUMENTS = {  # what a node may have: a later version of the parser could add something that changes the meaning
    "Paren": {"this"},
    "Not": {"this"},
    "Column": {"this", "table", "db"},
    "Like": {"this", "expression", "negate"},
    "In": {"this", "expressions"},
    "Between": {"this", "low", "high"},
}


def _check_arguments(found: "exp.Expr") -> None:
    known = _ARGUMENTS.get(type(found).__name__, {"this", "expression"})
    if any(value for name, value in found.args.items() if name not in known):
        raise _unsupported(found)


_OPERATORS = {"EQ": "=", "NEQ": "!=", "LT": "<", "LTE": "<=", "GT": ">", "GTE": ">="}
_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


def _chain(found: "exp.Expr", kind: type) -> list["exp.Expr"]:
    """Return the parts of a AND b AND c, which the parser nests to the left, in order."""
    parts: list[exp.Expr] = []
    while isinstance(found, kind):
        parts.append(found.expression)
        found = found.this
    return [found, *reversed(parts)]


def _name(column: "exp.Column") -> str:
    return ".".join(part.name for part in column.parts)


def _value(found: "exp.Expr") -> str | int | float | bool:
    from sqlglot import exp

    match found:
        case exp.Boolean():
            return bool(found.this)
        case exp.Neg() if isinstance(found.this, exp.Literal) and not found.this.is_string:
            number = _value(found.this)
            return -number if isinstance(number, (int, float)) else number
        case exp.Literal() if found.is_string:
            return str(found.this)
        case exp.Literal():
            text = str(found.this)
            number = float(text)
            if not math.isfinite(number):
                raise InvalidInput("a number of the rule is too large", hint=_HINT)
            return int(text) if text.isdigit() and len(text) < 16 else number
        case exp.Column():
            name = _name(found)[:200]
            raise InvalidInput(
                f"a rule compares with a value, and {name} is none", hint="texts take single quotes: 'GB'"
            )
    raise _unsupported(found)


def _unsupported(found: "exp.Expr") -> InvalidInput:
    from sqlglot import exp

    what = spaced(type(found).__name__)
    if what == "alias":
        return InvalidInput(
            f"the rule cannot be read at {found.alias[:STOPPED]!r}: a word before it is missing", hint=_HINT
        )
    if what == "sub":
        if found.find(exp.Column):
            return InvalidInput("a rule cannot have a subtraction", hint=_HYPHEN)
        return InvalidInput("a rule cannot have a subtraction", hint="dates stand in single quotes: '2026-01-31'")
    return InvalidInput(
        f"a rule cannot have {what}",
        hint="use =, !=, <, <=, >, >=, IN, BETWEEN, LIKE, IS NULL, AND, OR, NOT, own.X and received.PARTNER.X",
    )


def evaluate(
    tree: Tree,
    *,
    profiles: int | BitMap,
    attributes: Mapping[str, Path],
    fields: Mapping[str, FieldPath],
    segments: Mapping[str, BitMap],
    columns: Mapping[FieldPath, npt.NDArray[Any]] | None = None,
) -> BitMap:
    """Return the numbers, of all of so many `profiles` or of some, that a tree takes in.

    `attributes` are the files of the datasets, `fields` what "dataset.field" stands for, `segments` the members of each
    reference ("own.vip"); `columns` are fields that no file has, a text or None for each profile.
    """
    import duckdb

    query = RuleQuery(fields)
    condition, found = query.condition(tree), BitMap()
    try:
        with ExitStack() as stack:
            settings: Document = dict(_SETTINGS)
            if attributes:  # what does not fit into memory goes beside them, where nobody else reads it
                beside = next(iter(attributes.values())).parent
                settings["temp_directory"] = str(stack.enter_context(new_directory(beside, SPILLED)))
            everyone = numbers(profiles) if isinstance(profiles, BitMap) else np.arange(profiles, dtype=np.uint32)
            for rows in (everyone[start : start + PROFILES] for start in range(0, len(everyone), PROFILES)):
                with duckdb.connect(":memory:", config=settings) as connection:
                    connection.execute("SET enable_progress_bar = false")  # it would stand among what a command prints
                    _load(connection, query, rows, attributes, columns or {})
                    here = BitMap(range(int(rows[0]), int(rows[-1]) + 1))
                    for name, table in query.segments.items():
                        _fill(connection, table, numbers(segments[name] & here))
                    connection.execute("SET enable_external_access = false; SET lock_configuration = true")
                    joins = " ".join(f"LEFT JOIN {each} ON {each}.number = p.number" for each in query.tables.values())
                    statement = f"SELECT p.number AS number FROM p {joins} WHERE {condition}"  # noqa: S608 - ours
                    taken = connection.execute(statement, query.parameters).fetchnumpy()["number"]
                found |= BitMap(np.asarray(taken, np.uint32))
    except duckdb.OutOfMemoryException as error:
        raise Failure("the rule needs more memory than it may have", hint="build it from smaller segments") from error
    except duckdb.IOException as error:
        raise Failure("attributes cannot be read, or people were erased meanwhile", hint="run it again") from error
    return found


def _load(
    connection: "DuckDBPyConnection",
    query: RuleQuery,
    rows: npt.NDArray[np.uint32],
    attributes: Mapping[str, Path],
    columns: Mapping[FieldPath, npt.NDArray[Any]],
) -> None:
    """Make the tables of a query: "p" has some profiles, whose numbers ascend, and the others what it reads of these."""
    _fill(connection, "p", rows)
    consecutive = int(rows[-1]) - int(rows[0]) == len(rows) - 1
    some = f"{quoted(NUMBER)} BETWEEN ? AND ?"  # reads only those groups of a file's rows where they are
    some += "" if consecutive else f" AND {quoted(NUMBER)} IN (SELECT number FROM p)"  # noqa: S608 - our own
    for dataset, aliases in query.columns.items():
        table = query.tables[dataset]
        if dataset not in attributes:
            given = {alias: columns[dataset, field][rows] for field, alias in aliases.items()}
            connection.register("given", {"number": rows, **given})
            texts = ", ".join(f"CAST({alias} AS VARCHAR) AS {alias}" for alias in given)
            connection.execute(f"CREATE TABLE {table} AS SELECT number, {texts} FROM given")  # noqa: S608
            connection.unregister("given")
            continue
        names = ", ".join(f"{quoted(field)} AS {alias}" for field, alias in aliases.items())
        columns_of = f"SELECT {quoted(NUMBER)} AS number, {names} FROM read_parquet(?) WHERE {some}"  # noqa: S608 - quoted
        read = [str(attributes[dataset]), int(rows[0]), int(rows[-1])]
        connection.execute(f"CREATE TABLE {table} AS {columns_of}", read)


def _fill(connection: "DuckDBPyConnection", table: str, rows: npt.NDArray[np.uint32]) -> None:
    connection.register("given", {"number": rows})
    connection.execute(f"CREATE TABLE {table} AS FROM given")
    connection.unregister("given")
