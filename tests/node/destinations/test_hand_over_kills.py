"""The older sharing is handed over in a process that is killed at any place: nobody is ever missing or sent twice."""

import shutil
from pathlib import Path

import mortals
import pytest
import targets
from clock import Clock

from node.audiencemanager import builtin, sources, traits, visitors
from node.errors import NotAllowed
from node.imports.identity_columns import IdentityColumn
from node.node import Node
from node.project import Project

NOW = 1_800_000_000
PLACES = 400  # more than the act passes
STEP = 7  # places between two tries


def hand_over(project: Project) -> None:
    """Hand over, or go on where that was done."""
    try:
        project.destinations.older_sharing.hand_over("cloud", ["a"])
    except NotAllowed:
        project.destinations.sync("cloud")


def members(project: Project, segment: str) -> dict[str, set[str]]:
    """Return by data source who has the trait of a segment."""
    scope, found = project.scope, {}
    side, code = visitors.opened(scope), project.segments.show(segment).id
    with scope.read() as tx:
        named = {each.number: each.name for each in sources.stored(scope, tx)}
        for each in traits.stored(scope, tx):
            if each.integration_code == code:
                _, values = side.ids(side.members(each.number, each.days), builtin.DEVICES)
                found[named[each.source]] = {value.decode() for value in visitors.split(values)}
    return found


@pytest.mark.feature("EC17")
def test_a_hand_over_that_is_killed(tmp_path: Path) -> None:
    mortals.warm()
    with Node.create(tmp_path / "home", "Fern", now=Clock(NOW)) as node:
        project = node.project()
        (tmp_path / "crm.csv").write_text("id,e\n" + "".join(f"p{n},{n:038d}\n" for n in range(1, 5)))
        identities = [IdentityColumn.parse("e=ecid")]
        project.profiles.import_(tmp_path / "crm.csv", dataset="crm", id_column="id", identities=identities)
        project.consent.set_model("opt-out")
        for name in ("a", "b"):
            (tmp_path / f"{name}.csv").write_text("id\np1\np2\np3\n")
            project.segments.create(name, members_file=tmp_path / f"{name}.csv")
        project.destinations.older_sharing.on({})
    chosen = {f"{n:038d}" for n in (1, 2, 3)}
    for place in range(1, PLACES, STEP):
        home = tmp_path / "copy"
        shutil.copytree(tmp_path / "home", home)
        process = mortals.FORKS.Process(target=targets.die, args=(home, hand_over, place, NOW))
        process.start()
        process.join()
        assert process.exitcode in (0, mortals.KILLED)
        with Node.open(home, now=Clock(NOW + 60)) as node:
            project = node.project()
            assert list(members(project, "a").values()) == [chosen]
            hand_over(project)
            assert members(project, "a") == {builtin.SEGMENTS_SOURCE: chosen}
            assert members(project, "b") == {builtin.SHARING_SOURCE: set()}
            assert [each["name"] for each in project.destinations.all()] == ["cloud"]
            shown = project.destinations.show("cloud")
            assert (shown["gets"], shown["present"], shown["waiting"], shown["failed"]) == (["a"], 3, 0, 0)
            counted = [each for each in project.destinations.runs("cloud", "a") if each["hour"] >= NOW + 60]
            assert sum(each["received"] for each in counted) == 0
        shutil.rmtree(home)
        if process.exitcode == 0:
            return
    raise AssertionError("it never ends by itself")
