"""What the Audience Manager side costs: signals against 100,000 traits, and a segment of traits over a million visitors.

    python -m benchmarks.audience [--signals 1000000] [--visitors 1000000] [--only index segment load stream] [--json]

- index: a million calls of one signal each. 1,000 of the 100,000 traits have the key of the signals. Once the rules are all
  an equality; once they are half of it, and the rest are parts of texts, words, regular expressions and rules with AND: with
  2,000 values that come again, and with values of which none does.
- segment: a segment of 20 traits, each of which has one in four visitors; once with AND, OR and NOT alone, once with how
  often and how recently the traits were realised. The members are in memory.
- load: an inbound file of a million lines of one signal each, of 250,000 people, with the rules and values of "mixed"; all
  that `vesica audience load` does once it runs.
- stream: POST /stream over ten connections on loopback, each of which sends its next request when it has its answer, with one
  operation and with a hundred in a request. CPU is the node's; the clients' is not in it, but wall clock and latency have both.

Each part is a process of its own that begins after its modules are loaded; CPU is user and system time of all its threads.
"""

import argparse
import json
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from http.client import HTTPConnection
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from pyroaring import BitMap
from sqlalchemy import insert

from node.audiencemanager import files, listener, segment_rules, sources, trait_rules
from node.audiencemanager.numbers import note_change
from node.audiencemanager.records import DAYS, TOP, SourceKind, Trait, TraitKind
from node.audiencemanager.trait_index import TraitIndex
from node.node import Node
from node.storage.tables import traits
from node.transport.server import address_of, bind, server
from node.wiring import wire

from .destinations import cpu_of
from .local import alone
from .meter import MIB, Meter

TRAITS = 100_000
OF_A_KEY = 1_000
TRAITS_OF_A_SEGMENT = 20
TRIES = 5  # of a segment
AIMS = {"index": 4.0, "segment": 0.05, "load": 12.0}  # CPU seconds
STREAM_AIMS = {"operations": 2_000, "p99": 50.0}  # a second of the node's CPU, and milliseconds
PARTS = {
    "index": ("equality", "mixed", "new values"),
    "segment": ("sets", "frequency"),
    "load": ("mixed",),
    "stream": ("1", "100"),
}
PEOPLE = 250_000  # of a file
CONNECTIONS = 10
REQUESTS = {"1": 500, "100": 20}  # of a connection, by the operations in one
Row = dict[str, Any]


def value(number: int) -> str:
    """Return a value of the key: of two values, rules know one."""
    return f"https://shop.example/{('camera', 'lens', 'bag', 'tripod')[number % 4]}/{number}"


def rules(kind: str) -> list[str]:
    """Return the rules of the traits with the key of the signals."""
    equal = [f'page == "{value(number)}"' for number in range(OF_A_KEY)]
    if kind == "equality":
        return equal
    other = [
        lambda number: f'page == "{value(number)}" AND NOT country == "NO"',
        lambda number: f'page contains "/{number}"',
        lambda number: f'page endswith "/{number}" OR campaign == {number}',
        lambda number: f'page matcheswords "camera {number}"',
        lambda number: f'page matchesregex "https?://[a-z.]+/lens/{number}[0-9]*"',
    ]
    return [rule if number % 2 else other[number // 2 % len(other)](number) for number, rule in enumerate(equal)]


def measure_index(kind: str, signals: int) -> Row:
    meter, index = Meter(), TraitIndex()
    for number in range(TRAITS - OF_A_KEY):
        index.add(number, trait_rules.parse(f'key{number // OF_A_KEY} == "{number}"'))
    for number, rule in enumerate(rules(kind), TRAITS - OF_A_KEY):
        index.add(number, trait_rules.parse(rule))
    some = signals if kind == "new values" else 2 * OF_A_KEY
    calls = [[("page", value(number * 7919 % some))] for number in range(signals)]
    before, found = meter.read(), 0
    for call in calls:
        found += len(index.matching(call))
    after = meter.read()
    return {"cpu": after.cpu - before.cpu, "found": found, "size": signals}


def segment(kind: str) -> str:
    ids = [f"{number}T" for number in range(TRAITS_OF_A_SEGMENT)]
    some = f"({' OR '.join(ids[:8])}) AND ({' OR '.join(ids[8:14])}) AND NOT ({' AND '.join(ids[14:16])})"
    if kind == "sets":
        return f"{some} AND [{','.join(ids[16:])}]"
    return f"{some} AND FREQUENCY([{','.join(ids[16:])}] <= 5D) >= 2 AND FREQUENCY([{ids[16]}]) <= 3"


def measure_segment(kind: str, visitors: int) -> Row:
    chance = np.random.default_rng(13)
    who = [np.flatnonzero(chance.random(visitors) < 0.25).astype(np.uint32) for _ in range(TRAITS_OF_A_SEGMENT)]
    members = [BitMap(each) for each in who]

    def frequency(traits: Any, days: int | None) -> segment_rules.Counts:
        counts = np.zeros(visitors, np.int64)
        for trait in traits:
            counts[who[trait]] += 1
        found = np.flatnonzero(counts)
        return found.astype(np.uint32), counts[found]

    tree = segment_rules.parse(segment(kind))
    spent = []
    for _ in range(TRIES):
        before = time.process_time()
        found = segment_rules.evaluate(tree, members.__getitem__, frequency, members.__getitem__)
        spent.append(time.process_time() - before)
    return {"cpu": sorted(spent)[TRIES // 2], "found": len(found), "size": visitors}


def make(home: Path) -> tuple[int, str]:
    """Make a node with the traits; return the number of the data source that all is of, and a user's token."""
    with Node.create(home, "Fern") as node:
        scope = node.project().scope
        with scope.begin() as tx:
            source = sources.add(scope, tx, "CRM", SourceKind.OWN, None, None).number
        other = [f'key{number // OF_A_KEY} == "{number}"' for number in range(TRAITS - OF_A_KEY)]
        made = [
            Trait(
                id=scope.home.new_id(),
                number=number,
                kind=TraitKind.RULE_BASED,
                name=f"trait {number}",
                description="",
                rule=rule,
                tree=trait_rules.parse(rule),
                folder=TOP,
                source=source,
                integration_code=None,
                days=DAYS,
                labels=[],
                created=scope.home.now(),
            )
            for number, rule in enumerate([*other, *rules("mixed")], 1_000_000)
        ]
        with scope.begin() as tx:
            tx.execute(insert(traits), [asdict(each) | {"project_id": scope.id} for each in made])
            note_change(scope, tx)
        return source, node.users.create("ann", ["administrator"]).text


def measure_load(home: Path, source: int, token: str, signals: int) -> Row:
    file = home.parent / f"ftp_dpm_{source}_1.sync"
    with file.open("w") as out:
        for number in range(signals):
            out.write(f"p{number % PEOPLE}\tpage={value(number * 7919 % (2 * OF_A_KEY))}\n")
    with Node.open(home) as node:
        node.sign_in(token)
        meter = Meter()
        meter.reset()
        before = meter.read()
        (receipt,) = files.load(node.project().scope, [file])
        after = meter.read()
    assert receipt["stored_records"] + receipt["no_trait_realised"] == signals
    return {"cpu": after.cpu - before.cpu, "peak": after.peak, "found": receipt["realised_traits"], "size": signals}


def measure_stream(home: Path, source: int, token: str, operations: int) -> Row:
    """Send requests to a node in another process, and measure both."""
    ready, started = Pipe()
    answers = get_context("spawn").Process(target=answer, args=(home, started), daemon=True)
    answers.start()
    address = ready.recv()
    every: list[float] = []
    work = partial(send, address, token, source, operations)
    try:
        work(0, 1)  # the traits are read, and the token is known
        before, start = cpu_of(answers.pid or 0), time.monotonic()
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            for some in pool.map(work, range(CONNECTIONS), [REQUESTS[str(operations)]] * CONNECTIONS):
                every += some
        wall, cpu = time.monotonic() - start, cpu_of(answers.pid or 0) - before
    finally:
        answers.terminate()
        answers.join()
    done = len(every) * operations
    p99 = sorted(every)[len(every) * 99 // 100]
    return {"cpu": cpu, "wall": wall, "size": done, "rate": done / cpu, "p50": statistics.median(every), "p99": p99}


def answer(home: Path, started: Connection) -> None:
    """Answer programs until the process is ended."""
    wire()
    with Node.open(home) as node:
        bound = bind("127.0.0.1:0")
        started.send(address_of(bound))
        server(listener.application(node.home), None, proxy=True).run(sockets=[bound])


def send(address: str, token: str, source: int, operations: int, connection: int, requests: int) -> list[float]:
    """Send requests one after the other over one connection; return the milliseconds that each took."""
    client, taken = HTTPConnection(address, timeout=60), []
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    for request in range(requests):
        first = (connection * requests + request) * operations
        every = [
            {
                "identities": [{"dataSourceId": source, "value": f"p{each}"}],
                "traitEvaluation": {"data": [{"key": "page", "value": value(each * 7919 % (2 * OF_A_KEY))}]},
            }
            for each in range(first, first + operations)
        ]
        body = json.dumps({"ops": every})
        start = time.monotonic()
        client.request("POST", "/stream/benchmark", body, headers)
        found = client.getresponse()
        document = json.loads(found.read())
        taken.append((time.monotonic() - start) * 1000)
        assert document["status"] == "SUCCESS", document
    client.close()
    return taken


def rows_of(only: list[str], signals: int, visitors: int) -> list[Row]:
    """Return one row for each kind of each part."""
    found = []
    with tempfile.TemporaryDirectory(prefix="vesica-benchmark-") as folder:
        home = Path(folder) / "home"
        if not {"load", "stream"}.isdisjoint(only):
            source, token = alone(make, home)
        for part in only:
            for kind in PARTS[part]:
                match part:
                    case "index":
                        row = alone(measure_index, kind, signals)
                    case "segment":
                        row = alone(measure_segment, kind, visitors)
                    case "load":
                        row = alone(measure_load, home, source, token, signals)
                    case _:
                        row = measure_stream(home, source, token, int(kind))
                found.append({"part": part, "kind": kind, **row})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--signals", type=int, default=1_000_000)
    parser.add_argument("--visitors", type=int, default=1_000_000)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    rows = rows_of(arguments.only, arguments.signals, arguments.visitors)
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    print("| part | of | signals or visitors | found | CPU s | aim | peak MiB |")
    print("| --- | --- | --: | --: | --: | --: | --: |")
    for row in rows:
        if row["part"] != "stream":
            peak = f"{row['peak'] / MIB:.0f}" if "peak" in row else ""
            sizes = f"{row['size']:,} | {row['found']:,} | {row['cpu']:.3g} | {AIMS[row['part']]}"
            print(f"| {row['part']} | {row['kind']} | {sizes} | {peak} |")
    for row in rows:
        if row["part"] == "stream":
            rate = f"{row['rate']:,.0f} a second of the node's CPU (aim {STREAM_AIMS['operations']:,})"
            latency = f"half in {row['p50']:.1f} ms, 99 % in {row['p99']:.1f} ms (aim {STREAM_AIMS['p99']})"
            print(f"\n{row['size']:,} operations, {row['kind']} in a request: {rate}; {latency}.")


if __name__ == "__main__":
    main()
