"""What can go wrong in Vesica, from the bottom up: every error says what happened and what to do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Remedy:
    """What to do about an error: an act of the product and its arguments, which each front end says in its own way."""

    act: str  # "feed.show", "consent.policy.delete": dotted, as the command groups have it
    arguments: Mapping[str, str | int | bool | Sequence[str]] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Return the remedy as JSON has it; `from_document` reads it again."""
        arguments = {
            name: value if isinstance(value, str | int) else list(value) for name, value in self.arguments.items()
        }
        return {"act": self.act, "arguments": arguments}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        return cls(document["act"], document["arguments"])


class VesicaError(Exception):
    """The base of every error that a user or a partner may see.

    `code` is a stable word for programs (the CLI's JSON, HTTP bodies). The text is for people and never has an
    identity or a secret. `hint` says in words what to do next; `remedy` is the act that does it, where there is one.
    """

    code = "error"

    def __init__(self, message: str, *, hint: str = "", remedy: Remedy | None = None) -> None:
        super().__init__(message)
        self.hint = hint
        self.remedy = remedy

    def document(self) -> dict[str, Any]:
        """Return the error as JSON has it; an error that has more to say to programs adds to it."""
        document: dict[str, Any] = {"code": self.code, "message": str(self), "hint": self.hint}
        if self.remedy is not None:
            document["remedy"] = self.remedy.document()
        return document


class UnknownKernel(VesicaError):
    """VESICA_KERNEL names a backend that this installation does not have, or that this processor cannot run."""

    code = "unknown_kernel"

    def __init__(self, wanted: str, available: list[str]) -> None:
        super().__init__(
            f"there is no kernel {wanted!r} here",
            hint=f"set VESICA_KERNEL to one of {', '.join(available)}, or not at all",
        )


class InvalidPoint(VesicaError):
    """An element of a batch that strict decoding refuses: `index` says which, `reason` why."""

    code = "invalid_point"

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(f"element {index} of the batch is refused: {reason}", hint=_FAULTY_SENDER)
        self.index = index
        self.reason = reason


class DuplicatePoint(VesicaError):
    """An element or identity that occurs twice in one batch: `index` is the later occurrence."""

    code = "duplicate_point"

    def __init__(self, index: int) -> None:
        super().__init__(
            f"element {index} of the batch repeats an earlier one",
            hint="a batch has each identity once: remove repetitions before blinding; a correct partner has done so",
        )
        self.index = index


class InvalidScalar(VesicaError):
    """A scalar outside 1 .. L-1, where L is the order of the group."""

    code = "invalid_scalar"


class InvalidProof(VesicaError):
    """A proof that does not show what it claims: another key was used, or another statement was signed."""

    code = "invalid_proof"

    def __init__(self, message: str) -> None:
        super().__init__(message, hint="the partner used another key than the one it committed to; nothing was stored")


class WrongCount(VesicaError):
    """A batch that has not as many rows as the array that goes with it, or more than are allowed."""

    code = "wrong_count"

    def __init__(self, what: str, *, expected: int, got: int) -> None:
        super().__init__(f"{what}: expected {expected}, got {got}", hint=_FAULTY_SENDER)
        self.expected = expected
        self.got = got


class InvalidTags(VesicaError):
    """A list of tags that an honest partner would not have sent."""

    code = "invalid_tags"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the tags are refused: {reason}", hint=_FAULTY_SENDER)
        self.reason = reason


_FAULTY_SENDER = "a correct node never sends this: ask the partner which software it runs, and keep the audit record"
