"""Ids are UUIDs: 32 hex digits in rows and files, 16 bytes on the wire. This is the one place that turns one into the other.

People may write the beginning of one.
"""

from collections.abc import Sequence

from sqlalchemy import ColumnElement

from psi.errors import Remedy

from ..errors import InvalidInput, NotFound

DIGITS = 32


def wire_id(stored: str) -> bytes:
    """Return the 16 bytes that a message has for an id of a row."""
    return bytes.fromhex(stored)


def stored_id(wire: bytes) -> str:
    """Return the 32 hex digits that rows and files have for an id of a message."""
    return wire.hex()


def beginning(column: ColumnElement[str], text: str) -> ColumnElement[bool]:
    """Return the condition that an id begins with what a person wrote."""
    return column.startswith(text, autoescape=True) if 0 < len(text) < DIGITS else column == text


def the_one(found: Sequence[str], text: str, noun: str, remedy: Remedy) -> str:
    """Return the one id of a job or an alert that begins with a text; raises NotFound, or InvalidInput for several."""
    if text in found:
        return text
    if not found:
        raise NotFound(f"there is no {noun} {text[:40]!r}", hint="see which there are", remedy=remedy)
    if len(found) > 1:
        raise InvalidInput(f"{len(found)} {noun}s begin with {text[:40]!r}", hint="write more of the id")
    return found[0]
