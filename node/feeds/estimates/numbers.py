"""What the numbers of an answer say of a whole segment, and how far they may be off: the same for both sides."""

from dataclasses import dataclass
from fractions import Fraction

from protocol.messages import SegmentAnswer
from psi import noise

from ...storage.records import Document

DISPLAY_STEP = 10  # estimates with noise are rounded to this, since the last digit says nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimatedNumbers:
    """How many people of a segment the partner knows, and how many of these have consented; half of 95 % intervals."""

    overlap: int | None = None
    consented: int | None = None
    half_width: int | None = None
    consented_half_width: int | None = None

    def shown(self, size: int | None) -> Document:
        """Return what is shown of a segment of a size, where that is known."""
        return {
            "overlap": self.overlap,
            "consented": self.consented,
            "interval": _interval(self.overlap, self.half_width, size),
            "consented_interval": _interval(self.consented, self.consented_half_width, size),
        }


def scaled(answer: SegmentAnswer, size: int, sampled: int, epsilon: Fraction | None) -> EstimatedNumbers:
    """Bring a sample's numbers to the whole segment; the interval covers the noise and the sampling error."""
    if answer.overlap is None or answer.consented is None:
        return EstimatedNumbers()
    rounding = 0
    if epsilon is not None:  # the partner's rounding for display is part of the error
        rounding = -(-DISPLAY_STEP // 2 * max(size, 1) // max(sampled, 1))

    def in_all(value: int) -> int:
        return min(size, noise.scale_up(value, size=size, sampled=sampled))

    def half(value: int, draws: int) -> int:
        return noise.half_width(epsilon=epsilon, draws=draws, size=size, sampled=sampled, hits=value) + rounding

    return EstimatedNumbers(
        overlap=in_all(answer.overlap),
        consented=in_all(answer.consented),
        half_width=half(answer.overlap, 2),
        consented_half_width=half(answer.consented, 1),
    )


def _interval(value: int | None, half_width: int | None, size: int | None) -> list[int] | None:
    return None if value is None or half_width is None else noise.interval(value, half_width, size)
