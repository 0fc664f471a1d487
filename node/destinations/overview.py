"""What a caller sees of destinations: which there are, what became of changes, and which alerts the caller hears."""

from collections.abc import Sequence
from dataclasses import asdict

from ..access.scope import Scope
from ..errors import NotAllowed
from ..governance.visibility import Visibility
from ..segments import references
from ..storage.database import Tx
from ..storage.records import Document, Documents
from ..storage.tables import batches
from . import counts, documents, latency, watching
from .members import evaluate_received
from .preview import preview
from .records import (
    Activation,
    BatchRow,
    BatchState,
    Destination,
    activations_of,
    batches_where,
    no_destination,
    stored,
)
from .upkeep import KEPT_SECONDS


class Overview:
    """What is seen of a project's destinations."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def all(self) -> Documents:
        """Return the destinations that are there for the caller, by name."""
        with self._scope.read(act="destination.view") as tx:
            found = [each for each in stored(self._scope, tx) if self._sees(tx, each)]
            return [documents.destination(self._scope, tx, each) for each in found]

    def show(self, name: str) -> Document:
        """Return a destination, what it gets, and how much of that is there; never its secret."""
        with self._scope.read(act="destination.view") as tx:
            return documents.whole(self._scope, tx, self._get(tx, name))

    def preview(self, name: str, segment: str, *, unmasked: bool = False) -> Document:
        """Return up to three messages of a member each as they would leave now, and how many members would, and would not.

        Who it is about is masked, unless somebody who may export asks for it.
        """
        act = "destination.preview-unmasked" if unmasked else "destination.preview"
        self._scope.require(act, name)
        with self._scope.refusals(act, name):
            with self._scope.read() as tx:
                uses = self._seen_whole(tx, name).uses
            evaluate_received(self._scope, segment, uses)
            with self._scope.read() as tx:  # a template may take its time
                found = self._seen_whole(tx, name)
                references.pick(self._scope, tx, segment)
                Visibility(self._scope, tx).check_use([segment], *found.uses)
                made = asdict(preview(self._scope, tx, found, segment, unmasked=unmasked))
        with self._scope.act(act, name, detail={"segment": segment[:100]}):
            return made

    def runs(self, name: str, segment: str | None = None) -> Documents:
        """Return what became of changes, an hour a row: those received are those activated, excluded, failed and waiting."""
        with self._scope.read(act="destination.view") as tx:
            found, of = self._seen_whole(tx, name), None if segment is None else [segment]
            took = latency.by_hour(tx, found, of)
            return [{**each, "latency": took.get(each["hour"])} for each in counts.by_hour(tx, found, of)]

    def errors(self, name: str) -> Documents:
        """Return the batches that failed for good, or wait after a failure, newest first, each with the reason.

        They go once nothing of their segment is missing at the target, as after a replay.
        """
        with self._scope.read(act="destination.view") as tx:
            found = self._seen_whole(tx, name)
            gets = {each.id: each for each in activations_of(tx, found)}
            failed = (batches.c.destination_id == found.id, batches.c.code.is_not(None))
            rows = batches_where(tx, *failed, batches.c.state.in_((BatchState.FAILED, BatchState.WAITING)))
            missing = [each for each in rows if _is_missing(gets.get(each.activation_id), each)]
            return [documents.message(each) for each in reversed(missing)]

    def dead(self, name: str) -> Documents:
        """Return the messages that failed for good in the last 30 days, newest first, each with how the target's answer began.

        Whom they were about stands in no second place: `replay` says what of it is true today.
        """
        with self._scope.read(act="destination.view") as tx:
            found = self._seen_whole(tx, name)
            young = batches.c.changed >= self._scope.home.now() - KEPT_SECONDS
            rows = batches_where(tx, batches.c.destination_id == found.id, batches.c.state == BatchState.FAILED, young)
            return [documents.dead(self._scope, each) for each in reversed(rows)]

    def alerts(
        self, name: str, *, on: Sequence[str] = (), off: Sequence[str] = (), mail: str | None = None
    ) -> Document:
        """Return which alerts of a destination the caller hears, and at which address, after subscribing to some and
        ending others; `mail` "" ends all mail."""
        user = self._scope.home.guard.known().name or ""
        if not (on or off or mail is not None):
            with self._scope.read(act="destination.view") as tx:
                return watching.subscription(tx, self._seen_whole(tx, name), user)
        detail: Document = {"on": list(on)[:10], "off": list(off)[:10], "mail": bool(mail)}
        with self._scope.act("destination.alerts", name, detail=detail) as tx:
            found = self._seen_whole(tx, name)
            wanted = watching.changed(watching.subscription(tx, found, user), on, off, mail)
            watching.subscribe(self._scope, tx, found, user, wanted)
        return wanted

    def _get(self, tx: Tx, name: str) -> Destination:
        for each in stored(self._scope, tx):
            if each.name == name and self._sees(tx, each):
                return each
        raise no_destination(name)

    def _sees(self, tx: Tx, found: Destination) -> bool:
        return sees(self._scope, tx, found)

    def _seen_whole(self, tx: Tx, name: str) -> Destination:
        """Return a destination; refuse a caller who is limited by labels: what is sent, and how much, is of all people."""
        found = self._get(tx, name)
        if Visibility(self._scope, tx).limited:
            raise NotAllowed(
                "a destination gets members, and counts them, whether your roles let you see them or not",
                hint="ask somebody whose roles are not limited to labels",
            )
        return found


def sees(scope: Scope, tx: Tx, found: Destination) -> bool:
    """Return whether a destination is there for the caller: they may see all that it gets."""
    return Visibility(scope, tx).sees_use([each.segment for each in activations_of(tx, found)], *found.uses)


def _is_missing(activation: Activation | None, batch: BatchRow) -> bool:
    """Return whether a batch that failed, or failed so far, may not be at the target yet by another one."""
    if activation is None:
        return False
    return batch.state is BatchState.WAITING or activation.failed > 0 or batch.revision == activation.revision
