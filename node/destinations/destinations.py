"""The destinations of a project: where segments go, all the time, and what became of each change."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from psi.errors import Remedy

from ..audiencemanager import controls
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
from . import audiences, documents, due, kinds, older_sharing, partner_addresses, rotation, sending
from . import mapping as mapped
from .desired import check_leaves
from .members import evaluate_received
from .overview import Overview
from .primaries import PRIMARY
from .records import (
    AUDIENCE_MANAGER,
    PROFILE_ID,
    RESTORED,
    Activation,
    ActivationStatus,
    BatchState,
    Destination,
    DestinationStatus,
    activations_of,
    add_activation,
    by_id,
    change,
    stored,
    stored_settings,
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
        kept = self._checked("destination.create", name[:100], kind, lambda: kinds.checked(kind, settings))
        with self._scope.act("destination.create", name[:100], detail=detail) as tx:
            check_name(name, "destination")
            self._check_program(tx, kind)
            chosen = self._identity(tx, identity, kind)
            detail["identity"] = chosen
            shared = kinds.checked_secret(self._scope, kind, kept, secret)
            if kind == AUDIENCE_MANAGER and "url" not in kept:
                older_sharing.check_one_side(self._scope, tx)
            about = {"kind": kind, "description": description, "identity": chosen, "name": name}
            columns = stored_settings(self._scope, kind, kept)
            self._add(tx, {**about, **columns, "brake": checked_brake(brake)}, uses, shared)
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
        self._scope.require("destination.edit", name)
        with self._scope.refusals("destination.edit", name):
            with self._scope.home.read() as tx:
                read = self._seen_whole(tx, name)
            self._check_kept(read)
            if settings and (read.is_connection or read.part_of is not None):
                raise NotAllowed(
                    "the settings of a solution cannot be changed",
                    hint="delete the solution, and connect it again",
                    remedy=Remedy("destination.connect", {"name": name.partition(".")[0]}),
                )
        kept = {}
        if settings:
            changing = settings
            kept = self._checked(
                "destination.edit", name, read.kind, lambda: kinds.changed(read.kind, read.settings, changing)
            )
        with self._scope.act("destination.edit", name, detail=detail) as tx:
            found = self._seen_whole(tx, name)
            self._check_kept(found)
            if settings:
                if found.settings != read.settings:
                    raise NotAllowed("somebody else has changed the settings meanwhile", hint="try it again")
                changed |= {**stored_settings(self._scope, found.kind, kept), "next_attempt": None}
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
        has); a segment that it gets already can be given another one, and fields that have none any more are emptied.

        Raises PolicyViolation where a label or a partner forbids one of the destination's uses, and NotAllowed where nobody
        has chosen a consent model.
        """
        detail: Document = {"segments": list(segments)[:100]}
        self._scope.require("destination.activate", name)
        with self._scope.refusals("destination.activate", name):
            with self._scope.read() as tx:
                seen = self._seen_whole(tx, name)
            partner_addresses.check_addresses(self._scope, seen, segments)
        for each in segments:
            evaluate_received(self._scope, each, seen.uses)
        with self._scope.act("destination.activate", name, detail=detail) as tx:
            found = self._seen_whole(tx, name)
            self._check_kept(found)
            older_sharing.check_chosen(found)
            Consents(self._scope).require_model(tx)
            there = {each.segment: each for each in activations_of(tx, found)}
            kept = detail["mapping"] = mapped.checked(self._scope, tx, found, mapping or {})
            called = audiences.checked_id(found, audience_id, len(segments))
            for segment in dict.fromkeys(segments):
                references.pick(self._scope, tx, segment)
                Visibility(self._scope, tx).check_use([segment], *found.uses)
                controls.check_segment(self._scope, tx, segment, found.name, found.uses)
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
            older_sharing.check_chosen(found)
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
            mine = (batches.c.destination_id == found.id, batches.c.state == BatchState.WAITING)
            tx.execute(batches.update().where(*mine, batches.c.attempts > 1).values(attempts=1))  # all tries again
        return self.sync(name, progress)

    def delete(self, name: str, *, leave: bool = False, progress: Progress = no_progress) -> Document:
        """Remove all members at the target and take the destination away once that is done; with `leave` at once."""
        status = ActivationStatus.LEFT if leave else ActivationStatus.LEAVING
        with self._scope.act("destination.delete", name, detail={"leave": leave}) as tx:
            found = self._seen_whole(tx, name)
            self._check_restored(tx, found)
            older_sharing.check_chosen(found)
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
        references.refresh(self._scope)
        sent, more = 0, True
        while more:
            result = Jobs(self._scope.home).run(sending.JOB, due.parameters(found), self._scope, progress)
            sent, more = sent + result["sent"], result["more"]
        with self._scope.read(act="destination.view") as tx:
            return documents.run(self._scope, tx, name, sent, by_id(self._scope, tx, found.id))

    def _checked(self, act: str, name: str, kind: str, check: Callable[[], dict[str, str]]) -> dict[str, str]:
        """Return settings as they are kept, before the transaction of an act: files are read for it, and templates tried."""
        self._scope.require(act, name)
        with self._scope.refusals(act, name):
            with self._scope.home.read() as tx:
                self._check_program(tx, kind)
            return check()

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
                known = dict.fromkeys([*there.unmapped, *there.mapping])
                unmapped = [each for each in known if each not in given["mapping"]][-mapped.MOST_FIELDS :]
                self._set(tx, there, mapping=given["mapping"], unmapped=unmapped)
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
        external_id = given["external_id"]
        if external_id is not None and any(each.external_id == external_id for each in activations_of(tx, found)):
            raise AlreadyExists(
                f"destination {found.name} calls another segment {external_id!r} already",
                hint="give each segment an audience id of its own",
                remedy=Remedy("destination.show", {"name": found.name}),
            )
        add_activation(self._scope, tx, found, segment, **given)

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

    def _identity(self, tx: Tx, identity: str, kind: str) -> str:
        if kind in kinds.BY_PRIMARY:
            if identity != PROFILE_ID:
                raise InvalidInput(f"{kind} gets people by their primary identities", hint="leave the identity out")
            return PRIMARY
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
