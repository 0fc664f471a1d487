"""The table of exchanges: what we do in an exchange of a kind, as one part of it. `node.wiring` fills it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ..operations.jobs import Progress
from ..storage.database import Tx

if TYPE_CHECKING:
    from protocol.exchange import Opening, Role
    from protocol.states import Kind, Part
    from psi.errors import VesicaError

    from ..access.scope import Scope
    from ..partners.connections import Connection

Subject = Mapping[str, str | bytes | int]  # what an exchange is about, as its opening says


def _nothing(*_: object) -> None: ...


class PreparedRole(NamedTuple):
    """A role with which we answer, and a digest of what it works on, by which the same role can be made again.

    `keep` puts that on disk, once the exchange has its row: what no row names may be deleted at any time.
    """

    role: "Role"
    inputs: bytes = b""
    keep: Callable[[], None] = _nothing


def _not_noted(*_: object) -> bool:
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """What we do as one part in exchanges of one kind."""

    answer: "Callable[[Scope, Connection, Opening, bytes | None], PreparedRole]"
    """Return the role with which we answer an opening; raises RefusedToPartner.

    The digest of what it works on is in the exchange's row and given back when the role is made again; a new exchange
    has none yet.
    """
    open: "Callable[[Scope, Connection, Subject, Progress], None] | None" = None
    """Open the exchange that a partner asked for; None where the other part is the one that opens it."""
    note_request: "Callable[[Scope, Tx, Connection, Subject], bool]" = _not_noted
    """Note that a partner asks for an exchange; return whether this part has something to do. Raises RefusedToPartner."""
    finished: "Callable[[Scope, Connection, Opening, Any], None]" = _nothing
    """Keep the result of an exchange that the partner opened; called again if a kill came in between."""
    failed: "Callable[[Scope, Tx, Connection, VesicaError], None]" = _nothing
    """Note that an exchange failed, in the transaction that closes it."""


KINDS: "dict[tuple[str, str], Callable[[], Handler]]" = {}  # by kind and our part; each is found at its first use


def handler(kind: "Kind", part: "Part") -> Handler:
    """Return what we do as `part` in exchanges of a kind."""
    return KINDS[kind, part]()
