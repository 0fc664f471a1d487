"""What other products exported: people with their identities, consents and segment memberships, taken over as they are.

`node.xdm` and `node.audiencemanager` read the files; here their people become profiles of a dataset and members of
segments. A record that is broken costs itself, and a value that nobody can use is counted with its line, never shown.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from psi.values import Values

from ..consent.consent import Noted, Word, Words
from ..errors import InvalidInput
from ..governance.labels import Kind, Origin
from ..inputs.normalise import Form, Reason, Rule, check_region, encode, normalise, rule
from ..inputs.raw_values import SAMPLE, refuse_personal, refuse_phones
from ..inputs.sources import Source
from ..people import attributes as attributes_of
from ..people.data import MAX_ID, Draft, Held
from .importer import check_dataset, record_fields, tally

if TYPE_CHECKING:
    from ..project import Project

# What a file's silence about a segment means: nothing, that its people are not in it, or that nobody else is.
Extent = Literal["changes", "people", "whole"]

MAX_SEGMENTS = 10_000  # a file that names more is none of these exports
_NO_NAME = re.compile(r"[^a-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Namespace:
    """What identities of another product's namespace are here."""

    rule: Rule
    form: Form | None = None

    @classmethod
    def parse(cls, text: str) -> "Namespace":
        """Read "NAMESPACE[/RULE][:raw|:hashed]"."""
        name, _, form = text.partition(":")
        found = rule(name)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenSegment:
    id: str  # the other product's
    name: str
    size: int
    created: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What was taken of an export; per reason {"count", "lines"}. `dropped` are values, `rejected` whole records."""

    file: str
    kind: str
    extent: Extent
    records: int
    accepted: int
    rejected: dict[str, dict[str, Any]]
    dropped: dict[str, dict[str, Any]]
    identities: dict[str, int]
    profiles_added: int
    profiles_updated: int
    consents_changed: int
    withdrawals_kept: int
    segments: list[TakenSegment]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def take_over(
    project: "Project",
    opened: "Callable[[Names], Export]",
    *,
    dataset: str,
    names: Path | str | None = None,
    region: str | None = None,
    into: Iterable[str] = (),
) -> ExportReport:
    """Bring an export's people in as one dataset, and its segments as lists, called as the file of `names` says.

    It changes the lists that the dataset brought, and those of `into`, which are the dataset's from then on. Consent
    follows the newest word, at the same time the stricter; one without a time lifts no withdrawal that was given
    otherwise. Raises InvalidInput where nothing could be taken, AlreadyExists for any other segment that is there, and
    PolicyConflict where a published feed would break a policy by the dataset's labels.
    """
    detail: dict[str, Any] = {}
    project.require("profile.take-over", dataset)
    with project.refusals("profile.take-over", dataset):
        check_dataset(dataset)
        called = Names.read(names)
        export = opened(called)
        detail["product"] = export.source.kind
        arrived = _Arrived(export, check_region(region))
    place = Origin(kind=Kind.DATASET, target=dataset)
    with project.governance.act("profile.take-over", dataset, place, detail=detail) as tx:
        draft = Draft(project, tx)
        lists = draft.content.setdefault("lists", {})  # what earlier exports of the dataset brought
        given = called.of(arrived.segments)
        project.segments.check_open(tx, given.values(), {*lists.get(dataset, ()), *into})
        before = draft.base.profile_count
        numbers = draft.add_profiles(arrived.ids)
        touched = np.zeros(int(draft.content["count"]), bool)
        touched[numbers] = True
        for rule_id, held in arrived.identities(draft.source(dataset), numbers).items():
            draft.replace_identities(rule_id, dataset, touched, held)
        noted = arrived.note(draft, numbers)
        if export.attributes:
            attributes_of.lay_over(draft, dataset, numbers, arrived.attributes)
        record_fields(draft, dataset, arrived.fields())
        segments, field_of = [], f"{dataset}.segments"
        silent = arrived.silent(numbers, len(touched))
        for key, name in sorted(given.items()):
            inside, outside = arrived.members(key, numbers)
            outside = (outside | silent) - inside
            size, created = project.segments.lay_over(tx, draft, name, inside, outside, source=field_of)
            segments.append(TakenSegment(id=key, name=name, size=size, created=created))
        earlier = project.segments.lists(tx) & set(lists.get(dataset, []))
        lists[dataset] = sorted(earlier | set(given.values()))
        if export.extent == "people":
            for name in sorted(earlier - set(given.values())):
                project.segments.lay_over(tx, draft, name, BitMap(), silent, source=field_of)
        draft.publish()
        report = arrived.report(
            profiles_added=len(touched) - before,
            profiles_updated=int(touched[:before].sum()),
            consents_changed=noted.changed,
            withdrawals_kept=noted.withdrawals_kept,
            segments=segments,
        )
        detail |= {"records": report.records, "accepted": report.accepted, "segments": len(segments)}
    project.memberships.join_all()
    return report


class _Arrived:
    """All people of an export as columns, after their identities were normalised and those without an id got one."""

    def __init__(self, export: Export, region: str | None) -> None:
        self.export = export
        people = list(export.people)
        self._texts: dict[Namespace, tuple[list[str], list[int], list[int]]] = {}
        for row, person in enumerate(people):
            for place, identity in enumerate(person.identities):
                texts, rows, ranks = self._texts.setdefault(identity.namespace, ([], [], []))
                texts.append(identity.text)
                rows.append(row)
                ranks.append(0 if identity.primary else 1 + min(place, 1 << 15))
        lines = np.array([person.line for person in people], np.int64)
        first: list[tuple[int, str]] = [(1 << 16, "")] * len(people)
        self._parts: list[tuple[Namespace, Values, npt.NDArray[np.int64], npt.NDArray[np.int64]]] = []
        for namespace, (texts, rows, ranks) in self._texts.items():
            self._normalise(namespace, texts, np.array(rows, np.int64), np.array(ranks, np.int64), lines, region, first)
        ids = [person.id.strip() or name for person, (_, name) in zip(people, first, strict=True)]
        self._keep(people, ids, lines, region)

    def _normalise(
        self,
        namespace: Namespace,
        texts: list[str],
        rows: npt.NDArray[np.int64],
        ranks: npt.NDArray[np.int64],
        lines: npt.NDArray[np.int64],
        region: str | None,
        first: list[tuple[int, str]],
    ) -> None:
        """Normalise a namespace's identities, count what is dropped, and offer each person the first as an id."""
        found = normalise(namespace.rule, texts, form=namespace.form, region=region)
        if namespace.form is None and found.raw and found.hashed:
            name = namespace.rule.namespace
            raise InvalidInput(
                f"{found.hashed} of the ids of {name} are hashes and {found.raw} raw values",
                hint=f"say which to keep: {name}:raw or {name}:hashed",
            )
        if namespace.rule.name == "opaque-v1":
            refuse_personal(texts, namespace.rule.namespace, lines[rows])
        for number in np.unique(found.reasons).tolist():
            if number != Reason.KEPT:
                reason = f"{namespace.rule.namespace}: {Reason(number).text}"
                self.export.dropped[reason] += lines[rows[found.reasons == number]].tolist()
        kept = np.flatnonzero(found.keep)
        values = found.values.take(kept)
        self._parts.append((namespace, values, rows[kept], ranks[kept]))
        readable = namespace.rule.name in ("opaque-v1", "digits-v1") and not namespace.rule.hashed
        for index, (row, rank) in enumerate(zip(rows[kept].tolist(), ranks[kept].tolist(), strict=True)):
            if rank < first[row][0]:
                value = values[index]
                text = value.decode(errors="replace") if readable else value.hex()
                first[row] = (rank, f"{namespace.rule.namespace}:{text}")

    def _keep(self, people: list[Person], ids: list[str], lines: npt.NDArray[np.int64], region: str | None) -> None:
        """Leave out who has no id; refuse an export that holds raw personal data where it would stay raw."""
        rejected, encoded = self.export.source.rejected, encode(ids)
        given = [row for row, person in enumerate(people) if person.id]
        refuse_personal([ids[row] for row in given], "id", lines[given])
        refuse_phones(list(dict.fromkeys(ids[row] for row in given))[:SAMPLE], "id", region)
        good = []
        for row, text in enumerate(encoded):
            if not text:
                rejected["no id and no identity that can be used"].append(int(lines[row]))
            elif len(text) > MAX_ID:
                rejected[f"a profile id over {MAX_ID} bytes"].append(int(lines[row]))
            else:
                good.append(row)
        if not good:
            why = ", ".join(reason for reason, found in {**rejected, **self.export.dropped}.items() if found)
            raise InvalidInput(
                f"nobody in {self.export.source.name} could be taken: {why or 'it is empty'}",
                hint="check that it is such an export, and say what its namespaces are: --namespace",
            )
        self._place = np.full(len(people), -1, np.int64)  # of a record among the kept ones
        self._place[good] = np.arange(len(good))
        self._people = [people[row] for row in good]
        self.ids: npt.NDArray[np.bytes_] = np.array([encoded[row] for row in good], np.bytes_)
        self.attributes = {
            name: [each.attributes.get(name, "") for each in self._people] for name in self.export.attributes
        }
        kept_lines = lines[good]
        for name, texts in self.attributes.items():
            refuse_personal(texts, name, kept_lines)
            refuse_phones(list(dict.fromkeys(texts))[:SAMPLE], name, region)
        self.segments: dict[str, tuple[list[int], list[int]]] = {}
        for row, person in enumerate(self._people):
            for key, is_in in (person.segments or {}).items():
                self.segments.setdefault(key, ([], []))[0 if is_in else 1].append(row)
        if len(self.segments) > MAX_SEGMENTS:
            raise InvalidInput(
                f"{self.export.source.name} names over {MAX_SEGMENTS} segments", hint="check that it is such an export"
            )

    def identities(self, source: int, numbers: npt.NDArray[np.int64]) -> dict[str, Held]:
        """Return each namespace's identities, sorted, for profiles by these numbers."""
        found: dict[str, Held] = {}
        self._accepted: dict[str, int] = {}
        for namespace, values, rows, ranks in self._parts:
            places = self._place[rows]
            kept = np.flatnonzero(places >= 0)
            held = Held(
                values=values.take(kept),
                profiles=numbers[places[kept]].astype(np.uint32),
                sources=np.full(len(kept), source, np.uint16),
                ranks=ranks[kept].astype(np.uint16),
            ).sorted()
            before = found.get(namespace.rule.id)
            found[namespace.rule.id] = held if before is None else before.join(held).sorted()
            self._accepted[namespace.rule.id] = len(found[namespace.rule.id].profiles)
        return found

    def members(self, key: str, numbers: npt.NDArray[np.int64]) -> tuple[BitMap, BitMap]:
        """Return the profiles that are said to be in a segment, and those that are said to be out of it."""
        inside, outside = self.segments[key]
        return BitMap(numbers[inside].astype(np.uint32)), BitMap(numbers[outside].astype(np.uint32))

    def silent(self, numbers: npt.NDArray[np.int64], count: int) -> BitMap:
        """Return the profiles that are out of every segment unless they are said to be in it."""
        if self.export.extent == "whole":
            return BitMap(range(count))
        rows = [row for row, person in enumerate(self._people) if person.segments is not None]
        return BitMap(numbers[rows].astype(np.uint32)) if self.export.extent == "people" else BitMap()

    def note(self, draft: Draft, numbers: npt.NDArray[np.int64]) -> Noted:
        """Note what people said, for all of them and by namespace."""
        spoken: dict[tuple[int, str | None], list[tuple[int, int, int]]] = {}
        for row, person in enumerate(self._people):
            for name, word in ((None, person.share), *person.shares.items()):
                if word is not None:
                    code, at, basis = word
                    spoken.setdefault((basis, name), []).append((row, code, at))
        noted = []
        for (basis, namespace), said in sorted(spoken.items(), key=lambda each: each[0][0]):  # undated words last
            rows, codes, times = (np.array(column, np.int64) for column in zip(*said, strict=True))
            bases = np.full(len(rows), basis, np.uint16)
            noted.append(
                draft.note_consent(numbers[rows], Words(codes=codes.astype(np.uint8), at=times, bases=bases), namespace)
            )
        return Noted(
            changed=sum(each.changed for each in noted), withdrawals_kept=sum(each.withdrawals_kept for each in noted)
        )

    def fields(self) -> dict[str, tuple[str, str | None]]:
        wanted: dict[str, tuple[str, str | None]] = dict.fromkeys(self.export.attributes, ("attribute", None))
        if any(person.share or person.shares for person in self._people):
            wanted["consents"] = ("consent", None)
        if self.segments:
            wanted["segments"] = ("segments", None)
        wanted["id"] = ("id", None)
        return wanted | {rule_id.partition("/")[0]: ("identity", rule_id) for rule_id in self._accepted}

    def report(self, **counts: Any) -> ExportReport:
        source = self.export.source
        rejected = {reason: tally(lines) for reason, lines in source.rejected.items() if lines}
        return ExportReport(
            file=source.name,
            kind=source.kind,
            extent=self.export.extent,
            records=len(self._people) + sum(each["count"] for each in rejected.values()),
            accepted=len(self._people),
            rejected=rejected,
            dropped={reason: tally(lines) for reason, lines in sorted(self.export.dropped.items()) if lines},
            identities=self._accepted,
            **counts,
        )


# Names of segments


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What segments or traits are called, by id; and the ids that integration codes stand for."""

    names: Mapping[str, str] = field(default_factory=dict)
    codes: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path | str | None) -> "Names":
        """Read a JSON object {id: name}, a JSON list (or a page of one) of objects with id or sid, name and perhaps
        integrationCode, as the products' own interfaces give it, or CSV with the columns id and name."""
        if path is None:
            return cls()
        path = Path(path)
        text = "\n".join(line for _, line in Source.of_lines(path, "names").lines())
        if not text.lstrip().startswith(("{", "[")):
            batches = Source.open(path, ["id", "name"]).batches()
            rows = [row for each in batches for row in zip(each.columns["id"], each.columns["name"], strict=True)]
            return cls(names={key.strip(): name.strip() for key, name in rows if key.strip() and name.strip()})
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            raise InvalidInput(f"{path.name} is broken JSON", hint="give {id: name}, or a list of objects") from None
        page = (
            next((found[key] for key in _PAGES if isinstance(found.get(key), list)), None)
            if isinstance(found, dict)
            else found
        )
        if page is None:
            return cls(names={str(key): name for key, name in found.items() if isinstance(name, str)})
        names, codes = {}, {}
        for each in page:
            key = each.get("id", each.get("sid")) if isinstance(each, dict) else None
            if isinstance(key, (str, int)) and isinstance(each.get("name"), str):
                names[str(key)] = each["name"]
                if isinstance(code := each.get("integrationCode"), str) and code:
                    codes[code] = str(key)
        return cls(names=names, codes=codes)

    def of(self, keys: Iterable[str]) -> dict[str, str]:
        """Return a segment name for each id: the given one or the id, in our spelling, with the id where two are one."""
        wanted = {key: _spelled(self.names.get(key, key)) for key in keys}
        same: dict[str, set[str]] = {}
        for key, name in [*wanted.items(), *((key, _spelled(name)) for key, name in self.names.items())]:
            same.setdefault(name, set()).add(key)
        return {key: name if len(same[name]) == 1 else _spelled(f"{name[:26]}-{key}") for key, name in wanted.items()}


_PAGES = ("segments", "list", "traits", "children")


def _spelled(text: str) -> str:
    return _NO_NAME.sub("-", text.lower()).strip("-._")[:63].rstrip("-._") or "segment"
