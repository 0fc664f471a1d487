"""What the values of a column are, as far as a rule's comparisons go: all of them are stored as text.

A comparison that cannot mean what it says is refused: '900' with numbers, 5 with texts, a date that is no date.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..access.scope import Scope
from ..errors import InvalidInput
from ..inputs.sql import quoted
from ..people.datasets import fields_where
from ..storage.database import Tx
from ..storage.records import Document
from .references import WITH_RULES
from .rules import FieldPath, leaves
from .trees import Tree

_ORDERING = ("<", "<=", ">", ">=", "between")
_DATE = re.compile(r"\d{4}(?:-\d\d(?:-\d\d(?:[T ].*)?)?)?")
_NUMBER = re.compile(r"-?\d{1,15}(?:\.\d{1,15})?", re.ASCII)
_COUNTS = {  # conditions under which a value of a column counts
    "filled": "{0} IS NOT NULL",
    "numbers": "TRY_CAST({0} AS DOUBLE) IS NOT NULL",
    "codes": "regexp_matches({0}, '^[+-]?0[0-9]') OR abs(TRY_CAST({0} AS DOUBLE)) >= 2**53",  # digits that count singly
    "truths": "TRY_CAST({0} AS BOOLEAN) IS NOT NULL",
    "words": "lower({0}) IN ('true', 'false')",
    "year_first": r"regexp_full_match({0}, '\d{4}-\d\d-\d\d(?:[T ].*)?')",
    "day_first": r"regexp_full_match({0}, '\d{1,2}[./-]\d{1,2}[./-]\d{2,4}(?:[T ].*)?')",
}


class Misfit(NamedTuple):
    """What is wrong about a comparison, and how to write it."""

    wrong: str
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """How many values a column has, and how many of them can be read as what."""

    filled: int
    numbers: int
    codes: int
    truths: int
    words: int
    year_first: int
    day_first: int

    def misfit(self, leaf: Tree) -> Misfit | None:
        """Return what is wrong about a comparison with the column, None for nothing."""
        operator, value = leaf["operator"], leaf["value"]
        if not self.filled or operator == "null":
            return None
        for each in value if isinstance(value, list) else [value]:
            if (found := self._misfit(leaf["field"], operator, each)) is not None:
                return found
        return None

    def _misfit(self, field: str, operator: str, value: object) -> Misfit | None:
        if isinstance(value, bool):
            if self.truths:
                return None
            return Misfit(f"{field} has neither true nor false", self._example(field, operator))
        if isinstance(value, (int, float)):
            return None if self.numbers else Misfit(f"{field} has no numbers", self._example(field, operator))
        text, ordering = str(value), operator in _ORDERING
        if (self.numbers == self.filled and not self.codes) or (
            ordering and 2 * (self.numbers - self.codes) > self.filled
        ):
            number = text if _NUMBER.fullmatch(text) else "5"
            return Misfit(f"{field} has numbers, and a value in quotes is a text", _written(field, operator, number))
        if self.words == self.filled:
            return Misfit(f"{field} has true and false, and a value in quotes is a text", _written(field, "=", "true"))
        if ordering and self.day_first == self.filled:
            return Misfit(f"{field} has dates with the day first, which have no order", "import them as YYYY-MM-DD")
        if ordering and self.year_first == self.filled and not _DATE.fullmatch(text):
            return Misfit(f"{field} has dates, and the value is none", self._example(field, operator))
        return None

    def _example(self, field: str, operator: str) -> str:
        if self.numbers == self.filled and not self.codes:
            return _written(field, operator, "5")
        if self.words == self.filled:
            return _written(field, "=", "true")
        return _written(field, operator, "'2026-01-31'" if self.year_first == self.filled else "'a text'")


def check(tree: Tree, attributes: Mapping[str, Path], fields: Mapping[str, FieldPath]) -> None:
    """Raise InvalidInput if a comparison of a rule cannot mean what it says for the values that a column has now."""
    for found in misfits(tree, attributes, fields):
        raise InvalidInput(found.wrong, hint=found.how)


def misfits(tree: Tree, attributes: Mapping[str, Path], fields: Mapping[str, FieldPath]) -> Iterator[Misfit]:
    """Yield what is wrong about the comparisons of a rule."""
    compared = [leaf for leaf in leaves(tree) if leaf["field"] in fields and fields[leaf["field"]][0] in attributes]
    columns = _columns({fields[leaf["field"]] for leaf in compared}, attributes)
    for leaf in compared:
        if (found := columns[fields[leaf["field"]]].misfit(leaf)) is not None:
            yield found


def outdated(scope: Scope, tx: Tx, attributes: Mapping[str, Path], dataset: str) -> dict[str, str]:
    """Return what is wrong with rules over a dataset's columns as they are now, by "segment NAME": of those that the
    caller may see."""
    fields = {each.path: (each.dataset, each.name) for each in fields_where(scope, tx)}
    mine = {name: path for name, path in fields.items() if path[0] == dataset}
    found = {}
    for noun, rules in WITH_RULES.items():
        for name, tree in rules(scope, tx):
            for each in misfits(tree, attributes, mine):
                found[f"{noun} {name}"] = f"{each.wrong}; {each.how}"
    return found


def _columns(wanted: Iterable[FieldPath], attributes: Mapping[str, Path]) -> dict[FieldPath, Column]:
    """Count the values of columns, each file read once."""
    import duckdb

    found: dict[FieldPath, Column] = {}
    by_dataset: dict[str, list[str]] = {}
    for dataset, name in sorted(wanted):
        by_dataset.setdefault(dataset, []).append(name)
    settings: Document = {"memory_limit": "1GB"}
    for dataset, names in by_dataset.items():
        counts = [
            f"count(*) FILTER (WHERE {condition.replace('{0}', quoted(name))})"
            for name in names
            for condition in _COUNTS.values()
        ]
        with duckdb.connect(":memory:", config=settings) as connection:
            connection.execute("SET enable_progress_bar = false")  # it would stand among what a command prints
            query = f"SELECT {', '.join(counts)} FROM read_parquet(?)"  # noqa: S608 - quoted names
            row = connection.execute(query, [str(attributes[dataset])]).fetchall()[0]
        for index, name in enumerate(names):
            values = row[index * len(_COUNTS) : (index + 1) * len(_COUNTS)]
            found[dataset, name] = Column(**dict(zip(_COUNTS, values, strict=True)))
    return found


def _written(field: str, operator: str, value: str) -> str:
    operator = ">=" if operator == "like" else operator
    if operator == "in":
        return f"write {field} IN ({value})"
    return (
        f"write {field} BETWEEN {value} AND {value}" if operator == "between" else f"write {field} {operator} {value}"
    )
