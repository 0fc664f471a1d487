"""Segments of traits, as a project's people make them."""

from typing import Any

from ..access.scope import Scope
from ..errors import InvalidInput, NotAllowed
from ..storage.database import Tx
from ..storage.records import Document, Documents
from . import audience_segments, controls, documents, segment_rules, uses
from .members import Members
from .records import AudienceSegment, NewSegment
from .sight import Sight
from .source_editing import place
from .trait_editing import check_follows_nothing


class Segments:
    """The segments of traits of a project."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def all(self) -> Documents:
        """Return the segments of traits by number."""
        with self._scope.read(act="audience.view") as tx:
            sight = Sight(self._scope, tx)
            return documents.segments(sight, Members(self._scope, tx, sight.catalogue))

    def show(self, segment: str | int) -> Document:
        """Return a segment of traits by its number or name; raises NotFound."""
        with self._scope.read(act="audience.view") as tx:
            return self._document(tx, segment)

    def create(
        self,
        name: str,
        *,
        rule: str,
        source: str | int,
        folder: str | int | None = None,
        merge_by: str | int | None = None,
        integration_code: str | None = None,
        description: str = "",
    ) -> Document:
        """Make a segment of a data source, by a rule over traits and segments ("24T AND NOT 26T").

        `merge_by` is the data source whose ids say which visitors are one person: its export controls count too.
        """
        detail: Document = {}
        with self._scope.act("audience.create-segment", name[:100], detail=detail) as tx:
            sight = Sight(self._scope, tx)
            found = sight.source(source)
            sight.check_manages(found.number)
            _check_rule(sight, rule)
            audience_segments.check_name_free(self._scope, tx, found.number, name)
            wanted = NewSegment(
                name=name,
                source=found.number,
                rule=rule,
                folder=place(sight, folder),
                integration_code=integration_code,
                merge_rule="" if merge_by is None else sight.source(merge_by).name,
                description=description,
            )
            made = audience_segments.add(self._scope, tx, wanted)
            detail |= {"number": made.number, "source": made.source}
            return self._document(tx, made.number)

    def edit(
        self,
        segment: str | int,
        *,
        name: str | None = None,
        description: str | None = None,
        rule: str | None = None,
        folder: str | int | None = None,
    ) -> Document:
        """Change what is given. Refused where an export control forbids a trait of the rule a destination that the segment,
        or one that reads it, is mapped to."""
        given = {"name": name, "description": description, "rule": rule}
        changed: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        detail = {"changed": sorted([*changed, *(["folder"] if folder is not None else [])])}
        with self._scope.act("audience.edit-segment", str(segment)[:100], detail=detail) as tx:
            sight, found = self._managed(tx, segment)
            if not detail["changed"]:
                raise InvalidInput("nothing to change", hint="give a name, a description, a rule or a folder")
            check_follows_nothing(sight, found, changed)
            if name not in (None, found.name):
                audience_segments.check_name_free(self._scope, tx, found.source, str(name))
            if rule is not None:
                _check_rule(sight, rule, found)
            if folder is not None:
                changed["folder"] = place(sight, folder)
            made = audience_segments.change(self._scope, tx, found, **changed)
            controls.check_mapped(self._scope, tx)
            return self._document(tx, made.number)

    def delete(self, segment: str | int) -> None:
        """Delete a segment of traits; refused, saying where, while another segment, an import or a destination uses it."""
        with self._scope.act("audience.delete-segment", str(segment)[:100]) as tx:
            sight, found = self._managed(tx, segment)
            uses.check_unused(self._scope, tx, sight, found)
            audience_segments.remove(tx, found)

    def _document(self, tx: Tx, segment: str | int) -> Document:
        sight = Sight(self._scope, tx)
        return documents.segment(sight, Members(self._scope, tx, sight.catalogue), sight.segment(segment))

    def _managed(self, tx: Tx, segment: str | int) -> tuple[Sight, AudienceSegment]:
        sight = Sight(self._scope, tx)
        found = sight.segment(segment)
        sight.check_manages(found.source)
        return sight, found


def _check_rule(sight: Sight, rule: str, changed: AudienceSegment | None = None) -> None:
    """Refuse a rule that does not parse, reads what is not there, wants of a trait what it cannot have, or reads itself."""
    tree = segment_rules.parse(rule)
    sight.check_reads(tree)
    read_traits, read_segments = sight.catalogue.reads([tree])
    segment_rules.check(tree, {each.number: each.kind for each in read_traits})
    if changed is not None and changed.number in (each.number for each in read_segments):
        raise NotAllowed(
            f"segment {changed.number} {changed.name!r} would be made of itself", hint="leave it out of the rule"
        )
