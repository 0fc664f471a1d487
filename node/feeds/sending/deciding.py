"""What a run may release, decided again for the identities alone that something has touched since the last run.

An identity's decision follows from all of its holders in one generation. So both generations are asked, by the functions that
decide of everybody, about the identities that a touched profile has in one of them. What else decides is compared first, by
digest. Once a day everybody is decided of too, and that counts.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import numpy as np
from pyroaring import BitMap

from protocol.feed import Definition
from psi.join import union
from psi.values import Values, sort_keys

from ...access.scope import Scope
from ...errors import Failure
from ...exchanges.channels import cache_of
from ...exchanges.kept_prf import key_bytes
from ...partners import key_epochs
from ...partners.connections import Connection
from ...people.audiences import Audience
from ...people.snapshots import ErasedMeanwhile, Snapshot, stored_generation
from ...people.touched import SomeIdentities, held, touched_since
from ...storage.cache import Cache
from ...storage.database import Tx
from ...storage.ids import stored_id
from ...storage.tables import DAY
from .. import versions
from ..runs import Counts, SentRun
from . import revisions, selection
from .kept_content import Digests, KeptContent, digest, in_order, kept, nothing
from .revisions import Content, Contents
from .selection import Selection, select_members
from .standing import last_run


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What may leave: `whole` where it was decided of everybody, else what the run `last` has with some `changes`.

    `counts` is what the next decision goes on from; `differs` that it did not come out as everybody's does.
    """

    counts: Counts
    small_segments: list[str]
    digests: Digests
    whole: Contents | None = None
    last: str | None = None
    changes: Contents = field(default_factory=dict)
    differs: bool = False

    @property
    def namespaces(self) -> list[str]:
        return sorted(self.digests)

    @property
    def few(self) -> bool:
        """Whether the changes are less than half of all: else a full revision is simpler."""
        return 2 * sum(len(each.values) for each in self.changes.values()) < self.counts.sent

    def content(self, cache: Cache) -> Contents:
        """Return all that may leave; raises Failure where the run that it follows from is gone from the cache."""
        if self.whole is not None:
            return self.whole
        assert self.last is not None
        found, last = {}, kept(cache, self.last)
        for namespace, changes in self.changes.items():
            if namespace not in last:
                raise Failure("the last run is not in the cache any more", hint="run it again")
            with last[namespace].open() as before:
                found[namespace] = before.whole(changes)
        if sum(len(each.values) for each in found.values()) != self.counts.sent:
            raise Failure("the last run is not in the cache as it was", hint="run it again")
        return found

    def keep(self, cache: Cache, run_id: str, width: int) -> None:
        """Keep the content of a run that has bitmaps of so many bytes; raises ErasedMeanwhile where the last one's is not as
        it was."""
        coming = {name: KeptContent(cache, run_id, name, width) for name in self.digests}
        if self.whole is not None:
            for name, content in self.whole.items():
                coming[name].save(content, self.digests[name])
            return
        assert self.last is not None
        last, count = kept(cache, self.last), 0
        if last.keys() != coming.keys():
            raise ErasedMeanwhile()
        for name, changes in self.changes.items():
            coming[name].follow(last[name], changes, self.digests[name])
            with coming[name].open() as now:
                count += len(now)
        if count != self.counts.sent:
            raise ErasedMeanwhile()


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
    selected = select_members(scope, connection, definition, snapshot, model, tx=tx)
    whole = revisions.of(selected, definition.width)
    decided = Decided(
        counts=_counts(selected, beside, now),
        small_segments=selected.small_segments,
        digests=in_order(whole),
        whole=whole,
    )
    return decided if found is None else replace(decided, differs=not _equal(found, decided))


def _counts(found: Selection, beside: str, whole: int) -> Counts:
    return Counts(
        considered=found.considered,
        unconsented=found.unconsented,
        small=found.small,
        allowed=dict(found.allowed),
        beside=beside,
        whole=whole,
    )


def _equal(one: Decided, other: Decided) -> bool:
    same = replace(one.counts, whole=other.counts.whole) == other.counts and one.small_segments == other.small_segments
    return same and all(np.array_equal(one.digests[name], digests) for name, digests in other.digests.items())


def _alike(one: Content, other: Content) -> bool:
    if not len(one.values) and not len(other.values):  # nobody's rows say nothing about the width
        return True
    return np.array_equal(sort_keys(one.values), sort_keys(other.values)) and np.array_equal(one.bitmaps, other.bitmaps)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Last:
    """The run that a partner took last, what is kept of it, and the generation that this was decided from."""

    run: SentRun
    counts: Counts
    contents: Mapping[str, KeptContent]
    digests: Digests
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
    contents = kept(cache_of(scope, connection, epoch), run.id)
    if snapshot is None or contents.keys() != set(versions.matched_by(definition, connection)):
        return None
    digests = {name: found for name, each in contents.items() if (found := each.digests()) is not None}
    if digests.keys() != contents.keys() or digest(digests, definition, epoch).hex() != run.report.content:
        return None  # somebody of it was erased, and may be back; or it is not what is kept
    minimum = selection.minimum_of(connection)
    return _Last(run=run, counts=counts, contents=contents, digests=digests, snapshot=snapshot, minimum=minimum)


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
        return _decided(last, definition, values, before, now)
    except (
        Failure
    ):  # people were erased meanwhile, and the files of the generation before, or of the last run, are gone
        return None


Found = dict[str, Audience]  # by namespace


def _decided(
    last: _Last, definition: Definition, values: Mapping[str, Values], before: Found, now: Found
) -> Decided | None:
    """Choose of some identities, as they were `before` and are `now`, and lay that over the last run."""
    names = [segment.name for segment in definition.segments]
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
    for namespace in last.contents:
        both = [each.rows(namespace) for each in (last.snapshot, snapshot)]
        if any(sort_keys(rows.values.part(slice(1))).shape[1] != key_bytes(namespace) for rows in both if len(rows)):
            return None
        parts = [rows.values.take(held(rows.profiles, touched)) for rows in both if len(rows)]
        values[namespace] = union(parts) if parts else nothing(namespace)
    return values


def _laid_over(
    last: _Last, definition: Definition, values: Mapping[str, Values], were: Selection, are: Selection
) -> Decided | None:
    """Lay what is decided now of some identities over the last run's content.

    None where that content is not what would have been decided of them then.
    """
    changes, digests, counts = {}, {}, last.counts
    before, now = (revisions.of(each, definition.width) for each in (were, are))
    with ExitStack() as files:
        contents = {name: files.enter_context(each.open()) for name, each in last.contents.items()}
        if sum(map(len, contents.values())) != counts.sent:
            return None
        for namespace, content in contents.items():
            if not _alike(content.find(values[namespace]), before[namespace]):
                return None
            changes[namespace] = now[namespace].since(before[namespace])
            digests[namespace] = content.digests(last.digests[namespace], changes[namespace])
    return Decided(
        counts=replace(
            counts,
            considered=counts.considered - were.considered + are.considered,
            unconsented=counts.unconsented - were.unconsented + are.unconsented,
            small=counts.small - were.small + are.small,
            allowed=dict(are.allowed),
        ),
        small_segments=are.small_segments,
        digests=digests,
        last=last.run.id,
        changes=changes,
    )
