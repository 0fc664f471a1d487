"""What a kind of destination, or a target, may be able to beside what each of them is: a protocol for each ability."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from ..access.scope import Scope
    from .kinds import Audience, Outcome, RequiredMapping, Settings, Target
    from .records import Destination


@runtime_checkable
class Signing(Protocol):
    """A kind whose messages are signed with the secret, and for a while with the one before it too."""

    signs: bool


@runtime_checkable
class Larger(Protocol):
    """A kind that takes more changes in one message than its limit, where that is set."""

    most: int


@runtime_checkable
class AskingForFields(Protocol):
    """A kind that asks for fields."""

    required_mappings: "Sequence[RequiredMapping]"


@runtime_checkable
class Closed(Protocol):
    """A kind that may take no fields but those that it asks for."""

    def required_mappings_only(self, settings: "Settings") -> bool: ...


@runtime_checkable
class Reserving(Protocol):
    """A kind with fields of its own: no mapped field may have their names."""

    reserved_fields: Sequence[str]


@runtime_checkable
class Masking(Protocol):
    """A kind of which people see settings without what may be a secret in them."""

    def shown(self, settings: "Settings") -> dict[str, str]: ...


@runtime_checkable
class FollowingNames(Protocol):
    """A kind whose messages may say by what stays which segment they are about, when it has another name."""

    def follows_names(self, settings: "Settings") -> bool: ...


@runtime_checkable
class KnowingProjects(Protocol):
    """A kind whose targets have to know the project, and are opened with it."""

    def open_of(self, scope: "Scope", destination: "Destination", secret: bytes | None) -> "Target": ...


@runtime_checkable
class AskingForSecrets(Protocol):
    """A kind that a secret may have to be given for."""

    def needs_secret(self, settings: "Settings") -> bool: ...


@runtime_checkable
class Polled(Protocol):
    """A target that is asked whether it is ready: Delivered once it is, Later while it is not."""

    def poll(self, handle: str, now: int) -> "Outcome": ...


@runtime_checkable
class WithAudiences(Protocol):
    """A target that has segments made, renamed and deleted; it returns how that went, and the id that it gives."""

    def audience(self, event: str, audience: "Audience", key: str, now: int) -> "tuple[Outcome, str | None]": ...


@runtime_checkable
class Retrying(Protocol):
    """A target whose messages are tried again another number of times than twice."""

    retries: int


@runtime_checkable
class NamingOthers(Protocol):
    """A target whose messages say for each identity in which other segments of the destination it is."""

    names_others: bool
