"""A user of one project runs every command, and learns no name, count or member of the others of the company."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from callers import crew, signed_in
from company import idfv, lists
from crawling import ABSENT, COMMANDS, HIDDEN, Crawler, Try
from sides import Pair

from node.access.permissions import Permission
from node.errors import InvalidInput, NotAllowed, NotFound
from node.imports.identity_columns import IdentityColumn
from node.node import Node
from node.operations.alerts import AlertKind, Alerts
from node.project import Project

BOTH, THERE = 137, 143  # members of the hidden project's segment, of ours and of theirs
TELLTALE = re.compile(
    rf"\S*{HIDDEN}(?:app|shop|other|vip|used|name)\S*|(?<![\w.:/-])(?:{BOTH}|{THERE})(?![\w:/-]|\.\d)"
)
NAMED = [  # what would be another project's, in each place that takes a segment or a project
    "segment show shared.zebapp.zebvip",
    "segment export shared.zebapp.zebvip out.csv",
    "segment export open out.csv --within shared.zebapp.zebvip",
    "segment evaluate shared.zebapp.zebvip",
    "segment create new --rule shared.zebapp.zebvip",
    "segment share shared.zebapp.zebvip --with zebshop",
    "segment share open --with zebshop",
    "segment unshare vip --with zebshop --yes",
    "segment sharing shared.zebapp.zebvip",
    "consent policy create new --then shared.zebapp.zebvip --action analytics",
    "consent policy preview shared.zebapp.zebvip --then first_name='x'",
    "policy check shared.zebapp.zebvip",
    "label apply C5 --segment shared.zebapp.zebvip",
    "project show zebapp",
]
SHOWN = [  # what reads all that there is of something
    *("segment list", "segment list --shared", "segment sharing vip", "segment show vip", "profile show p0"),
    *("alert list --all", "audit list", "audit export", "job list", "project list", "node status", "policy list"),
    *("consent policy list", "feed list", "doctor", "profile count", "segment evaluate"),
    *("segment delete vip", "segment delete vip --yes", "segment update vip --members people.csv"),
]


def people(project: Project, folder: Path, numbers: list[int]) -> None:
    file = folder / "hidden.csv"
    file.write_text("id,device,first_name\n" + "".join(f"p{n},{idfv(str(n))},zebname\n" for n in numbers))
    columns = [IdentityColumn.parse("device=idfv:raw")]
    attributes = ["first_name"] if project.name.startswith(HIDDEN) else []
    project.profiles.import_(file, dataset="people", id_column="id", identities=columns, attributes=attributes)


@pytest.fixture
def crawler(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Crawler:
    crm, app = node.project(), node.create_project("zebapp")
    shop, other = node.create_project("zebshop"), node.create_project("zebother")
    people(crm, tmp_path, [*range(300)])
    members = [*range(BOTH), *range(1_000, 1_000 + THERE - BOTH)]
    people(app, tmp_path, members)
    lists(crm, tmp_path, "open", ("p1", "p2"))
    lists(crm, tmp_path, "vip", ("p1", "p2", "p3"))
    lists(app, tmp_path, "zebvip", tuple(f"p{n}" for n in members))
    node.share_segments(True)
    crm.sharing.share("vip", ["zebapp", "zebshop"])
    app.sharing.share("zebvip", ["default"])
    app.segments.create("zebused", rule="shared.default.vip")
    crm.segments.create("copied", rule="shared.zebapp.zebvip")
    crm.segments.update("copied", rule="shared.zebapp.zebvip AND NOT own.open")
    crm.segments.update("copied", rule="shared.zebapp.zebvip")
    crm.consent_policies.create("narrow", "shared.zebapp.zebvip", action="analytics")
    for segment in ("copied", "shared.zebapp.zebvip"):
        crm.files.export(segment, tmp_path / f"{segment}.csv")
    with crm.scope.begin() as tx:
        Alerts(crm.scope).add(tx, AlertKind.RUN_FAILED, "feed x does not run: shared.zebapp.zebvip is gone")
    with pytest.raises(NotAllowed, match="only its own segments"):
        crm.sharing.share("shared.zebapp.zebvip", ["zebother"])
    assert len(crm.segments.members("copied")) == BOTH
    assert (shop.name, other.name) == ("zebshop", "zebother")
    ann = crew(node)["ann"]
    with signed_in(node, ann) as anns:
        anns.roles.create("all", [each for each in Permission if each is not Permission.ADMINISTER])
        lou = anns.users.create("lou", ["all"], scope=crm.scope)
    return Crawler(cast(Pair, SimpleNamespace(acme=SimpleNamespace(node=node))), lou, tmp_path / "crawl", monkeypatch)


def found_in(text: str, typed: str) -> list[str]:
    """Return what of the hidden is in a text, but for what was typed."""
    words = set(re.findall(rf"[\w.-]*{HIDDEN}[\w.-]*", typed + typed.replace("shared.", " ")))
    for word in sorted(words, key=len, reverse=True):
        text = text.replace(word, "TYPED")
    return TELLTALE.findall(text)


@pytest.mark.feature("XP1")
def test_no_command_tells_of_projects_that_the_user_does_not_reach(
    crawler: Crawler, capsys: pytest.CaptureFixture[str]
) -> None:
    found: list[Any] = []
    for line in [*NAMED, *SHOWN]:
        for form in ("", " --json"):
            said = crawler.run(capsys, *(line + form).split(), copy="--yes" in line)
            found += [(line, leak) for leak in found_in(said, line)]
            if line in NAMED:
                other = crawler.run(capsys, *(line + form).replace(HIDDEN, ABSENT).split(), copy="--yes" in line)
                if said.replace(HIDDEN, ABSENT) != other:
                    found.append((line, said, other))
    tries = [(name, each) for name, tries in COMMANDS.items() if not isinstance(tries, str) for each in tries]
    for name, each in tries:
        words = each.filled() if isinstance(each, Try) else []
        said = crawler.run(capsys, *name.split(), *words, "--json", copy=False)
        found += [(name, leak) for leak in found_in(said, " ".join(words))]
    assert not found, found


@pytest.mark.feature("XP1")
def test_a_user_of_one_project_is_told_how_many_others_there_are(
    crawler: Crawler, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "2 other projects" in crawler.run(capsys, "segment", "sharing", "vip")
    said = crawler.run(capsys, "segment", "delete", "vip", copy=False)
    assert "1 project uses it: 1 other project." in said


@pytest.mark.feature("XP1")
def test_projects_whose_names_begin_alike_are_told_apart(node: Node, tmp_path: Path) -> None:
    app, near, far = node.create_project("app"), node.create_project("zeb"), node.create_project("zeb.eu")
    for project in (app, near, far):
        people(project, tmp_path, [1, 2])
        lists(project, tmp_path, "vip", ("p1",))
    lists(near, tmp_path, "eu.vip", ("p1",))
    node.share_segments(True)
    with pytest.raises(InvalidInput, match="has a dot") as caught:
        near.sharing.share("eu.vip", ["app"])
    assert caught.value.remedy is not None
    near.sharing.share("vip", ["app"])
    far.sharing.share("vip", ["app"])
    app.segments.create("copied", rule="shared.zeb.eu.vip")
    with app.scope.begin() as tx:
        Alerts(app.scope).add(tx, AlertKind.RUN_FAILED, "feed x does not run: nobody is in shared.zeb.vip.")
        Alerts(app.scope).add(tx, AlertKind.RUN_FAILED, "feed y does not run: nobody is in shared.zeb.eu.vip.")
    with signed_in(node, crew(node)["ann"]) as anns:
        lou = anns.users.create("lou", ["viewer"], scope=app.scope)
        anns.users.grant("lou", "viewer", scope=near.scope)
    with signed_in(node, lou) as opened:
        seen = opened.project("app")
        assert [each["name"] for each in seen.sharing.segments()] == ["shared.zeb.vip"]
        assert [each.name for each in seen.segments.pickable()] == ["vip", "shared.zeb.vip"]
        assert not any("zeb.eu" in each.text for each in seen.alerts.all())
        assert any("zeb.vip." in each.text for each in seen.alerts.all())
        with pytest.raises(NotFound):
            seen.sharing.segment("shared.zeb.eu.vip")


@pytest.mark.feature("XP1")
def test_the_path_of_a_circle_names_nothing_that_labels_hide(node: Node, tmp_path: Path) -> None:
    crm, app = node.project(), node.create_project("app")
    for project in (crm, app):
        people(project, tmp_path, [1, 2])
        lists(project, tmp_path, "vip", ("p1",))
    node.share_segments(True)
    crm.segments.create("base", rule="own.vip")
    crm.segments.create("zebused", rule="own.base")
    crm.labels.apply("C4", "segment", "zebused")
    crm.sharing.share("zebused", ["app"])
    app.segments.create("plain", rule="own.vip")
    app.sharing.share("plain", ["default"])
    with signed_in(node, crew(node)["ann"]) as anns:
        anns.roles.create("few", [Permission.VIEW, Permission.MANAGE_DATA], labels=[])
        lou = anns.users.create("lou", ["few"], scope=app.scope)
        anns.users.grant("lou", "few", scope=crm.scope)
    with signed_in(node, lou) as opened, pytest.raises(NotAllowed, match="made of itself") as caught:
        opened.project().segments.update("base", rule="shared.app.plain", anyway=True)
    assert "zeb" not in str(caught.value)


@pytest.mark.feature("XP1")
@pytest.mark.parametrize("end", ["off", "label", "unshared", "on hold"])
def test_no_command_tells_of_what_is_not_shared_any_more(
    node: Node, crawler: Crawler, capsys: pytest.CaptureFixture[str], end: str
) -> None:
    with node.home.guard.itself():
        app = node.project("zebapp")
        if end == "off":
            node.share_segments(False)
        elif end == "label":
            app.labels.apply("C12", "segment", "zebvip")
        elif end == "unshared":
            app.sharing.unshare("zebvip")
        else:
            with app.scope.begin() as tx:
                app.scope.change(tx, restored=1)
    lines = [*NAMED, *SHOWN, "profile import people.csv --dataset people --id id", "consent set p1 y"]
    found = [(line, leak) for line in lines for leak in found_in(crawler.run(capsys, *line.split()), line)]
    assert not found, found
