"""TLS 1.3 where the certificate's key is the node's key and the caller knows it already: no authority in between."""

import datetime
import hmac
import os
import secrets
import ssl
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import NameOID

from ..errors import InvalidInput
from ..homes import check_file

CERTIFICATE_SECONDS = 90 * 86_400  # nobody checks it, since the key is pinned; short, so that renewal is exercised
RENEW_SECONDS = CERTIFICATE_SECONDS // 3


class WrongKey(ssl.SSLCertVerificationError):
    """The peer's certificate has another key than the pinned one; raised before any request byte is sent."""


class _Deadline(threading.local):
    """Until when what a thread reads and writes over TLS must be done."""

    at = float("inf")


_deadline = _Deadline()


@contextmanager
def until(at: float) -> Iterator[None]:
    """Let every connection as a client fail in this thread with TimeoutError from a moment of the monotonic clock on.

    A timeout of one read is not enough: the other party could send a byte within each, for ever.
    """
    _deadline.at = at
    try:
        yield
    finally:
        _deadline.at = float("inf")


def seconds_left(most: float) -> float:
    """Return how many seconds are left to this thread, but no more than `most`."""
    return min(most, _deadline.at - time.monotonic())


class BoundedSocket(ssl.SSLSocket):
    """A connection whose reads and writes end with the deadline: the HTTP client sets a timeout before each."""

    def settimeout(self, value: float | None, /) -> None:
        left = seconds_left(float("inf") if value is None else value)
        if left <= 0 and value != 0:
            raise TimeoutError("the answer takes too long")
        super().settimeout(None if left == float("inf") else left)


def certificate(key: Ed25519PrivateKey, now: int) -> bytes:
    """Return a self-signed certificate of the node key (DER). Its names say nothing about the organisation."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vesica")])
    start = datetime.datetime.fromtimestamp(now - 86_400, datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(seconds=CERTIFICATE_SECONDS))
        .sign(key, None)
    )
    return built.public_bytes(serialization.Encoding.DER)


def server_context(key: Ed25519PrivateKey, now: int) -> ssl.SSLContext:
    """Return a TLS 1.3 server context with a fresh certificate of `key`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    renew(context, key, now)
    return context


def renew(context: ssl.SSLContext, key: Ed25519PrivateKey, now: int) -> None:
    """Put a fresh certificate into a context in use; connections made from now on see it."""
    password = secrets.token_bytes(32)  # `ssl` reads keys from files only: the file is encrypted, and gone at once
    pem = x509.load_der_x509_certificate(certificate(key, now)).public_bytes(serialization.Encoding.PEM)
    pem += key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password),
    )
    with tempfile.NamedTemporaryFile(delete=False) as file:
        file.write(pem)
    try:
        context.load_cert_chain(file.name, password=password)
    finally:
        os.unlink(file.name)


def client_context(pin: bytes) -> ssl.SSLContext:
    """Return a TLS 1.3 client context that completes a handshake only with the Ed25519 key `pin` (32 bytes).

    Raises `WrongKey` inside the handshake, so that the other party has not read a byte of any request.
    """

    def check(certificate: bytes | None) -> None:
        if not hmac.compare_digest(_public_key(certificate or b""), pin):
            # two arguments, as OpenSSL's own: one alone leaves errno empty and breaks callers
            raise WrongKey(1, "the certificate has another key than the pinned one")

    class PinnedSocket(BoundedSocket):
        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            check(self.getpeercert(binary_form=True))

    class PinnedObject(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            check(self.getpeercert(binary_form=True))

    context = unpinned_context()  # `check` is the verification
    context.sslsocket_class = PinnedSocket
    context.sslobject_class = PinnedObject
    return context


def unpinned_context() -> ssl.SSLContext:
    """Return a TLS 1.3 client context that completes a handshake with anybody.

    It is only for what proves itself: the signed changes of a key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.sslsocket_class = BoundedSocket
    return context


def web_context(authorities: str | None = None) -> ssl.SSLContext:
    """Return a client context for a web server, whose certificate the system's authorities vouch for, or those in a PEM
    file."""
    context = ssl.create_default_context(cafile=authorities)
    context.sslsocket_class = BoundedSocket
    return context


def trusting(authorities: str) -> ssl.SSLContext:
    """Return such a context for the authorities in a PEM file; raises InvalidInput where it has none."""
    try:
        return web_context(authorities)
    except OSError as error:  # ssl.SSLError is one
        raise InvalidInput(f"{authorities} has no certificates of authorities", hint="name a PEM file") from error


def checked_authorities(path: str) -> str:
    """Return the whole path of a PEM file of authorities; raises InvalidInput."""
    check_file(path)
    found = str(Path(path).absolute())
    trusting(found)
    return found


def _public_key(certificate: bytes) -> bytes:
    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
    except Exception:  # whatever a stranger's certificate does to the parser, it is not the pinned key
        return b""
    return key.public_bytes_raw() if isinstance(key, Ed25519PublicKey) else b""
