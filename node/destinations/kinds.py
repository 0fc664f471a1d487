"""What a kind of destination has to provide, and which kinds there are.

A kind keeps no state: what is at its target, what waits and what failed is known here. It says what it needs, puts a
batch into bytes, and sends them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Protocol

from psi.values import U8, Values

from ..errors import InvalidInput, nearest

if TYPE_CHECKING:
    from ..access.scope import Home

KINDS = {"file": "folders:FOLDER", "webhook": "webhooks:WEBHOOK"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One of the settings that a kind takes."""

    name: str
    text: str
    needed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one message says: `acts` has an Act for each identity, uint8 (n,). Nothing in it changes between attempts."""

    id: str
    at: int
    destination: str
    segment: str
    segment_id: str
    labels: tuple[str, ...]
    identity: str
    revision: int
    number: int
    values: Values
    acts: U8


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A body as it leaves. `id` and `body` are the same on each try, `now` is when this one begins."""

    id: str
    segment: str
    sequence: int  # counts up from one message to the next
    body: bytes = field(repr=False)
    now: int


@dataclass(frozen=True, slots=True)
class Delivered:
    """The target has it."""


@dataclass(frozen=True, slots=True)
class Later:
    """It may do another time, after so many seconds where the target said so."""

    code: str
    after: int | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """Trying again would end the same way."""

    code: str


@dataclass(frozen=True, slots=True)
class Gone:
    """The target wants nothing more from this destination, ever."""

    code: str = "gone"


Outcome = Delivered | Later | Refused | Gone


class Target(Protocol):
    """An open destination, used by one thread."""

    def check(self, now: int) -> Outcome:
        """Return how a message without a change would fare."""
        ...

    def encode(self, batch: Batch) -> bytes:
        """Return the body of a batch."""
        ...

    def send(self, message: Message) -> Outcome: ...
    def close(self) -> None: ...


Settings = Mapping[str, str]


class Kind(Protocol):
    """One kind of destination."""

    text: str
    settings: tuple[Setting, ...]
    limit: int  # changes in one message

    def checked(self, settings: Settings) -> dict[str, str]:
        """Return settings as they are kept; raises InvalidInput."""
        ...

    def secret(self, given: bytes | None, random: Callable[[int], bytes]) -> bytes | None:
        """Return the secret that the two ends share, a new one where none is given; None where the kind needs none."""
        ...

    def open(self, home: "Home", settings: Settings, secret: bytes | None) -> Target: ...


def kind(name: str) -> Kind:
    """Return a kind by name; raises InvalidInput."""
    if name not in KINDS:
        raise InvalidInput(
            f"there is no kind of destination {name[:40]!r}",
            hint=f"{nearest(name, KINDS)}the kinds are {', '.join(KINDS)}",
        )
    found: Kind = resolve_name(f"{__package__}.{KINDS[name]}")
    return found


def checked(name: str, settings: Settings) -> dict[str, str]:
    """Return settings of a kind as they are kept; raises InvalidInput for one that it does not have, or that it lacks."""
    known = {each.name: each for each in kind(name).settings}
    for given in settings:
        if given not in known:
            raise InvalidInput(
                f"a {name} destination has no setting {given[:40]!r}", hint=f"its settings are {', '.join(known)}"
            )
    for each in known.values():
        if each.needed and not settings.get(each.name):
            raise InvalidInput(f"a {name} destination needs the setting {each.name}", hint=each.text)
    return kind(name).checked(settings)
