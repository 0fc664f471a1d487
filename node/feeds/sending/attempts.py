"""The last attempt to bring a feed to a partner: what it depended on, how it ended, when the next one may be made.

An attempt is counted before it begins: a process that dies over it leaves a time for the next, and no hot loop.
"""

import hashlib
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, Select, select, update

from psi.errors import VesicaError

from ...errors import PeerUnreachable, Refused
from ...partners import key_epochs
from ...people.data import newest_generation
from ...storage.tables import DAY, connections, consent_policies, feed_partners, feeds, label_uses, policies, projects

if TYPE_CHECKING:
    from ...node import Node
    from ...project import Project

FIRST_SECONDS, LONGEST_SECONDS = 30, 3_600  # before the second attempt, and at most before any
ANEW_SECONDS = (
    60  # before a receiver gets a second whole revision; doubled up to LONGEST_SECONDS, forgotten after a day
)
PATIENT_TRIES = 3  # a partner that is gone for a moment is no alert
RULES = (label_uses, policies, consent_policies)  # what decides whether a feed may run, beside its data


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """What a run depends on: where it is the same as at the last attempt, a run would find nothing else."""

    generation: int  # of the project's data
    model: str | None  # of consent
    version: int | None  # of the feed, as the partner accepted it
    epoch: int  # of keys; 0: none is running
    rules: str

    @classmethod
    def read(cls, stored: list[Any] | None) -> "Basis | None":
        if stored is None:
            return None
        generation, model, version, epoch, rules = stored
        return cls(generation=generation, model=model, version=version, epoch=epoch, rules=rules)


def basis(project: "Project", tx: Connection, state: Row[Any], rules: str, *, generation: int) -> Basis:
    """Return what a run to one partner would depend on now."""
    connection = tx.execute(select(connections).where(connections.c.id == state.connection_id)).one()
    return Basis(
        generation=generation,
        model=tx.scalar(select(projects.c.consent_model).where(projects.c.id == project.id)),
        version=state.accepted_version,
        epoch=key_epochs.running_number(project, tx, connection),
        rules=rules,
    )


def rules(project: "Project", tx: Connection) -> str:
    """Return a digest of the labels and policies that runs of a project obey, and of what partners' segments add to them."""
    found = hashlib.sha256()
    for table in RULES:
        rows = tx.execute(select(table).where(table.c.project_id == project.id))
        found.update(repr(sorted(map(repr, rows))).encode())
    found.update(repr(project.consent_policies.stamp(tx)).encode())
    return found.hexdigest()[:16]


def wait(tries: int) -> int:
    """Return how many seconds pass before the attempt that follows `tries` in vain."""
    return int(min(FIRST_SECONDS * 2 ** min(tries - 1, 16), LONGEST_SECONDS))


def begin(project: "Project", connection: Row[Any], feed_id: str) -> None:
    """Count an attempt; until it has ended well, the next one waits its time."""
    with project.node.store.begin() as tx:
        state = tx.execute(state_query(connection.id, feed_id)).one()
        tries = state.tries + 1
        wishes = state.wishes + (state.wished is not None)
        values = {"tries": tries, "next_attempt": project.node.now() + wait(tries), "failure": None}
        values |= {"wished": None, "wishes": wishes}
        _set(tx, state, tried=_now(project, tx, state, newest_generation(project, tx)), **values)


def depends_on(project: "Project", connection: Row[Any], feed_id: str, generation: int) -> None:
    """Note which data an attempt looks at, and under which keys, once that is known; its rules were read before."""
    with project.node.store.begin() as tx:
        epoch = key_epochs.current(project, tx, connection).number
        state = tx.execute(state_query(connection.id, feed_id)).one()
        begun = Basis.read(state.tried)
        assert begun is not None
        _set(tx, state, tried=list(astuple(replace(begun, generation=generation, epoch=epoch))))


def ended(project: "Project", tx: Connection, connection: Row[Any], feed_id: str) -> None:
    """Note that the partner has what there is: both signed for it, or nothing has changed."""
    state = tx.execute(state_query(connection.id, feed_id)).one()
    _set(tx, state, tries=0, next_attempt=None, failure=None, ran=project.node.now())
    name = tx.scalar(select(feeds.c.name).where(feeds.c.id == feed_id))
    project.alerts.settle(tx, "run_failed", f"feed {name} does not reach {connection.alias}: ")


def failed(project: "Project", connection: Row[Any], feed_id: str, error: VesicaError) -> None:
    """Note why an attempt failed, with an alert. What a rule of ours forbids waits for a change, at most a day."""
    with project.node.store.begin() as tx:
        state = tx.execute(state_query(connection.id, feed_id)).one()
        values: dict[str, Any] = {"failure": error.code[:40]}
        if isinstance(error, Refused):
            values["next_attempt"] = project.node.now() + DAY
        _set(tx, state, **values)
        running = state.status == "enabled"  # what was just taken from the partner, or paused by it, does not fail
        if running and (state.tries >= PATIENT_TRIES or not isinstance(error, PeerUnreachable)):
            name = tx.scalar(select(feeds.c.name).where(feeds.c.id == feed_id))
            project.alerts.add(tx, "run_failed", f"feed {name} does not reach {connection.alias}: {error}")


def reachable(node: "Node", connection_id: str) -> None:
    """Let what waits because a partner was gone be tried at once: it is back."""
    waiting = (feed_partners.c.connection_id == connection_id, feed_partners.c.failure == PeerUnreachable.code)
    with node.store.begin() as tx:
        tx.execute(update(feed_partners).where(*waiting).values(next_attempt=node.now()))


def wish(project: "Project", tx: Connection, connection: Row[Any]) -> bool:
    """Note that a receiver asks for runs, for people who are new on its side; says whether any feed runs to it."""
    mine = (feed_partners.c.connection_id == connection.id, feed_partners.c.status == "enabled")
    tx.execute(update(feed_partners).where(*mine, feed_partners.c.wished.is_(None)).values(wished=project.node.now()))
    return tx.execute(select(feed_partners.c.id).where(*mine)).first() is not None


def granted(tx: Connection, connection: Row[Any]) -> None:
    """Note that a receiver had somebody new when it said so: its next wish is heard as soon as its first."""
    tx.execute(update(feed_partners).where(feed_partners.c.connection_id == connection.id).values(wishes=0))


def begin_anew(project: "Project", tx: Connection, connection: Row[Any], feed_id: str) -> bool:
    """Let the next revision to a partner hold everything: it has not what changes could be added to.

    Says whether that revision may be made at once. A partner that begins anew again and again waits longer each time.
    """
    state, now = tx.execute(state_query(connection.id, feed_id)).one(), project.node.now()
    if not state.anew:
        lately = state.renewed is not None and now - state.renewed < DAY
        _set(tx, state, anew=True, renewed=now, renewals=state.renewals + 1 if lately else 0)
        state = tx.execute(state_query(connection.id, feed_id)).one()
    return now >= anew_from(state)


def anew_from(state: Row[Any]) -> int:
    """Return from when on a revision that holds everything may go to a partner that begins anew."""
    if not state.anew or state.renewed is None or not state.renewals:
        return 0
    return int(state.renewed + min(ANEW_SECONDS << min(state.renewals - 1, 16), LONGEST_SECONDS))


def _now(project: "Project", tx: Connection, state: Row[Any], generation: int) -> list[Any]:
    return list(astuple(basis(project, tx, state, rules(project, tx), generation=generation)))


def state_query(connection_id: str, feed_id: str) -> Select[Any]:
    """Return what selects one partner's state of one of our feeds."""
    return select(feed_partners).where(
        feed_partners.c.feed_id == feed_id, feed_partners.c.connection_id == connection_id
    )


def _set(tx: Connection, state: Row[Any], **values: Any) -> None:
    tx.execute(update(feed_partners).where(feed_partners.c.id == state.id).values(**values))
