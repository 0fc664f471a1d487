"""Kinds of destinations that other packages bring, by the entry point `vesica.destinations`: what one does wrong costs itself.

A plug-in runs in the node's process and may do what the node may: who installs the package decides that.
"""

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import InvalidInput, spaced
from .kinds import (
    Batch,
    Delivered,
    Gone,
    Kind,
    Later,
    Message,
    Outcome,
    Pending,
    Refused,
    RequiredMapping,
    Setting,
    Settings,
    Target,
    Unusable,
)

if TYPE_CHECKING:
    from ..access.scope import Home

GROUP = "vesica.destinations"
CODE = "plugin"
MOST_CHANGES = 100_000  # in one message, whatever a plug-in says
MOST_BYTES = 1 << 28  # of a body: what is sealed on disk for one message
LONGEST_CODE = 32  # characters, as the column has
T = TypeVar("T")
_LOADED: dict[str, "Plugin"] = {}


def names() -> list[str]:
    """Return the names of the kinds that other packages bring."""
    return sorted({each.name for each in entry_points(group=GROUP)})


def plugin(name: str) -> "Plugin":
    """Return a kind that another package brings; raises Unusable for one that does not work, or is not there."""
    if name not in _LOADED:
        found = next(iter(entry_points(group=GROUP, name=name)), None)
        if found is None:
            raise _broken(name, "no package brings it")
        _LOADED[name] = Plugin(name, _guarded(name, lambda: _loaded(found)))
    return _LOADED[name]


def _loaded(found: EntryPoint) -> Kind:
    kind: Kind = found.load()
    return kind


class Plugin:
    """A kind from another package. What it raises becomes Unusable, but for InvalidInput; what it returns is checked."""

    def __init__(self, name: str, kind: Kind) -> None:
        self._name, self._kind = name, kind
        self.text: str = _guarded(name, lambda: _checked(name, kind.text, str))
        self.settings: tuple[Setting, ...] = _guarded(name, lambda: tuple(kind.settings))
        limit: int = _guarded(name, lambda: _checked(name, kind.limit, int))
        if not all(isinstance(each, Setting) for each in self.settings) or limit < 1:
            raise _broken(name, "its settings or its limit are not what they have to be")
        self.limit = self.most = min(limit, MOST_CHANGES)
        self.signs = bool(getattr(kind, "signs", False))
        self.required_mappings = _tuple(name, kind, "required_mappings", RequiredMapping)
        self._closed = bool(getattr(kind, "required_mappings_only", False))
        self.reserved_fields = _tuple(name, kind, "reserved_fields", str)

    def required_mappings_only(self, settings: Settings) -> bool:
        return self._closed

    def checked(self, settings: Settings) -> dict[str, str]:
        kept = _guarded(self._name, lambda: dict(self._kind.checked(settings)))
        if not all(isinstance(each, str) for pair in kept.items() for each in pair):
            raise _broken(self._name, "it keeps settings that are no text")
        return kept

    def secret(self, given: bytes | None, random: Callable[[int], bytes]) -> bytes | None:
        shared = _guarded(self._name, lambda: self._kind.secret(given, random))
        return None if shared is None else _checked(self._name, shared, bytes)

    def open(self, home: "Home", settings: Settings, secret: bytes | None) -> Target:
        return PluginTarget(self._name, _guarded(self._name, lambda: self._kind.open(home, settings, secret)))


class PluginTarget:
    """An open destination of such a kind."""

    def __init__(self, name: str, target: Target) -> None:
        self._name, self._target = name, target

    def check(self, now: int) -> Outcome:
        return self._outcome(lambda: self._target.check(now))

    def encode(self, batch: Batch) -> bytes:
        body = _checked(self._name, _guarded(self._name, lambda: self._target.encode(batch)), bytes)
        if len(body) > MOST_BYTES:
            raise _broken(self._name, f"a message has more than {MOST_BYTES:,} bytes")
        return body

    def send(self, message: Message) -> Outcome:
        return self._outcome(lambda: self._target.send(message))

    def poll(self, handle: str, now: int) -> Outcome:
        return self._outcome(lambda: self._target.poll(handle, now))  # type: ignore[attr-defined]

    def close(self) -> None:
        _guarded(self._name, self._target.close)

    def _outcome(self, work: Callable[[], Outcome]) -> Outcome:
        try:
            outcome = _guarded(self._name, work)
        except (Unusable, InvalidInput):
            return Later(CODE)
        match outcome:
            case Pending(str()) | Delivered() if type(outcome) in (Pending, Delivered):
                return outcome
            case Later(str(code), None | int(), str()) | Refused(str(code), str()) | Gone(str(code), str()) if _is_code(
                code
            ):
                return outcome
            case _:
                return Later(CODE)


def _tuple(name: str, kind: Kind, attribute: str, of: type[T]) -> tuple[T, ...]:
    """Return what a plug-in may have, nothing where it has not."""
    return _guarded(name, lambda: tuple(_checked(name, each, of) for each in getattr(kind, attribute, ())))


def _is_code(code: str) -> bool:
    return 0 < len(code) <= LONGEST_CODE and code.isascii() and code.replace("_", "").isalnum()


def _guarded(name: str, work: Callable[[], T]) -> T:
    try:
        return work()
    except (InvalidInput, Unusable):
        raise
    except (Exception, SystemExit) as error:  # its text could have data in it
        raise _broken(name, spaced(type(error).__name__)) from None


def _checked(name: str, value: Any, kind: type[T]) -> T:
    if not isinstance(value, kind):
        raise _broken(name, f"{spaced(type(value).__name__)} where {kind.__name__} is needed")
    return value


def _broken(name: str, what: str) -> Unusable:
    return Unusable(
        CODE,
        f"the plug-in for {name[:40]} destinations does not work: {what}",
        hint="repair or remove its package, start the service again, then resume the destination",
    )
