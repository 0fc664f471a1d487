"""From a Connect ID to a signed agreement: who may ask, and what both accept. No identity, count or segment name moves.

    requester -> accepter   Hello     proof of the Connect ID's secret
    accepter -> requester   Reply     the accepter's offer
    requester -> accepter   Request   the requester's offer and the merged agreement, signed
    accepter -> requester   Accept (countersigned) or Decline, as letters, when a person has decided

The accepter keeps no state between Hello and Request: the nonce of its offer follows from the secret and the Hello, so
it makes the offer again, and a changed term changes the digest.
"""

import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from psi.hashing import length_prefixed

from .agreement import Agreement, Offer
from .connectid import ConnectId
from .errors import RemoteProtocolError
from .wire import Digest, Id, Message, PublicKey, Signature, Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello(Message):
    """The requester's first message. Shows that it holds the secret of project `project`'s Connect ID."""

    TYPE: ClassVar[str] = "hello"
    key: PublicKey
    project: Id
    nonce: Digest
    proof: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply(Message):
    """The accepter's offer, with the proof that it holds the secret too."""

    TYPE: ClassVar[str] = "reply"
    offer: Offer
    proof: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(Message):
    """The requester's offer and the agreement that it makes with the accepter's, signed by the requester."""

    TYPE: ClassVar[str] = "request"
    hello: Hello
    offer: Offer
    agreement: Agreement
    signature: Signature
    proof: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Accept(Message):
    """The accepter's signature over the agreement with digest `agreement`."""

    TYPE: ClassVar[str] = "accept"
    agreement: Digest
    signature: Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Decline(Message):
    """The accepter's refusal of the agreement with digest `agreement`."""

    TYPE: ClassVar[str] = "decline"
    agreement: Digest
    reason: Text


def hello(connect_id: ConnectId, *, key: bytes, nonce: bytes) -> Hello:
    """Return the requester's first message; `key` is its own public key (32), `nonce` 32 fresh random bytes."""
    proof = _proof(connect_id.secret, b"hello", key, connect_id.key, nonce)
    return Hello(key=key, project=connect_id.project, nonce=nonce, proof=proof)


def check_hello(hello: Hello, *, key: bytes, secret: bytes) -> None:
    """Raise RemoteProtocolError unless the requester knows `secret`, the current one of its project, at node `key`."""
    _check(hello.proof, secret, b"hello", hello.key, key, hello.nonce)


def offer_nonce(hello: Hello, *, secret: bytes) -> bytes:
    """Return the nonce that the accepter's offer to this requester must carry (32 bytes)."""
    return _proof(secret, b"offer nonce", hello.key, hello.nonce)


def reply(hello: Hello, offer: Offer, *, secret: bytes) -> Reply:
    """Return the accepter's answer; `offer.nonce` must be `offer_nonce`."""
    return Reply(offer=offer, proof=_proof(secret, b"reply", hello.key, offer.key, hello.nonce, offer.digest()))


def check_reply(reply: Reply, hello: Hello, connect_id: ConnectId) -> Offer:
    """Return the accepter's offer. Raise RemoteProtocolError unless it is of the node and project of the Connect ID."""
    offer = reply.offer
    _check(reply.proof, connect_id.secret, b"reply", hello.key, connect_id.key, hello.nonce, offer.digest())
    if (offer.key, offer.project) != (connect_id.key, connect_id.project):
        raise RemoteProtocolError("agreement", "the offer is of another node or project than the Connect ID")
    return offer


def request(
    connect_id: ConnectId,
    hello: Hello,
    ours: Offer,
    theirs: Offer,
    *,
    connection: bytes,
    made: int,
    sign: Callable[[bytes], bytes],
) -> Request:
    """Return the request to connect; `connection` is a fresh random id (16), `made` Unix seconds."""
    agreement = Agreement.merge(ours, theirs, connection=connection, made=made)
    proof = _proof(connect_id.secret, b"request", hello.key, connect_id.key, hello.nonce, agreement.digest())
    return Request(hello=hello, offer=ours, agreement=agreement, signature=agreement.sign(sign), proof=proof)


def check_request(request: Request, ours: Offer, *, secret: bytes) -> Agreement:
    """Return the agreement if it is the one that follows from both offers and the requester signed it.

    `ours` is made again, with `offer_nonce(request.hello)`. Raise RemoteProtocolError with the code "agreement" if our
    terms changed since the reply: the requester has to ask again.
    """
    hello, agreement = request.hello, request.agreement
    check_hello(hello, key=ours.key, secret=secret)
    _check(request.proof, secret, b"request", hello.key, ours.key, hello.nonce, agreement.digest())
    if request.offer.key != hello.key or hello.project != ours.project:
        raise RemoteProtocolError("agreement", "the request is of another node or for another project than its hello")
    if agreement != Agreement.merge(request.offer, ours, connection=agreement.connection, made=agreement.made):
        raise RemoteProtocolError("agreement", "the request does not follow from our present offer")
    agreement.verify(request.signature, hello.key)
    return agreement


def accept(agreement: Agreement, *, sign: Callable[[bytes], bytes]) -> Accept:
    """Return the accepter's countersignature."""
    return Accept(agreement=agreement.digest(), signature=agreement.sign(sign))


def check_accept(accept: Accept, agreement: Agreement, *, keys: Sequence[bytes]) -> None:
    """Raise RemoteProtocolError unless the accepter, which has had these keys, countersigned this agreement."""
    if accept.agreement != agreement.digest():
        raise RemoteProtocolError("agreement", "the partner accepted another agreement than the one we signed")
    agreement.verify(accept.signature, *keys)


def _proof(secret: bytes, label: bytes, *parts: bytes) -> bytes:
    return hmac.new(secret, length_prefixed(b"vesica/1 connect " + label, *parts), hashlib.sha256).digest()


def _check(proof: bytes, secret: bytes, label: bytes, *parts: bytes) -> None:
    if not hmac.compare_digest(proof, _proof(secret, label, *parts)):
        raise RemoteProtocolError("connect_id_proof", "this Connect ID is not (or no longer) valid")
