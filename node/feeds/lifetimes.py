"""How long memberships last: until the feed's end, and for so many days without a run that confirms them.

Both sides decide it by the definition and the clock alone.
"""

from protocol.feed import MAX_DAYS, Definition

from ..errors import InvalidInput
from ..storage.tables import DAY


def check(membership_days: int, valid_until: int | None, now: int) -> None:
    """Raise InvalidInput where a feed could have no members."""
    if not 1 <= membership_days <= MAX_DAYS:
        raise InvalidInput(f"members stay 1 to {MAX_DAYS:,} days without a run", hint="such as 30")
    if valid_until is not None and valid_until <= now:
        raise InvalidInput("the feed would have ended already", hint="give a day to come, such as 2030-12-31")


def ends(definition: Definition, refreshed: int) -> int:
    """Return when memberships end, unless a run confirms them before."""
    unconfirmed = refreshed + definition.membership_days * DAY
    return unconfirmed if definition.valid_until is None else min(unconfirmed, definition.valid_until)


def ended(definition: Definition, refreshed: int, now: int) -> str | None:
    """Return why memberships have ended, None while they last."""
    if definition.valid_until is not None and now >= definition.valid_until:
        return "the feed was valid until then"
    if now >= ends(definition, refreshed):
        return f"no run confirmed them for {definition.membership_days} days"
    return None
