"""What stands at the other end of a destination in tests: folders that are read, and HTTPS servers."""

import csv
import datetime
import ipaddress
import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import killer
from clock import Clock
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from node.imports.identity_columns import IdentityColumn
from node.node import Node
from node.project import Project

RECEIVER = str(Path(__file__).with_name("webhook_receiver.py"))


@dataclass(frozen=True, slots=True)
class Certificate:
    """The PEM files of a server on loopback whose certificate is its own authority."""

    chain: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.chain, self.key)
        return context


def certificate(folder: Path, name: str = "localhost") -> Certificate:
    """Write a certificate for `name`, and for 127.0.0.1 if that is localhost."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names: list[x509.GeneralName] = [x509.DNSName(name)]
    if name == "localhost":
        names.append(x509.IPAddress(ipaddress.IPv4Address("127.0.0.1")))
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    found = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    found.chain.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    found.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return found


def people(project: Project, folder: Path, count: int, dataset: str = "crm") -> None:
    """Import people p0, p1, ... with an e-mail each; `orders` of p0 is 0, of p1 is 1, and so on."""
    file = folder / f"{dataset}.csv"
    file.write_text("id,orders,email\n" + "".join(f"p{n},{n},p{n}@x.com\n" for n in range(count)))
    email = IdentityColumn.parse("email=email_sha256:raw")
    project.profiles.import_(file, dataset=dataset, id_column="id", identities=[email], attributes=["orders"])


class Folder:
    """A receiver that reads the files of a folder in order of their names, and each name once."""

    def __init__(self, path: Path) -> None:
        path.mkdir(exist_ok=True)
        self.path, self.read, self.members = path, set[str](), set[str]()
        self.changes: list[tuple[str, str]] = []  # all that was ever said, as it came

    def look(self) -> set[str]:
        """Return who is a member of any segment after all files that are there."""
        for file in sorted(self.path.iterdir()):
            if file.name not in self.read and not file.name.startswith("."):
                self.read.add(file.name)
                for row in _rows(file):
                    self.changes.append((row["status"], row["identity"]))
                    if row["status"] == "realized":
                        self.members.add(row["identity"])
                    else:
                        self.members.discard(row["identity"])
        return set(self.members)


def _rows(file: Path) -> list[dict[str, str]]:
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text().splitlines()]
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


class Receiver:
    """A webhook's receiver in a process of its own, which verifies what comes by the library of the specification."""

    def __init__(self, log: Path, address: str) -> None:
        self._log, self.url = log, f"https://{address}/hook"

    def bodies(self) -> dict[str, list[dict[str, object]]]:
        """Return what was accepted: by message id, each body that came under it."""
        found: dict[str, list[dict[str, object]]] = {}
        for line in self._log.read_text().splitlines() if self._log.exists() else ():
            entry = json.loads(line)
            found.setdefault(entry["id"], []).append(json.loads(entry["body"]))
        return found


@contextmanager
def receiver(folder: Path, made: Certificate, secret: str) -> Iterator[Receiver]:
    log = folder / "received.jsonl"
    process = subprocess.Popen(
        [sys.executable, RECEIVER, str(made.chain), str(made.key), str(log)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{secret}\n")
    process.stdin.flush()
    try:
        yield Receiver(log, process.stdout.readline().strip())
    finally:
        process.terminate()
        process.communicate()


Script = Callable[[socket.socket], None]  # what a server does with a connection after the head of a request


@contextmanager
def scripted(made: Certificate, script: Script) -> Iterator[str]:
    """Serve HTTPS by hand, one connection after the other; yield the URL."""
    listening = socket.create_server(("127.0.0.1", 0))
    context = made.context()

    def serve() -> None:
        while True:
            try:
                plain, _ = listening.accept()
            except OSError:
                return
            with suppress(OSError), context.wrap_socket(plain, server_side=True) as connection:
                read = b""
                while b"\r\n\r\n" not in read and (piece := connection.recv(65_536)):
                    read += piece
                script(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"https://localhost:{listening.getsockname()[1]}/hook"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(10)


def activate(project: Project) -> None:
    """Activate segment s for destination "out", unless that is done."""
    if not project.destinations.show("out")["gets"]:
        project.destinations.activate("out", ["s"])


def deactivate(project: Project) -> None:
    if project.destinations.show("out")["gets"]:
        project.destinations.deactivate("out", ["s"])


def sync(project: Project) -> None:
    project.destinations.sync("out")


def die(home: Path, act: Callable[[Project], object], place: int, now: int) -> None:
    """Do an act in a process that dies at a place."""
    killer.arm(f"any - {place}")
    with Node.open(home, now=Clock(now)) as node:
        act(node.project())
