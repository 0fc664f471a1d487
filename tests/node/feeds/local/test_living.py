"""Members follow the data of both projects, and every evaluation is kept for a year."""

from pathlib import Path

import pytest
from clock import Clock
from company import APP, CRM, SHOP, VIP, by_hand, ids, lists, load

from node.erasure.erasure import People
from node.feeds.local import evaluations
from node.node import Node
from node.project import Project
from node.service import Schedule


def erase(project: Project, *people: str) -> None:
    project.erasure.profiles(People(ids=people))


@pytest.mark.feature("XP5")
def test_each_evaluation_is_kept_with_its_time_and_what_changed(
    clock: Clock, crm: Project, app: Project, tmp_path: Path
) -> None:
    crm.sharing.share("vip", ["app"])
    for members, days in ((("ann", "bob"), 1), (("ann", "bob", "eve"), 2), (("dan",), 3)):
        clock.advance(days=days)
        lists(crm, tmp_path, "vip", members)
        evaluations.follow(app.scope)
        evaluations.follow(app.scope)  # nothing has changed
    found = app.sharing.segment("shared.crm.vip")["evaluations"]
    start = clock() - 6 * 86_400
    assert [(each["at"] - start, each["size"], each["came"], each["left"]) for each in found] == [
        (6 * 86_400, 2, 2, 2),
        (3 * 86_400, 2, 0, 0),
        (1 * 86_400, 2, 0, 2),
        (0, 4, 4, 0),
    ]
    clock.advance(days=364)
    assert len(app.sharing.segment("shared.crm.vip")["evaluations"]) == 1
    lists(crm, tmp_path, "vip", ("ann",))
    evaluations.follow(app.scope)
    assert len(app.sharing.segment("shared.crm.vip")["evaluations"]) == 2


def test_members_follow_imports_erasures_and_lists_on_both_sides(crm: Project, app: Project, tmp_path: Path) -> None:
    crm.sharing.share("vip", ["app"])
    app.segments.create("copied", rule="shared.crm.vip AND visits > 1")
    theirs, ours = dict(CRM), dict(APP)
    theirs["cat"] = ("i3",)
    load(crm, tmp_path, theirs, first_name="Secretvalue")
    assert (
        ids(app, "copied") == ids(app, "shared.crm.vip") == by_hand(VIP, theirs, ours) == {"u1", "u2", "u3", "u4", "u5"}
    )
    ours["u6"] = ("a2", "a7")
    load(app, tmp_path, ours, visits="7")
    assert ids(app, "copied") == by_hand(VIP, theirs, ours)
    erase(crm, "bob")
    assert ids(app, "copied") == by_hand(("ann", "cat", "dan"), theirs, ours) == {"u1", "u3", "u4", "u5"}
    erase(app, "u3")
    assert ids(app, "shared.crm.vip") == {"u1", "u4", "u5"}
    lists(crm, tmp_path, "vip", ("ann",))
    app.segments.evaluate("copied")  # before a segment is counted or leaves, it is brought up to date
    assert ids(app, "copied") == {"u1"}
    crm.sharing.unshare("vip", ["app"])
    assert ids(app, "copied") == set()


def test_a_service_follows_a_rule_over_several_projects(
    node: Node, clock: Clock, crm: Project, app: Project, shop: Project, tmp_path: Path
) -> None:
    crm.segments.create("named", rule="first_name = 'Secretvalue'")
    crm.sharing.share("named", ["app"])
    app.segments.create("copied", rule="shared.crm.named")
    app.sharing.share("copied", ["shop"])
    assert ids(shop, "shared.app.copied") == {"s1"}
    schedule = Schedule(node.home)
    with node.home.guard.itself():
        load(crm, tmp_path, {"bob": CRM["bob"]}, first_name="Other")
        for _ in range(4):
            schedule.tick()
            clock.advance(seconds=2)
    assert ids(app, "copied") == by_hand(tuple({*CRM} - {"bob"}), CRM, APP)
    assert ids(shop, "shared.app.copied") == by_hand(tuple(ids(app, "copied")), APP, SHOP) == set()
    before = len(app.sharing.segment("shared.crm.named")["evaluations"])
    with node.home.guard.itself():
        assert schedule.tick() is None
    assert len(app.sharing.segment("shared.crm.named")["evaluations"]) == before


def test_consent_counts_where_the_share_says_so(crm: Project, app: Project, shop: Project, tmp_path: Path) -> None:
    crm.consent.set_model("opt-in")
    crm.sharing.share("vip", ["app"])
    crm.sharing.share("vip", ["shop"], with_consent=True)
    assert ids(app, "shared.crm.vip") == {"u1", "u2", "u4", "u5"}
    assert ids(shop, "shared.crm.vip") == set()
    file = tmp_path / "consent.csv"
    file.write_text("id,share\nbob,y\n")
    crm.consent.import_(file, id_column="id", consent_column="share")
    assert ids(shop, "shared.crm.vip") == {"s1"}
    crm.consent.set("bob", "n")
    assert ids(shop, "shared.crm.vip") == set()


def test_who_was_erased_is_in_no_shared_segment(app: Project, crm: Project) -> None:
    crm.sharing.share("vip", ["app"])
    found = app.erasure.profiles(People(ids=["u1"]), prove=True)
    assert {(each["place"], each["before"], each["after"]) for each in found["places"]} >= {
        ("segment shared.crm.vip", 1, 0)
    }
