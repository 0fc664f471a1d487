"""Who may connect a destination and activate segments to it: sets of permissions, every missing one of which is named."""

from collections.abc import Callable
from functools import partial
from itertools import chain, combinations
from pathlib import Path

import pytest
from callers import crew, signed_in
from targets import folder_out, people, prepared

from node.access.permissions import Permission, PermissionDenied
from node.errors import NotFound
from node.node import Node

NEEDED = {
    "manage-destinations",
    "activate-destinations",
    "view-profiles",
    "view-segments",
    "view-destinations",
}


@pytest.mark.feature("EC15")
def test_activating_needs_five_permissions_and_names_each_that_is_missing(node: Node, tmp_path: Path) -> None:
    project = prepared(node.project(), tmp_path, 4, s="orders >= 2")
    folder = folder_out(project, tmp_path)
    sets = [set(each) for each in chain.from_iterable(combinations(sorted(NEEDED), n) for n in range(len(NEEDED) + 1))]
    with signed_in(node, crew(node)["ann"]) as anns:
        project, tokens = anns.project(), []
        for number, given in enumerate(sets):
            anns.roles.create(f"r{number}", [*given, "export"])
            tokens.append(anns.users.create(f"u{number}", [f"r{number}"]))
        assert len(sets) == 32
        for number, given in enumerate(sets):
            anns.sign_in(tokens[number].text)
            other = {"folder": str(tmp_path / "out")}
            if "manage-destinations" in given:
                made = project.destinations.create(f"d{number}", "file", other, uses=["analytics"])
                assert made.destination["name"] == f"d{number}"
            else:
                with pytest.raises(PermissionDenied) as refused:
                    project.destinations.create(f"d{number}", "file", other)
                assert refused.value.missing == (Permission.MANAGE_DESTINATIONS,)
            if given == NEEDED:
                assert project.destinations.activate("out", ["s"])["sent"] == 1
                assert folder.look() == {"p2", "p3"}
                continue
            with pytest.raises(PermissionDenied) as refused:
                project.destinations.activate("out", ["s"])
            assert set(refused.value.missing) == NEEDED - given
            assert all(each in str(refused.value) for each in NEEDED - given)


def test_each_view_shows_its_own_and_all_three_are_view(node: Node, tmp_path: Path) -> None:
    people(node.project(), tmp_path, 1)
    with signed_in(node, crew(node)["ann"]) as anns:
        views = ("view-profiles", "view-segments", "view-destinations")
        for name, given in {**{each: [each] for each in views}, "parts": views, "whole": ["view"]}.items():
            anns.roles.create(name if name != "whole" else "all", given)
        tokens = {each: anns.users.create(each, [each]) for each in (*views, "parts", "all")}
        tokens["two"] = anns.users.create("two", ["view-profiles", "view-segments"])
    for name, token in tokens.items():
        with signed_in(node, token) as theirs:
            project = theirs.project()
            reads: list[Callable[[], object]] = [
                partial(project.profiles.show, "p0"),
                project.segments.all,
                project.destinations.all,
            ]
            seen = {view for view, read in zip(views, reads, strict=True) if not refuses(read)}
            expected = {"parts": set(views), "all": set(views), "two": set(views[:2])}
            assert seen == expected.get(name, {name})
            assert refuses(project.labels.all) == (len(seen) < 3)  # all else that is read


def test_who_may_only_connect_opens_the_project_and_sees_nothing_of_it(node: Node, tmp_path: Path) -> None:
    people(node.project(), tmp_path, 1)
    (tmp_path / "out").mkdir()
    with signed_in(node, crew(node)["ann"]) as anns:
        anns.roles.create("connect", ["manage-destinations"])
        token = anns.users.create("cy", ["connect"])
    with signed_in(node, token) as cys:
        project = cys.project()
        settings = {"folder": str(tmp_path / "out")}
        made = project.destinations.create("out", "file", settings, uses=["analytics"]).destination
        assert (made["name"], made["present"]) == ("out", None)
        assert project.destinations.check("out")["arrived"]
        for read in (project.destinations.all, project.segments.all, project.labels.all):
            assert refuses(read)
        assert cys.projects() == []


def refuses(read: Callable[[], object]) -> bool:
    try:
        read()
    except PermissionDenied:
        return True
    return False


def test_labels_limit_each_view_by_the_roles_that_give_it(node: Node, tmp_path: Path) -> None:
    project = node.project()
    people(project, tmp_path, 1)
    project.segments.create("s", rule="orders >= 0")
    from node.governance.lineage import PlaceKind

    project.labels.apply("C3", PlaceKind.SEGMENT, "s")
    with signed_in(node, crew(node)["ann"]) as anns:
        anns.roles.create("few", ["view-segments"], labels=["C1"])
        anns.roles.create("wide", ["view-destinations"])
        both = anns.users.create("bo", ["few", "wide"])
    with signed_in(node, both) as bos:  # a role that shows destinations clears no label of segments
        assert bos.project().segments.all() == []
        with pytest.raises(NotFound):
            bos.project().segments.show("s")
