"""The rows of destinations: where segments go, which ones, and the batches on their way."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Row, func, select

from psi.errors import Remedy

from ..access.scope import Scope
from ..errors import NotFound
from ..storage.database import Tx
from ..storage.files import below
from ..storage.records import Document, record
from ..storage.spool import FileSpool
from ..storage.tables import activations, batches, destinations
from . import kinds

FOLDER = "destinations"  # in the project's data directory
SPOOL = ".batches"
EXPERIENCE_CLOUD = "experience-cloud"  # the kind that has solutions
AUDIENCE_MANAGER = "audience-manager"  # the kind, and the solution
HERE = "here"  # the address of this project's own Audience Manager side
RESTORED = "restored"  # the code of a destination that came from a backup
SETTINGS = b"destination settings"  # the purpose under which those are wrapped that may have a token in them
PROFILE_ID = "id"  # the identity of a destination that gets the project's own ids


class DestinationStatus(StrEnum):
    ACTIVE = "active"
    PAUSED = "paused"  # by a person
    DISABLED = "disabled"  # by the target, which said that it is gone
    DELETING = "deleting"  # once all members are removed there


SENDING = (DestinationStatus.ACTIVE, DestinationStatus.DELETING)


class ActivationStatus(StrEnum):
    ACTIVE = "active"
    LEAVING = "leaving"  # all its members are removed at the target, then the row goes
    LEFT = "left"  # the row goes, the members stay at the target


class BatchState(StrEnum):
    WAITING = "waiting"
    DELIVERED = "delivered"
    FAILED = "failed"
    SUPERSEDED = "superseded"  # what it says was no longer true before it arrived
    ACCEPTED = "accepted"  # delivered in a revision that is over, and the target is not ready with it yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """`identity` is PROFILE_ID or a namespace with its rule; the secret is wrapped."""

    id: str
    name: str
    kind: str
    description: str
    settings: Document
    secret: bytes | None = field(repr=False)
    identity: str
    uses: list[str]
    status: DestinationStatus
    reason: str | None
    next_attempt: int | None
    messages: int
    part_of: str | None
    brake: int
    old_secret: bytes | None = field(repr=False)
    old_secret_ends: int | None
    delay_alerted: int | None
    of_all: bool
    created: int

    @property
    def is_connection(self) -> bool:
        """Whether it sends nothing itself: its solutions do, each a destination that is part of it."""
        return self.kind == EXPERIENCE_CLOUD and self.part_of is None

    @property
    def is_audience_manager(self) -> bool:
        """Whether it sends to an Audience Manager side: itself, or as a solution."""
        solution = self.part_of is not None and self.name.endswith(f".{AUDIENCE_MANAGER}")
        return self.kind == AUDIENCE_MANAGER or (self.kind == EXPERIENCE_CLOUD and solution)

    @property
    def is_here(self) -> bool:
        """Whether that is this project's own."""
        return self.is_audience_manager and self.settings.get("url", HERE) == HERE


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """A segment that a destination gets; see the table for what its columns say."""

    id: str
    destination_id: str
    segment: str
    status: ActivationStatus
    revision: int
    file: str | None
    pending: str | None
    basis: str
    checked: str
    replay: bool
    present: int
    failed: int
    stopped: str | None
    mapping: dict[str, str]
    unmapped: list[str]
    external_id: str | None
    told_labels: list[str]
    deleted_id: str | None
    audience: str | None
    unremoved: int
    again: int | None
    said_again: int | None
    held: int
    released: bool
    created: int
    confirmed: int | None


def may_be_sent(destination: Destination, activation: Activation) -> bool:
    """Return whether anything may be sent of a segment: of one that leaves, while a person has paused the rest, too."""
    if destination.status is DestinationStatus.PAUSED:
        return activation.status is ActivationStatus.LEAVING
    return destination.status in SENDING


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRow:
    """One message and how far it came; `attempts` counts those that may have reached the target."""

    id: str
    activation_id: str
    segment: str
    revision: int
    number: int
    sequence: int
    adds: int
    removes: int
    state: BatchState
    attempts: int
    code: str | None
    not_before: int | None
    hours: list[tuple[int, int]] | None
    answer: bytes | None
    sent: int | None
    handle: bytes | None
    ready: int | None
    created: int
    changed: int

    @property
    def changes(self) -> int:
        return self.adds + self.removes

    @property
    def noticed(self) -> list[tuple[int, int]]:
        """When its changes were noticed, and how many of them then."""
        return [(self.created, self.changes)] if self.hours is None else self.hours


def stored(scope: Scope, tx: Tx) -> list[Destination]:
    """Return all destinations of a project by name."""
    query = select(destinations).where(destinations.c.project_id == scope.id).order_by(destinations.c.name)
    return [_opened(scope, row) for row in tx.execute(query)]


def _opened(scope: Scope, row: Row[Any]) -> Destination:
    found = record(Destination, row)
    if row.sealed is None:
        return found
    return replace(found, settings=found.settings | json.loads(scope.home.keys.unwrap(row.sealed, SETTINGS)))


def stored_settings(scope: Scope, kind: str, settings: Mapping[str, str]) -> Document:
    """Return the columns that have settings of a kind: those that may have a token in them are wrapped."""
    sealed = {each: settings[each] for each in kinds.sealed(kind, settings) if each in settings}
    wrapped = scope.home.keys.wrap(json.dumps(sealed).encode(), SETTINGS) if sealed else None
    return {"settings": {each: text for each, text in settings.items() if each not in sealed}, "sealed": wrapped}


def by_id(scope: Scope, tx: Tx, destination_id: str) -> Destination | None:
    mine = (destinations.c.project_id == scope.id, destinations.c.id == destination_id)
    row = tx.execute(select(destinations).where(*mine)).first()
    return None if row is None else _opened(scope, row)


def change(tx: Tx, destination_id: str, **values: object) -> None:
    """Change columns of a destination."""
    tx.execute(destinations.update().where(destinations.c.id == destination_id).values(**values))


def parts_of(scope: Scope, tx: Tx, destination: Destination) -> list[Destination]:
    """Return the solutions of a connection by name."""
    return [each for each in stored(scope, tx) if each.part_of == destination.id]


def activations_of(tx: Tx, destination: Destination) -> list[Activation]:
    """Return what a destination gets, by segment."""
    query = select(activations).where(activations.c.destination_id == destination.id)
    return [record(Activation, row) for row in tx.execute(query.order_by(activations.c.segment))]


def add_activation(scope: Scope, tx: Tx, destination: Destination, segment: str, **given: object) -> None:
    """Add a segment that a destination gets from now on."""
    values: Document = {"id": scope.home.new_id(), "destination_id": destination.id, "segment": segment}
    values |= {"status": ActivationStatus.ACTIVE, "revision": 0, "basis": "", "checked": "", "replay": False}
    values |= {"present": 0, "failed": 0, "created": scope.home.now(), **given}
    tx.execute(activations.insert().values(**values))


def batches_where(tx: Tx, *conditions: ColumnElement[bool]) -> list[BatchRow]:
    """Return batches in the order in which they are sent."""
    rows = select(batches).where(*conditions).order_by(batches.c.sequence)
    return [record(BatchRow, row) for row in tx.execute(rows)]


def under_way(tx: Tx, destination: Destination) -> dict[str, tuple[int, int]]:
    """Return by activation by how many more of its identities the target has, and have failed, than the last revision that
    ended says: what came of the batches of one that is under way."""
    columns = [func.sum(batches.c[name]) for name in ("adds", "removes", "known", "unsettled")]
    same = (batches.c.activation_id == activations.c.id, batches.c.revision == activations.c.revision)
    mine = (batches.c.destination_id == destination.id, activations.c.pending.is_not(None))
    settled = batches.c.state.in_((BatchState.DELIVERED, BatchState.FAILED))
    query = select(activations.c.id, batches.c.state, *columns).where(*same, *mine, settled)
    found: dict[str, tuple[int, int]] = {}
    for of, state, adds, removes, known, unsettled in tx.execute(query.group_by(activations.c.id, batches.c.state)):
        present, failed = found.get(of, (0, 0))
        arrived = state == BatchState.DELIVERED
        present += (int(adds) if arrived else 0) - int(known)
        failed += (0 if arrived else int(adds) + int(removes)) - int(unsettled)
        found[of] = present, failed
    return found


def count_waiting(tx: Tx, destination: Destination) -> int:
    """Return how many changes wait in all batches of a destination."""
    mine = (batches.c.destination_id == destination.id, batches.c.state == BatchState.WAITING)
    return int(tx.scalar(select(func.sum(batches.c.adds + batches.c.removes)).where(*mine)) or 0)


def batches_of(tx: Tx, activation: Activation) -> list[BatchRow]:
    """Return the batches of an activation's present revision."""
    return batches_where(tx, *_of_revision(activation))


def delivered_of(tx: Tx, destination: Destination) -> dict[str, int]:
    """Return by activation how many batches of its present revision were delivered."""
    mine = (batches.c.destination_id == destination.id, batches.c.state == BatchState.DELIVERED)
    query = select(batches.c.activation_id, func.count()).where(*mine).group_by(batches.c.activation_id)
    return {activation_id: int(count) for activation_id, count in tx.execute(query)}


def first_waiting(tx: Tx, activation: Activation) -> BatchRow | None:
    """Return the batch of an activation's present revision that is sent next; None where none waits."""
    rows = select(batches).where(*_of_revision(activation), batches.c.state == BatchState.WAITING)
    row = tx.execute(rows.order_by(batches.c.sequence).limit(1)).first()
    return None if row is None else record(BatchRow, row)


def _of_revision(activation: Activation) -> tuple[ColumnElement[bool], ...]:
    return batches.c.activation_id == activation.id, batches.c.revision == activation.revision


def ahead(at: int | None, now: int, most: int) -> int | None:
    """Return a time that is still to come, None where it is not.

    Nothing is put off by more than `most` seconds: a time that is further away was noted before the clock jumped back.
    """
    return at if at is not None and now < at <= now + most else None


def file_of(scope: Scope, name: str) -> Path:
    """Return the path of a file that says who is at a target."""
    return below(scope.data_directory / FOLDER, name)


def spool_directory(scope: Scope, activation_id: str) -> Path:
    return below(scope.data_directory / FOLDER, f"{activation_id}{SPOOL}")


def spool_of(scope: Scope, activation: Activation) -> FileSpool:
    """Return the sealed bodies of an activation's batches."""
    home = scope.home
    return FileSpool(spool_directory(scope, activation.id), home.keys, home.random)


def no_destination(name: str) -> NotFound:
    """Return the error for a destination that does not exist, or is hidden from the caller."""
    return NotFound(
        f"there is no destination {name[:80]!r}", hint="see which there are", remedy=Remedy("destination.list")
    )
