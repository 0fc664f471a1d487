"""A node's key replaced by another one: a statement that both keys sign, so that partners need no new connection."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

from .errors import Malformed
from .wire import Limit, Message, Moment, PublicKey, Signature

CHANGES_KEPT = 32  # which fit into the 16 KiB that a node takes from a key that it does not know


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyChange(Message):
    """The node with the key `old` has the key `new` from `made` on, in all its connections."""

    TYPE: ClassVar[str] = "key-change"
    old: PublicKey
    new: PublicKey
    made: Moment


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedKeyChange(Message):
    """A change of keys, signed by both: by the old one, so that it is the same node, by the new one, so that it has it."""

    TYPE: ClassVar[str] = "signed-key-change"
    change: KeyChange
    old_signature: Signature
    new_signature: Signature

    @classmethod
    def make(cls, change: KeyChange, *, old: Callable[[bytes], bytes], new: Callable[[bytes], bytes]) -> Self:
        """Return the change signed by `old` and `new`, which sign (Ed25519) what they are given."""
        return cls(change=change, old_signature=change.sign(old), new_signature=change.sign(new))

    def verify_both(self) -> None:
        """Raise RemoteProtocolError unless both keys signed it."""
        self.change.verify(self.old_signature, self.change.old)
        self.change.verify(self.new_signature, self.change.new)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyChanges(Message):
    """The changes of one node's key, oldest first, each from the key to which the one before led."""

    TYPE: ClassVar[str] = "key-changes"
    changes: Annotated[tuple[SignedKeyChange, ...], Limit(0, CHANGES_KEPT)] = ()

    def check(self) -> None:
        keys = self.keys
        if len(set(keys)) != len(keys) or keys[1:] != [each.change.new for each in self.changes]:
            raise Malformed("key-changes: not a chain")

    @property
    def keys(self) -> list[bytes]:
        """All keys, oldest first; empty where there is no change."""
        return [each.change.old for each in self.changes] + [each.change.new for each in self.changes[-1:]]

    def after(self, key: bytes) -> Self:
        """Return those that lead on from a key, none if it is not among the replaced ones."""
        olds = [each.change.old for each in self.changes]
        return type(self)(changes=self.changes[olds.index(key) :] if key in olds else ())

    def and_then(self, later: Self) -> Self:
        """Return these followed by later ones, the newest that may be kept."""
        return type(self)(changes=(*self.changes, *later.changes)[-CHANGES_KEPT:])
