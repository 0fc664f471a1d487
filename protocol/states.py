"""The order of messages, as tables. Nothing else in this package decides what may come when."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from . import messages as messages
from .errors import Malformed
from .wire import Id, Limit, Message, Namespace, Number, load


class Kind(StrEnum):
    """What an exchange is for."""

    COUNT = "count"  # how many people do both know
    EVALUATE = "evaluate"  # the receiver gets the sender's PRF of its own identities
    RELEASE = "release"  # the receiver learns which of its own profiles are in a feed's segments


class Part(StrEnum):
    """Who one side of an exchange is. Either part may be the HTTP client."""

    ASKER = "asker"
    ANSWERER = "answerer"
    SENDER = "sender"
    RECEIVER = "receiver"


@dataclass(frozen=True, slots=True)
class Step:
    """All chunks of one message. With `replies_to`, chunk i needs chunk i of that step, and nothing else of it."""

    name: str
    sender: Part
    message: type[Message]
    replies_to: str = ""


STEPS: dict[Kind, tuple[Step, ...]] = {
    Kind.COUNT: (
        Step("commitment", Part.ANSWERER, messages.SignedCommitment),
        Step("universe", Part.ANSWERER, messages.UniversePoints),
        Step("tags", Part.ASKER, messages.Tags),
        Step("questions", Part.ASKER, messages.Questions),
        Step("answer", Part.ANSWERER, messages.Answer),
    ),
    Kind.EVALUATE: (
        Step("key", Part.SENDER, messages.SignedKey),
        Step("blinded", Part.RECEIVER, messages.Blinded),
        Step("evaluated", Part.SENDER, messages.Evaluated, replies_to="blinded"),
    ),
    Kind.RELEASE: (
        Step("manifest", Part.SENDER, messages.Manifest),
        Step("records", Part.SENDER, messages.Records),
        Step("receipt", Part.RECEIVER, messages.ReceiverReceipt),
        Step("countersigned", Part.SENDER, messages.Countersigned),
    ),
}

PARTS: dict[Kind, tuple[Part, Part]] = {
    Kind.COUNT: (Part.ASKER, Part.ANSWERER),
    Kind.EVALUATE: (Part.SENDER, Part.RECEIVER),
    Kind.RELEASE: (Part.SENDER, Part.RECEIVER),
}

SUBJECTS: dict[Kind, dict[str, object]] = {  # what an opening says an exchange is about
    Kind.COUNT: {"namespace": Namespace},
    Kind.EVALUATE: {"namespace": Namespace},
    Kind.RELEASE: {"feed": Id, "version": Number, "revision": Number},
}

Subject = Annotated[
    dict[Annotated[str, Limit(1, 16)], Namespace | Id | Number],  # the fields of SUBJECTS[kind]
    Limit(1, 8),
]


def check_subject(kind: Kind, subject: dict[str, str | bytes | int]) -> None:
    """Raise Malformed unless `subject` has the fields of SUBJECTS[kind]."""
    if subject.keys() != SUBJECTS[kind].keys():
        raise Malformed(f"subject: expected {', '.join(SUBJECTS[kind])}")
    for name, hint in SUBJECTS[kind].items():
        load(hint, subject[name], f"subject.{name}")
