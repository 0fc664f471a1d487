"""Profile exports of Experience Platform, which Segment Match's users have: XDM records as JSON lines, Parquet or Arrow.

Sources (Experience League): "Profile export jobs endpoint", "Entities endpoint", "Consents and Preferences field group"
(consents.share.val, consents.idSpecific.NAMESPACE.ID.share.val, consents.metadata.time), "Segment Membership Details
schema field group" (status realized, existing or exited, lastQualificationTime, validUntil), "Identity namespace
overview" (the codes of standard namespaces).
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InvalidInput
from ..inputs.cells import too_deep
from ..inputs.sources import Batch, ReadProgress, Source
from ..people.consent import CODES, UNDATED, UNKNOWN, Word, read_codes, read_time
from ..people.datasets import folded
from ..people.snapshots import NUMBER
from .records import Export, Extent, Identity, Namespace, Person

KIND = "Experience Platform profiles"

_STANDARD = {  # codes of standard namespaces in lower case, and what the identities in them look like
    "email": "email_sha256:raw",
    "email_lc_sha256": "email_sha256:hashed",
    "emails": "email_sha256:raw",
    "phone": "phone_sha256:raw",
    "phone_e.164": "phone_sha256:raw",
    "phone_sha256_e.164": "phone_sha256:hashed",
    "ecid": "ecid",
    "idfa": "idfa",
    "gaid": "gaid",
}
_IN = {"realized": True, "existing": True, "exited": False}
_SEGMENT = re.compile(r"[A-Za-z0-9._:/-]{1,200}")  # a namespace and an id: what is shown in reports
_OWN = "ups"  # the platform's own segments, whose ids stand alone
_RESERVED = ("id", "consents", "segments", NUMBER)
_ROOTS = ("identityMap", "segmentMembership", "consents", "entity", "xdmEntity", "body")

Record = Mapping[str, Any]


class Broken(Exception):
    """Why a record is rejected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    """What of a record is taken and how it is called here: identity namespaces by code, attributes by path."""

    namespaces: Mapping[str, Namespace] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)  # our name: "person.gender"
    id: str = ""  # the path of an id of the exporter's own
    given: Sequence[str] = ()  # the namespaces' codes that the caller mapped

    @classmethod
    def parse(cls, *, namespaces: Iterable[str] = (), attributes: Iterable[str] = (), id_path: str = "") -> "Mapped":
        """Read "THEIRS=OURS[:raw|:hashed]" for namespaces, "PATH[=NAME]" for attributes."""
        known = {code: Namespace.parse(text) for code, text in _STANDARD.items()}
        given: list[str] = []
        for text in namespaces:
            theirs, equals, ours = text.partition("=")
            if not (theirs and equals):
                raise InvalidInput(f"{text[:80]!r} maps no namespace", hint="write THEIRS=OURS, such as CRMID=crmid")
            known[theirs.lower()] = Namespace.parse(ours)
            given.append(theirs.lower())
        named: dict[str, str] = {}
        for text in attributes:
            path, _, name = text.partition("=")
            name = name or path.replace(".", "_")
            if not path or name in _RESERVED or folded(name) in map(folded, named):
                raise InvalidInput(f"{text[:80]!r} gives no attribute a name of its own", hint="write PATH=NAME")
            named[name] = path
        return cls(namespaces=known, attributes=named, id=id_path, given=given)

    @property
    def roots(self) -> list[str]:
        paths = [*self.attributes.values(), *([self.id] if self.id else [])]
        return [*_ROOTS, *(path.split(".")[0] for path in paths)]


def open_export(path: Path | str, mapped: Mapped, now: int, progress: ReadProgress | None = None) -> Export:
    """Open a file of profiles; its people are read when they are asked for.

    Raises InvalidInput, at the end of the file for a path or a namespace that the caller names and no record has.
    """
    source = Source.of_records(path, mapped.roots)
    source.kind = f"{KIND} ({source.kind})"
    dropped: dict[str, list[int]] = defaultdict(list)

    def people() -> Iterator[Person]:
        missing = _Missing(mapped)
        for batch in source.batches(progress):
            for line, record in _records(batch):
                missing.look(record)
                try:
                    yield read(record, line, mapped, now, dropped)
                except Broken as reason:
                    source.rejected[str(reason)].append(line)
        missing.end(source.name)

    return Export(
        source=source,
        people=people(),
        extent=Extent.PEOPLE,  # a profile's record has all its memberships
        dropped=dropped,
        attributes=list(mapped.attributes),
    )


class _Missing:
    """The paths and namespaces that the caller names and no record has had so far."""

    def __init__(self, mapped: Mapped) -> None:
        self._paths = {*mapped.attributes.values(), *([mapped.id] if mapped.id else [])}
        self._codes = set(mapped.given)

    def look(self, record: Record) -> None:
        if not self._paths and not self._codes:
            return
        record = _unwrapped(record)
        self._paths -= {path for path in self._paths if _at(record, path) is not None}
        for found in (record.get("identityMap"), _inner(record.get("consents"), "idSpecific")):
            if isinstance(found, Mapping):
                self._codes -= {code.lower() for code in found}

    def end(self, name: str) -> None:
        """Raise InvalidInput if something is still missing."""
        if self._paths or self._codes:
            raise InvalidInput(
                f"no record of {name} has {', '.join(sorted({*self._paths, *self._codes}))}",
                hint="check how it is spelled in the file, or leave it out",
            )


def read(record: Record, line: int, mapped: Mapped, now: int, dropped: Mapping[str, list[int]]) -> Person:
    """Return the person of one record; raises Broken. What cannot be used of it is added to `dropped`, by reason."""
    record = _unwrapped(record)
    own = _text(_at(record, mapped.id)).strip() if mapped.id else ""
    if mapped.id and not own:
        raise Broken(f"no {mapped.id}")
    consents = _map(record, "consents")
    metadata_time = _map(consents, "metadata").get("time")
    specific: dict[str, Word] = {}
    for code, said in _map(consents, "idSpecific").items():
        namespace = mapped.namespaces.get(code.lower())
        if namespace is None:
            dropped[f"consent for namespace {_shown(code)}, which is not mapped"].append(line)
            continue
        for each in said.values() if isinstance(said, Mapping) else ():
            word = _word(each, metadata_time, now)
            if word is not None:
                specific[namespace.rule.namespace] = _stricter(specific.get(namespace.rule.namespace), word)
    return Person(
        line=line,
        id=own,
        identities=_identities(record, line, mapped, dropped),
        share=_word(consents, metadata_time, now),
        shares=specific,
        segments=_segments(record, line, now, dropped) if record.get("segmentMembership") is not None else None,
        attributes={name: _text(_at(record, path)) for name, path in mapped.attributes.items()},
    )


def _identities(record: Record, line: int, mapped: Mapped, dropped: Mapping[str, list[int]]) -> Sequence[Identity]:
    found = []
    for code, items in _map(record, "identityMap").items():
        namespace = mapped.namespaces.get(code.lower())
        if items is None:
            continue
        if not isinstance(items, list):
            raise Broken("an identityMap that is none")
        if namespace is None:
            dropped[f"identity of namespace {_shown(code)}, which is not mapped"] += [line] * len(items)
            continue
        for item in items:
            given = item if isinstance(item, Mapping) else {"id": item}
            if not isinstance(given.get("id"), str):
                raise Broken("an identityMap that is none")
            found.append(Identity(namespace, given["id"], given.get("primary") is True))
    return found


def _segments(record: Record, line: int, now: int, dropped: Mapping[str, list[int]]) -> dict[str, bool]:
    found: dict[str, bool] = {}
    for namespace, memberships in _map(record, "segmentMembership").items():
        if memberships is None:
            continue
        if not isinstance(memberships, Mapping):
            raise Broken("a segmentMembership that is none")
        for segment, membership in memberships.items():
            if membership is None:
                continue
            status = membership.get("status") if isinstance(membership, Mapping) else None
            if "segmentmatch" in namespace.lower():
                dropped["a membership in a segment received from a partner"].append(line)
            elif not _SEGMENT.fullmatch(f"{namespace}-{segment}"):
                dropped["a membership in what is no segment id"].append(line)
            elif not isinstance(status, str) or status not in _IN:
                dropped["a membership status that is none of realized, existing, exited"].append(line)
            else:
                until = membership.get("validUntil")
                over = until is not None and read_time(str(until)) <= now
                if over and _IN[status]:
                    dropped["a membership that has expired"].append(line)
                found[segment if namespace.lower() == _OWN else f"{namespace}-{segment}"] = _IN[status] and not over
    return found


def _word(consents: Any, metadata_time: Any, now: int) -> Word | None:
    """Return `share` in an object of consents; with the record's time where it has no own, undated where neither is."""
    share = consents.get("share") if isinstance(consents, Mapping) else None
    if share is None:
        return None
    value = share.get("val") if isinstance(share, Mapping) else None
    if value is None:
        return None
    code = int(read_codes([value])[0]) if isinstance(value, str) else UNKNOWN
    if code == UNKNOWN:
        raise Broken("not a consent value")
    time = share.get("time", metadata_time)
    at = now if time is None else read_time(str(time))
    if not 0 <= at <= now:
        raise Broken("not a time, or one to come")
    return Word(code, at, UNDATED if time is None else 0) if code else None


def _stricter(kept: Word | None, word: Word) -> Word:
    """Return one word for all identities of a namespace: the strictest, at the time of the newest. A no counts as dated
    if any word is, another only if all are."""
    if kept is None:
        return word
    code = max(kept.code, word.code)
    basis = min if CODES[code] in ("n", "dn") else max
    return Word(code, max(kept.at, word.at), basis(kept.basis, word.basis))


def _records(batch: Batch) -> Iterator[tuple[int, Record]]:
    names = list(batch.columns)
    for line, *cells in zip(batch.lines.tolist(), *batch.columns.values(), strict=True):
        yield line, {name: _value(cell) for name, cell in zip(names, cells, strict=True) if cell}


def _value(cell: str) -> Any:
    if not cell.startswith(("{", "[")):
        return cell
    try:
        found = json.loads(cell)
    except (ValueError, RecursionError):
        return cell
    return cell if too_deep(found) else found


def _unwrapped(record: Record) -> Record:
    """Return the XDM record in what the entities endpoint or an ingested message wraps around it."""
    for key in ("body", "xdmEntity", "entity"):
        inner = record.get(key)
        if isinstance(inner, Mapping):
            record = {**record, **inner}
    return record


def _map(record: Record, key: str) -> Record:
    found = record.get(key)
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise Broken(f"{'an' if key[0] in 'aei' else 'a'} {key} that is none")
    return found


def _inner(record: Any, key: str) -> Any:
    return record.get(key) if isinstance(record, Mapping) else None


def _at(record: Any, path: str) -> Any:
    """Return what stands at a path of keys; of a list its first element, of an identity its id."""
    for key in path.split("."):
        if isinstance(record, list):
            record = record[0] if record else None
        record = record.get(key) if isinstance(record, Mapping) else None
    if isinstance(record, list) and record:
        record = record[0]
    return record.get("id") if isinstance(record, Mapping) and "id" in record else record


def _text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value)


def _shown(code: str) -> str:
    """Return a namespace's code for a report, if it is one and not a person's data."""
    return code if len(code) <= 40 and code.isascii() and code.replace("_", "").replace(".", "").isalnum() else "?"
