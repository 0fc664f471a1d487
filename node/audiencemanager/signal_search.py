"""Which signals came, and which traits read them."""

from collections.abc import Iterator, Sequence

from ..access.scope import Scope
from ..errors import InvalidInput
from ..segments.rules import leaves
from ..segments.trees import Tree
from ..storage.records import Document, Documents
from . import signals
from .platform import SIGNAL
from .records import Trait
from .sight import Sight
from .trait_index import TraitIndex
from .visitors import opened

MOST = 1_000  # signals that are shown
MAX_KEYS = 20


class Signals:
    """The signals of a project's visitors: pairs of a key and a value, without whose they are."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def search(
        self, wanted: Sequence[str], *, unused: bool = False, minimum: int = 1, days: int | None = None
    ) -> Documents:
        """Return the signals of some keys ("segID", or with a value "segID=X") that came together in a call, the most
        frequent first, at most MOST; `unused`: only those that no trait reads.

        Each has its pairs, how many calls had them in the last `days` (all that is kept), when they came first and last, from
        which data source, and the numbers of the traits whose rules have a test that one of them meets.
        """
        if days is not None and not 1 <= days <= signals.DAYS:
            raise InvalidInput(f"signals are kept for {signals.DAYS} days", hint=f"give 1 to {signals.DAYS} days")
        pairs = list(_parsed(wanted))
        visitors = opened(self._scope)
        since = 0 if days is None else visitors.today + 1 - days
        with self._scope.read(act="audience.view") as tx, visitors.file.read() as reading:
            sight = Sight(self._scope, tx)
            found = signals.search(reading, pairs, since)
            hidden = _hidden(sight)
            readers = _index(sight.traits(), {key for key, _ in pairs})
            shown: Documents = []
            for each in found:
                if each.calls < minimum or not sight.sees_source(each.source) or not hidden.isdisjoint(each.pairs):
                    continue
                traits = readers.matching(each.pairs)
                if not (unused and traits):
                    shown.append(_document(each, sight, traits))
                if len(shown) == MOST:
                    break
            return shown


def _parsed(wanted: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    if not wanted or len(wanted) > MAX_KEYS:
        raise InvalidInput(f"1 to {MAX_KEYS} keys can be searched", hint="such as segID, or segID=X for one value")
    for each in wanted:
        key, given, value = each.partition("=")
        if not key:
            raise InvalidInput("a signal is given as KEY or KEY=VALUE", hint="such as segID, or segID=X for one value")
        if key.startswith(signals.NOT_KEPT):
            raise InvalidInput(
                f"signals whose keys begin with {', '.join(signals.NOT_KEPT)} are not kept",
                hint="rules can read them when they come",
            )
        yield key, value if given else None


def _hidden(sight: Sight) -> set[tuple[str, str]]:
    """Return the signals that are segments of the platform which the caller may not see."""
    there = sight.catalogue.traits.values()
    return {(SIGNAL, each.integration_code) for each in there if each.integration_code and not sight.sees_trait(each)}


def _index(there: Sequence[Trait], keys: set[str]) -> TraitIndex:
    """Return an index of the tests that rules have on some keys, whatever else they ask for."""
    rules: list[tuple[int, Tree]] = []
    for trait in there:
        tests = [] if trait.tree is None else [each for each in leaves(trait.tree) if each["field"] in keys]
        if tests:
            rules.append((trait.number, {"combinator": "or", "rules": tests}))
    return TraitIndex(rules)


def _document(signal: signals.Signal, sight: Sight, traits: list[int]) -> Document:
    source = sight.catalogue.sources.get(signal.source)
    return {
        "pairs": [{"key": key, "value": value} for key, value in signal.pairs],
        "count": signal.calls,
        "first": signal.first,
        "last": signal.last,
        "source": signal.source,
        "source_name": None if source is None else source.name,
        "traits": traits,
    }
