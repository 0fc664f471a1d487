"""Changes as CSV, JSON lines and Parquet: others' readers find the same rows in each."""

import csv
import hashlib
import io
import json
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from pyarrow import parquet
from targets import AT, batch

from node.destinations.targets import formats, identity_texts
from node.errors import InvalidInput
from node.storage.csv_text import csv_text
from psi.values import Values


def _csv(body: bytes) -> list[dict[str, Any]]:
    return list(csv.DictReader(io.StringIO(body.decode())))


def _jsonl(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in body.decode().splitlines()]


def _parquet(body: bytes) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = parquet.read_table(io.BytesIO(body)).to_pylist()
    assert all(row["at"] == datetime.fromtimestamp(AT, UTC) for row in found)
    return [{**row, "at": formats.time(int(row["at"].timestamp()))} for row in found]


@pytest.mark.parametrize(("form", "read"), [("csv", _csv), ("jsonl", _jsonl), ("parquet", _parquet)])
def test_each_format_has_each_change(form: str, read: Any) -> None:
    body = formats.encode(batch("p1", 'p,"2\n', "größe"), form)
    common = {"namespace": "id", "segment": "s", "at": "2027-01-15T08:00:00Z"}
    assert read(body) == [
        {**common, "identity": "p1", "status": "realized"},
        {**common, "identity": 'p,"2\n', "status": "exited"},
        {**common, "identity": "größe", "status": "exited"},
    ]
    assert formats.encode(batch("p1", 'p,"2\n', "größe"), form) == body


def test_a_format_that_cannot_be_written_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match="no format 'xml'"):
        formats.checked({"format": "xml"})
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    with pytest.raises(InvalidInput, match="pyarrow"):
        formats.checked({"format": "parquet"})


@pytest.mark.parametrize(
    "identities",
    [
        ["p1", "größe", "A-1", "9;x", "\u2028"],
        ["p1", "=1+1"],
        ["p1", "+447700900123"],
        ["p1", "'p"],
        ["p1", 'p"'],
        ["p1", "a,b"],
        ["p1", "a\nb"],
        ["p1", "\rb"],
        ["p1", "b\r"],
        ["p1", "\uff1d1"],
        ["p1", " p"],
    ],
)
def test_the_short_way_to_csv_ends_where_the_long_one_does(identities: list[str]) -> None:
    given = batch(*identities)
    assert formats.encode(given, "csv").decode() == csv_text(formats.HEADER, formats.rows(given))


def test_identities_are_the_texts_that_others_read() -> None:
    ids = [uuid.UUID(int=7), uuid.UUID(int=(1 << 128) - 1)]
    packed = Values.of([each.bytes for each in ids])
    assert identity_texts.texts(packed, "gaid/uuid-v1") == [str(each) for each in ids]
    assert identity_texts.texts(packed, "idfa/uuid-v1") == [str(each).upper() for each in ids]
    digests = [hashlib.sha256(each.bytes) for each in ids]
    hashed = Values.of([each.digest() for each in digests])
    assert identity_texts.texts(hashed, "email_sha256/lc-v1") == [each.hexdigest() for each in digests]
    for words in (["a", "größe", "p\0q"], ["same", "size"], []):
        assert identity_texts.texts(Values.of([each.encode() for each in words]), "id") == words
