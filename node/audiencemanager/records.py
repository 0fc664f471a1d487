"""The rows of the Audience Manager side: data sources, folders, traits and segments of traits."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from ..errors import InvalidName

MAX_NAME = 255  # characters
MAX_DESCRIPTION = 1_000
MAX_DAYS = 3_650  # until a trait expires
DAYS = 120  # until a trait expires, unless told otherwise
NEVER = 0  # days of a trait that does not expire
TOP = 0  # the folder that has the others


class SourceKind(StrEnum):
    """Whose ids and signals a data source has."""

    GLOBAL = "global"  # a maker of devices: every project has these
    OWN = "own"
    THIRD_PARTY = "third-party"
    PLATFORM = "platform"  # what the segments of projects become


class TraitKind(StrEnum):
    RULE_BASED = "RULE_BASED_TRAIT"  # realised by signals that a rule matches
    ON_BOARDED = "ON_BOARDED_TRAIT"  # realised by files, calls and segments of the platform
    FOLDER = "FOLDER_TRAIT"  # the union of the traits of its folder and of those below it


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A data source; `namespace` has its rule, and is None where it has no ids of people.

    `id` is None for a built-in one that the project has set nothing on.
    """

    id: str | None
    number: int
    name: str
    kind: SourceKind
    namespace: str | None
    integration_code: str | None
    controls: Sequence[str]
    created: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A folder of traits and segments; `parent` is the number of another one, or TOP."""

    id: str
    number: int
    parent: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trait:
    """A trait; it expires `days` after the day on which it was realised, NEVER for 0. `labels` are those of the platform's
    segment that it is made from."""

    id: str
    number: int
    kind: TraitKind
    name: str
    description: str
    rule: str | None
    tree: dict[str, Any] | None
    folder: int
    source: int
    integration_code: str | None
    days: int
    labels: Sequence[str]
    created: int


class BriefTrait(NamedTuple):
    """What calls need of a trait: a project has up to 100,000, which stay in memory."""

    number: int
    kind: TraitKind
    source: int
    folder: int
    days: int
    integration_code: str | None
    tree: str | None  # the rule, parsed, in JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class AudienceSegment:
    """A segment of traits; `size` counts visitors as last evaluated."""

    id: str
    number: int
    name: str
    description: str
    rule: str
    tree: dict[str, Any]
    folder: int
    source: int
    integration_code: str | None
    merge_rule: str
    size: int
    evaluated: int | None
    created: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTrait:
    """A trait to be made. `source` and `folder` are numbers."""

    name: str
    source: int
    kind: TraitKind = TraitKind.ON_BOARDED
    rule: str | None = None
    folder: int = TOP
    days: int = DAYS
    integration_code: str | None = None
    labels: Sequence[str] = ()
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSegment:
    """A segment of traits to be made. `source` and `folder` are numbers."""

    name: str
    source: int
    rule: str
    folder: int = TOP
    integration_code: str | None = None
    merge_rule: str = ""
    description: str = ""


def check_title(name: str, noun: str) -> str:
    """Return a name of this side, which may have spaces and capitals; raises InvalidName."""
    if not name.strip() or name != name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise InvalidName(
            f"{name[:80]!r} is not a name for a {noun}",
            hint=f"use 1 to {MAX_NAME} printable characters that neither begin nor end with a space",
        )
    return name
