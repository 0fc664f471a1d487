"""A week of two organisations whose segments go to destinations: whatever happens, each target has exactly whom it should.

Who that is, is worked out here and in plain.py from plain sets; the targets of week_targets.py keep their own.
"""

import errno
import hashlib
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import killer
import mortals
import targets
from clock import Clock
from months import SHARES, Difference, requested
from organisations import Link, Organisation
from plain import Person
from sides import EMAIL, PHONE, SMALL_TERMS
from week_targets import SLOW_SECONDS, SOLUTION, Broken, Cloud, Folder, Members, Table, Target, Web

from node.destinations.targets import https
from node.node import Node
from node.operations.jobs import JobState
from node.project import Project
from node.service import Schedule
from psi.errors import VesicaError

SHARED = "shared.app.loyal"
NO = ("n", "dn")
ID = "id"
ANALYTICS, ONSITE = "analytics", "onsite-personalisation"
MINUTES = 120  # until a week counts as stuck
LAST_PLACE = 60  # about as many places to die at as one turn passes
SHORT_SECONDS = SLOW_SECONDS / 2  # in which a request has to be answered


@dataclass(eq=False, kw_only=True)
class Channel:
    """A destination, and what it should have."""

    name: str
    owner: Organisation
    target: Target
    identity: str
    use: str
    segments: set[str] = field(default_factory=set)
    status: str = "active"  # or paused, deleted
    before: Members = field(default_factory=dict)  # who was there when it was paused
    left: Members = field(default_factory=dict)  # who stayed there when a segment was left
    fault: str | None = None
    steps: int = 0  # that the fault lasts still

    @property
    def destinations(self) -> Any:
        return self.owner.project.destinations


def work(home: Path, place: int, now: int) -> None:
    """Do what a service does in one turn, and die at a place."""
    https.TIMEOUT_SECONDS = SHORT_SECONDS
    killer.arm(f"any - {place}")
    with Node.open(home, now=Clock(now)) as node:
        Schedule(node.home).tick()
        node.sync()


class Week:
    """Acme, which shares a feed; Globe, which uses it; and the destinations of both."""

    def __init__(
        self, folder: Path, *, seed: int = 1, people: int = 60, say: Callable[[str], None] = lambda _: None
    ) -> None:
        self.folder, self.clock, self.chance, self.people = folder, Clock(), random.Random(seed), people
        self.say, self.step, self.numbers = say, 0, 0
        self.acme, self.globe = (
            Organisation(folder, name, now=self.clock, model="opt-out", chance=self.chance)
            for name in ("acme", "globe")
        )
        for each in (self.acme, self.globe):
            each.project.set_terms(**SMALL_TERMS, epoch_days=12, evaluations=100)
        self.link: Link | None = None
        self.app: Project
        self.devices: dict[str, str] = {}  # e-mails of the people of project "app"
        self.loyal, self.is_shared, self.labels = set[str](), False, set[str]()
        self.channels: list[Channel] = []

    def play(self, steps: int, events: "list[Callable[[Week], str]]") -> None:
        """Let so many things happen, and compare after each; raises Difference."""
        mortals.warm()
        kept, https.TIMEOUT_SECONDS = https.TIMEOUT_SECONDS, SHORT_SECONDS
        try:
            with self._disks():
                self.acme.start()
                self.globe.start()
                self.begin()
                self.settle()
                for _ in range(steps):
                    self.step += 1
                    self._step(events)
                self.end()
        finally:
            https.TIMEOUT_SECONDS = kept
            for channel in self.channels:
                channel.target.close()
            for each in (self.acme, self.globe):
                each.close()

    def begin(self) -> None:
        acme, globe = self.acme, self.globe
        for each in (acme, globe):
            each.know(self.newcomers(each, self.people // 2))
        acme.list_("vip", set(acme.some(self.people // 3)))
        found = globe.project.partners.look_up(acme.project.partners.connect_id().encode())
        globe.project.partners.request(found, alias="acme")
        acme.project.partners.accept("globe")
        self.post()
        self.share_feed()
        self.set_rule(4)
        globe.list_("listed", set(globe.some(self.people // 6)))
        globe.project.segments.create("theirs", rule="received.acme.vip")
        globe.project.segments.create("campaign", rule="received.acme.vip AND NOT own.listed")
        globe.project.policies.enable("restrict-analytics")
        globe.node.share_segments(on=True)
        self.app = globe.node.create_project("app")
        self.app.consent.set_model("opt-out")
        emails = {f"a{n}": f"person{n}@example.com" for n in range(1, self.people, 3)}
        lines = [
            "id,email,share",
            *(f"{id},{email},{'n' * (n % 5 == 0)}" for n, (id, email) in enumerate(emails.items())),
        ]
        file = globe._file("app", lines)
        self.app.profiles.import_(
            file, dataset="app", id_column="id", identities=[targets.EMAIL_COLUMN], consent_column="share"
        )
        self.devices = emails
        self.set_loyal(set(self.chance.sample(sorted(emails), len(emails) // 2)))
        self.share_loyal()
        self._add_channels()

    def _add_channels(self) -> None:
        certificate = targets.certificate(self.folder)
        ends: list[tuple[str, Organisation, Target, str, str]] = [
            ("files", self.globe, Folder(self.folder / "files", "csv"), ID, ANALYTICS),
            ("hook", self.globe, Web(certificate, self.chance), EMAIL, ONSITE),
            (f"cloud.{SOLUTION}", self.globe, Cloud(certificate, self.chance), EMAIL, ANALYTICS),
            ("crm", self.globe, Table(self.folder / "crm.db"), PHONE, ONSITE),
            ("lines", self.acme, Folder(self.folder / "lines", "jsonl"), EMAIL, ANALYTICS),
        ]
        for name, owner, target, identity, use in ends:
            channel = Channel(name=name, owner=owner, target=target, identity=identity, use=use)
            self.channels.append(channel)
            self.create(channel)
            for segment in self.chance.sample(self.segments_of(owner), min(2, len(self.segments_of(owner)))):
                self.activate(channel, segment)

    # What people do

    def newcomers(self, owner: Organisation, count: int) -> dict[str, Person]:
        """Return people who were not known: half of the world is known to each."""
        found: dict[str, Person] = {}
        for number in self.chance.sample(range(1, self.people + 1), self.people):
            id = f"{owner.name[0]}{number}"
            if id in owner.plain.people or len(found) == count:
                continue
            values = {EMAIL: f"person{number}@example.com", PHONE: f"+4474001{number - number % 9 % 2:05}"}
            known = {each: value for each, value in values.items() if self.chance.random() < 0.7}
            records = {"crm": known or {EMAIL: values[EMAIL]}}
            found[id] = Person(records=records, share=self.chance.choice(SHARES), orders=self.chance.randrange(10))
        return found

    def set_rule(self, least: int) -> None:
        segments, text = self.globe.project.segments, f"orders >= {least}"
        if "big" in self.globe.plain.rules:
            segments.update("big", rule=text)
        else:
            segments.create("big", rule=text)
        self.globe.plain.rules["big"] = lambda person: person.orders >= least

    def set_loyal(self, ids: set[str]) -> None:
        file = self.globe._file("loyal", ["id", *sorted(ids)])
        if self.loyal:
            self.app.segments.update("loyal", file, anyway=True)
        else:
            self.app.segments.create("loyal", members_file=file)
        self.loyal = ids

    def share_loyal(self) -> None:
        self.app.sharing.share("loyal", ["default"], namespaces=["email_sha256"])
        self.is_shared = True

    def share_feed(self) -> None:
        """Acme shares vip, by a feed with a new name."""
        self.numbers += 1
        name = f"feed{self.numbers}"
        self.acme.project.feeds.create(name, segments=["vip"], namespaces=[EMAIL, PHONE], partners=["globe"])
        self.acme.project.feeds.publish(name)
        self.post()
        self.globe.project.received.enable(name)
        self.post()
        self.acme.project.feeds.sync(name)
        self.link = Link(name, self.acme, self.globe, ["vip"], [EMAIL, PHONE])

    def create(self, channel: Channel) -> None:
        name, _, solution = channel.name.partition(".")
        settings, secret = channel.target.settings(), channel.target.secret()
        if not solution:
            identity = channel.identity.partition("/")[0]
            created = channel.destinations.create(
                name, channel.target.kind, settings, identity=identity, uses=[channel.use], secret=secret
            )
            channel.target.learn(created.secret)
        elif channel.status == "deleted":
            channel.destinations.connect(name, settings, secret)
        else:
            channel.destinations.create(name, channel.target.kind, settings, uses=[channel.use], secret=secret)
        channel.status = "active"

    def activate(self, channel: Channel, segment: str) -> None:
        if channel.use == ANALYTICS and self.is_labelled(segment):
            with suppress(VesicaError):
                channel.destinations.activate(channel.name, [segment])
                raise Difference(f"step {self.step}: {segment} was activated for {channel.name}, against its label")
            return
        channel.destinations.activate(channel.name, [segment])
        channel.segments.add(segment)

    # What should be so

    def segments_of(self, owner: Organisation) -> list[str]:
        """Return what can be activated now."""
        if owner is self.acme:
            return ["vip"]
        received = [] if self.link is None else ["campaign", "theirs"]
        return ["big", "listed", *received, *([SHARED] if self.is_shared else [])]

    def is_labelled(self, segment: str) -> bool:
        return segment in self.labels or (segment == "campaign" and "listed" in self.labels)

    def members(self, owner: Organisation, segment: str) -> set[str]:
        """Return the ids of a segment's members."""
        if segment in ("theirs", "campaign"):
            known = set[str]() if self.link is None else self.link.expected["vip"]
            return known - (owner.plain.lists["listed"] if segment == "campaign" else set())
        if segment == SHARED:
            emails = {self.devices[each] for each in self.loyal} if self.is_shared else set()
            return {id for id, person in owner.plain.people.items() if person.values(EMAIL) & emails}
        return owner.plain.members(segment)

    def wanted(self, channel: Channel, segment: str) -> set[str]:
        """Return the identities that a target should have of a segment, as it reads them."""
        plain, members = channel.owner.plain, self.members(channel.owner, segment)
        if channel.use == ANALYTICS and self.is_labelled(segment):
            return set()
        if channel.identity == ID:
            yes = ("y",) if plain.model == "opt-in" else None
            shares = {id: plain.people[id].share for id in members}
            return {id for id, share in shares.items() if (share in yes if yes else share not in NO)}
        holders = plain.holders(channel.identity)
        return {
            hashlib.sha256(value.encode()).hexdigest()
            for value, ids in holders.items()
            if ids & members and all(plain.people[id].may_be_shared(channel.identity, plain.model) for id in ids)
        }

    def expected(self, channel: Channel) -> Members:
        if channel.status == "paused":
            return channel.before
        return {each: self.wanted(channel, each) for each in channel.segments if channel.status == "active"}

    # How a step goes

    def _step(self, events: "list[Callable[[Week], str]]") -> None:
        done = [event(self) for event in self.chance.choices(events, k=self.chance.choice([1, 1, 2]))]
        done += self._faults()
        if self.chance.random() < 0.35:
            done.append(self._kill())
        self.say(f"step {self.step:3}  {'; '.join(done)}")
        self.run()
        self.check_hours()
        for channel in self.channels:
            channel.steps -= channel.fault is not None
            if channel.fault is not None and channel.steps <= 0:
                self.heal(channel)
        self.settle()
        self.say("          " + ", ".join(f"{name} {size}" for name, size in self.sizes().items()))

    def settle(self) -> None:
        self.run()
        for channel in self.channels:
            if channel.fault is None and channel.status == "active":
                shown = channel.destinations.show(channel.name)
                if shown["status"] == "disabled":
                    channel.destinations.resume(channel.name)
                if shown["failed"]:
                    channel.destinations.replay(channel.name)
        self.run()
        self.check()

    def _faults(self) -> list[str]:
        said = []
        for channel in self.channels:
            if channel.fault is None and channel.status == "active" and self.chance.random() < 0.2:
                channel.fault = self.chance.choice(channel.target.faults)
                channel.steps = self.chance.choice([1, 1, 1, 3])
                channel.target.fail(channel.fault)
                said.append(f"{channel.name} fails: {channel.fault}")
        return said

    def heal(self, channel: Channel) -> None:
        channel.target.heal()
        channel.fault = None

    def _kill(self) -> str:
        owner, place = self.chance.choice([self.globe, self.globe, self.acme]), self.chance.randint(1, LAST_PLACE)
        self.clock.now += 61
        home = owner.node.home.path
        process = mortals.FORKS.Process(target=work, args=(home, place, self.clock.now))
        process.start()
        process.join(mortals.WAIT)
        if process.exitcode not in (0, mortals.KILLED):
            raise Difference(f"step {self.step}: a process of {owner.name} ended with {process.exitcode}")
        return f"{owner.name} is killed at place {place}" if process.exitcode else f"{owner.name} works in a process"

    def post(self) -> None:
        for _ in range(2):
            self.acme.post()
            self.globe.post()

    def run(self) -> None:
        """Let a minute pass until nothing is due any more."""
        quiet = 0
        for _ in range(MINUTES):
            self.clock.now += 61
            for each in (self.acme, self.globe):
                each.schedule.tick()
            busy = any(
                each.node.jobs.all(state=JobState.QUEUED) or requested(each.node) for each in (self.acme, self.globe)
            )
            quiet = 0 if busy else quiet + 1
            self.acme.post()
            self.globe.post()
            if quiet == 2:
                break
        self.expect("minutes without a job", quiet, 2)
        if self.link is not None:
            self.link.remember()

    # What must hold

    def expect(self, what: str, found: object, expected: object) -> None:
        if found != expected:
            raise Difference(f"step {self.step}: {what}: {found} instead of {expected}")

    def check(self) -> None:
        """Compare each target that works with whom it should have."""
        for channel in self.channels:
            if channel.fault is not None:
                continue
            try:
                found = channel.target.members()
            except Broken as error:
                raise Difference(f"step {self.step}: {channel.name}: {error}") from error
            expected = self.expected(channel)
            for segment in sorted(found.keys() | expected.keys()):
                here, wanted = found.get(segment, set()), expected.get(segment, set())
                stayed = channel.left.get(segment, set())
                self.expect(f"who is missing in {segment} at {channel.name}", sorted(wanted - here), [])
                self.expect(f"who is in {segment} at {channel.name}, and must not", sorted(here - wanted - stayed), [])
        self.check_hours(done=True)

    def check_hours(self, *, done: bool = False) -> None:
        """Each hour's row sums; where all is `done` nothing waits."""
        for channel in (each for each in self.channels if each.status != "deleted"):
            for row in channel.destinations.runs(channel.name):
                what = f"the hour {row['hour']} of {channel.name}"
                parts = [row[each] for each in ("activated", "excluded", "failed", "waiting")]
                self.expect(f"the sum of {what}", sum(parts), row["received"])
                self.expect(f"counts below zero in {what}", [each for each in parts if each < 0], [])
                coded = [each for each in row["codes"] if each["outcome"] in ("excluded", "failed")]
                self.expect(f"the codes of {what}", sum(each["count"] for each in coded), parts[1] + parts[2])
                self.expect(f"codes of {what} without a reason", [each for each in coded if not each["reason"]], [])
                if done and channel.fault is None and channel.status == "active":
                    self.expect(f"what waits in {what}", row["waiting"], 0)

    def end(self) -> None:
        for each in (self.acme, self.globe):
            each.node.audit.verify()
            alerts = [alert.kind for alert in each.project.alerts.all()]
            self.expect(f"complaints of {each.name}", [kind for kind in alerts if kind.startswith("exchange")], [])

    def sizes(self) -> dict[str, int]:
        return {each.name: sum(map(len, each.target.members().values())) for each in self.channels}

    @contextmanager
    def _disks(self) -> Iterator[None]:
        """Let what is written to a folder that is full fail for want of space, after half of it."""
        sync = os.fsync

        def no_space(descriptor: int) -> None:
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            ends = [each.target for each in self.channels if isinstance(each.target, Folder)]
            if any(each.full and each.holds(path) for each in ends):
                os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(descriptor)

        os.fsync = no_space  # type: ignore[assignment]
        try:
            yield
        finally:
            os.fsync = sync
