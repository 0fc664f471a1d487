"""Segments of the platform on this side: each becomes one signal, one onboarded trait and one segment of that trait.

They come by the older sharing, of all segments, or by an Experience Cloud connection, of those chosen; each way has a data
source of its own, and in it one of each for a segment's id. When a sender goes over from one way to the other, they move.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import func, select

from psi.values import Bools, Values

from ..access.scope import Scope
from ..errors import NotAllowed
from ..storage.database import Tx
from ..storage.tables import DAY, audience_segments, audience_senders, traits
from . import audience_segments as segments_of_traits
from . import builtin, folders, receiving, signals, sources, visitors
from . import traits as trait_rows
from .numbers import note_change
from .records import MAX_NAME, NEVER, NewSegment, NewTrait, Trait, TraitKind

SENDER, SEQUENCE, WAY = "vesica-sender", "vesica-sequence", "vesica-sharing"  # headers between nodes
OLDER, CONNECTION = "older", "connection"
LONGEST = 64  # characters of an id of a sender or a segment
MOST_SENDERS = 300_000  # rows of a project: a segment of a sender each
SIGNAL = "segID"  # the key of the signal that a segment is
_OF = {  # the data source that ids of a namespace belong to
    "ecid/digits-v1": builtin.DEVICES,
    "email_sha256/lc-v1": builtin.HASHED_EMAILS,
    "gaid/uuid-v1": 20914,
    "idfa/uuid-v1": 20915,
}
NAMESPACES = tuple(_OF)


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """Who came into a segment, `adds` True, or left it, bool (n,), by their ids of one of NAMESPACES."""

    namespace: str
    values: Values = field(repr=False)
    adds: Bools = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """What a message says of one segment; `sequence` counts up among those of a sender, None where it has no members.

    `caller` is the user who sends for another node, None for this one, and `allowed` the data sources that this user may
    send for, None for all.
    """

    sender: str
    sequence: int | None
    older: bool
    segment: str
    name: str
    labels: tuple[str, ...] = ()
    members: Sequence[Members] = ()
    caller: str | None = None
    allowed: frozenset[int] | None = None

    @property
    def key(self) -> str:
        """How a sender is kept apart from those of other users, whatever these call themselves."""
        if self.caller is None:
            return self.sender
        return hashlib.sha256(f"{self.caller}\0{self.sender}".encode()).hexdigest()

    @property
    def leaves(self) -> bool:
        """Whether it takes people out alone, as of a segment that is not chosen when a connection takes over."""
        return bool(self.members) and not any(each.adds.any() for each in self.members)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """The trait that a message was about, and how many ids came and left; `new` is False for one that came before."""

    trait: int
    new: bool
    added: int = 0
    removed: int = 0


@dataclass(frozen=True, slots=True)
class _Known:
    """How much came of a segment from a sender, and into which data source."""

    id: str
    source: int
    sequence: int


def source_of(namespace: str) -> int:
    """Return the number of the data source that ids of one of NAMESPACES belong to."""
    return _OF[namespace]


def trait_of(scope: Scope, tx: Tx, sender: str, segment: str) -> Trait | None:
    """Return the trait that a segment of a sender has here; None before anything came."""
    known = _known(scope, tx, sender, segment)
    return None if known is None else trait_rows.by_code(scope, tx, known.source, segment)


def take(scope: Scope, arrival: Arrival) -> Taken:
    """Take in a message: its trait and segment are there and named as it says, and who came and left is noted.

    One that came before, or is older than what did, changes nothing. Killed in between, it may come again. Raises NotAllowed
    where there would be too many traits, segments or senders, and to a user for what is another's.
    """
    guard = scope.home.guard
    with guard.itself(guard.actor()):
        with scope.begin() as tx:
            known = _known(scope, tx, arrival.key, arrival.segment)
            if known is not None and arrival.sequence is not None and arrival.sequence <= known.sequence:
                found = trait_rows.by_code(scope, tx, known.source, arrival.segment)
                return Taken(trait=0 if found is None else found.number, new=False)
            trait = _objects(scope, tx, arrival, known)
        added = removed = 0
        for each in arrival.members:
            receiving.receive_members(scope, trait.number, _OF[each.namespace], each.values, each.adds)
            came = int(each.adds.sum())
            added, removed = added + came, removed + len(each.adds) - came
        if added:
            _note_signal(scope, trait, added)
        if arrival.sequence is not None:
            with scope.begin() as tx:
                _note(tx, scope, arrival)
    return Taken(trait=trait.number, new=True, added=added, removed=removed)


def _objects(scope: Scope, tx: Tx, arrival: Arrival, known: _Known | None) -> Trait:
    """Return the trait of a segment, made, moved and renamed as needed, as its segment is."""
    code = arrival.segment
    source = sources.ensure(scope, tx, builtin.SHARING_SOURCE if arrival.older else builtin.SEGMENTS_SOURCE).number
    if known is not None and arrival.leaves:
        source = known.source
    _check(scope, tx, arrival, source)
    if known is not None and known.source != source:
        _move(scope, tx, code, known.source, source)
    before = trait_rows.by_code(scope, tx, source, code)
    name = arrival.name if before is not None and before.name == arrival.name else _free(scope, tx, arrival, source)
    trait = trait_rows.ensure(
        scope,
        tx,
        NewTrait(
            name=name,
            source=source,
            kind=TraitKind.ON_BOARDED,
            rule=f'{SIGNAL} == "{code}"',
            folder=folders.ensure(scope, tx, builtin.TRAITS_FOLDER).number,
            days=NEVER,
            integration_code=code,
            labels=arrival.labels,
        ),
    )
    segments_of_traits.ensure(
        scope,
        tx,
        NewSegment(
            name=name,
            source=source,
            rule=f"{trait.number}T",
            folder=folders.ensure(scope, tx, builtin.SEGMENTS_FOLDER).number,
            integration_code=code,
            merge_rule=builtin.MERGE_RULE,
        ),
    )
    moved = known is not None and known.source != source
    if before is None or moved or before.name != trait.name:
        detail = {"trait": trait.number, "source": source, "moved": moved}
        scope.home.audit.record(tx, "audience.take", trait.name[:100], project_id=scope.id, detail=detail)
    if known is None:
        _add(scope, tx, arrival, source)
    elif moved:
        tx.execute(audience_senders.update().where(audience_senders.c.id == known.id).values(source=source))
    return trait


def _check(scope: Scope, tx: Tx, arrival: Arrival, source: int) -> None:
    """Raise NotAllowed where a user may not send for a data source, or the trait there is what others have sent."""
    if arrival.allowed is not None and source not in arrival.allowed:
        raise NotAllowed(
            f"your roles do not let you send for data source {source}", hint="ask an administrator for a role with it"
        )
    if arrival.caller is None or trait_rows.by_code(scope, tx, source, arrival.segment) is None:
        return
    rows = audience_senders.c
    mine = (rows.project_id == scope.id, rows.segment == arrival.segment, rows.source == source)
    if any(each != arrival.caller for each in tx.scalars(select(rows.caller).where(*mine))):
        raise NotAllowed(
            f"segment {arrival.segment!r} is sent by somebody else",
            hint="send with the token of the user who sent it first, or have its trait deleted here",
        )


def _free(scope: Scope, tx: Tx, arrival: Arrival, source: int) -> str:
    """Return the name that a segment has here: its own, with its id where another of its data source has that."""
    taken = False
    for rows in (traits, audience_segments):
        mine = (rows.c.project_id == scope.id, rows.c.source == source, rows.c.name == arrival.name)
        other = (rows.c.integration_code.is_(None)) | (rows.c.integration_code != arrival.segment)
        taken = taken or tx.execute(select(rows.c.id).where(*mine, other)).first() is not None
    mark = f" ({arrival.segment})"
    return arrival.name[: MAX_NAME - len(mark)] + mark if taken else arrival.name


def _move(scope: Scope, tx: Tx, code: str, before: int, after: int) -> None:
    """Have the trait and the segment of an id change their data source, and what is there under the same id take their
    place; all keep their numbers."""
    for rows, changed in ((traits, {"revision": note_change(scope, tx)}), (audience_segments, {})):
        mine = (rows.c.project_id == scope.id, rows.c.integration_code == code)
        there = {row.source: row.id for row in tx.execute(select(rows.c.id, rows.c.source).where(*mine))}
        if before not in there:
            continue
        aside = there.get(after)
        if aside is not None:
            tx.execute(rows.update().where(rows.c.id == aside).values(integration_code=None))
        tx.execute(rows.update().where(rows.c.id == there[before]).values(source=after, **changed))
        if aside is not None:
            tx.execute(rows.update().where(rows.c.id == aside).values(source=before, integration_code=code, **changed))


def _known(scope: Scope, tx: Tx, sender: str, segment: str) -> _Known | None:
    rows = audience_senders.c
    mine = (rows.project_id == scope.id, rows.sender == sender, rows.segment == segment)
    row = tx.execute(select(rows.id, rows.source, rows.sequence).where(*mine)).first()
    return None if row is None else _Known(row.id, row.source, row.sequence)


def _add(scope: Scope, tx: Tx, arrival: Arrival, source: int) -> None:
    mine = audience_senders.c.project_id == scope.id
    if int(tx.scalar(select(func.count()).select_from(audience_senders).where(mine)) or 0) >= MOST_SENDERS:
        raise NotAllowed(f"a project takes at most {MOST_SENDERS:,} segments of senders", hint="share fewer segments")
    values = {"id": scope.home.new_id(), "project_id": scope.id, "sender": arrival.key, "segment": arrival.segment}
    more = {"caller": arrival.caller, "source": source, "sequence": 0, "changed": scope.home.now()}
    tx.execute(audience_senders.insert().values(**values, **more))


def _note_signal(scope: Scope, trait: Trait, count: int) -> None:
    """Note that the signal of a segment came with so many ids."""
    assert trait.integration_code is not None
    now, side = scope.home.now(), visitors.opened(scope)
    seen = signals.Seen(((SIGNAL, trait.integration_code),), now // DAY, count, now, now)
    with side.begin() as tx:
        signals.note(tx, trait.source, [seen])


def _note(tx: Tx, scope: Scope, arrival: Arrival) -> None:
    rows = audience_senders.c
    mine = (rows.project_id == scope.id, rows.sender == arrival.key, rows.segment == arrival.segment)
    newer = {"sequence": arrival.sequence, "changed": scope.home.now()}
    tx.execute(audience_senders.update().where(*mine, rows.sequence < arrival.sequence).values(**newer))
