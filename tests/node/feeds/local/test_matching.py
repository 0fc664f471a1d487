"""Who of one project is in a segment of another: by any device, and by hand."""

import random
from pathlib import Path
from typing import Any

import pytest
from company import APP, CRM, SHOP, VIP, by_hand, ids, lists, load
from pyroaring import BitMap

from node.erasure.erasure import People
from node.feeds.local import evaluations, matching
from node.people.snapshots import Snapshot
from node.project import Project


@pytest.mark.feature("XP2")
def test_members_are_those_of_our_people_who_have_a_device_of_a_member(
    crm: Project, app: Project, shop: Project
) -> None:
    crm.sharing.share("vip", ["app", "shop"])
    assert ids(app, "shared.crm.vip") == by_hand(VIP, CRM, APP) == {"u1", "u2", "u4", "u5"}
    assert ids(shop, "shared.crm.vip") == by_hand(VIP, CRM, SHOP) == {"s1"}


@pytest.mark.feature("XP2")
def test_other_namespaces_count_where_the_share_names_them(crm: Project, app: Project) -> None:
    crm.sharing.share("vip", ["app"], namespaces=["android_id"])
    assert ids(app, "shared.crm.vip") == {"u2"}


def test_what_changed_is_looked_at_again_and_the_result_is_that_of_a_whole_join(
    crm: Project, app: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random changes of devices, people and members on both sides; each evaluation after the first is of what changed."""
    chance, renewals = random.Random(7), list[int]()

    def renewed(*each: Any, **more: Any) -> BitMap:
        renewals.append(1)
        return matching.renewed(*each, **more)

    monkeypatch.setattr(evaluations, "renewed", renewed)
    theirs, ours, vip = {**CRM}, {**APP}, list(VIP)
    crm.sharing.share("vip", ["app"])
    for turn in range(14):
        some = tuple(f"{chance.choice('ia')}{chance.randrange(1, 9)}" for _ in range(chance.randrange(1, 3)))
        match turn % 4:
            case 0:
                person = chance.choice([*theirs, f"new{turn}"])
                theirs[person] = some
                load(crm, tmp_path, {person: some}, first_name="x")
            case 1:
                person = chance.choice([*ours, f"u{turn}"])
                ours[person] = some
                load(app, tmp_path, {person: some}, visits="7")
            case 2:
                vip = chance.sample([*theirs], chance.randrange(1, len(theirs)))
                lists(crm, tmp_path, "vip", tuple(vip))
                app.segments.evaluate_all()
            case _ if turn == 7:
                person = vip.pop()
                del theirs[person]
                crm.erasure.profiles(People(ids=[person]))
        assert ids(app, "shared.crm.vip") == by_hand(tuple(vip), theirs, ours), turn
        with app.scope.read() as tx:
            mine, there = Snapshot.open(app.scope, tx), Snapshot.open(crm.scope, tx)
            chosen = crm.segments.members("vip")
            assert app.segments.members("shared.crm.vip") == matching.holders(
                there, chosen, mine, ["idfv", "android_id"]
            )
    assert len(renewals) > 8
