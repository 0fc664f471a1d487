"""What a run may release, decided again for the identities alone that something has touched since the last run.

An identity's decision follows from all of its holders in one generation. So both generations are asked, by the functions that
decide of everybody, about the identities that a touched profile has in one of them. What else decides is compared first, by
digest. Once a day everybody is decided of too, and that counts.
"""

from dataclasses import dataclass, replace

import numpy as np
from pyroaring import BitMap

from protocol.feed import Definition
from psi.join import match, union
from psi.values import Values, sort_keys

from ...access.scope import Scope
from ...errors import Failure
from ...exchanges.channels import cache_of
from ...partners import key_epochs
from ...partners.connections import Connection
from ...people.snapshots import Snapshot, stored_generation
from ...people.touched import SomeIdentities, held, touched_since
from ...storage.database import Tx
from ...storage.ids import stored_id
from ...storage.tables import DAY
from .. import versions
from ..runs import Counts, SentRun
from . import revisions, selection
from .revisions import Content, Contents
from .selection import Selection, select_members
from .standing import last_run


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What may leave. `changes` are those since the run `last`, where they were found on the way; None where they are so many
    that a full revision is simpler.

    `counts` is what the next decision goes on from; `differs` that it did not come out as everybody's does.
    """

    selection: Selection
    counts: Counts
    last: str | None = None
    changes: Contents | None = None
    differs: bool = False


def decide_members(
    scope: Scope, connection: Connection, definition: Definition, snapshot: Snapshot, model: str, *, tx: Tx
) -> Decided:
    """Decide what may leave with a version of a feed to a partner."""
    beside = selection.beside(scope, connection, definition, model, tx=tx)
    last = _last(scope, connection, definition, beside, tx=tx)
    found = None if last is None else _since_last(last, scope, definition, snapshot, model, tx=tx)
    now = scope.home.now()
    if found is not None and abs(now - found.counts.whole) < DAY:  # a clock may be set back
        return found
    whole = select_members(scope, connection, definition, snapshot, model, tx=tx)
    return Decided(
        selection=whole,
        counts=_counts(whole, beside, now),
        differs=found is not None and not _equal(found.selection, whole),
    )


def _counts(found: Selection, beside: str, whole: int) -> Counts:
    return Counts(
        considered=found.considered,
        unconsented=found.unconsented,
        small=found.small,
        allowed=dict(found.allowed),
        beside=beside,
        whole=whole,
    )


def _equal(one: Selection, other: Selection) -> bool:
    def numbers(each: Selection) -> list[object]:
        return [each.considered, each.unconsented, each.small, each.small_segments, dict(each.allowed)]

    return numbers(one) == numbers(other) and all(
        _alike(one.audiences[name].values, audience.values)
        and np.array_equal(one.audiences[name].segments, audience.segments)
        for name, audience in other.audiences.items()
    )


def _alike(one: Values, other: Values) -> bool:
    return len(one) == len(other) and (not len(one) or np.array_equal(sort_keys(one), sort_keys(other)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Last:
    """The run that a partner took last, its content, and the generation that this was decided from."""

    run: SentRun
    counts: Counts
    contents: Contents
    snapshot: Snapshot
    minimum: int  # of identities in a segment


def _last(scope: Scope, connection: Connection, definition: Definition, beside: str, *, tx: Tx) -> _Last | None:
    """Return the last run if what is decided now differs from it by people alone."""
    run, epoch = last_run(tx, connection.id, stored_id(definition.feed)), key_epochs.running(scope, tx, connection)
    if run is None or epoch is None or run.report.counts is None:
        return None
    counts = Counts(**run.report.counts)
    if (run.version, run.report.epoch) != (definition.version, epoch.number):
        return None
    if counts.beside != beside:
        return None
    snapshot = stored_generation(scope, tx, run.report.generation)
    contents = revisions.load(cache_of(scope, connection, epoch), run.id)
    if snapshot is None or contents.keys() != set(versions.matched_by(definition, connection)):
        return None
    if sum(len(each.values) for each in contents.values()) != counts.sent:
        return None  # somebody of it was erased, and may be back
    minimum = selection.minimum_of(connection)
    return _Last(run=run, counts=counts, contents=contents, snapshot=snapshot, minimum=minimum)


def _since_last(
    last: _Last, scope: Scope, definition: Definition, snapshot: Snapshot, model: str, *, tx: Tx
) -> Decided | None:
    """Decide anew of the identities of touched profiles, and take the others from the last run; None where that cannot be."""
    try:
        touched = touched_since(snapshot, last.run.report.generation)
        values = None if touched is None else _values_of(last, snapshot, touched)
        if values is None:
            return None
        names = [segment.name for segment in definition.segments]
        before, now = (
            selection.found_in(scope, SomeIdentities.having(each, values), names, model, tx=tx)
            for each in (last.snapshot, snapshot)
        )
    except Failure:  # people were erased meanwhile, and the files of the generation before are gone
        return None
    allowed = {
        name: [
            had - was + each
            for had, was, each in zip(
                last.counts.allowed[name], selection.counted(before[name]), selection.counted(found), strict=True
            )
        ]
        for name, found in now.items()
    }
    large = selection.enough(last.counts.allowed, last.minimum)
    if not np.array_equal(large, selection.enough(allowed, last.minimum)):
        return None
    were, are = (selection.keep_large(each, names, large) for each in (before, now))
    return _laid_over(last, definition, values, were, replace(are, allowed=allowed))


def _values_of(last: _Last, snapshot: Snapshot, touched: BitMap) -> dict[str, Values] | None:
    """Return the identities that touched profiles have now, or had at the last run; None where these do not compare."""
    values = {}
    for namespace, content in last.contents.items():
        both = [each.rows(namespace) for each in (last.snapshot, snapshot)]
        compared = [content.values, *(rows.values for rows in both)]
        if len({sort_keys(each.part(slice(1))).shape[1] for each in compared if len(each)}) > 1:
            return None
        parts = [rows.values.take(held(rows.profiles, touched)) for rows in both if len(rows)]
        values[namespace] = union(parts) if parts else content.values.part(slice(0))
    return values


def _laid_over(
    last: _Last, definition: Definition, values: dict[str, Values], were: Selection, are: Selection
) -> Decided | None:
    """Lay what is decided now of some identities over the last run's content.

    None where that content is not what would have been decided of them then.
    """
    audiences, changes = {}, {}
    before, now = (revisions.of(each, definition.width) for each in (were, are))
    for namespace, content in last.contents.items():
        places = match(sort_keys(content.values), sort_keys(values[namespace]))[0]
        had = Content(values=content.values.take(places), bitmaps=content.bitmaps[places])
        if not _alike(had.values, before[namespace].values) or not np.array_equal(
            had.bitmaps, before[namespace].bitmaps
        ):
            return None
        changes[namespace] = now[namespace].since(had)
        laid = content.replaced(places, now[namespace]) if len(changes[namespace].values) else content
        audiences[namespace] = laid.audience(len(definition.segments))
    counts = last.counts
    found = Selection(
        audiences=audiences,
        considered=counts.considered - were.considered + are.considered,
        unconsented=counts.unconsented - were.unconsented + are.unconsented,
        small=counts.small - were.small + are.small,
        small_segments=are.small_segments,
        allowed=are.allowed,
    )
    few = 2 * sum(len(each.values) for each in changes.values()) < found.sent
    return Decided(
        selection=found,
        counts=_counts(found, counts.beside, counts.whole),
        last=last.run.id,
        changes=changes if few else None,
    )
