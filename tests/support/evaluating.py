"""Two nodes of which globe asks acme for evaluations of its people."""

from collections.abc import Sequence
from typing import Any

import pytest
from sides import EMAIL, Pair, Person, Side
from sqlalchemy import func, select

from node.errors import RefusedByPartner
from node.exchanges.channels import Channel, epoch_of
from node.exchanges.opening import Plan, run_exchange
from node.storage.tables import epochs as epoch_rows
from node.storage.tables import ledger
from protocol.release import EvaluateReceiver
from protocol.states import Kind, Part
from psi.keys import Purpose


def people(person: type[Person], side: str, numbers: Sequence[int]) -> list[Any]:
    return [person(f"{side}{number}", f"person{number}@example.com") for number in numbers]


def shared(pair: Pair, person: type[Person], **terms: Any) -> None:
    """Let globe have enabled acme's feed "f" of the segment "all", by e-mail: 10 of 20 and 20 people are the same."""
    segments = {"all": [f"a{n}" for n in range(20)]}
    pair.prepare(people(person, "a", range(20)), people(person, "g", range(10, 30)), segments, **terms)
    pair.share("f", ["all"], [EMAIL])


def sync(pair: Pair) -> str:
    (run,) = pair.acme.project.feeds.sync("f")
    return str(run["status"])


def charged(side: Side) -> int:
    with side.node.home.database.read() as tx:
        return tx.scalar(select(func.sum(ledger.c.amount)).where(ledger.c.kind == "evaluations")) or 0


def number_of(side: Side, partner: str) -> int:
    """Return the number of the epoch that runs on one side, without beginning another."""
    connection = side.project.partners.get(partner)
    with side.node.home.database.read() as tx:
        newest = select(func.max(epoch_rows.c.number)).where(epoch_rows.c.connection_id == connection.id)
        return int(tx.scalar(newest) or 0)


def ask_for(pair: Pair, numbers: Sequence[int]) -> None:
    """Let globe ask acme for F of any persons, as a receiver that has its own idea of its universe."""
    from hashlib import sha256

    from psi.values import Values

    project = pair.globe.project
    connection = project.partners.get("acme")

    def role(number: int) -> EvaluateReceiver:
        epoch = epoch_of(project.scope, connection, number)
        channel = Channel.of(project.scope, connection, epoch, EMAIL, protocol="release", outward=False)
        return EvaluateReceiver(
            context=channel.context,
            direction=channel.direction,
            epoch=number,
            values=Values.of([sha256(f"person{each}@example.com".encode()).digest() for each in numbers]),
            key=channel.key(Purpose.RELEASE_BLIND),
            peer_keys=connection.peer_keys,
        )

    plan = Plan(kind=Kind.EVALUATE, part=Part.RECEIVER, subject={"namespace": EMAIL}, role=role)
    run_exchange(project.scope, connection, plan)


def spent_out(pair: Pair, numbers: Sequence[int]) -> None:
    with pytest.raises(RefusedByPartner) as refused:
        ask_for(pair, numbers)
    assert refused.value.code == "evaluations_spent"
