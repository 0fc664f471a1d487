"""What `make quick` does with less: it sets VESICA_QUICK."""

import os

QUICK = "VESICA_QUICK" in os.environ
FEW = 15


def examples(number: int) -> int:
    """Return how many examples a property test takes: `number`, and in `make quick` a few."""
    return min(number, FEW) if QUICK else number
