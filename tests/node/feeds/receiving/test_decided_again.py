"""Whatever changes, and in whatever order: the members that a receiver keeps are those of a plain join of all it has.

The sender is played here: it evaluates by a hash, and seals what it likes. `make assure` plays more seeds: VESICA_CHANGES
has them.
"""

import hashlib
import os
import random
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sides import EMAIL, PHONE, SMALL_TERMS, Pair

from node.erasure.erasure import People
from node.exchanges.channels import cache_of, running_epoch
from node.feeds import versions
from node.feeds.receiving import affected, comparison, evaluations, expiry, joining, offers, received_feeds
from node.feeds.receiving.basis import Basis
from node.feeds.receiving.membership_files import MembershipFiles, Sealed, rows
from node.feeds.receiving.received_feeds import ReceivedFeed
from node.imports.identity_columns import IdentityColumn
from node.partners.connections import Connection
from node.partners.key_epochs import rotate
from node.people import audiences
from node.people.snapshots import Snapshot
from node.storage.database import Tx
from node.storage.tables import DAY
from protocol.feed import Definition
from psi import membership
from psi.values import Values

SEEDS = [int(seed) for seed in os.environ.get("VESICA_CHANGES", "1").split()]
STEPS = 120
PEOPLE = 16  # numbers of people: addresses and telephones that several may have
ADDRESS, TELEPHONE = "email_sha256", "phone_sha256"
NAMESPACES = {ADDRESS: EMAIL, TELEPHONE: PHONE}

Identity = tuple[str, int]


class Killed(BaseException):
    """The process ends here."""


def text_of(identity: Identity) -> str:
    name, number = identity
    return f"person{number}@example.com" if name == ADDRESS else f"+44740000{number:04}"


def value_of(identity: Identity) -> bytes:
    return hashlib.sha256(text_of(identity).encode()).digest()


def f_of(namespace: str, value: bytes, epoch: int) -> bytes:
    return hashlib.sha512(f"{namespace} {epoch} ".encode() + value).digest()


@dataclass(slots=True)
class Profile:
    """What the receiver knows of somebody."""

    identities: set[Identity]
    said: dict[str, str] = field(default_factory=dict)  # by namespace, "" for all: the last word

    def out(self, namespace: str) -> bool:
        return "n" in (self.said.get("", ""), self.said.get(namespace, ""))


class Play:
    """A receiver, the model of it, and a sender that is made up. Each step changes both, or neither."""

    def __init__(self, pair: Pair, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pair, self.chance, self.patched = pair, random.Random(seed), monkeypatch
        self.people: dict[str, Profile] = {}
        self.evaluated: set[Identity] = set()
        self.shared: dict[Identity, int] = {}  # bitmaps, the first segment in the highest bit
        self.next = 0
        pair.terms(**SMALL_TERMS, evaluations=100)
        pair.acme.project.consent.set_model("opt-out")
        for side in (pair.acme, pair.globe):
            file = side.folder / "first.csv"
            file.write_text("id,email,phone\nx0,person0@example.com,+447400000000\n")
            self._load(side, file)
        self.people["x0"] = Profile(identities={(ADDRESS, 0), (TELEPHONE, 0)})
        pair.connect()
        for name in ("red", "blue"):
            pair.acme.segment(name, ["x0"])
        pair.share("f", ["red", "blue"], [EMAIL, PHONE])
        self.scope = pair.globe.project.scope
        self.first = self.definition()

    # What is there

    @property
    def connection(self) -> Connection:
        return self.pair.globe.project.partners.get("acme")

    def feed(self, tx: Tx) -> ReceivedFeed:
        ((_, feed),) = received_feeds.of_project(self.scope, tx)
        return feed

    def definition(self) -> Definition:
        with self.scope.read() as tx:
            return received_feeds.definition(tx, self.feed(tx))

    def expected(self) -> dict[str, set[str]]:
        found = {}
        definition = self.definition()
        carried = {each.partition("/")[0] for each in definition.namespaces}
        for place, name in enumerate(("red", "blue")):
            if name not in {segment.name for segment in definition.segments}:
                continue
            has = {
                each
                for each in self.shared.keys() & self.evaluated
                if self.shared[each] & (0x80 >> place)
                and each[0] in carried
                and not any(one.out(each[0]) for one in self.people.values() if each in one.identities)
            }
            found[name] = {who for who, profile in self.people.items() if profile.identities & has}
        return found

    def found(self) -> dict[str, set[str]]:
        ids = Snapshot.open(self.scope).profile_ids
        with self.scope.read() as tx:
            feed = self.feed(tx)
            return {
                row.name: {ids[number].decode() for number in MembershipFiles(self.scope, feed).members(row)}
                for row in rows(tx, feed)
            }

    def check(self, done: list[str]) -> None:
        assert self.found() == self.expected(), " ".join(done)
        if self.chance.random() < 0.3:
            with self.scope.begin() as tx:
                feed = self.feed(tx)
                if chain := MembershipFiles(self.scope, feed).chain():
                    joining.join(self.scope, tx, feed, chain, again=True)
            assert self.found() == self.expected(), [*done, "and all computed again"]

    # What our people do

    def _load(self, side: Any, file: Any) -> None:
        columns = ["email=email_sha256:raw", "phone=phone_sha256:raw"]
        identities = [IdentityColumn.parse(each) for each in columns]
        side.project.profiles.import_(file, dataset="crm", id_column="id", identities=identities)

    def people_come(self) -> None:
        """New people, and somebody who is known and is called by something else now."""
        names = [f"g{self.next + n}" for n in range(self.chance.randrange(0 if self.people else 1, 3))]
        self.next += len(names)
        names += self.chance.sample(sorted(self.people), min(len(self.people), self.chance.randrange(1, 3)))
        lines = ["id,email,phone"]
        for name in names:
            address, telephone = (self.chance.randrange(PEOPLE) for _ in range(2))
            identities = {(ADDRESS, address)} | ({(TELEPHONE, telephone)} if self.chance.random() < 0.6 else set())
            before = self.people.get(name)
            self.people[name] = Profile(identities=identities, said=before.said if before else {})
            lines.append(
                f"{name},{','.join(text_of(each) for each in sorted(identities))}" + "," * (2 - len(identities))
            )
        file = self.pair.globe.folder / "people.csv"
        file.write_text("\n".join(lines) + "\n")
        self._load(self.pair.globe, file)

    def somebody_speaks(self) -> None:
        if not self.people:
            return
        name, word = self.chance.choice(sorted(self.people)), self.chance.choice("nny")
        namespace = self.chance.choice(["", ADDRESS, TELEPHONE])
        self.pair.clock.advance(seconds=1)
        self.people[name].said[namespace] = word
        self.pair.globe.project.consent.set(name, word, namespace or None)

    def killed_as_somebody_speaks(self) -> None:
        """What members would follow from is written, and they are not; then somebody is erased."""
        save = Basis.save

        def killed(*arguments: Any) -> None:
            save(*arguments)
            raise Killed

        with self.patched.context() as patched, suppress(Killed):
            patched.setattr(Basis, "save", killed)
            self.somebody_speaks()
        self.somebody_is_erased()
        joining.join_all(self.scope)

    def somebody_is_erased(self) -> None:
        names = self.chance.sample(sorted(self.people), min(len(self.people), self.chance.choice([1, 1, 2])))
        if names:
            self.pair.globe.project.erasure.profiles(People(ids=names), may_return=True)
        for name in names:
            del self.people[name]
        self.evaluated &= {each for profile in self.people.values() for each in profile.identities}

    def evaluations_come(self, part: float = 0.8) -> None:
        """F of a part of those comes whose it has not."""
        snapshot, epoch = Snapshot.open(self.scope), running_epoch(self.scope, self.connection)
        for name, namespace in NAMESPACES.items():
            values, _ = audiences.universe(snapshot, namespace)
            known = {value_of((name, n)): (name, n) for n in range(PEOPLE)}
            missing = [
                each for each in map(values.__getitem__, range(len(values))) if known[each] not in self.evaluated
            ]
            asked = [each for each in missing if self.chance.random() < part]
            if not asked or namespace not in self.definition().namespaces:
                continue
            prf = np.frombuffer(b"".join(f_of(namespace, each, epoch.number) for each in asked), np.uint8)
            evaluation: Any = SimpleNamespace(
                values=Values.of(asked),
                prf=prf.reshape(-1, 64),
                statement=SimpleNamespace(statement=SimpleNamespace(public=bytes([epoch.number]) * 32)),
            )
            self.evaluated |= {known[each] for each in asked}
            evaluations.keep(self.scope, self.connection, namespace, epoch, evaluation)

    # What the sender does

    def _records(self, shared: dict[Identity, int], revision: int) -> dict[str, Any]:
        epoch, definition = running_epoch(self.scope, self.connection), self.definition()
        records = {}
        for name, namespace in NAMESPACES.items():
            if namespace not in definition.namespaces:
                continue
            mine = sorted((value_of(each), bits) for each, bits in shared.items() if each[0] == name)
            prf = np.frombuffer(b"".join(f_of(namespace, each, epoch.number) for each, _ in mine), np.uint8)
            bitmaps = np.array([[bits] for _, bits in mine], np.uint8).reshape(-1, 1)
            records[namespace] = membership.seal(
                prf.reshape(-1, 64), bitmaps, feed=definition.feed, version=definition.version, revision=revision
            )
        return records

    def _release(self, shared: dict[Identity, int], *, full: bool, killed: bool = False) -> None:
        epoch = running_epoch(self.scope, self.connection)
        with self.scope.begin() as tx:
            feed = self.feed(tx)
            revision = feed.last_revision + 1
        sealed = Sealed(
            version=self.definition().version,
            revision=revision,
            epoch=epoch.number,
            records=self._records(shared, revision),
        )
        with self.scope.begin() as tx:
            joining.keep(self.scope, tx, self.feed(tx), sealed, full=full)
            if killed:
                raise Killed
        self.shared = dict(shared) if full else self.shared | shared

    def _some(self, most: int) -> dict[Identity, int]:
        """Return bitmaps of some people; the segments that the version in force has come first."""
        names = [segment.name for segment in self.definition().segments]
        may = [0, *(0x80 >> place for place in range(len(names))), 0xC0 if len(names) == 2 else 0x80]
        every = [(name, n) for name in NAMESPACES for n in range(PEOPLE)]
        return {each: self.chance.choice(may) for each in self.chance.sample(every, self.chance.randrange(most))}

    def _has_base(self) -> bool:
        epoch = running_epoch(self.scope, self.connection)
        with self.scope.read() as tx:
            return joining.base_of(self.feed(tx)) == (self.definition().version, epoch.number)

    def changes_come(self) -> None:
        if self._has_base():
            self._release(self._some(4), full=False)
        else:
            self.everything_comes()

    def everything_comes(self) -> None:
        self._release(self._some(20), full=True)

    def nothing_is_new(self) -> None:
        if self._has_base():
            self._release({}, full=False)

    def killed_in_a_release(self) -> None:
        full = self.chance.random() < 0.3 or not self._has_base()
        with suppress(Killed):
            self._release(self._some(5), full=full, killed=True)

    def killed_before_new_people_are_looked_for(self) -> None:
        def killed(*_: Any) -> None:
            raise Killed

        with self.patched.context() as patched, suppress(Killed):
            patched.setattr(joining, "join_new", killed)
            self.evaluations_come()
        joining.join_all(self.scope)

    # What happens to both

    def segments_or_namespaces_change(self) -> None:
        """A version without one of them, or with all: what goes is purged, and the next release is a full one."""
        before = self.definition()
        names = self.chance.choice([("red",), ("red", "blue"), ("red", "blue")])
        with self.scope.begin() as tx:
            feed = self.feed(tx)
            after = replace(
                before,
                version=before.version + 1,
                segments=tuple(each for each in self.first.segments if each.name in names),
                namespaces=self.chance.choice([(EMAIL,), (EMAIL, PHONE), (EMAIL, PHONE)]),
            )
            versions.keep(self.scope, tx, feed.id, after)
            offers.put_in_force(self.scope, tx, self.connection, feed, after)
        self.everything_comes()
        self.evaluations_come()

    def epoch_ends(self) -> None:
        self.pair.clock.advance(seconds=2 * DAY)
        rotate(self.scope, "acme")
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self.evaluated = set()
        self.evaluations_come(part=1.0)
        self.everything_comes()

    def time_is_over(self) -> None:
        """Of the members alone, or of the key epoch too."""
        before = running_epoch(self.scope, self.connection).number
        self.pair.clock.advance(days=31)
        expiry.apply(self.scope)
        assert not any(self.found().values())
        if running_epoch(self.scope, self.connection).number != before:
            self._begin_epoch()
        else:
            if self.chance.random() < 0.5:
                self.somebody_is_erased()
                assert not any(self.found().values())
            self.chance.choice([self.changes_come, self.everything_comes])()

    def day_passes(self) -> None:
        self.pair.clock.advance(seconds=DAY)
        comparison.compare(self.scope)
        assert "decision_differs" not in {alert.kind for alert in self.pair.globe.project.alerts.all()}

    def file_of_the_cache_is_lost(self) -> None:
        cache = cache_of(self.scope, self.connection, running_epoch(self.scope, self.connection))
        names = [name for name in cache.names("") if name.startswith(("basis", "tags"))]
        if names:
            path = cache.path(self.chance.choice(names))
            if self.chance.random() < 0.5:
                path.unlink()
            else:
                path.write_bytes(path.read_bytes()[:-3])


STEPS_OF = [
    *[Play.people_come, Play.somebody_speaks, Play.evaluations_come, Play.changes_come] * 4,
    *[Play.somebody_is_erased, Play.nothing_is_new, Play.killed_in_a_release] * 2,
    Play.killed_before_new_people_are_looked_for,
    Play.killed_as_somebody_speaks,
    Play.everything_comes,
    Play.segments_or_namespaces_change,
    Play.epoch_ends,
    Play.time_is_over,
    Play.day_passes,
    Play.file_of_the_cache_is_lost,
]


@pytest.mark.parametrize("seed", SEEDS)
def test_after_every_step_the_members_are_those_of_a_plain_join(
    pair: Pair, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, decide = list[int](), affected.decide

    def counted(join: Any, profiles: Any) -> Any:
        counts.append(len(profiles))
        return decide(join, profiles)

    monkeypatch.setattr(affected, "decide", counted)
    play, done = Play(pair, seed, monkeypatch), list[str]()
    play.people_come()
    play.evaluations_come(part=1.0)
    play.everything_comes()
    play.check(done)
    for _ in range(STEPS):
        step = play.chance.choice(STEPS_OF)
        done.append(step.__name__)
        step(play)
        play.check(done)
    assert len(counts) > STEPS / 6  # else all was computed as a whole
