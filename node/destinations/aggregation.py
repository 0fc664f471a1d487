"""When messages leave: as soon as they may, or once enough changes wait or the first of them has waited long enough."""

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import InvalidInput
from .kinds import Setting, Settings

AGES = (301, 3_600)  # seconds, as Adobe's configurable aggregation has them
SIZES = (1_000, 10_000)  # changes in a message
STATUS = "status"
SETTINGS = (
    Setting(
        name="max_users_per_request",
        text="how many people a message has at most, where each leaves as soon as it may",
        may_change=True,
    ),
    Setting(
        name="age", text=f"for how many seconds changes wait for others, {AGES[0]} to {AGES[1]:,}", may_change=True
    ),
    Setting(
        name="size", text=f"how many changes do not wait any longer, {SIZES[0]:,} to {SIZES[1]:,}", may_change=True
    ),
    Setting(name="group", text="status, for messages that have additions or removals alone", may_change=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregation:
    """How changes become messages: `limit` in each; with an `age`, fewer wait until the first has waited so many seconds."""

    limit: int
    age: int = 0
    by_status: bool = False

    @classmethod
    def of(cls, settings: Mapping[str, str], limit: int) -> "Aggregation":
        """Return what the settings of a destination say; `limit` is that of its kind."""
        size = settings.get("size") or settings.get("max_users_per_request") or limit
        return cls(limit=int(size), age=int(settings.get("age", 0)), by_status=settings.get("group") == STATUS)

    def until(self, noticed: int, count: int) -> int | None:
        """Return until when a message waits for more changes, None where it waits no longer."""
        return noticed + self.age if self.age and count < self.limit else None


def checked(settings: Settings, limit: int, most: int) -> dict[str, str]:
    """Return the settings of messages as they are kept; raises InvalidInput.

    `limit` is what the kind puts into a message, `most` what it may.
    """
    kept: dict[str, str] = {}
    if "age" in settings or "size" in settings:
        if "max_users_per_request" in settings:
            raise InvalidInput(
                "max_users_per_request is for messages that leave at once, age and size for those that wait",
                hint="leave out one of the two",
            )
        kept["age"] = _number("age", settings.get("age", str(AGES[1])), AGES)
        kept["size"] = _number("size", settings.get("size", str(min(SIZES[1], most))), (SIZES[0], min(SIZES[1], most)))
    elif "max_users_per_request" in settings:
        kept["max_users_per_request"] = _number(
            "max_users_per_request", settings["max_users_per_request"], (1, max(limit, most))
        )
    if "group" in settings:
        if settings["group"] != STATUS:
            raise InvalidInput(
                f"messages cannot be grouped by {settings['group'][:40]!r}", hint=f"write group={STATUS}"
            )
        kept["group"] = STATUS
    return kept


def _number(name: str, text: str, bounds: tuple[int, int]) -> str:
    low, high = bounds
    if not text.isascii() or not text.isdigit() or len(text) > 9 or not low <= int(text) <= high:
        raise InvalidInput(f"{name}={text[:20]} is out of bounds", hint=f"it is a number from {low:,} to {high:,}")
    return str(int(text))
