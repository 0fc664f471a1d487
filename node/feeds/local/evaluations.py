"""Who of a project is in the segments that others share with it: followed as the data of both sides change.

What an evaluation is made from is digested: while that is the same, nothing is done. The members are in the manifest of the
project that uses the segment, as numbers of its own profiles, beside those of its own segments: so they are pinned, backed
up and erased with these.
"""

import hashlib
from dataclasses import dataclass

from pyroaring import BitMap

from ...access.scope import Home, NothingDone, Scope
from ...governance.lineage import Lineage
from ...governance.ports import OUTGOING
from ...operations.alerts import AlertKind, Alerts
from ...people.drafts import Draft
from ...people.snapshots import Snapshot, changes_after, newest_generation, settled, settles, stored_generation
from ...people.touched import touched_since
from ...segments import evaluation
from ...storage.database import Tx
from . import references, shares, uses
from .matching import Last, holders, renewed
from .shares import NotShared, Share

FORMAT = 1  # counts up when another result is made from the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What an evaluation is made from."""

    theirs: Snapshot
    ours: Snapshot
    then: Snapshot | None  # what `theirs` was at the newest evaluation, as long as it is kept
    model: str | None  # of consent, where only those count who may be shared
    basis: str

    @classmethod
    def of(cls, home: Home, tx: Tx, share: Share) -> "Inputs":
        source = share.source_scope(home)
        theirs, ours = Snapshot.open(source, tx), Snapshot.open(share.user_scope(home), tx)
        model = source.row(tx).consent_model if share.with_consent else None
        found = [FORMAT, sorted(share.namespaces), share.with_consent, model]
        found += [theirs.content.segments.get(share.segment_id), theirs.content.erased, ours.content.erased]
        for content in (theirs.content, ours.content):
            found.append(
                [each for each in sorted(content.identities.items()) if each[0].partition("/")[0] in share.namespaces]
            )
        if share.with_consent:
            found += [theirs.content.consent, sorted(theirs.content.noted.items())]
        then = None if share.generation is None else stored_generation(source, tx, share.generation)
        return cls(
            theirs=theirs, ours=ours, then=then, model=model, basis=hashlib.sha256(repr(found).encode()).hexdigest()
        )

    def members(self, share: Share) -> BitMap:
        if share.with_consent and self.model is None:
            return BitMap()  # nobody has said yet who may be shared
        chosen = self.theirs.members(share.segment_id)
        if self.then is not None and not share.with_consent:
            touched = touched_since(self.theirs, self.then.generation)
            here = touched_since(self.ours, share.own_generation or 0)
            if touched is not None and here is not None:
                found = self.ours.members(share.id)
                last = Last(found=found, then=self.then, touched=touched, touched_here=here)
                return renewed(last, self.theirs, chosen, self.ours, share.namespaces)
        return holders(self.theirs, chosen, self.ours, share.namespaces, model=self.model)


def follow(scope: Scope, *, settling: bool = False) -> int | None:
    """Bring what others share with a project up to date, as the node's own work.

    Return when it is to be looked at again if nothing else changes. With `settling`, what still changes waits.
    """
    home, times = scope.home, list[int]()
    with home.guard.itself():
        with home.read() as tx:
            found = [(each, shares.why_not(home, tx, each)) for each in shares.used_by(scope, tx)]
        for share, reason in found:
            if reason is not None:
                if share.basis is not None:
                    withdraw(home, share, reason)
            elif (again := _follow(home, share, settling)) is not None:
                times.append(again)
    return min(times, default=None)


def follow_from(scope: Scope) -> None:
    """Do the same in each project with which one shares segments, and in this one."""
    with scope.home.guard.itself():
        with scope.home.read() as tx:
            users = {each.project_id: each.user_scope(scope.home) for each in shares.of_project(scope, tx)}
        for each in (*users.values(), scope):
            follow(each)


def _follow(home: Home, share: Share, settling: bool) -> int | None:
    with home.read() as tx:
        inputs = Inputs.of(home, tx, share)
        waiting = [] if share.basis is None or not settling else _changes(home, tx, share)
        labelled = references.labels(share.user_scope(home), tx, share) != share.labels
    if labelled:
        _relabel(home, share)
    if inputs.basis == share.basis:
        return None
    if not settled(waiting, home.now()):
        return settles(waiting)
    members = inputs.members(share)
    scope, detail, again = share.user_scope(home), dict[str, int](), None
    with scope.act("segment.follow", share.reference, detail=detail) as tx:
        current = shares.find(scope, tx, share.target)
        if current is None or current.id != share.id or shares.why_not(home, tx, current) is not None:
            raise NothingDone  # it ended meanwhile
        if _state(current) != _state(share) or Inputs.of(home, tx, share).basis != inputs.basis:
            again = home.now()  # another process was faster, or the data changed
            raise NothingDone
        draft = Draft(scope, tx)
        before = draft.base.members(share.id)
        came, left = len(members - before), len(before - members)
        detail |= {"size": len(members), "came": came, "left": left}
        shares.note_evaluation(
            home, tx, share, size=len(members), came=came, left=left, generation=inputs.theirs.generation
        )
        if came or left or share.basis is None:
            draft.set_members(share.id, members)
            draft.publish()
            evaluation.renew(scope, tx, {share.reference})
        shares.change(
            tx,
            share,
            basis=inputs.basis,
            generation=newest_generation(share.source_scope(home), tx),
            own_generation=newest_generation(scope, tx),
            size=len(members),
            evaluated=home.now(),
        )
        note(home, tx, share, "segment.follow")
    return again


def _state(share: Share) -> tuple[str | None, int | None, int | None]:
    """Return what another evaluation, or the end of one, changes."""
    return share.basis, share.generation, share.own_generation


def _changes(home: Home, tx: Tx, share: Share) -> list[int]:
    """Return when the data of both sides changed since the newest evaluation, oldest first."""
    return sorted(
        [
            *changes_after(share.source_scope(home), tx, share.generation or 0),
            *changes_after(share.user_scope(home), tx, share.own_generation or 0),
        ]
    )


def _relabel(home: Home, share: Share) -> None:
    """Give the feeds that have a segment a version with the labels that it has now in its own project."""
    scope = share.user_scope(home)
    outgoing, detail = [room(scope) for room in OUTGOING.values()], dict[str, list[str]]()
    with scope.act("segment.follow", share.reference, detail=detail) as tx:
        detail["labels"] = references.labels(scope, tx, share)
        shares.change(tx, share, labels=detail["labels"])
        for each in outgoing:
            each.relabel(tx, Lineage(scope, tx))
    for each in outgoing:
        each.deliver()


def withdraw(home: Home, share: Share, reason: NotShared) -> None:
    """Take the members away of a segment that may not be used now; its share stays."""
    with share.user_scope(home).act("segment.unshared", share.reference, detail={"why": str(reason)}) as tx:
        end(home, tx, share)
        note(home, tx, share, "segment.unshared")


def end(home: Home, tx: Tx, share: Share, *, remove: bool = False) -> None:
    """Take the members of a segment away, and with `remove` its share, in the caller's transaction: of what reads it, nobody
    is left, and no older generation of the data has who was in it."""
    scope = share.user_scope(home)
    used = uses.is_used(scope, tx, share)
    if remove:
        shares.remove(tx, share)
    else:
        shares.change(tx, share, basis=None, generation=None, own_generation=None, size=0)
    emptied = evaluation.renew(scope, tx, {share.reference})
    draft = Draft(scope, tx)
    draft.set_members(share.id, None)
    draft.publish(keep=1)
    if used:
        text = f"nobody is in {', '.join([share.reference, *emptied])} any more: its project does not share it now"
        Alerts(scope).add(tx, AlertKind.SEGMENT_UNSHARED, text)


def note(home: Home, tx: Tx, share: Share, act: str) -> None:
    """Write what was done in the project that uses a segment into the audit log of its own project, without numbers."""
    home.audit.record(tx, act, share.segment, project_id=share.source, detail={"project": share.project_name})
