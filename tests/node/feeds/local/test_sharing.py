"""Segments shared between projects: by whom, with whom, and what is refused."""

from pathlib import Path

import pytest
from callers import crew, signed_in
from company import APP, CRM, VIP, by_hand, ids, lists

from node.access.audit import Result
from node.access.users import Token
from node.errors import AlreadyExists, NotAllowed, NotFound
from node.feeds.local.shares import NotShared, SharedSegmentsOff
from node.governance.violations import PolicyViolation
from node.node import Node
from node.project import Project
from node.segments.references import UsedElsewhere
from psi.errors import VesicaError


def grant(node: Node, name: str, **roles: str) -> Token:
    """Make a user with a role in each of some projects."""
    project, *more = roles
    token = node.users.create(name, [roles[project]], scope=node.project(project).scope)
    for each in more:
        node.users.grant(name, roles[each], scope=node.project(each).scope)
    return token


@pytest.fixture
def ann(node: Node, projects: dict[str, Project]) -> Token:
    return crew(node)["ann"]


@pytest.mark.feature("XP1")
def test_with_whom_a_segment_is_shared_names_reachable_projects_and_counts_the_others(
    node: Node, projects: dict[str, Project], ann: Token
) -> None:
    with signed_in(node, ann) as anns:
        anns.create_project("zebra")
        crm = anns.project("crm")
        crm.sharing.share("vip", ["app", "shop", "zebra"])
        rows = crm.sharing.sharing("vip")
        assert [(each["project"], each["shared"]) for each in rows["projects"]] == [
            ("app", True),
            ("default", False),
            ("shop", True),
            ("zebra", True),
        ]
        assert rows["hidden"] == 0
        bob = grant(anns, "bob", crm="viewer", app="viewer")
    with signed_in(node, bob) as bobs:
        rows = bobs.project("crm").sharing.sharing("vip")
    assert rows == {"segment": "vip", "projects": [{"project": "app", "shared": True, "used": False}], "hidden": 2}


@pytest.mark.feature("XP6")
def test_it_is_off_after_an_installation_and_members_leave_when_it_is_switched_off(
    node: Node, projects: dict[str, Project], crm: Project, app: Project
) -> None:
    node.share_segments(False)
    with pytest.raises(SharedSegmentsOff) as caught:
        crm.sharing.share("vip", ["app"])
    assert caught.value.code == "shared_segments_off"
    assert caught.value.remedy is not None
    node.share_segments(True)
    crm.sharing.share("vip", ["app"])
    app.segments.create("copied", rule="shared.crm.vip AND visits > 1")
    assert ids(app, "copied") == by_hand(VIP, CRM, APP)
    node.share_segments(False)
    with pytest.raises(NotShared, match="do not share segments"):
        app.segments.members("shared.crm.vip")
    assert ids(app, "copied") == set()
    assert app.sharing.segments()[0]["size"] == 0
    assert held(app) == 0
    node.share_segments(True)
    assert ids(app, "shared.crm.vip") == by_hand(VIP, CRM, APP)
    for project in (crm, app):
        acts = [each.act for each in node.audit.entries(project_id=project.id, act="segment")]
        assert {"segment.shared", "segment.unshared"} <= set(acts)


def held(project: Project) -> int:
    """Return in how many kept generations of a project's data there is somebody from another one."""
    from sqlalchemy import select

    from node.people.manifests import Manifest
    from node.storage.tables import manifests, shares

    with project.scope.read() as tx:
        ids = set(tx.scalars(select(shares.c.id)))
        contents = tx.scalars(select(manifests.c.content).where(manifests.c.project_id == project.id))
        return sum(bool(ids & Manifest.from_document(each).segments.keys()) for each in contents)


@pytest.mark.feature("XP6")
def test_it_needs_a_permission_here_and_a_role_there(node: Node, projects: dict[str, Project], ann: Token) -> None:
    with signed_in(node, ann) as anns:
        both = grant(anns, "both", crm="projects", app="viewer")
        viewer = grant(anns, "viewer", crm="viewer", app="projects")
        alone = grant(anns, "alone", crm="projects")
    with signed_in(node, viewer) as opened, pytest.raises(NotAllowed, match="share-segments"):
        opened.project("crm").sharing.share("vip", ["app"])
    for name in ("app", "nothing"):
        with signed_in(node, alone) as opened, pytest.raises(NotAllowed, match="a role in one alone"):
            opened.project("crm").sharing.share("vip", [name])
    with signed_in(node, both) as opened:
        crm = opened.project("crm")
        said = []
        for name in ("shop", "nothing"):
            with pytest.raises(NotFound) as caught:
                crm.sharing.share("vip", [name])
            said.append(str(caught.value).replace(name, "NAME") + caught.value.hint)
        assert said[0] == said[1]
        crm.sharing.share("vip", ["app"])
        assert ids(opened.project("app"), "shared.crm.vip") == by_hand(VIP, CRM, APP)
    with signed_in(node, ann) as anns:
        refused = anns.audit.entries(project_id=projects["shop"].id, act="segment", result=Result.DENY)
        assert [(each.act, each.target) for each in refused] == [("segment.shared", "shared.crm.vip")]
        there = anns.audit.entries(project_id=projects["app"].id, act="segment.shared")
        assert [each.actor for each in there if each.result is Result.ALLOW] == ["both"]


def refused(error: type[VesicaError], crm: Project, segment: str, with_: str, match: str) -> None:
    with pytest.raises(error, match=match) as caught:
        crm.sharing.share(segment, [with_])
    assert caught.value.hint or caught.value.remedy


@pytest.mark.feature("XP6")
def test_what_cannot_be_shared_is_refused(crm: Project, app: Project, shop: Project, tmp_path: Path) -> None:
    refused(NotFound, crm, "vip", "nothing", "no project 'nothing'")
    refused(NotAllowed, crm, "vip", "crm", "one and the same")
    refused(NotFound, crm, "gone", "app", "no segment 'gone'")
    refused(NotAllowed, crm, "received.acme.vip", "app", "only its own segments")
    crm.sharing.share("vip", ["app"])
    refused(AlreadyExists, crm, "vip", "app", "already")
    refused(NotAllowed, app, "shared.crm.vip", "shop", "only its own segments")
    with pytest.raises(NotFound, match="not shared with shop"):
        crm.sharing.unshare("vip", ["shop"])
    crm.labels.apply("C12", "segment", "vip")
    refused(PolicyViolation, crm, "vip", "shop", "C12")
    with app.scope.begin() as tx:
        app.scope.change(tx, restored=1)
    lists(crm, tmp_path, "other", VIP)
    refused(VesicaError, crm, "other", "app", "on hold")
    with crm.scope.begin() as tx:
        crm.scope.change(tx, restored=1)
    refused(VesicaError, crm, "other", "shop", "on hold")


def test_a_rule_over_a_shared_segment_can_be_shared_on_and_never_in_a_circle(
    crm: Project, app: Project, shop: Project, tmp_path: Path
) -> None:
    crm.sharing.share("vip", ["app"])
    app.segments.create("copied", rule="shared.crm.vip")
    app.segments.create("deeper", rule="own.copied AND visits > 1")
    refused(NotAllowed, app, "deeper", "crm", r"own\.deeper reads own\.copied reads shared\.crm\.vip")
    app.sharing.share("deeper", ["shop"])
    assert ids(shop, "shared.app.deeper") == {"s1"}
    shop.segments.create("third", rule="shared.app.deeper")
    refused(
        NotAllowed,
        shop,
        "third",
        "crm",
        r"own\.third reads shared\.app\.deeper reads shared\.app\.copied reads shared\.crm\.vip",
    )
    lists(shop, tmp_path, "start", ("s1",))
    shop.sharing.share("start", ["crm"])
    crm.segments.create("fine", rule="shared.shop.start")
    crm.segments.create("later", rule="first_name = 'x'")
    crm.sharing.share("later", ["shop"])
    with pytest.raises(NotAllowed, match=r"own\.later reads shared\.shop\.start"):
        crm.segments.update("later", rule="shared.shop.start", anyway=True)


@pytest.mark.feature("XP7")
def test_a_segment_that_others_use_is_not_changed_or_deleted_by_the_way(
    node: Node, projects: dict[str, Project], crm: Project, app: Project, shop: Project, tmp_path: Path
) -> None:
    default = node.project("default")
    crm.sharing.share("vip", ["app", "shop", "default"])
    app.segments.create("copied", rule="shared.crm.vip")
    shop.consent_policies.create("only", "shared.crm.vip", action="analytics")
    found = crm.sharing.using("vip")
    assert (len(found), list(found.names), found.others) == (2, ["app", "shop"], 0)
    assert str(crm.sharing.using("vip", ["shop", "default"])) == "shop"
    with pytest.raises(UsedElsewhere, match=r"2 projects use segment vip: app, shop"):
        crm.segments.delete("vip")
    members = tmp_path / "other.csv"
    members.write_text("id\nbob\n")
    with pytest.raises(UsedElsewhere):
        crm.segments.update("vip", members)
    ann = crew(node)["ann"]
    with signed_in(node, ann) as anns:
        bob = grant(anns, "bob", crm="data", app="viewer")
    with signed_in(node, bob) as bobs:
        with pytest.raises(UsedElsewhere, match=r"2 projects use segment vip: app and 1 other project$"):
            bobs.project("crm").segments.delete("vip")
        assert len(bobs.project("crm").sharing.using("vip", ["shop"])) == 0  # as of a project that there is not
        bobs.project("crm").segments.delete("vip", anyway=True)
    with signed_in(node, ann) as anns:
        assert ids(anns.project("app"), "copied") == set()
        assert [each.kind for each in anns.project("app").alerts.all()].count("segment_unshared") == 1
        assert anns.project("default").sharing.segments() == []
        with pytest.raises(NotShared, match=r"there is no shared segment crm\.vip"):
            anns.project("app").sharing.segment("shared.crm.vip")
    assert default.name == "default"
