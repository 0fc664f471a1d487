"""Which tests of one key a value meets: found by the value where that can be, so that it costs what it meets.

Numbers are compared as numbers, exactly, if both sides are ones, in quotes or not. Of `<` and `>` both sides are numbers or
neither is: texts are in the order of their characters. A value matches words if it has all of them, in whatever order, and
a regular expression if it matches it whole.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Collection
from decimal import Decimal
from typing import Any

from .trait_rules import compiled, number, pattern_options, words

GRAM = 4  # characters of a text by which those that contain it are found
LOOKED_AT = 3  # texts that are looked for in the time that it takes to look up one run of characters
PATTERNS = 100  # regular expressions that are matched at once


class Test:
    """A test that rules have in common, and the rules to look at when it is met."""

    __slots__ = ("alone", "groups", "key", "operator", "uses", "value")

    def __init__(self, key: str, operator: str, value: str) -> None:
        self.key, self.operator, self.value = key, operator, value
        self.uses = 0  # rules that have it
        self.alone: dict[int, None] = {}  # traits whose rule is this test
        self.groups: dict[int, Any] = {}  # rules by trait


class KeyIndex:
    """The tests of one key."""

    def __init__(self) -> None:
        self._equal: dict[str, Test] = {}  # by what `spelled` returns, as are the tests below
        self._unequal: dict[str, Test] = {}
        self.unequal: set[Test] = set()
        self._numeric = 0  # tests for which it matters whether a value is a number
        self._others: dict[str, _Texts] = {}  # by operator

    def __len__(self) -> int:
        return len(self._equal) + len(self._unequal) + sum(map(len, self._others.values()))

    @property
    def is_costly(self) -> bool:
        """Whether finding what a value meets takes more than to look it up."""
        return bool(self._others)

    def add(self, test: Test) -> None:
        if test.operator == "=":
            self._equal[test.value] = test
        elif test.operator == "!=":
            self._unequal[test.value] = test
            self.unequal.add(test)
        else:
            self._others.setdefault(test.operator, _KINDS[test.operator]()).add(test)
        self._numeric += _is_numeric(test)

    def remove(self, test: Test) -> None:
        if test.operator == "=":
            del self._equal[test.value]
        elif test.operator == "!=":
            del self._unequal[test.value]
            self.unequal.remove(test)
        else:
            self._others[test.operator].remove(test)
            if not len(self._others[test.operator]):
                del self._others[test.operator]
        self._numeric -= _is_numeric(test)

    def meet(self, value: str, met: set[Test]) -> None:
        """Add the tests that a value of the key meets, but for those of `!=`, to which all of its values in a call matter."""
        exact = number(value) if self._numeric else None
        test = self._equal.get(value if exact is None else exact)
        if test is not None:
            met.add(test)
        for each in self._others.values():
            each.meet(value, exact, met)

    def meet_unequal(self, values: Collection[str], met: set[Test]) -> None:
        """Add the tests of `!=` that all values of the key in a call meet together."""
        met |= self.unequal
        for value in values:
            equal = self._unequal.get(spelled(value))
            if equal is not None:
                met.discard(equal)


def spelled(value: str) -> str:
    """Return the one way to write a value that equals it: of a number."""
    exact = number(value)
    return value if exact is None else exact


def _is_numeric(test: Test) -> bool:
    return test.operator in _RELATIONS or (test.operator == "=" and number(test.value) is not None)


class _Texts:
    """Tests of one key with one operator, looked at one by one."""

    def __init__(self) -> None:
        self._tests: dict[str, Test] = {}

    def __len__(self) -> int:
        return len(self._tests)

    def add(self, test: Test) -> None:
        self._tests[test.value] = test

    def remove(self, test: Test) -> None:
        del self._tests[test.value]

    def meet(self, value: str, exact: str | None, met: set[Test]) -> None:
        """Add the tests that a value meets; `exact` is its number as `number` writes it."""
        raise NotImplementedError


class _Beginnings(_Texts):
    """Found by the beginnings of a value that are as long as one of theirs."""

    def __init__(self) -> None:
        super().__init__()
        self._sizes: Counter[int] = Counter()

    def add(self, test: Test) -> None:
        super().add(test)
        self._sizes[len(test.value)] += 1

    def remove(self, test: Test) -> None:
        super().remove(test)
        _less(self._sizes, len(test.value))

    def meet(self, value: str, exact: str | None, met: set[Test]) -> None:
        for size in self._sizes:
            test = self._tests.get(value[:size])
            if test is not None:
                met.add(test)


class _Endings(_Beginnings):
    def meet(self, value: str, exact: str | None, met: set[Test]) -> None:
        for size in self._sizes:
            test = self._tests.get(value[-size:])
            if test is not None:
                met.add(test)


class _Substrings(_Texts):
    """Found by the one of their runs of four characters that the fewest others are found by."""

    def __init__(self) -> None:
        super().__init__()
        self._sizes: Counter[int] = Counter()
        self._by_gram: dict[str, dict[str, Test]] = {}

    def add(self, test: Test) -> None:
        super().add(test)
        size = min(GRAM, len(test.value))
        gram = min(_grams(test.value, size), key=lambda each: len(self._by_gram.get(each, ())))
        self._by_gram.setdefault(gram, {})[test.value] = test
        self._sizes[size] += 1

    def remove(self, test: Test) -> None:
        super().remove(test)
        size = min(GRAM, len(test.value))
        for gram in _grams(test.value, size):
            if self._by_gram.get(gram, {}).pop(test.value, None) is not None and not self._by_gram[gram]:
                del self._by_gram[gram]
        _less(self._sizes, size)

    def meet(self, value: str, exact: str | None, met: set[Test]) -> None:
        if len(self._tests) <= LOOKED_AT * len(self._sizes) * len(value):
            for text, test in self._tests.items():
                if text in value:
                    met.add(test)
            return
        for size in self._sizes:
            for gram in self._by_gram.keys() & _grams(value, size):
                for text, test in self._by_gram[gram].items():
                    if text in value:
                        met.add(test)


class _Words(_Texts):
    """Found by the one of their words that the fewest others are found by."""

    def __init__(self) -> None:
        super().__init__()
        self._by_word: dict[str, dict[Test, set[str]]] = {}

    def add(self, test: Test) -> None:
        super().add(test)
        wanted = set(words(test.value))
        word = min(wanted, key=lambda each: (len(self._by_word.get(each, ())), each))
        self._by_word.setdefault(word, {})[test] = wanted

    def remove(self, test: Test) -> None:
        super().remove(test)
        for word in words(test.value):
            if self._by_word.get(word, {}).pop(test, None) is not None and not self._by_word[word]:
                del self._by_word[word]

    def meet(self, value: str, exact: str | None, met: set[Test]) -> None:
        there = set(words(value))
        for word in there:
            for test, wanted in self._by_word.get(word, {}).items():
                if wanted <= there:
                    met.add(test)


class _Patterns(_Texts):
    """Matched a hundred at once, by automata that are made when they are needed."""

    def __init__(self) -> None:
        super().__init__()
        self._sets: list[tuple[Any, list[Test]]] = []
        self._waiting: dict[Test, None] = {}  # in no set yet

    def add(self, test: Test) -> None:
        super().add(test)
        self._waiting[test] = None

    def remove(self, test: Test) -> None:
        super().remove(test)
        self._take_apart(lambda tests: test in tests)
        self._waiting.pop(test, None)

    def meet(self, value: str, exact: str | None, met: set[Test]) -> None:
        if self._waiting:
            self._take_apart(lambda tests: len(tests) < PATTERNS // 2)
            waiting = list(self._waiting)
            for start in range(0, len(waiting), PATTERNS):
                self._sets += _sets_of(waiting[start : start + PATTERNS])
            self._waiting.clear()
        text = value.encode(errors="surrogatepass")
        for matcher, tests in self._sets:
            found = matcher.Match(text) if matcher is not None else None
            if found is None:  # what always matches is not there: the automaton would take more memory than it may
                met.update(test for test in tests if compiled(test.value).fullmatch(text))
            else:
                met.update(tests[place] for place in found if place < len(tests))

    def _take_apart(self, chosen: Callable[[list[Test]], bool]) -> None:
        kept = []
        for each in self._sets:
            if chosen(each[1]):
                self._waiting.update(dict.fromkeys(each[1]))
            else:
                kept.append(each)
        self._sets = kept


def _sets_of(tests: list[Test]) -> list[tuple[Any, list[Test]]]:
    """Return matchers of regular expressions with their tests, None in place of one that takes too much memory."""
    import re2

    matcher = re2.Set.FullMatchSet(pattern_options())
    for test in tests:
        matcher.Add(test.value.encode())
    matcher.Add(b"\\C*")  # matches always
    try:
        matcher.Compile()
    except re2.error:
        if len(tests) == 1:
            return [(None, tests)]
        half = len(tests) // 2
        return _sets_of(tests[:half]) + _sets_of(tests[half:])
    return [(matcher, tests)]


class _Ordered(_Texts):
    """Found by their place among all values that are compared, numbers and texts apart."""

    def __init__(self, part: Callable[[list[Any], Any], slice]) -> None:
        super().__init__()
        self._part = part
        self._numbers: tuple[list[Decimal], list[Test]] = [], []
        self._words: tuple[list[str], list[Test]] = [], []

    def add(self, test: Test) -> None:
        super().add(test)
        limit, (limits, tests) = self._place(test)
        place = bisect_left(limits, limit)
        limits.insert(place, limit)
        tests.insert(place, test)

    def remove(self, test: Test) -> None:
        super().remove(test)
        limit, (limits, tests) = self._place(test)
        place = bisect_left(limits, limit)
        del limits[place], tests[place]

    def meet(self, value: str, exact: str | None, met: set[Test]) -> None:
        if exact is None:
            limits, tests = self._words
            met.update(tests[self._part(limits, value)])
        else:
            numbers, tests = self._numbers
            met.update(tests[self._part(numbers, Decimal(exact))])

    def _place(self, test: Test) -> tuple[Any, tuple[list[Any], list[Test]]]:
        exact = number(test.value)
        return (test.value, self._words) if exact is None else (Decimal(exact), self._numbers)


# The part of ascending limits which a value is on that side of.
_RELATIONS: dict[str, Callable[[list[Any], Any], slice]] = {
    ">": lambda limits, value: slice(0, bisect_left(limits, value)),
    ">=": lambda limits, value: slice(0, bisect_right(limits, value)),
    "<": lambda limits, value: slice(bisect_right(limits, value), None),
    "<=": lambda limits, value: slice(bisect_left(limits, value), None),
}
_KINDS: dict[str, Callable[[], _Texts]] = {
    "contains": _Substrings,
    "beginsWith": _Beginnings,
    "endsWith": _Endings,
    "matchesWords": _Words,
    "matchesRegex": _Patterns,
    ">": lambda: _Ordered(_RELATIONS[">"]),
    ">=": lambda: _Ordered(_RELATIONS[">="]),
    "<": lambda: _Ordered(_RELATIONS["<"]),
    "<=": lambda: _Ordered(_RELATIONS["<="]),
}


def _grams(text: str, size: int) -> set[str]:
    return {text[start : start + size] for start in range(len(text) - size + 1)}


def _less(sizes: Counter[int], size: int) -> None:
    sizes[size] -= 1
    if not sizes[size]:
        del sizes[size]
