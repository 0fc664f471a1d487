"""What programs of the operator may call on the Audience Manager side: paths, and who answers."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psi.errors import VesicaError

if TYPE_CHECKING:
    from ..access.guard import Caller
    from ..access.scope import Scope
    from ..transport.operator_endpoint import Answer
    from .write_queue import WriteQueue


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request of a user who may receive for the project's Audience Manager side; `caller` is that user.

    `sources` are the data sources that the user may send for, None for all. `parameters` are the parts of the path that the
    route's {names} stand for, `query` is as it was sent.
    """

    scope: "Scope"
    caller: "Caller"
    sources: frozenset[int] | None
    method: str
    parameters: Mapping[str, str]
    query: bytes
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Who answers, and how many bytes a body may have.

    `handler` works in a thread, in the name of the caller; `prompt` does instead what waits for nothing but the queue, in
    the event loop. `refused` gives an error the form that the route's clients know.
    """

    most: int
    handler: "Callable[[Call], Answer] | None" = None
    prompt: "Callable[[Call, WriteQueue], Awaitable[Answer]] | None" = None
    refused: "Callable[[VesicaError], Answer] | None" = None


ROUTES: dict[str, Route] = {}
"""By method and path, such as "POST /stream/{id}"; filled by node/wiring.py."""
