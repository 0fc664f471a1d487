"""Whatever comes in whatever order, who has a trait and is in a segment is what a plain list of everything that came gives."""

import os
import random
from collections import defaultdict

import numpy as np
import pytest
from clock import Clock

from node.audiencemanager import audience_segments, folders, receiving, traits
from node.audiencemanager.catalogue import Catalogue
from node.audiencemanager.members import Members
from node.audiencemanager.records import NewSegment, NewTrait, TraitKind
from node.audiencemanager.trait_members import drop_expired
from node.audiencemanager.visitors import opened
from node.node import Node
from psi.values import Values

DAY = 86_400
SOURCES = (0, 20914)  # digits, and UUIDs
PLAYS = int(os.environ.get("VESICA_ASSURE", "400")) // 100  # of STEPS each
STEPS = 60


def value(source: int, number: int) -> bytes:
    return f"{number:038}".encode() if source == 0 else bytes(14) + number.to_bytes(2, "big")


class Plain:
    """The same side as a list of what was realised."""

    def __init__(self) -> None:
        self.ids: dict[tuple[int, bytes], int] = {}
        self.visitors = 0
        self.realised: list[tuple[int, int, int]] = []  # trait, visitor, day
        self.told: set[tuple[int, bytes]] = set()  # ids of who the platform says is in its segment

    def whom(self, ids: list[tuple[int, bytes]]) -> list[int]:
        found = [self.ids[each] for each in ids if each in self.ids]
        if not found:
            self.visitors += 1
            found = [self.visitors]
        for each in ids:
            self.ids.setdefault(each, found[0])
        return list(dict.fromkeys(found))

    def remove(self, trait: int, visitor: int) -> None:
        self.realised = [each for each in self.realised if each[:2] != (trait, visitor)]


class Play:
    """One side, and the plain one beside it."""

    def __init__(self, node: Node, clock: Clock, chance: random.Random) -> None:
        self.scope, self.clock, self.chance, self.plain = node.project().scope, clock, chance, Plain()
        self.days: dict[int, int] = {}
        self.keys: dict[int, tuple[str, str]] = {}
        self.folder_of: dict[int, int] = {}
        with self.scope.begin() as tx:
            outer = folders.add(self.scope, tx, "outer").number
            inner = folders.add(self.scope, tx, "inner", outer).number
            for each in range(6):
                kind = TraitKind.RULE_BASED if each < 4 else TraitKind.ON_BOARDED
                rule = f'k{each % 3} == "v{each % 2}"'
                folder = (outer, inner, 0)[each % 3]
                made = self._add(tx, f"T{each}", kind, rule if each < 5 else None, folder, chance.choice((0, 1, 2, 7)))
                if each < 5:
                    self.keys[made] = (f"k{each % 3}", f"v{each % 2}")
                self.days[made], self.folder_of[made] = chance.choice((0, 1, 2, 7)), folder
                found = traits.by_number(self.scope, tx, made)
                assert found is not None
                traits.change(self.scope, tx, found, days=self.days[made])
            self.all = list(self.days)
            self.counted = self.all[:4]
            self.of_folder = {
                self._add(tx, "F1", TraitKind.FOLDER, None, outer, 0): {outer, inner},
                self._add(tx, "F2", TraitKind.FOLDER, None, inner, 0): {inner},
            }
            self.segments: dict[int, tuple[str, tuple[int, ...]]] = {}
            for each in range(8):
                self._segment(tx, each)

    def _add(self, tx: object, name: str, kind: TraitKind, rule: str | None, folder: int, days: int) -> int:
        wanted = NewTrait(name=name, source=2_000_000, kind=kind, rule=rule, folder=folder, days=days)
        return traits.add(self.scope, tx, wanted).number  # type: ignore[arg-type]

    def _segment(self, tx: object, each: int) -> None:
        chance, some = self.chance, self.chance.sample([*self.all, *self.of_folder], 2)
        counted = self.chance.sample([*self.counted, *self.of_folder], 2)
        days, count = chance.randint(1, 4), chance.randint(1, 3)
        listed = ",".join(f"{trait}T" for trait in counted)
        before = list(self.segments)
        kinds = {
            "and": (f"{some[0]}T AND {some[1]}T", tuple(some)),
            "not": (f"{some[0]}T AND NOT {some[1]}T", tuple(some)),
            "often": (f"FREQUENCY([{listed}]) >= {count}", (*counted, count)),
            "lately": (f"FREQUENCY([{listed}] <= {days}D) >= {count}", (*counted, days, count)),
            "before": (f"FREQUENCY([{listed}] >= {days}D) >= {count}", (*counted, days, count)),
            "seldom": (f"{some[0]}T AND FREQUENCY([{listed}]) <= {count}", (some[0], *counted, count)),
        }
        if before:
            nested = chance.choice(before)
            kinds["nested"] = (f"{nested}S AND NOT {some[0]}T", (nested, some[0]))
        kind = chance.choice(list(kinds))
        rule, about = kinds[kind]
        wanted = NewSegment(name=f"S{each}", source=2_000_000, rule=rule)
        self.segments[audience_segments.add(self.scope, tx, wanted).number] = (kind, about)  # type: ignore[arg-type]

    # Acts

    def calls(self) -> None:
        chance, plain, calls = self.chance, self.plain, []
        for _ in range(chance.randint(1, 6)):
            picked = [chance.choice(SOURCES) for _ in range(chance.randint(1, 2))]
            ids = list(dict.fromkeys((source, value(source, chance.randint(0, 11))) for source in picked))
            pairs = tuple((f"k{chance.randint(0, 2)}", f"v{chance.randint(0, 1)}") for _ in range(chance.randint(0, 2)))
            realise, remove = ([*chance.sample(self.all, chance.choice((0, 0, 1)))] for _ in range(2))
            withdraw = chance.random() < 0.15
            overwrite = 2_000_000 if chance.random() < 0.1 else None
            at = self.clock() - chance.choice((0, 0, 0, DAY))
            calls.append(
                receiving.Call(tuple(ids), pairs, tuple(realise), tuple(remove), at, overwrite, None, withdraw)
            )
            whom = plain.whom(ids)
            met = list(dict.fromkeys([*(t for t, pair in self.keys.items() if pair in pairs), *realise]))
            gone = [*remove, *(met if withdraw else ()), *(self.all if overwrite else ())]
            for visitor in whom:
                for trait in gone:
                    plain.remove(trait, visitor)
                for trait in () if withdraw else met:
                    plain.realised.append((trait, visitor, at // DAY))
        receiving.receive(self.scope, calls, 2_000_000)

    def members(self) -> None:
        chance, trait, source = self.chance, self.all[-1], self.chance.choice(SOURCES)
        numbers = chance.sample(range(14), 5)
        acts = np.array([chance.random() < 0.6 for _ in numbers])
        values = [value(source, each) for each in numbers]
        receiving.receive_members(self.scope, trait, source, Values.of(values), acts)
        gone = {(source, each) for each, comes in zip(values, acts.tolist(), strict=True) if not comes}
        self.plain.told -= gone
        stay = {self.plain.ids[each] for each in self.plain.told}
        for visitor in {self.plain.ids[each] for each in gone & self.plain.ids.keys()} - stay:
            self.plain.remove(trait, visitor)
        for each, comes in zip(values, acts.tolist(), strict=True):
            if comes:
                (visitor,) = self.plain.whom([(source, each)])
                self.plain.realised.append((trait, visitor, self.clock() // DAY))
                self.plain.told.add((source, each))

    def forget(self) -> None:
        """Upkeep: what has expired does not come back when a trait is to last longer afterwards."""
        today = self.clock() // DAY
        self.plain.realised = [each for each in self.plain.realised if self.is_valid(each[0], each[2], today)]
        drop_expired(self.scope)

    def change_days(self) -> None:
        self.forget()
        trait = self.chance.choice(self.all)
        self.days[trait] = self.chance.choice((0, 1, 2, 7))
        with self.scope.begin() as tx:
            found = traits.by_number(self.scope, tx, trait)
            assert found is not None
            traits.change(self.scope, tx, found, days=self.days[trait])

    def erase(self) -> None:
        if self.plain.visitors:
            visitor = self.chance.randint(1, self.plain.visitors)
            self.plain.ids = {each: found for each, found in self.plain.ids.items() if found != visitor}
            self.plain.told &= self.plain.ids.keys()
            self.plain.realised = [each for each in self.plain.realised if each[1] != visitor]
            from pyroaring import BitMap

            opened(self.scope).erase(BitMap([visitor]))

    def pause(self) -> None:
        self.clock.advance(seconds=self.chance.choice((3_600, DAY // 2, DAY, 2 * DAY)))

    def back(self) -> None:
        self.clock.advance(seconds=-self.chance.choice((3_600, DAY)))

    # What should be

    def is_valid(self, trait: int, day: int, today: int) -> bool:
        return self.days[trait] == 0 or today * DAY < (day + self.days[trait] + 1) * DAY

    def below(self, trait: int) -> set[int]:
        if trait in self.of_folder:
            return {each for each in self.all if self.folder_of[each] in self.of_folder[trait]}
        return {trait}

    def has(self, trait: int) -> set[int]:
        today = self.clock() // DAY
        below = self.below(trait)
        return {who for each, who, day in self.plain.realised if each in below and self.is_valid(each, day, today)}

    def often(self, listed: tuple[int, ...], since: int = 0, until: int = 1 << 30) -> dict[int, int]:
        today, found = self.clock() // DAY, defaultdict[int, int](int)
        once: dict[tuple[int, int], int] = {}
        for trait, who, day in self.plain.realised:
            if trait not in set().union(*map(self.below, listed)) or not self.is_valid(trait, day, today):
                continue
            if trait in self.counted:
                found[who] += since <= day <= until
            else:
                once[trait, who] = max(day, once.get((trait, who), 0))
        for (_, who), day in once.items():
            found[who] += since <= day <= until
        return found

    def inside(self, segment: int) -> set[int]:
        kind, about = self.segments[segment]
        today = self.clock() // DAY
        match kind:
            case "and":
                return self.has(about[0]) & self.has(about[1])
            case "not":
                return self.has(about[0]) - self.has(about[1])
            case "often":
                return {who for who, times in self.often(about[:2]).items() if times >= about[2]}
            case "lately":
                found = self.often(about[:2], since=today - about[2])
            case "before":
                found = self.often(about[:2], until=today - about[2])
            case "seldom":
                times = self.often(about[1:3])
                return {who for who in self.has(about[0]) if times.get(who, 0) <= about[3]}
            case _:
                return self.inside(about[0]) - self.has(about[1])
        return {who for who, times in found.items() if times >= about[3]}

    def check(self, step: str) -> None:
        with self.scope.home.read() as tx:
            found = Members(self.scope, tx, Catalogue(self.scope, tx))
            for trait in (*self.all, *self.of_folder):
                assert set(found.of_trait(trait)) == self.has(trait), (step, trait)
            for segment, rule in self.segments.items():
                assert set(found.of_segment(segment)) == self.inside(segment), (step, rule)


@pytest.mark.feature("AM2")
@pytest.mark.feature("AM8")
@pytest.mark.parametrize("seed", range(PLAYS))
def test_members_are_what_a_plain_list_of_all_that_came_gives(node: Node, clock: Clock, seed: int) -> None:
    chance = random.Random(seed)
    node.project().audience.sources.create("Own")
    play = Play(node, clock, chance)
    acts = [play.calls] * 6 + [
        play.members,
        play.members,
        play.pause,
        play.back,
        play.forget,
        play.change_days,
        play.erase,
    ]
    for step in range(STEPS):
        act = chance.choice(acts)
        act()
        play.check(f"{step} {act.__name__}")
