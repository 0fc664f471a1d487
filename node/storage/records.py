"""Rows as frozen dataclasses: what a room hands out names its columns and their types."""

from dataclasses import fields
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar, get_type_hints

from sqlalchemy import Row

# What JSON can hold: JSON columns, audit details, what front ends print. No decision rests on one.
Document = dict[str, Any]
Documents = list[Document]
Record = TypeVar("Record")


def record(kind: type[Record], row: Row[Any]) -> Record:
    """Return a row as `kind`, a dataclass whose fields are columns of the row; a column of words becomes its StrEnum."""
    mapping = row._mapping
    return kind(**{name: enum(mapping[name]) if enum else mapping[name] for name, enum in _columns(kind)})  # type: ignore[arg-type]


@cache
def _columns(kind: type) -> tuple[tuple[str, type[StrEnum] | None], ...]:
    hints = get_type_hints(kind)
    enums = {name: hint for name, hint in hints.items() if isinstance(hint, type) and issubclass(hint, StrEnum)}
    return tuple((each.name, enums.get(each.name)) for each in fields(kind))
