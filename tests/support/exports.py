"""Exports of Experience Platform as it writes them, and what became of them here."""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from node.imports.other_products import ExportReport
from node.people.snapshots import Snapshot
from node.project import Project

NOW = 1_800_000_000  # the clock of the tests: January 2027
ECID = "{:038d}".format
VIP, LAPSED = "0b2a1ff2-7d8a-4c0f-b1c1-1f0f0a1b2c3d", "9f1c5a70-0000-4000-8000-000000000001"


Record = dict[str, Any]  # as JSON has it


def hashed(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def record(number: int, **fields: Any) -> Record:
    """Return a profile as Experience Platform exports one."""
    return {
        "_id": f"profile-{number}",
        "_fern": {"loyalty": {"number": f"L{number}", "tier": "gold"}},
        "person": {"gender": "female", "name": {"firstName": "Ann"}},
        "identityMap": {
            "ECID": [{"id": ECID(number), "authenticatedState": "ambiguous", "primary": False}],
            "Email_LC_SHA256": [{"id": hashed(f"u{number}@x.com"), "primary": True}],
            "CRMID": [{"id": f"C{number}"}],
        },
        "consents": {
            "collect": {"val": "y"},
            "share": {"val": "y"},
            "idSpecific": {"ECID": {ECID(number): {"share": {"val": "n"}}}},
            "metadata": {"time": "2026-05-01T10:00:00Z"},
        },
        "segmentMembership": {
            "ups": {
                VIP: {"status": "realized", "lastQualificationTime": "2026-05-02T00:00:00Z"},
                LAPSED: {"status": "exited", "lastQualificationTime": "2026-05-02T00:00:00Z"},
            }
        },
        **fields,
    }


class Take(Protocol):
    """Writes records, or lines as they are, and takes them over into a dataset."""

    def __call__(
        self,
        records: Sequence[Record | str],
        *,
        dataset: str = "aep",
        namespaces: Iterable[str] = (),
        attributes: Iterable[str] = (),
        id_path: str = "",
        segments: Path | None = None,
        region: str | None = None,
        into: Iterable[str] = (),
    ) -> ExportReport: ...


def members(project: Project, segment: str) -> set[str]:
    snapshot = Snapshot.open(project.scope)
    return {snapshot.profile_ids[number].decode() for number in project.segments.members(segment, snapshot)}
