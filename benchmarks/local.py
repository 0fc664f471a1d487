"""What following a shared segment costs: a million people with one and a half devices each in both of two projects.

    python -m benchmarks.local [--people 1000000] [--json]

Half of the people of one project are also in the other one, and half of its people are in the segment. The first evaluation
finds who is in it. Then one in a hundred members leaves and as many others come; then one in a hundred people over there has
another device; each time it is evaluated again. Each is a process of its own that begins after its modules are loaded; CPU
is user and system time of all its threads, memory the most that it had at once.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import duckdb  # noqa: F401 - loaded before the clock starts
from pyroaring import BitMap

import node.feeds.sending.outgoing  # noqa: F401 - so is what looks whether feeds have other labels
from node.feeds.local import evaluations
from node.imports.identity_columns import IdentityColumn
from node.node import Node
from node.people import changes
from node.people.drafts import Draft
from node.project import Project

from .meter import MIB, Meter

AIMS = {"first": 3.0, "members": 0.1, "devices": 0.1}  # CPU seconds of a million people
CHANGED = 100  # one of so many
Row = dict[str, Any]
COLUMNS = ("first=idfv", "second=idfv", "third=android_id")


def fill(project: Project, folder: Path, people: range, *, devices: int = 0x8000) -> None:
    """Import people, every second one with a second device."""
    file = folder / "people.csv"
    with file.open("w") as out:
        out.write("id,first,second,third\n")
        for number in people:
            second = f"00000000-0000-4000-8001-{number:012x}" if number % 4 == 0 else ""
            third = f"{number:016x}" if number % 4 == 2 else ""
            out.write(f"p{number},00000000-0000-4000-{devices:04x}-{number:012x},{second},{third}\n")
    project.profiles.import_(
        file,
        dataset="people",
        id_column="id",
        identities=[IdentityColumn.parse(f"{each}:raw") for each in COLUMNS],
        attributes=[],
    )


def put(project: Project, members: BitMap) -> None:
    """Replace the members of the segment, as evaluating a rule does."""
    with project.scope.begin() as tx:
        draft = Draft(project.scope, tx)
        draft.set_members(project.segments.show("vip", tx).id, members)
        draft.publish()


def make(home: Path, n: int) -> None:
    """Make both projects, and share a segment of a half of the people; then switch sharing off."""
    with Node.create(home, "Fern") as node:
        crm, app = node.project(), node.create_project("app")
        fill(crm, home.parent, range(n))
        fill(app, home.parent, range(n // 2, n // 2 + n))
        (home.parent / "members.csv").write_text("id\np0\n")
        crm.segments.create("vip", members_file=home.parent / "members.csv")
        put(crm, BitMap(range(0, n, 2)))
        node.share_segments(True)
        crm.sharing.share("vip", ["app"])
        node.share_segments(False)


def change(home: Path, n: int, phase: str) -> None:
    with Node.open(home) as node:
        if phase == "members":
            put(node.project(), BitMap(range(0, n, 2)) ^ BitMap(range(n // 2, n // 2 + n // CHANGED)))
        if phase == "devices":
            changes.CHANGED.clear()  # who follows is measured
            fill(node.project(), home.parent, range(n - n // CHANGED, n), devices=0x8003)


def measure(home: Path, phase: str) -> Row:
    """Measure one evaluation in this process."""
    with Node.open(home) as node:
        app, meter = node.project("app"), Meter()
        meter.reset()
        before = meter.read()
        if phase == "first":
            node.share_segments(True)
        else:
            evaluations.follow(app.scope)
        after = meter.read()
        return {"cpu": after.cpu - before.cpu, "peak": after.peak, **app.sharing.segment("shared.default.vip")}


def alone(work: Callable[..., Any], *arguments: Any) -> Any:
    """Return what some work returns in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def rows_of(n: int) -> list[Row]:
    """Return one row per evaluation."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        alone(make, home, n)
        for phase, aim in AIMS.items():
            alone(change, home, n, phase)
            row = alone(measure, home, phase)
            found.append(
                {"phase": phase, "people": n, "aim": aim, **{key: row[key] for key in ("cpu", "peak", "size")}}
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=1_000_000, help="in each project")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    rows = rows_of(arguments.people)
    if arguments.json:
        print(json.dumps(rows))
        return
    print("| evaluation | members | CPU s | aim | peak MiB |")
    print("| --- | --: | --: | --: | --: |")
    for row in rows:
        print(f"| {row['phase']} | {row['size']:,} | {row['cpu']:.2f} | {row['aim']} | {row['peak'] / MIB:.0f} |")


if __name__ == "__main__":
    main()
