"""Signed requests and responses: RFC 9421 with Ed25519, the same few components always, nothing the sender may choose.

A request covers @method, @path, @query, content-digest and vesica-to; a response covers @status, the request's @method,
@path and signature, content-digest and vesica-to. `vesica-to` names the key that the message is meant for.
"""

import base64
import datetime
import hashlib
import hmac
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from http_message_signatures import HTTPMessageSigner, HTTPMessageVerifier, HTTPSignatureKeyResolver, algorithms

from psi.errors import VesicaError

TAG = "vesica/1"
SKEW_SECONDS = 300  # clocks of two companies
AGE_SECONDS = 600  # of a request on its way, behind a slow proxy
REPLAYS = 200_000  # requests remembered: more than 200 requests a second over the whole age
REPLAYS_OF_STRANGERS = 10_000  # what they may ask changes nothing the second time
REQUEST = ("@method", "@path", "@query", "content-digest", "vesica-to")
RESPONSE = ("@status", '"@method";req', '"@path";req', '"signature";req', "content-digest", "vesica-to")
LABEL = "vesica"


def _form(components: tuple[str, ...]) -> re.Pattern[str]:
    """Return the one form that signature-input may have: these components and parameters, in this order, once."""
    covered = " ".join(name if name.startswith('"') else f'"{name}"' for name in components)
    parameters = r'created=[0-9]{1,12};keyid="[0-9a-f]{64}";alg="ed25519";nonce="[0-9a-f]{32}"'
    return re.compile(rf'{LABEL}=\({re.escape(covered)}\);{parameters};tag="{TAG}"', re.ASCII)


_REQUEST_INPUT, _RESPONSE_INPUT = _form(REQUEST), _form(RESPONSE)
_SIGNATURE = re.compile(rf"{LABEL}=:[A-Za-z0-9+/]{{86}}==:", re.ASCII)
_DIGEST = re.compile(r"sha-256=:[A-Za-z0-9+/]{43}=:", re.ASCII)


class Signer(Protocol):
    """The side that speaks: a node, or one side of an ad hoc session."""

    @property
    def key(self) -> bytes: ...
    def sign(self, message: bytes) -> bytes: ...
    def now(self) -> int: ...
    def random(self, size: int) -> bytes: ...


class BadSignature(VesicaError):
    """A request or response is not signed by the key that it names, or not for us, or not now."""

    code = "bad_signature"


class OtherKey(BadSignature):
    """An answer is signed by another key than the one that was asked."""


@dataclass(slots=True, kw_only=True)
class Request:
    """A request as its signature covers it."""

    method: str
    url: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Response:
    """An answer as its signature covers it, with the request that it answers."""

    status_code: int
    body: bytes
    request: Request
    headers: dict[str, str] = field(default_factory=dict)


def sign(message: Request | Response, signer: Signer, to: bytes) -> None:
    """Add vesica-to, content-digest, signature-input and signature to the headers of `message`."""
    message.headers["vesica-to"] = to.hex()
    http = HTTPMessageSigner(signature_algorithm=algorithms.ED25519)
    prepared = http.prepare(
        message,
        key_id=signer.key.hex(),
        created=datetime.datetime.fromtimestamp(signer.now(), datetime.UTC),
        nonce=signer.random(16).hex(),
        label=LABEL,
        tag=TAG,
        covered_component_ids=REQUEST if isinstance(message, Request) else RESPONSE,
        body=message.body,
    )
    http.apply(message, prepared, signer.sign(prepared.signature_base))


@dataclass(frozen=True, slots=True)
class Verified:
    """Who signed a message, with which nonce, and when by the signer's clock."""

    key: bytes
    nonce: str
    created: int = field(compare=False)


def verify(
    message: Request | Response, *, to: bytes, now: Callable[[], int], expected: bytes | None = None
) -> Verified:
    """Return who signed the head of `message` for `to`; with `expected`, only that key will do.

    Raises `BadSignature` with what failed. Its body need not have arrived: `check_body` compares it with the digest that
    is signed here.
    """
    _check_form(message)
    keys = _Keys(expected)
    verifier = _Verifier(signature_algorithm=algorithms.ED25519, key_resolver=keys)
    verifier.now = now
    try:
        results = verifier.verify(
            message,
            max_age=datetime.timedelta(seconds=AGE_SECONDS),
            expect_tag=TAG,
            require_components=REQUEST if isinstance(message, Request) else RESPONSE,
        )
    except BadSignature:
        raise
    except Exception as error:  # the library raises many kinds for hostile headers, often without a text
        if isinstance(error.__cause__, BadSignature):
            raise error.__cause__ from None
        raise BadSignature("the signature does not fit the message") from None
    if len(results) != 1 or keys.used is None or not results[0].nonce:
        raise BadSignature("one signature with a nonce is wanted")
    if message.headers.get("vesica-to") != to.hex():
        raise BadSignature("the message is signed for another recipient")
    return Verified(keys.used, results[0].nonce, int(results[0].parameters["created"]))


def check_body(message: Request | Response) -> None:
    """Raise `BadSignature` unless the body of a verified message has the digest that was signed."""
    signed = next(value for name, value in message.headers.items() if name.lower() == "content-digest")
    digest = base64.b64encode(hashlib.sha256(message.body).digest()).decode()
    if not hmac.compare_digest(signed, f"sha-256=:{digest}:"):
        raise BadSignature("the body is another one than was signed")


def _check_form(message: Request | Response) -> None:
    """Refuse what the signer is free to vary in RFC 9421 and not here, before anything is parsed."""
    found = {name.lower(): value for name, value in message.headers.items()}
    if len(found) != len(message.headers):
        raise BadSignature("a header is repeated")
    wanted = {
        "signature-input": _REQUEST_INPUT if isinstance(message, Request) else _RESPONSE_INPUT,
        "signature": _SIGNATURE,
        "content-digest": _DIGEST,
    }
    for name, form in wanted.items():
        if not form.fullmatch(found.get(name, "")):
            raise BadSignature(f"{name} is missing, or has another form than the protocol's")


class Replays:
    """Remembers the nonces of requests for as long as they could be valid, at most `most` of them.

    What came before it began is not remembered, so what was created long before is refused.
    """

    def __init__(self, now: Callable[[], int], most: int = REPLAYS) -> None:
        self._now, self._most = now, most
        self._began = now()
        self._seen: OrderedDict[Verified, int] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return how many requests are remembered."""
        with self._lock:
            return len(self._seen)

    def check(self, request: Verified) -> None:
        """Raise `BadSignature` if this very request has come before, or may have."""
        now = self._now()
        with self._lock:
            self._began = min(self._began, now)  # a clock that was ahead is put right
            if request.created < self._began - SKEW_SECONDS:
                raise BadSignature("this request may have been received before a restart")
            while self._seen and (
                len(self._seen) >= self._most or next(iter(self._seen.values())) < now - AGE_SECONDS - 2 * SKEW_SECONDS
            ):
                self._seen.popitem(last=False)
            if request in self._seen:
                raise BadSignature("this request was received before")
            self._seen[request] = now


class _Keys(HTTPSignatureKeyResolver):
    def __init__(self, expected: bytes | None) -> None:
        self.expected = expected
        self.used: bytes | None = None

    def resolve_public_key(self, key_id: str) -> Ed25519PublicKey:
        key = bytes.fromhex(key_id)
        if len(key) != 32 or key.hex() != key_id:
            raise BadSignature("the key id is not 64 lower-case hex digits")
        if self.expected is not None and key != self.expected:
            raise OtherKey("the message is signed by another key than the expected one")
        self.used = key
        return Ed25519PublicKey.from_public_bytes(key)


class _Verifier(HTTPMessageVerifier):
    """The library's verifier by an injected clock."""

    now: Callable[[], int]

    def validate_created_and_expires(self, sig_input: Any, max_age: datetime.timedelta | None = None) -> None:
        created = cast(object, sig_input.params.get("created"))
        if type(created) is not int:
            raise BadSignature("the signature has no time")
        if created > self.now() + SKEW_SECONDS:
            raise BadSignature("the signature is from the future: compare the clocks of both machines")
        if created < self.now() - AGE_SECONDS - SKEW_SECONDS:
            raise BadSignature("the signature is too old: compare the clocks of both machines")
