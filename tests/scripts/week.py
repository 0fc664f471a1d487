"""Play a week of two organisations with five destinations, and compare each target with plain sets after every step.

    python tests/scripts/week.py [--seed 1] [--steps 60] [--people 60]

Acme shares a feed with Globe; both send segments to folders, a webhook, the Experience Cloud and a database on loopback,
while people come, withdraw and are erased, rules and labels change, targets fail and processes are killed. Two real nodes
on one clock. The first difference ends it with exit code 1, and says how to repeat it.
"""

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from months import Difference
from week_events import EVENTS
from weeks import Week


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--people", type=int, default=60)
    arguments = parser.parse_args()
    again = f"--seed {arguments.seed} --people {arguments.people}"
    with tempfile.TemporaryDirectory(prefix="vesica-week-") as folder:
        week = Week(Path(folder), seed=arguments.seed, people=arguments.people, say=partial(print, flush=True))
        try:
            week.play(arguments.steps, EVENTS)
        except Difference as error:
            sys.exit(f"the product and the plain sets differ (repeat it with {again}): {error}")
        except Exception:
            print(f"the product broke in step {week.step} (repeat it with {again})")
            raise
    print(
        "After every step each target had exactly whom it should have, and every hour's row was the sum of its parts."
    )


if __name__ == "__main__":
    main()
