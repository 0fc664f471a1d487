"""Pinned TLS: the right key passes, any other is refused before the server has read a byte."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from node.transport import tls

NOW = 1_800_000_000


@contextmanager
def echo(context: ssl.SSLContext) -> Iterator[tuple[int, list[bytes]]]:
    """One connection's echo server: yields its port and what it has read."""
    read: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10)

        def answer() -> None:
            try:
                plain, _ = listening.accept()
                with plain, context.wrap_socket(plain, server_side=True) as secure:
                    read.append(secure.recv(100))
                    secure.sendall(read[-1])
            except OSError:
                pass

        thread = threading.Thread(target=answer)
        thread.start()
        yield listening.getsockname()[1], read
        thread.join(10)


def say(port: int, context: ssl.SSLContext) -> bytes:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        secure.sendall(b"hello")
        return secure.recv(100)


def public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def test_the_pinned_key_passes_also_after_a_renewal() -> None:
    key = Ed25519PrivateKey.generate()
    context = tls.server_context(key, NOW)
    for _ in range(2):
        with echo(context) as (port, _):
            assert say(port, tls.client_context(public(key))) == b"hello"
        tls.renew(context, key, NOW + tls.RENEW_SECONDS)


def test_another_key_is_refused_before_a_byte_is_read() -> None:
    context = tls.server_context(Ed25519PrivateKey.generate(), NOW)
    with echo(context) as (port, read), pytest.raises(tls.WrongKey):
        say(port, tls.client_context(public(Ed25519PrivateKey.generate())))
    assert read in ([], [b""])


def test_a_server_without_tls_1_3_is_refused() -> None:
    key = Ed25519PrivateKey.generate()
    context = tls.server_context(key, NOW)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with echo(context) as (port, read), pytest.raises(ssl.SSLError):
        say(port, tls.client_context(public(key)))
    assert read == []


def test_the_certificate_says_nothing_about_the_organisation() -> None:
    key = Ed25519PrivateKey.generate()
    certificate = x509.load_der_x509_certificate(tls.certificate(key, NOW))
    assert certificate.subject.rfc4514_string() == certificate.issuer.rfc4514_string() == "CN=vesica"
    assert certificate.not_valid_before_utc.timestamp() < NOW < certificate.not_valid_after_utc.timestamp()
