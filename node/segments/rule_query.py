"""The SQL of a rule's tree, as DuckDB runs it."""

from collections.abc import Mapping
from typing import Any

from ..governance.lineage import place_of
from .trees import Tree


class RuleQuery:
    """The SQL of a tree: names made here, known fields quoted, values as parameters."""

    def __init__(self, fields: Mapping[str, tuple[str, str]]) -> None:
        self._fields = fields
        self.columns: dict[str, dict[str, str]] = {}
        self.tables: dict[str, str] = {}
        self.segments: dict[str, str] = {}
        self.parameters: list[Any] = []

    def condition(self, tree: Tree) -> str:
        if "rules" in tree:
            word = {"and": " AND ", "or": " OR "}[tree["combinator"]]
            inner = "(" + word.join(self.condition(each) for each in tree["rules"]) + ")"
            return f"(NOT {inner})" if tree.get("not") else inner
        name = tree["field"]
        if place_of(name) is not None:
            table = self.segments.setdefault(name, f"s{len(self.segments)}")
            return f"(p.number IN (SELECT number FROM {table}))"  # noqa: S608 - a name of our own
        return f"coalesce({self._comparison(self._column(name), tree['operator'], tree['value'])}, false)"

    def _column(self, name: str) -> str:
        dataset, field = self._fields[name]
        table = self.tables.setdefault(dataset, f"t{len(self.tables)}")
        columns = self.columns.setdefault(dataset, {})
        return f"{table}.{columns.setdefault(field, f'c{len(columns)}')}"

    def _comparison(self, column: str, operator: str, value: Any) -> str:
        match operator:
            case "null":
                return f"({column} IS NULL)"
            case "like":
                return f"({column} LIKE {self._parameter(value)})"
            case "in":
                return "(" + " OR ".join(self._comparison(column, "=", each) for each in value) + ")"
            case "between":
                low, high = (
                    self._comparison(column, sign, each) for sign, each in zip((">=", "<="), value, strict=True)
                )
                return f"({low} AND {high})"
            case "=" | "!=" | "<" | "<=" | ">" | ">=":
                sign = "<>" if operator == "!=" else operator
                return f"({_typed(column, value)} {sign} {self._parameter(value)})"
        raise ValueError(operator)

    def _parameter(self, value: Any) -> str:
        self.parameters.append(value)
        kind = "BOOLEAN" if isinstance(value, bool) else "DOUBLE" if isinstance(value, (int, float)) else "VARCHAR"
        return f"CAST(? AS {kind})"


def _typed(column: str, value: Any) -> str:
    """Return a text column as the type that it is compared with; text that cannot be read so counts as missing."""
    if isinstance(value, bool):
        return f"TRY_CAST({column} AS BOOLEAN)"
    return f"TRY_CAST({column} AS DOUBLE)" if isinstance(value, (int, float)) else column
