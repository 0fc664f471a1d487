"""Organisations whose nodes reach each other over real TLS on loopback, on one clock; nothing happens unasked."""

import copy
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from clock import Clock
from sqlalchemy import select

from cli.demo import free_ports
from node.access.audit import Result
from node.imports.identity_columns import IdentityColumn
from node.node import Node
from node.operations.jobs import JobState
from node.partners.connections import Connection
from node.project import Project
from node.service import answering
from node.storage import tables
from node.transport import tls
from node.transport.addresses import AllowedAddresses
from node.transport.server import address_of, bind, server
from protocol.exchange import Opening
from protocol.states import Kind, Part

HERE = AllowedAddresses(loopback=True)
EMAIL, PHONE = "email_sha256/lc-v1", "phone_sha256/e164-v1"
SMALL_TERMS = {"minimum_universe": 1, "minimum_segment": 1, "minimum_overlap": 1, "epsilon": "none"}


class Person(NamedTuple):
    """A row of a file: people with the same e-mail or phone on both sides are the same."""

    id: str
    email: str = ""
    phone: str = ""
    share: str = ""


class Side:
    """One organisation: its node, its project "default", and its endpoint, which can be stopped and started."""

    def __init__(self, folder: Path, name: str, *, now: Callable[[], int], address: bool = True) -> None:
        self.name, self.folder, self.now = name, folder, now
        self.bound = bind(f"127.0.0.1:{free_ports(1)[0]}")
        self.address = address_of(self.bound)
        Node.create(folder / name, name.title(), address=self.address if address else "", now=now).close()
        self.open()

    def open(self) -> None:
        """Open the home again, as a restarted process does."""
        self.node = Node.open(self.folder / self.name, now=self.now)

    def copy(self, folder: Path) -> "Side":
        """Return the same organisation, which does not run, on a copy of its home."""
        copied = copy.copy(self)
        copied.folder = folder
        shutil.copytree(self.folder / self.name, folder / self.name)
        copied.open()
        copied.node.close()
        return copied

    @property
    def project(self) -> Project:
        return self.node.project()

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Answer partners meanwhile, without jobs or post of its own."""
        running = server(
            answering(self.node.home), tls.server_context(self.node.home.keys.signing_key, self.node.home.now())
        )
        thread = threading.Thread(target=running.run, kwargs={"sockets": [self.bound.dup()]})
        thread.start()
        try:
            yield
        finally:
            running.should_exit = True
            thread.join(30)
            assert not thread.is_alive()

    def people(self, people: Sequence[Person], dataset: str = "crm") -> None:
        """Import people; their e-mails and phones are hashed on the way in."""
        file = self.folder / f"{self.name}-{dataset}.csv"
        lines = [",".join(Person._fields), *(",".join(person) for person in people)]
        file.write_text("\n".join(lines) + "\n")
        self.project.profiles.import_(
            file,
            dataset=dataset,
            id_column="id",
            identities=[IdentityColumn.parse("email=email_sha256:raw"), IdentityColumn.parse("phone=phone_sha256:raw")],
            consent_column="share",
        )

    def segment(self, name: str, ids: Sequence[str]) -> None:
        file = self.folder / f"{self.name}-{name}.csv"
        file.write_text("\n".join(["id", *ids]) + "\n")
        self.project.segments.create(name, members_file=file)

    def members(self, partner: str, segment: str) -> set[str]:
        """Return the ids of the present members of a received segment."""
        from node.people.snapshots import Snapshot

        ids = Snapshot.open(self.project.scope).profile_ids
        return {ids[number].decode() for number in self.project.memberships.members(partner, segment)}

    def post(self) -> None:
        """Let letters go both ways, and do what the partner asked for."""
        self.node.sync()

    def called(self) -> bool:
        """Return whether somebody has called while nobody served; that call is taken off the queue."""
        waiting = self.bound.dup()
        waiting.setblocking(False)
        with waiting:
            try:
                waiting.accept()[0].close()
            except BlockingIOError:
                return False
            return True

    def waits(self) -> bool:
        """Return whether a letter has not left, or what a partner asked for is not done."""
        undelivered = select(tables.letters.c.kind).where(tables.letters.c.delivered.is_(None))
        with self.node.home.database.read() as tx:
            return tx.execute(undelivered).first() is not None or bool(self.node.jobs.all(state=JobState.QUEUED))

    def opening(
        self, partner: str | Connection, kind: Kind = Kind.COUNT, part: Part = Part.ASKER, **changes: Any
    ) -> Opening:
        """Return what opens an exchange with a partner (alias or row) in the first key epoch: a count by e-mail, or else."""
        row = self.project.partners.get(partner) if isinstance(partner, str) else partner
        fields = {"exchange": bytes(16), "epoch": 1, "subject": {"namespace": EMAIL}, "nonce": bytes(32), **changes}
        return Opening(kind=kind, part=part, connection=row.wire_id, agreement=row.agreement_digest, **fields)

    def acts(self, act: str, result: Result = Result.ALLOW) -> list[dict[str, Any]]:
        return [entry.as_dict() for entry in self.node.audit.entries(act=act, result=result)]


class Pair:
    """A sender, "acme", and a receiver, "globe": not connected yet."""

    def __init__(self, folder: Path, clock: Clock, *, receiver_address: bool = True) -> None:
        self.clock = clock
        self.acme = Side(folder, "acme", now=clock)
        self.globe = Side(folder, "globe", now=clock, address=receiver_address)

    def terms(self, **terms: Any) -> None:
        """Let both sides ask for these terms."""
        for side in (self.acme, self.globe):
            side.project.set_terms(**terms)

    def connect(self) -> None:
        """Globe requests acme's Connect ID, acme accepts: each lists the other under its name."""
        found = self.globe.project.partners.look_up(self.acme.project.partners.connect_id().encode())
        self.globe.project.partners.request(found, alias="acme")
        self.acme.project.partners.accept("globe")
        self.post()

    def post(self) -> None:
        """Let all letters arrive."""
        for _ in range(2):
            self.acme.post()
            self.globe.post()
            if not self.acme.waits() and not self.globe.waits():
                break

    def prepare(
        self, acme: Sequence[Person], globe: Sequence[Person], segments: Mapping[str, Sequence[str]], **terms: Any
    ) -> None:
        """Import people on both sides, choose opt-out, make acme's segments, and connect on small terms."""
        self.terms(**{**SMALL_TERMS, **terms})
        for side, people in ((self.acme, acme), (self.globe, globe)):
            side.project.consent.set_model("opt-out")
            side.people(people)
        for name, ids in segments.items():
            self.acme.segment(name, ids)
        self.connect()

    def share(
        self, feed: str, segments: Sequence[str], namespaces: Sequence[str] = (EMAIL, PHONE), **rest: Any
    ) -> None:
        """Create and publish a feed at acme, enable it at globe."""
        self.acme.project.feeds.create(feed, segments=segments, namespaces=namespaces, partners=["globe"], **rest)
        self.acme.project.feeds.publish(feed)
        self.post()
        self.globe.project.received.enable(feed)
        self.post()
