"""The table of acts, and decisions about roles."""

import ast
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from node import wiring
from node.access import permissions
from node.access.permissions import READY_MADE, Grant, Permission, Role

ROOT = Path(__file__).parents[3]


def acts(tree: ast.Module) -> Iterator[str]:
    """Yield each act of a module, "letter." for f"letter.{kind}"; one in a variable is looked for where it is set."""
    constants = {name: value for each in tree.body if isinstance(each, ast.Assign) for name, value in assigned(each)}
    for function in (each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef)):
        names = [each.arg for each in function.args.args if each.arg != "self"]
        for call in calls(function, {"act", "_act", "require", "refusals", "record"}):
            for given in call.args[:2]:
                name = given.id if isinstance(given, ast.Name) else ""
                yield from spelled(constants.get(name, given))
                if name in names:
                    place = names.index(name)
                    for caller in calls(tree, {function.name}):
                        yield from (act for each in caller.args[place : place + 1] for act in spelled(each))


def assigned(each: ast.Assign) -> Iterator[tuple[str, ast.expr]]:
    """Yield names with their values, also of PRUNE, RESTORE = "audit.prune", "node.restore"."""
    names = getattr(each.targets[0], "elts", each.targets)
    values = getattr(each.value, "elts", [each.value])
    yield from ((name.id, value) for name, value in zip(names, values, strict=False) if isinstance(name, ast.Name))


def calls(tree: ast.AST, names: set[str]) -> Iterator[ast.Call]:
    for each in ast.walk(tree):
        if isinstance(each, ast.Call):
            name = each.func.attr if isinstance(each.func, ast.Attribute) else getattr(each.func, "id", "")
            if name in names:
                yield each


def spelled(given: ast.expr) -> Iterator[str]:
    match given:
        case ast.Constant(value=str(text)) if re.fullmatch(r"[a-z-]+\.[a-z_-]+", text):
            yield text
        case ast.JoinedStr(values=[ast.Constant(value=str(text)), *_]) if re.fullmatch(r"[a-z]+\.", text):
            yield text


def test_every_act_of_the_source_has_a_row() -> None:
    found = {act for path in (ROOT / "node").rglob("*.py") for act in acts(ast.parse(path.read_text()))}
    assert {"feed.publish", "feed.disable", "policy.enable", "partner.called", "user.grant", "letter."} <= found
    assert found - permissions.ACTS.keys() - set(permissions.OWN_WORK) == set()


def test_every_kind_of_job_has_a_row() -> None:
    kinds = wiring.JOBS.keys()
    assert {"estimate", "release"} <= kinds <= permissions.JOBS.keys()
    assert set(permissions.JOBS.values()) <= permissions.ACTS.keys()


def granted(*permissions: Permission, labels: list[str] | None = None, project: str | None = None) -> Grant:
    limit = None if labels is None else frozenset(labels)
    return Grant(role=Role(name="r", permissions=frozenset(permissions), labels=limit), project_id=project)


def test_a_role_in_one_project_gives_nothing_in_another_nor_for_the_node() -> None:
    there = [granted(Permission.VIEW, Permission.MANAGE_SHARES, project="p")]
    assert permissions.permits(there, Permission.MANAGE_SHARES, "p")
    assert not permissions.permits(there, Permission.MANAGE_CONNECTIONS, "p")
    assert not permissions.permits(there, Permission.MANAGE_SHARES, "q")
    assert not permissions.permits(there, Permission.MANAGE_SHARES, None)
    assert permissions.reaches(there, "p")
    assert not permissions.reaches(there, "q")
    everywhere = [granted(Permission.MANAGE_SHARES)]
    assert all(permissions.permits(everywhere, Permission.MANAGE_SHARES, each) for each in ("p", "q", None))


@pytest.mark.feature("GV10")
def test_every_label_has_to_be_cleared_by_a_role_with_view() -> None:
    view = Permission.VIEW
    assert permissions.cleared([granted(view)], "p") is None
    assert permissions.cleared([granted(view, labels=["C1"]), granted(view, labels=["S1"])], "p") == frozenset(
        {"C1", "S1"}
    )
    assert permissions.cleared([granted(view, labels=["C1"]), granted(view)], "p") is None
    assert permissions.cleared([granted(view, labels=["C1"]), granted(Permission.EXPORT)], "p") == frozenset({"C1"})
    assert permissions.cleared([granted(view, labels=["C1"]), granted(view, project="q")], "p") == frozenset({"C1"})
    assert permissions.clears(None, ["C1"])
    assert permissions.clears(frozenset({"C1"}), [])
    assert permissions.clears(frozenset({"C1", "S1"}), ["C1"])
    assert not permissions.clears(frozenset({"C1"}), ["C1", "S1"])


@pytest.mark.feature("AM7")
def test_data_sources_of_roles_add_up_and_none_listed_is_a_wildcard() -> None:
    view, manage = Permission.VIEW, Permission.MANAGE_AUDIENCE

    def of(*sources: int, project: str | None = None) -> Grant:
        role = Role(name="r", permissions=frozenset({view, manage}), sources=frozenset(sources))
        return Grant(role=role, project_id=project)

    known = partial(permissions.sources, permission=Permission.VIEW_SEGMENTS, project_id="p")
    assert known([of(1), of(2, project="p"), of(3, project="q")]) == frozenset({1, 2})
    assert known([of(1), granted(view)]) is None
    assert permissions.sources([of(1), granted(view)], manage, "p") == frozenset({1})  # the wildcard is to view alone
    assert known([granted(Permission.EXPORT)]) == frozenset()
    wider, same = of(1, 2).role, of(1).role
    assert permissions.exceeds([of(1)], wider, "p") == "manage-audience of other data sources"
    assert permissions.exceeds([of(1)], same, "p") is None
    assert permissions.exceeds([of(1)], granted(view).role, "p") == "view-segments of other data sources"
    assert permissions.exceeds([granted(view, manage)], wider, "p") is None
    assert not permissions.permits([of(1), granted(Permission.AUDIT)], Permission.AUDIT, "p")


def test_the_ready_made_roles_each_do_one_thing() -> None:
    assert READY_MADE["administrator"].permissions == set(Permission)
    for name, permission in (
        ("connections", "manage-connections"),
        ("shares", "manage-shares"),
        ("data", "manage-data"),
    ):
        assert READY_MADE[name].permissions == {"view", permission}
