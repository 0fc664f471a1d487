"""Windows of the wall clock: over which days what an organisation uses up of a project is counted."""

from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import select

from protocol.agreement import Agreement

from ..access.scope import Scope
from ..storage.database import Tx
from ..storage.tables import DAY, agreements, connections, epochs
from .connections import Connection, present_key


def length(scope: Scope, tx: Tx, connection: Connection) -> int:
    """Return the seconds over which use counts: the agreed window, or that of an agreement before if it is not over.

    So a change of agreement gives nothing back.
    """
    query = select(agreements.c.agreement, agreements.c.until).where(agreements.c.connection_id == connection.id)
    longest = connection.terms.window_days * DAY
    for encoded, until in tx.execute(query):
        before = Agreement.decode(encoded).terms.window_days * DAY
        if until + before > scope.home.now():
            longest = max(longest, before)
    return longest


def counted_since(scope: Scope, tx: Tx, connection: Connection) -> int:
    """Return the time since when a partner's use of what a window allows counts.

    The agreed window is no shorter than our own, and ours no shorter than our own epochs: a partner that asks for shorter
    epochs gets keys that live shorter, not more of anything. All connections of an organisation with the project count.
    """
    query = (
        select(epochs.c.started, epochs.c.ended, epochs.c.refills)
        .join(connections, connections.c.id == epochs.c.connection_id)
        .where(connections.c.project_id == scope.id, connections.c.peer_key == present_key(connection))
    )
    spans = [Span(*row) for row in tx.execute(query)]
    return window_began(spans, length(scope, tx, connection))


class Span(NamedTuple):
    """When an epoch ran."""

    started: int
    ended: int | None
    refills: bool


def window_began(spans: Collection[Span], window: int) -> int:
    """Return when the last window began, of those that follow from the epochs of an organisation; 0 if there are none.

    A window begins with an epoch, since an honest partner needs every point anew then: with the first that begins a window
    after the last window did, or with the end of one that we chose to end. Epochs that the partner ends early, or asked to
    be short, begin none. A day less will do after one long epoch: the partner's clock may be ahead, or ours.
    """
    began = before = 0
    for span in sorted(spans, key=lambda span: span.started):
        forgiven = min(DAY, window // 2) if before == began else 0
        if span.started >= began + window - forgiven:
            began = span.started
        if span.refills and span.ended is not None:
            began = max(began, span.ended)
        before = span.started
    return began
