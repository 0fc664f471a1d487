"""The tables through which partners/ calls rooms above it; `node.wiring` fills them."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..storage.database import Tx

if TYPE_CHECKING:
    from protocol.wire import Message

    from ..access.scope import Home, Scope
    from .connections import Connection

LetterHandler = Callable[["Scope", "Tx", "Connection", "Message"], None]
Hook = Callable[["Scope", "Tx", "Connection"], None]

HANDLERS: dict[str, LetterHandler] = {}  # by kind of letter
ENDED: list[Hook] = []  # a connection ends: each room ends what it has of it, in the same transaction
AGREED: "list[Callable[[Scope, Tx, Connection, frozenset[str]], None]]" = []  # on other namespaces; given those that are gone
ALLOWED: list[Hook] = []  # a partner may evaluate its whole universe once more
KEY_REPLACED: "list[Callable[[Tx, bytes, bytes], None]]" = []  # an organisation has another key: the old one, the new one
REACHED: "list[Callable[[Home, Connection], None]]" = []  # a partner that was gone can be reached again
TAKES: "list[Callable[[Tx, Connection], bool]]" = []  # whether a feed of a partner's runs to us
MAY_LEAVE: "dict[str, Callable[[Home, Connection], bool]]" = {}  # by kind of letter: whether it may leave yet
