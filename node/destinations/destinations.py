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
from ..storage.tables import activations, destinations
from . import audiences, documents, due, kinds, rotation, sending
from . import mapping as mapped
from .desired import check_leaves
from .members import evaluate_received
from .overview import Overview, sees
from .records import (
    PROFILE_ID,
    RESTORED,
    Activation,
    ActivationStatus,
    Destination,
    DestinationStatus,
    activations_of,
    by_id,
    change,
    stored,
)

BRAKE = 50  # per cent of a segment


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """A new destination, and the secret that was made for it, which is shown once; None where it was given."""

    destination: Document
    secret: str | None = field(repr=False)


class Destinations(Overview):
    """The places that a project's segments go to."""

    @staticmethod
    def kinds() -> Documents:
        """Return each kind with its settings; of a plug-in that does not work, why."""
        return kinds.described()

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
        brake: int = BRAKE,
    ) -> Created:
        """Add a destination that gets members by `identity`, their own ids or a namespace, for some marketing uses.

        Without `uses` it is for all of them. `brake` is as in `edit`. Raises InvalidInput for settings that its kind cannot
        work with.
        """
        detail: Document = {"kind": kind[:40], "uses": sorted(set(uses))[:20]}
        with self._scope.act("destination.create", name[:100], detail=detail) as tx:
            check_name(name, "destination")
            self._check_program(tx, kind)
            kept = kinds.checked(kind, settings)
            chosen = self._identity(tx, identity)
            detail["identity"] = chosen
            shared = kinds.kind(kind).secret(secret, self._scope.home.random)
            about = {"kind": kind, "description": description, "settings": kept, "identity": chosen, "name": name}
            self._add(tx, {**about, "brake": checked_brake(brake)}, uses, shared)
            made = documents.whole(self._scope, tx, self._get(tx, name))
        return Created(destination=made, secret=shared.decode() if shared is not None and secret is None else None)

    def edit(
        self,
        name: str,
        settings: Mapping[str, str] | None = None,
        *,
        description: str | None = None,
        brake: int | None = None,
    ) -> Document:
        """Change what is given, of the settings those that may change; an empty one goes.

        A run that would remove more than `brake` per cent of a segment waits for a person. What waits after a failure is
        tried again at once where settings change.
        """
        given = {"description": description, "brake": None if brake is None else checked_brake(brake)}
        changed: Document = {key: value for key, value in given.items() if value is not None}
        detail = {**changed, "settings": sorted(settings)} if settings else dict(changed)
        with self._scope.act("destination.edit", name, detail=detail) as tx:
            found = self._seen_whole(tx, name)
            self._check_kept(found)
            if settings and (found.is_connection or found.part_of is not None):
                raise NotAllowed(
                    "the settings of a solution cannot be changed",
                    hint="delete the solution, and connect it again",
                    remedy=Remedy("destination.connect", {"name": name.partition(".")[0]}),
                )
            if settings:
                changed |= {"settings": kinds.changed(found.kind, found.settings, settings), "next_attempt": None}
            if changed:
                self._change(tx, found, **changed)
            return documents.whole(self._scope, tx, self._get(tx, name))

    def rotate(self, name: str, secret: bytes | None = None) -> str | None:
        """Give a destination another secret, and return one that was made for it; what signs does so with both for a day."""
        with self._scope.act("destination.rotate", name) as tx:
            found = self._seen_whole(tx, name)
            self._check_kept(found)
            self._check_program(tx, found.kind)
            made = rotation.rotate(self._scope, tx, found, secret)
        return made.decode() if secret is None else None

    def check(self, name: str) -> Document:
        """Send what has no change in it, and return whether it arrived, else why not."""
        with self._scope.act("destination.check", name) as tx:
            found = self._get(tx, name)
        try:
            target = rotation.opened(self._scope, found)
            try:
                return documents.outcome(target.check(self._scope.home.now()))
            finally:
                target.close()
        except kinds.Unusable as error:
            return {"arrived": False, "code": error.reason, "reason": str(error)}

    def activate(
        self,
        name: str,
        segments: Sequence[str],
        progress: Progress = no_progress,
        *,
        mapping: Mapping[str, str] | None = None,
        audience_id: str | None = None,
    ) -> Document:
        """Send segments to a destination from now on: all members first, then what changes.

        `mapping` has by field of the target the attribute that goes there ("dataset.column", or a column that one dataset
        has); a segment that it gets already can be given another one.

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
            kept = detail["mapping"] = mapped.checked(self._scope, tx, found, mapping or {})
            called = audiences.checked_id(found, audience_id, len(segments))
            for segment in dict.fromkeys(segments):
                references.pick(self._scope, tx, segment)
                Visibility(self._scope, tx).check_use([segment], *found.uses)
                check_leaves(self._scope, tx, found, segment, kept.values())
                self._activate(tx, found, segment, there.get(segment), {"mapping": kept, "external_id": called})
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
            self._check_restored(tx, found)
            self._change(tx, found, status=DestinationStatus.PAUSED, reason=None)

    def resume(self, name: str, progress: Progress = no_progress) -> Document:
        """Go on with a destination that was paused, or that its target disabled."""
        with self._scope.act("destination.resume", name) as tx:
            found = self._seen_whole(tx, name)
            self._check_kept(found)
            self._check_restored(tx, found)
            self._change(tx, found, status=DestinationStatus.ACTIVE, reason=None, next_attempt=None)
        return self.sync(name, progress)

    def delete(self, name: str, *, leave: bool = False, progress: Progress = no_progress) -> Document:
        """Remove all members at the target and take the destination away once that is done; with `leave` at once."""
        status = ActivationStatus.LEFT if leave else ActivationStatus.LEAVING
        with self._scope.act("destination.delete", name, detail={"leave": leave}) as tx:
            found = self._seen_whole(tx, name)
            self._check_restored(tx, found)
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

    def sync(self, name: str, progress: Progress = no_progress, *, yes: bool = False) -> Document:
        """Send what is due now, here or in the service; return how many messages arrived, and what did not. `yes` lets go
        what the brake holds."""
        scope, detail = self._scope, Document(yes=True)
        with scope.act("destination.sync", name, detail=detail) if yes else scope.read(act="destination.view") as tx:
            found = self._seen_whole(tx, name)
            held = [each for each in activations_of(tx, found) if yes and each.held]
            for each in held:
                self._set(tx, each, released=True)
            detail["segments"] = {each.segment: each.held for each in held}
        sent, more = 0, True
        while more:
            result = Jobs(self._scope.home).run(sending.JOB, due.parameters(found), self._scope, progress)
            sent, more = sent + result["sent"], result["more"]
        with self._scope.read(act="destination.view") as tx:
            return documents.run(self._scope, tx, name, sent, by_id(self._scope, tx, found.id))

    def _add(self, tx: Tx, values: Document, uses: Sequence[str], secret: bytes | None) -> None:
        if any(each.name == values["name"] for each in stored(self._scope, tx)):
            raise AlreadyExists(f"there is a destination {values['name']!r} already", hint="choose another name")
        home = self._scope.home
        made = {"id": home.new_id(), "project_id": self._scope.id, "messages": 0, "created": home.now()}
        made |= {
            "uses": _uses(uses),
            "status": DestinationStatus.ACTIVE,
            "secret": rotation.wrapped(self._scope, secret),
        }
        tx.execute(destinations.insert().values(**values, **made))

    def _activate(self, tx: Tx, found: Destination, segment: str, there: Activation | None, given: Document) -> None:
        if there is not None and there.status is ActivationStatus.ACTIVE:
            if given["mapping"] and given["mapping"] != there.mapping:
                self._set(tx, there, mapping=given["mapping"])
                return
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
        values |= {"present": 0, "failed": 0, "created": self._scope.home.now(), **given}
        tx.execute(activations.insert().values(**values))

    def _check_program(self, tx: Tx, kind: str) -> None:
        """Refuse a kind whose settings and secret run code here, unless an administrator of the node asks."""
        if kind in kinds.ADMINISTERED:
            self._scope.home.guard.check(tx, "destination.program", None)

    def _check_restored(self, tx: Tx, found: Destination) -> None:
        """Refuse to let a program of a backup run, unless an administrator of the node has looked at it."""
        if found.reason == RESTORED:
            self._check_program(tx, found.kind)

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

    def _set(self, tx: Tx, found: Activation, **values: object) -> None:
        tx.execute(activations.update().where(activations.c.id == found.id).values(**values))

    def _change(self, tx: Tx, found: Destination, **values: object) -> None:
        change(tx, found.id, **values)


def check_not_sent(scope: Scope, tx: Tx, segment: str) -> None:
    """Raise NotAllowed if a destination gets a segment of ours."""
    _check_nowhere(scope, tx, segment, _getting(scope, tx, segment), f"gets segment {segment}")


def renamed(scope: Scope, tx: Tx, name: str, new: str) -> None:
    """Note that a segment of ours has another name; targets are told with the next run.

    Raises NotAllowed where a target knows it by its name alone: who leaves under the new one would stay there under the old.
    """
    by_name = [each for each in _getting(scope, tx, name) if not kinds.follows_names(each.kind, each.settings)]
    _check_nowhere(scope, tx, name, by_name, f"knows segment {name} by its name alone")
    audiences.renamed(scope, tx, name, new)


def _getting(scope: Scope, tx: Tx, segment: str) -> list[Destination]:
    return [each for each in stored(scope, tx) if segment in (one.segment for one in activations_of(tx, each))]


def _check_nowhere(scope: Scope, tx: Tx, segment: str, found: Sequence[Destination], does: str) -> None:
    if not found:
        return
    shown = next((each.name for each in found if sees(scope, tx, each)), None)
    if shown is None:
        raise NotAllowed(f"a destination that you may not see {does}", hint="ask somebody who may to end that first")
    raise NotAllowed(
        f"destination {shown} {does}",
        hint="end that first",
        remedy=Remedy("destination.deactivate", {"name": shown, "segments": [segment]}),
    )


def checked_brake(brake: int) -> int:
    """Return a brake; raises InvalidInput."""
    if not 0 <= brake <= 100:
        raise InvalidInput("a brake is a number of per cent, 0 to 100", hint="100 lets every run go")
    return brake


def _uses(uses: Sequence[str]) -> list[str]:
    for each in uses:
        check_action(each)
        if each == SHARING:
            raise InvalidInput(
                "a destination cannot share a segment with a partner", hint="a feed does", remedy=Remedy("feed.create")
            )
    return sorted(set(uses)) or list(FILE_USES)
