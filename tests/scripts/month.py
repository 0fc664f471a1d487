"""Play a month between three organisations, day by day, and compare it with a plain join after each of them.

    python tests/scripts/month.py [--seed 1] [--people 120]

Acme shares a feed with Globe and with Fern, Fern shares one with Acme: three real nodes that reach each other over TLS on
loopback, on one clock. What must come out is worked out in plain.py. The first difference ends it with exit code 1.
"""

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from months import Difference, Month
from story import STORY


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--people", type=int, default=120)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vesica-month-") as folder:
        try:
            Month(Path(folder), seed=arguments.seed, people=arguments.people, say=partial(print, flush=True)).play(
                STORY
            )
        except Difference as error:
            sys.exit(f"the product and the plain join differ: {error}")
    print("After every step both sides' members were those of a plain join.")


if __name__ == "__main__":
    main()
