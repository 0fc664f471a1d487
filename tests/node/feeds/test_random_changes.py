"""After every random change on either side the partner's members are those of a plain join of what both have then.

`make assure` plays more seeds: VESICA_CHANGES has them.
"""

import os
import random
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
from sides import EMAIL, PHONE, SMALL_TERMS, Pair, Side

from node.erasure.erasure import People
from node.feeds.receiving import joining
from node.imports.identity_columns import IdentityColumn
from node.partners.key_epochs import rotate
from node.storage.tables import DAY

SEEDS = [int(seed) for seed in os.environ.get("VESICA_CHANGES", "1").split()]
STEPS = 26
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
        return {each for each, profile in self.acme.items() if profile.amount >= self.least}

    def members(self, name: str) -> set[str]:
        segment, shared, asked = self.segment(name), set[Identity](), set[Identity]()
        for identity in {each for profile in self.acme.values() for each in profile.identities}:
            holders = {each for each, profile in self.acme.items() if identity in profile.identities}
            may = not any(self.acme[each].out(identity[0]) for each in holders)
            may = may and all(self.needed is None or self.acme[each].amount >= self.needed for each in holders)
            if may and holders & segment and identity[0] in self.namespaces:
                shared.add(identity)
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
        pair.terms(**SMALL_TERMS, evaluations=100)
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
        pair.share("f", ["red", "rich"], [EMAIL, PHONE])

    def _import(self, side: Side, known: dict[str, Profile], count: int) -> None:
        """Import new people, and what one of those who are known spends now and is called by."""
        names = [f"{side.name[0]}{self._next + n}" for n in range(count)]
        self._next += count
        if known:
            names.append(self.chance.choice(sorted(known)))
        lines = ["id,email,phone,amount"]
        for name in names:
            address, telephone = self.chance.randrange(PEOPLE), self.chance.randrange(PEOPLE)
            identities = {(ADDRESS, address)} | (
                {(TELEPHONE, telephone)} if not known or self.chance.random() < 0.5 else set()
            )
            phone = f"+44740000{telephone:04}" if len(identities) == 2 else ""
            before, amount = known.get(name), self.chance.randrange(10)
            known[name] = Profile(identities=identities, amount=amount, said=before.said if before else {})
            lines.append(f"{name},person{address}@example.com,{phone},{amount}")
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
        self.pair.acme.project.feeds.sync("f")

    def check(self, what: Iterable[str]) -> None:
        """Compare with the model, then with what globe computes from all that it keeps."""
        expected = {name: self.model.members(name) for name in ("red", "rich")}
        found = {name: self.pair.globe.members("acme", name) for name in expected}
        assert found == expected, [*what]
        joining.join_all(self.pair.globe.project.scope)
        found = {name: self.pair.globe.members("acme", name) for name in expected}
        assert found == expected, [*what, "and all computed again"]


CHANGES = [
    Play.acme_imports,
    Play.globe_imports,
    Play.globe_imports,
    Play.acme_says,
    Play.acme_says,
    Play.globe_says,
    Play.acme_erases,
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
def test_after_random_changes_the_members_are_those_of_a_plain_join(pair: Pair, seed: int) -> None:
    play, done = Play(pair, seed), list[str]()
    play.begin()
    play.sync()
    play.check(done)
    for _ in range(STEPS):
        for change in play.chance.choices(CHANGES, k=play.chance.choice([1, 1, 2])):
            change(play)
            done.append(change.__name__)
        play.sync()
        play.check(done)
        if play.chance.random() < 0.3:
            play.sync()
            play.check(done)
