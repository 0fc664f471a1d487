"""Files as a destination: the ids of a segment's members, written as CSV."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..access.scope import Scope
from ..errors import InvalidInput
from ..storage.files import write_atomically
from ..storage.records import Document
from .members import allowed_members, evaluate_received


class Files:
    """The files that a project's segments are exported to."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def export(self, segment: str, path: Path | str, *, uses: Iterable[str] = ()) -> int:
        """Write the ids of a segment's members as CSV and return how many.

        `uses` are the marketing uses that the file is for; without one it is for all of them. `allowed_members` says who
        may leave, and when the export is refused.
        """
        detail: Document = {"uses": sorted(set(uses))}
        self._scope.require("segment.export", segment)
        if not Path(path).parent.is_dir():
            with self._scope.refusals("segment.export", segment):
                raise InvalidInput(f"there is no directory {Path(path).parent}", hint="make it first, or name another")
        evaluate_received(self._scope, segment)
        with self._scope.act("segment.export", segment, detail=detail) as tx:
            allowed = allowed_members(self._scope, tx, segment, detail["uses"])
            if allowed.without_consent:
                detail["without_consent"] = allowed.without_consent
            numbers = np.array(allowed.members.to_array(), np.uint32)
            file = io.StringIO(newline="")
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["id"])
            writer.writerows([each.decode()] for each in allowed.snapshot.profile_ids[numbers].tolist())
            write_atomically(Path(path), file.getvalue().encode())
            detail["size"] = len(numbers)
        return len(numbers)
