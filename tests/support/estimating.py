"""Two nodes of which acme asks globe for counts."""

from collections.abc import Sequence
from typing import Any

from sides import EMAIL, Pair, Person
from sqlalchemy import func, select

from node.storage.tables import ledger

NOISY: dict[str, Any] = {"epsilon": "1/20", "budget": "1/10"}  # two counts in a window


def people(
    person: type[Person], side: str, numbers: Sequence[int], *, no_phone: Sequence[int] = (), out: Sequence[int] = ()
) -> list[Any]:
    """Return people of a side, "a" or "g": the same number is the same person."""
    return [
        person(
            f"{side}{number}",
            f"person{number}@example.com",
            "" if number in no_phone else f"+44740000{number:04}",
            "n" if number in out else "",
        )
        for number in numbers
    ]


def members(*numbers: int) -> list[str]:
    return [f"a{number}" for number in numbers]


def ask(pair: Pair, segments: Sequence[str], namespaces: Sequence[str] = (EMAIL,), feed: str = "f") -> dict[Any, Any]:
    """Estimate a feed of these segments; returns the rows by segment and namespace."""
    feeds = pair.acme.project.feeds
    if feed not in {each["name"] for each in feeds.all()}:
        feeds.create(feed, segments=segments, namespaces=namespaces, partners=["globe"])
    return {(row["segment"], row["namespace"]): row for row in feeds.estimate(feed)}


def spent(pair: Pair) -> int:
    """Return the thousandths of epsilon in the answerer's ledger, whoever the connection was with."""
    with pair.globe.node.home.database.read() as tx:
        return tx.scalar(select(func.sum(ledger.c.amount)).where(ledger.c.kind == "epsilon_millis")) or 0


def kept(pair: Pair, table: Any, *conditions: Any) -> list[Any]:
    with pair.globe.node.home.database.read() as tx:
        return list(tx.execute(select(table).where(*conditions)))
