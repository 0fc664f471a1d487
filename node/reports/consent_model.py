"""What another consent model would change, before anyone chooses it: who would leave, and who would come."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from psi.join import match
from psi.values import Bools, sort_keys

from ..access.scope import Scope
from ..feeds.sending.feeds import Feeds
from ..feeds.sending.selection import Selection, select_members
from ..governance.visibility import Visibility
from ..partners.connections import Connection
from ..people import audiences
from ..people.snapshots import Snapshot
from ..segments.segments import Segments
from ..storage.records import Document

if TYPE_CHECKING:
    from protocol.feed import Definition

Places = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    """How many would be shared no more, would be shared from then on, and would stay."""

    leave: int
    come: int
    stay: int

    @classmethod
    def of(cls, before: Bools, after: Bools) -> "Moves":
        return cls(
            leave=int((before & ~after).sum()), come=int((after & ~before).sum()), stay=int((before & after).sum())
        )


def preview(scope: Scope, model: str) -> Document:
    """Return the moves of people and of identities: of all that may be shared, and of what goes out in each feed.

    Feeds are counted as a run would release them now, segments as they were last evaluated. A person moves with the
    last or the first of their identities.
    """
    with scope.read() as tx:
        visibility, snapshot = Visibility(scope, tx), Snapshot.open(scope, tx)
        people = visibility.people(snapshot)
        seen = {name: visibility.values(snapshot, name) for name in snapshot.namespaces}
    before = scope.consent_model
    profiles = [np.zeros(snapshot.profile_count, bool) for _ in range(2)]
    namespaces = {}
    for name in (each for each, there in seen.items() if there.any()):
        masks = [_consented(snapshot, name, each) & seen[name] for each in (before, model)]
        for shared, mask in zip(profiles, masks, strict=True):
            shared[audiences.numbers(audiences.holders(snapshot, name, np.flatnonzero(mask)) & people)] = True
        namespaces[name] = asdict(Moves.of(masks[0], masks[1]))
    return {
        "model": model,
        "before": before,
        "profiles": asdict(Moves.of(profiles[0], profiles[1])),
        "namespaces": namespaces,
        "feeds": [
            {
                "feed": feed,
                "partner": connection.alias,
                "status": status,
                **_feed(scope, connection, definition, snapshot, before, model),
            }
            for feed, connection, status, definition in Feeds(scope).recipients()
        ],
    }


def _consented(snapshot: Snapshot, namespace: str, model: str | None) -> Bools:
    """Return which distinct identities may be shared; none while no model is chosen."""
    if model is None:
        return np.zeros(len(snapshot.starts(namespace)), bool)
    return audiences.consented(snapshot, namespace, model)


def _feed(
    scope: Scope,
    connection: Connection,
    definition: "Definition",
    snapshot: Snapshot,
    before: str | None,
    after: str,
) -> Document:
    selections = [
        None if model is None else select_members(scope, connection, definition, snapshot, model)
        for model in (before, after)
    ]
    members = BitMap().union(*(Segments(scope).members(each.name, snapshot) for each in definition.segments))
    profiles = [np.zeros(snapshot.profile_count, bool) for _ in selections]
    namespaces = {}
    for name in definition.namespaces:
        masks = []
        for shared, selection in zip(profiles, selections, strict=True):
            places = _places(snapshot, name, selection)
            shared[audiences.numbers(audiences.holders(snapshot, name, places) & members)] = True
            mask = np.zeros(len(snapshot.starts(name)), bool)
            mask[places] = True
            masks.append(mask)
        namespaces[name] = asdict(Moves.of(masks[0], masks[1]))
    return {"profiles": asdict(Moves.of(profiles[0], profiles[1])), "namespaces": namespaces}


def _places(snapshot: Snapshot, namespace: str, selection: Selection | None) -> Places:
    """Return where the identities that would be sent stand among the distinct ones."""
    if selection is None:
        return np.zeros(0, np.intp)
    values, _ = snapshot.distinct(namespace)
    places, _ = match(sort_keys(values), sort_keys(selection.audiences[namespace].values))
    return places
