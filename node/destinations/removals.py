"""Removals that failed for good: said again by themselves, since who has withdrawn must be gone from the target."""

from ..storage.records import Document
from ..storage.tables import DAY
from .records import Activation, ahead

AGAIN_SECONDS = DAY  # until they are said again
SOONER_SECONDS = 600  # between two times that they are said again because others are due


def are_due(activation: Activation, now: int) -> bool:
    """Return whether it is time to say them again."""
    return activation.again is not None and ahead(activation.again, now, AGAIN_SECONDS) is None


def may_join(activation: Activation, now: int) -> bool:
    """Return whether there are some that may be said again with others."""
    last = activation.said_again
    return activation.unremoved > 0 and (last is None or not last <= now < last + SOONER_SECONDS)


def said(now: int) -> Document:
    """Return the columns of an activation whose revision says them again."""
    return {"again": now + AGAIN_SECONDS, "said_again": now}


def left(activation: Activation, count: int, now: int) -> Document:
    """Return the columns of an activation with so many of them at the end of a revision."""
    if not count:
        return {"unremoved": 0, "again": None, "said_again": None}
    return {"unremoved": count, "again": now + AGAIN_SECONDS if activation.again is None else activation.again}
