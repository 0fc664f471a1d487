"""Vesica's node: an organisation's data, partners and feeds. A front end opens a `Node` and calls the doors of its projects.

The names are imported at their first use, since most commands need few of the modules behind them.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psi.errors import VesicaError

    from .node import Node
    from .project import Project

__all__ = ["Node", "Project", "VesicaError"]


def __getattr__(name: str) -> Any:
    if name == "VesicaError":
        from psi.errors import VesicaError

        return VesicaError
    if name == "Node":
        from .node import Node

        return Node
    if name == "Project":
        from .project import Project

        return Project
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
