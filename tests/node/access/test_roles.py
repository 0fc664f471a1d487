"""Roles of a node of its own, and which go together."""

from pathlib import Path

import pytest
from callers import crew, denied, signed_in
from sqlalchemy import select

from node.access.permissions import READY_MADE, PermissionDenied
from node.errors import InvalidInput, NotAllowed
from node.node import Node
from node.storage import tables


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


@pytest.mark.feature("OP1")
@pytest.mark.feature("GV10")
@pytest.mark.parametrize("permission", ["administer", "audit"])
def test_nobody_has_a_permission_over_everything_beside_the_sight_of_some_labels(
    either_node: Node, permission: str
) -> None:
    crewed = crew(either_node)
    with signed_in(either_node, crewed["ann"]) as anns:
        here, there = anns.project().scope, anns.create_project("other").scope
        anns.roles.create("desk", [permission])
        anns.roles.create("limited", ["view", "manage-data"], labels=["C1"])
        said = f"deb would have the permission {permission} from one role, and sight that another limits"
        with pytest.raises(NotAllowed, match=said):
            anns.users.create("deb", ["desk", "limited"])
        anns.users.create("deb", ["desk"])
        for scope in (None, here):
            with pytest.raises(NotAllowed, match=said):
                anns.users.grant("deb", "limited", scope=scope)
        anns.users.grant("deb", "viewer", scope=here)
        anns.users.grant("deb", "limited", scope=here)  # all is seen there
        with pytest.raises(NotAllowed, match=said):
            anns.users.deny("deb", "viewer", scope=here)
        anns.users.deny("deb", "limited", scope=here)
        anns.users.deny("deb", "viewer", scope=here)
        anns.users.create("low", ["limited"], scope=here)
        for scope in (None, here):
            with pytest.raises(NotAllowed, match="low would have"):
                anns.users.grant("low", "desk", scope=scope)
        anns.users.grant("low", "desk", scope=there)
    assert [code for _, code in denied(either_node, "user.deny")] == ["refused"]


@pytest.mark.feature("OP1")
@pytest.mark.feature("GV10")
@pytest.mark.parametrize("in_project", [False, True])
def test_a_user_who_got_both_from_an_older_release_has_the_limited_sight_alone(
    either_node: Node, tmp_path: Path, in_project: bool
) -> None:
    tokens = crew(either_node)
    with signed_in(either_node, tokens["ann"]) as anns:
        scope = anns.project().scope
        anns.roles.create("desk", ["administer", "audit"])
        anns.roles.create("limited", ["view", "manage-data"], labels=["C1"])
        deb = anns.users.create("deb", ["desk"])
        with anns.home.begin() as tx:
            user = tx.scalar(select(tables.users.c.id).where(tables.users.c.name == "deb"))
            place = {"project_id": scope.id if in_project else None}
            tx.execute(tables.grants.insert().values(id="f" * 32, user_id=user, role="limited", **place))
    with signed_in(either_node, deb) as debs:
        assert debs.project().profiles.count()["profiles"] == 0
        for refused in (
            lambda: debs.users.grant("deb", "viewer"),
            lambda: debs.users.token("ann"),
            lambda: debs.users.deny("deb", "limited", scope=scope if in_project else None),
            lambda: debs.audit.entries(),
            lambda: debs.audit.entries(project_id=scope.id),
            lambda: debs.backup(tmp_path / "copy.tar"),
            lambda: debs.roles.create("more", ["view"]),
        ):
            with pytest.raises(PermissionDenied, match="deb may not"):
                refused()
    with signed_in(either_node, tokens["ann"]) as anns:
        anns.users.deny("deb", "limited", scope=scope if in_project else None)
    with signed_in(either_node, deb) as debs:
        assert debs.audit.entries()
