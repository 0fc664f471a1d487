"""Which traits a call realises: an index of rules by the tests of each key, so that a call costs what it meets.

A test is met if any value of its key in the call meets it; `!=` if the key is there and no value of it is equal. Each rule
has tests of which one at least is met whenever it is: only then is the rest of it looked at.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..segments.trees import Tree
from .key_index import KeyIndex, Test, spelled

_SPELLED = ("=", "!=", "<", "<=", ">", ">=")  # that compare numbers
REMEMBERED = 4_096  # signals of which the tests that they meet are remembered, where that is costly to find
REMEMBERED_SIZE = 256  # characters of such a value

# About how many values meet a test; of others 10.
_COST = {"=": 1, "!=": 1_000, "<": 100, "<=": 100, ">": 100, ">=": 100}


@dataclass(frozen=True, slots=True)
class _Group:
    """Tests and groups that are joined by AND (`every`) or OR."""

    every: bool
    negated: bool
    tests: frozenset[Test]
    groups: "tuple[_Group, ...]"

    def holds(self, met: set[Test]) -> bool:
        if self.every:
            found = self.tests <= met and all(each.holds(met) for each in self.groups)
        else:
            found = not self.tests.isdisjoint(met) or any(each.holds(met) for each in self.groups)
        return found is not self.negated


class TraitIndex:
    """The rules of many traits, by number. A thread may not use it while another one changes it."""

    def __init__(self, rules: Iterable[tuple[int, Tree]] = ()) -> None:
        self._keys: dict[str, KeyIndex] = {}
        self._tests: dict[tuple[str, str, str], Test] = {}
        self._traits: dict[int, tuple[Collection[Test], Sequence[Test]]] = {}  # all tests, and those that it is under
        self._remembered: dict[tuple[str, str], frozenset[Test]] = {}
        for number, tree in rules:
            self.add(number, tree)

    def __len__(self) -> int:
        return len(self._traits)

    def add(self, number: int, tree: Tree) -> None:
        """Add a trait, or give it another rule."""
        self.remove(number)
        group = self._group(tree)
        tests: Collection[Test] = frozenset(_tests(group))
        for test in tests:
            test.uses += 1
        if len(tests) == 1 and not group.groups and not group.negated:
            under: Sequence[Test] = tuple(tests)
            tests = under
            under[0].alone[number] = None
        else:
            under = _under(group, False) or ()
            assert under, "parse() refuses rules that a call without signals meets"
            for test in under:
                test.groups[number] = group
        self._traits[number] = tests, under

    def remove(self, number: int) -> None:
        """Remove a trait, if it is there."""
        tests, under = self._traits.pop(number, ((), ()))
        self._remembered.clear()
        for test in under:
            test.alone.pop(number, None)
            test.groups.pop(number, None)
        for test in tests:
            test.uses -= 1
            if not test.uses:
                del self._tests[test.key, test.operator, test.value]
                self._keys[test.key].remove(test)
                if not len(self._keys[test.key]):
                    del self._keys[test.key]

    def reads(self, key: str) -> bool:
        """Return whether a rule reads a key."""
        return key in self._keys

    def matching(self, signals: Sequence[tuple[str, str]]) -> list[int]:
        """Return the numbers of the traits whose rules the signals of one call meet, in ascending order."""
        met: set[Test] = set()
        unequal: dict[str, list[str]] = {}
        for signal in signals:
            name, value = signal
            key = self._keys.get(name)
            if key is not None:
                if key.is_costly:
                    some = self._remembered.get(signal)
                    met |= self._meet(key, signal) if some is None else some
                else:
                    key.meet(value, met)
                if key.unequal:
                    unequal.setdefault(name, []).append(value)
        for name, values in unequal.items():
            self._keys[name].meet_unequal(values, met)
        found: list[int] = []
        tried: set[int] = set()
        for test in met:
            if test.alone:
                found += test.alone
            if test.groups:
                for number, group in test.groups.items():
                    if number not in tried:
                        tried.add(number)
                        if group.holds(met):
                            found.append(number)
        found.sort()
        return found

    def _meet(self, key: KeyIndex, signal: tuple[str, str]) -> frozenset[Test]:
        met: set[Test] = set()
        key.meet(signal[1], met)
        found = frozenset(met)
        if len(signal[1]) <= REMEMBERED_SIZE:
            if len(self._remembered) == REMEMBERED:
                self._remembered.clear()
            self._remembered[signal] = found
        return found

    def _group(self, tree: Tree) -> _Group:
        return _Group(
            tree["combinator"] == "and",
            bool(tree.get("not")),
            frozenset(self._test(each) for each in tree["rules"] if "rules" not in each),
            tuple(self._group(each) for each in tree["rules"] if "rules" in each),
        )

    def _test(self, leaf: Tree) -> Test:
        key, operator, value = leaf["field"], leaf["operator"], leaf["value"]
        if operator in _SPELLED:
            value = spelled(value)
        found = self._tests.get((key, operator, value))
        if found is None:
            found = self._tests[key, operator, value] = Test(key, operator, value)
            self._keys.setdefault(key, KeyIndex()).add(found)
        return found


def _tests(group: _Group) -> Iterator[Test]:
    yield from group.tests
    for each in group.groups:
        yield from _tests(each)


def _under(group: _Group, outer: bool) -> list[Test] | None:
    """Return tests, the fewest and rarest, of which one at least is met whenever a group is; None if there are none.

    `outer`: the group is met where it is not, for what stands around it.
    """
    negated = group.negated is not outer
    found = [None if negated else [test] for test in group.tests]
    found += [_under(each, negated) for each in group.groups]
    some = [each for each in found if each is not None]
    if group.every is not negated:
        return min(some, key=_cost, default=None)
    return list(dict.fromkeys(test for each in some for test in each)) if len(some) == len(found) else None


def _cost(tests: list[Test]) -> tuple[int, list[str]]:
    return sum(_COST.get(test.operator, 10) + len(test.groups) for test in tests), [test.value for test in tests]
