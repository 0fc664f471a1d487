"""Files as a destination: the ids of a segment's members, written as CSV."""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from ..access.scope import Scope
from ..storage import outputs
from ..storage.csv_text import csv_text
from ..storage.records import Document
from .members import allowed_members, evaluate_received


class Files:
    """The files that a project's segments are exported to."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def export(self, segment: str, path: Path | str, *, uses: Iterable[str] = (), force: bool = False) -> int:
        """Write the ids of a segment's members as CSV and return how many; `path` and `force` are as in `outputs.opened`.

        `uses` are the marketing uses that the file is for; without one it is for all of them. `allowed_members` says who
        may leave, and when the export is refused. The audit row is there before the first byte leaves; where writing fails
        after it, a second one says so.
        """
        detail: Document = {"uses": sorted(set(uses))}
        self._scope.require("segment.export", segment)
        with ExitStack() as stack:
            with self._scope.refusals("segment.export", segment):
                out = stack.enter_context(outputs.opened(path, force=force))
            evaluate_received(self._scope, segment, detail["uses"])
            with self._scope.act("segment.export", segment, detail=detail) as tx:
                allowed = allowed_members(self._scope, tx, segment, detail["uses"])
                if allowed.without_consent:
                    detail["without_consent"] = allowed.without_consent
                numbers = np.array(allowed.members.to_array(), np.uint32)
                ids = allowed.snapshot.profile_ids[numbers].tolist()
                detail["size"] = len(numbers)
            with self._scope.refusals("segment.export", segment):
                out.write(csv_text(["id"], ([each.decode()] for each in ids)).encode())
        return len(numbers)
