"""Destinations that are a partner's own: one that gets what was received from partners would tell them who matched."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from sqlalchemy import select

from ..access.scope import Scope
from ..errors import NotAllowed
from ..governance.lineage import Lineage
from ..storage.database import Tx
from ..storage.tables import connections
from ..transport.addresses import looked_up, plain_host, split_address
from .records import Destination


def partner_hosts(scope: Scope, tx: Tx) -> list[str]:
    """Return the hosts of a project's partners."""
    query = select(connections.c.peer_address).where(
        connections.c.project_id == scope.id, connections.c.peer_address != ""
    )
    return sorted({plain_host(split_address(each)[0]) for each in tx.scalars(query)})


def check_name(scope: Scope, tx: Tx, destination: Destination, segment: str) -> None:
    """Raise NotAllowed for a destination at a partner's host, or below or above it, and a segment of received ones."""
    host = _host(destination)
    is_theirs = bool(host) and any(_is_of(host, each) for each in partner_hosts(scope, tx))
    if is_theirs and Lineage(scope, tx).reads_received(segment):
        raise _refused(destination, segment)


def check_addresses(scope: Scope, destination: Destination, segments: Sequence[str]) -> None:
    """Raise NotAllowed for a destination under another name of a partner's machine; names are looked up for it."""
    with scope.read() as tx:
        lineage, hosts = Lineage(scope, tx), partner_hosts(scope, tx)
        received = [each for each in segments if lineage.reads_received(each)]
    host = _host(destination)
    if host and hosts and received and _addresses(host) & {at for each in hosts for at in _addresses(each)}:
        raise _refused(destination, received[0])


def _host(destination: Destination) -> str:
    return plain_host(urlsplit(destination.settings.get("url", "")).hostname or "")


def _is_of(host: str, partner: str) -> bool:
    return host == partner or host.endswith(f".{partner}") or partner.endswith(f".{host}")


def _addresses(host: str) -> set[str]:
    try:
        return set(map(plain_host, looked_up(host, 443)))
    except OSError:  # nothing is sent there either
        return set()


def _refused(destination: Destination, segment: str) -> NotAllowed:
    return NotAllowed(
        f"destination {destination.name} is at a partner's address, and {segment[:80]} is made of received segments",
        hint="it would tell the partner who matched: choose a segment that is your own",
    )
