"""The message that tells a target who came and who left, read by others' code and by the schema that ships with it."""

import json
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator, ValidationError

from node.destinations.changes import Act
from node.destinations.kinds import Batch
from node.destinations.targets import payload
from psi.values import Values

ECID = b"14575483902354658790123456789012345678"
DIGEST = bytes(range(32))
MEMBERSHIP = {  # the items of XDM's segmentMembership and identityMap, without their prefix: what they demand
    "type": "object",
    "properties": {
        "status": {"enum": ["realized", "existing", "exited"]},
        "lastQualificationTime": {"type": "string", "format": "date-time"},
    },
    "required": ["status"],
}
IDENTITY = {
    "type": "object",
    "properties": {"id": {"type": "string"}, "primary": {"type": "boolean", "default": False}},
    "required": ["id"],
}


def batch(identity: str = "ecid/digits-v1", values: tuple[bytes, ...] = (ECID,), **changed: Any) -> Batch:
    given: dict[str, Any] = {"id": "m1", "at": 1_795_334_400, "destination": "crm", "segment": "vip"}
    given |= {"segment_id": "8f81", "labels": ("C3",), "identity": identity, "revision": 7, "number": 2, "sequence": 3}
    given |= {"values": Values.of(list(values)), "acts": np.array([Act.REMOVE] * len(values), np.uint8)}
    return Batch(**(given | changed))


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    Draft202012Validator.check_schema(payload.schema())
    return Draft202012Validator(payload.schema())


@pytest.mark.feature("EC1")
@pytest.mark.feature("EC14")
def test_a_message_has_the_shape_of_the_schema_and_whoever_left_is_removed(validator: Draft202012Validator) -> None:
    acts = np.array([Act.REMOVE, Act.ADD], np.uint8)
    found = json.loads(payload.encode(batch(values=(ECID, b"2" * 38), acts=acts)))
    validator.validate(found)
    left, came = found["data"]["profiles"]
    assert found["timestamp"] == "2026-11-22T08:00:00Z"
    assert left == {
        "identityMap": {"ECID": [{"id": ECID.decode()}]},
        "segmentMembership": {"ups": {"8f81": {"status": "exited", "lastQualificationTime": "2026-11-22T08:00:00Z"}}},
        "segments": {"add": [], "remove": ["8f81"]},
        "attributes": {},
    }
    assert came["segments"] == {"add": ["8f81"], "remove": []}
    assert found["data"]["segments"] == {"8f81": {"name": "vip", "labels": ["C3"]}}
    for profile in (left, came):
        for items, schema in (
            (profile["segmentMembership"]["ups"].values(), MEMBERSHIP),
            (profile["identityMap"]["ECID"], IDENTITY),
        ):
            for item in items:
                Draft202012Validator(schema).validate(item)


@pytest.mark.parametrize(
    ("identity", "value", "code", "text"),
    [
        ("gaid/uuid-v1", bytes(range(16)), "GAID", "00010203-0405-0607-0809-0a0b0c0d0e0f"),
        ("idfa/uuid-v1", bytes(range(16)), "IDFA", "00010203-0405-0607-0809-0A0B0C0D0E0F"),
        ("email_sha256/lc-v1", DIGEST, "email_lc_sha256", DIGEST.hex()),
        ("email_sha256/google-v3", DIGEST, "email_sha256", DIGEST.hex()),  # nobody may take it for the other
        ("phone_sha256/e164-v1", DIGEST, "phone_sha256", DIGEST.hex()),
        ("crmid/opaque-v1", b"C-1", "crmid", "C-1"),
        ("id", b"p1", "id", "p1"),
    ],
)
def test_each_identity_stands_under_the_code_of_its_namespace(
    validator: Draft202012Validator, identity: str, value: bytes, code: str, text: str
) -> None:
    found = json.loads(payload.encode(batch(identity, (value,))))
    validator.validate(found)
    assert found["data"]["profiles"][0]["identityMap"] == {code: [{"id": text}]}


@pytest.mark.parametrize(
    ("segment", "source"), [("vip", "ups"), ("shared.crm.vip", "VesicaShared"), ("received.acme.vip", "VesicaFeed")]
)
def test_a_membership_says_whose_segment_it_is(validator: Draft202012Validator, segment: str, source: str) -> None:
    found = json.loads(payload.encode(batch(segment=segment)))
    validator.validate(found)
    assert list(found["data"]["profiles"][0]["segmentMembership"]) == [source]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda found: found["data"].update(marketing_actions=["analytics"]),
        lambda found: found["data"]["segments"]["8f81"].update(uses=["analytics"]),
        lambda found: found["data"]["profiles"][0]["segmentMembership"]["ups"]["8f81"].update(status="existing"),
        lambda found: found.update(timestamp="2026-11-22T08:00:00+0000"),
        lambda found: found["data"]["profiles"][0]["segments"].pop("remove"),
    ],
)
def test_the_schema_takes_nothing_else(validator: Draft202012Validator, spoil: Any) -> None:
    found = json.loads(payload.encode(batch()))
    spoil(found)
    with pytest.raises(ValidationError):
        validator.validate(found)
