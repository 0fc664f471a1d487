"""Windows of the wall clock: over which days what an organisation uses up of a project is counted."""

from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import select

from protocol.agreement import Agreement

from ..access.scope import Scope
from ..storage.database import Tx
from ..storage.tables import DAY, agreements, connections, epochs
from .connections import Connection, ConnectionStatus, present_key


def length(scope: Scope, tx: Tx, connection: Connection) -> int:
    """Return the seconds over which use counts: the longest window agreed with the organisation that is not over.

    All its connections with the project count, as does what they used up, and those that have ended; of agreements that were
    changed, the window counts from then on. So neither a change of agreement nor a new connection gives anything back.
    """
    now = scope.home.now()
    running = [each.seconds for each in _agreed(scope, tx, connection) if (each.until or now) + each.seconds > now]
    return max([connection.terms.window_days * DAY, *running])


def counted_since(scope: Scope, tx: Tx, connection: Connection) -> int:
    """Return the time since when a partner's use of what a window allows counts.

    The agreed window is no shorter than our own, and ours no shorter than our own epochs: a partner that asks for shorter
    epochs gets keys that live shorter, not more of anything. All connections of an organisation with the project count.
    Of all windows ever agreed with it, the one that began first counts: a window of another length begins at another time,
    so whoever could choose it would begin one at will.
    """
    query = (
        select(epochs.c.started, epochs.c.ended, epochs.c.refills)
        .join(connections, connections.c.id == epochs.c.connection_id)
        .where(connections.c.project_id == scope.id, connections.c.peer_key == present_key(connection))
    )
    spans = [Span(*row) for row in tx.execute(query)]
    lengths = {connection.terms.window_days * DAY, *(each.seconds for each in _agreed(scope, tx, connection))}
    return first_begun(spans, lengths)


class _Agreed(NamedTuple):
    """A window that was agreed with an organisation, and when that ended."""

    seconds: int
    until: int | None


def _agreed(scope: Scope, tx: Tx, connection: Connection) -> list[_Agreed]:
    """Return all windows ever agreed with an organisation in a project."""
    signed = (
        connections.c.project_id == scope.id,
        connections.c.peer_key == present_key(connection),
        connections.c.our_signature.is_not(None),
        connections.c.their_signature.is_not(None),
    )
    latest = select(connections.c.agreement, connections.c.status, connections.c.changed).where(*signed)
    before = select(agreements.c.agreement, agreements.c.until).join(connections).where(*signed)
    known = [
        (row.agreement, None if row.status == ConnectionStatus.ACTIVE else row.changed) for row in tx.execute(latest)
    ]
    return [
        _Agreed(Agreement.decode(encoded).terms.window_days * DAY, until)
        for encoded, until in [*known, *map(tuple, tx.execute(before))]
    ]


class Span(NamedTuple):
    """When an epoch ran."""

    started: int
    ended: int | None
    refills: bool


def first_begun(spans: Collection[Span], windows: Collection[int]) -> int:
    """Return when the window began that began first, of several lengths in seconds, at least one."""
    return min(window_began(spans, each) for each in windows)


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
