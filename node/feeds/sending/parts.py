"""What a feed is made of: segments of ours and namespaces of the project, looked up as the caller's transaction sees them."""

from collections.abc import Sequence

from protocol.feed import SegmentRef
from psi.errors import Remedy

from ...access.scope import Scope
from ...errors import NotAllowed, NotFound
from ...governance.lineage import Lineage, PlaceKind, place_of
from ...governance.policies import SHARING
from ...governance.visibility import Visibility
from ...partners.connections import Connection
from ...people.datasets import namespaces
from ...segments import references
from ...storage.database import Tx
from ...storage.ids import wire_id


def segment_ref(scope: Scope, tx: Tx, name: str) -> SegmentRef:
    """Return a segment as versions name it, one of ours or of another project of the node.

    Raises NotFound, or NotAllowed if it is made of received ones.
    """
    place = place_of(name)
    if place is not None and place.kind is PlaceKind.RECEIVED:
        raise NotAllowed(
            f"{name} was received: only first-party segments can be shared",
            hint="share a first-party segment",
            remedy=Remedy("segment.list"),
        )
    picked = references.pick(scope, tx, name)
    Visibility(scope, tx).check_use([name], SHARING)
    lineage = Lineage(scope, tx)
    if lineage.reads_received(name):
        raise NotAllowed(
            f"segment {name} is made of received segments: only first-party segments can be shared",
            hint="share the first-party segment it is built on",
        )
    labels = tuple(sorted(lineage.labels_for(name, SHARING)))
    return SegmentRef(id=wire_id(picked.id), name=name, labels=labels)


def namespace(scope: Scope, tx: Tx, given: str, connections: Sequence[Connection]) -> str:
    """Return a namespace of the project with its rule.

    Raises NotFound, or NotAllowed for a namespace that was not agreed on over one of the connections.
    """
    offered = namespaces(scope, tx)
    known = [each for each in offered if given in (each, each.partition("/")[0])]
    if len(known) != 1:
        raise NotFound(f"{given!r} is no namespace of this project", hint=f"it has {', '.join(offered) or 'none'}")
    for connection in connections:
        check_agreed(connection, known[0])
    return known[0]


def check_agreed(connection: Connection, namespace: str) -> None:
    """Raise NotAllowed for a namespace that is not agreed on with a partner."""
    agreed = connection.agreed.namespaces
    if namespace not in agreed:
        raise NotAllowed(
            f"partner {connection.alias} does not match by {namespace}",
            hint=f"agreed are {', '.join(agreed) or 'none'}; propose to agree on it",
            remedy=Remedy("partner.agree", {"name": connection.alias}),
        )


def check_sizes(scope: Scope, tx: Tx, name: str, shared: Sequence[SegmentRef], connection: Connection) -> None:
    """Raise NotAllowed for a segment below the minimum agreed with a partner."""
    minimum = connection.terms.minimum_segment
    for segment in shared:
        if references.pick(scope, tx, segment.name).size < minimum:
            raise NotAllowed(
                f"segment {segment.name} is below the minimum of {minimum:,} agreed with {connection.alias}",
                hint="leave it out",
                remedy=Remedy("feed.edit", {"name": name, "remove_segment": segment.name}),
            )
