"""Segments that are lists of members: read from a file of ids, or filled by an import."""

from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
from pyroaring import BitMap

from ..access.scope import Scope
from ..errors import AlreadyExists, InvalidInput, NotAllowed, check_name
from ..governance.visibility import Visibility, no_segment
from ..people.datasets import FieldKind, fields_where
from ..people.drafts import Draft
from ..people.snapshots import Snapshot
from ..storage import tables
from ..storage.database import Tx
from ..storage.records import Document
from .records import SegmentKind, change, find, stored

ID_HEADERS = ("id", "profile", "profile_id", "customer", "customer_id")


class Lists:
    """The lists of a project, in the caller's transaction."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def names(self, tx: Tx) -> set[str]:
        """Return the names of the segments that have members and no rule."""
        return {segment.name for segment in stored(self._scope, tx) if segment.kind is SegmentKind.MEMBERS}

    def check_open(self, tx: Tx, names: Iterable[str], mine: Collection[str], opened: Iterable[str] = ()) -> None:
        """Raise AlreadyExists if a name belongs to a segment outside `mine` and those that the caller opened.

        A hidden segment gets the same message. Raises NotFound where the caller opened what is not there.
        """
        there = {segment.name for segment in stored(self._scope, tx)}
        hidden, opened = Visibility(self._scope, tx).hidden_segments(), set(opened)
        closed = (there - set(mine) - opened) | hidden
        for name in names:
            if name in closed:
                raise AlreadyExists(
                    f"there is a segment {name!r} already, which this import may not change",
                    hint=f"let the import call it otherwise, or say that it may change your list {name}",
                )
        for name in sorted(opened - (there - hidden)):
            raise no_segment(name)

    def lay_over(
        self, tx: Tx, draft: Draft, name: str, inside: BitMap, outside: BitMap, *, source: str
    ) -> tuple[int, bool]:
        """Put profiles into a list or take them out, in the caller's transaction and draft; others stay as they are.

        The list inherits the labels of the field `source` ("dataset.field"). Returns the size of the list afterwards, and
        whether it is new. Raises NotAllowed for a segment with a rule.
        """
        before, now = find(self._scope, tx, check_name(name, "segment")), self._scope.home.now()
        if before is not None and before.kind is SegmentKind.RULE:
            raise NotAllowed(f"segment {name} has a rule", hint="its members follow the profiles' attributes")
        segment_id = self._scope.home.new_id() if before is None else before.id
        members = (draft.base.members(segment_id) - outside) | inside
        draft.set_members(segment_id, members)
        uses = sorted({source, *([] if before is None else before.uses)})
        values: Document = {"size": len(members), "evaluated": now, "uses": uses}
        if before is None:
            fresh = {"id": segment_id, "name": name, "kind": SegmentKind.MEMBERS.value, "created": now}
            tx.execute(tables.segments.insert().values(project_id=self._scope.id, **fresh, **values))
        else:
            change(tx, before, **values)
        return len(Visibility(self._scope, tx).narrowed(draft.snapshot, members)), before is None

    def read(self, tx: Tx, snapshot: Snapshot, path: Path) -> tuple[BitMap, int]:
        """Return the profiles whose ids a file has, and how many of its ids are no profile's.

        The ids are in the column that has the name of a dataset's id column (or of ID_HEADERS), else in the first; a
        header is not needed.
        """
        from ..inputs.sources import Source

        source = Source.open(path, [])
        id_fields = fields_where(self._scope, tx, tables.fields.c.kind == FieldKind.ID)
        known = [*(each.name for each in id_fields), *ID_HEADERS]
        source.columns = [next((name for name in source.header if name in known), source.header[0])]
        texts = [text for batch in source.batches() for text in batch.columns[source.columns[0]]]
        ids = np.array([text.strip().encode() for text in [source.columns[0], *texts]], np.bytes_)
        numbers = Visibility(self._scope, tx).numbers(snapshot, ids)
        has_header = source.kind != "CSV" or numbers[0] < 0  # the first line is a member if it is a profile's id
        if has_header:
            numbers = numbers[1:]
        found = numbers[numbers >= 0]
        if not len(found):
            raise InvalidInput(
                f"none of the {len(numbers)} ids of {path.name} is a profile's",
                hint="give the ids of the imported id column, one per row, after the import",
            )
        return BitMap(found.astype(np.uint32)), int((numbers < 0).sum())
