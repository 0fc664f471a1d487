"""Who is in a received segment, who came lately, and who has left; and how that changes with each revision."""

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from ...people import audiences
from ...storage.tables import DAY

EXITED_DAYS = 30  # who left is listed for so long, then forgotten


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """Who is in a segment now, by profile number."""

    segment_id: str
    name: str
    members: BitMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Exits:
    """Profiles that left, and when."""

    profiles: npt.NDArray[np.uint32]
    at: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.profiles)

    def remembered(self, now: int) -> "Exits":
        """Return those who left in the last 30 days."""
        recent = self.at > now - EXITED_DAYS * DAY
        return Exits(profiles=self.profiles[recent], at=self.at[recent])


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Who of a segment's members came lately, and who has left.

    Who enters with a revision is realized until the next one comes. Who enters between two revisions, because our own
    people changed, is late: realized at once, and still realized after the next revision.
    """

    realized: BitMap
    late: BitMap
    exits: Exits

    def after_members(self, before: BitMap, members: BitMap, *, revised: bool, at: int, now: int) -> "Changes":
        """Return the changes once `before` has become `members`, by a new revision if `revised`; who left now left `at`."""
        new = members - before
        realized, late = (self.late | new, BitMap()) if revised else (self.realized | new, self.late | new)
        back = BitMap(self.exits.profiles) & members
        away = ~np.isin(self.exits.profiles, audiences.numbers(back))
        left = audiences.numbers(before - members)
        exits = Exits(
            profiles=np.concatenate([self.exits.profiles[away], left]),
            at=np.concatenate([self.exits.at[away], np.full(len(left), at)]),
        )
        return Changes(realized=realized & members, late=late & members, exits=exits.remembered(now))

    def without(self, profiles: BitMap) -> "Changes":
        """Return the changes as if profiles had never been in the segment."""
        kept = ~np.isin(self.exits.profiles, audiences.numbers(profiles))
        return Changes(
            realized=self.realized - profiles,
            late=self.late - profiles,
            exits=Exits(profiles=self.exits.profiles[kept], at=self.exits.at[kept]),
        )

    def equals(self, other: "Changes") -> bool:
        """Return whether both say the same."""
        same = np.array_equal(self.exits.profiles, other.exits.profiles) and np.array_equal(
            self.exits.at, other.exits.at
        )
        return same and (self.realized, self.late) == (other.realized, other.late)

    def packed(self) -> memoryview:
        """Return the content of the file that keeps the changes."""
        content = io.BytesIO()
        np.savez(
            content,
            realized=audiences.numbers(self.realized),
            late=audiences.numbers(self.late),
            exited=self.exits.profiles,
            exited_at=self.exits.at,
        )
        return content.getbuffer()

    @classmethod
    def unpack(cls, content: bytes) -> "Changes":
        """Return the changes that a file keeps."""
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            return cls(
                realized=BitMap(stored["realized"]),
                late=BitMap(stored["late"]),
                exits=Exits(
                    profiles=stored["exited"].astype(np.uint32, copy=False),
                    at=stored["exited_at"].astype(np.int64, copy=False),
                ),
            )


NO_CHANGES = Changes(
    realized=BitMap(), late=BitMap(), exits=Exits(profiles=np.empty(0, np.uint32), at=np.empty(0, np.int64))
)
