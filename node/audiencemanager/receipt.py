"""What came of inbound files: counts that add up, in the order in which Audience Manager's own receipt has them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..storage.records import Document

LINES = 5  # of a kind that are named


@dataclass(slots=True, kw_only=True)
class Receipt:
    """The counts of some files of one data source. A record is a line; one that is not stored counts under one reason."""

    files: list[str]
    received: int = 0
    invalid_aam_ids: int = 0
    invalid_device_ids: int = 0
    no_matching_id: int = 0
    no_trait_realised: int = 0
    devices: int = 0
    signals: int = 0
    unused_signals: int = 0
    realised: int = 0
    removed: int = 0
    failed_validation: int = 0
    failed_records: int = 0
    broken: dict[str, tuple[int, list[int]]] = field(default_factory=dict)
    started: int = 0
    ended: int = 0

    @property
    def format_errors(self) -> int:
        return sum(count for count, _ in self.broken.values())

    @property
    def stored(self) -> int:
        errors = self.format_errors + self.invalid_aam_ids + self.invalid_device_ids
        return self.received - errors - self.no_matching_id - self.no_trait_realised

    def reject(self, reason: str, line: int) -> None:
        """Count a line that is broken; the first few are named."""
        count, lines = self.broken.get(reason, (0, []))
        self.broken[reason] = count + 1, [*lines, line] if count < LINES else lines

    def counts(self) -> Mapping[str, int]:
        return {
            "records_received": self.received,
            "format_errors": self.format_errors,
            "invalid_aam_ids": self.invalid_aam_ids,
            "invalid_device_ids": self.invalid_device_ids,
            "no_matching_id": self.no_matching_id,
            "no_trait_realised": self.no_trait_realised,
            "records_processed": self.received,
            "stored_records": self.stored,
            "devices": self.devices,
            "signals": self.signals,
            "unused_signals": self.unused_signals,
            "realised_traits": self.realised,
            "removed_traits": self.removed,
            "traits_failed_validation": self.failed_validation,
            "records_with_failed_traits": self.failed_records,
        }

    def as_dict(self) -> Document:
        broken = [{"reason": reason, "count": count, "lines": lines} for reason, (count, lines) in self.broken.items()]
        return {
            "files": self.files,
            **self.counts(),
            "broken_lines": broken,
            "started": self.started,
            "ended": self.ended,
        }
