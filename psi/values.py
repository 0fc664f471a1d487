"""Identities as whole-batch arrays: what crosses from the store into the curve."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Values:
    """Identities of one namespace: `rows` is uint8 (n, width), C-contiguous.

    `lengths` is None where every value fills its row; for custom namespaces it is uint8 (n,) and the bytes of a row past
    its length are zero. A value is `rows[i, :lengths[i]]`.
    """

    rows: U8
    lengths: U8 | None = None

    def __len__(self) -> int:
        return int(self.rows.shape[0])

    def __getitem__(self, index: int) -> bytes:
        row = self.rows[index]
        return bytes(row.tobytes() if self.lengths is None else row[: int(self.lengths[index])].tobytes())

    def take(self, indices: npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> "Values":
        """Return the values at `indices` (integers or a mask), in that order."""
        return Values(
            np.ascontiguousarray(self.rows[indices]), None if self.lengths is None else self.lengths[indices].copy()
        )

    @classmethod
    def of(cls, values: Sequence[bytes]) -> "Values":
        """Pack byte strings of at most 255 bytes; of one length they need no `lengths`."""
        widths = {len(value) for value in values}
        width = max(widths, default=0)
        rows = np.zeros((len(values), width), np.uint8)
        for row, value in zip(rows, values, strict=True):
            row[: len(value)] = np.frombuffer(value, np.uint8)
        if len(widths) <= 1:
            return cls(rows)
        return cls(rows, np.array([len(value) for value in values], np.uint8))
