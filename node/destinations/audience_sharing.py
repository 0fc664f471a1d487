"""The older sharing of a project, switched on and off, and handed over to a connection of the Experience Cloud."""

from collections.abc import Mapping, Sequence

from psi.errors import Remedy

from ..consent.consents import Consents
from ..errors import AlreadyExists, NotAllowed, NotFound, check_name
from ..governance.visibility import Visibility
from ..operations.jobs import Progress, no_progress
from ..segments import references
from ..storage.database import Tx
from ..storage.records import Document
from . import kinds, older_sharing
from .connections import Connections
from .destinations import BRAKE
from .primaries import PRIMARY
from .records import (
    AUDIENCE_MANAGER,
    EXPERIENCE_CLOUD,
    HERE,
    ActivationStatus,
    Destination,
    DestinationStatus,
    activations_of,
    stored,
)

NAME = "audience-sharing"  # of the destination that is the older sharing


class AudienceSharing(Connections):
    """The older sharing: every segment of ours appears on an Audience Manager side as a signal, a trait and a segment."""

    def on(
        self,
        settings: Mapping[str, str],
        *,
        secret: bytes | None = None,
        uses: Sequence[str] = (),
        progress: Progress = no_progress,
    ) -> Document:
        """Share every segment that may leave for some marketing uses, all of them if none is given, from now on: with this
        project's own Audience Manager side, or that of another node at the setting `url`, with a token.

        Raises LegacySharingOn where a connection to the Experience Cloud exports, and NotAllowed where nobody has chosen a
        consent model.
        """
        detail: Document = {"uses": sorted(set(uses))[:20], "here": "url" not in settings}
        with self._scope.act("audience.sharing", "on", detail=detail) as tx:
            Consents(self._scope).require_model(tx)
            if Visibility(self._scope, tx).limited:
                raise NotAllowed(
                    "the older sharing gets every segment, whether your roles let you see it or not",
                    hint="ask somebody whose roles are not limited to labels",
                )
            older_sharing.check_no_connection(self._scope, tx)
            if older_sharing.find(self._scope, tx) is not None:
                raise AlreadyExists(
                    "the older sharing is on already",
                    hint="look at it",
                    remedy=Remedy("destination.show", {"name": NAME}),
                )
            if "url" not in settings:
                older_sharing.check_one_side(self._scope, tx)
            kept = kinds.checked(AUDIENCE_MANAGER, settings)
            shared = kinds.checked_secret(self._scope, AUDIENCE_MANAGER, kept, secret)
            about: Document = {"kind": AUDIENCE_MANAGER, "description": "every segment", "settings": kept, "name": NAME}
            about |= {"identity": PRIMARY, "brake": BRAKE, "of_all": True}
            self._add(tx, about, uses, shared)
        return self.sync(NAME, progress)

    def off(self, progress: Progress = no_progress) -> Document:
        """End the older sharing: its members are removed at the Audience Manager side."""
        with self._scope.act("audience.sharing", "off") as tx:
            found = self._on(tx)
            self._check_restored(tx, found)
            for each in activations_of(tx, found):
                self._set(tx, each, status=ActivationStatus.LEAVING, replay=True)
            self._change(tx, found, status=DestinationStatus.DELETING, reason=None, next_attempt=None)
        return self.sync(found.name, progress)

    def hand_over(self, name: str, segments: Sequence[str] = (), progress: Progress = no_progress) -> Document:
        """End the older sharing and make connection `name` of the Experience Cloud with chosen segments, all of them if none
        is given, in one transaction: the connection knows who is there, so nobody is missing in between or sent again.

        The members of segments that are not chosen are removed.
        """
        detail: Document = {"hand_over": name[:100], "segments": list(segments)[:100]}
        with self._scope.act("audience.sharing", "off", detail=detail) as tx:
            found = self._on(tx)
            check_name(name, "destination")
            if any(each.name == name for each in stored(self._scope, tx)):
                raise AlreadyExists(f"there is a destination {name!r} already", hint="choose another name")
            part = check_name(f"{name}.{AUDIENCE_MANAGER}", "destination")
            gets = {each.segment: each for each in activations_of(tx, found)}
            for each in segments:
                references.pick(self._scope, tx, each)
                if each not in gets:
                    raise NotFound(
                        f"the older sharing does not share segment {each[:80]}",
                        hint="activate it once the connection is there",
                        remedy=Remedy("destination.activate", {"name": name, "segments": [each]}),
                    )
            shared = {key: value for key, value in found.settings.items() if key != "url"}
            about: Document = {"kind": EXPERIENCE_CLOUD, "identity": PRIMARY, "settings": shared, "name": name}
            about |= {"description": "from the older sharing", "brake": found.brake}
            self._add(tx, about, found.uses, None)
            url = found.settings.get("url", HERE)
            changed: Document = {"name": part, "kind": EXPERIENCE_CLOUD, "settings": {"url": url, **shared}}
            changed |= {"part_of": self._get(tx, name).id, "of_all": False, "description": ""}
            self._change(tx, found, **changed)
            chosen = set(segments) or {each.segment for each in gets.values() if each.status is ActivationStatus.ACTIVE}
            for activation in gets.values():
                if activation.segment in chosen and activation.status is ActivationStatus.ACTIVE:
                    # It is told of the segment again, as one of a connection.
                    self._set(tx, activation, audience=None)
                else:
                    self._set(tx, activation, status=ActivationStatus.LEAVING, replay=True)
        return self.sync(name, progress)

    def _on(self, tx: Tx) -> Destination:
        found = older_sharing.find(self._scope, tx)
        if found is None or not self._sees(tx, found):
            raise NotAllowed("the older sharing is off", hint="switch it on", remedy=Remedy("audience.sharing.on"))
        return self._seen_whole(tx, found.name)
