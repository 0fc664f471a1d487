"""The universes that we answer counts from: one generation at a time, fixed before any question."""

from dataclasses import dataclass, field

import numpy as np
from sqlalchemy import insert, or_, select

from protocol.agreement import Terms
from protocol.errors import RemoteProtocolError
from protocol.estimate import UniverseSource, commit
from protocol.messages import Commitment, SignedCommitment
from protocol.states import Kind, Part
from psi import count
from psi.keys import Key, Purpose
from psi.values import U8

from ...access.audit import date
from ...access.scope import Scope
from ...compute.engines import engine_of, saved
from ...errors import RefusedToPartner
from ...exchanges import http
from ...exchanges.channels import Channel, cache_of
from ...exchanges.records import inputs_in_use
from ...partners import windows
from ...partners.connections import BEGUN, Connection, present_key
from ...people import audiences
from ...people.snapshots import ErasedMeanwhile, Snapshot, is_kept
from ...storage.cache import Arrays, Cache, StoredRows
from ...storage.database import Tx
from ...storage.records import record
from ...storage.tables import DAY, HOUR, connections, universes
from .records import question_files

SALT = 16
_ALL_BUT_POINTS = ("canaries", "salt", "data", "people")
UNDER_WAY_SECONDS = HOUR  # for what was asked just before another universe was due
SKEW_SECONDS = 3_600  # between two nodes' clocks, when the days between universes are counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One universe of ours, as a partner is shown it, and the key that it was blinded with.

    Each has a key of its own: otherwise a point that two generations share would be known as a person's, not a canary's.
    """

    number: int
    universe: UniverseSource
    key: Key = field(repr=False)
    commitment: SignedCommitment

    @property
    def digest(self) -> bytes:
        return self.commitment.commitment.universe_digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class OnDisk:
    """A universe of ours whose points stay on disk, however many exchanges are open: they are read a chunk at a time."""

    points: StoredRows
    canaries: U8 = field(repr=False)


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
    asker: bytes | None  # SHA-256 of the one key and list of tags that ours may be asked under
    created: int


def newest(scope: Scope, connection: Connection, channel: Channel) -> Generation:
    """Return the newest generation, or a new one if our people changed and the last is a day old.

    In a window there are so many, whatever key epochs and connections end meanwhile. Raises RefusedToPartner where a new
    one is needed and may not be shown.
    """
    scope.check_not_on_hold()
    terms = connection.terms
    cache, now = cache_of(scope, connection, channel.epoch), scope.home.now()
    snapshot = Snapshot.open(scope)
    with scope.read() as tx:
        rows = shown(scope, connection, channel, tx)
        since = windows.counted_since(scope, tx, connection)
        used = [
            row for row in _of_organisation(scope, tx, connection, channel.namespace, ours=True) if row.created >= since
        ]
    spent = len(used) >= terms.generations
    if rows:
        last = rows[-1]
        final = now - last.created < DAY or spent
        stored = cache.load(_universe_file(channel, last.digest), _ALL_BUT_POINTS)
        if stored is not None and (final or int(stored["data"]) == snapshot.generation):
            return _made(cache, channel, last, stored)
        if final and not spent:
            raise _lost()
    if spent:
        raise _spent(terms)
    values, _ = audiences.universe(snapshot, channel.namespace)
    if len(values) < terms.minimum_universe:
        raise RefusedToPartner(
            "below_minimum",
            f"this side has fewer than the {terms.minimum_universe:,} identities agreed on",
            hint="import more profiles, or lower the minimum of a universe on both sides",
        )
    people = values.digest()
    if rows and stored is not None and stored["people"].tobytes() == people:
        return _made(cache, channel, last, stored)  # what changed was something else
    if not rows and now - (scope.row().restored or 0) < DAY:
        raise _lost()  # the partner may have been shown one since the backup was made
    salt = scope.home.random(SALT)
    key = channel.key(Purpose.COUNT_ANSWER, salt)
    universe = count.build_universe(channel.context, values, key, scope.home.random, engine_of(scope.home))
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
    others = {
        "canaries": universe.canaries,
        "salt": np.frombuffer(salt, np.uint8),
        "data": np.array(snapshot.generation),
        "people": np.frombuffer(people, np.uint8),
    }
    cache.save(_universe_file(channel, digest), points=saved(universe.points), **others)
    if not is_kept(scope, snapshot):
        cache.drop(_universe_file(channel, digest))
        raise ErasedMeanwhile
    with scope.begin() as tx:
        taken = [row for row in shown(scope, connection, channel, tx) if row.generation >= number]
        if not taken:
            _insert(scope, tx, connection, signed.commitment, channel.namespace, signed)
    if taken:  # an opening beside this one was faster
        cache.drop(_universe_file(channel, digest))
        return of_digest(scope, connection, channel, taken[0].digest)
    _drop_old(scope, connection, channel)
    return of_digest(scope, connection, channel, digest)


def of_digest(scope: Scope, connection: Connection, channel: Channel, digest: bytes) -> Generation:
    """Return the generation of a digest; raises RefusedToPartner if its points are gone."""
    cache = cache_of(scope, connection, channel.epoch)
    for row in shown(scope, connection, channel):
        if row.digest == digest:
            stored = cache.load(_universe_file(channel, digest), _ALL_BUT_POINTS)
            if stored is not None:
                return _made(cache, channel, row, stored)
    raise _lost()


def check_fresh(scope: Scope, connection: Connection, channel: Channel, generation: Generation) -> None:
    """Refuse a question about a universe that is over a day old, and an hour, where another would be shown now.

    Else an exchange that stays open would be answered from people who opted out long ago.
    """
    age = scope.home.now() - generation.commitment.commitment.made
    if age >= DAY + UNDER_WAY_SECONDS and newest(scope, connection, channel).digest != generation.digest:
        raise http.over()


def _drop_old(scope: Scope, connection: Connection, channel: Channel) -> None:
    """Delete the points of generations before the last two that no exchange uses, and the questions that were about them."""
    cache = cache_of(scope, connection, channel.epoch)
    with scope.read() as tx:
        older = shown(scope, connection, channel, tx)[:-2]
        used = inputs_in_use(tx, connection, Kind.COUNT, Part.ANSWERER)
    for row in older:
        if row.digest not in used:
            cache.drop(_universe_file(channel, row.digest))
            for file in cache.names(question_files(channel.namespace, row.digest)):
                cache.drop(file)


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


def _of_organisation(scope: Scope, tx: Tx, connection: Connection, namespace: str, *, ours: bool) -> list[Shown]:
    """Return what one side showed over this connection and those with the same organisation that it follows.

    Those are the ones with the same project of it, and all that have ended.
    """
    query = (
        select(universes)
        .join(connections, connections.c.id == universes.c.connection_id)
        .where(
            connections.c.project_id == scope.id,
            connections.c.peer_key == present_key(connection),
            or_(connections.c.peer_project == connection.peer_project, connections.c.status.not_in(BEGUN)),
            universes.c.namespace == namespace,
            universes.c.ours == ours,
        )
    )
    return [record(Shown, row) for row in tx.execute(query)]


def _made(cache: Cache, channel: Channel, row: Shown, stored: Arrays) -> Generation:
    signed = SignedCommitment.decode(row.commitment)
    points = StoredRows(cache, _universe_file(channel, row.digest), "points", signed.commitment.count)
    return Generation(
        number=row.generation,
        universe=OnDisk(points=points, canaries=stored["canaries"].astype(np.uint8, copy=False)),
        key=channel.key(Purpose.COUNT_ANSWER, stored["salt"].tobytes()),
        commitment=signed,
    )


def _lost() -> RefusedToPartner:
    return RefusedToPartner(
        "universe_lost",
        "the universe of this epoch is gone; a new one is shown a day after the last",
        hint="ask again in a day",
    )


def files(cache: Cache, namespace: str) -> list[str]:
    """Return the files with our universes in a namespace."""
    return cache.names(f"universe {namespace} ")


def _spent(terms: Terms) -> RefusedToPartner:
    return RefusedToPartner(
        "universe_too_soon",
        f"{terms.generations} universes were shown in this window, which is all: another is needed, since the people or the "
        "key epoch changed",
        hint=f"ask again later; what was shown counts for {terms.window_days} days, whatever key epochs end",
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
        since = windows.counted_since(scope, tx, connection)
        every = _of_organisation(scope, tx, connection, namespace, ours=False)
        ours = [row for row in every if row.connection_id == connection.id]
        rows = [row for row in ours if row.epoch == commitment.epoch]
        if any(row.digest == digest for row in rows):
            return
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
        if len(rows) >= terms.generations:
            raise RemoteProtocolError(
                "commitment", f"the partner shows more than {terms.generations} universes an epoch"
            )
        if sum(row.created >= since for row in every) >= terms.generations:
            raise _spent(terms)  # short epochs may have been agreed on, so it is no breach of the protocol
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
