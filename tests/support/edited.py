"""A feed "summer" between two nodes, edited at one of them and accepted at the other."""

from typing import Any

from sides import Pair, Person

from node.feeds.sending.edits import Addition, Removal

SEGMENTS = {"vip": ["a2", "a3"], "new": ["a3", "a4"], "old": ["a5"], "rare": ["a3", "a5"]}


def prepare(pair: Pair, person: type[Person]) -> None:
    """Connect acme, with a0-a5, and globe, with g3-g8: three people by e-mail, and a2 by phone only."""
    ours = [person(f"a{n}", f"person{n}@example.com", "+447400000002" if n == 2 else "") for n in range(6)]
    theirs = [person("g2", "", "+447400000002"), *(person(f"g{n}", f"person{n}@example.com") for n in range(3, 9))]
    pair.prepare(ours, theirs, SEGMENTS)


def edit(pair: Pair, removal: Removal = Removal(), description: str | None = None, **added: Any) -> int:  # noqa: B008
    version = pair.acme.project.feeds.edit("summer", removal, addition=Addition(**added), description=description)
    return int(version)


def sync(pair: Pair) -> list[str]:
    return [run["status"] for run in pair.acme.project.feeds.sync("summer")]


def at_sender(pair: Pair, partner: str = "globe") -> dict[str, Any]:
    (found,) = [each for each in pair.acme.project.feeds.show("summer")["partners"] if each["alias"] == partner]
    return dict(found)


def agree(pair: Pair) -> tuple[int | None, int | None]:
    """Check that both sides show the same, and return which version runs and which waits for the receiver's word."""
    ours, theirs = at_sender(pair), pair.globe.project.received.show("summer")
    assert ours["accepted_version"] == theirs["accepted_version"]
    assert ours["offered_version"] == theirs["offered_version"]
    if ours["accepted_version"] is not None:
        assert ours["accepted_hash"] == theirs["hash"]
    return ours["accepted_version"], ours["offered_version"]
