"""Rules of segments of traits: `24T AND NOT 26T`, `17S OR FREQUENCY([24T, 26T] <= 5D) >= 3`.

    test = id "T" | id "S" | "[" id "T" {"," id "T"} "]"
         | FREQUENCY "(" "[" id "T" {"," id "T"} "]" [("<=" | ">=") n "D"] ")" ("<=" | ">=" | "==") n

24T is trait 24, 17S is segment 17, and a list is any of its traits. FREQUENCY counts the realisations of any of the traits
in the last n days (<=) or n days ago and before (>=).
"""

import operator
import re
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from ..errors import InvalidInput
from ..segments import trees
from ..segments.rules import leaves
from ..segments.trees import Tree
from .expressions import Reader
from .records import TraitKind

Members = Callable[[int], BitMap]
Counts = tuple[npt.NDArray[np.uint32], npt.NDArray[Any]]  # visitors, ascending, and how often each realised
Frequency = Callable[[Sequence[int], int | None], Counts]

MAX_TRAITS = 1_000  # of one list
COUNTED = (TraitKind.RULE_BASED, TraitKind.FOLDER)

_COMPARE = {"<=": operator.le, ">=": operator.ge, "=": operator.eq}
_SIGNS = {"<=": "<=", ">=": ">=", "=>": ">=", "==": "=", "=": "="}
_ID = re.compile(r"([0-9]{1,9})([TS])", re.ASCII)
_DAYS = re.compile(r"([0-9]{1,5})D", re.ASCII)
_COUNT = re.compile(r"([0-9]{1,9})", re.ASCII)
_HINT = "write for example: 24T AND NOT (26T OR 17S) AND FREQUENCY([24T, 26T] <= 5D) >= 3"


def parse(text: str) -> Tree:
    """Return the canonical tree of a rule; raises InvalidInput with the place and what was expected there.

    A leaf is {"field": "24T", "operator": "=", "value": True}, or for FREQUENCY {"field": "24T,26T", "operator": ">=",
    "value": 3}, with "recency": {"operator": "<=", "days": 5} where it has one.
    """
    return Reader(text, _test, hint=_HINT).rule(written, _is_met_by_none)


def written(tree: Tree) -> str:
    """Return a canonical tree as text, which parses to the same tree."""
    return trees.written(tree, _written_test)


def reads(tree: Tree) -> tuple[list[int], list[int]]:
    """Return the numbers of the traits and of the segments that a rule reads, each in ascending order."""
    found = {each for leaf in leaves(tree) for each in leaf["field"].split(",")}
    return sorted(_ids(found, "T")), sorted(_ids(found, "S"))


def check(tree: Tree, kinds: Mapping[int, str]) -> None:
    """Raise InvalidInput if a rule wants of traits what those of their kind cannot have.

    Only rule-based and folder traits have realisations to count: one that was onboarded counts once, and has no recency.
    """
    for leaf in leaves(tree):
        found = _traits(leaf)
        onboarded = [each for each in found if kinds[each] not in COUNTED]
        once = leaf["value"] is True or (leaf["operator"], leaf["value"]) == (">=", 1)
        if onboarded and ("recency" in leaf or (onboarded == found and not once)):
            raise InvalidInput(
                f"{onboarded[0]}T is not realised by rule: it has no recency, and counts once",
                hint=f"write {onboarded[0]}T alone, joined by AND or OR",
            )


def evaluate(tree: Tree, members: Members, frequency: Frequency, segments: Members) -> BitMap:
    """Return the visitors who meet a rule.

    `members` and `segments` give whom a trait or a segment has. `frequency(traits, days)` gives how often visitors
    realised any of the traits, all told or at most `days` days ago (0: today), for those who did.
    """
    found = _Evaluation(members, frequency, segments).of(tree)
    assert not found.rest, "parse() refuses rules that take in everybody else"
    return BitMap(found.visitors)  # it may be that of a trait


class _Set(NamedTuple):
    """Some visitors, or with `rest` all others: a rule need not know who all are."""

    visitors: BitMap
    rest: bool = False


@dataclass(frozen=True, slots=True)
class _Evaluation:
    members: Members
    frequency: Frequency
    segments: Members

    def of(self, tree: Tree) -> _Set:
        if "rules" not in tree:
            return self._leaf(tree)
        found = [self.of(each) for each in tree["rules"]]
        result = _all(found) if tree["combinator"] == "and" else _not(_all([_not(each) for each in found]))
        return _not(result) if tree.get("not") else result

    def _leaf(self, leaf: Tree) -> _Set:
        if leaf["value"] is True:
            (trait, segment) = _ids([leaf["field"]], "T"), _ids([leaf["field"]], "S")
            return _Set(self.members(trait[0]) if trait else self.segments(segment[0]))
        traits, compare, wanted = _traits(leaf), _COMPARE[leaf["operator"]], leaf["value"]
        if "recency" not in leaf and (leaf["operator"], wanted) == (">=", 1):
            return _Set(BitMap.union(*map(self.members, traits)))
        visitors, counts = self._counts(traits, leaf.get("recency"))
        met = compare(counts, wanted)
        if compare(0, wanted):  # who never realised them is among those
            return _Set(_bitmap(visitors[~met]), rest=True)
        return _Set(_bitmap(visitors[met]))

    def _counts(self, traits: list[int], recency: Tree | None) -> Counts:
        if recency is None:
            return self.frequency(traits, None)
        if recency["operator"] == "<=":
            return self.frequency(traits, recency["days"])
        visitors, counts = self.frequency(traits, None)
        newer, number = self.frequency(traits, recency["days"] - 1)
        before = counts.astype(np.int64)
        there = np.isin(newer, visitors, assume_unique=True)  # others came between the two looks
        before[np.searchsorted(visitors, newer[there])] -= number[there]
        return visitors, before


def _bitmap(visitors: npt.NDArray[np.uint32]) -> BitMap:
    return BitMap(array("I", visitors.tobytes()))  # ten times faster than of the array of numpy


def _all(found: list[_Set]) -> _Set:
    """Return who is in each of the sets."""
    inside = sorted((each.visitors for each in found if not each.rest), key=len)
    outside = [each.visitors for each in found if each.rest]
    if not inside:
        return _Set(BitMap.union(*outside), rest=True)
    left = inside[0] if len(inside) == 1 else BitMap.intersection(*inside)
    return _Set(left - BitMap.union(*outside) if outside else left)


def _not(found: _Set) -> _Set:
    return _Set(found.visitors, not found.rest)


def _traits(leaf: Tree) -> list[int]:
    return _ids(leaf["field"].split(","), "T")


def _ids(ids: Iterable[str], kind: str) -> list[int]:
    return [int(each[:-1]) for each in ids if each.endswith(kind)]


def _is_met_by_none(leaf: Tree) -> bool:
    """Return whether somebody meets a leaf who never realised a trait."""
    return leaf["value"] is not True and bool(_COMPARE[leaf["operator"]](0, leaf["value"]))


# Reading


def _test(reader: Reader) -> Tree:
    if reader.token.text == "[":
        found: list[Tree] = [{"field": each, "operator": "=", "value": True} for each in _list(reader)]
        return found[0] if len(found) == 1 else {"combinator": "or", "rules": found}
    if reader.took("FREQUENCY"):
        return _frequency(reader)
    return {"field": _id(reader, "TS"), "operator": "=", "value": True}


def _frequency(reader: Reader) -> Tree:
    reader.expect("(")
    traits, recency = _list(reader), {}
    if not reader.took(")"):
        sign = _sign(reader, ("<=", ">="), "'<=', '>=' or ')'")
        days = _number(reader, _DAYS, "a number of days from 1 on, such as 5D")
        recency = {"recency": {"operator": sign, "days": days}}
        reader.expect(")")
    sign = _sign(reader, ("<=", ">=", "="), "'<=', '>=' or '=='")
    return {"field": ",".join(traits), "operator": sign, "value": _number(reader, _COUNT, "a number"), **recency}


def _list(reader: Reader) -> list[str]:
    reader.expect("[")
    found = [_id(reader, "T")]
    while reader.took(","):
        found.append(_id(reader, "T"))
        if len(found) > MAX_TRAITS:
            raise reader.refused(f"a list has at most {MAX_TRAITS:,} traits")
    if not reader.took("]"):
        raise reader.expected("',' or ']'")
    return found


def _id(reader: Reader, kinds: str) -> str:
    found = _ID.fullmatch(reader.token.text.upper())
    if found is None or found[2] not in kinds:
        raise reader.expected(
            "a trait such as 24T" + (", a segment such as 17S, FREQUENCY or '['" if "S" in kinds else "")
        )
    reader.take()
    return f"{int(found[1])}{found[2]}"


def _sign(reader: Reader, allowed: Sequence[str], what: str) -> str:
    found = _SIGNS.get(reader.token.text)
    if found is None or found not in allowed:
        raise reader.expected(what)
    reader.take()
    return found


def _number(reader: Reader, pattern: re.Pattern[str], what: str) -> int:
    found = pattern.fullmatch(reader.token.text.upper())
    if found is None or (pattern is _DAYS and int(found[1]) == 0):
        raise reader.expected(what)
    reader.take()
    return int(found[1])


# Writing


def _written_test(leaf: Tree) -> str:
    if leaf["value"] is True:
        return str(leaf["field"])
    recency = f" {leaf['recency']['operator']} {leaf['recency']['days']}D" if "recency" in leaf else ""
    sign = "==" if leaf["operator"] == "=" else leaf["operator"]
    return f"FREQUENCY([{leaf['field']}]{recency}) {sign} {leaf['value']}"
