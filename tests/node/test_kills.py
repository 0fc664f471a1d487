"""A process killed at any moment, on either side: run again, it resumes or starts cleanly, and nothing is doubled or lost.

The kills are made by a child script of these tests (KILLER), never by the product: it wraps one function of ours, or one
act, and sends itself SIGKILL at the k-th time. tests/node/test_killed_anywhere.py kills at places that nobody chose.
"""

import copy
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from clock import RealClock
from sides import EMAIL, Pair, Person, Side
from sqlalchemy import func, select

from node.feeds.sending.edits import Removal
from node.node import Node
from node.people.snapshots import Snapshot
from node.storage import tables
from protocol.receipt import NO_RECEIPT, SignedReceipt

pytestmark = pytest.mark.two_nodes

KILLER = str(Path(__file__).parents[1] / "support" / "killer.py")
WAIT = 60.0  # seconds, for what takes one or two

now = RealClock()


def command(home: Path, *arguments: str, kill: str = "") -> tuple[int, str]:
    """Run one `vesica` command in a process of its own; returns its exit code and output."""
    done = subprocess.run(
        [sys.executable, KILLER, *arguments, "--home", str(home), "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "KILL": kill},
        timeout=WAIT,
        check=False,
    )
    return done.returncode, done.stdout or done.stderr


class World:
    """Two homes whose feed "summer" is enabled but has not run: acme is driven by commands, globe by its service."""

    def __init__(self, pair: Pair, **terms: Any) -> None:
        self.acme, self.globe = pair.acme, pair.globe
        people = range(60)
        pair.prepare(
            [
                Person(f"a{n}", f"p{n}@x.com", f"+44740012{n:04}" if n % 2 else "", "n" if n == 35 else "")
                for n in people
            ],
            [Person(f"g{n}", f"p{n}@x.com" if n % 3 else "", f"+44740012{n:04}") for n in range(30, 90)],
            {"vip": [f"a{n}" for n in range(20, 50)], "new": [f"a{n}" for n in range(40, 60)]},
            **terms,
        )
        pair.share("summer", ["vip", "new"])
        matched = [n for n in range(30, 60) if n != 35 and (n % 3 or n % 2)]  # by e-mail, or by phone
        self.expected = {
            "vip": {f"g{n}" for n in matched if n < 50},
            "new": {f"g{n}" for n in matched if n >= 40},
        }

    def copy(self, folder: Path) -> "World":
        """Return the same on copies of the homes, which have the same addresses."""
        copied = copy.copy(self)
        copied.acme, copied.globe = self.acme.copy(folder), self.globe.copy(folder)
        copied.expected = dict(self.expected)
        return copied

    def command(self, side: Side, *arguments: str, kill: str = "") -> tuple[int, str]:
        return command(side.folder / side.name, *arguments, kill=kill)

    def killed(self, side: Side, *arguments: str, kill: str) -> None:
        code, text = self.command(side, *arguments, kill=kill)
        assert code == -signal.SIGKILL, text

    def run(self, side: Side, *arguments: str) -> Any:
        code, text = self.command(side, *arguments)
        assert code == 0, text
        return json.loads(text)

    def serve(self, side: Side, kill: str = "") -> subprocess.Popen[str]:
        with (side.folder / f"{side.name}.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, KILLER, "node", "serve", "--listen", side.address, "--home", side.node.home.path],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "KILL": kill},
            )
        assert process.stdout is not None
        assert process.stdout.readline().startswith("listening on "), (side.folder / f"{side.name}.log").read_text()
        return process

    @contextmanager
    def serving(self, side: Side, kill: str = "") -> Iterator[None]:
        """Keep a side's service running; one that is to die is started again when it has."""
        process = self.serve(side, kill)
        died: list[int] = []

        def restart() -> None:
            nonlocal process
            died.append(process.wait())
            process = self.serve(side)

        watcher = threading.Thread(target=restart) if kill else None
        if watcher:
            watcher.start()
        try:
            yield
            if watcher:
                watcher.join(WAIT)
                assert died == [-signal.SIGKILL]
        finally:
            process.terminate()
            assert process.wait(WAIT) == 0

    def check(self) -> None:
        """Say that all holds that must hold after any kill, when the command was run again; globe is still served.

        A further revision then follows in the same chain.
        """
        self.check_members()
        first = [each.receipt.revision for each in self.check_receipts()]
        with Node.open(self.acme.folder / "acme") as acme:
            acme.project().feeds.edit("summer", Removal(segments=["new"]))
            del self.expected["new"]
            acme.sync()
            assert [run["status"] for run in acme.project().feeds.sync("summer")] == ["done"]
        self.check_members()
        second = [each.receipt.revision for each in self.check_receipts()]
        assert len(first) == 1
        assert second[:1] == first
        assert second[1] > first[0]

    def check_members(self) -> None:
        with Node.open(self.globe.folder / "globe") as globe:
            memberships, ids = globe.project().memberships, Snapshot.open(globe.project().scope).profile_ids
            for segment, expected in self.expected.items():
                assert {ids[number].decode() for number in memberships.members("acme", segment)} == expected

    def check_receipts(self) -> list[SignedReceipt]:
        """Both sides hold the same receipts, each naming the one before; nothing is left open, doubled or lost."""
        with Node.open(self.acme.folder / "acme") as acme, Node.open(self.globe.folder / "globe") as globe:
            sent, previous = receipts(acme), NO_RECEIPT
            assert sent == receipts(globe)
            for each in sent:
                each.verify_both(receiver_key=globe.key, sender_key=acme.key)
                assert each.receipt.previous == previous
                previous = each.receipt.digest()
            for node in (acme, globe):
                node.audit.verify()
                assert [job.state for job in node.jobs.all() if job.state not in ("done", "failed")] == []
                with node.home.database.read() as tx:
                    stuck = select(tables.letters.c.kind).where(tables.letters.c.delivered.is_(None))
                    assert list(tx.scalars(stuck)) == []
                unnamed(node)
            with acme.home.database.read() as tx:
                charged = select(func.sum(tables.ledger.c.amount)).where(tables.ledger.c.kind == "evaluations")
                assert tx.scalar(charged) == 60 + 40  # globe's phones and e-mails: each was paid for once
        return sent


def receipts(node: Node) -> list[SignedReceipt]:
    with node.home.database.read() as tx:
        rows = tx.scalars(
            select(tables.runs.c.receipt).where(tables.runs.c.state == "done").order_by(tables.runs.c.revision)
        )
        return [SignedReceipt.decode(row) for row in rows]


def unnamed(node: Node) -> None:
    """After a sweep nothing is left that no row names, and two hours later no message of an exchange that is over."""
    with Node.open(node.home.path, now=lambda: now() + 7200) as later:
        later.sweep()
    project = node.project()
    with node.home.database.read() as tx:
        contents = tx.scalars(select(tables.manifests.c.content)).all()
        rows = tx.execute(select(tables.memberships.c.file, tables.memberships.c.changes)).all()
        records = tx.scalars(select(tables.received_feeds.c.records)).all()
        open_ = set(tx.scalars(select(tables.exchanges.c.id).where(tables.exchanges.c.state == "open")))
    named = json.dumps(contents)
    assert [path for path in project.scope.data_directory.iterdir() if path.is_file() and path.name not in named] == []
    kept = {name for row in rows for name in row} | {name for names in records for name in names or ()}
    assert {path.name for path in project.scope.data_directory.glob("received/*/*")} <= kept
    assert {path.name for path in (node.home.path / "spool").iterdir() if path.is_dir()} <= open_


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> World:
    return _world(tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def world(prepared: World, tmp_path: Path) -> World:
    return prepared.copy(tmp_path)


@pytest.fixture
def noisy(tmp_path: Path) -> World:
    """With the default noise, so that estimates are charged for."""
    return _world(tmp_path, epsilon="1/20")


def _world(folder: Path, **terms: Any) -> World:
    pair = Pair(folder, now)
    with pair.acme.serving(), pair.globe.serving():
        world = World(pair, **terms)
    for side in (pair.acme, pair.globe):
        side.node.close()
        side.bound.close()
    return world


@pytest.mark.feature("EX8")
@pytest.mark.parametrize(
    "kill",
    [
        pytest.param("calling node.feeds.sending.evaluations:allowance 1", id="the points are on disk and not charged"),
        pytest.param("replaced /run 1", id="the records are sealed, and no row names them"),
        pytest.param("replaced receipt.0 1", id="the receiver has signed"),
        pytest.param("replaced countersigned.0 1", id="we have signed, and the receiver does not know"),
        pytest.param("calling node.feeds.sending.releases:_sent 1", id="the receiver has all, and the run is open"),
        pytest.param("acted feed.run 1", id="the run is closed, and its exchange is open"),
    ],
)
def test_a_killed_sender_is_run_again(world: World, kill: str) -> None:
    with world.serving(world.globe):
        world.killed(world.acme, "feed", "sync", "summer", kill=kill)
        world.run(world.acme, "feed", "sync", "summer")
        world.check()


@pytest.mark.feature("EX8")
@pytest.mark.parametrize(
    "kill",
    [
        pytest.param("replaced blinded-made.0 1", id="the points are blinded, and have not left"),
        pytest.param("replacing .members 1", id="half of the memberships are written"),
        pytest.param("acted feed.received 1", id="the revision is taken, and its exchange is open"),
    ],
)
def test_a_killed_receiver_is_started_again(world: World, kill: str) -> None:
    """The sender's command waits for the receiver to come back, and goes on."""
    with world.serving(world.globe, kill):
        world.run(world.acme, "feed", "sync", "summer")
        world.check()


@pytest.mark.feature("EX8")
def test_what_changed_between_a_kill_and_the_next_run(world: World) -> None:
    """Nobody is told that the other broke the protocol, and people who came meanwhile are found."""
    with world.serving(world.globe):
        world.killed(world.acme, "feed", "sync", "summer", kill="replaced evaluated.0 1")
    world.globe.people([Person("g90", "p42@x.com"), Person("g91", "p1@x.com")], "more")
    world.expected = {name: ids | {"g90"} for name, ids in world.expected.items()}
    with world.serving(world.globe):
        world.run(world.acme, "feed", "sync", "summer")
    world.check_members()
    for side in (world.acme, world.globe):
        with Node.open(side.folder / side.name) as node:
            assert [alert for alert in node.project().alerts.all() if alert.kind.startswith("exchange.")] == []


@pytest.mark.feature("EX8")
@pytest.mark.parametrize(
    ("side", "kill"),
    [
        pytest.param("acme", "called node.feeds.estimates.asking:keep_answer 1", id="the asker, the answer kept"),
        pytest.param("globe", "acted estimate.answer 1", id="the answerer, the budget charged"),
    ],
)
def test_a_killed_estimate_is_answered_and_charged_once(noisy: World, side: str, kill: str) -> None:
    world = noisy
    with world.serving(world.globe, kill if side == "globe" else ""):
        if side == "acme":
            world.killed(world.acme, "feed", "estimate", "summer", "--yes", kill=kill)
        rows = world.run(world.acme, "feed", "estimate", "summer", "--yes")
    assert {row["segment"] for row in rows} == {"vip", "new"}
    with Node.open(world.globe.folder / "globe") as globe, globe.home.database.read() as tx:
        charged = list(tx.scalars(select(tables.ledger.c.amount).where(tables.ledger.c.kind == "epsilon_millis")))
        assert charged == [100, 100]  # two segments of one row, in two namespaces
        assert tx.scalar(select(func.count()).select_from(tables.answers)) == 2
    with Node.open(world.acme.folder / "acme") as acme, acme.home.database.read() as tx:
        columns = (tables.estimates.c.segment, tables.estimates.c.namespace, tables.estimates.c.at)
        kept = tx.execute(select(*columns)).all()
        assert len({row[:2] for row in kept}) == 4
        assert len(set(kept)) == len(kept)


@pytest.mark.feature("EX8")
@pytest.mark.parametrize("side", ["acme", "globe"])
def test_a_letter_arrives_once_whoever_dies_over_it(world: World, side: str) -> None:
    edit = ("feed", "edit", "summer", "--remove-segment", "new", "--yes")
    with world.serving(world.globe, "acted letter.feed.unshare 1" if side == "globe" else ""):
        if side == "acme":
            world.killed(world.acme, *edit, kill="calling node.partners.letters:delivered 1")
        else:
            world.run(world.acme, *edit)
        world.run(world.acme, "node", "sync")
        shown = world.run(world.acme, "feed", "list")["shared"][0]
        assert (shown["version"], shown["segments"]) == (2, ["vip"])
        assert world.run(world.globe, "feed", "show", "summer")["accepted_version"] == 2
    with Node.open(world.globe.folder / "globe") as globe, Node.open(world.acme.folder / "acme") as acme:
        assert len(globe.audit.entries(act="letter.feed.unshare")) == 1
        for node in (acme, globe):
            with node.home.database.read() as tx:
                assert tx.execute(select(tables.letters).where(tables.letters.c.delivered.is_(None))).all() == []


@pytest.mark.feature("EX8")
def test_a_killed_import_changes_nothing_and_is_run_again(home: Path, tmp_path: Path) -> None:
    Node.create(home, "Fern").close()
    file = tmp_path / "people.csv"
    file.write_text("id,mail,age\n" + "".join(f"p{n},p{n}@x.com,{n}\n" for n in range(50)))
    load = ["profile", "import", str(file), "--dataset", "crm", "--id", "id", "--identity", "mail=email_sha256"]
    for kill in ("replacing -rows.npy 1", "replaced -rows.npy 1", "acting profile.import 1"):
        code, text = command(home, *load, "--attribute", "age", kill=kill)
        assert code == -signal.SIGKILL, text
        with Node.open(home) as node:
            assert Snapshot.open(node.project().scope).profile_count == 0
    for _ in range(2):
        code, text = command(home, *load, "--attribute", "age")
        assert code == 0, text
    with Node.open(home) as node:
        assert len(Snapshot.open(node.project().scope).identities(EMAIL)) == 50
        unnamed(node)
        node.audit.verify()


@pytest.mark.feature("EX8")
@pytest.mark.feature("FD6")
@pytest.mark.parametrize(
    ("side", "kill"),
    [
        pytest.param("acme", "acted feed.edit 1", id="the sender, the letters not delivered"),
        pytest.param("globe", "acted letter.feed.unshare 1", id="the receiver, between the removal and the offer"),
        pytest.param("globe", "acted feed.enable 1", id="the receiver, the acceptance not delivered"),
    ],
)
def test_an_edit_is_whole_whoever_dies_over_it(world: World, side: str, kill: str) -> None:
    """Something is added, then something is taken out; both end at the same version, and what was accepted is released."""
    for name, extra in (("rare", ["a31", "a44"]), ("old", ["a32"])):
        world.acme.segment(name, extra)
    world.acme.node.close()
    edit = ("feed", "edit", "summer", "--remove-segment", "new", "--add-segment", "old", "--yes")
    with world.serving(world.globe, kill if "letter" in kill else ""):
        world.run(world.acme, "feed", "sync", "summer")
        world.run(world.acme, "feed", "edit", "summer", "--add-segment", "rare")
        if side == "acme":
            world.killed(world.acme, *edit, kill=kill)
        else:
            world.run(world.acme, *edit)
        world.run(world.acme, "node", "sync")
    enable = ("feed", "enable", "summer", "--version")
    if "enable" in kill:
        seen = world.run(world.globe, "feed", "show", "summer")["offered"]["hash"]
        world.killed(world.globe, *enable, seen, kill=kill)
    with world.serving(world.globe):
        if kill != "acted feed.enable 1":
            world.run(world.globe, *enable, world.run(world.globe, "feed", "show", "summer")["offered"]["hash"])
        world.run(world.acme, "feed", "sync", "summer")
        ours, theirs = (world.run(each, "feed", "show", "summer") for each in (world.acme, world.globe))
        assert ours["partners"][0]["accepted_hash"] == theirs["hash"] == ours["hash"]
        assert (theirs["accepted_version"], theirs["offered_version"]) == (4, None)
        world.expected = {"vip": world.expected["vip"], "rare": {"g31", "g44"}, "old": {"g32"}}
        world.check_members()
        world.check_receipts()
        assert "new" not in theirs["members"]
