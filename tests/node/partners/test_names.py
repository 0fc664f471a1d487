"""No partner has the name of a user: the audit log would have two actors of one name."""

from dataclasses import replace

import pytest
from callers import crew, signed_in

from node.errors import AlreadyExists
from node.node import Node
from node.partners import connecting
from node.partners.connections import Connection, ConnectionStatus, change
from protocol.agreement import Agreement


def store(node: Node, organisation: str, alias: str | None = None) -> str:
    """Store a connection that an organisation has asked for, and return its alias."""
    scope = node.project().scope
    ours = connecting.offer(scope, bytes(32))
    theirs = replace(ours, organisation=organisation, key=node.home.random(32), project=b"q" * 16, address="")
    agreement = Agreement.merge(theirs, ours, connection=node.home.random(16), made=node.home.now())
    with node.home.begin() as tx:
        return connecting.store(scope, tx, theirs, agreement, bytes(64), alias=alias)


@pytest.mark.feature("OP2")
def test_a_user_has_no_name_of_a_partner(node: Node, requested: Connection) -> None:
    said = "there is a partner 'globe': the audit log would have two actors of that name"
    with signed_in(node, crew(node)["ann"]) as anns:
        with pytest.raises(AlreadyExists, match=said):
            anns.users.create("globe", ["viewer"])
        with node.home.guard.itself(), node.home.begin() as tx:
            change(node.home, tx, requested, status=ConnectionStatus.DECLINED)
        anns.users.create("globe", ["viewer"])  # who is no partner does nothing here any more


@pytest.mark.feature("OP2")
def test_the_operator_makes_no_user_of_that_name_either(node: Node, requested: Connection) -> None:
    with pytest.raises(AlreadyExists, match="there is a partner 'globe'"):
        node.users.reset("globe")
    assert node.users.all() == []


@pytest.mark.feature("OP2")
def test_a_partner_has_no_name_of_a_user(node: Node) -> None:
    with signed_in(node, crew(node, initech="viewer")["ann"]) as anns:
        with pytest.raises(AlreadyExists, match="there is a user 'initech': the audit log would have two actors"):
            store(anns, "Umbrella", alias="initech")
        assert store(anns, "Initech") == "initech-2"
        assert store(anns, "Initech") == "initech-3"
        assert store(anns, "Umbrella") == "umbrella"
