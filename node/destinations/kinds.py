"""What a kind of destination has to provide, and which kinds there are.

A kind keeps no state: what is at its target, what waits and what failed is known here. It says what it needs, puts a
batch into bytes, and sends them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pkgutil import resolve_name
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from psi.errors import Remedy
from psi.values import U8, Values

from ..errors import Failure, InvalidInput, nearest
from ..storage.records import Document, Documents
from . import abilities

if TYPE_CHECKING:
    from ..access.scope import Home, Scope
    from .records import Destination

KINDS = {  # a plug-in takes none of these names
    "audience-manager": "targets.audience_manager:AUDIENCE_MANAGER",
    "command": "targets.commands:COMMAND",
    "experience-cloud": "targets.experience_cloud:EXPERIENCE_CLOUD",
    "file": "targets.folders:FOLDER",
    "objectstore": "targets.object_stores:OBJECT_STORE",
    "table": "targets.database_tables:TABLE",
    "webhook": "targets.webhooks:WEBHOOK",
}

FORMS = {("webhook", "audience-manager"): "targets.real_time:form"}
"""By kind and its setting `form`: what returns the kind that a destination with these settings is of."""

LONGEST_AUDIENCE_ID = 255  # characters of what a target calls a segment
BY_PRIMARY = {"audience-manager", "experience-cloud"}  # these get people by their primary identities
ADMINISTERED = {"command"}  # an administrator of the node alone makes these: they run programs on its machine


Settings = Mapping[str, str]


class Unusable(Failure):
    """A kind of destination cannot work here: a package is missing, or a plug-in is broken; `reason` is the code of that."""

    code = "kind_unusable"

    def __init__(self, reason: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class NotEncoded(Exception):
    """A batch that cannot be put into bytes, which costs itself: `code` says why, `hint` what to do."""

    def __init__(self, code: str, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.code, self.hint = code, hint


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One of the settings that a kind takes. One that `may_change` says neither where the target is, nor what it calls
    things; one that is `sealed` may have a token in it, and is wrapped where it is kept."""

    name: str
    text: str
    needed: bool = False
    may_change: bool = False
    sealed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RequiredMapping:
    """A field that a kind asks for: from one attribute where it names a `source`, else from the one that a person chooses.

    A `mandatory` field has to be mapped, and who has nothing in it does not leave. So has the `primary_key`, under which the
    target knows people.
    """

    destination: str
    source: str = ""
    mandatory: bool = False
    primary_key: bool = False

    def __post_init__(self) -> None:
        if not self.destination:
            raise InvalidInput("a required mapping names no field of the target", hint="give it a destination")

    @property
    def needed(self) -> bool:
        return self.mandatory or self.primary_key


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one message says: `acts` has an Act for each identity, uint8 (n,). Nothing in it changes between attempts.

    `attributes` has by field a text for each identity, None where there is nothing to say: of who leaves there never is.
    """

    id: str
    at: int
    destination: str
    segment: str
    segment_id: str
    labels: tuple[str, ...]
    identity: str
    revision: int
    number: int
    sequence: int  # counts up from one message of the destination to the next
    values: Values
    acts: U8
    attributes: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    external_id: str | None = None  # what the target calls the segment
    first: bool = False  # nothing was said of the segment before, so it is whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A body as it leaves. `id` and `body` are the same on each try, `now` is when this one begins."""

    id: str
    segment: str
    sequence: int  # as that of its batch
    body: bytes = field(repr=False)
    now: int
    others: Sequence[Sequence[tuple[str, int]]] = ()  # as Target has them


@dataclass(frozen=True, slots=True, kw_only=True)
class Audience:
    """A segment as a call names it: `alias` is what the target calls it, "" before that is known."""

    id: str
    name: str
    alias: str
    settings: Settings = field(repr=False)
    labels: tuple[str, ...] = ()

    def value(self, macro: str) -> str:
        noun, _, name = macro.partition(".")
        return self.settings.get(name, "") if noun == "customerData" else str(getattr(self, name))


@dataclass(frozen=True, slots=True)
class Delivered:
    """The target has it."""


@dataclass(frozen=True, slots=True)
class Pending(Delivered):
    """The target has it, and works on it: `poll` of the target takes the handle, and says when it is ready."""

    handle: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Later:
    """It may do another time, after so many seconds where the target said so; `setup` is as in Refused."""

    code: str
    after: int | None = None
    answer: str = field(default="", compare=False, repr=False)
    setup: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Refused:
    """Trying again would end the same way; `answer` is what the target said, of which the beginning is kept.

    `setup` is whether every message may end so, as with a wrong password: where the target's check does too, the
    destination is disabled, and nothing has failed.
    """

    code: str
    answer: str = field(default="", compare=False, repr=False)
    setup: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Gone:
    """The target wants nothing more from this destination, ever."""

    code: str = "gone"
    answer: str = field(default="", compare=False, repr=False)


Outcome = Delivered | Later | Refused | Gone


class Target(Protocol):
    """An open destination, used by one thread.

    One that returns Pending is Polled too; abilities.py has what else a target may be.
    """

    def check(self, now: int) -> Outcome:
        """Return how a message without a change would fare."""
        ...

    def encode(self, batch: Batch) -> bytes:
        """Return the body of a batch; raises NotEncoded where there is none."""
        ...

    def send(self, message: Message) -> Outcome: ...
    def close(self) -> None: ...


class Kind(Protocol):
    """One kind of destination.

    abilities.py has what else a kind may be.
    """

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


def names() -> list[str]:
    """Return the names of all kinds: ours, then those of plug-ins."""
    from . import plugins

    return [*KINDS, *(each for each in plugins.names() if each not in KINDS)]


def kind(name: str, settings: Settings = MappingProxyType({})) -> Kind:
    """Return a kind by name, in the form that settings ask for; raises Unusable for a plug-in that is broken or not
    installed."""
    if (name, settings.get("form")) in FORMS:
        formed: Kind = resolve_name(f"{__package__}.{FORMS[name, settings['form']]}")(settings)
        return formed
    if name in KINDS:
        found: Kind = resolve_name(f"{__package__}.{KINDS[name]}")
        return found
    from . import plugins

    return plugins.plugin(name)


def opened(scope: "Scope", destination: "Destination", secret: bytes | None) -> Target:
    """Open a destination."""
    found = kind(destination.kind, destination.settings)
    if destination.kind in KINDS and isinstance(found, abilities.KnowingProjects):
        return found.open_of(scope, destination, secret)
    return found.open(scope.home, destination.settings, secret)


def checked_secret(scope: "Scope", name: str, settings: Settings, given: bytes | None) -> bytes | None:
    """Return the secret of a new destination with checked settings; raises InvalidInput where one has to be given."""
    found = kind(name, settings)
    asks = name in KINDS and isinstance(found, abilities.AskingForSecrets) and found.needs_secret(settings)
    if given is None and asks:
        raise InvalidInput("the other node asks for a token", hint="hand over a file with the token of a user there")
    return found.secret(given, scope.home.random)


def described() -> Documents:
    """Return each kind with its settings; of a plug-in that does not work, why."""
    return [_described(name) for name in names()]


def _described(name: str) -> Document:
    try:
        found = kind(name)
    except Unusable as error:
        return {"kind": name, "text": str(error), "settings": []}
    settings = [{"name": each.name, "needed": each.needed, "text": each.text} for each in found.settings]
    for kind_name, form in FORMS:
        known = {each["name"] for each in settings}
        own = kind(name, {"form": form}).settings if kind_name == name else ()
        more = (each for each in own if each.name not in known)
        settings += [{"name": each.name, "needed": False, "text": f"for form={form}: {each.text}"} for each in more]
    return {"kind": name, "text": found.text, "settings": settings}


def checked(name: str, settings: Settings) -> dict[str, str]:
    """Return settings of a kind as they are kept; raises InvalidInput for one that it does not have, or that it lacks."""
    if name not in KINDS and name not in names():
        raise InvalidInput(
            f"there is no kind of destination {name[:40]!r}",
            hint=f"{nearest(name, names())}the kinds are {', '.join(names())}",
        )
    from . import aggregation

    found = kind(name, settings)
    own = {each.name: each for each in found.settings}
    known = {each.name: each for each in aggregation.SETTINGS} | own
    for given in settings:
        if given not in known:
            raise InvalidInput(
                f"a destination of kind {name} has no setting {given[:40]!r}",
                hint=f"its settings are {', '.join(known)}",
            )
    for each in known.values():
        if each.needed and not settings.get(each.name):
            raise InvalidInput(f"a destination of kind {name} needs the setting {each.name}", hint=each.text)
    common = {each: text for each, text in settings.items() if each not in own}
    return found.checked(settings) | aggregation.checked(
        common, found.limit, found.most if isinstance(found, abilities.Larger) else found.limit
    )


def changed(name: str, kept: Settings, given: Settings) -> dict[str, str]:
    """Return the kept settings of a kind with others in their place; an empty one goes. Raises InvalidInput for one that
    cannot change."""
    from . import aggregation

    known = {each.name: each for each in (*aggregation.SETTINGS, *kind(name, kept).settings)}
    for each in given:
        if each in known and not known[each].may_change:
            raise InvalidInput(
                f"the setting {each} cannot be changed: who is at the target is known under it",
                hint="make another destination, and delete this one",
                remedy=Remedy("destination.create"),
            )
    return checked(name, {each: text for each, text in {**kept, **given}.items() if text})


def sealed(name: str, settings: Settings) -> list[str]:
    """Return the names of the settings of a kind that are kept wrapped."""
    return [each.name for each in kind(name, settings).settings if each.sealed]


def shown(name: str, settings: Settings) -> dict[str, str]:
    """Return settings as people see them: a kind of ours may hide what may be a secret in one of them."""
    found = kind(name, settings) if name in KINDS else None
    return found.shown(settings) if isinstance(found, abilities.Masking) else dict(settings)


def required_mappings(name: str, settings: Settings) -> tuple[RequiredMapping, ...]:
    """Return the fields that a kind asks for, and those that its setting `required` names."""
    found = kind(name, settings)
    own = tuple(found.required_mappings) if isinstance(found, abilities.AskingForFields) else ()
    known = {each.destination for each in own}
    named = filter(None, settings.get("required", "").split(","))
    return own + tuple(RequiredMapping(destination=each, mandatory=True) for each in named if each not in known)


def required_mappings_only(name: str, settings: Settings) -> bool:
    """Return whether a kind takes no fields but those that it asks for."""
    found = kind(name, settings)
    return isinstance(found, abilities.Closed) and found.required_mappings_only(settings)


def reserved_fields(name: str) -> Sequence[str]:
    """Return the names that no mapped field of a kind may have."""
    found = kind(name)
    return found.reserved_fields if isinstance(found, abilities.Reserving) else ()


def follows_names(name: str, settings: Settings) -> bool:
    """Return whether messages of a kind say by what stays which segment they are about, when it has another name."""
    found = kind(name, settings) if name in KINDS else None
    return isinstance(found, abilities.FollowingNames) and found.follows_names(settings)
