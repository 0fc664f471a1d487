"""Roles of a node of its own."""

import pytest
from callers import crew, signed_in

from node.access.permissions import READY_MADE
from node.errors import InvalidInput
from node.node import Node


@pytest.mark.feature("GV10")
def test_a_role_with_labels_cannot_lift_its_own_limit(either_node: Node) -> None:
    tokens = crew(either_node)
    with signed_in(either_node, tokens["ann"]) as anns:
        for permission in ("administer", "audit"):
            with pytest.raises(InvalidInput, match="cannot be limited"):
                anns.roles.create("limited", ["view", permission], labels=["C1"])
            with pytest.raises(InvalidInput, match="cannot be limited"):
                anns.roles.create("limited", ["view", permission], labels=[])
        assert [each.name for each in anns.roles.all()] == list(READY_MADE)
