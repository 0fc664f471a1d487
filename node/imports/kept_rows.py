"""What the batches of a file give, put aside until all of it is read: this is most of what an import works with."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from psi.values import U8, Bools, Indices, Values

from ..compute.aside import Aside, KeptArrays
from ..inputs.normalise import Reason
from ..inputs.text_columns import pack, unpack

Numbers = npt.NDArray[np.int64]

REASON = 15  # of an outcome: the bits that say what became of an identity


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPart:
    """Rows that follow one another: the id, the line, the outcomes of each, uint8 (n, columns + 1): of each identity column,
    and last what it says about consent.

    `values` are for each identity column those of the rows that have one; `at` is int64 (n,) and `digests` uint8 (n, 16),
    or empty.
    """

    ids: npt.NDArray[np.bytes_]
    lines: Numbers
    outcomes: U8
    at: Numbers
    digests: U8
    values: Sequence[Values]
    texts: Mapping[str, list[str]]

    def having(self, column: int) -> Bools:
        """Return which rows have an identity in a column."""
        return having(self.outcomes, column)

    @classmethod
    def join(cls, parts: "Sequence[RowPart]") -> "RowPart":
        """Return the rows of all parts, of which there is at least one."""
        return cls(
            ids=np.concatenate([each.ids for each in parts]),
            lines=np.concatenate([each.lines for each in parts]),
            outcomes=np.concatenate([each.outcomes for each in parts]),
            at=np.concatenate([each.at for each in parts]),
            digests=np.concatenate([each.digests for each in parts]),
            values=[Values.join(column) for column in zip(*(each.values for each in parts), strict=True)],
            texts={name: [text for each in parts for text in each.texts[name]] for name in parts[0].texts},
        )

    def take(self, where: Indices) -> "RowPart":
        """Return some rows, in that order."""
        places = [np.cumsum(self.having(column)) - 1 for column in range(len(self.values))]
        return RowPart(
            ids=self.ids[where],
            lines=self.lines[where],
            outcomes=self.outcomes[where],
            at=self.at[where] if len(self.at) else self.at,
            digests=self.digests[where] if len(self.digests) == len(self.lines) else self.digests[:0],
            values=[
                values.take(place[where[self.having(column)[where]]])
                for column, (values, place) in enumerate(zip(self.values, places, strict=True))
            ],
            texts={name: [texts[row] for row in where.tolist()] for name, texts in self.texts.items()},
        )


def having(outcomes: U8, column: int) -> Bools:
    """Return which rows have an identity in a column, by their outcomes."""
    return np.asarray((outcomes[:, column] & np.uint8(REASON)) == Reason.KEPT, bool)


class KeptRows:
    """The rows of many batches, in the order of their lines."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._arrays = KeptArrays(Aside(folder))
        self._columns: tuple[int, list[str]] = 0, []  # of identities and of texts

    def __len__(self) -> int:
        return self._arrays.rows("lines")

    def append(self, part: RowPart) -> None:
        if not len(part.lines):
            return
        self._columns = len(part.values), list(part.texts)
        arrays: dict[str, npt.NDArray[Any]] = {
            "ids": part.ids,
            "lines": part.lines,
            "outcomes": part.outcomes,
            "at": part.at,
            "digests": part.digests,
        }
        for column, values in enumerate(part.values):
            arrays[f"rows {column}"] = values.rows
            if values.lengths is not None:
                arrays[f"lengths {column}"] = values.lengths
        for name, texts in part.texts.items():
            arrays[f"characters {name}"], arrays[f"text {name}"] = pack(texts)
        self._arrays.append(arrays)

    def parts(self, name: str) -> Iterator[npt.NDArray[Any]]:
        """Yield for each batch its "ids", "lines", "outcomes", "at" or "digests"."""
        return self._arrays.parts(name)

    def values(self, column: int) -> Iterator[Values]:
        """Yield for each batch the identities in a column."""
        return (self._values(batch, column) for batch in range(len(self._arrays)))

    def _values(self, batch: int, column: int) -> Values:
        lengths = f"lengths {column}"
        rows = self._arrays.get(batch, f"rows {column}")
        return Values(rows, self._arrays.get(batch, lengths) if self._arrays.has(batch, lengths) else None)

    def count(self, column: int) -> int:
        """Return how many identities there are in a column."""
        return self._arrays.rows(f"rows {column}")

    def texts(self) -> Iterator[dict[str, list[str]]]:
        """Yield for each batch the texts by attribute."""
        return map(self._texts, range(len(self._arrays)))

    def _texts(self, batch: int) -> dict[str, list[str]]:
        return {
            name: unpack(self._arrays.get(batch, f"characters {name}"), self._arrays.get(batch, f"text {name}"))
            for name in self._columns[1]
        }

    def _part(self, batch: int) -> RowPart:
        arrays = {name: self._arrays.get(batch, name) for name in ("ids", "lines", "outcomes", "at", "digests")}
        values = [self._values(batch, column) for column in range(self._columns[0])]
        return RowPart(**arrays, values=values, texts=self._texts(batch))

    def with_others(self, others: "KeptRows") -> "KeptRows":
        """Return the rows with those of others, which are few, between them."""
        if not len(others) or not len(self):
            return self if not len(others) else others
        left = RowPart.join([others._part(batch) for batch in range(len(others._arrays))])
        found, done = KeptRows(self._folder), 0
        for batch in range(len(self._arrays)):
            part = self._part(batch)
            last = batch + 1 == len(self._arrays)
            end = len(left.lines) if last else int(np.searchsorted(left.lines, self._arrays.get(batch + 1, "lines")[0]))
            if end > done:
                joined = RowPart.join([part, left.take(np.arange(done, end))])
                part, done = joined.take(np.argsort(joined.lines)), end
            found.append(part)
        return found
