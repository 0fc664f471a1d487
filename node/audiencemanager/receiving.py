"""What arrives of visitors: calls with ids and signals, from files and programs, and members of segments of the platform.

A chunk is one transaction of audience.db: killed anywhere, it is there as a whole or not at all. The control rows are
another database, and here they are only read: the traits and whom the project has erased, as they are when the chunk is
applied. A trait that is deleted meanwhile leaves realisations that nobody reads, until upkeep drops them. Whoever is told
that a chunk was taken writes that after it: killed in between, the chunk comes again, which changes nothing of who has
which trait; only counts of realisations and of signals grow twice.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from psi.values import SLICE, Bools, Values

from ..access.scope import Scope
from ..people.suppressions import Suppressions
from . import signals, sources
from .trait_cache import TraitCache, cached
from .visitors import DAY, NOBODY, U32, Visitors, opened

CHUNK = 65_536  # calls at once, where there are more: memory and the time that others wait follow it


class Call(NamedTuple):
    """What was seen of somebody at a time (Unix seconds): their ids, each with the number of its data source, and signals.

    The ids are canonical bytes, as inputs/normalise.py makes them. `realise` and `remove` are numbers of traits; with
    `overwrite` all traits of that data source are removed too. What a call removes it removes before it realises anything.

    `only` are the data sources whose traits count, are realised and removed, None for all. With `withdraw` the traits that
    the signals match are removed, not realised.
    """

    ids: tuple[tuple[int, bytes], ...]
    signals: signals.Pairs
    realise: tuple[int, ...]
    remove: tuple[int, ...]
    at: int
    overwrite: int | None = None
    only: tuple[int, ...] | None = None
    withdraw: bool = False


class Rows(NamedTuple):
    """Calls with one id each, of the same data source: value i has what `asked[which[i]]` says, whose `ids` are not looked at."""

    source: int
    values: Values
    asked: Sequence[Call]
    which: npt.NDArray[np.intp]


@dataclass(slots=True, kw_only=True)
class Received:
    """What came of calls; traits are counted for each visitor, and those that are not there or are of folders not at all.

    `visitors` is uint32 (n,), the first visitor of each call, NOBODY where it was left out; `traits` what each realised,
    of Rows what each that they ask realises.
    """

    visitors: U32
    traits: list[Sequence[int]]
    found: int = 0  # ids that were known
    made: int = 0  # ids that were not
    left_out: int = 0  # calls with an id of somebody who was erased
    signals: int = 0
    unused: int = 0  # signals of which no rule reads the key, or of calls that realised nothing
    realised: int = 0
    removed: int = 0
    without_trait: int = 0  # calls that realised nothing


@dataclass(slots=True, kw_only=True)
class _Alike:
    """Calls that have all but their ids in common; `visitors` are those of the calls since the last flush."""

    pairs: signals.Pairs
    traits: tuple[int, ...]
    removed: tuple[int, ...]
    unused: int
    at: int
    calls: int = 0
    visitors: list[int] = field(default_factory=list)


def receive(scope: Scope, calls: Sequence[Call], source: int) -> Received:
    """Apply calls of at most CHUNK in one transaction: find or make visitors, realise and remove traits, note signals.

    `source` is the number of the data source that the signals are of. Ids of one call that nobody has become one
    visitor's, or the visitor's that has another id of the call; each of several visitors gets the traits. Whoever calls has
    checked that the user may do it.
    """
    visitors = opened(scope)
    with visitors.begin() as tx:
        with scope.home.read() as reading:
            cache = cached(scope, reading)
            erased = Suppressions.read(scope, reading)
            there = sources.stored(scope, reading) if erased.digests else []
            namespaces = {each.number: each.namespace for each in there}
        chunk = _Chunk(visitors, cache)
        chunk.find(calls, erased, namespaces)
        chunk.apply(calls)
        signals.note(tx, source, chunk.seen())
    return chunk.received


def receive_rows(scope: Scope, rows: Rows, source: int) -> Received:
    """Do what `receive` does, with no Python for each of many calls that say the same."""
    visitors = opened(scope)
    with visitors.begin() as tx:
        with scope.home.read() as reading:
            cache, erased = cached(scope, reading), Suppressions.read(scope, reading)
            its = sources.by_number(scope, reading, rows.source) if erased.digests else None
        chunk = _Chunk(visitors, cache)
        namespace = None if its is None else its.namespace
        chunk.find_rows(rows, None if namespace is None else erased.has(namespace, rows.values))
        chunk.apply_rows(rows)
        signals.note(tx, source, chunk.seen())
    return chunk.received


def receive_members(scope: Scope, trait: int, source_of_ids: int, values: Values, acts: Bools) -> None:
    """Let ids of a data source have a trait from now on, or where `acts` (bool (n,)) is False no more.

    Each part of SLICE ids is a transaction; all of it again changes nothing more. An id that nobody has makes a visitor.
    A visitor who has the trait by several ids has it until the last of them is said to have it no more.
    """
    visitors = opened(scope)
    for start in range(0, len(values), SLICE):
        part = slice(start, start + SLICE)
        some, come = values.part(part), acts[part]
        with visitors.begin():
            with scope.home.read() as reading:
                cache, erased = cached(scope, reading), Suppressions.read(scope, reading)
                source = sources.by_number(scope, reading, source_of_ids)
            if not cache.realisable([trait]):
                return  # it was deleted meanwhile
            if erased.digests and source is not None and source.namespace is not None:
                stay = ~erased.has(source.namespace, some)
                some, come = some.take(stay), come[stay]
            visitors.remove(trait, visitors.let_go(trait, source_of_ids, some.take(~come)))
            there = BitMap(visitors.numbers(source_of_ids, some.take(come), make=True))
            visitors.hold(trait, source_of_ids, some.take(come))
            visitors.realise(trait, there, visitors.today, once=cache.counts_once(trait))


class _Chunk:
    """Calls that are applied together, those that are alike at once."""

    def __init__(self, visitors: Visitors, cache: TraitCache) -> None:
        self._visitors = visitors
        self._cache = cache
        self._whom: list[int] = []  # the visitor of each call
        self._others: dict[int, list[int]] = {}  # further ones, by the place of the call
        self._matched: dict[signals.Pairs, Sequence[int]] = {}
        self._alike: dict[tuple[object, ...], _Alike] = {}
        self._realised: dict[int, list[_Alike]] = {}  # of each visitor since the last flush, where calls remove traits
        self.received = Received(visitors=np.zeros(0, np.uint32), traits=[])

    def find(self, calls: Sequence[Call], erased: Suppressions, namespaces: Mapping[int, str | None]) -> None:
        """Find the visitors of each call, or make one; NOBODY for a call that is left out or has no id."""
        received, visitors, whom = self.received, self._visitors, self._whom
        known: dict[tuple[int, bytes], int] = {}
        for source, values in _by_source(calls).items():
            known.update({(source, value): found for value, found in visitors.known(source, values).items()})
            received.found = len(known)
        known.update(_left_out(calls, erased, namespaces))
        new: dict[int, dict[bytes, int]] = defaultdict(dict)
        first = following = visitors.reserve(0)
        for place, (ids, *_) in enumerate(calls):
            found = [known[each] for each in ids if each in known]
            if NOBODY in found or not ids:
                received.left_out += 1
                whom.append(NOBODY)
                continue
            if len(found) < len(ids):
                if not found:
                    found.append(following)
                    following += 1
                for source, value in ids:
                    if (source, value) not in known:
                        known[source, value] = new[source][value] = found[0]
            whom.append(found[0])
            if len(found) > 1 and (others := set(found[1:]) - {found[0]}):
                self._others[place] = list(others)
        visitors.reserve(following - first)
        for source, added in new.items():
            visitors.add(source, added)
            received.made += len(added)
        received.visitors = np.array(whom, np.uint32)

    def apply(self, calls: Sequence[Call]) -> None:
        """Realise and remove traits of the visitors of each call, in the order of the calls."""
        received, others, found = self.received, self._others, self._alike
        removing = any(call.remove or call.withdraw or call.overwrite is not None for call in calls)
        for place, (call, visitor) in enumerate(zip(calls, self._whom, strict=True)):
            if visitor == NOBODY:
                received.traits.append(())
                continue
            kind = call[1:]
            alike = found.get(kind)
            if alike is None:
                alike = found[kind] = self._first(call)
            if removing:
                self._keep_order(alike, [visitor, *others.get(place, ())])
            alike.visitors.append(visitor)
            if others:
                alike.visitors += others.get(place, ())
            alike.calls += 1
            received.traits.append(alike.traits)
        self._end()

    def find_rows(self, rows: Rows, erased: Bools | None) -> None:
        """Find the visitor of each row, or make one; NOBODY for one that is `erased`."""
        received, visitors = self.received, self._visitors
        stay = np.ones(len(rows.values), bool) if erased is None else ~erased
        received.left_out = len(stay) - int(stay.sum())
        before = visitors.reserve(0)
        numbers = visitors.numbers(rows.source, rows.values if stay.all() else rows.values.take(stay), make=True)
        received.made = visitors.reserve(0) - before
        received.found = len(np.unique(numbers)) - received.made
        received.visitors = np.zeros(len(stay), np.uint32)
        received.visitors[stay] = numbers

    def apply_rows(self, rows: Rows) -> None:
        """Do what `apply` does with the rows that have a visitor."""
        whom = self.received.visitors
        which, whom = rows.which[whom != NOBODY], whom[whom != NOBODY]
        every = []
        for call in rows.asked:
            alike = self._alike.get(call[1:])
            if alike is None:
                alike = self._alike[call[1:]] = self._first(call)
            every.append(alike)
        if any(alike.removed for alike in every):
            for place, visitor in zip(which.tolist(), whom.tolist(), strict=True):
                self._keep_order(every[place], [visitor])
                every[place].visitors.append(visitor)
                every[place].calls += 1
        else:
            sorted_by_what, start = whom[np.argsort(which, kind="stable")].tolist(), 0
            for alike, calls in zip(every, np.bincount(which, minlength=len(every)).tolist(), strict=True):
                alike.visitors += sorted_by_what[start : start + calls]
                alike.calls += calls
                start += calls
        self.received.traits += [alike.traits for alike in every]
        self._end()

    def _end(self) -> None:
        received = self.received
        for alike in self._alike.values():
            received.signals += alike.calls * len(alike.pairs)
            received.unused += alike.calls * alike.unused
            received.without_trait += 0 if alike.traits else alike.calls
        self._flush()

    def seen(self) -> list[signals.Seen]:
        """Return which signals came, how often and when."""
        found = (each for each in self._alike.values() if each.pairs and each.calls)
        return [signals.Seen(each.pairs, each.at // DAY, each.calls, each.at, each.at) for each in found]

    def _first(self, call: Call) -> _Alike:
        """Return what calls like this one do."""
        cache, pairs = self._cache, call.signals
        by_rule = self._matched.get(pairs)
        if by_rule is None:
            by_rule = self._matched[pairs] = cache.index.matching(pairs) if pairs else ()
        unused = len(pairs) if not by_rule else sum([not cache.reads(key) for key, _ in pairs])
        traits = tuple(dict.fromkeys((*by_rule, *cache.realisable(call.realise))))
        removed = cache.realisable(call.remove)
        if call.overwrite is not None:
            removed = tuple(dict.fromkeys((*removed, *cache.realisable(cache.of_source.get(call.overwrite, ())))))
        if call.only is not None:
            traits, removed = (
                tuple(each for each in some if cache.traits[each].source in call.only) for some in (traits, removed)
            )
        if call.withdraw:
            traits, removed = (), tuple(dict.fromkeys((*removed, *traits)))
        return _Alike(pairs=pairs, traits=traits, removed=removed, unused=unused, at=call.at)

    def _keep_order(self, alike: _Alike, these: Sequence[int]) -> None:
        """Flush first where a call removes what one before it realised: in a flush removals come first."""
        for visitor in these if alike.removed else ():
            if any(not set(each.traits).isdisjoint(alike.removed) for each in self._realised.get(visitor, ())):
                self._flush()
        for visitor in these if alike.traits else ():
            self._realised.setdefault(visitor, []).append(alike)

    def _flush(self) -> None:
        """Remove and realise what waits."""
        received, visitors = self.received, self._visitors
        removed: dict[int, list[int]] = defaultdict(list)
        realised: dict[tuple[int, int], list[int]] = defaultdict(list)
        for alike in self._alike.values():
            for trait in alike.removed:
                removed[trait] += alike.visitors
            for trait in alike.traits:
                realised[trait, alike.at // DAY] += alike.visitors
            received.removed += len(alike.visitors) * len(alike.removed)
            received.realised += len(alike.visitors) * len(alike.traits)
            alike.visitors = []
        for trait, these in removed.items():
            visitors.remove(trait, BitMap(these))
        for (trait, day), these in realised.items():
            distinct, once = BitMap(these), self._cache.counts_once(trait)
            several = None
            if not once and len(distinct) < len(these):
                numbers, counts = np.unique(np.array(these, np.uint32), return_counts=True)
                several = numbers[counts > 1], counts[counts > 1].astype(np.uint32)
            visitors.realise(trait, distinct, day, once=once, several=several)
        self._realised.clear()


def _by_source(calls: Sequence[Call]) -> dict[int, list[bytes]]:
    """Return the distinct ids of calls by their data source."""
    found: dict[int, list[bytes]] = defaultdict(list)
    for source, value in set(chain.from_iterable([call.ids for call in calls])):
        found[source].append(value)
    return found


def _left_out(
    calls: Sequence[Call], erased: Suppressions, namespaces: Mapping[int, str | None]
) -> dict[tuple[int, bytes], int]:
    """Return the ids, with their data sources, of people who were erased: they are nobody's."""
    found: dict[tuple[int, bytes], int] = {}
    for source, values in _by_source(calls).items() if erased.digests else ():
        namespace = namespaces.get(source)
        if namespace is not None:
            out = np.flatnonzero(erased.has(namespace, Values.of(values)))
            found.update({(source, values[each]): NOBODY for each in out})
    return found
