"""What the Audience Manager side asks of rooms above it. They register in node/wiring.py."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ..access.scope import Scope
from ..storage.database import Tx

if TYPE_CHECKING:
    from .controls import DestinationMapping

MAPPED: "dict[str, Callable[[Scope, Tx], Iterable[DestinationMapping]]]" = {}  # by room, what goes where
