"""The universes that we answer counts from: one generation at a time, fixed before any question."""

from dataclasses import dataclass, field

import numpy as np
from sqlalchemy import insert, select

from protocol.errors import RemoteProtocolError
from protocol.estimate import commit
from protocol.messages import Commitment, SignedCommitment
from psi import count
from psi.keys import Key, Purpose

from ...access.audit import date
from ...access.scope import Scope
from ...errors import RefusedToPartner
from ...exchanges.channels import Channel, cache_of
from ...partners import key_epochs
from ...partners.connections import Connection
from ...people import audiences
from ...people.snapshots import Snapshot
from ...storage.cache import Arrays
from ...storage.database import Tx
from ...storage.records import record
from ...storage.tables import DAY, connections, universes

SALT = 16
SKEW_SECONDS = 3_600  # between two nodes' clocks, when the days between universes are counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One universe of ours, as a partner is shown it, and the key that it was blinded with.

    Each has a key of its own: otherwise a point that two generations share would be known as a person's, not a canary's.
    """

    number: int
    universe: count.Universe
    key: Key = field(repr=False)
    commitment: SignedCommitment


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One universe that a partner was shown, or showed us, as the row of `universes` has it."""

    id: str
    connection_id: str
    ours: bool
    namespace: str
    epoch: int
    generation: int
    digest: bytes
    commitment: bytes
    asker: bytes | None  # the one public key that ours may be asked under
    created: int


def newest(scope: Scope, connection: Connection, channel: Channel) -> Generation:
    """Return the newest generation, or a new one if our people changed and the last is a day old."""
    scope.check_not_on_hold()
    terms = connection.terms
    cache, now = cache_of(scope, connection, channel.epoch), scope.home.now()
    snapshot = Snapshot.open(scope)
    rows = shown(scope, connection, channel)
    if rows:
        last = rows[-1]
        final = now - last.created < DAY or len(rows) >= terms.generations
        stored = cache.load(_universe_file(channel, last.digest))
        if stored is not None and (final or int(stored["data"]) == snapshot.generation):
            return _made(channel, last, stored)
        if final:
            raise _lost()
    values, _ = audiences.universe(snapshot, channel.namespace)
    if len(values) < terms.minimum_universe:
        raise RefusedToPartner(
            "below_minimum",
            f"this side has fewer than the {terms.minimum_universe:,} identities agreed on",
            hint="import more profiles, or lower the minimum of a universe on both sides",
        )
    people = values.digest()
    if rows and stored is not None and stored["people"].tobytes() == people:
        return _made(channel, last, stored)  # what changed was something else
    if not rows and now - (scope.row().restored or 0) < DAY:
        raise _lost()  # the partner may have been shown one since the backup was made
    salt = scope.home.random(SALT)
    key = channel.key(Purpose.COUNT_ANSWER, salt)
    universe = count.build_universe(channel.context, values, key, scope.home.random)
    number = rows[-1].generation + 1 if rows else 1
    signed = commit(
        universe,
        context=channel.context,
        epoch=channel.epoch.number,
        generation=number,
        made=now,
        sign=scope.home.sign,
    )
    digest = signed.commitment.universe_digest()
    cache.save(
        _universe_file(channel, digest),
        points=universe.points,
        canaries=universe.canaries,
        size=np.array(universe.size),
        salt=np.frombuffer(salt, np.uint8),
        data=np.array(snapshot.generation),
        people=np.frombuffer(people, np.uint8),
    )
    with scope.begin() as tx:
        taken = [row for row in shown(scope, connection, channel, tx) if row.generation >= number]
        if not taken:
            _insert(scope, tx, connection, signed.commitment, channel.namespace, signed)
    if taken:  # an opening beside this one was faster
        cache.drop(_universe_file(channel, digest))
        return numbered(scope, connection, channel, taken[0].generation)
    return Generation(number=number, universe=universe, key=key, commitment=signed)


def numbered(scope: Scope, connection: Connection, channel: Channel, number: int) -> Generation:
    """Return the generation of a number; raises RefusedToPartner if its points are gone."""
    for row in shown(scope, connection, channel):
        if row.generation == number:
            stored = cache_of(scope, connection, channel.epoch).load(_universe_file(channel, row.digest))
            if stored is not None:
                return _made(channel, row, stored)
    raise _lost()


def shown(scope: Scope, connection: Connection, channel: Channel, tx: Tx | None = None) -> list[Shown]:
    """Return the rows of the generations that this partner was shown in this epoch, oldest first."""
    with scope.read(tx) as tx:
        query = select(universes).where(
            universes.c.connection_id == connection.id,
            universes.c.ours,
            universes.c.namespace == channel.namespace,
            universes.c.epoch == channel.epoch.number,
        )
        return [record(Shown, row) for row in tx.execute(query.order_by(universes.c.generation))]


def _made(channel: Channel, row: Shown, stored: Arrays) -> Generation:
    universe = count.Universe(
        points=stored["points"].astype(np.uint8, copy=False),
        canaries=stored["canaries"].astype(np.uint8, copy=False),
        size=int(stored["size"]),
    )
    return Generation(
        number=row.generation,
        universe=universe,
        key=channel.key(Purpose.COUNT_ANSWER, stored["salt"].tobytes()),
        commitment=SignedCommitment.decode(row.commitment),
    )


def _lost() -> RefusedToPartner:
    return RefusedToPartner(
        "universe_lost",
        "the universe of this epoch is gone; a new one is shown a day after the last",
        hint="ask again in a day",
    )


def _universe_file(channel: Channel, digest: bytes) -> str:
    return f"universe {channel.namespace} {digest.hex()[:32]}"


def check_shown(scope: Scope, connection: Connection, namespace: str, commitment: Commitment) -> None:
    """Refuse a partner that shows us too many universes: with each it can compare our people with another set.

    Universes of an epoch that the partner ended early still count, and those of earlier connections with it: then the
    first of the new epoch has to wait for its day.
    """
    terms = connection.terms
    now, digest = scope.home.now(), commitment.universe_digest()
    with scope.begin() as tx:
        since = key_epochs.counted_since(scope, tx, connection)
        query = (
            select(universes)
            .join(connections, connections.c.id == universes.c.connection_id)
            .where(
                connections.c.project_id == scope.id,
                connections.c.peer_key == connection.peer_key,
                connections.c.peer_project == connection.peer_project,
                universes.c.namespace == namespace,
                ~universes.c.ours,
            )
        )
        every = [record(Shown, row) for row in tx.execute(query)]
        ours = [row for row in every if row.connection_id == connection.id]
        rows = [row for row in ours if row.epoch == commitment.epoch]
        if any(row.digest == digest for row in rows):
            return
        most = terms.maximum_universe + terms.maximum_universe // count.VALUES_PER_CANARY + 2 * count.PADDING
        if commitment.count > most:
            raise RemoteProtocolError(
                "commitment", f"the partner shows more than the {terms.maximum_universe:,} agreed on"
            )
        if any(row.generation == commitment.generation for row in rows):
            raise RemoteProtocolError("commitment", "the partner shows another universe under the same number")
        newest = max((row for row in ours if row.created >= since), key=lambda row: row.created, default=None)
        if newest is not None and now - newest.created < DAY - SKEW_SECONDS:
            if newest.epoch < commitment.epoch:  # honest partners end epochs too, but it gets them no more universes
                raise RefusedToPartner(
                    "universe_too_soon",
                    "the answering side ended the key epoch less than a day after it showed its last universe, "
                    "and so soon another is not taken",
                    hint=f"ask again after {date(newest.created + DAY)}",
                )
            raise RemoteProtocolError("commitment", "the partner shows a second new universe within a day")
        if sum(row.created >= since for row in every) >= terms.generations:
            raise RemoteProtocolError(
                "commitment", f"the partner shows more than {terms.generations} universes an epoch"
            )
        _insert(scope, tx, connection, commitment, namespace)


def _insert(
    scope: Scope,
    tx: Tx,
    connection: Connection,
    commitment: Commitment,
    namespace: str,
    ours: SignedCommitment | None = None,
) -> None:
    """Note a universe that was shown: one of ours with our signature, or a partner's."""
    tx.execute(
        insert(universes).values(
            id=scope.home.new_id(),
            connection_id=connection.id,
            ours=ours is not None,
            namespace=namespace,
            epoch=commitment.epoch,
            generation=commitment.generation,
            digest=commitment.universe_digest(),
            commitment=(ours or commitment).encode(),
            created=scope.home.now() if ours is None else commitment.made,
        )
    )
