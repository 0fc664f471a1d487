"""After every random change on either side the partner's members are those of a plain join of what both have then.

`make assure` plays more seeds: VESICA_CHANGES has them.
"""

import os
import random
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sides import EMAIL, PHONE, SMALL_TERMS, Pair, Side

from node.access.scope import Scope
from node.erasure.erasure import People
from node.exchanges.channels import cache_of
from node.exchanges.kept_prf import OpenPrf
from node.feeds.receiving import covered, joining, received_feeds
from node.feeds.receiving.membership_files import MembershipFiles
from node.feeds.sending import preparing, revisions
from node.feeds.sending.deciding import Decided, decide_members
from node.feeds.sending.kept_content import in_order
from node.feeds.sending.selection import select_members
from node.imports.identity_columns import IdentityColumn
from node.partners import key_epochs
from node.partners.key_epochs import rotate
from node.people.audiences import universe
from node.people.drafts import KEPT_GENERATIONS
from node.people.snapshots import Snapshot
from node.storage.cache import Cache
from node.storage.database import Tx
from node.storage.tables import DAY
from psi.values import Values

SEEDS = [int(seed) for seed in os.environ.get("VESICA_CHANGES", "1").split()]
STEPS = 26
SHARED = ("red", "rich", "rest")
MINIMUM = 2  # identities of a segment that may leave
PEOPLE = 24  # numbers of people, each with one address and one telephone, which others may have too
ADDRESS, TELEPHONE = "email_sha256", "phone_sha256"

Identity = tuple[str, int]  # a namespace, and the number of the person whose address or telephone it is


@dataclass(slots=True)
class Profile:
    """What one side knows of somebody."""

    identities: set[Identity]
    amount: int
    said: dict[str, str] = field(default_factory=dict)  # by namespace, "" for all: the last word

    def out(self, namespace: str) -> bool:
        return "n" in (self.said.get("", ""), self.said.get(namespace, ""))


@dataclass(slots=True)
class Model:
    """What both sides have, and the members that follow from it, found out in the plainest way."""

    acme: dict[str, Profile] = field(default_factory=dict)
    globe: dict[str, Profile] = field(default_factory=dict)
    listed: set[str] = field(default_factory=set)
    least: int = 5  # "rich" are those who spend so much
    needed: int | None = None  # to qualify for sharing; None: the policy is disabled
    namespaces: set[str] = field(default_factory=lambda: {ADDRESS, TELEPHONE})

    def segment(self, name: str) -> set[str]:
        if name == "red":
            return self.listed & self.acme.keys()
        if name == "rest":
            return self.segment("rich") - self.segment("red")
        return {each for each, profile in self.acme.items() if profile.amount >= self.least}

    def members(self, name: str) -> set[str]:
        segment, shared, asked = self.segment(name), set[Identity](), set[Identity]()
        for identity in {each for profile in self.acme.values() for each in profile.identities}:
            holders = {each for each, profile in self.acme.items() if identity in profile.identities}
            may = not any(self.acme[each].out(identity[0]) for each in holders)
            may = may and all(self.needed is None or self.acme[each].amount >= self.needed for each in holders)
            if may and holders & segment and identity[0] in self.namespaces:
                shared.add(identity)
        if max(sum(each[0] == namespace for each in shared) for namespace in self.namespaces) < MINIMUM:
            return set()
        for identity in shared:
            holders = {each for each, profile in self.globe.items() if identity in profile.identities}
            if not any(self.globe[each].out(identity[0]) for each in holders):
                asked.add(identity)
        return {each for each, profile in self.globe.items() if profile.identities & asked}


class Play:
    """Two nodes and the model of them; each method changes both."""

    def __init__(self, pair: Pair, seed: int) -> None:
        self.pair, self.chance, self.model, self._next = pair, random.Random(seed), Model(), 0

    def begin(self) -> None:
        pair = self.pair
        pair.terms(**{**SMALL_TERMS, "minimum_segment": MINIMUM}, evaluations=100)
        for side in (pair.acme, pair.globe):
            side.project.consent.set_model("opt-out")
        for _ in range(3):
            self.acme_imports()
            self.globe_imports()
        pair.connect()
        self.model.listed = set(self.chance.sample(sorted(self.model.acme), 5))
        pair.acme.segment("red", sorted(self.model.listed))
        pair.acme.project.segments.create("rich", rule=f"amount >= {self.model.least}")
        pair.acme.project.consent_policies.create("big", needs="amount >= 3")
        pair.acme.project.segments.create("rest", rule="amount >= 0")
        pair.share("f", [*SHARED], [EMAIL, PHONE])
        pair.acme.project.segments.update("rest", rule="own.rich AND NOT own.red")

    def _import(self, side: Side, known: dict[str, Profile], count: int) -> None:
        """Import new people, and what one of those who are known spends now and is called by."""
        names = [f"{side.name[0]}{self._next + n}" for n in range(count)]
        self._next += count
        if known:
            names.append(self.chance.choice(sorted(known)))
        for name in names:
            address, telephone = self.chance.randrange(PEOPLE), self.chance.randrange(PEOPLE)
            identities = {(ADDRESS, address)} | (
                {(TELEPHONE, telephone)} if not known or self.chance.random() < 0.5 else set()
            )
            before, amount = known.get(name), self.chance.randrange(10)
            known[name] = Profile(identities=identities, amount=amount, said=before.said if before else {})
        self._write(side, {name: known[name] for name in names})

    @staticmethod
    def address(kind: str, number: int) -> str:
        return f"person{number}@example.com" if kind == ADDRESS else f"+44740000{number:04}"

    def _write(self, side: Side, given: dict[str, Profile]) -> None:
        lines = ["id,email,phone,amount"]
        for name, profile in given.items():
            cells = {kind: self.address(kind, number) for kind, number in profile.identities}
            lines.append(f"{name},{cells.get(ADDRESS, '')},{cells.get(TELEPHONE, '')},{profile.amount}")
        file = side.folder / f"{side.name}.csv"
        file.write_text("\n".join(lines) + "\n")
        side.project.profiles.import_(
            file,
            dataset="crm",
            id_column="id",
            identities=[IdentityColumn.parse("email=email_sha256:raw"), IdentityColumn.parse("phone=phone_sha256:raw")],
            attributes=["amount"],
        )

    def acme_imports(self) -> None:
        self._import(self.pair.acme, self.model.acme, 3)

    def globe_imports(self) -> None:
        self._import(self.pair.globe, self.model.globe, 3)

    def _says(self, side: Side, known: dict[str, Profile]) -> None:
        name, word = self.chance.choice(sorted(known)), self.chance.choice("ny")
        namespace = self.chance.choice(["", ADDRESS, TELEPHONE])
        self.pair.clock.advance(seconds=1)
        side.project.consent.set(name, word, namespace or None)
        known[name].said[namespace] = word

    def acme_says(self) -> None:
        self._says(self.pair.acme, self.model.acme)

    def globe_says(self) -> None:
        self._says(self.pair.globe, self.model.globe)

    def _erases(self, side: Side, known: dict[str, Profile]) -> None:
        name = self.chance.choice(sorted(known))
        side.project.erasure.profiles(People(ids=[name]), may_return=True)
        del known[name]

    def acme_erases(self) -> None:
        self._erases(self.pair.acme, self.model.acme)
        self.model.listed &= self.model.acme.keys()

    def globe_erases(self) -> None:
        self._erases(self.pair.globe, self.model.globe)

    def acme_erases_and_imports_again(self) -> None:
        """Before a run: then the partner has them, and what is kept of the last run has not."""
        project, name = self.pair.acme.project, self.chance.choice(sorted(self.model.acme))
        before, may_return = self.model.acme[name], self.chance.random() < 0.5
        project.erasure.profiles(People(ids=[name]), may_return=may_return)
        if not may_return:
            named = [f"{kind}={self.address(kind, number)}" for kind, number in sorted(before.identities)]
            project.erasure.readmit(People(ids=[name], identities=named))
        self.model.acme[name] = Profile(identities=before.identities, amount=before.amount)
        self.model.listed -= {name}
        self._write(self.pair.acme, {name: self.model.acme[name]})

    def acme_says_much(self) -> None:
        """More than there are generations kept."""
        for _ in range(KEPT_GENERATIONS + 1):
            self.acme_says()

    def list_changes(self) -> None:
        self.model.listed = set(self.chance.sample(sorted(self.model.acme), self.chance.randrange(1, 8)))
        file = self.pair.acme.folder / "red.csv"
        file.write_text("\n".join(["id", *sorted(self.model.listed)]) + "\n")
        self.pair.acme.project.segments.update("red", file)

    def rule_changes(self) -> None:
        self.model.least = self.chance.randrange(2, 8)
        self.pair.acme.project.segments.update("rich", rule=f"amount >= {self.model.least}")

    def policy_changes(self) -> None:
        policies = self.pair.acme.project.consent_policies
        if self.model.needed is None:
            policies.enable("big")
            self.model.needed = 3
        else:
            policies.disable("big")
            self.model.needed = None

    def label_comes_or_goes(self) -> None:
        """One that forbids nothing: the feed gets another version by itself."""
        labels = self.pair.acme.project.labels
        act = labels.remove if "C9" in labels.labels_of_segment("rich") else labels.apply
        act("C9", "segment", "rich")
        self.pair.post()

    def epoch_ends(self) -> None:
        self.pair.clock.advance(seconds=2 * DAY)
        rotate(self.pair.acme.project.scope, "globe")

    def day_passes(self) -> None:
        self.pair.clock.advance(seconds=DAY)

    def nothing_happens(self) -> None:
        pass

    def sync(self) -> None:
        if self.chance.random() < 0.3:
            self._sync_until_a_file(self.chance.randrange(8))
        self.pair.acme.project.feeds.sync("f")

    def _sync_until_a_file(self, number: int) -> None:
        """Let a run be interrupted before one of its files at acme gets its name."""
        left, real, home = [number], os.replace, self.pair.acme.folder / "acme"

        def interrupted(made: Path, path: Path) -> None:
            if home in Path(path).parents:
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
            real(made, path)

        with pytest.MonkeyPatch.context() as patched, suppress(KeyboardInterrupt):
            patched.setattr(os, "replace", interrupted)
            self.pair.acme.project.feeds.sync("f")

    def check(self, what: Iterable[str]) -> None:
        """Compare with the model, then with what globe computes from all that it keeps."""
        expected = {name: self.model.members(name) for name in SHARED}
        found = {name: self.pair.globe.members("acme", name) for name in expected}
        assert found == expected, [*what]
        scope = self.pair.globe.project.scope
        with scope.begin() as tx:
            for _, feed in received_feeds.alive(scope, tx):
                if chain := MembershipFiles(scope, feed).chain():
                    joining.join(scope, tx, feed, chain, again=True)
        found = {name: self.pair.globe.members("acme", name) for name in expected}
        assert found == expected, [*what, "and all computed again"]


OF_FEW = [Play.acme_imports, Play.acme_says, Play.list_changes, Play.globe_imports]  # decided of few people, as a rule
CHANGES = [
    Play.acme_imports,
    Play.globe_imports,
    Play.acme_says,
    Play.globe_says,
    Play.acme_erases,
    Play.acme_erases_and_imports_again,
    Play.acme_says_much,
    Play.globe_erases,
    Play.list_changes,
    Play.rule_changes,
    Play.policy_changes,
    Play.label_comes_or_goes,
    Play.epoch_ends,
    Play.day_passes,
    Play.nothing_happens,
]


@pytest.mark.parametrize("seed", SEEDS)
def test_after_random_changes_the_members_are_those_of_a_plain_join(
    pair: Pair, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And each decision, however few people it was made of, is the one that is made of everybody."""
    of_few = 0

    def decided(*about: Any, tx: Tx) -> Decided:
        nonlocal of_few
        found, whole = decide_members(*about, tx=tx), select_members(*about, tx=tx)
        scope, connection, definition = about[:3]
        expected = revisions.of(whole, definition.width)
        for namespace, digests in in_order(expected).items():
            assert np.array_equal(found.digests[namespace], digests), done
        if found.last is not None:
            content = found.content(cache_of(scope, connection, key_epochs.current(scope, tx, connection)))
            for namespace, each in expected.items():
                assert content[namespace].values.equals(each.values), done
                assert np.array_equal(content[namespace].bitmaps, each.bitmaps), done
        for name in ("considered", "unconsented", "small", "allowed", "sent"):
            assert getattr(found.counts, name) == getattr(whole, name), done
        assert found.small_segments == whole.small_segments, done
        assert not found.differs
        of_few += found.last is not None
        return found

    def missing(scope: Scope, cache: Cache, namespace: str, snapshot: Snapshot, have: OpenPrf) -> Values:
        found, all_ = of_touched(scope, cache, namespace, snapshot, have), universe(snapshot, namespace)[0]
        expected = all_.take(have.missing(all_))
        assert [found[place] for place in range(len(found))] == [expected[place] for place in range(len(expected))], (
            done
        )
        return found

    of_touched = covered.missing
    monkeypatch.setattr(covered, "missing", missing)
    monkeypatch.setattr(preparing, "decide_members", decided)
    play, done = Play(pair, seed), list[str]()
    play.begin()
    play.sync()
    play.check(done)
    for _ in range(STEPS):
        changes = play.chance.choice([OF_FEW, CHANGES])
        for change in play.chance.choices(changes, k=play.chance.choice([1, 1, 2])):
            change(play)
            done.append(change.__name__)
        play.sync()
        play.check(done)
        if play.chance.random() < 0.3:
            play.sync()
            play.check(done)
    assert of_few > 2
