"""Data sources and folders, as a project's people make them."""

from collections.abc import Iterable

from ..access.scope import Scope
from ..errors import InvalidInput
from ..storage.records import Document, Documents
from . import controls, documents, folders, sources
from .records import TOP, SourceKind
from .sight import Sight

MADE = (SourceKind.OWN, SourceKind.THIRD_PARTY)  # kinds that people make


class Sources:
    """The data sources of a project: whose ids and signals there are, and what they may not be used for."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def all(self) -> Documents:
        """Return the data sources by number, the built-in ones too."""
        with self._scope.read(act="audience.view") as tx:
            return documents.sources(Sight(self._scope, tx))

    def create(
        self,
        name: str,
        *,
        kind: SourceKind | str = SourceKind.OWN,
        namespace: str | None = None,
        integration_code: str | None = None,
        export_controls: Iterable[str] = (),
    ) -> Document:
        """Make a data source, own or third-party; its ids are of `namespace`, or else of one of its own.

        Only callers who see all data sources may: a new one is there for nobody whose roles list some.
        """
        detail: Document = {}
        with self._scope.act("audience.create-source", name[:100], detail=detail) as tx:
            Sight(self._scope, tx).check_manages_all()
            if kind not in MADE:
                raise InvalidInput(
                    f"no data source of kind {str(kind)[:40]!r} can be made", hint="make an own or third-party one"
                )
            made = sources.add(self._scope, tx, name, SourceKind(kind), namespace, integration_code)
            if given := controls.checked(export_controls):
                self._scope.home.guard.check(tx, "audience.control", self._scope.id)
                made = sources.set_controls(self._scope, tx, made, given)
            detail |= {"number": made.number, "kind": made.kind, "controls": given}
            return documents.source(made)

    def control(self, source: str | int, *, add: Iterable[str] = (), remove: Iterable[str] = ()) -> Document:
        """Add and take away export controls of a data source, by their names or the labels that mean the same ("C5").

        Refused where something is mapped to a destination that a new one forbids.
        """
        added, removed = [*add], [*remove]
        detail: Document = {"add": added[:20], "remove": removed[:20]}
        with self._scope.act("audience.control", str(source)[:100], detail=detail) as tx:
            sight = Sight(self._scope, tx)
            found = sight.source(source)
            sight.check_manages(found.number)
            wanted = {*found.controls, *_meant(added)} - {*_meant(removed)}
            made = sources.set_controls(self._scope, tx, found, [each for each in controls.CONTROLS if each in wanted])
            controls.check_mapped(self._scope, tx)
            return documents.source(made)


class Folders:
    """The folders of traits and segments."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def all(self) -> Documents:
        """Return the folders by their path, with how many of the traits and segments in each are there for the caller."""
        with self._scope.read(act="audience.view") as tx:
            return documents.all_folders(Sight(self._scope, tx))

    def create(self, name: str, *, parent: str | int | None = None) -> Document:
        """Make a folder, in another one by its number or path ("Retail / Shoes"), or at the top."""
        with self._scope.act("audience.create-folder", name[:100]) as tx:
            sight = Sight(self._scope, tx)
            made = folders.add(self._scope, tx, name, place(sight, parent))
            return documents.folder(Sight(self._scope, tx), made)


def place(sight: Sight, folder: str | int | None) -> int:
    """Return the number of a folder by its number, its path or its name; TOP for none, or 0. Raises NotFound or InvalidInput."""
    if folder in (None, TOP, str(TOP)):
        return TOP
    there = sight.catalogue.folders
    if str(folder).isdecimal():
        found = [each for each in there if str(each) == str(folder)]
    else:
        found = [each for each in there if documents.path(sight, each) == folder]
        found = found or [each.number for each in there.values() if each.name == folder]
    if not found:
        raise folders.no_folder(str(folder))
    if len(found) > 1:
        raise InvalidInput(f"{len(found)} folders are named {str(folder)[:80]!r}", hint="write the path, or the number")
    return found[0]


def _meant(words: Iterable[str]) -> list[str]:
    """Return export controls for their names, and for labels that mean the same; raises InvalidInput for another word."""
    found: list[str] = []
    for each in words:
        found += controls.from_labels([each.upper()]).found or controls.checked([each])
    return found
