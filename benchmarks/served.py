"""A node's service that tells what it spends: `vesica node serve` with a meter, for `benchmarks.exchange`.

Each line on stdin is answered by one line of JSON on stdout: "read" with a reading, "reset" with one after which the peak
of memory begins anew. Whenever an exchange begins here, its kind is printed. stdin's end does not end the service.
"""

import json
import sys
import threading
from typing import Any

from cli.main import main
from node.service import Schedule
from protocol.exchange import Machine

from . import stand_in
from .meter import Meter

STAND_IN = "--stand-in"  # hashes take the place of the curve


def _answer(meter: Meter) -> None:
    for line in sys.stdin:
        if line.strip() == "reset":
            meter.reset()
        _say({"reading": meter.read().as_dict()})


def _announce_exchanges() -> None:
    begin = Machine.__init__

    def announced(machine: Machine, opening: Any, *rest: Any) -> None:
        _say({"exchange": opening.kind.value})
        begin(machine, opening, *rest)

    Machine.__init__ = announced  # type: ignore[method-assign, assignment]


def _say(document: dict[str, Any]) -> None:
    print(json.dumps(document), flush=True)


if __name__ == "__main__":
    meter = Meter()
    if STAND_IN in sys.argv:
        sys.argv.remove(STAND_IN)
        stand_in.use()
    meter.watch()
    _announce_exchanges()
    Schedule.run = lambda *_: None  # type: ignore[method-assign]  # nothing runs that is not measured
    threading.Thread(target=_answer, args=(meter,), daemon=True).start()
    sys.exit(main(["node", "serve", *sys.argv[1:]]))
