"""A month between three organisations: days pass, both sides are compared with a plain join, processes are killed."""

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from clock import Clock
from organisations import DEVICE, Link, Organisation
from plain import Person
from sides import EMAIL, PHONE
from sqlalchemy import select

from node.feeds.receiving.memberships import MemberStatus
from node.node import Node
from node.operations.jobs import JobState
from node.people.snapshots import Snapshot
from node.storage.tables import feed_partners

KILLER = str(Path(__file__).parent / "killer.py")
WAIT = 120.0  # seconds, for what takes one or two
SHARES = ("", "", "", "y", "y", "dy", "p", "u", "n", "dn")


def requested(node: Node) -> bool:
    """Return whether a receiver has asked for a run that waits for its time: that can be some minutes."""
    with node.home.database.read() as tx:
        return tx.execute(select(feed_partners.c.id).where(feed_partners.c.requested.is_not(None))).first() is not None


class Difference(AssertionError):
    """The product and the plain join disagree."""


class Month:
    """Three organisations on one clock, the feeds between them, and what must be true of both sides of each."""

    def __init__(
        self, folder: Path, *, seed: int = 1, people: int = 120, say: Callable[[str], None] = lambda _: None
    ) -> None:
        self.clock, self.chance, self.people, self.say, self.day = Clock(), random.Random(seed), people, say, 0
        models = {"acme": "opt-out", "globe": "opt-in", "fern": "opt-out"}
        self.acme, self.globe, self.fern = (
            Organisation(folder, name, now=self.clock, model=model, chance=self.chance)
            for name, model in models.items()
        )
        self.all = (self.acme, self.globe, self.fern)
        self.links: list[Link] = []

    def play(self, story: Sequence[Callable[["Month"], str]]) -> None:
        """Do the steps of a story, a day each, and compare after each of them; raises Difference."""
        try:
            for each in self.all:
                each.start()
            for step in story:
                self.day += 1
                self.clock.now += 86_400
                self.say(f"day {self.day:2}  {step(self)}")
                self.run()
                self.check()
                self.say(f"        {self.counts()}")
            self.check_books()
        finally:
            for each in self.all:
                each.close()

    # What happens between people

    def newcomers(self, organisation: Organisation, count: int) -> dict[str, Person]:
        """Return people whom an organisation comes to know: half of the world is known to each."""
        found: dict[str, Person] = {}
        for number in self.chance.sample(range(1, self.people + 1), self.people):
            id = f"{organisation.name}-{number}"
            if id in organisation.plain.people or len(found) == count:
                continue
            values = {
                EMAIL: f"person{number}@example.com",
                PHONE: f"+4474001{number - number % 9 % 2:05}",  # some live together
                DEVICE: f"{number:08x}-0000-4000-8000-{number:012x}",
            }
            known = {each: value for each, value in values.items() if self.chance.random() < 0.6}
            found[id] = Person(
                records={"crm": known or {EMAIL: values[EMAIL]}},
                share=self.chance.choice(SHARES),
                orders=self.chance.randrange(10),
            )
        return found

    def post(self) -> None:
        for _ in range(2):
            for each in self.all:
                each.post()

    def run(self) -> None:
        """Let a minute pass until nothing is due any more: the schedules find what has changed, and bring it."""
        quiet = 0
        for _ in range(90):
            self.clock.now += 61
            for each in self.all:
                each.schedule.tick()
            busy = any(each.node.jobs.all(state=JobState.QUEUED) or requested(each.node) for each in self.all)
            quiet = 0 if busy else quiet + 1
            self.post()
            if quiet == 2:
                break
        self.expect("minutes without a job", quiet, 2)
        for link in self.links:
            if link.status == "enabled":
                link.remember()

    # What must hold

    def expect(self, what: str, found: object, expected: object) -> None:
        if found != expected:
            raise Difference(f"day {self.day}: {what}: {_shown(found)} instead of {_shown(expected)}")

    def check(self) -> None:
        """Compare both sides of every feed with what is plainly so."""
        for link in self.links:
            if link.status == "gone":
                for segment in link.segments:
                    here = link.receiver.is_here(link.sender.name, segment)
                    self.expect(f"{segment} is at {link.receiver.name}", here, False)
            else:
                self._check_link(link)
        for each in self.all:
            for segment in (*each.plain.lists, *each.plain.rules):
                self.expect(
                    f"members of {segment} at {each.name}", each.own_members(segment), each.plain.members(segment)
                )
        self._check_campaign()

    def _check_link(self, link: Link) -> None:
        sender, receiver, name = link.sender, link.receiver, f"{link.feed} at {link.receiver.name}"
        for segment, expected in link.expected.items():
            self.expect(f"members of {segment} by {name}", receiver.members(sender.name, segment), expected)
            left = link.before.get(segment, set()) - expected
            ids = Snapshot.open(receiver.project.scope).profile_ids
            found = receiver.project.memberships.statuses(link.feed, segment, sender.name)
            statuses = {status: {ids[number].decode() for number in numbers} for status, numbers in found.items()}
            self.expect(
                f"who is in {segment} by {name}",
                statuses[MemberStatus.REALIZED] | statuses[MemberStatus.EXISTING],
                expected,
            )
            self.expect(
                f"who has left {segment} by {name} and is in it", statuses[MemberStatus.EXITED] & expected, set()
            )
            self.expect(
                f"who left {segment} by {name}, and nobody noticed", left - statuses[MemberStatus.EXITED], set()
            )
            link.before[segment] = expected
        shown = sender.project.feeds.show(link.feed)
        taken = receiver.project.received.show(link.feed, sender.name)
        (partner,) = (each for each in shown["partners"] if each["alias"] == receiver.name)
        self.expect(f"version of {name}", taken["accepted_version"], partner["accepted_version"])
        self.expect(f"hash of {name}", taken["hash"], partner["accepted_hash"])
        self.expect(f"segments of {name}", [each["name"] for each in taken["segments"]], link.segments)
        self.expect(f"receipt of {name}", taken["last_receipt"], partner["last_receipt"])
        self.expect(f"status of {name}", (partner["status"], taken["status"]), (link.status, link.status))

    def _check_campaign(self) -> None:
        """Globe builds on what it received: that follows too."""
        if "campaign" not in {each.name for each in self.globe.project.segments.all()}:
            return
        self.globe.project.segments.evaluate("campaign")
        (link,) = (each for each in self.links if each.receiver is self.globe)
        expected = link.expected["vip"] - self.globe.plain.lists["suppressed"] if link.status != "gone" else set()
        self.expect("members of globe's campaign", self.globe.own_members("campaign"), expected)

    def expect_purged(self, feed: str, *receivers: str) -> None:
        """The sender has each receiver's signed word that it purged something."""
        shown = self.acme.project.feeds.show(feed)["partners"]
        self.expect(
            f"who purged of {feed}", {each["alias"] for each in shown if each["purges"]} >= set(receivers), True
        )

    def cached(self) -> set[Path]:
        return {path for each in self.all for path in each.node.home.path.glob("cache/*/*/*")}

    def check_books(self) -> None:
        """At the end every audit log verifies, and nobody has reason to complain about a partner."""
        for each in self.all:
            each.node.audit.verify()
            alerts = [alert.kind for alert in each.project.alerts.all()]
            self.expect(f"complaints of {each.name}", [kind for kind in alerts if kind.startswith("exchange")], [])
            open_ = [job.kind for job in each.node.jobs.all() if job.state in ("queued", "running")]
            self.expect(f"open jobs of {each.name}", open_, [])

    def counts(self) -> str:
        """Return how many are in each segment of each feed now."""
        return "; ".join(
            f"{link.receiver.name}: " + ", ".join(f"{name} {len(ids)}" for name, ids in link.expected.items())
            for link in self.links
            if link.status != "gone"
        )

    # Deaths

    def dies(self, organisation: Organisation, *arguments: str, kill: str) -> None:
        """Run a command of an organisation in a process of its own, which dies at a place."""
        command = [sys.executable, KILLER, *arguments, "--home", str(organisation.node.home.path)]
        done = subprocess.run(command, capture_output=True, text=True, env=self._environment(kill), check=False)
        self.expect(
            f"the end of {arguments} at {kill} ({done.stderr or done.stdout})", done.returncode, -signal.SIGKILL
        )

    @contextmanager
    def served_elsewhere(self, organisation: Organisation, kill: str) -> Iterator[None]:
        """Let a process of its own answer for an organisation; it dies at a place, and is started again."""
        organisation.leave()
        process = self._serve(organisation, kill)
        ended: list[int] = []

        def restart() -> None:
            nonlocal process
            ended.append(process.wait())
            process = self._serve(organisation, "never - 0")

        watcher = threading.Thread(target=restart)
        watcher.start()
        try:
            yield
            watcher.join(WAIT)
            self.expect(f"the end of {organisation.name}'s service at {kill}", ended, [-signal.SIGKILL])
        finally:
            process.terminate()
            process.wait(WAIT)
        organisation.come_back()

    def _serve(self, organisation: Organisation, kill: str) -> "subprocess.Popen[str]":
        home = str(organisation.node.home.path)
        with (organisation.folder / f"{organisation.name}.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, KILLER, "node", "serve", "--listen", organisation.address, "--home", home],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self._environment(kill),
            )
        assert process.stdout is not None
        if not process.stdout.readline().startswith("listening on "):
            raise Difference(f"day {self.day}: the service of {organisation.name} did not start")
        return process

    def _environment(self, kill: str) -> dict[str, str]:
        return {**os.environ, "KILL": kill, "CLOCK": str(self.clock.now)}


def _shown(value: object) -> str:
    if isinstance(value, set):
        return f"{len(value)} ({', '.join(map(str, sorted(value)[:8]))})"
    return str(value)
