"""The Audience Manager side of a project: the door to its data sources, folders, traits and segments of traits."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from ..access.scope import Scope
from ..inputs.sources import ReadProgress
from ..storage.records import Documents
from .importing import Imports
from .segment_editing import Segments
from .signal_search import Signals
from .source_editing import Folders, Sources
from .trait_editing import Traits


class Audience:
    """Who is known to have which traits, whether or not they are profiles of the project."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    @cached_property
    def sources(self) -> Sources:
        return Sources(self._scope)

    @cached_property
    def folders(self) -> Folders:
        return Folders(self._scope)

    @cached_property
    def traits(self) -> Traits:
        return Traits(self._scope)

    @cached_property
    def imports(self) -> Imports:
        return Imports(self._scope)

    @cached_property
    def segments(self) -> Segments:
        return Segments(self._scope)

    @cached_property
    def signals(self) -> Signals:
        return Signals(self._scope)

    def load(
        self, paths: Sequence[Path | str], *, rehearse: bool = False, progress: ReadProgress | None = None
    ) -> Documents:
        """Load inbound files; see `files.load`."""
        from .files import load

        return load(self._scope, paths, rehearse=rehearse, progress=progress)
