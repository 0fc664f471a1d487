"""Rows as frozen dataclasses: what a room hands out names its columns and their types."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import StrEnum
from functools import cache, partial
from typing import Any, TypeVar, get_args, get_type_hints

from sqlalchemy import Row

# What JSON can hold: JSON columns, audit details, what front ends print. No decision rests on one.
Document = dict[str, Any]
Documents = list[Document]
Record = TypeVar("Record")


def record(kind: type[Record], row: Row[Any]) -> Record:
    """Return a row as `kind`, a dataclass whose fields are columns of the row.

    A column of words becomes its StrEnum, and one of JSON its dataclass, where the field has such a type.
    """
    mapping = row._mapping
    return kind(**{name: read(mapping[name]) for name, read in _columns(kind)})  # type: ignore[arg-type]


@cache
def _columns(kind: type) -> tuple[tuple[str, Callable[[Any], Any]], ...]:
    hints = get_type_hints(kind)
    return tuple((each.name, _reader(hints[each.name])) for each in fields(kind))


def _reader(hint: Any) -> Callable[[Any], Any]:
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return hint
    for each in get_args(hint):
        if isinstance(each, type) and is_dataclass(each):
            return partial(_read_json, each)
        if isinstance(each, type) and issubclass(each, StrEnum):
            return partial(_read_word, each)
    return lambda value: value


def _read_word(kind: type[StrEnum], value: str | None) -> StrEnum | None:
    return None if value is None else kind(value)


def _read_json(kind: type, value: Document | None) -> Any:
    return None if value is None else kind(**value)
