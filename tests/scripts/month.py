"""A month between three organisations, told step by step, and compared with a plain join after each of them.

    python tests/scripts/month.py [--seed 1] [--people 120]

Acme shares a feed with Globe and with Fern, Fern shares one with Acme: three real nodes that reach each other over TLS on
loopback, on one clock. What must come out is worked out in plain.py. The first difference ends it with exit code 1.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import plain
from plain import Person
from sides import EMAIL, PHONE, SMALL_TERMS, Side
from sqlalchemy import select

from node.feeds.receiving.received import NotReceived
from node.feeds.sending.edits import Addition, Removal
from node.feeds.sending.schedule import Schedule
from node.imports.importer import IdentityColumn
from node.node import Node
from node.partners import key_epochs
from node.people.data import Snapshot
from node.storage.tables import feed_partners
from node.transport.endpoint import bind
from psi.errors import VesicaError

DEVICE = "idfa/uuid-v1"
COLUMNS = {EMAIL: "email", PHONE: "phone", DEVICE: "device"}
KILLER = str(Path(__file__).parent / "killer.py")
EPOCH_DAYS = 12
START = 1_800_000_000
WAIT = 120.0  # seconds, for what takes one or two
SHARES = ("", "", "", "y", "y", "dy", "p", "u", "n", "dn")
SENDER_DIES = (
    "replaced /run 1",
    "replaced receipt.0 1",
    "calling node.feeds.sending.releases:_sent 1",
    "acted feed.run 1",
)
RECEIVER_DIES = ("replaced receipt.0 1", "replacing .changes 2", "acting feed.received 1", "acted feed.received 1")


class Clock:
    """Seconds since 1970, that go on when the story does."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        return self.now


def wished(node: Node) -> bool:
    """Say whether a receiver has asked for a run that waits for its time: that can be some minutes."""
    with node.store.read() as tx:
        return tx.execute(select(feed_partners.c.id).where(feed_partners.c.wished.is_not(None))).first() is not None


class Organisation(Side):
    """A node, and beside it what is plainly true of its people: whatever happens to one happens to the other."""

    def __init__(self, folder: Path, name: str, *, now: Clock, model: str, chance: random.Random) -> None:
        super().__init__(folder, name, now=now)
        self.plain, self.chance, self.clock = plain.Organisation(model), chance, now
        self._serving, self.schedule = ExitStack(), Schedule(self.node)
        self.project.set_terms(**SMALL_TERMS, epoch_days=EPOCH_DAYS, evaluations=4)
        self.project.consent.set_model(model)

    def start(self) -> None:
        self._serving.enter_context(self.serving())

    def stop(self) -> None:
        self._serving.close()

    def leave(self) -> None:
        """Let another process have the address."""
        self.stop()
        self._bound.close()

    def come_back(self) -> None:
        self._bound = bind(self.address)
        self.start()

    def close(self) -> None:
        self.stop()
        self.node.close()
        self._bound.close()

    def know(self, people: dict[str, Person], dataset: str = "crm") -> None:
        """Import people: as the files of the world are, cells of one thing are written in many ways."""
        self.clock.now += 1  # what is said later counts
        lines = ["id,email,phone,device,share,orders"]
        for id, person in people.items():
            held = person.held.get(dataset, {})
            cells = (self._scribbled(COLUMNS[each], held[each]) if each in held else "" for each in COLUMNS)
            lines.append(",".join([id, *cells, person.share, str(person.orders)]))
        file = self._file(dataset, lines)
        columns = [f"{column}={each.partition('/')[0]}" for each, column in COLUMNS.items()]
        self.project.profiles.import_(
            file,
            dataset=dataset,
            id_column="id",
            identities=[IdentityColumn.parse(each) for each in columns],
            consent_column="share",
            attributes=["orders"] if dataset == "crm" else [],
        )
        self.plain.people |= people

    def say(self, id: str, share: str, namespace: str | None = None) -> None:
        """Let somebody say whether they may be shared."""
        self.clock.now += 1
        self.project.consent.set(id, share, namespace and namespace.partition("/")[0])
        if namespace is None:
            self.plain.people[id].share = share
        else:
            self.plain.people[id].share_by[namespace] = share

    def choose_model(self, model: str) -> None:
        self.project.consent.set_model(model)
        self.plain.model = model

    def list_(self, name: str, ids: set[str]) -> None:
        """Make a segment that is a list, or replace its members."""
        file = self._file(name, ["id", *sorted(ids)])
        if name in self.plain.lists:
            self.project.segments.update(name, file)
        else:
            self.project.segments.create(name, members_file=file)
        self.plain.lists[name] = set(ids)

    def rule(self, name: str, text: str, holds: Callable[[Person], bool]) -> None:
        self.project.segments.create(name, rule=text)
        self.plain.rules[name] = holds

    def some(self, count: int, ids: set[str] | None = None) -> list[str]:
        found = sorted(self.plain.people if ids is None else ids)
        return self.chance.sample(found, min(count, len(found)))

    def own_members(self, segment: str) -> set[str]:
        ids = Snapshot.open(self.project).profile_ids
        return {ids[number].decode() for number in self.project.segments.members(segment)}

    def is_here(self, partner: str, segment: str) -> bool:
        try:
            self.members(partner, segment)
        except NotReceived:
            return False
        return True

    def _file(self, name: str, lines: list[str]) -> Path:
        file = self.folder / f"{self.name}-{name}.csv"
        file.write_text("\n".join(lines) + "\n")
        return file

    def _scribbled(self, column: str, value: str) -> str:
        match column, self.chance.randrange(3):
            case "phone", 0:
                return f"{value[:3]} {value[3:7]} {value[7:]}"
            case "phone", 1:
                return f"tel:{value[:3]}-{value[3:]}"
            case "email" | "device", 0:
                return value.upper()
            case "email", 1:
                return f" {value.capitalize()} "
        return value


@dataclass(eq=False)
class Link:
    """A feed as it goes from one organisation to another."""

    feed: str
    sender: Organisation
    receiver: Organisation
    segments: list[str]
    namespaces: list[str]
    status: str = "enabled"
    sent: plain.Released = field(default_factory=dict)
    before: dict[str, set[str]] = field(default_factory=dict)

    @property
    def expected(self) -> dict[str, set[str]]:
        return {each: plain.join(self.sent, self.receiver.plain, each, self.namespaces) for each in self.segments}

    def remember(self) -> None:
        self.sent = self.sender.plain.released(self.segments, self.namespaces)


class Difference(AssertionError):
    """The product and the plain join disagree."""


class Month:
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

    def tell(self) -> None:
        """Let it all happen; raises Difference."""
        try:
            for each in self.all:
                each.start()
            for step in STORY:
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
                held={"crm": known or {EMAIL: values[EMAIL]}},
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
            busy = any(each.node.jobs.list(state="queued") or wished(each.node) for each in self.all)
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
            ids = Snapshot.open(receiver.project).profile_ids
            found = receiver.project.memberships.statuses(link.feed, segment, sender.name)
            statuses = {status: {ids[number].decode() for number in numbers} for status, numbers in found.items()}
            self.expect(f"who is in {segment} by {name}", statuses["realized"] | statuses["existing"], expected)
            self.expect(f"who has left {segment} by {name} and is in it", statuses["exited"] & expected, set())
            self.expect(f"who left {segment} by {name}, and nobody noticed", left - statuses["exited"], set())
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
        if "campaign" not in {each.name for each in self.globe.project.segments.list()}:
            return
        self.globe.project.segments.evaluate("campaign")
        (link,) = (each for each in self.links if each.receiver is self.globe)
        expected = link.expected["vip"] - self.globe.plain.lists["suppressed"] if link.status != "gone" else set()
        self.expect("members of globe's campaign", self.globe.own_members("campaign"), expected)

    def expect_purged(self, feed: str, *receivers: str) -> None:
        """The sender holds each receiver's signed word that it purged something."""
        shown = self.acme.project.feeds.show(feed)["partners"]
        self.expect(
            f"who purged of {feed}", {each["alias"] for each in shown if each["purges"]} >= set(receivers), True
        )

    def cached(self) -> set[Path]:
        return {path for each in self.all for path in each.node.home.glob("cache/*/*/*")}

    def check_books(self) -> None:
        """At the end every audit log verifies, and nobody has reason to complain about a partner."""
        for each in self.all:
            each.node.audit.verify()
            alerts = [alert.kind for alert in each.project.alerts.list()]
            self.expect(f"complaints of {each.name}", [kind for kind in alerts if kind.startswith("exchange")], [])
            open_ = [job.kind for job in each.node.jobs.list() if job.state in ("queued", "running")]
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
        command = [sys.executable, KILLER, *arguments, "--home", str(organisation.node.home)]
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
        home = str(organisation.node.home)
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


# The steps: each does one thing, and says what it did


def all_connect(month: Month) -> str:
    for each in month.all:
        each.know(month.newcomers(each, month.people // 2))
    for receiver in (month.globe, month.fern):
        found = receiver.project.partners.look_up(month.acme.project.partners.connect_id().encode())
        receiver.project.partners.request(found, alias="acme")
        month.acme.project.partners.accept(receiver.name)
    month.post()
    for each in (month.globe, month.fern):
        month.expect("partner of " + each.name, [row["status"] for row in each.project.partners.list()], ["active"])
    return f"three organisations import {month.people // 2} people each; Globe and Fern connect with Acme"


def feeds_are_published(month: Month) -> str:
    acme, globe, fern = month.all
    acme.list_("vip", set(acme.some(month.people // 3)))
    acme.list_("lapsed", set(acme.some(month.people // 5)))
    acme.rule("frequent", "orders >= 4", lambda person: person.orders >= 4)
    fern.list_("readers", set(fern.some(month.people // 3)))
    acme.project.feeds.create(
        "summer", segments=["vip", "lapsed", "frequent"], namespaces=[EMAIL, PHONE], partners=["globe", "fern"]
    )
    fern.project.feeds.create("letters", segments=["readers"], namespaces=[EMAIL, DEVICE], partners=["acme"])
    for row in acme.project.feeds.estimate("summer"):
        receiver = {"globe": globe, "fern": fern}[row["partner"]]
        segment, namespace = row["segment"], row["namespace"]
        known = receiver.plain.matchable(namespace)
        overlap = len(acme.plain.in_segment(segment, namespace) & known)
        consented = len(acme.plain.may_be_told(segment, namespace) & known)
        what = f"estimate of {segment} by {namespace} with {receiver.name}"
        if overlap:
            month.expect(what, (row["overlap"], row["consented"] or 0), (overlap, consented))
    acme.project.feeds.publish("summer")
    fern.project.feeds.publish("letters")
    month.post()
    for receiver in (globe, fern):
        receiver.project.received.enable("summer")
    acme.project.received.enable("letters")
    month.post()
    month.links = [
        Link("summer", acme, globe, ["vip", "lapsed", "frequent"], [EMAIL, PHONE]),
        Link("summer", acme, fern, ["vip", "lapsed", "frequent"], [EMAIL, PHONE]),
        Link("letters", fern, acme, ["readers"], [EMAIL, DEVICE]),
    ]
    return "Acme's estimates are right; it publishes summer to Globe and Fern, Fern publishes letters to Acme"


def globe_builds_on_it(month: Month) -> str:
    globe = month.globe
    globe.list_("suppressed", set(globe.some(month.people // 6)))
    globe.project.segments.create("campaign", rule="received.acme.vip AND NOT own.suppressed")
    return "Globe makes a campaign of received.acme.vip AND NOT own.suppressed"


def a_day_goes_by(month: Month, *, but: Organisation | None = None) -> str:
    """People come, order, take another address, move in and out of lists; everywhere, or `but` at one organisation."""
    changing = [each for each in month.all if each is not but]
    for each in changing:
        bought = {id: each.plain.people[id] for id in each.some(3)}
        for person in bought.values():
            person.orders = month.chance.randrange(10)
        each.know(month.newcomers(each, 2) | bought)
        for name in sorted(each.plain.lists.keys() - {"suppressed"}):
            each.list_(name, each.plain.lists[name] ^ set(each.some(4)))
    each = changing[month.day % len(changing)]
    moved = {id: each.plain.people[id] for id in each.some(2)}
    for person in moved.values():
        person.held["shop"] = {EMAIL: f"person{month.chance.randint(1, month.people)}@example.com"}
    each.know(moved, "shop")
    return "people come, order, move"


def some_withdraw(month: Month) -> str:
    """The sender's people leave with the next run, the receiver's at once."""
    for id in month.acme.some(4, month.acme.plain.members("vip")):
        month.acme.say(id, "n")
    for receiver in (month.globe, month.fern):
        for id in receiver.some(3):
            receiver.say(id, "n")
        month.check()
    return "four of Acme's vips, three of Globe's and of Fern's people withdraw their consent"


def some_withdraw_one_identity(month: Month) -> str:
    for id in month.acme.some(6):
        month.acme.say(id, "n", EMAIL)
    for id in month.globe.some(3):
        month.globe.say(id, "n", PHONE)
    return "six of Acme's people take back their e-mail alone, three of Globe's their phone"


def some_agree_again(month: Month) -> str:
    for each in month.all:
        for id in each.some(3, {id for id, person in each.plain.people.items() if person.share in plain.NO}):
            each.say(id, "y")
    return "some who had said no say yes"


def acme_asks_first(month: Month) -> str:
    month.acme.choose_model("opt-in")
    return "Acme turns to opt-in: only those who said yes are shared"


def acme_asks_no_more(month: Month) -> str:
    month.acme.choose_model("opt-out")
    return "Acme turns back to opt-out"


def a_segment_is_unshared(month: Month) -> str:
    month.acme.project.feeds.unshare("summer", segment="lapsed")
    month.post()
    for link in month.links[:2]:
        link.segments.remove("lapsed")
        month.expect(f"lapsed is at {link.receiver.name}", link.receiver.is_here("acme", "lapsed"), False)
    month.check()
    month.expect_purged("summer", "globe", "fern")
    return "Acme unshares the segment lapsed: gone at once, and both partners have signed that they purged it"


def a_namespace_is_taken_out(month: Month) -> str:
    month.fern.project.feeds.edit("letters", Removal(namespaces=["idfa"]))
    month.post()
    month.links[2].namespaces.remove(DEVICE)
    month.check()
    return "Fern matches by device no more: who was in it by that alone is out at once"


def a_segment_is_added(month: Month) -> str:
    """What was accepted goes on where the addition is not."""
    acme, globe, fern = month.all
    acme.list_("gifts", set(acme.some(month.people // 4)))
    acme.project.feeds.edit("summer", addition=Addition(segments=["gifts"]))
    month.post()
    month.run()
    month.check()
    month.expect("gifts arrive unasked", [each.is_here("acme", "gifts") for each in (globe, fern)], [False, False])
    globe.project.received.enable("summer")
    fern.project.received.decline_version("summer", reason="not now")
    month.post()
    month.links[0].segments.append("gifts")
    return "Acme adds the segment gifts: Globe accepts, Fern declines and keeps what it has"


def a_namespace_is_added(month: Month) -> str:
    """Nobody is offered it before there is an estimate, nor matched by it before a partner accepts."""
    feeds = month.acme.project.feeds
    feeds.edit("summer", addition=Addition(namespaces=["idfa"]))
    month.post()
    waiting = {each["alias"]: each["waits_for_estimate"] for each in feeds.show("summer")["partners"]}
    month.expect("who waits for an estimate", waiting, {"globe": [DEVICE], "fern": [DEVICE]})
    feeds.estimate("summer")
    feeds.publish("summer")
    month.post()
    month.run()
    month.check()
    for link in month.links[:2]:
        link.receiver.project.received.enable("summer")
        link.namespaces.append(DEVICE)
    month.links[1].segments.append("gifts")
    month.post()
    return "Acme adds the namespace idfa: after an estimate both accept it, and Fern with it the gifts"


def a_label_on_a_field_in_use(month: Month) -> str:
    """It is refused where it would stop a feed; one that stops nothing travels to the partners at once."""
    labels = month.acme.project.labels
    try:
        labels.apply("C11", "field", "crm.orders")
    except VesicaError as error:
        month.expect("the refusal", error.code, "policy_conflict")
        month.expect("the refusal names", [each in str(error) for each in ("summer", "frequent", "C11")], [True] * 3)
    else:
        raise Difference(f"day {month.day}: C11 was put on a field that a published feed uses")
    month.expect("labels of Acme", labels.in_use(), {})
    labels.apply("C9", "field", "crm.orders")
    month.post()
    for receiver in (month.globe, month.fern):
        found = {each["name"]: each["labels"] for each in receiver.project.received.show("summer")["segments"]}
        month.expect(f"labels at {receiver.name}", found, {each: ["C9"] * (each == "frequent") for each in found})
    month.check()
    return "C11 on crm.orders, which frequent uses, is refused; C9 is not, and both partners see it"


def globe_pauses(month: Month) -> str:
    month.globe.project.received.disable("summer", reason="holiday")
    month.post()
    month.links[0].status = "disabled"
    a_day_goes_by(month, but=month.globe)  # who is new at Globe is not asked about in a pause
    return "Globe pauses: what came stays, Fern's runs go on"


def globe_goes_on(month: Month) -> str:
    month.globe.project.received.enable("summer")
    month.post()
    month.links[0].status = "enabled"
    return "Globe goes on, and has everything"


def the_sender_is_killed(month: Month) -> str:
    a_day_goes_by(month)
    kill = month.chance.choice(SENDER_DIES)
    month.dies(month.acme, "feed", "sync", "summer", kill=kill)
    return f"Acme is killed in the middle of a run ({kill}), and runs it again"


def a_receiver_is_killed(month: Month) -> str:
    a_day_goes_by(month)
    kill = month.chance.choice(RECEIVER_DIES)
    with month.served_elsewhere(month.globe, kill):
        month.run()
    return f"Globe is killed in the middle of a run ({kill}), and started again"


def an_epoch_is_over(month: Month) -> str:
    before = month.cached()
    month.clock.now += EPOCH_DAYS * 86_400
    a_day_goes_by(month)
    month.run()
    month.expect("caches of an epoch that is over", before & month.cached(), set())
    return "the key epoch is over: new keys, and the old caches are gone"


def acme_changes_its_keys(month: Month) -> str:
    connection = month.acme.project.partners.get("globe").id
    before = {path for path in month.cached() if connection in path.parts}
    key_epochs.rotate(month.acme.project, "globe")
    month.check()
    a_day_goes_by(month)
    month.run()
    month.expect("caches of keys that are gone", before & month.cached(), set())
    return "Acme ends the key epoch with Globe: the caches are gone, nobody is missed meanwhile"


def fern_gets_it_no_more(month: Month) -> str:
    month.acme.project.feeds.unshare("summer", partner="fern", reason="the contract is over")
    month.post()
    month.links[1].status = "gone"
    month.check()
    month.expect_purged("summer", "fern")
    return "Acme unshares summer with Fern: purged and signed; Globe keeps it"


def they_disconnect(month: Month) -> str:
    month.fern.project.partners.disconnect("acme")
    month.post()
    for link in month.links[1:]:
        link.status = "gone"
    month.check()
    statuses = [each.project.partners.get(name).status for each, name in ((month.acme, "fern"), (month.fern, "acme"))]
    month.expect("the connection between Acme and Fern", statuses, ["disconnected"] * 2)
    return "Fern disconnects: what went either way is purged; Acme and Globe go on"


STORY: tuple[Callable[[Month], str], ...] = (
    all_connect,
    feeds_are_published,
    globe_builds_on_it,
    a_day_goes_by,
    some_withdraw,
    a_day_goes_by,
    some_withdraw_one_identity,
    the_sender_is_killed,
    a_segment_is_unshared,
    a_day_goes_by,
    a_label_on_a_field_in_use,
    globe_pauses,
    globe_goes_on,
    a_segment_is_added,
    a_namespace_is_added,
    an_epoch_is_over,
    acme_asks_first,
    a_receiver_is_killed,
    acme_asks_no_more,
    some_agree_again,
    a_namespace_is_taken_out,
    acme_changes_its_keys,
    fern_gets_it_no_more,
    they_disconnect,
    a_day_goes_by,
)


def _shown(value: object) -> str:
    if isinstance(value, set):
        return f"{len(value)} ({', '.join(map(str, sorted(value)[:8]))})"
    return str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--people", type=int, default=120)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vesica-month-") as folder:
        try:
            Month(Path(folder), seed=arguments.seed, people=arguments.people, say=partial(print, flush=True)).tell()
        except Difference as error:
            sys.exit(f"the product and the plain join differ: {error}")
    print("After every step both sides' members were those of a plain join.")


if __name__ == "__main__":
    main()
