"""The node's own keys on disk: an Ed25519 signing key, and a master key that wraps every other secret.

keys/master.key has the master key, as it is or under the passphrase in VESICA_PASSPHRASE (scrypt, ChaCha20-Poly1305).
keys/node.key has the Ed25519 seed and, once it has replaced another one, the signed changes of keys, all wrapped by the
master key: one file, so that a new key and the statement about it are there together or not at all. Nothing here is
ever part of a repr or an error.
"""

import hmac
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from ..errors import Failure, WrongPassphrase
from .files import write_atomically

if TYPE_CHECKING:  # its messages bring numpy, which most commands do without
    from protocol.keychange import KeyChanges, SignedKeyChange

_PLAIN = b"vesica/1 master plain\n"
_SCRYPT = b"vesica/1 master scrypt\n"
_SALT, _NONCE, _KEY = 16, 12, 32
_SCRYPT_COST = 1 << 16  # 64 MiB and about 0.2 s: once per process


class Keys:
    """One home's keys; unlocked at first use, so that what needs no secret asks for no passphrase."""

    def __init__(self, home: Path, random: Callable[[int], bytes] = os.urandom) -> None:
        self._directory = home / "keys"
        self._random = random

    def create(self) -> None:
        """Write both keys, wrapped if VESICA_PASSPHRASE is set. Keys that are there stay."""
        master = self._directory / "master.key"
        if not master.exists():
            write_atomically(master, self._under(_passphrase(), self._random(_KEY)))
        if not (self._directory / "node.key").exists():
            write_atomically(self._directory / "node.key", self.wrap(self._random(_KEY), b"node.key"))

    def wrap(self, secret: bytes, purpose: bytes = b"") -> bytes:
        """Encrypt a secret under the master key; only `unwrap` with the same purpose opens it."""
        return _seal(self._master, secret, b"vesica/1 wrap" + purpose, self._random)

    def unwrap(self, wrapped: bytes, purpose: bytes = b"") -> bytes:
        """Decrypt what `wrap` returned; raises Failure if it was changed or belongs to another home or purpose."""
        try:
            return _open(self._master, wrapped, b"vesica/1 wrap" + purpose)
        except InvalidTag as error:
            raise Failure(
                "a stored secret does not open with this home's master key",
                hint="restore keys/ and the database from the same backup",
            ) from error

    def derive(self, label: bytes) -> bytes:
        """Return a key of this home for one purpose, 32 bytes; `label` names it and its version."""
        return hmac.digest(self._master, label, "sha256")

    def sign(self, message: bytes) -> bytes:
        """Return the node's Ed25519 signature, 64 bytes."""
        return self.signing_key.sign(message)

    def rewrap(self, passphrase: bytes | None) -> None:
        """Put the master key under another passphrase, or none: after a kill the old one holds, or the new one.

        Raises WrongPassphrase where another process has put it under another one since.
        """
        write_atomically(self._directory / "master.key", self._under(passphrase, self._opened()))

    def replacement(self, made: int) -> "tuple[SignedKeyChange, Callable[[], None]]":
        """Return a new signing key's statement, which the old key signs too, and what puts both in force."""
        from protocol.keychange import KeyChange, KeyChanges, SignedKeyChange

        seed, old = self._random(_KEY), self.signing_key
        new = Ed25519PrivateKey.from_private_bytes(seed)
        change = KeyChange(old=self.public, new=new.public_key().public_bytes_raw(), made=made)
        signed = SignedKeyChange.make(change, old=old.sign, new=new.sign)
        changes = self.changes.and_then(KeyChanges(changes=(signed,)))

        def put_in_force() -> None:
            write_atomically(self._directory / "node.key", self.wrap(seed + changes.encode(), b"node.key"))
            self.__dict__.pop("_node", None)

        return signed, put_in_force

    @property
    def signing_key(self) -> Ed25519PrivateKey:
        return self._node[0]

    @property
    def public(self) -> bytes:
        """The node's public key, 32 bytes."""
        return self._node[1]

    @property
    def changes(self) -> "KeyChanges":
        """How the node came to its key."""
        return self._node[2]

    @property
    def publics(self) -> tuple[bytes, ...]:
        """All public keys that the node has had, the one of today last."""
        return (*self.changes.keys[:-1], self.public)

    @cached_property
    def _node(self) -> "tuple[Ed25519PrivateKey, bytes, KeyChanges]":
        from protocol.keychange import KeyChanges

        content = self.unwrap(_read(self._directory / "node.key"), b"node.key")
        key, changes = Ed25519PrivateKey.from_private_bytes(content[:_KEY]), content[_KEY:]
        return key, key.public_key().public_bytes_raw(), KeyChanges.decode(changes) if changes else KeyChanges()

    def _under(self, passphrase: bytes | None, key: bytes) -> bytes:
        """Return the content of master.key for a master key under a passphrase, or under none."""
        if passphrase is None:
            return _PLAIN + key
        salt = self._random(_SALT)
        return _SCRYPT + salt + _seal(_stretch(passphrase, salt), key, _SCRYPT, self._random)

    @cached_property
    def _master(self) -> bytes:
        return self._opened()

    def _opened(self) -> bytes:
        """Return the master key as VESICA_PASSPHRASE opens it now."""
        content = _read(self._directory / "master.key")
        if content.startswith(_PLAIN) and len(content) == len(_PLAIN) + _KEY:
            return content[len(_PLAIN) :]
        if not content.startswith(_SCRYPT):
            raise Failure("keys/master.key is damaged", hint="restore it from a backup")
        passphrase = _passphrase()
        if passphrase is None:
            raise WrongPassphrase("this home's keys are under a passphrase", hint="set VESICA_PASSPHRASE")
        salt, sealed = content[len(_SCRYPT) :][:_SALT], content[len(_SCRYPT) + _SALT :]
        try:
            return _open(_stretch(passphrase, salt), sealed, _SCRYPT)
        except InvalidTag as error:
            raise WrongPassphrase(
                "the passphrase does not open this home's keys", hint="check VESICA_PASSPHRASE"
            ) from error


def under_passphrase(home: Path) -> bool:
    """Return whether a home's keys are of no use without a passphrase."""
    return _read(home / "keys" / "master.key").startswith(_SCRYPT)


def _passphrase() -> bytes | None:
    return os.environb.get(b"VESICA_PASSPHRASE") or None


def _stretch(passphrase: bytes, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=_KEY, n=_SCRYPT_COST, r=8, p=1).derive(passphrase)


def _seal(key: bytes, secret: bytes, label: bytes, random: Callable[[int], bytes]) -> bytes:
    nonce = random(_NONCE)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, secret, label)


def _open(key: bytes, sealed: bytes, label: bytes) -> bytes:
    if len(sealed) < _NONCE + 16:
        raise InvalidTag
    return ChaCha20Poly1305(key).decrypt(sealed[:_NONCE], sealed[_NONCE:], label)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Failure(f"cannot read {path}: {error.strerror}", hint="restore it from a backup") from error
