"""Heads of audit logs: each side keeps some of the other's, so that nobody can rewrite a log unnoticed."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from .wire import Digest, Id, Limit, Message, Moment, Number, Signature

HEADS_KEPT = 32  # of one log: the first of each day and the newest, so a month


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditHead(Message):
    """The newest row of a node's audit log at the time `made`: its number, which shows how many rows there are, and its
    digest (`row`), which shows nothing."""

    TYPE: ClassVar[str] = "audit-head"
    connection: Id
    number: Number
    row: Digest
    made: Moment


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedHead(Message):
    """A head, signed by the node whose log it is: the node that keeps it cannot make up another one."""

    TYPE: ClassVar[str] = "signed-head"
    head: AuditHead
    signature: Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptHeads(Message):
    """The heads of the other side's log that a node keeps, newest first."""

    TYPE: ClassVar[str] = "held-heads"
    connection: Id
    heads: Annotated[tuple[SignedHead, ...], Limit(1, HEADS_KEPT)]
    made: Moment


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedHeads(Message):
    """Kept heads, signed by the node that keeps them."""

    TYPE: ClassVar[str] = "signed-heads"
    held: KeptHeads
    signature: Signature
