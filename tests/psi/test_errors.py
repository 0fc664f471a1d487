"""An error says what happened, and what to do in words and as an act; its document survives being stored as JSON."""

import json

import pytest

from psi.errors import DuplicatePoint, InvalidPoint, InvalidProof, InvalidTags, Remedy, VesicaError, WrongCount

REMEDY = Remedy("feed.edit", {"name": "summer", "remove_segment": ("few", "none"), "yes": True, "days": 30})


def test_a_document_without_a_remedy_has_three_keys() -> None:
    error = VesicaError("no such feed", hint="choose another name")
    assert error.remedy is None
    assert error.document() == {"code": "error", "message": "no such feed", "hint": "choose another name"}


def test_a_document_holds_the_remedy_as_data() -> None:
    document = VesicaError("no", hint="edit it", remedy=REMEDY).document()
    assert document["hint"] == "edit it"
    assert document["remedy"] == {
        "act": "feed.edit",
        "arguments": {"name": "summer", "remove_segment": ["few", "none"], "yes": True, "days": 30},
    }


def test_a_document_is_the_same_after_json() -> None:
    document = VesicaError("no", remedy=REMEDY).document()
    stored = json.loads(json.dumps(document))
    assert stored == document
    again = Remedy.from_document(stored["remedy"])
    assert again.document() == document["remedy"]
    assert again == Remedy("feed.edit", {**REMEDY.arguments, "remove_segment": ["few", "none"]})


def test_a_remedy_needs_no_arguments() -> None:
    assert Remedy("partner.list") == Remedy("partner.list", {})
    assert Remedy("partner.list").document() == {"act": "partner.list", "arguments": {}}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidPoint(3, "not canonical"), "invalid_point"),
        (DuplicatePoint(3), "duplicate_point"),
        (InvalidProof("another key"), "invalid_proof"),
        (WrongCount("elements", expected=2, got=3), "wrong_count"),
        (InvalidTags("3 tags for 2 points"), "invalid_tags"),
    ],
)
def test_what_a_partner_did_wrong_has_a_code_and_a_hint(error: VesicaError, code: str) -> None:
    assert error.code == code
    assert error.hint
