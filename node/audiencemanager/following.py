"""Who of a project is in the traits and segments that are imported: followed as realisations, their expiry and the data
change.

The members are in the manifest, as numbers of the project's profiles, beside those of its own segments: so they are pinned,
backed up and erased with these.
"""

import hashlib

from pyroaring import BitMap

from ..access.scope import NothingDone, Scope
from ..people.drafts import Draft
from ..people.snapshots import Snapshot
from ..segments import evaluation
from ..storage.database import Tx
from . import audience_segments, folders, imported, numbers, sources, visitor_profiles
from .catalogue import Catalogue
from .imported import Imported
from .members import Members
from .visitors import DAY, opened

FORMAT = 1  # counts up when another result is made from the same
QUIET_SECONDS = 60  # between two evaluations by itself: signals may come all the time


def follow(scope: Scope, *, settling: bool = False) -> int | None:
    """Bring what is imported up to date, as the node's own work.

    Return when it is to be looked at again if nothing else changes. With `settling`, what was evaluated just now waits.
    """
    times = list[int]()
    with scope.home.guard.itself():
        with scope.read() as tx:
            found = imported.stored(scope, tx)
            now = basis(scope, tx, Snapshot.open(scope, tx), opened(scope).revision) if found else ""
        for each in found:
            if each.basis == now:
                times.append((scope.home.now() // DAY + 1) * DAY)  # what expires does so at midnight
            elif settling and (each.evaluated or 0) <= scope.home.now() < (each.evaluated or 0) + QUIET_SECONDS:
                times.append((each.evaluated or 0) + QUIET_SECONDS)
            else:
                _follow(scope, each)
    return min(times, default=None)


def basis(scope: Scope, tx: Tx, snapshot: Snapshot, revision: int) -> str:
    """Return a digest of all that imports are evaluated from: while it is the same, nothing is done.

    `revision` is that of the visitors before they were looked at: what comes meanwhile may be in the members or not.
    """
    found = [
        FORMAT,
        scope.home.now() // DAY,
        numbers.revision(scope, tx),
        [(each.number, each.tree) for each in audience_segments.stored(scope, tx)],
        [(each.number, each.namespace) for each in sources.stored(scope, tx)],
        [(each.number, each.parent) for each in folders.stored(scope, tx)],
        revision,
        (sorted(snapshot.content.identities.items()), snapshot.content.erased, snapshot.content.count),
    ]
    return hashlib.sha256(repr(found).encode()).hexdigest()


def evaluate(scope: Scope, draft: Draft, found: Imported, members: Members) -> BitMap:
    """Return the profiles of a draft that are visitors of what is imported; nobody where that is deleted."""
    visitors = members.of(found.kind, found.number)
    return visitor_profiles.joined(scope, draft.tx, draft.snapshot, visitors).profiles


def note(scope: Scope, draft: Draft, found: Imported, members: BitMap, basis: str) -> None:
    """Put members into a draft, and note when and from what they were evaluated."""
    draft.set_members(found.id, members)
    imported.change(draft.tx, found, basis=basis, size=len(members), evaluated=scope.home.now())


def end(scope: Scope, tx: Tx, found: Imported) -> list[str]:
    """Take an import away, in the caller's transaction; return the segments that have nobody from now on, because they
    read it. No older generation of the data has who was in it."""
    imported.remove(tx, found)
    emptied = evaluation.renew(scope, tx, {found.reference})
    draft = Draft(scope, tx)
    draft.set_members(found.id, None)
    draft.publish(keep=1)
    return emptied


def _follow(scope: Scope, found: Imported) -> None:
    revision = opened(scope).revision
    with scope.read() as tx:
        draft = Draft(scope, tx)
        was = basis(scope, tx, draft.base, revision)
        now = evaluate(scope, draft, found, Members(scope, tx, Catalogue(scope, tx)))
        is_there = imported.exists(scope, tx, found)
        before = draft.base.members(found.id)
    came, left = len(now - before), len(before - now)
    if not (came or left) and is_there:
        with scope.begin() as tx:
            if imported.find(scope, tx, found.place) == found:
                imported.change(tx, found, basis=was, size=len(now), evaluated=scope.home.now())
        return
    with scope.act(
        "audience.follow-import", found.reference, detail={"size": len(now), "came": came, "left": left}
    ) as tx:
        draft = Draft(scope, tx)
        if imported.find(scope, tx, found.place) != found or basis(scope, tx, draft.base, revision) != was:
            raise NothingDone  # another process was faster, or the data changed: the next time will do
        note(scope, draft, found, now, was)
        draft.publish()
        evaluation.renew(scope, tx, {found.reference})
