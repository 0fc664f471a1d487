"""What is called when the data of a project's people has changed. Rooms above register in wiring.py."""

from collections.abc import Callable

from ..access.scope import Scope

Hook = Callable[[Scope], object]
CHANGED: dict[str, Hook] = {}  # by name; called after an import, also of an export, and after a consent


def announce(scope: Scope) -> None:
    """Call every hook; the transaction of the change must be over."""
    for hook in CHANGED.values():
        hook(scope)
