"""Which identities of ours have no F yet, found out from those of touched people alone where it is known of the others.

A note says of which people F has all identities that may be matched, and, while an exchange asks for the rest, of which it
has them afterwards. It holds as long as F is the same.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import msgpack
import numpy as np

from psi.join import union
from psi.values import Values

from ...access.scope import Scope
from ...errors import Failure
from ...exchanges.kept_prf import OpenPrf
from ...people import audiences, held, snapshots
from ...people.snapshots import Snapshot
from ...people.touched import touched_since
from ...storage.cache import Cache
from ...storage.database import Tx


@dataclass(frozen=True, slots=True, kw_only=True)
class _Noted:
    """The stamp of F, and those of the people that it covers: now, and with the identities of a digest that are asked for."""

    prf: bytes = b""
    people: bytes = b""
    asked: bytes = b""
    asked_people: bytes = b""


def missing(scope: Scope, cache: Cache, namespace: str, snapshot: Snapshot, have: OpenPrf) -> Values:
    """Return the identities that may be matched and that F, as it is open, has not; sorted."""
    noted, people = _noted(cache, namespace), audiences.stamp(snapshot, namespace)
    found = None
    if have.stamp and noted.prf == have.stamp and not have.lost:
        if noted.people == people:
            return Values.of([])
        found = _of_touched(scope, namespace, snapshot, noted.people)
    if found is None:
        found, _ = audiences.universe(snapshot, namespace)
    lacking = have.missing(found)
    if len(lacking) and lacking.all():
        return found
    if lacking.any():
        return found.take(lacking).part(slice(None))  # of a Taken, a copy
    if have.stamp:
        _note(cache, namespace, _Noted(prf=have.stamp, people=people))
    return found.part(slice(0))


def note_asked(cache: Cache, namespace: str, snapshot: Snapshot, stamp: bytes, digest: bytes) -> None:
    """Note that with the identities of a digest F, which has a stamp now, has all that may be matched of a snapshot."""
    noted = _noted(cache, namespace)
    noted = noted if noted.prf == stamp else _Noted(prf=stamp)
    _note(cache, namespace, replace(noted, asked=digest, asked_people=audiences.stamp(snapshot, namespace)))


def note_come(cache: Cache, namespace: str, digest: bytes, *, before: bytes, after: bytes) -> None:
    """Note that F of the identities of a digest has come, as all that changed between two stamps of F."""
    noted = _noted(cache, namespace)
    if after and (noted.prf, noted.asked) == (before, digest):
        _note(cache, namespace, _Noted(prf=after, people=noted.asked_people))


def before_now(scope: Scope, tx: Tx, people: Mapping[str, bytes]) -> Snapshot | None:
    """Return the newest generation kept whose people have these stamps, by namespace."""
    same = (
        each
        for each in snapshots.kept(scope, tx)
        if all(audiences.stamp(each, namespace) == stamp for namespace, stamp in people.items())
    )
    return next(same, None)


def _of_touched(scope: Scope, namespace: str, snapshot: Snapshot, people: bytes) -> Values | None:
    """Return the identities of those whom a change concerns since the people had a stamp, as far as they may be matched.

    Whoever an identity was taken from may have been the one who said no. None where it may be anybody.
    """
    with scope.read() as tx:
        before = before_now(scope, tx, {namespace: people})
    touched = None if before is None else touched_since(snapshot, before.generation)
    if before is None or touched is None:
        return None
    try:
        had, has = (held.held_by(each, namespace, touched) for each in (before, snapshot))
    except Failure:  # a file of the generation before cannot be read
        return None
    who = held.holders_of(snapshot, namespace, union([had, has]))
    return who.values.take(~held.opted_out(snapshot, namespace, who))


def _noted(cache: Cache, namespace: str) -> _Noted:
    stored = cache.load(_name(namespace), only=("noted",))
    return _Noted(**msgpack.unpackb(stored["noted"].tobytes())) if stored else _Noted()


def _note(cache: Cache, namespace: str, noted: _Noted) -> None:
    cache.save(_name(namespace), noted=np.frombuffer(msgpack.packb(asdict(noted)), np.uint8))


def _name(namespace: str) -> str:
    return f"covered {namespace}"
