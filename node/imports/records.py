"""What a reader of another product's export yields: people with their identities, consents and memberships."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from ..errors import InvalidInput
from ..inputs.normalise import Form, Rule, rule_for_import
from ..inputs.sources import Source
from ..people.consent import Word


class Extent(StrEnum):
    """What it means where a file does not name a segment for a person."""

    CHANGES = "changes"  # nothing: the membership stays
    PEOPLE = "people"  # people in the file are not members
    WHOLE = "whole"  # nobody is a member but those for whom the file names it


@dataclass(frozen=True, slots=True)
class Namespace:
    """What identities of another product's namespace are here."""

    rule: Rule
    form: Form | None = None

    @classmethod
    def parse(cls, text: str) -> "Namespace":
        """Read "NAMESPACE[/RULE][:raw|:hashed]"."""
        name, _, form = text.partition(":")
        found = rule_for_import(name)
        if form not in ("", "raw", "hashed") or (form and not found.hashed):
            raise InvalidInput(f"{text[:80]!r} is no namespace", hint="such as email_sha256, phone_sha256:raw or crmid")
        return cls(found, "raw" if form == "raw" else "hashed" if form == "hashed" else None)


@dataclass(frozen=True, slots=True)
class Identity:
    namespace: Namespace
    text: str
    primary: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """One record. Without an `id` the first identity that can be used is the profile's id.

    `share` is a consent code, its time and its basis (0, or UNDATED where the record gives no time), `shares` the same
    by namespace; `segments` says of segment ids whether the person is in them, None where the record says nothing about
    any.
    """

    line: int
    id: str = ""
    identities: Sequence[Identity] = ()
    share: Word | None = None
    shares: Mapping[str, Word] = field(default_factory=dict)
    segments: Mapping[str, bool] | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Export:
    """An opened export: its people, read once; `source.rejected` and `dropped` fill up meanwhile, lines per reason."""

    source: Source
    people: Iterable[Person]
    extent: Extent
    dropped: dict[str, list[int]]
    attributes: Sequence[str] = ()
