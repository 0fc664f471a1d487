"""The ids that a request declares, and Audience Manager's codes for what is wrong with them.

Source (Experience League): "DCS Error Codes, Messages, and Examples". Its messages repeat the id; these do not.
"""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from ..access.scope import Scope
from ..inputs.normalise import Rule, normalise, rule
from ..storage.database import Tx
from . import sources
from .builtin import DEVICES
from .records import SourceKind
from .visitors import split

MOST_IDS = 10  # of one request, apart from its device id
MOST_OF_A_SOURCE = 3


class Code(IntEnum):
    """What is wrong with a request, as Audience Manager's servers number it."""

    ORGANISATION = 2
    MALFORMED = 10
    EXPERIENCE_CLOUD_ID = 101
    DEVICE_ID = 102
    NO_VALID_ID = 104
    TOKEN = 111
    OPTED_OUT = 171
    ID = 300
    TOO_MANY = 301
    NOT_OURS = 302
    DISCARDED = 309
    TOO_MANY_OF_A_SOURCE = 310
    ENCODING = 311
    GLOBAL_ID = 312

    @property
    def text(self) -> str:
        return _TEXTS[self]

    @property
    def voids(self) -> bool:
        """Whether nothing of the request is done."""
        return self in _VOID


_TEXTS = {
    Code.ORGANISATION: "Invalid d_orgid value",
    Code.MALFORMED: "Malformed request",
    Code.EXPERIENCE_CLOUD_ID: "Invalid Experience Cloud id passed in",
    Code.DEVICE_ID: "Invalid aam id passed in request",
    Code.NO_VALID_ID: "All customer ids are invalid",
    Code.TOKEN: "Invalid token received",
    Code.OPTED_OUT: "Encountered opt out tag",
    Code.ID: "Invalid customer id",
    Code.TOO_MANY: "Maximum number of customer ids exceeded",
    Code.NOT_OURS: "Unauthorized customer id",
    Code.DISCARDED: "Customer id was discarded because it exceeded the limit of declared customer ids per request",
    Code.TOO_MANY_OF_A_SOURCE: "Customer id was discarded because it exceeded the limit for a given namespace",
    Code.ENCODING: "Request contains invalid parameters",
    Code.GLOBAL_ID: "Request contains an invalid Global Device ID",
}
_VOID = frozenset({Code.ORGANISATION, Code.MALFORMED, Code.NO_VALID_ID, Code.TOKEN, Code.OPTED_OUT, Code.ENCODING})


class Problem(NamedTuple):
    """A code with what it is about, in words that repeat nothing of anybody."""

    code: Code
    about: str = ""

    @property
    def text(self) -> str:
        return f"{self.code.text}{self.about}"


class Known(NamedTuple):
    """The data sources of a project: the rule of each with ids, the global ones, and numbers by integration code."""

    rules: dict[int, Rule]
    world: frozenset[int]
    codes: dict[str, int]
    numbers: frozenset[int]

    @classmethod
    def read(cls, scope: Scope, tx: Tx) -> "Known":
        found = sources.stored(scope, tx)
        return cls(
            {each.number: rule(each.namespace) for each in found if each.namespace is not None},
            frozenset(each.number for each in found if each.kind is SourceKind.GLOBAL),
            {each.integration_code: each.number for each in found if each.integration_code},
            frozenset(each.number for each in found),
        )


def limited(only: tuple[int, ...] | None, allowed: frozenset[int] | None) -> tuple[int, ...] | None:
    """Return the data sources whose traits a request may realise, None for all, as it names them and its user may."""
    if allowed is None:
        return only
    return tuple(sorted(allowed)) if only is None else tuple(each for each in only if each in allowed)


@dataclass(slots=True)
class DeclaredIds:
    """Ids as a request declares them, one after the other; what is wrong with one costs itself."""

    known: Known
    ids: list[tuple[int, bytes]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    _declared: int = 0
    _of_source: dict[int, int] = field(default_factory=dict)

    def device(self, value: str, code: Code) -> None:
        """Add a device id of Audience Manager or of the Experience Cloud."""
        found = self._canonical(DEVICES, value)
        if found is None:
            self.problems.append(Problem(code))
        else:
            self._add(DEVICES, found)

    def declare(self, source: int | None, value: str) -> None:
        """Add an id of a data source, None for one that the request does not name rightly."""
        self._declared += 1
        if source is None or not value:
            self.problems.append(Problem(Code.ID))
        elif source not in self.known.rules:
            self.problems.append(Problem(Code.NOT_OURS, f" (data source {source})"))
        elif self._declared > MOST_IDS:
            self.problems.append(Problem(Code.DISCARDED, f" (data source {source})"))
        elif self._of_source.get(source, 0) >= MOST_OF_A_SOURCE:
            self.problems.append(Problem(Code.TOO_MANY_OF_A_SOURCE, f" (namespace {source})"))
        else:
            self._of_source[source] = self._of_source.get(source, 0) + 1
            found = self._canonical(source, value)
            if found is not None:
                self._add(source, found)
            else:
                self.problems.append(Problem(Code.GLOBAL_ID if source in self.known.world else Code.ID))

    def end(self) -> None:
        """Look at all of them together."""
        if self._declared > MOST_IDS:
            self.problems.append(Problem(Code.TOO_MANY, f". Maximum allowed is {MOST_IDS}. Found is {self._declared}."))
        only_global = {each.code for each in self.problems} == {Code.GLOBAL_ID}
        if not self.ids and not only_global and not any(each.code.voids for each in self.problems):
            self.problems.append(Problem(Code.NO_VALID_ID))

    def _add(self, source: int, value: bytes) -> None:
        if (source, value) not in self.ids:
            self.ids.append((source, value))

    def _canonical(self, source: int, value: str) -> bytes | None:
        if not value.strip().isprintable():  # no file that it leaves in could have it in a line
            return None
        its_rule = self.known.rules[source]
        found = normalise(its_rule, [value], form="hashed" if its_rule.hashed else None)
        return split(found.values)[0] if found.keep[0] else None
