"""What a shared segment leaves behind when it ends, when two processes follow it, and when a home is restored."""

from pathlib import Path

import pytest
from callers import crew, signed_in
from company import APP, CRM, VIP, by_hand, ids, lists, load

from node.errors import NotFound
from node.feeds.local import evaluations
from node.feeds.local.evaluations import Inputs
from node.feeds.local.shares import NotShared, Share
from node.node import Node
from node.people.drafts import Draft
from node.project import Project


def holding(app: Project, segment: str) -> bool:
    try:
        return bool(app.segments.members(segment))
    except NotShared:
        return False


@pytest.mark.parametrize("meanwhile", ["evaluated", "ended"])
def test_two_processes_that_follow_at_once_leave_what_one_does(
    node: Node, crm: Project, app: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    crm.sharing.share("vip", ["app"])
    lists(crm, tmp_path, "vip", ("ann", "bob"))
    before, other = Inputs.members, iter([True])

    def interrupted(inputs: Inputs, share: Share) -> object:
        found = before(inputs, share)
        if next(other, None):
            if meanwhile == "ended":
                node.share_segments(False)
                node.share_segments(True)
            else:
                evaluations.follow(app.scope)
        return found

    monkeypatch.setattr(Inputs, "members", interrupted)
    evaluations.follow(app.scope)
    evaluations.follow(app.scope)
    assert ids(app, "shared.crm.vip") == by_hand(("ann", "bob"), CRM, APP)
    found = app.sharing.segment("shared.crm.vip")["evaluations"]
    assert [each["size"] for each in found] == [2, 4]


def test_who_was_erased_while_an_evaluation_ran_is_not_in_it(
    crm: Project, app: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from node.erasure.erasure import People

    crm.sharing.share("vip", ["app"])
    lists(crm, tmp_path, "vip", ("ann", "bob"))
    before, other = Inputs.members, iter([True])

    def interrupted(inputs: Inputs, share: Share) -> object:
        found = before(inputs, share)
        if next(other, None):
            crm.erasure.profiles(People(ids=("bob",)))
            app.erasure.profiles(People(ids=("u1",)))
        return found

    monkeypatch.setattr(Inputs, "members", interrupted)
    evaluations.follow(app.scope)
    evaluations.follow(app.scope)
    assert ids(app, "shared.crm.vip") == set()


@pytest.mark.parametrize("where", ["set_members", "publish"])
def test_an_evaluation_that_is_cut_off_is_done_again(
    crm: Project, app: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    crm.sharing.share("vip", ["app"])
    app.segments.create("copied", rule="shared.crm.vip")
    lists(crm, tmp_path, "vip", ("ann",))

    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Draft, where, killed)
        with pytest.raises(Killed):
            evaluations.follow(app.scope)
    assert len(app.sharing.segment("shared.crm.vip")["evaluations"]) == 1
    evaluations.follow(app.scope)
    assert ids(app, "copied") == ids(app, "shared.crm.vip") == {"u1"}
    assert len(app.sharing.segment("shared.crm.vip")["evaluations"]) == 2


@pytest.mark.parametrize("end", ["unshared", "off", "label", "deleted", "read"])
def test_who_was_in_a_shared_segment_leaves_a_destination_when_it_ends(
    node: Node, crm: Project, app: Project, tmp_path: Path, end: str
) -> None:
    crm.sharing.share("vip", ["app"])
    app.consent.set_model("opt-out")
    app.segments.create("copied", rule="shared.crm.vip OR visits > 100")
    folder = tmp_path / "drop"
    folder.mkdir()
    app.destinations.create("drop", kind="file", settings={"folder": str(folder)})
    app.destinations.activate("drop", ["copied" if end == "read" else "shared.crm.vip"])
    assert app.destinations.show("drop")["segments"][0]["present"] == 4
    if end == "off":
        node.share_segments(False)
    elif end == "label":
        crm.labels.apply("C12", "segment", "vip")
    elif end == "deleted":
        crm.segments.delete("vip", anyway=True)
    else:
        crm.sharing.unshare("vip")
    app.destinations.sync("drop")
    assert app.destinations.show("drop")["segments"][0]["present"] == 0


def test_a_home_made_from_a_backup_shares_nothing_until_both_projects_are_resumed(
    node: Node, crm: Project, app: Project, tmp_path: Path
) -> None:
    crm.sharing.share("vip", ["app"])
    app.segments.create("copied", rule="shared.crm.vip")
    node.backup(tmp_path / "backup.tar")
    Node.restore(tmp_path / "backup.tar", tmp_path / "restored")
    with Node.open(tmp_path / "restored", now=node.home.now) as restored:
        projects = {each.name: each for each in restored.projects()}
        for name in ("crm", "app"):
            with pytest.raises(NotShared, match="on hold"):
                projects["app"].segments.members("shared.crm.vip")
            evaluations.follow(projects["app"].scope)
            assert not holding(projects["app"], "copied")
            projects[name].resume()
        evaluations.follow(projects["app"].scope)
        assert ids(projects["app"], "copied") == by_hand(VIP, CRM, APP)


def test_nobody_leaves_because_of_who_imports_evaluates_or_says_no(
    node: Node, crm: Project, app: Project, tmp_path: Path
) -> None:
    crm.sharing.share("vip", ["app"])
    app.consent.set_model("opt-out")
    app.segments.create("copied", rule="shared.crm.vip")
    folder = tmp_path / "drop"
    folder.mkdir()
    app.destinations.create("drop", kind="file", settings={"folder": str(folder)})
    app.destinations.activate("drop", ["copied", "shared.crm.vip"])
    with signed_in(node, crew(node)["ann"]) as anns:
        lou = anns.users.create("lou", ["data"], scope=app.scope)
        anns.users.grant("lou", "activator", scope=app.scope)
    with signed_in(node, lou) as opened:
        theirs = opened.project("app")
        load(theirs, tmp_path, {**APP, "u9": ("i1",)}, visits="7")
        theirs.segments.evaluate_all()
        theirs.consent.set("u4", "n")
        assert not theirs.destinations.all()
        assert not theirs.sharing.segments()
        assert not theirs.segments.all()
        with pytest.raises(NotFound):
            theirs.destinations.sync("drop")
    with node.home.guard.itself():
        app.destinations.sync("drop")
        assert ids(app, "copied") == {"u1", "u2", "u4", "u5", "u9"}
        assert [each["present"] for each in app.destinations.show("drop")["segments"]] == [4, 4]
