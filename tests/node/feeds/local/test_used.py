"""A shared segment is used as one of ours is, and nothing but who is in it crosses."""

from collections.abc import Callable
from pathlib import Path

import pytest
from company import APP, CRM, VIP, by_hand, ids, lists
from sides import EMAIL, Pair, Person

from node.feeds.sending import parts
from node.governance.violations import PolicyViolation
from node.imports.identity_columns import IdentityColumn
from node.node import Node
from node.project import Project
from node.segments import references

MEMBERS = sorted(by_hand(VIP, CRM, APP))


def export(project: Project, folder: Path, name: str, **options: object) -> list[str]:
    file = folder / "out.csv"
    project.files.export(name, file, force=True, **options)  # type: ignore[arg-type]
    return file.read_text().splitlines()


@pytest.mark.feature("XP4")
def test_an_export_has_our_people_who_are_in_both(crm: Project, app: Project, tmp_path: Path) -> None:
    crm.sharing.share("vip", ["app"])
    assert export(app, tmp_path, "shared.crm.vip") == ["id", *MEMBERS]
    lists(app, tmp_path, "few", ("u2", "u5", "u6"))
    assert export(app, tmp_path, "shared.crm.vip", within="few") == ["id", "u2", "u5"]
    assert export(app, tmp_path, "few", within="shared.crm.vip") == ["id", "u2", "u5"]
    lists(crm, tmp_path, "vip", ("bob",))  # an export brings it up to date
    assert export(app, tmp_path, "shared.crm.vip") == ["id", "u2"]
    crm.labels.apply("C5", "segment", "vip")
    app.policies.create("no", "email-targeting", "C5")
    with pytest.raises(PolicyViolation, match=r"C5 from shared\.crm\.vip"):
        export(app, tmp_path, "shared.crm.vip", uses=["email-targeting"])
    crm.sharing.unshare("vip")
    with pytest.raises(references.Gone, match=r"no shared segment crm\.vip"):
        export(app, tmp_path, "shared.crm.vip")


@pytest.mark.feature("XP3")
def test_nothing_but_who_is_in_it_crosses(node: Node, crm: Project, app: Project, tmp_path: Path) -> None:
    crm.sharing.share("vip", ["app"])
    app.segments.create("copied", rule="shared.crm.vip")
    rows = export(app, tmp_path, "copied", attributes=["first_name", "visits"])
    assert rows == ["id,first_name,visits", *(f"{each},,7" for each in MEMBERS)]
    own = [each.read_bytes() for each in (node.home.path / "data" / app.id).rglob("*") if each.is_file()]
    theirs = [each.read_bytes() for each in (node.home.path / "data" / crm.id).rglob("*") if each.is_file()]
    device = bytes.fromhex("00000000000040008000000000000005")  # eve's, who is in the crm alone
    for secret in (b"Secretvalue", b"ann", device):
        assert any(secret in each for each in theirs)
        assert not any(secret in each for each in own)


def test_labels_and_restricted_uses_go_with_it(crm: Project, app: Project, shop: Project, tmp_path: Path) -> None:
    crm.sharing.share("vip", ["app"], restricted_uses=["email-targeting"])
    app.segments.create("copied", rule="shared.crm.vip")
    app.sharing.share("copied", ["shop"])
    for project, name in ((app, "shared.crm.vip"), (app, "copied"), (shop, "shared.app.copied")):
        with pytest.raises(PolicyViolation, match="restricted uses"):
            export(project, tmp_path, name, uses=["email-targeting"])
        assert len(export(project, tmp_path, name, uses=["analytics"])) > 1
    crm.labels.apply("C5", "segment", "vip")
    for project, name in ((app, "shared.crm.vip"), (app, "copied"), (shop, "shared.app.copied")):
        assert list(project.labels.labels_of_segment(name)) == ["C5"]
    assert app.sharing.segment("shared.crm.vip")["labels"] == ["C5"]
    crm.labels.apply("C12", "segment", "vip")
    with pytest.raises(references.Gone, match="label C12"):
        export(app, tmp_path, "shared.crm.vip")
    with pytest.raises(references.Gone, match="label C12"):
        ids(shop, "shared.app.copied")
    crm.labels.remove("C12", "segment", "vip")
    assert export(app, tmp_path, "shared.crm.vip", uses=["analytics"]) == ["id", *MEMBERS]


def rule(app: Project, name: str) -> object:
    return app.segments.create("ruled", rule=f"{name} AND NOT own.none OR visits > 100").size


def condition(app: Project, name: str) -> object:
    return app.consent_policies.create("cond", "visits > 1", applies=name, action="analytics").uses[-1] == name


def narrowed(app: Project, name: str) -> object:
    return app.consent_policies.preview([name], "visits > 100")[0].segment_only


def checked(app: Project, name: str) -> object:
    return app.governance.check([name]) == []


def shared_with_partners(app: Project, name: str) -> object:
    with app.scope.read() as tx:  # as feeds look their segments up, when they are made and when they are edited
        return parts.segment_ref(app.scope, tx, name).name == name


def activated(app: Project, name: str) -> object:
    app.consent.set_model("opt-out")
    folder = app.scope.home.path.parent / "drop"
    folder.mkdir()
    app.destinations.create("drop", kind="file", settings={"folder": str(folder)})
    app.destinations.activate("drop", [name])
    return app.destinations.show("drop")["segments"][0]["present"]


def counted(app: Project, name: str) -> object:
    return len(app.segments.members(name))


WANTED = (True, len(MEMBERS))
PLACES: dict[str, Callable[[Project, str], object]] = {
    "a rule": rule,
    "a consent policy": condition,
    "the preview of a consent policy": narrowed,
    "a policy check": checked,
    "a feed": shared_with_partners,
    "a destination": activated,
    "members": counted,
}


@pytest.mark.feature("XP8")
@pytest.mark.parametrize("place", PLACES)
def test_a_shared_segment_can_be_picked_where_one_of_ours_can(
    crm: Project, app: Project, place: str, tmp_path: Path
) -> None:
    crm.sharing.share("vip", ["app"])
    lists(app, tmp_path, "none", ("u6",))
    assert [each.name for each in app.segments.pickable()] == ["none", "shared.crm.vip"]
    assert PLACES[place](app, "shared.crm.vip") in WANTED


@pytest.mark.feature("XP8")
def test_a_feed_of_a_shared_segment_is_estimated_and_released_and_ends_with_the_share(
    pair: Pair, person: type[Person]
) -> None:
    people = [person(f"a{n}", f"p{n}@x.com") for n in range(6)]
    pair.prepare(people, [person(f"g{n}", f"p{n}@x.com") for n in range(3, 9)], {})
    node, acme, globe = pair.acme.node, pair.acme.project, pair.globe.project
    crm = node.create_project("crm")
    file = pair.acme.folder / "crm.csv"
    file.write_text("id,mail\n" + "".join(f"c{n},p{n}@x.com\n" for n in range(2, 6)))
    crm.profiles.import_(
        file, dataset="crm", id_column="id", identities=[IdentityColumn.parse("mail=email_sha256:raw")]
    )
    lists(crm, pair.acme.folder, "vip", ("c2", "c3", "c4"))
    node.share_segments(True)
    crm.sharing.share("vip", ["default"], namespaces=["email_sha256"])
    acme.feeds.create("summer", segments=["shared.crm.vip"], namespaces=[EMAIL], partners=["globe"])
    (estimate,) = acme.feeds.estimate("summer")
    assert estimate["overlap"] == 2
    acme.feeds.publish("summer")
    pair.post()
    globe.received.enable("summer")
    pair.post()
    acme.feeds.sync("summer")
    assert len(globe.memberships.members("acme", "shared.crm.vip")) == 2
    assert crm.sharing.sharing("vip")["projects"] == [{"project": "default", "shared": True, "used": True}]
    crm.sharing.unshare("vip")
    acme.feeds.sync("summer")
    assert len(globe.memberships.members("acme", "shared.crm.vip")) == 0
