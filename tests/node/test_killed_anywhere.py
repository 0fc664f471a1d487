"""Either node killed, or both, at any of the places where something changes outside its memory: seeded, never by time.

A place is a file before or after it gets its name, a transaction before or after its commit, a message before or after it
is sent. After a restart all is as if nothing had happened. VESICA_KILLS says at how many points (6, of every phase;
`make assure` takes all 100).
"""

import hashlib
import os
import random
import shutil
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plain
import pytest
from clock import RealClock
from mortals import FORKS, KILLED, UNREACHABLE, WAIT, Life, accept, answer, share, warm
from sides import EMAIL, PHONE, Pair, Person, Side
from sqlalchemy import func, select

from node.access.audit import Result
from node.feeds.sending.edits import Addition, Removal
from node.node import Node
from node.storage import tables
from node.transport.server import bind
from protocol.receipt import NO_RECEIPT, SignedReceipt

pytestmark = pytest.mark.two_nodes

POINTS = 100
FEED = "summer"
PHASES = ("first", "delta", "removal", "addition")
VICTIMS = ("sender", "receiver", "sender", "receiver", "both")
SEGMENTS = {"vip-cardiology": range(15, 50), "gold-lapsed": range(40, 60)}
ADDED = {"spring-gifts": range(30, 45)}
EDITS = {
    "removal": Removal(segments=["gold-lapsed"], namespaces=["phone_sha256"]),
    "addition": Addition(segments=list(ADDED)),
}
LAST = 0.95  # of the places that are passed where nobody dies: the last ones depend on who is faster

now = RealClock()


def rows(side: str, numbers: Sequence[int]) -> list[Person]:
    """Return people: some without a phone, some without an e-mail, some who share a phone, one in twelve opted out."""
    return [
        Person(
            f"{side}{n}",
            f"person{n}@example.com" if n % 5 else "",
            f"+4474001{n - n % 7 % 2:05}" if n % 3 or not n % 5 else "",
            "n" if n % 12 == 5 else "",
        )
        for n in numbers
    ]


def plainly(people: Sequence[Person]) -> plain.Organisation:
    """Return the same people as plain.py has them."""
    made = plain.Organisation("opt-out")
    for each in people:
        values = {EMAIL: each.email, PHONE: each.phone}
        records = {"crm": {name: value for name, value in values.items() if value}}
        made.people[each.id] = plain.Person(records=records, share=each.share)
    return made


class Needles:
    """What must not be found in a file."""

    def __init__(self, needles: Sequence[bytes]) -> None:
        self._needles = needles
        self._beginnings = np.unique(np.array([int.from_bytes(each[:8], "little") for each in needles], np.uint64))

    def within(self, path: Path) -> bool:
        """Say whether a file holds one: all are looked for by their first eight bytes at once, then as a whole."""
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # a service is running
            return False
        for start in range(min(8, len(content) - 7)):
            words = np.frombuffer(content, "<u8", (len(content) - start) // 8, start)
            places = np.searchsorted(self._beginnings, words).clip(max=len(self._beginnings) - 1)
            if (self._beginnings[places] == words).any() and any(each in content for each in self._needles):
                return True
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Two closed homes before each phase, the addresses that they know of each other, and what must come out."""

    folder: Path
    addresses: dict[str, str]
    expected: dict[str, dict[str, set[str]]]
    raw: Needles
    identities: Needles
    anything: Needles


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    warm()
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "now").mkdir()
    pair = Pair(folder / "now", now)
    acme, globe = rows("a", range(60)), rows("g", range(25, 85))
    expected = {}
    with pair.acme.serving(), pair.globe.serving():
        segments = {name: [f"a{n}" for n in numbers] for name, numbers in (SEGMENTS | ADDED).items()}
        pair.prepare(acme, globe, segments)
        pair.share(FEED, list(SEGMENTS))
        expected["first"] = _expected(acme, globe, SEGMENTS, [EMAIL, PHONE])
        _copy(folder / "now", folder / "first")
        pair.acme.project.feeds.sync(FEED)
        expected["removal"] = _expected(acme, globe, {"vip-cardiology": SEGMENTS["vip-cardiology"]}, [EMAIL])
        expected["addition"] = _expected(acme, globe, SEGMENTS | ADDED, [EMAIL, PHONE])
        for phase in EDITS:
            _copy(folder / "now", folder / phase)
        changed = {"vip-cardiology": range(17, 52), "gold-lapsed": [*range(41, 60), 60, 61]}
        acme, globe = _change(pair, acme, globe, changed)
        expected["delta"] = _expected(acme, globe, changed, [EMAIL, PHONE])
        _copy(folder / "now", folder / "delta")
    addresses = {side.name: side.address for side in (pair.acme, pair.globe)}
    for side in (pair.acme, pair.globe):
        side.node.close()
        side.bound.close()
    raw = [text.encode() for each in (*acme, *globe) for text in (each.email, each.phone[1:]) if text]
    values = [hashlib.sha256(text).digest() for text in raw if b"@" in text]
    values += [hashlib.sha256(b"+" + text).digest() for text in raw if b"@" not in text]
    hashes = [*values, *(value.hex().encode() for value in values)]
    return Prepared(
        folder=folder,
        addresses=addresses,
        expected=expected,
        raw=Needles(raw),
        identities=Needles([*raw, *hashes]),
        anything=Needles([*raw, *hashes, *(name.encode() for name in SEGMENTS | ADDED)]),
    )


def _copy(source: Path, target: Path) -> None:
    for name in ("acme", "globe"):
        shutil.copytree(source / name, target / name)


def _change(
    pair: Pair, acme: list[Person], globe: list[Person], members: dict[str, Any]
) -> tuple[list[Person], list[Person]]:
    """Let people come, leave and withdraw on both sides."""
    acme, globe = [*acme, *rows("a", [60, 61])], [*globe, *rows("g", [20, 21])]
    acme[44], globe[20] = acme[44]._replace(share="n"), globe[20]._replace(share="n")
    pair.acme.people(acme)
    pair.globe.people(globe)
    for name, numbers in members.items():
        file = pair.acme.folder / f"{name}.csv"
        file.write_text("\n".join(["id", *(f"a{n}" for n in numbers)]) + "\n")
        pair.acme.project.segments.update(name, file)
    return acme, globe


def _expected(acme: list[Person], globe: list[Person], segments: Any, namespaces: Sequence[str]) -> dict[str, set[str]]:
    sender, receiver = plainly(acme), plainly(globe)
    sender.lists = {name: {f"a{n}" for n in numbers} for name, numbers in segments.items()}
    released = sender.released(segments, namespaces)
    return {name: plain.join(released, receiver, name, namespaces) for name in segments}


class Trial:
    """One phase on copies of the prepared homes."""

    def __init__(self, prepared: Prepared, phase: str, folder: Path) -> None:
        self.prepared, self.phase, self.folder = prepared, phase, folder
        _copy(prepared.folder / phase, folder)
        self.deaths: list[str] = []

    def run(self, *, sender: int = 0, receiver: int | None = None) -> None:
        """Let the sender die at its place, and the receiver at its own (None: it does not run in a process of its own);
        who died is started again until all is done."""
        with self._served(receiver):
            while (code := self._shared(sender)) != 0:
                assert code in (KILLED, UNREACHABLE)  # on a busy machine the other is away for long: it resumes
                if code == KILLED:
                    self.deaths.append("sender")
                    self.check_no_plaintext()
                    sender = 0

    def life(self, name: str, last: int) -> Life:
        return Life(home=self.folder / name, last=last, promises=self.folder / f"{name}-promises")

    def passed(self, name: str) -> int:
        return int(self.life(name, 0).passed.read_text())

    def _shared(self, last: int) -> int | None:
        process = FORKS.Process(target=share, args=(self.life("acme", last), FEED, EDITS.get(self.phase)))
        process.start()
        process.join(WAIT)
        return process.exitcode

    @contextmanager
    def _served(self, last: int | None) -> Iterator[None]:
        if last is None:
            over = threading.Event()
            with self.side("globe") as globe, globe.serving():
                people = threading.Thread(target=accept, args=(globe.node, FEED, over))
                people.start()
                try:
                    yield
                finally:
                    over.set()
                    people.join()
            return
        process = self._answering(last)
        over = threading.Event()

        def watch() -> None:
            nonlocal process
            while True:
                process.join()
                if over.is_set() or process.exitcode != KILLED:
                    return
                self.deaths.append("receiver")
                self.check_no_plaintext()
                process = self._answering(0)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            process.terminate()
            watcher.join(WAIT)
            process.join(WAIT)
        assert process.exitcode in (0, KILLED)

    def _answering(self, last: int) -> Any:
        ours, theirs = FORKS.Pipe(duplex=False)
        address = self.prepared.addresses["globe"]
        process = FORKS.Process(target=answer, args=(self.life("globe", last), address, FEED, theirs))
        process.start()
        theirs.close()
        try:
            ours.recv()
        except EOFError:  # it died before it was ready
            process.join(WAIT)
            assert process.exitcode == KILLED
        return process

    @contextmanager
    def side(self, name: str) -> Iterator[Side]:
        """Give an organisation of the trial, in this process."""
        side = object.__new__(Side)
        side.name, side.folder, side.now = name, self.folder, now
        side.address = self.prepared.addresses[name]
        side.open()
        side.bound = bind(side.address)
        try:
            yield side
        finally:
            side.node.close()
            side.bound.close()

    # What must hold

    def state(self) -> dict[str, Any]:
        """Return what must be the same whether somebody died or not."""
        with self.side("globe") as globe, globe.serving(), Node.open(self.folder / "acme") as acme:
            acme.sync()
            received = globe.project.received.show(FEED)
            shared = acme.project().feeds.show(FEED)
            (partner,) = shared["partners"]
            sent, previous = _receipts(acme), NO_RECEIPT
            assert sent == _receipts(globe.node)
            for each in sent:
                each.verify_both(receiver_key=globe.node.key, sender_key=acme.key)
                assert each.receipt.previous == previous
                previous = each.receipt.digest()
            for name, node in (("acme", acme), ("globe", globe.node)):
                node.audit.verify()
                self._check_promises(name, node)
                assert [job.kind for job in node.jobs.all() if job.state in ("queued", "running")] == []
                alerts = [each.kind for each in node.project().alerts.all()]
                assert [kind for kind in alerts if kind.startswith("exchange")] == []
                _check_leftovers(node)
            self.check_no_plaintext()
            segments = [each["name"] for each in received["segments"]]
            return {
                "members": {name: globe.members("acme", name) for name in segments},
                "exited": {name: received["statuses"][name].get("exited", 0) for name in segments},
                "memberships": sorted(received["members"].items()),
                "same version": received["hash"] == shared["hash"],
                "version": (received["accepted_version"], partner["accepted_version"], shared["version"]),
                "status": (received["status"], partner["status"], shared["status"]),
                "same receipt": partner["last_receipt"] == received["last_receipt"],
                "revisions": len(sent),
                "purged": [len(each["segments"]) for each in partner["purges"]],
                "charged": _charged(acme),
                "letters": (_letters(acme), _letters(globe.node)),
                "acts": (_acts(acme), _acts(globe.node)),
            }

    def _check_promises(self, name: str, node: Node) -> None:
        """Whatever somebody was told is done is in the audit log."""
        file = self.life(name, 0).promises
        if file.exists():
            kept = Counter(
                f"{entry.act} {entry.target}" for entry in node.audit.entries(result=Result.ALLOW, limit=10_000)
            )
            assert Counter(file.read_text().splitlines()) - kept == Counter()

    def check_no_plaintext(self) -> None:
        """No e-mail or phone is anywhere; no hash of one, and no segment's name, where messages, caches, keys and
        temporary files are; no hash in the control rows either."""
        for path in self.folder.rglob("*"):
            if path.is_file() and not path.name.endswith("-promises"):
                where = path.relative_to(self.folder).parts[1:2]
                rows = path.name.startswith("control.db")
                forbidden = self.prepared.identities if rows else self.prepared.anything
                if where == ("data",):
                    forbidden = self.prepared.raw
                assert not forbidden.within(path), path


def _receipts(node: Node) -> list[SignedReceipt]:
    runs = tables.runs.c
    with node.home.database.read() as tx:
        return [
            SignedReceipt.decode(each)
            for each in tx.scalars(select(runs.receipt).where(runs.state == "done").order_by(runs.revision))
        ]


def _charged(node: Node) -> list[Any]:
    rows = tables.ledger.c
    with node.home.database.read() as tx:
        query = select(rows.kind, rows.note, func.sum(rows.amount)).group_by(rows.kind, rows.note)
        return sorted(map(tuple, tx.execute(query)))


def _letters(node: Node) -> Counter[str]:
    rows = tables.letters.c
    with node.home.database.read() as tx:
        assert list(tx.scalars(select(rows.kind).where(rows.delivered.is_(None)))) == []
        return Counter(tx.scalars(select(rows.kind).where(rows.kind != "exchange.wanted")))  # a wish may be said again


def _acts(node: Node) -> dict[str, int]:
    letters = ("letter.feed.publish", "letter.feed.accept", "letter.feed.unshare", "letter.feed.purged")
    acts = ("feed.run", "feed.received", "feed.edit", "feed.enable", *letters)
    done = {act: node.audit.entries(act=act, result=Result.ALLOW) for act in acts}
    # a run may be said to wait for a call, by a letter that may be said again
    return {act: sum(not entry.detail.get("waiting") for entry in entries) for act, entries in done.items()}


def _check_leftovers(node: Node) -> None:
    """No temporary file is left, and an hour later no message of an exchange that is over."""
    node.sweep()
    assert list(node.home.path.rglob(".*")) == []
    for path in node.home.path.glob("spool/*"):
        os.utime(path, (0, 0))
    with Node.open(node.home.path, now=lambda: now() + 7200) as later:
        later.sweep()
    with node.home.database.read() as tx:
        exchanges = tables.exchanges.c
        open_ = set(tx.scalars(select(exchanges.id).where(exchanges.state == "open")))
    assert {path.name for path in (node.home.path / "spool").iterdir() if path.is_dir()} <= open_


def _check_search(trial: Trial) -> None:
    """The search finds identities and names where they may be, and a file of them where it must not be."""
    home = trial.folder / "globe"
    assert any(trial.prepared.identities.within(path) for path in home.glob("data/*/*") if path.is_file())
    assert trial.prepared.anything.within(home / "control.db")
    (home / "spool" / "left").write_bytes(b"..." + hashlib.sha256(b"person31@example.com").digest() + b"...")
    with pytest.raises(AssertionError):
        trial.check_no_plaintext()


@dataclass(frozen=True, slots=True, kw_only=True)
class Undisturbed:
    """How a phase ends where nobody dies, and how many places each side passes."""

    state: dict[str, Any]
    sender: int
    receiver: int


@pytest.fixture(scope="module")
def undisturbed(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Undisturbed]:
    found = {}
    for phase in PHASES:
        trial = Trial(prepared, phase, tmp_path_factory.mktemp(phase))
        trial.run(receiver=0)
        state = trial.state()
        assert state["members"] == prepared.expected[phase]
        assert all(state["members"].values())
        _check_search(trial)
        found[phase] = Undisturbed(state=state, sender=trial.passed("acme"), receiver=trial.passed("globe"))
    return found


def points() -> list[Any]:
    """Return phase, victim, and for each side the place as a fraction of all that it passes."""
    found = []
    for number in range(POINTS):
        chance = random.Random(f"point {number}")
        phase, victim = PHASES[number % len(PHASES)], VICTIMS[number % len(VICTIMS)]
        found.append(pytest.param(phase, victim, chance.random(), chance.random(), id=f"{number}-{phase}-{victim}"))
    return found[: int(os.environ.get("VESICA_KILLS", "6"))]


@pytest.mark.feature("EX8")
@pytest.mark.parametrize(("phase", "victim", "sender", "receiver"), points())
def test_after_a_kill_anywhere_all_is_as_if_nothing_had_happened(
    prepared: Prepared,
    undisturbed: dict[str, Undisturbed],
    tmp_path: Path,
    phase: str,
    victim: str,
    sender: float,
    receiver: float,
) -> None:
    calm = undisturbed[phase]
    for nearer in (LAST, 0.7, 0.4):  # a service does some things once more or less: where a place was not reached
        places = {}
        if victim in ("sender", "both"):
            places["sender"] = 1 + int(sender * nearer * calm.sender)
        if victim in ("receiver", "both"):
            places["receiver"] = 1 + int(receiver * nearer * calm.receiver)
        trial = Trial(prepared, phase, tmp_path / str(nearer))
        trial.run(**places)
        assert trial.state() == calm.state, places
        if sorted(trial.deaths) == sorted(places):
            return
    raise AssertionError(f"nobody died at {places}")
