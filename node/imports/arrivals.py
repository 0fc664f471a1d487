"""All people of an export as columns: identities normalised, an id for each, and what they said and are members of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from psi.errors import Remedy
from psi.values import Bools, Values

from ..errors import InvalidInput
from ..inputs.normalise import Normalised, Reason, encode, normalise
from ..inputs.raw_values import MAX_KEPT, KeptColumn, refuse_personal_name
from ..people.consent import AsSeen, Noted, Word, Words
from ..people.datasets import Field, FieldKind
from ..people.drafts import MAX_ID, Draft
from ..people.identity_rows import IdentityRows, ProfileNumbers
from ..people.suppressions import ID, NOBODY, REASON, RETURN, Suppressions
from .records import Export, Extent, Namespace, Person

MAX_SEGMENTS = 10_000  # a file that names more is none of these exports
_NO_RANK = 1 << 16

Numbers = npt.NDArray[np.int64]


@dataclass(slots=True)
class _Texts:
    """A namespace's identities as they stand in the export: the person's row and the rank of each."""

    texts: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Part:
    """A namespace's identities that can be used."""

    namespace: Namespace
    values: Values
    rows: Numbers
    ranks: Numbers


class Arrivals:
    """The people of an export.

    Reading it fills `rejected` of its source and `dropped`. Raises InvalidInput where nobody can be taken, or raw personal
    data would stay raw.
    """

    def __init__(self, export: Export, region: str | None, suppressions: Suppressions = NOBODY) -> None:
        self.export = export
        self._region, self._suppressions = region, suppressions
        for name in export.attributes:
            refuse_personal_name(name, "field")
        self.kept: list[KeptColumn] = []  # what stays as it is
        people = list(export.people)
        self._lines = np.array([person.line for person in people], np.int64)
        self._parts = [self._normalised(namespace, each) for namespace, each in _by_namespace(people).items()]
        first = self._first_identities(len(people))
        ids = [person.id.strip() or name for person, name in zip(people, first, strict=True)]
        given = [row for row, person in enumerate(people) if person.id]
        self._refuse_raw("id", [ids[row] for row in given], self._lines[given])
        encoded = encode(ids)
        taken = self._with_id(people, encoded)
        self._place = np.full(len(people), -1, np.int64)  # of a record among those taken
        self._place[taken] = np.arange(len(taken))
        self._people = [people[row] for row in taken]
        self.lines = self._lines[taken]
        self.ids: npt.NDArray[np.bytes_] = np.array([encoded[row] for row in taken], np.bytes_)
        self.attributes = {name: [each.attributes.get(name, "") for each in self._people] for name in export.attributes}
        for name, texts in self.attributes.items():
            self._refuse_raw(name, texts, self.lines)
        self.segments = self._memberships()
        self.accepted: dict[str, int] = {}  # identities by namespace with rule id; see `identities`

    def __len__(self) -> int:
        return len(self._people)

    def _normalised(self, namespace: Namespace, given: _Texts) -> _Part:
        """Normalise a namespace's identities, and count what is dropped."""
        found = normalise(namespace.rule, given.texts, form=namespace.form, region=self._region)
        rows, ranks = np.array(given.rows, np.int64), np.array(given.ranks, np.int64)
        name, lines = namespace.rule.namespace, self._lines[rows]
        if namespace.form is None and found.raw and found.hashed:
            raise InvalidInput(
                f"{found.hashed} of the ids of {name} are hashes and {found.raw} raw values",
                hint=f"say which to keep: {name}:raw or {name}:hashed",
            )
        if namespace.rule.name == "opaque-v1":
            self._refuse_raw(name, given.texts, lines)
        self._drop(name, found, lines)
        kept = np.flatnonzero(found.keep)
        return _Part(namespace, found.values.take(kept), rows[kept], ranks[kept])

    def _drop(self, namespace: str, found: Normalised, lines: Numbers) -> None:
        for number in np.unique(found.reasons).tolist():
            if number != Reason.KEPT:
                reason = f"{namespace}: {Reason(number).text}"
                self.export.dropped[reason] += lines[found.reasons == number].tolist()

    def _first_identities(self, count: int) -> list[str]:
        """Return for each person the identity that is an id where there is none: the one of the lowest rank."""
        ranks, names = [_NO_RANK] * count, [""] * count
        for part in self._parts:
            rule = part.namespace.rule
            readable = rule.name in ("opaque-v1", "digits-v1") and not rule.hashed
            for index, (row, rank) in enumerate(zip(part.rows.tolist(), part.ranks.tolist(), strict=True)):
                if rank < ranks[row]:
                    value = part.values[index]
                    text = value.decode(errors="replace") if readable else value.hex()
                    ranks[row], names[row] = rank, f"{rule.namespace}:{text}"
        return names

    def _refuse_raw(self, name: str, texts: Sequence[str], lines: Numbers) -> None:
        column = KeptColumn(name, self._region)
        column.look(texts, lines)
        column.end()
        self.kept.append(column)

    def _with_id(self, people: Sequence[Person], ids: Sequence[bytes]) -> list[int]:
        """Return the rows of people whose id and attributes can be stored; counts the others."""
        rejected, taken, erased = self.export.source.rejected, [], self._erased(ids)
        for row, text in enumerate(ids):
            long = next((name for name, value in people[row].attributes.items() if len(value) > MAX_KEPT), None)
            if erased[row]:
                rejected[REASON].append(int(self._lines[row]))
            elif long is not None:
                rejected[f"{long} of over {MAX_KEPT} characters"].append(int(self._lines[row]))
            elif not text:
                rejected["no id and no identity that can be used"].append(int(self._lines[row]))
            elif len(text) > MAX_ID:
                rejected[f"a profile id over {MAX_ID} bytes"].append(int(self._lines[row]))
            else:
                taken.append(row)
        if not taken:
            reasons = [reason for reason, lines in {**rejected, **self.export.dropped}.items() if lines]
            refused = f"nobody in {self.export.source.name} could be taken: {', '.join(reasons) or 'it is empty'}"
            if [reason for reason, lines in rejected.items() if lines] == [REASON]:
                raise InvalidInput(refused, hint=RETURN, remedy=Remedy("profile.readmit"))
            raise InvalidInput(
                refused,
                hint="check that it is such an export, and give its namespaces",
            )
        return taken

    def _erased(self, ids: Sequence[bytes]) -> Bools:
        """Return which people were erased: their id says so, or one of their identities."""
        found = self._suppressions.has(ID, np.array(ids, np.bytes_))
        for part in self._parts:
            found[part.rows[self._suppressions.has(part.namespace.rule.id, part.values)]] = True
        return found

    def _memberships(self) -> dict[str, tuple[list[int], list[int]]]:
        """Return by segment who is said to be in it, and who is said to be out of it, as rows."""
        segments: dict[str, tuple[list[int], list[int]]] = {}
        for row, person in enumerate(self._people):
            for key, is_in in (person.segments or {}).items():
                segments.setdefault(key, ([], []))[0 if is_in else 1].append(row)
        if len(segments) > MAX_SEGMENTS:
            raise InvalidInput(
                f"{self.export.source.name} names over {MAX_SEGMENTS} segments", hint="check that it is such an export"
            )
        return segments

    def identities(self, source: int, numbers: ProfileNumbers) -> dict[str, IdentityRows]:
        """Return each namespace's identities, sorted, for profiles by these numbers."""
        found: dict[str, IdentityRows] = {}
        for part in self._parts:
            places = self._place[part.rows]
            kept = np.flatnonzero(places >= 0)
            rows = IdentityRows(
                values=part.values.take(kept),
                profiles=numbers[places[kept]].astype(np.uint32),
                sources=np.full(len(kept), source, np.uint16),
                ranks=part.ranks[kept].astype(np.uint16),
            ).sorted()
            name = part.namespace.rule.id
            before = found.get(name)
            found[name] = rows if before is None else before.join(rows).sorted()
        self.accepted = {name: len(rows) for name, rows in found.items()}
        return found

    def members(self, segment: str, numbers: ProfileNumbers) -> tuple[BitMap, BitMap]:
        """Return the profiles that are said to be in a segment, and those that are said to be out of it."""
        inside, outside = self.segments[segment]
        return BitMap(numbers[inside].astype(np.uint32)), BitMap(numbers[outside].astype(np.uint32))

    def silent(self, numbers: ProfileNumbers, count: int) -> BitMap:
        """Return the profiles that are in no segment but those that the export names for them."""
        if self.export.extent is Extent.WHOLE:
            return BitMap(range(count))
        if self.export.extent is Extent.CHANGES:
            return BitMap()
        rows = [row for row, person in enumerate(self._people) if person.segments is not None]
        return BitMap(numbers[rows].astype(np.uint32))

    def note_consent(self, draft: Draft, numbers: ProfileNumbers, seen: AsSeen | None) -> Noted:
        """Note what people said, for all of them and by namespace."""
        spoken: dict[tuple[int, str | None], list[tuple[int, Word]]] = {}
        for row, person in enumerate(self._people):
            for name, word in ((None, person.share), *person.shares.items()):
                if word is not None:
                    spoken.setdefault((word.basis, name), []).append((row, word))
        noted = []
        for (_, namespace), said in sorted(spoken.items(), key=lambda each: each[0][0]):  # undated words last
            rows, words = zip(*said, strict=True)
            noted.append(draft.note_consent(numbers[list(rows)], Words.listed(words), namespace, seen=seen))
        return Noted(
            changed=sum(each.changed for each in noted), withdrawals_kept=sum(each.withdrawals_kept for each in noted)
        )

    def fields(self, known: Mapping[str, Field]) -> dict[str, Field]:
        """Return the fields of the dataset by name, of which some are `known`; `identities` comes before.

        Identities are in a field called as their namespace. Those of another rule than that field has get one of their own.
        """
        wanted = dict.fromkeys(self.export.attributes, Field(FieldKind.ATTRIBUTE))
        if any(person.share or person.shares for person in self._people):
            wanted["consents"] = Field(FieldKind.CONSENT)
        if self.segments:
            wanted["segments"] = Field(FieldKind.SEGMENTS)
        wanted["id"] = Field(FieldKind.ID)
        for rule_id in sorted(self.accepted):
            field, name = Field(FieldKind.IDENTITY, rule_id), rule_id.partition("/")[0]
            taken = wanted.get(name) or known.get(name) or field
            wanted[name if taken.rule in (rule_id, None) else rule_id] = field
        return wanted


def _by_namespace(people: Sequence[Person]) -> dict[Namespace, _Texts]:
    found: dict[Namespace, _Texts] = {}
    for row, person in enumerate(people):
        for place, identity in enumerate(person.identities):
            part = found.setdefault(identity.namespace, _Texts())
            part.texts.append(identity.text)
            part.rows.append(row)
            part.ranks.append(0 if identity.primary else 1 + min(place, 1 << 15))
    return found
