"""The seam: what is done with whole sets, whoever does it and wherever the sets lie.

Roles and nodes name what is to be done, and get places: rows in order, which are read some at a time and need not be in
memory. `psi.local.LocalEngine` works with the threads of one machine. Nothing above this module knows how an engine works.

    receiver                                        sender
    blind:  values -> sorted points       --->      evaluate: a chunk of points -> points and proof
    finish: evaluated chunks -> F         <---
    open:   records and F -> bitmaps      <---      seal: F and bitmaps -> records sorted by tag

    answerer                                        asker
    build_universe: values -> sorted points   --->  tag: a whole universe -> sorted tags
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from .keys import Key
from .values import U8, Bools, Indices, Rows, Values


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a place: its number of rows, the first and the last of them, and SHA-256 over all of their bytes."""

    rows: int
    first: bytes
    last: bytes
    sha256: bytes


class Place(Rows, Protocol):
    """Rows that an engine made, uint8 (n, width), in parts that follow one another. They last as long as the object."""

    @property
    def manifest(self) -> Sequence[Part]:
        """The parts, in order."""
        ...


class Gathered(Place, Protocol):
    """Rows that come some at a time, in order."""

    def append(self, rows: U8) -> None: ...


class Blinded(Protocol):
    """The blinded points of a receiver's values. Which of the values has which of them, the engine keeps to itself."""

    @property
    def points(self) -> Place:
        """The points, uint8 (n, 32), sorted by encoding."""
        ...


class Outputs(Protocol):
    """F of a receiver's values, uint8 (n, 64), in their order: made where some rows are asked for."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice | Indices | Bools, /) -> U8: ...


class Finishing(Protocol):
    """The way from evaluated points to F of a receiver's values."""

    def take(self, rows: slice, evaluated: U8, shown: bytes) -> None:
        """Take the next `rows` of the blinded points as they came back, and the proof of this chunk.

        Raises InvalidProof, InvalidPoint, WrongCount: where the engine looks at chunks later, `outputs` raises them.
        """
        ...

    def outputs(self) -> Outputs:
        """Return F, once all chunks were taken."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """The records of one data revision in one namespace, uint8 (n, 16 + width), sorted by tag."""

    records: Rows
    version: int
    revision: int


class Engine(Protocol):
    """What works on whole sets."""

    def gather(self, width: int, count: int) -> Gathered:
        """Return a place for about `count` rows that come some at a time, uint8 (n, width)."""
        ...

    def blind(self, context: bytes, values: Values, key: Key) -> Blinded:
        """Return the points of `oprf.blind`, sorted. Raises DuplicatePoint."""
        ...

    def evaluate(self, points: U8, key: Key, random: Callable[[int], bytes]) -> tuple[U8, bytes]:
        """Return point^key for each point of a chunk, and the proof of it. Raises InvalidPoint, DuplicatePoint."""
        ...

    def finish(self, context: bytes, values: Values, key: Key, blinded: Blinded, public: bytes) -> Finishing:
        """Begin to take the evaluated chunks of what `blind` made of the same values with the same key.

        `public` is the sender's key, which the proofs are about.
        """
        ...

    def seal(self, prf: Rows, bitmaps: U8, *, feed: bytes, version: int, revision: int) -> Place:
        """Return the records of `membership.seal`. Raises InvalidTags."""
        ...

    def open(
        self, revisions: Sequence[Revision], prf: Callable[[], Iterable[U8]], count: int, *, feed: bytes, width: int
    ) -> tuple[U8, Bools]:
        """Return the bitmap of each F(x), uint8 (n, width), and for which of them a record opened, bool (n,).

        The last revision with a record of an F(x) decides. `prf` gives the `count` rows of F in order, each time anew.
        Raises InvalidTags unless the records of each revision are sorted by tag and no tag occurs twice.
        """
        ...

    def build_universe(self, context: bytes, values: Values, key: Key, canaries: U8) -> Place:
        """Return the points of `count.build_universe`, sorted. Raises DuplicatePoint."""
        ...

    def tag(self, points: Rows, key: Key, tag_context: bytes) -> Place:
        """Return the tags of `count.ask_tags`, sorted. Raises InvalidPoint, DuplicatePoint."""
        ...


def blocks(rows: Rows, size: int) -> Iterator[U8]:
    """Yield rows some at a time, each once."""
    return (rows[start : start + size] for start in range(0, len(rows), size))
