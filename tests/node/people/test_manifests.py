"""The manifest of a generation: its document, and the files that it names."""

from node.people.manifests import IdentityFiles, Manifest

DOCUMENT = {
    "count": 2,
    "ids": "1-ids.npy",
    "order": "2-order.npy",
    "consent": "3-consent.npy",
    "consent_at": "4-consent_at.npy",
    "consent_basis": "5-consent_basis.npy",
    "identities": {
        "ecid/digits-v1": {
            "rows": "6-rows.npy",
            "lengths": None,
            "profiles": "7-profiles.npy",
            "sources": "8-sources.npy",
            "ranks": "9-ranks.npy",
            "repeated": True,
        }
    },
    "noted": {"ecid": "a-noted.npy"},
    "bases": ("GDPR-6-1-a",),
    "sources": ("crm",),
    "attributes": {"crm": "b-attributes.parquet"},
    "segments": {"s1": "c-members.roaring"},
    "lists": {"crm": ("vip",)},
}


def test_a_document_is_read_and_written() -> None:
    manifest = Manifest.from_document(DOCUMENT)
    assert manifest.identities["ecid/digits-v1"].repeated
    assert manifest.document() == DOCUMENT
    assert Manifest.from_document({}) == Manifest()
    assert Manifest().document() == {}


def test_its_files_are_named_and_nothing_else() -> None:
    files = Manifest.from_document(DOCUMENT).files
    assert len(files) == 12
    assert all(each.endswith((".npy", ".parquet", ".roaring")) for each in files)
    assert len(IdentityFiles(rows="r", lengths="l", profiles="p", sources="s", ranks="k").files) == 5
