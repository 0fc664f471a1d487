"""What a feed is, as both sides store it: immutable versions with one digest."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from .errors import Malformed
from .wire import Id, Limit, Message, Moment, Name, Namespace, Short, Text

MAX_SEGMENTS = 512  # a record carries a bitmap of the feed's segments
MEMBERSHIP_DAYS, MAX_DAYS = 30, 3_650
MARKETING_USES = (  # the uses that a sender can forbid to the receiver
    "analytics",
    "combine-with-pii",
    "cross-site-targeting",
    "data-science",
    "email-targeting",
    "export-to-third-party",
    "onsite-advertising",
    "onsite-personalisation",
    "segment-match",
    "single-identity-personalisation",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRef(Message):
    """One segment of a feed. `labels` are the sender's usage labels on it; they travel."""

    TYPE: ClassVar[str] = ""
    id: Id
    name: Name
    labels: Annotated[tuple[Short, ...], Limit(0, 128)] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition(Message):
    """One version of a feed: what the receiver accepts, by digest.

    The position of a segment is its bit in every record. Members leave at `valid_until`, and when no run has confirmed
    them for `membership_days`.
    """

    TYPE: ClassVar[str] = "feed"
    feed: Id
    version: Annotated[int, Limit(1, 2**31 - 1)]
    name: Name
    description: Text
    segments: Annotated[tuple[SegmentRef, ...], Limit(0, MAX_SEGMENTS)]
    namespaces: Annotated[tuple[Namespace, ...], Limit(1, 64)]
    restricted_uses: Annotated[tuple[Short, ...], Limit(0, len(MARKETING_USES))]
    membership_days: Annotated[int, Limit(1, MAX_DAYS)] = MEMBERSHIP_DAYS
    valid_until: Moment | None = None
    created: Moment

    @property
    def width(self) -> int:
        """Bytes of a record's bitmap, at least 1."""
        return max(1, -(-len(self.segments) // 8))

    def check(self) -> None:
        for name, items in (
            ("segment ids", [segment.id for segment in self.segments]),
            ("segment names", [segment.name for segment in self.segments]),
            ("namespaces", self.namespaces),
            ("restricted uses", self.restricted_uses),
        ):
            if len(set(items)) != len(items):
                raise Malformed(f"feed: repeated {name}")
        if not set(self.restricted_uses) <= set(MARKETING_USES):
            raise Malformed("feed: a restricted use is not one of the ten marketing uses")
