"""Traits, as a project's people make them."""

from contextlib import suppress
from functools import partial
from typing import Any

from ..access.scope import Scope
from ..errors import Failure, InvalidInput, NotAllowed
from ..storage.database import Tx
from ..storage.records import Document, Documents
from . import controls, documents, traits, uses, visitors
from .members import Members
from .records import DAYS, TOP, NewTrait, SourceKind, Trait, TraitKind
from .sight import Sight
from .source_editing import place
from .trait_members import drop_expired


class Traits:
    """The traits of a project."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def all(self) -> Documents:
        """Return the traits by number."""
        with self._scope.read(act="audience.view") as tx:
            sight = Sight(self._scope, tx)
            return documents.traits(sight, Members(self._scope, tx, sight.catalogue))

    def show(self, trait: str | int) -> Document:
        """Return a trait by its number or name; raises NotFound."""
        with self._scope.read(act="audience.view") as tx:
            return self._document(tx, trait)

    def create(
        self,
        name: str,
        *,
        source: str | int,
        rule: str | None = None,
        kind: TraitKind | None = None,
        folder: str | int | None = None,
        days: int = DAYS,
        integration_code: str | None = None,
        description: str = "",
    ) -> Document:
        """Make a trait of a data source: by a rule over signals, onboarded by files and calls, or of a folder.

        Without a kind it is rule-based where a rule is given, else onboarded. Signals of before do not realise it.
        """
        detail: Document = {}
        with self._scope.act("audience.create-trait", name[:100], detail=detail) as tx:
            sight = Sight(self._scope, tx)
            found = sight.source(source)
            sight.check_manages(found.number)
            wanted = NewTrait(
                name=name,
                source=found.number,
                kind=kind or (TraitKind.ON_BOARDED if rule is None else TraitKind.RULE_BASED),
                rule=rule,
                folder=place(sight, folder),
                days=days,
                integration_code=integration_code,
                description=description,
            )
            if wanted.kind is TraitKind.FOLDER and wanted.folder == TOP:
                raise InvalidInput("a folder trait is that of a folder", hint="name the folder")
            traits.check_name_free(self._scope, tx, found.number, name)
            made = traits.add(self._scope, tx, wanted)
            controls.check_mapped(self._scope, tx)  # it may be in the folder of a folder trait
            detail |= {"number": made.number, "kind": made.kind, "source": made.source}
            return self._document(tx, made.number)

    def edit(
        self,
        trait: str | int,
        *,
        name: str | None = None,
        description: str | None = None,
        rule: str | None = None,
        folder: str | int | None = None,
        days: int | None = None,
    ) -> Document:
        """Change what is given. Who has realised a trait keeps it under another rule; under other days all who have it
        now have it for so many days from when they realised it, and whose time is over stays without it.

        The name and the rule of one that is made from a segment of the platform follow that segment.
        """
        given = {"name": name, "description": description, "rule": rule, "days": days}
        changed: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        detail = {"changed": sorted([*changed, *(["folder"] if folder is not None else [])])}
        if days is not None:
            self._scope.require("audience.edit-trait", str(trait)[:100])
            drop_expired(self._scope)
        with self._scope.act("audience.edit-trait", str(trait)[:100], detail=detail) as tx:
            sight, found = self._managed(tx, trait)
            if not detail["changed"]:
                raise InvalidInput("nothing to change", hint="give a name, a description, a rule, a folder or days")
            check_follows_nothing(sight, found, changed)
            if name not in (None, found.name):
                traits.check_name_free(self._scope, tx, found.source, str(name))
            if folder is not None:
                changed["folder"] = place(sight, folder)
            made = traits.change(self._scope, tx, found, **changed)
            controls.check_mapped(self._scope, tx)
            return self._document(tx, made.number)

    def delete(self, trait: str | int) -> None:
        """Delete a trait, and that it was realised; refused, saying where, while a segment or an import uses it."""
        with self._scope.act("audience.delete-trait", str(trait)[:100]) as tx:
            sight, found = self._managed(tx, trait)
            uses.check_unused(self._scope, tx, sight, found)
            traits.remove(self._scope, tx, found)
            self._scope.home.database.afterwards(partial(self._forget, found.number))

    def _forget(self, number: int) -> None:
        """Forget who had a trait that is no more; else upkeep does."""
        known = visitors.opened(self._scope)
        with suppress(Failure):
            if known.file.path.exists():
                known.remove(number)

    def _document(self, tx: Tx, trait: str | int) -> Document:
        sight = Sight(self._scope, tx)
        return documents.trait(sight, Members(self._scope, tx, sight.catalogue), sight.trait(trait))

    def _managed(self, tx: Tx, trait: str | int) -> tuple[Sight, Trait]:
        sight = Sight(self._scope, tx)
        found = sight.trait(trait)
        sight.check_manages(found.source)
        return sight, found


def check_follows_nothing(sight: Sight, found: Any, changed: dict[str, Any]) -> None:
    """Refuse another name or rule for a trait or a segment that is made from a segment of the platform."""
    source = sight.catalogue.sources[found.source]
    if source.kind is SourceKind.PLATFORM and found.integration_code is not None and {"name", "rule"} & changed.keys():
        raise NotAllowed(
            f"{found.number} {found.name!r} is made from a segment of the platform, whose name and id it has",
            hint="rename the segment there, or make another trait",
        )
