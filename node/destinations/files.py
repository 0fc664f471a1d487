"""Files as a destination: the ids of a segment's members and what the project knows of them, written as CSV."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from ..access.scope import Scope
from ..people import cells
from ..segments import evaluation
from ..segments.segments import Segments
from ..storage import outputs
from ..storage.csv_text import csv_text
from ..storage.records import Document
from .members import allowed_members, evaluate_received


class Files:
    """The files that a project's segments are exported to."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def export(
        self,
        segment: str,
        path: Path | str,
        *,
        uses: Iterable[str] = (),
        attributes: Sequence[str] = (),
        within: str | None = None,
        force: bool = False,
    ) -> int:
        """Write the ids of a segment's members as CSV and return how many; `path` and `force` are as in `outputs.opened`.

        `attributes` are columns beside the ids: of one that this project does not have, or the caller may not see, all cells
        are empty. With `within` only members of that segment too are written.

        `uses` are the marketing uses that the file is for; without one it is for all of them. `allowed_members` says who
        may leave, and when the export is refused. The audit row is there before the first byte leaves; where writing fails
        after it, a second one says so.
        """
        detail: Document = {"uses": sorted(set(uses)), "attributes": [*attributes], "within": within}
        self._scope.require("segment.export", segment)
        with ExitStack() as stack:
            with self._scope.refusals("segment.export", segment):
                out = stack.enter_context(outputs.opened(path, force=force))
            for each in filter(None, (segment, within)):
                evaluate_received(self._scope, each, detail["uses"])
            with self._scope.act("segment.export", segment, detail=detail) as tx:
                known = evaluation.attribute_names(self._scope, tx, visible=True)
                fields = [
                    f"{dataset}.{name}" for dataset, name in (known[each] for each in attributes if each in known)
                ]
                allowed = allowed_members(self._scope, tx, segment, detail["uses"], fields=fields)
                members, left = allowed.members, allowed.without_consent
                if within is not None:
                    also = allowed_members(self._scope, tx, within, detail["uses"])
                    members, left = members & also.members, left + also.without_consent
                if left:
                    detail["without_consent"] = left
                numbers = np.array(members.to_array(), np.uint32)
                columns: list[Sequence[str]] = [
                    [each.decode() for each in allowed.snapshot.profile_ids[numbers].tolist()]
                ]
                for each in attributes:
                    blank = [""] * len(numbers)
                    columns.append(cells.column(allowed.snapshot, *known[each], numbers) if each in known else blank)
                detail |= {"size": len(numbers), **Segments(self._scope).made_of(tx, segment)}
            with self._scope.refusals("segment.export", segment):
                out.write(csv_text(["id", *attributes], zip(*columns, strict=True)).encode())
        return len(numbers)
