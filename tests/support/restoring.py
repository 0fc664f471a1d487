"""What tests of backups share: people, a feed that runs, and a home that is set back to its backup."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sides import EMAIL, Pair, Person, Side

from node.node import Node


def people(person: type[Person], names: str) -> list[Person]:
    return [person(f"p{each}", f"{each}@example.com") for each in names]


def prepare(pair: Pair, person: type[Person], **terms: Any) -> None:
    """Let globe have enabled acme's feed "summer" of pa to pd, who are at globe as well."""
    people = [
        person(f"p{each}", f"{each}@example.com", f"+4474000000{place:02}") for place, each in enumerate("abcdef")
    ]
    pair.prepare(people, people, {"vip": ["pa", "pb", "pc", "pd"], "new": ["pe"]}, **terms)
    pair.share("summer", ["vip"], [EMAIL])
    pair.acme.project.feeds.sync()
    assert pair.globe.members("acme", "vip") == {"pa", "pb", "pc", "pd"}


@contextmanager
def both(pair: Pair) -> Iterator[None]:
    with pair.acme.serving(), pair.globe.serving():
        yield


def set_back(pair: Pair, side: Side, source: Path, *, days: int = 0) -> dict[str, Any]:
    """Lose a side's home, and restore it from a backup some days later; what serves it next serves the restored one."""
    pair.clock.advance(days=days)
    side.node.close()
    shutil.rmtree(side.folder / side.name)
    document = Node.restore(source, side.folder / side.name, now=pair.clock)
    side.open()
    return document


@contextmanager
def forgotten(pair: Pair, person: type[Person], side: Side, source: Path, *, days: int = 2) -> Iterator[dict[str, Any]]:
    """Back a side up once its feed runs, and set it back to that after the body, of which it knows nothing then.

    Both serve in the body. Yields the report of the restore, which is empty until the end.
    """
    report: dict[str, Any] = {}
    with both(pair):
        prepare(pair, person)
        side.node.backup(source)
        yield report
    report |= set_back(pair, side, source, days=days)


def go_on(side: Side, partner: str) -> None:
    """Let a restored side's project go on, and its partner evaluate."""
    side.project.resume()
    if side.project.feeds.all():
        side.project.partners.allow(partner)


def replace_members(side: Side, name: str, ids: Sequence[str]) -> None:
    file = side.folder / f"{side.name}-{name}.csv"
    file.write_text("\n".join(["id", *ids]) + "\n")
    side.project.segments.update(name, file)
