"""Identities as rows: sorted, joined, each once. Pure; files are read in snapshots.py and written in drafts.py."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from psi.join import arrange, order_of, prefixes
from psi.values import SLICE, U8, Bools, Indices, Values

from ..storage.files import let_go
from ..storage.sorted_files import texts

ProfileNumbers = npt.NDArray[np.uint32]  # profiles, by their dense numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityRows:
    """Identity rows as they are stored: which dataset gave each (`source`), and how early in its profile (`rank`)."""

    values: Values
    profiles: ProfileNumbers
    sources: npt.NDArray[np.uint16]
    ranks: npt.NDArray[np.uint16]

    @classmethod
    def none(cls) -> "IdentityRows":
        return cls(
            values=Values(np.zeros((0, 0), np.uint8)),
            profiles=np.zeros(0, np.uint32),
            sources=np.zeros(0, np.uint16),
            ranks=np.zeros(0, np.uint16),
        )

    def __len__(self) -> int:
        return len(self.profiles)

    def take(self, indices: Indices | Bools) -> "IdentityRows":
        return IdentityRows(
            values=self.values.take(indices),
            profiles=self.profiles[indices],
            sources=self.sources[indices],
            ranks=self.ranks[indices],
        )

    def part(self, rows: slice) -> "IdentityRows":
        """Return consecutive rows; they are not copied."""
        return IdentityRows(
            values=self.values.part(rows),
            profiles=self.profiles[rows],
            sources=self.sources[rows],
            ranks=self.ranks[rows],
        )

    def join(self, other: "IdentityRows") -> "IdentityRows":
        return IdentityRows(
            values=Values.join([self.values, other.values]),
            profiles=np.concatenate([self.profiles, other.profiles]),
            sources=np.concatenate([self.sources, other.sources]),
            ranks=np.concatenate([self.ranks, other.ranks]),
        )

    def sorted(self) -> "IdentityRows":
        """Return the rows in order of value, profile, source, each such triple once, with its lowest rank."""
        found = order_of(self.values, self.profiles, self.sources, self.ranks)
        return self.take(found[begins(self.values, self.profiles, self.sources, by=found)])

    def sort(self) -> "tuple[IdentityRows, Indices]":
        """Return what `sorted` does, and which rows are left out.

        The values are put in order where they are: nobody may use these rows any more.
        """
        found = order_of(self.values, self.profiles, self.sources, self.ranks)
        first = begins(self.values, self.profiles, self.sources, by=found)
        lengths = self.values.lengths
        arrange(self.values.rows, found)
        rows = IdentityRows(
            values=Values(self.values.rows, None if lengths is None else lengths[found]),
            profiles=self.profiles[found],
            sources=self.sources[found],
            ranks=self.ranks[found],
        )
        return (rows, found[:0]) if first.all() else (rows.take(first), found[~first])

    def alone(self) -> "IdentityRows":
        """Return the rows that are there once, of those of two tables: these the tables do not have in common."""
        found = order_of(self.values, self.profiles, self.sources, self.ranks)
        first = begins(self.values, self.profiles, self.sources, self.ranks, by=found)
        return self.take(found[first & np.append(first[1:], True)])

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays by the names that they have in a generation's files."""
        columns: dict[str, npt.NDArray[Any]] = {
            "rows": self.values.rows,
            "profiles": self.profiles,
            "sources": self.sources,
            "ranks": self.ranks,
        }
        return columns if self.values.lengths is None else columns | {"lengths": self.values.lengths}

    @classmethod
    def of_columns(cls, columns: Mapping[str, npt.NDArray[Any]]) -> "IdentityRows":
        """Return the rows of which `columns` gave the arrays."""
        values = Values(columns["rows"], columns.get("lengths"))
        return cls(values=values, profiles=columns["profiles"], sources=columns["sources"], ranks=columns["ranks"])

    def packed_as(self, other: "IdentityRows") -> "IdentityRows | None":
        """Return the same rows with values as wide as the other's; None where the other's are not wide enough."""
        missing = other.values.rows.shape[1] - self.values.rows.shape[1]
        if missing < 0 or (self.values.lengths is None) != (other.values.lengths is None):
            return None
        if missing and self.values.lengths is None:
            return None
        rows = np.pad(self.values.rows, ((0, 0), (0, missing))) if missing else self.values.rows
        return replace(self, values=Values(rows, self.values.lengths))

    def key(self, place: int) -> npt.NDArray[np.int64]:
        """Return a number per row that is lowest for a profile's primary identity; `place` is the namespace's."""
        rows = np.arange(len(self.profiles), dtype=np.int64)
        return (self.ranks.astype(np.int64) << 44) | (np.int64(place) << 36) | rows


def as_values(ids: npt.NDArray[np.bytes_]) -> Values:
    """Return ids as rows of their width, the unused bytes zero: these compare as the ids do."""
    return Values(np.ascontiguousarray(ids).view(np.uint8).reshape(len(ids), ids.dtype.itemsize))


def begins(values: Values, *columns: npt.NDArray[Any], by: Indices | None = None) -> Bools:
    """Return which rows, sorted by value or taken in the order `by`, differ from the row before."""
    first = np.ones(len(values), bool)
    same = _alike(values.rows) if by is None else _alike_by(values.rows, by)
    before, row = (same, same + 1) if by is None else (by[same], by[same + 1])
    equal = np.empty(len(row), np.bool_)
    for start in range(0, len(row), SLICE):
        one, other = (np.take(values.rows, each[start : start + SLICE], axis=0) for each in (row, before))
        equal[start : start + SLICE] = (one == other).all(axis=1)
        let_go(values.rows)
    for column in columns if values.lengths is None else (values.lengths, *columns):
        equal &= column[row] == column[before]
    first[same[equal] + 1] = False
    return first


def near(values: Values, keys: U8) -> Values:
    """Return those of sorted identities that lie between the first and the last of some sort keys, and few others."""
    if not len(values):
        return values
    rows, width = texts(values.rows), values.rows.shape[1]
    first, last = (np.array(key[:width].tobytes(), rows.dtype) for key in (keys[0], keys[-1]))
    return values.part(slice(int(np.searchsorted(rows, first)), int(np.searchsorted(rows, last, side="right"))))


def _alike(rows: U8) -> Indices:
    """Return the rows that begin as the next one does; rows of a mapped file do not stay in memory."""
    same = [np.empty(0, np.intp)]
    for start in range(0, len(rows), SLICE):
        part = prefixes(rows[start : start + SLICE + 1])
        same.append(start + np.flatnonzero(part[1:] == part[:-1]))
        let_go(rows)
    return np.concatenate(same)


def _alike_by(rows: U8, order: Indices) -> Indices:
    beginnings = prefixes(rows)[order]
    return np.flatnonzero(beginnings[1:] == beginnings[:-1])
