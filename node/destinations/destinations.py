"""The destinations of a project: where segments go, all the time, and what became of each change."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from psi.errors import Remedy

from ..access.scope import Scope
from ..consent.consents import Consents
from ..errors import AlreadyExists, InvalidInput, NotAllowed, check_name
from ..governance.governance import FILE_USES
from ..governance.policies import SHARING, check_action
from ..governance.visibility import Visibility
from ..inputs.normalise import rule
from ..operations.jobs import Jobs, Progress, no_progress
from ..people import datasets
from ..segments import references
from ..storage.database import Tx
from ..storage.records import Document, Documents
from ..storage.tables import activations, batches, destinations
from . import codes, counts, due, kinds, sending
from .desired import check_leaves
from .kinds import Delivered, Gone, Outcome
from .members import evaluate_received
from .records import (
    PROFILE_ID,
    Activation,
    ActivationStatus,
    BatchRow,
    BatchState,
    Destination,
    DestinationStatus,
    activations_of,
    batches_where,
    by_id,
    no_destination,
    stored,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """A new destination, and the secret that was made for it, which is shown once; None where it was given."""

    destination: Document
    secret: str | None = field(repr=False)


class Destinations:
    """The places that a project's segments go to."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    @staticmethod
    def kinds() -> Documents:
        """Return each kind with its settings."""
        found = ((name, kinds.kind(name)) for name in kinds.KINDS)
        return [
            {
                "kind": name,
                "text": each.text,
                "settings": [{"name": one.name, "needed": one.needed, "text": one.text} for one in each.settings],
            }
            for name, each in found
        ]

    def create(
        self,
        name: str,
        kind: str,
        settings: Mapping[str, str],
        *,
        identity: str = PROFILE_ID,
        uses: Sequence[str] = (),
        description: str = "",
        secret: bytes | None = None,
    ) -> Created:
        """Add a destination that gets members by `identity`, their own ids or a namespace, for some marketing uses.

        Without `uses` it is for all of them. Raises InvalidInput for settings that its kind cannot work with.
        """
        detail: Document = {"kind": kind[:40], "uses": sorted(set(uses))[:20]}
        with self._scope.act("destination.create", name[:100], detail=detail) as tx:
            check_name(name, "destination")
            kept = kinds.checked(kind, settings)
            chosen = self._identity(tx, identity)
            detail["identity"] = chosen
            shared = kinds.kind(kind).secret(secret, self._scope.home.random)
            if any(each.name == name for each in stored(self._scope, tx)):
                raise AlreadyExists(f"there is a destination {name!r} already", hint="choose another name")
            values: Document = {"id": self._scope.home.new_id(), "project_id": self._scope.id, "name": name}
            values |= {"kind": kind, "description": description, "settings": kept, "identity": chosen}
            values |= {
                "uses": _uses(uses),
                "status": DestinationStatus.ACTIVE,
                "messages": 0,
                "created": self._scope.home.now(),
            }
            values["secret"] = None if shared is None else self._scope.home.keys.wrap(shared, sending.SECRET)
            tx.execute(destinations.insert().values(**values))
        return Created(
            destination=self.show(name), secret=shared.decode() if shared is not None and secret is None else None
        )

    def check(self, name: str) -> Document:
        """Send what has no change in it, and return whether it arrived, else why not."""
        with self._scope.act("destination.check", name) as tx:
            found = self._get(tx, name)
        keys = self._scope.home.keys
        secret = None if found.secret is None else keys.unwrap(found.secret, sending.SECRET)
        target = kinds.kind(found.kind).open(self._scope.home, found.settings, secret)
        try:
            outcome = target.check(self._scope.home.now())
        finally:
            target.close()
        return _outcome(outcome)

    def activate(self, name: str, segments: Sequence[str], progress: Progress = no_progress) -> Document:
        """Send segments to a destination from now on: all members first, then what changes.

        Raises PolicyViolation where a label or a partner forbids one of the destination's uses, and NotAllowed where nobody
        has chosen a consent model.
        """
        detail: Document = {"segments": list(segments)[:100]}
        self._scope.require("destination.activate", name)
        with self._scope.refusals("destination.activate", name), self._scope.read() as tx:
            uses = self._seen_whole(tx, name).uses
        for each in segments:
            evaluate_received(self._scope, each, uses)
        with self._scope.act("destination.activate", name, detail=detail) as tx:
            found = self._seen_whole(tx, name)
            self._check_kept(found)
            Consents(self._scope).require_model(tx)
            there = {each.segment: each for each in activations_of(tx, found)}
            for segment in dict.fromkeys(segments):
                references.pick(self._scope, tx, segment)
                Visibility(self._scope, tx).check_use([segment], *found.uses)
                check_leaves(self._scope, tx, found, segment)
                self._activate(tx, found, segment, there.get(segment))
        return self.sync(name, progress)

    def deactivate(
        self, name: str, segments: Sequence[str], *, leave: bool = False, progress: Progress = no_progress
    ) -> Document:
        """Send segments no more, and remove all their members at the target; with `leave` they stay there."""
        status = ActivationStatus.LEFT if leave else ActivationStatus.LEAVING
        detail: Document = {"segments": list(segments)[:100], "leave": leave}
        with self._scope.act("destination.deactivate", name, detail=detail) as tx:
            found = self._seen_whole(tx, name)
            there = {each.segment: each for each in activations_of(tx, found)}
            for segment in dict.fromkeys(segments):
                if segment not in there:
                    raise NotAllowed(
                        f"destination {name} does not get segment {segment[:80]}",
                        hint="look at what it gets",
                        remedy=Remedy("destination.show", {"name": name}),
                    )
                self._set(tx, there[segment], status=status, replay=True)  # removals that failed too
        return self.sync(name, progress)

    def pause(self, name: str) -> None:
        """Send nothing for now; what changes meanwhile is sent when it goes on."""
        with self._scope.act("destination.pause", name) as tx:
            found = self._get(tx, name)
            self._check_kept(found)
            self._change(tx, found, status=DestinationStatus.PAUSED, reason=None)

    def resume(self, name: str, progress: Progress = no_progress) -> Document:
        """Go on with a destination that was paused, or that its target disabled."""
        with self._scope.act("destination.resume", name) as tx:
            found = self._seen_whole(tx, name)
            self._check_kept(found)
            self._change(tx, found, status=DestinationStatus.ACTIVE, reason=None, next_attempt=None)
        return self.sync(name, progress)

    def delete(self, name: str, *, leave: bool = False, progress: Progress = no_progress) -> Document:
        """Remove all members at the target and take the destination away once that is done; with `leave` at once."""
        status = ActivationStatus.LEFT if leave else ActivationStatus.LEAVING
        with self._scope.act("destination.delete", name, detail={"leave": leave}) as tx:
            found = self._seen_whole(tx, name)
            for each in activations_of(tx, found):
                self._set(tx, each, status=status, replay=True)
            self._change(tx, found, status=DestinationStatus.DELETING, reason=None, next_attempt=None)
        return self.sync(name, progress)

    def replay(self, name: str, progress: Progress = no_progress) -> Document:
        """Say again what failed, as it holds now."""
        with self._scope.act("destination.replay", name) as tx:
            found = self._seen_whole(tx, name)
            for each in activations_of(tx, found):
                if each.failed:
                    self._set(tx, each, replay=True)
        return self.sync(name, progress)

    def sync(self, name: str, progress: Progress = no_progress) -> Document:
        """Send what is due now, here or in the service; return how many messages arrived, and what waits."""
        with self._scope.read() as tx:
            found = self._seen_whole(tx, name)
        sent, more = 0, True
        while more:
            result = Jobs(self._scope.home).run(sending.JOB, due.parameters(found), self._scope, progress)
            sent, more = sent + result["sent"], result["more"]
        with self._scope.read() as tx:
            left = by_id(self._scope, tx, found.id)
            waiting = 0 if left is None else sum(each.changes for each in self._waiting(tx, left))
        return {"name": name, "sent": sent, "waiting": waiting, "status": "deleted" if left is None else left.status}

    def all(self) -> Documents:
        """Return the destinations that are there for the caller, by name."""
        with self._scope.read() as tx:
            return [self._document(tx, each) for each in stored(self._scope, tx) if self._sees(tx, each)]

    def show(self, name: str) -> Document:
        """Return a destination, what it gets, and how much of that is there; never its secret."""
        with self._scope.read() as tx:
            found = self._get(tx, name)
            limited = Visibility(self._scope, tx).limited
            gets = [_activation(each, counted=not limited) for each in activations_of(tx, found)]
            return {**self._document(tx, found), "segments": gets}

    def runs(self, name: str, segment: str | None = None) -> Documents:
        """Return what became of changes, an hour a row: those received are those activated, excluded, failed and waiting."""
        with self._scope.read() as tx:
            return counts.by_hour(tx, self._seen_whole(tx, name), None if segment is None else [segment])

    def errors(self, name: str) -> Documents:
        """Return the batches that failed for good, or wait after a failure, newest first, each with the reason."""
        with self._scope.read() as tx:
            found = self._seen_whole(tx, name)
            failed = (batches.c.destination_id == found.id, batches.c.code.is_not(None))
            rows = batches_where(tx, *failed, batches.c.state.in_((BatchState.FAILED, BatchState.WAITING)))
            return [
                {
                    "message": f"msg_{each.id}",
                    "segment": each.segment,
                    "at": each.changed,
                    "state": each.state,
                    "changes": each.changes,
                    "attempts": each.attempts,
                    "code": each.code,
                    "reason": codes.reason(each.code or ""),
                }
                for each in reversed(rows)
            ]

    def _activate(self, tx: Tx, found: Destination, segment: str, there: Activation | None) -> None:
        if there is not None and there.status is ActivationStatus.ACTIVE:
            raise AlreadyExists(
                f"destination {found.name} gets segment {segment} already",
                hint="look at it",
                remedy=Remedy("destination.show", {"name": found.name}),
            )
        if there is not None:
            raise NotAllowed(
                f"the members of {segment} are still being removed from {found.name}",
                hint="let that end first",
                remedy=Remedy("destination.sync", {"name": found.name}),
            )
        values: Document = {"id": self._scope.home.new_id(), "destination_id": found.id, "segment": segment}
        values |= {"status": ActivationStatus.ACTIVE, "revision": 0, "basis": "", "checked": "", "replay": False}
        values |= {"present": 0, "failed": 0, "created": self._scope.home.now()}
        tx.execute(activations.insert().values(**values))

    def _get(self, tx: Tx, name: str) -> Destination:
        for each in stored(self._scope, tx):
            if each.name == name and self._sees(tx, each):
                return each
        raise no_destination(name)

    def _sees(self, tx: Tx, found: Destination) -> bool:
        return _sees(self._scope, tx, found)

    def _seen_whole(self, tx: Tx, name: str) -> Destination:
        """Return a destination; refuse a caller who is limited by labels: what is sent, and how much, is of all people."""
        found = self._get(tx, name)
        if Visibility(self._scope, tx).limited:
            raise NotAllowed(
                "a destination gets members, and counts them, whether your roles let you see them or not",
                hint="ask somebody whose roles are not limited to labels",
            )
        return found

    def _check_kept(self, found: Destination) -> None:
        if found.status is DestinationStatus.DELETING:
            raise NotAllowed(
                f"destination {found.name} is being deleted",
                hint="make another one",
                remedy=Remedy("destination.create"),
            )

    def _identity(self, tx: Tx, identity: str) -> str:
        if identity == PROFILE_ID:
            return identity
        chosen = rule(identity).id
        if chosen not in datasets.namespaces(self._scope, tx):
            raise InvalidInput(
                f"nobody here has identities of {identity[:80]}",
                hint=f"write {PROFILE_ID} for your own ids, or a namespace that was imported",
            )
        return chosen

    def _waiting(self, tx: Tx, found: Destination) -> list[BatchRow]:
        return batches_where(tx, batches.c.destination_id == found.id, batches.c.state == BatchState.WAITING)

    def _document(self, tx: Tx, found: Destination) -> Document:
        gets = activations_of(tx, found)
        counted: dict[str, int | None] = {
            "present": sum(each.present for each in gets),
            "failed": sum(each.failed for each in gets),
            "waiting": sum(each.changes for each in self._waiting(tx, found)),
        }
        if Visibility(self._scope, tx).limited:  # they are of all people
            counted = dict.fromkeys(counted)
        return {
            "name": found.name,
            "kind": found.kind,
            "description": found.description,
            "status": found.status,
            "reason": None if found.reason is None else codes.reason(found.reason),
            "settings": found.settings,
            "identity": found.identity,
            "uses": found.uses,
            "gets": [each.segment for each in gets],
            **counted,
            "next_attempt": sending.wait_until(self._scope, found),
            "created": found.created,
        }

    def _set(self, tx: Tx, found: Activation, **values: object) -> None:
        tx.execute(activations.update().where(activations.c.id == found.id).values(**values))

    def _change(self, tx: Tx, found: Destination, **values: object) -> None:
        tx.execute(destinations.update().where(destinations.c.id == found.id).values(**values))


def check_not_sent(scope: Scope, tx: Tx, segment: str) -> None:
    """Raise NotAllowed if a destination gets a segment of ours."""
    gets = [each for each in stored(scope, tx) if segment in (one.segment for one in activations_of(tx, each))]
    if not gets:
        return
    shown = next((each.name for each in gets if _sees(scope, tx, each)), None)
    if shown is None:
        raise NotAllowed(
            f"a destination that you may not see gets segment {segment}", hint="ask somebody who may to end that first"
        )
    raise NotAllowed(
        f"destination {shown} gets segment {segment}",
        hint="end that first",
        remedy=Remedy("destination.deactivate", {"name": shown, "segments": [segment]}),
    )


def _sees(scope: Scope, tx: Tx, found: Destination) -> bool:
    """Return whether a destination is there for the caller: they may see all that it gets."""
    return Visibility(scope, tx).sees_use([each.segment for each in activations_of(tx, found)], *found.uses)


def _uses(uses: Sequence[str]) -> list[str]:
    for each in uses:
        check_action(each)
        if each == SHARING:
            raise InvalidInput(
                "a destination cannot share a segment with a partner", hint="a feed does", remedy=Remedy("feed.create")
            )
    return sorted(set(uses)) or list(FILE_USES)


def _activation(found: Activation, *, counted: bool) -> Document:
    return {
        "segment": found.segment,
        "status": found.status,
        "present": found.present if counted else None,
        "failed": found.failed if counted else None,
        "stopped": None if found.stopped is None else codes.reason(found.stopped),
        "activated": found.created,
        "confirmed": found.confirmed,
    }


def _outcome(outcome: Outcome) -> Document:
    match outcome:
        case Delivered():
            return {"arrived": True, "code": None, "reason": None}
        case Gone(code):
            return {"arrived": False, "code": code, "reason": codes.reason(code)}
        case _:
            return {"arrived": False, "code": outcome.code, "reason": codes.reason(outcome.code)}
