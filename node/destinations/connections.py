"""Connections to several solutions: what is asked of a connection is asked of each of its solutions.

A solution is a destination by the name CONNECTION.SOLUTION, with batches, retries and counts of its own: one that is dead
delays no other.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from psi.errors import Remedy

from ..errors import AlreadyExists, InvalidInput, NotAllowed, check_name
from ..operations.jobs import Progress, no_progress
from ..storage.database import Tx
from ..storage.records import Document, Documents
from ..storage.tables import destinations
from . import documents, kinds, older_sharing, solutions
from .destinations import BRAKE, Created, Destinations, checked_brake
from .primaries import PRIMARY
from .records import (
    AUDIENCE_MANAGER,
    EXPERIENCE_CLOUD,
    HERE,
    PROFILE_ID,
    Destination,
    DestinationStatus,
    activations_of,
    parts_of,
    stored,
)

if TYPE_CHECKING:
    from .audience_sharing import AudienceSharing


class Connections(Destinations):
    """The destinations of a project, those among them that have solutions included."""

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
        """Add a destination, see Destinations.create; of the Experience Cloud `secret` has the tokens of its solutions."""
        if kind != EXPERIENCE_CLOUD:
            return super().create(
                name,
                kind,
                settings,
                identity=identity,
                uses=uses,
                description=description,
                secret=secret,
                brake=brake,
            )
        detail: Document = {"kind": kind, "uses": sorted(set(uses))[:20], "identity": PRIMARY}
        kept = self._checked("destination.create", name[:100], kind, lambda: kinds.checked(kind, settings))
        with self._scope.act("destination.create", name[:100], detail=detail) as tx:
            check_name(name, "destination")
            self._identity(tx, identity, kind)
            older_sharing.check_off(self._scope, tx, name)
            given = solutions.with_tokens(kept, secret)
            about: Document = {"kind": kind, "identity": PRIMARY, "description": description}
            about["brake"] = checked_brake(brake)
            self._add(tx, {**about, "name": name, "settings": _shared(kept)}, uses, None)
            made = self._get(tx, name)
            detail["solutions"] = self._add_solutions(tx, made, given)
            return Created(destination=documents.whole(self._scope, tx, made), secret=None)

    @cached_property
    def older_sharing(self) -> "AudienceSharing":
        from .audience_sharing import AudienceSharing

        return AudienceSharing(self._scope)

    def connect(self, name: str, settings: Mapping[str, str], secret: bytes | None) -> Document:
        """Add solutions to a connection; they get nothing before a segment is activated."""
        detail: Document = {}
        kept = self._checked(
            "destination.connect", name, EXPERIENCE_CLOUD, lambda: kinds.checked(EXPERIENCE_CLOUD, settings)
        )
        with self._scope.act("destination.connect", name, detail=detail) as tx:
            found = self._get(tx, name)
            self._check_kept(found)
            if not found.is_connection:
                raise NotAllowed(f"destination {name} has no solutions", hint="make another destination")
            if not solutions.SOLUTIONS.keys() & kept:
                raise InvalidInput(
                    "no solution is named", hint=f"write SOLUTION=URL, of {', '.join(solutions.SOLUTIONS)}"
                )
            given = solutions.with_tokens({**found.settings, **kept}, secret)
            detail["solutions"] = self._add_solutions(tx, found, given)
            return documents.whole(self._scope, tx, found)

    def edit(
        self,
        name: str,
        settings: Mapping[str, str] | None = None,
        *,
        description: str | None = None,
        brake: int | None = None,
    ) -> Document:
        """Change what is given, see Destinations.edit; a brake that of each solution."""
        with self._scope.home.read() as tx:
            parts = [] if brake is None or settings else self._named_parts(tx, name) or []
        for each in parts:
            super().edit(each, brake=brake)
        return super().edit(name, settings, description=description, brake=brake)

    def rotate(self, name: str, secret: bytes | None = None) -> str | None:
        """Give a destination another secret, see Destinations.rotate; each solution has one of its own."""
        if parts := self._parts("destination.rotate", name):
            with self._scope.refusals("destination.rotate", name):
                self._scope.require("destination.rotate", name)
                raise NotAllowed(
                    f"the token of each solution of {name} is its own",
                    hint="name the solution",
                    remedy=Remedy("destination.rotate", {"name": parts[0]}),
                )
        return super().rotate(name, secret)

    def check(self, name: str) -> Document:
        """Send what has no change in it, and return whether it arrived everywhere, else why not."""
        if (parts := self._parts("destination.check", name)) is None:
            return super().check(name)
        found = {each: Destinations.check(self, each) for each in parts}
        failed = next((each for each in found if not found[each]["arrived"]), parts[0])
        return {**found[failed], "solutions": [{"name": each, **found[each]} for each in parts]}

    def activate(
        self,
        name: str,
        segments: Sequence[str],
        progress: Progress = no_progress,
        *,
        mapping: Mapping[str, str] | None = None,
        audience_id: str | None = None,
    ) -> Document:
        """Send segments from now on; a connection's to each solution that does not get them yet."""
        if (parts := self._parts("destination.activate", name)) is None:
            return super().activate(name, segments, progress, mapping=mapping, audience_id=audience_id)
        return _each(
            name,
            parts,
            lambda each: Destinations.activate(
                self, each, segments, progress, mapping=mapping, audience_id=audience_id
            ),
        )

    def deactivate(
        self, name: str, segments: Sequence[str], *, leave: bool = False, progress: Progress = no_progress
    ) -> Document:
        """Send segments no more; see Destinations.deactivate."""
        if (parts := self._parts("destination.deactivate", name)) is None:
            return super().deactivate(name, segments, leave=leave, progress=progress)
        with self._scope.home.read() as tx:
            rows = [each for each in stored(self._scope, tx) if each.name in parts]
            gets = {each.name: {one.segment for one in activations_of(tx, each)} for each in rows}
        having = {each: [one for one in segments if one in gets[each]] for each in parts}
        missing = [one for one in segments if not any(one in each for each in having.values())]
        if missing:
            having = {parts[0]: missing}  # which says what is wrong
        return _each(
            name,
            [each for each in having if having[each]],
            lambda each: Destinations.deactivate(self, each, having[each], leave=leave, progress=progress),
        )

    def pause(self, name: str) -> None:
        """Send nothing for now; see Destinations.pause."""
        for each in self._parts("destination.pause", name) or [name]:
            super().pause(each)

    def resume(self, name: str, progress: Progress = no_progress) -> Document:
        """Go on; see Destinations.resume."""
        if (parts := self._parts("destination.resume", name)) is None:
            return super().resume(name, progress)
        return _each(name, parts, lambda each: Destinations.resume(self, each, progress))

    def delete(self, name: str, *, leave: bool = False, progress: Progress = no_progress) -> Document:
        """Remove all members and take the destination away once that is done; see Destinations.delete."""
        with self._scope.home.read() as tx:
            parts = self._named_parts(tx, name)
        if parts is None:
            return super().delete(name, leave=leave, progress=progress)
        with self._scope.act("destination.delete", name, detail={"leave": leave}) as tx:
            found = self._seen_whole(tx, name)
            self._change(tx, found, status=DestinationStatus.DELETING)
            if not parts:
                tx.execute(destinations.delete().where(destinations.c.id == found.id))
                return documents.run(self._scope, tx, name, 0, None)
        return _each(name, parts, lambda each: Destinations.delete(self, each, leave=leave, progress=progress))

    def replay(self, name: str, progress: Progress = no_progress) -> Document:
        """Say again what failed, as it holds now."""
        if (parts := self._parts("destination.replay", name)) is None:
            return super().replay(name, progress)
        return _each(name, parts, lambda each: Destinations.replay(self, each, progress))

    def sync(self, name: str, progress: Progress = no_progress, *, yes: bool = False) -> Document:
        """Send what is due now; see Destinations.sync."""
        if (parts := self._parts("destination.sync", name)) is None:
            return super().sync(name, progress, yes=yes)
        return _each(name, parts, lambda each: Destinations.sync(self, each, progress, yes=yes))

    def all(self) -> Documents:
        """Return the destinations that are there for the caller, by name; the solutions of one are within it."""
        with self._scope.read(act="destination.view") as tx:
            found = [each for each in stored(self._scope, tx) if each.part_of is None]
            return [documents.destination(self._scope, tx, each) for each in found if self._sees(tx, each)]

    def preview(self, name: str, segment: str, *, unmasked: bool = False) -> Document:
        """Return messages as they would leave, see Destinations.preview; all solutions get the same."""
        parts = self._parts("destination.preview", name)
        return super().preview(name if parts is None else parts[0], segment, unmasked=unmasked)

    def runs(self, name: str, segment: str | None = None) -> Documents:
        """Return what became of changes, see Destinations.runs; of a connection a row for each solution."""
        if (parts := self._parts("destination.view", name)) is None:
            return super().runs(name, segment)
        found = [{"solution": each, **row} for each in parts for row in Destinations.runs(self, each, segment)]
        return sorted(found, key=lambda row: -row["hour"])

    def errors(self, name: str) -> Documents:
        """Return the batches that failed; see Destinations.errors."""
        if (parts := self._parts("destination.view", name)) is None:
            return super().errors(name)
        found = [{"solution": each, **row} for each in parts for row in Destinations.errors(self, each)]
        return sorted(found, key=lambda row: -row["at"])

    def dead(self, name: str) -> Documents:
        """Return the messages that failed for good; see Destinations.dead."""
        if (parts := self._parts("destination.view", name)) is None:
            return super().dead(name)
        found = [{"solution": each, **row} for each in parts for row in Destinations.dead(self, each)]
        return sorted(found, key=lambda row: -row["at"])

    def alerts(
        self, name: str, *, on: Sequence[str] = (), off: Sequence[str] = (), mail: str | None = None
    ) -> Document:
        """Return which alerts the caller hears; see Destinations.alerts. A connection's are those of each solution."""
        with self._scope.home.read() as tx:
            parts = self._named_parts(tx, name) or []
        for each in parts if on or off or mail is not None else ():
            super().alerts(each, on=on, off=off, mail=mail)
        return super().alerts(name, on=on, off=off, mail=mail)

    def _parts(self, act: str, name: str) -> list[str] | None:
        """Return the names of a connection's solutions, None for what is none; raises NotAllowed where it has none yet."""
        with self._scope.home.read() as tx:
            parts = self._named_parts(tx, name)
        if parts is not None and not parts:
            self._scope.require(act, name)
            with self._scope.refusals(act, name):
                raise NotAllowed(
                    f"destination {name} has no solution yet",
                    hint="connect one",
                    remedy=Remedy("destination.connect", {"name": name}),
                )
        return parts

    def _named_parts(self, tx: Tx, name: str) -> list[str] | None:
        for each in stored(self._scope, tx):
            if each.name == name and each.is_connection and self._sees(tx, each):
                return [part.name for part in parts_of(self._scope, tx, each)]
        return None

    def _add_solutions(self, tx: Tx, found: Destination, given: Sequence[solutions.Solution]) -> list[str]:
        for each in given:
            if (each.name, each.settings["url"]) == (AUDIENCE_MANAGER, HERE):
                older_sharing.check_one_side(self._scope, tx)
            values: Document = {"kind": found.kind, "identity": PRIMARY, "description": "", "settings": each.settings}
            values |= {
                "brake": found.brake,
                "name": check_name(f"{found.name}.{each.name}", "destination"),
                "part_of": found.id,
            }
            self._add(tx, values, found.uses, each.token)
        return [each.name for each in given]

    def _sees(self, tx: Tx, found: Destination) -> bool:
        parts = parts_of(self._scope, tx, found) if found.is_connection else []
        return all(super(Connections, self)._sees(tx, each) for each in (found, *parts))


def _shared(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the settings that all solutions have."""
    return {name: value for name, value in settings.items() if name not in solutions.SOLUTIONS}


def _each(name: str, parts: Sequence[str], act: Callable[[str], Document]) -> Document:
    """Do something with each solution, and return it as of one destination.

    What one refuses keeps no other from its turn; that it has it already is no matter while another has not.
    """
    done, refused = list[Document](), list[Exception]()
    for each in parts:
        try:
            done.append(act(each))
        except Exception as error:  # raised below
            refused.append(error)
    raised = [each for each in refused if not (done and isinstance(each, AlreadyExists))]
    if raised:
        raise raised[0]
    statuses = {each["status"] for each in done}
    return {
        "name": name,
        **{number: sum(each[number] for each in done) for number in ("sent", "waiting", "failed", "held")},
        "next_attempt": min((each["next_attempt"] for each in done if each["next_attempt"]), default=None),
        "status": statuses.pop() if len(statuses) == 1 else "mixed",
    }
