"""A receiver of webhooks on loopback, for whoever has none yet: it takes what is signed, and notes who is in which segment.

Its folder gets its certificate, the secret that senders sign with, and a line of JSON for each message that was taken.
"""

import base64
import binascii
import datetime
import hmac
import ipaddress
import json
import os
import secrets
import ssl
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from . import output

CERTIFICATE, KEY, SECRET, LOG = "receiver.pem", "receiver.key", "secret", "received.jsonl"  # what the folder gets
PREFIX = "whsec_"
LARGEST = 64 << 20  # bytes of a message
FRESH_SECONDS = 300  # how far a message's time may be from ours
DAYS = 365  # of the certificate's life


class Received:
    """What has come; a message that comes twice is taken once."""

    def __init__(self, folder: Path) -> None:
        self._log, self._seen = folder / LOG, set[str]()
        self._members: dict[str, set[str]] = {}

    def take(self, message_id: str, body: bytes) -> list[str]:
        """Note a message; return in words who came into each segment and who left it."""
        if message_id in self._seen:
            return []
        data: dict[str, Any] = json.loads(body)["data"]
        changes: dict[str, dict[str, list[str]]] = {}
        for profile in data.get("profiles", ()):
            ids = [each["id"] for listed in profile["identityMap"].values() for each in listed]
            for act, keys in profile["segments"].items():
                for key in keys:
                    name = data["segments"][key]["name"]
                    changes.setdefault(name, {"add": [], "remove": []})[act] += ids
        with self._log.open("a") as log:
            log.write(f"{json.dumps(changes)}\n")
        self._seen.add(message_id)
        return [self._said(name, each["add"], each["remove"]) for name, each in changes.items()]

    def _said(self, name: str, add: list[str], remove: list[str]) -> str:
        there = self._members.setdefault(name, set())
        there |= {*add}
        there -= {*remove}
        return f"{name}: {len(add):,} came, {len(remove):,} left, {len(there):,} are there"


def members(folder: Path) -> dict[str, set[str]]:
    """Return who is in each segment after all that a receiver has noted in its folder."""
    found: dict[str, set[str]] = {}
    log = folder / LOG
    for line in log.read_text().splitlines() if log.exists() else ():
        for name, each in json.loads(line).items():
            found[name] = (found.get(name, set()) | {*each["add"]}) - {*each["remove"]}
    return found


def verified(headers: dict[str, str], body: bytes, key: bytes, now: float) -> bool:
    """Return whether a message is signed as Standard Webhooks says, now."""
    try:
        fresh = abs(int(headers["webhook-timestamp"]) - now) <= FRESH_SECONDS
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        digest = hmac.digest(key, signed, "sha256")
        given = [each.partition(",") for each in headers["webhook-signature"].split()]
        return fresh and any(
            version == "v1" and hmac.compare_digest(base64.b64decode(text), digest) for version, _, text in given
        )
    except (KeyError, ValueError, binascii.Error):
        return False


def write_certificate(
    chain: Path, key: Path, name: str = "localhost", addresses: Sequence[str] = ("127.0.0.1",)
) -> None:
    """Write a certificate for a name and addresses that is its own authority, and its key, as PEM files."""
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names: list[x509.GeneralName] = [x509.DNSName(name)]
    names += [x509.IPAddress(ipaddress.ip_address(each)) for each in addresses]
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    chain.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    form, secret = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    _write_secret(key, private.private_bytes(serialization.Encoding.PEM, form, secret))


def prepare(folder: Path) -> bytes:
    """Give a folder a certificate and a secret, unless they are there; return the secret's key."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / CERTIFICATE).exists():
        write_certificate(folder / CERTIFICATE, folder / KEY)
    if not (folder / SECRET).exists():
        _write_secret(folder / SECRET, (PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()).encode())
    return base64.b64decode((folder / SECRET).read_text().strip().removeprefix(PREFIX))


def serve(folder: Path, port: int = 0) -> None:
    """Print the address once it is bound, and take messages until the process ends."""
    key, received, lock = prepare(folder), Received(folder), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            size = self.headers.get("content-length", "")
            body = self.rfile.read(int(size)) if size.isdigit() and int(size) <= LARGEST else b""
            status = 401
            if verified({name.lower(): value for name, value in self.headers.items()}, body, key, time.time()):
                try:
                    with lock:
                        said = received.take(self.headers["webhook-id"], body)
                    status = 204
                    for line in said:
                        output.echo(line)
                except (KeyError, ValueError, TypeError, AttributeError):
                    status = 400
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / CERTIFICATE, folder / KEY)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    output.echo(f"https://localhost:{server.server_port}/")
    server.serve_forever()


def _write_secret(path: Path, content: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
