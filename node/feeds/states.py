"""How far a feed of ours has come, and how far it has come with one partner: the words of rows, both read in many rooms."""

from enum import StrEnum


class FeedStatus(StrEnum):
    """How far one of our feeds has come."""

    DRAFT = "draft"
    PUBLISHED = "published"
    REVOKED = "revoked"


class RecipientStatus(StrEnum):
    """How far one of our feeds has come with one partner."""

    DRAFT = "draft"  # it will be offered when the feed is published
    PENDING = "pending"  # offered, and not answered yet
    ENABLED = "enabled"
    DISABLED = "disabled"  # paused by the partner
    DECLINED = "declined"
    REVOKED = "revoked"


LIVE = (RecipientStatus.PENDING, RecipientStatus.ENABLED, RecipientStatus.DISABLED)  # the partner has it or may take it
CURRENT = (RecipientStatus.DRAFT, *LIVE)  # the same, and who is to be offered it
