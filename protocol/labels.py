"""The standard usage labels. They travel with segments, so both sides have to mean the same by them."""

from collections.abc import Mapping

STANDARD_LABELS: Mapping[str, str] = {
    "C1": "Only aggregates may leave",
    "C2": "No export to third parties",
    "C3": "Not to be combined with directly identifying data",
    "C4": "No targeting at all (covers C5, C6 and C7)",
    "C5": "No cross-site targeting",
    "C6": "No on-site advertising",
    "C7": "No on-site content",
    "C8": "No measurement",
    "C9": "No data science",
    "C10": "No use under a stitched identity",
    "C11": "No segment match",
    "C12": "No export at all",
    "I1": "Identifies a person directly",
    "I2": "Identifies a person indirectly",
    "S1": "A precise place",
    "S2": "A broad place",
}


def spelled_label(label: str) -> str:
    """Return a label as the catalogue writes it: "c11" is C11."""
    return label.upper() if label.upper() in STANDARD_LABELS else label
