"""What a node refuses, and what it could not do."""

import re
from collections.abc import Mapping
from typing import Any

from psi.errors import VesicaError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def spaced(name: str) -> str:
    """Return the name of a class in words: "DatabaseError" is "database error"."""
    return re.sub("(?<=[a-z])(?=[A-Z])", " ", name).lower()


class Failure(VesicaError):
    """The base of what the machine could not do, as against what a rule refused: audited as fail, not as deny."""

    code = "failed"


class InvalidName(VesicaError):
    code = "invalid_name"


class InvalidInput(VesicaError):
    code = "invalid_input"


class NotFound(VesicaError):
    code = "not_found"


class AlreadyExists(VesicaError):
    code = "already_exists"


class Refused(VesicaError):
    """An act that a rule of this node forbids."""

    code = "refused"


class NoHome(VesicaError):
    code = "no_home"


class WrongPassphrase(VesicaError):
    code = "wrong_passphrase"


class TokenNeeded(Refused):
    """The node has users, and nobody signed in."""

    code = "token_needed"


class InvalidToken(Refused):
    code = "invalid_token"


class AuditBroken(VesicaError):
    code = "audit_broken"


class DiskFull(Failure):
    code = "disk_full"


class StoreUnavailable(Failure):
    code = "store_unavailable"


class StoreBusy(Failure):
    code = "store_busy"


class PeerUnreachable(Failure):
    code = "unreachable"


class WrongPeerKey(VesicaError):
    """Whoever answers at the partner's address holds another key than the pinned one."""

    code = "wrong_key"


class PeerRefused(VesicaError):
    """The partner understood and said no: `code` is its word for the reason."""

    def __init__(self, code: str, message: str, *, status: int, hint: str = "", detail: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.status = status
        self.detail = detail


class Unwelcome(VesicaError):
    """The caller is nobody we know, or not allowed here."""

    code = "unwelcome"


class Refusal(VesicaError):
    """What a partner is told, word for word: a reason to refuse that holds nothing of ours."""

    def __init__(
        self, code: str, message: str, *, hint: str = "", status: int = 403, detail: int | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.status = status
        self.detail = detail


class JobFailed(Failure):
    """A job that ended with an error somewhere else: it carries that error's document."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        super().__init__(document.get("message", "the job failed"), hint=document.get("hint", ""))
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


def printable(text: str) -> str:
    """Return a partner's words without what could steer a terminal."""
    return "".join(each for each in text if each.isprintable())
