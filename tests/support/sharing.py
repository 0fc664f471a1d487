"""A feed "summer" between two nodes, and what tests look at on either side of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sides import EMAIL, Pair, Person, Side
from sqlalchemy import func, select, update

from node.storage.tables import feed_partners, memberships


def people(side: str, numbers: Sequence[int]) -> list[Person]:
    """Return people "a3", "a4", ... of a side "a"; those of one number are the same person on both sides."""
    return [Person(f"{side}{n}", f"person{n}@example.com") for n in numbers]


def offer_summer(pair: Pair) -> None:
    """Connect; acme has a0-a5 and offers "summer" with a2-a5, globe has g3-g8 and has not answered."""
    pair.prepare(people("a", range(6)), people("g", range(3, 9)), {"vip": ["a2", "a3", "a4"], "new": ["a4", "a5"]})
    publish(pair, "summer", ["vip", "new"])


def small(pair: Pair, **terms: Any) -> None:
    """Connect acme with six people, two in a segment "vip" and three in "new", and globe, who knows the last three."""
    pair.prepare(
        people("a", range(6)), people("g", range(3, 9)), {"vip": ["a2", "a3"], "new": ["a3", "a4", "a5"]}, **terms
    )


def draft(pair: Pair, name: str = "summer", segments: Sequence[str] = ("vip",), **rest: Any) -> None:
    """Draft a feed of acme's to globe."""
    pair.acme.project.feeds.create(name, segments=segments, namespaces=[EMAIL], partners=["globe"], **rest)


def state(side: Side, name: str = "summer", partner: str = "globe") -> dict[str, Any]:
    """Return a sender's state of a feed with one partner."""
    (found,) = [each for each in side.project.feeds.show(name)["partners"] if each["alias"] == partner]
    return dict(found)


def publish(pair: Pair, name: str, segments: Sequence[str]) -> None:
    pair.acme.project.feeds.create(name, segments=segments, namespaces=[EMAIL], partners=["globe"])
    pair.acme.project.feeds.publish(name)


def sync(pair: Pair) -> list[str]:
    """Run acme's feeds, and return how each run ended."""
    return [run["status"] for run in pair.acme.project.feeds.sync()]


def at_sender(pair: Pair) -> dict[str, Any]:
    """Return acme's state of "summer" with globe."""
    (state,) = pair.acme.project.feeds.show("summer")["partners"]
    return dict(state)


def force(pair: Pair) -> None:
    """Let the sender act as if the receiver had enabled its feed."""
    with pair.acme.node.home.database.begin() as tx:
        tx.execute(update(feed_partners).values(status="enabled", accepted_version=1, universes={EMAIL: 6}))


def stored(pair: Pair) -> int:
    """Return how many membership rows and files of received feeds globe has."""
    folder = pair.globe.project.scope.data_directory / "received"
    with pair.globe.node.home.database.read() as tx:
        rows = tx.scalar(select(func.count()).select_from(memberships))
    return int(rows or 0) + sum(path.is_file() for path in folder.rglob("*"))


def update_segment(pair: Pair, name: str, members: Sequence[str]) -> None:
    """Give a segment of acme's other members."""
    file: Path = pair.acme.folder / "members.csv"
    file.write_text("\n".join(["id", *members]) + "\n")
    pair.acme.project.segments.update(name, file)
