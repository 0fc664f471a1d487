"""What a generation of a project's data consists of: its files, and the names that numbers in them stand for.

The row of a generation keeps this as JSON, in which what is empty is left out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..storage.records import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityFiles:
    """The files of one namespace's identities; `repeated` where several datasets gave the same one."""

    rows: str
    lengths: str | None = None
    profiles: str
    sources: str
    ranks: str
    repeated: bool = False

    @property
    def files(self) -> list[str]:
        each = (self.rows, self.lengths, self.profiles, self.sources, self.ranks)
        return [name for name in each if name is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LineFiles:
    """The files of the lines that a dataset's imports had, as `known_lines.py` has them.

    The `stamp` says how they were read, `made` when, in Unix seconds.
    """

    stamp: str
    made: int
    digests: str
    profiles: str
    lines: str
    outcomes: str
    at: str | None = None

    @property
    def files(self) -> list[str]:
        each = (self.digests, self.profiles, self.lines, self.outcomes, self.at)
        return [name for name in each if name is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One generation. A text is the name of a file, `bases`, `sources` and the names in `lists` apart."""

    count: int = 0  # profiles
    ids: str | None = None
    order: str | None = None
    erased: str | None = None  # numbers that no profile has any more; none is given again
    consent: str | None = None
    consent_at: str | None = None
    consent_basis: str | None = None
    identities: Mapping[str, IdentityFiles] = field(default_factory=dict)  # by namespace with rule id
    noted: Mapping[str, str] = field(default_factory=dict)  # consent for single namespaces, without a rule id
    bases: tuple[str, ...] = ()  # of consents; number 1 is the first, "" a number that nobody has
    sources: tuple[str, ...] = ()  # datasets, by the numbers that identity rows name them with
    attributes: Mapping[str, str] = field(default_factory=dict)  # by dataset
    named: Mapping[str, str] = field(default_factory=dict)  # by dataset: the profiles that its imports had
    known_lines: Mapping[str, LineFiles] = field(default_factory=dict)  # by dataset
    segments: Mapping[str, str] = field(default_factory=dict)  # members, by the segment's id
    lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by dataset: segments its exports brought
    touched: tuple[
        str, ...
    ] = ()  # profiles that the last generations changed, this one's last; "" is all. See touched.py

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Manifest":
        values = {each.name: document[each.name] for each in fields(cls) if each.name in document}
        values["identities"] = {name: IdentityFiles(**files) for name, files in values.get("identities", {}).items()}
        values["known_lines"] = {name: LineFiles(**files) for name, files in values.get("known_lines", {}).items()}
        values["lists"] = {dataset: tuple(names) for dataset, names in values.get("lists", {}).items()}
        for name in ("bases", "sources", "touched"):
            values[name] = tuple(values.get(name, ()))
        return cls(**values)

    def document(self) -> Document:
        """Return the manifest as JSON has it; `from_document` reads it again."""
        return {name: value for name, value in asdict(self).items() if value}

    @property
    def files(self) -> set[str]:
        return set(self._files())

    def _files(self) -> Iterator[str]:
        columns = (self.ids, self.order, self.erased, self.consent, self.consent_at, self.consent_basis)
        yield from (name for name in columns if name is not None)
        for identities in self.identities.values():
            yield from identities.files
        for lines in self.known_lines.values():
            yield from lines.files
        for names in (self.noted, self.attributes, self.named, self.segments):
            yield from names.values()
        yield from filter(None, self.touched)
