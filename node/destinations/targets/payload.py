"""The message that says which identities came into a segment and which left it; its schema is a file beside this one."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

from ...governance.lineage import IMPORTED, PlaceKind, place_of
from ...storage.records import Document
from ..changes import Act
from ..kinds import Audience, Batch, Message
from ..mapping import nested
from . import identity_texts
from .formats import STATUS, time

TYPE = "segment.members.changed"
CHECK = "vesica.check"  # the type of a message without a change
OWN = "ups"  # the key of segments of ours in segmentMembership
_MARK = "\0"  # stands where something else will: no name has it
_json = json.JSONEncoder(separators=(",", ":")).encode
_QUOTED = json.encoder.encode_basestring_ascii
_ELSEWHERE = {PlaceKind.RECEIVED: "VesicaFeed", PlaceKind.SHARED: "VesicaShared"} | dict.fromkeys(IMPORTED, "AAM")


def schema() -> Any:
    """Return the JSON Schema (2020-12) that every message is valid against."""
    return json.loads(files(__package__).joinpath(f"{TYPE}.json").read_text())


def encode(batch: Batch) -> bytes:
    """Return the message of a batch."""
    about = {"name": batch.segment, "labels": list(batch.labels)}
    about |= {} if batch.external_id is None else {"external_id": batch.external_id}
    data = {"connection": batch.destination, "revision": batch.revision, "batch": batch.number}
    data |= {"segments": {batch.segment_id: about}, "profiles": [_MARK]}
    begin, end = _around({"type": TYPE, "timestamp": time(batch.at), "data": data})
    if batch.attributes:
        said = [_json({**each, "attributes": nested(attributes)}) for each, attributes in profiles(batch)]
    else:
        said = _without_attributes(batch)
    return f"{begin}{','.join(said)}{end}".encode()


def about(connection: str, audience: Audience, key: str, now: int) -> Message:
    """Return a message that says what a segment is called, and nothing of its members."""
    called = {audience.id: {"name": audience.name, "labels": list(audience.labels)}}
    data = {"connection": connection, "revision": 1, "batch": 0, "segments": called, "profiles": []}
    body = {"type": TYPE, "timestamp": time(now), "data": data}
    return of_no_batch(f"{key} {audience.name}", now, _json(body).encode())


def check(url: str, now: int) -> Message:
    """Return a message that has no change in it."""
    return of_no_batch(url, now, json.dumps({"type": CHECK, "timestamp": time(now), "data": {}}).encode())


def of_no_batch(about: str, now: int, body: bytes = b"") -> Message:
    """Return a message whose id is of what it is about, and of the moment."""
    digest = hashlib.sha256(f"{about} {now}".encode()).hexdigest()[:32]
    return Message(id=f"msg_{digest}", segment="", sequence=0, body=body, now=now)


def _without_attributes(batch: Batch) -> list[str]:
    """Return what is said of each identity as JSON; all but the identity is put into bytes once."""
    around: dict[tuple[str, int], tuple[str, str]] = {}
    said, named = [], identity_texts.named(batch.values, batch.identity)
    for (namespace, text), act in zip(named, batch.acts.tolist(), strict=True):
        if (namespace, act) not in around:
            around[namespace, act] = _around({**_profile(batch, namespace, _MARK, Act(act)), "attributes": {}})
        before, after = around[namespace, act]
        said.append(f"{before}{_QUOTED(text)}{after}")
    return said


def _around(document: Document) -> tuple[str, str]:
    """Return the JSON before and after the mark in a document."""
    before, _, after = _json(document).partition(_json(_MARK))
    return before, after


def source(batch: Batch) -> str:
    """Return the key of a batch's segment in segmentMembership: where it comes from."""
    place = place_of(batch.segment)
    return OWN if place is None else _ELSEWHERE.get(place.kind, OWN)


def profiles(batch: Batch) -> Iterator[tuple[Document, Mapping[str, str | None]]]:
    """Yield what is said of each identity, and the attributes by field of who is added."""
    named = identity_texts.named(batch.values, batch.identity)
    for row, ((namespace, text), act) in enumerate(zip(named, batch.acts.tolist(), strict=True)):
        attributes = {field: cells[row] for field, cells in batch.attributes.items() if act == Act.ADD}
        yield _profile(batch, namespace, text, Act(act)), attributes


def _profile(batch: Batch, namespace: str, text: str, act: Act) -> Document:
    membership = {"status": STATUS[act], "lastQualificationTime": time(batch.at)}
    added, removed = ([batch.segment_id], []) if act is Act.ADD else ([], [batch.segment_id])
    return {
        "identityMap": {namespace: [{"id": text}]},
        "segmentMembership": {source(batch): {batch.segment_id: membership}},
        "segments": {"add": added, "remove": removed},
    }
