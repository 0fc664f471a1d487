"""What a node refuses, and what it could not do."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from protocol.errors import REMEDIES
from psi.errors import Remedy, VesicaError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def spaced(name: str) -> str:
    """Return the name of a class in words: "DatabaseError" is "database error"."""
    return re.sub("(?<=[a-z])(?=[A-Z])", " ", name).lower()


class Failure(VesicaError):
    """The base of what the machine could not do, as against what a rule refused: audited as fail, not as deny."""

    code = "failed"


class InvalidName(VesicaError):
    """A name with characters that names here may not have."""

    code = "invalid_name"


class InvalidInput(VesicaError):
    """A value, file or expression that cannot be used as it is."""

    code = "invalid_input"


class NotFound(VesicaError):
    """There is nothing of that name, or the caller may not see it."""

    code = "not_found"


class AlreadyExists(VesicaError):
    """There is something of that name already."""

    code = "already_exists"


class NotAllowed(VesicaError):
    """An act that a rule of this node forbids."""

    code = "refused"


class AddressNotAllowed(NotAllowed):
    """A partner's address leads into a network that no partner is in, such as this machine's own."""

    code = "address_not_allowed"


class NoHome(VesicaError):
    """There is no node in the directory."""

    code = "no_home"


class WrongPassphrase(VesicaError):
    """The keys of the home cannot be opened with the passphrase that was given, or without one."""

    code = "wrong_passphrase"


class TokenNeeded(NotAllowed):
    """The node has users, and nobody signed in."""

    code = "token_needed"


class NoCaller(Failure):
    """In a service, code that names no caller may do nothing: a fault of ours, not of who asked."""

    code = "no_caller"


class InvalidToken(NotAllowed):
    """A token that is unknown, revoked or expired."""

    code = "invalid_token"


class AuditBroken(VesicaError):
    """Rows of the audit log were changed, added or taken out."""

    code = "audit_broken"


class DiskFull(Failure):
    """There is no room left where the home is."""

    code = "disk_full"


class StoreUnavailable(Failure):
    """The database cannot be reached or used."""

    code = "store_unavailable"


class StoreBusy(Failure):
    """Another process kept the database locked for too long; nothing was changed."""

    code = "store_busy"


class PeerUnreachable(Failure):
    """The partner does not answer at its address."""

    code = "unreachable"


class WrongPeerKey(VesicaError):
    """What answers at the partner's address has another key than the pinned one."""

    code = "wrong_key"


class RefusedByPartner(VesicaError):
    """The partner understood and said no: `code` is its word for the reason.

    A partner sends words only, so the remedy is the one that this node knows for the code.
    """

    def __init__(self, code: str, message: str, *, status: int, hint: str = "", detail: int | None = None) -> None:
        super().__init__(message, hint=hint, remedy=REMEDIES.get(code))
        self.code = code
        self.status = status
        self.detail = detail


class UnknownCaller(VesicaError):
    """The caller is nobody we know, or not allowed here."""

    code = "unwelcome"


class RefusedToPartner(VesicaError):
    """A reason to refuse that is sent to a partner word for word: it has nothing of ours in it.

    A remedy is not sent: it is for our own user, where the same reason refuses an act of ours.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        hint: str = "",
        remedy: Remedy | None = None,
        status: int = 403,
        detail: int | None = None,
    ) -> None:
        super().__init__(message, hint=hint, remedy=remedy)
        self.code = code
        self.status = status
        self.detail = detail


class JobFailed(Failure):
    """A job that ended with an error somewhere else: it carries that error's document."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        remedy = Remedy.from_document(document["remedy"]) if "remedy" in document else None
        super().__init__(document.get("message", "the job failed"), hint=document.get("hint", ""), remedy=remedy)
        self.code = document.get("code", Failure.code)
        self._document = document

    def document(self) -> dict[str, Any]:
        return {**self._document, **super().document()}


def check_name(name: str, noun: str) -> str:
    """Return `name` if it is a legal name for a `noun` ("segment"), else raise InvalidName."""
    if not _NAME.fullmatch(name):
        raise InvalidName(
            f"{name[:80]!r} is not a {noun} name",
            hint="use 1 to 63 of a-z, 0-9, '.', '_' and '-', beginning with a letter or a digit",
        )
    return name


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the beginning of a hint that asks whether a known name was meant, "" where none is like it."""
    from difflib import get_close_matches

    found = get_close_matches(name[:200].lower(), by := {each.lower(): each for each in known}, n=1)
    return f"did you mean {by[found[0]]}? " if found else ""


def printable(text: str) -> str:
    """Return a partner's words without what could steer a terminal."""
    return "".join(each for each in text if each.isprintable())
