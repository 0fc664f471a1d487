"""A column of a generation's table, of which some rows are read from its file at a time and none stays in memory."""

from typing import Any

import numpy as np
import numpy.typing as npt

from ..storage.files import below
from .snapshots import Snapshot, missing

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class StoredColumn:
    """An array in a file, as `snapshots.load` maps it; raises Failure where it cannot be read."""

    def __init__(self, snapshot: Snapshot, name: str) -> None:
        self._snapshot, self._name = snapshot, name
        self.path = below(snapshot.directory, name)
        try:
            with self.path.open("rb") as file:
                shape, columnwise, self.dtype = _HEADERS[np.lib.format.read_magic(file)](file)
                self._start = file.tell()
            if columnwise and len(shape) > 1:
                raise ValueError
        except (OSError, ValueError, EOFError, KeyError) as error:
            raise missing(snapshot, name) from error
        self.shape: tuple[int, ...] = shape
        self._width = self.dtype.itemsize * int(np.prod(shape[1:]))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> npt.NDArray[Any]:
        start, stop, _ = rows.indices(len(self))
        size = max(0, stop - start) * self._width
        try:
            found = np.fromfile(self.path, np.uint8, size, offset=self._start + start * self._width)
        except OSError as error:
            raise missing(self._snapshot, self._name) from error
        if len(found) != size:
            raise missing(self._snapshot, self._name)
        return found.view(self.dtype).reshape(-1, *self.shape[1:])


def identity_columns(snapshot: Snapshot, namespace: str) -> dict[str, StoredColumn]:
    """Return one namespace's identities by the names of `IdentityRows.columns`; nothing where there are none."""
    files = snapshot.content.identities.get(namespace)
    if files is None:
        return {}
    names = {"rows": files.rows, "profiles": files.profiles, "sources": files.sources, "ranks": files.ranks}
    with_lengths = names if files.lengths is None else names | {"lengths": files.lengths}
    return {kind: StoredColumn(snapshot, name) for kind, name in with_lengths.items()}
