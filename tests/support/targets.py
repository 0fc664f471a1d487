"""What stands at the other end of a destination in tests: folders that are read, and HTTPS servers."""

import csv
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
import numpy as np
from clock import Clock

from cli.receiver import write_certificate
from node.destinations.changes import Act
from node.destinations.kinds import Batch
from node.imports.identity_columns import IdentityColumn
from node.node import Node
from node.project import Project
from psi.values import Values

AT = 1_800_000_000  # of the changes in `batch`
EMAIL_COLUMN = IdentityColumn.parse("email=email_sha256:raw")
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
    """Write a certificate for `name`, and for two addresses of loopback if that is localhost."""
    found = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    write_certificate(found.chain, found.key, name, ["127.0.0.1", "127.0.0.2"] if name == "localhost" else [])
    return found


def people(project: Project, folder: Path, count: int, dataset: str = "crm") -> None:
    """Import people p0, p1, ... with an e-mail each; `orders` of p0 is 0, of p1 is 1, and so on."""
    file = folder / f"{dataset}.csv"
    file.write_text("id,orders,email\n" + "".join(f"p{n},{n},p{n}@x.com\n" for n in range(count)))
    project.profiles.import_(file, dataset=dataset, id_column="id", identities=[EMAIL_COLUMN], attributes=["orders"])


def prepared(project: Project, folder: Path, count: int, **rules: str) -> Project:
    """Import people into a project, who may leave unless they say no, and make a segment by each rule."""
    people(project, folder, count)
    project.consent.set_model("opt-out")
    for name, rule in rules.items():
        project.segments.create(name, rule=rule)
    return project


def names(*numbers: int) -> set[str]:
    """Return the ids of some people."""
    return {f"p{number}" for number in numbers}


def batch(*identities: str, identity: str = "id", **attributes: str) -> Batch:
    """Return a batch that adds the first of some identities, with attributes, and removes the others."""
    return Batch(
        id="1", at=AT, destination="d", segment="s", segment_id="i", labels=(), identity=identity, revision=1, number=0,
        sequence=1, values=Values.of([each.encode() for each in identities]),
        acts=np.array([Act.ADD, *[Act.REMOVE] * (len(identities) - 1)], np.uint8),
        attributes={name: [text, *[None] * (len(identities) - 1)] for name, text in attributes.items()},
    )  # fmt: skip


def project_on_loopback(home: Path, now: Callable[[], int], folder: Path) -> Project:
    """Return a project with the people p0 to p7, all in segment s, of a node that may call loopback."""
    node = Node.create(home, "Fern", address="127.0.0.1:8470", now=now)
    return prepared(node.project(), folder, 8, s="orders >= 0")


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


def folder_out(project: Project, path: Path, **settings: str) -> Folder:
    """Make a folder "out" the destination of that name, for analytics by the project's own ids."""
    folder = Folder(path / "out")
    project.destinations.create("out", "file", {"folder": str(folder.path), **settings}, uses=["analytics"])
    return folder


def fail_first_export(project: Project, folder: Folder, clock: Clock) -> None:
    """Let a first export fail three times."""
    folder.path.rmdir()
    project.destinations.activate("out", ["s"])
    for seconds in (15, 30):
        clock.advance(seconds=seconds)
        project.destinations.sync("out")


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
