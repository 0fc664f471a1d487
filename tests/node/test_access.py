"""Users, roles and tokens: what each may do and see, and that no act is left without a decision."""

import ast
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from node.access import permissions
from node.access.guard import ITSELF
from node.access.permissions import READY_MADE, Grant, Permission, PermissionDenied, Role
from node.access.users import Token
from node.errors import AlreadyExists, InvalidInput, InvalidToken, NotFound, Refused, TokenNeeded, WrongPassphrase
from node.feeds import versions
from node.feeds.receiving import offers
from node.governance.labels import Kind
from node.imports.importer import IdentityColumn
from node.node import Node
from node.operations import jobs
from node.project import Project
from node.reports.consent_model import preview
from node.reports.reconciliation import reconcile
from node.storage import tables
from psi.errors import VesicaError

ROOT = Path(__file__).parents[2]
EMAIL = "email_sha256/lc-v1"


@contextmanager
def signed_in(node: Node, token: Token | str | None) -> Iterator[Node]:
    """Open a home once more, as a command does, for the user whose token it is."""
    with Node.open(node.home, now=node.now) as opened:
        opened.sign_in(token.text if isinstance(token, Token) else token)
        yield opened


def crew(node: Node, **roles: str) -> dict[str, Token]:
    """Make ann, administrator of the node, and a user of each other name with one role; return their tokens."""
    tokens = {"ann": node.users.create("ann", ["administrator"])}
    with signed_in(node, tokens["ann"]) as anns:
        return tokens | {name: anns.users.create(name, [role]) for name, role in roles.items()}


def denied(node: Node, act: str) -> list[tuple[str, str]]:
    """Return who was refused an act, newest first, and with what code."""
    with node.guard.itself():
        return [(entry.actor, entry.detail["error"]["code"]) for entry in node.audit.list(act=act, result="deny")]


def told(error: type[VesicaError], act: Any, name: str, *more: Any, **options: Any) -> tuple[str, str]:
    """Return what a refusal says and proposes, with a place for the name that was asked for."""
    with pytest.raises(error) as caught:
        act(name, *more, **options)
    text, hint = str(caught.value), caught.value.hint
    return tuple(re.sub(rf"\b{re.escape(name)}\b", "NAME", each) for each in (text, hint))


# The table of acts


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


def test_every_act_of_the_source_has_a_row():
    found = {act for path in (ROOT / "node").rglob("*.py") for act in acts(ast.parse(path.read_text()))}
    assert {"feed.publish", "feed.disable", "policy.enable", "partner.called", "user.grant", "letter."} <= found
    assert found - permissions.ACTS.keys() - set(permissions.OWN_WORK) == set()


def test_every_kind_of_job_has_a_row():
    from node.exchanges.exchanges import register

    register()
    kinds = {kind for kind, handler in jobs.HANDLERS.items() if handler.__module__.startswith("node.")}
    assert {"estimate", "release"} <= kinds <= permissions.JOBS.keys()
    assert set(permissions.JOBS.values()) <= permissions.ACTS.keys()


def test_what_has_no_row_needs_an_administrator(node):
    bob = crew(node, bob="shares")["bob"]
    with signed_in(node, bob) as bobs, pytest.raises(PermissionDenied), bobs.act("feed.burn", "x"):
        raise AssertionError
    assert denied(node, "feed.burn") == [("bob", "permission_denied")]


# Decisions


def granted(*permissions: Permission, labels: list[str] | None = None, project: str | None = None) -> Grant:
    limit = None if labels is None else frozenset(labels)
    return Grant(role=Role(name="r", permissions=frozenset(permissions), labels=limit), project_id=project)


def test_a_role_in_one_project_gives_nothing_in_another_nor_for_the_node():
    there = [granted(Permission.VIEW, Permission.MANAGE_SHARES, project="p")]
    assert permissions.holds(there, Permission.MANAGE_SHARES, "p")
    assert not permissions.holds(there, Permission.MANAGE_CONNECTIONS, "p")
    assert not permissions.holds(there, Permission.MANAGE_SHARES, "q")
    assert not permissions.holds(there, Permission.MANAGE_SHARES, None)
    assert permissions.reaches(there, "p")
    assert not permissions.reaches(there, "q")
    everywhere = [granted(Permission.MANAGE_SHARES)]
    assert all(permissions.holds(everywhere, Permission.MANAGE_SHARES, each) for each in ("p", "q", None))


@pytest.mark.feature("GV10")
def test_every_label_has_to_be_cleared_by_a_role_with_view():
    view = Permission.VIEW
    assert permissions.cleared([granted(view)], "p") is None
    assert permissions.cleared([granted(view, labels=["C1"]), granted(view, labels=["S1"])], "p") == {"C1", "S1"}
    assert permissions.cleared([granted(view, labels=["C1"]), granted(view)], "p") is None
    assert permissions.cleared([granted(view, labels=["C1"]), granted(Permission.EXPORT)], "p") == {"C1"}
    assert permissions.cleared([granted(view, labels=["C1"]), granted(view, project="q")], "p") == {"C1"}
    assert permissions.clears(None, ["C1"])
    assert permissions.clears(frozenset({"C1"}), [])
    assert permissions.clears(frozenset({"C1", "S1"}), ["C1"])
    assert not permissions.clears(frozenset({"C1"}), ["C1", "S1"])


def test_the_ready_made_roles_each_do_one_thing():
    assert READY_MADE["administrator"].permissions == set(Permission)
    for name, permission in (
        ("connections", "manage-connections"),
        ("shares", "manage-shares"),
        ("data", "manage-data"),
    ):
        assert READY_MADE[name].permissions == {"view", permission}


# Two share permissions


@pytest.mark.feature("OP1")
def test_connections_and_shares_are_two_permissions(pair: Any, person: Any) -> None:
    acme, globe = pair.acme, pair.globe
    tokens = crew(acme.node, cora="connections", sam="shares")
    acme.node.guard.signed_in = globe.node.guard.signed_in = ITSELF  # they serve
    people = [person(str(each), f"p{each}@x.com") for each in range(5)]
    pair.terms(minimum_universe=1, minimum_segment=1, minimum_overlap=1, epsilon="none")
    for side in (acme, globe):
        side.project.consent.set_model("opt-out")
        side.people(people)
    acme.segment("vip", ["1", "2", "3"])
    with signed_in(acme.node, tokens["cora"]) as coras, signed_in(acme.node, tokens["sam"]) as sams:
        cora, sam = coras.project(), sams.project()
        with pytest.raises(PermissionDenied) as refused:
            sam.partners.connect_id()
        assert refused.value.permission == "manage-connections"
        found = globe.project.partners.look_up(cora.partners.connect_id().encode())
        globe.project.partners.request(found, alias="acme")
        with pytest.raises(PermissionDenied) as refused:
            sam.partners.accept("globe")
        assert (refused.value.permission, refused.value.code) == ("manage-connections", "permission_denied")
        assert refused.value.hint.endswith("vesica user grant sam connections --project default")
        assert acme.project.partners.get("globe").status == "requested"
        cora.partners.accept("globe")
        with pytest.raises(PermissionDenied):
            sam.partners.connect_id()  # there is one now: to read it is to hand it out

        feed = {"segments": ["vip"], "namespaces": [EMAIL], "partners": ["globe"]}
        with pytest.raises(PermissionDenied):
            cora.feeds.create("summer", **feed)
        sam.feeds.create("summer", **feed)
        for refused_act in (cora.feeds.publish, cora.feeds.estimate, cora.feeds.sync, cora.feeds.revoke):
            with pytest.raises(PermissionDenied) as refused:
                refused_act("summer")
            assert refused.value.permission == "manage-shares"
        assert acme.project.feeds.show("summer")["status"] == "draft"
        sam.feeds.publish("summer")
        assert acme.project.feeds.show("summer")["status"] == "published"
        with pytest.raises(PermissionDenied):
            sam.partners.disconnect("globe")
    assert denied(acme.node, "partner.accept") == [("sam", "permission_denied")]
    assert denied(acme.node, "feed.publish") == [("cora", "permission_denied")]
    assert acme.acts("feed.publish")[0]["actor"] == "sam"


@pytest.mark.feature("OP1")
def test_a_release_runs_in_the_name_of_who_asked_for_it(pair: Any, person: Any) -> None:
    people = [person(str(each), f"p{each}@x.com") for each in range(5)]
    pair.prepare(people, people, {"vip": ["1", "2", "3"]})
    pair.share("summer", ["vip"], [EMAIL])
    tokens = crew(pair.acme.node, sam="shares", vera="viewer")
    pair.acme.node.guard.signed_in = ITSELF
    with signed_in(pair.acme.node, tokens["vera"]) as veras, pytest.raises(PermissionDenied):
        veras.project().feeds.sync("summer")
    assert pair.acme.node.jobs.list(state="queued") == []
    with signed_in(pair.acme.node, tokens["sam"]) as sams:
        assert [run["status"] for run in sams.project().feeds.sync("summer")] == ["done"]
    assert pair.globe.members("acme", "vip") == {"1", "2", "3"}
    assert pair.acme.node.jobs.list()[0].submitted_by == "sam"
    assert pair.acme.acts("feed.run")[0]["actor"] == "sam"


def test_a_job_asks_for_the_permission_when_it_is_submitted_and_not_when_it_runs(either_node, monkeypatch):
    done = []

    def release(project: Project, parameters: dict[str, Any], _progress: Any) -> None:
        with project.act("feed.run", "summer"):
            done.append(parameters)

    monkeypatch.setitem(jobs.HANDLERS, "release", release)
    tokens = crew(either_node, sam="shares", vera="viewer")
    with signed_in(either_node, tokens["vera"]) as veras, pytest.raises(PermissionDenied):
        veras.jobs.submit("release", {}, veras.project())
    with signed_in(either_node, tokens["sam"]) as sams:
        job_id = sams.jobs.submit("release", {"feed": "f"}, sams.project())
    with signed_in(either_node, tokens["ann"]) as anns:
        anns.users.remove("sam")
    either_node.guard.signed_in = ITSELF
    job = either_node.jobs.claim_next()
    assert (job.id, job.submitted_by) == (job_id, "sam")
    either_node.jobs.execute(job)
    assert done == [{"feed": "f"}]
    assert either_node.jobs.show(job_id).state == "done"
    assert [entry.actor for entry in either_node.audit.list(act="feed.run")] == ["sam"]


# Tokens


@pytest.mark.feature("OP1")
def test_without_users_the_operator_may_do_everything_and_with_users_nobody_without_a_token(either_node, clock):
    project = either_node.project()
    project.consent.set_model("opt-in")
    tokens = crew(either_node)
    for refused in (
        either_node.projects,
        either_node.project,
        either_node.status,
        either_node.audit.list,
        either_node.audit.verify,
        either_node.users.list,
        either_node.roles.list,
        either_node.jobs.list,
        lambda: project.consent.set_model("opt-out"),
        lambda: either_node.create_project("other"),
        lambda: either_node.users.create("eve", ["administrator"]),
        lambda: either_node.users.token("ann"),
        lambda: either_node.sign_in(None),
        lambda: either_node.sign_in(""),
    ):
        with pytest.raises(TokenNeeded, match="has users"):
            refused()
    for wrong in ("vesica-token-" + "a" * 52, tokens["ann"].text[:-1], tokens["ann"].text.upper()):
        with pytest.raises(InvalidToken):
            either_node.sign_in(wrong)
    assert denied(either_node, "user.sign-in")[0][1] == "invalid_token"
    either_node.sign_in(tokens["ann"].text)
    assert project.consent_model == "opt-in"
    assert either_node.users.show().name == "ann"


def test_a_token_is_not_kept_and_ends_by_time_or_by_hand(either_node, clock):
    tokens = crew(either_node, bob="viewer")
    text = tokens["bob"].text
    assert len(text) > 60
    with either_node.store.read() as reading:
        kept = [row._asdict() for row in reading.execute(select(tables.tokens))]
    assert len(kept) == 2
    assert text not in str(kept)
    files = (path.read_bytes() for path in either_node.home.rglob("*") if path.is_file())
    assert not any(text.removeprefix("vesica-token-").encode() in content for content in files)
    with signed_in(either_node, text) as bobs:
        assert bobs.project().name == "default"
        clock.advance(days=89)
        assert bobs.project().name == "default"
        clock.advance(days=1)
        with pytest.raises(InvalidToken, match="expired"):
            bobs.project()
    with Node.open(either_node.home, now=clock) as again, pytest.raises(InvalidToken, match="expired"):
        again.sign_in(text)
    clock.advance(days=-1)
    with signed_in(either_node, tokens["ann"]) as anns, signed_in(either_node, text) as bobs:
        more = anns.users.token("bob", days=1)
        assert [len(user.tokens) for user in anns.users.list()] == [1, 2]
        assert anns.users.revoke("bob") == 2
        with pytest.raises(InvalidToken):
            bobs.project()  # at once, also where somebody has signed in
        with pytest.raises(InvalidToken):
            bobs.sign_in(more.text)
        for days in (0, 367):
            with pytest.raises(InvalidInput):
                anns.users.token("bob", days=days)


def test_a_role_that_is_taken_away_is_gone_at_once(either_node):
    tokens = crew(either_node, gus="governance")
    with signed_in(either_node, tokens["gus"]) as guss, signed_in(either_node, tokens["ann"]) as anns:
        project = guss.project()
        project.labels.create("mine", "Mine")
        anns.users.deny("gus", "governance")
        with pytest.raises(PermissionDenied) as refused:
            project.labels.create("other", "Other")
        assert refused.value.permission == "manage-governance"
        with pytest.raises(NotFound):
            guss.project()


# Users and roles


def test_the_first_user_administers_and_the_last_administrator_stays(either_node):
    users = either_node.users
    with pytest.raises(Refused, match="administer"):
        users.create("bob", ["viewer"])
    with pytest.raises(Refused, match="administer"):
        users.create("bob", ["administrator"], project=either_node.project())
    tokens = crew(either_node, bob="viewer")
    with signed_in(either_node, tokens["ann"]) as anns:
        for lost in (lambda: anns.users.remove("ann"), lambda: anns.users.deny("ann", "administrator")):
            with pytest.raises(Refused, match="administer"):
                lost()
        anns.users.remove("bob")
        anns.users.remove("ann")
    assert either_node.projects()  # nobody is left: the operator's alone again


def test_what_users_and_roles_refuse(either_node):
    tokens = crew(either_node, bob="viewer")
    with signed_in(either_node, tokens["ann"]) as anns:
        with pytest.raises(AlreadyExists):
            anns.users.create("bob", ["viewer"])
        with pytest.raises(NotFound):
            anns.users.create("cyd", ["emperor"])
        with pytest.raises(AlreadyExists):
            anns.users.grant("bob", "viewer")
        with pytest.raises(NotFound):
            anns.users.deny("bob", "viewer", project=anns.project())
        for name in ("bob", "nobody"):
            with pytest.raises(NotFound):
                anns.users.deny(name, "shares")
        for act, error in (
            (lambda: anns.roles.create("viewer", ["view"]), AlreadyExists),
            (lambda: anns.roles.create("all", ["everything"]), InvalidInput),
            (lambda: anns.roles.create("none", []), InvalidInput),
            (lambda: anns.roles.delete("viewer"), Refused),
            (lambda: anns.roles.delete("nothing"), NotFound),
        ):
            with pytest.raises(error):
                act()
        role = anns.roles.create("both", ["view", "manage-shares", "manage-connections"], labels=["c5", "own-label"])
        assert role.labels == {"C5", "own-label"}
        anns.users.grant("bob", "both", project=anns.project())
        assert anns.users.show("bob").roles == (("viewer", None), ("both", "default"))
        with pytest.raises(Refused, match="held by bob"):
            anns.roles.delete("both")
        anns.users.deny("bob", "both", project=anns.project())
        anns.roles.delete("both")
        assert [each.name for each in anns.roles.list()] == list(READY_MADE)
        anns.audit.verify()
    with signed_in(either_node, tokens["bob"]) as bobs:
        assert bobs.users.show().roles == (("viewer", None),)
        for refused in (
            bobs.users.list,
            lambda: bobs.users.show("ann"),
            lambda: bobs.users.token("bob"),
            lambda: bobs.users.grant("bob", "administrator"),
            lambda: bobs.users.grant("bob", "administrator", project=bobs.project()),
            lambda: bobs.users.reset("bob"),
            lambda: bobs.roles.create("more", ["administer"]),
        ):
            with pytest.raises(PermissionDenied):
                refused()
    assert denied(either_node, "user.reset") == [("bob", "permission_denied")]


@pytest.mark.feature("GV10")
def test_a_role_with_labels_cannot_lift_its_own_limit(either_node):
    tokens = crew(either_node)
    with signed_in(either_node, tokens["ann"]) as anns:
        for permission in ("administer", "audit"):
            with pytest.raises(InvalidInput, match="cannot be limited"):
                anns.roles.create("limited", ["view", permission], labels=["C1"])
            with pytest.raises(InvalidInput, match="cannot be limited"):
                anns.roles.create("limited", ["view", permission], labels=[])
        assert [each.name for each in anns.roles.list()] == list(READY_MADE)


@pytest.mark.feature("OP1")
@pytest.mark.feature("GV10")
def test_nobody_grants_more_than_they_hold_there(either_node):
    tokens = crew(either_node)
    with signed_in(either_node, tokens["ann"]) as anns:
        project = anns.project()
        anns.roles.create("desk", ["administer"])
        anns.roles.create("limited", ["view", "manage-data"], labels=["C1"])
        anns.roles.create("narrower", ["view"], labels=[])
        pat = anns.users.create("pat", ["administrator"], project=project)
        deb = anns.users.create("deb", ["desk", "limited"])
        anns.users.create("bob", [])
    with signed_in(either_node, pat) as pats:
        pats.users.grant("bob", "exporter", project=pats.project())
        for refused in (
            lambda: pats.users.grant("bob", "viewer"),
            lambda: pats.users.grant("pat", "administrator"),
            lambda: pats.users.token("ann"),
            lambda: pats.users.create("eve", ["viewer"], project=pats.project()),
        ):
            with pytest.raises(PermissionDenied):
                refused()
    with signed_in(either_node, deb) as debs:
        for refused in (
            lambda: debs.users.grant("deb", "administrator"),
            lambda: debs.users.grant("deb", "administrator", project=project),
            lambda: debs.users.grant("deb", "viewer"),  # which sees every label
            lambda: debs.users.create("eve", ["viewer"]),
            lambda: debs.users.token("ann"),
            lambda: debs.users.reset("deb"),
            lambda: debs.users.reset("ann"),
        ):
            with pytest.raises(Refused, match="does not have there"):
                refused()
        debs.users.grant("bob", "narrower")
        debs.users.token("deb")
    assert denied(either_node, "user.reset") == [("deb", "refused")] * 2


def test_the_operator_with_the_files_finds_back_and_the_log_says_so(either_node):
    old = crew(either_node, bob="viewer")["ann"]
    with Node.open(either_node.home, now=either_node.now) as unsigned:
        fresh = unsigned.users.reset("ann")
        with pytest.raises(InvalidToken):
            unsigned.sign_in(old.text)
        unsigned.sign_in(fresh.text)
        entry = unsigned.audit.list(act="user.reset")[0]
        assert (entry.target, entry.result) == ("ann", "allow")
        assert "@" in entry.actor  # the user of the machine
        unsigned.users.remove("bob")
    with Node.open(either_node.home, now=either_node.now) as unsigned:
        unsigned.users.reset("eve")
    assert denied(either_node, "user.sign-in") == [(entry.actor, "invalid_token")]


def test_the_way_back_needs_the_passphrase_of_the_keys(home, clock, monkeypatch):
    monkeypatch.setenv("VESICA_PASSPHRASE", "right")
    with Node.create(home, "Fern", now=clock) as node:
        crew(node)
    monkeypatch.setenv("VESICA_PASSPHRASE", "wrong")
    with Node.open(home, now=clock) as node, pytest.raises(WrongPassphrase):
        node.users.reset("ann")
    with Node.open(home, now=clock) as node, node.guard.itself():
        assert node.audit.list(act="user.reset")[0].result == "deny"


# Projects and reading


@pytest.mark.feature("OP1")
def test_a_project_without_a_role_is_not_there(either_node):
    either_node.create_project("loyalty")
    loyalty = either_node.project("loyalty")
    ann = crew(either_node)["ann"]
    with signed_in(either_node, ann) as anns:
        bob = anns.users.create("bob", ["shares", "data"], project=anns.project("loyalty"))
    with signed_in(either_node, bob) as bobs:
        assert [each.name for each in bobs.projects()] == ["loyalty"]
        assert [each["name"] for each in bobs.status()["projects"]] == ["loyalty"]
        assert told(NotFound, bobs.project, "default") == told(NotFound, bobs.project, "nowhere")
        with pytest.raises(NotFound):
            bobs.project_by_id(Project(either_node, _row(either_node, "default")).id)
        bobs.project("loyalty").segments.evaluate()
        with pytest.raises(PermissionDenied, match="the whole node"):
            bobs.create_project("third")
        with pytest.raises(PermissionDenied) as refused:
            bobs.audit.list(project_id=loyalty.id)
        assert refused.value.permission == "audit"
    assert denied(either_node, "audit.read") == [("bob", "permission_denied")]


def _row(node: Node, name: str) -> Any:
    with node.store.read() as reading:
        return reading.execute(select(tables.projects).where(tables.projects.c.name == name)).one()


def test_reading_needs_view_and_an_auditor_reads_only_the_log_of_its_project(either_node):
    ann = crew(either_node)["ann"]
    with signed_in(either_node, ann) as anns:
        anns.roles.create("blind", ["manage-shares"])
        anns.create_project("loyalty")
        blind = anns.users.create("bo", ["blind"])
        auditor = anns.users.create("cy", ["auditor"], project=anns.project("loyalty"))
    with signed_in(either_node, blind) as bos:
        assert bos.projects() == []
        with pytest.raises(PermissionDenied) as refused:
            bos.project()
        assert refused.value.permission == "view"
    assert denied(either_node, "project.view") == [("bo", "permission_denied")]
    with signed_in(either_node, auditor) as cys:
        cys.audit.list(project_id=cys.project("loyalty").id)
        for refused_act in (cys.audit.list, cys.audit.verify):
            with pytest.raises(PermissionDenied):
                refused_act()


def test_jobs_of_other_projects_are_not_there(either_node):
    ann = crew(either_node)["ann"]
    with signed_in(either_node, ann) as anns:
        job_id = anns.jobs.submit("release", {}, anns.project())
        bob = anns.users.create("bob", ["viewer"], project=anns.create_project("loyalty"))
    with signed_in(either_node, bob) as bobs:
        assert bobs.jobs.list() == []
        with pytest.raises(NotFound):
            bobs.jobs.show(job_id)


def test_acting_for_the_node_ends_with_the_thread_that_began_it(node):
    bob = crew(node, bob="viewer")["bob"]
    with signed_in(node, bob) as bobs, bobs.guard.itself("cy"):
        assert bobs.guard.actor() == "cy"
        others: list[str] = []
        thread = threading.Thread(target=lambda: others.append(bobs.guard.actor()))
        thread.start()
        thread.join()
        assert others == ["bob"]
        with bobs.guard.itself():  # such as what partners ask for: it is not bob's
            assert "@" in bobs.guard.actor()
        assert bobs.guard.actor() == "cy"
    assert bobs.guard.actor() == "bob"


# Labels


@pytest.fixture
def labelled(node: Node, tmp_path: Path) -> tuple[Node, Token]:
    """A node with segments under and without labels, and the token of lou, who may see C1 and nothing else labelled."""
    project = node.project()
    for dataset in ("crm", "health"):
        file = tmp_path / f"{dataset}.csv"
        file.write_text("id,email,orders,score\n1,a@x.com,5,1\n2,b@x.com,7,2\n3,c@x.com,1,3\n")
        project.profiles.import_(
            file,
            dataset=dataset,
            id_column="id",
            identities=[IdentityColumn.parse("email=email_sha256:raw")],
            attributes=["orders", "score"],
        )
    project.consent.set_model("opt-out")
    for name, rule in {
        "open": "crm.orders > 1",
        "first": "crm.orders > 4",
        "secret": "crm.orders > 6",
        "by-field": "crm.score > 1",
        "by-dataset": "health.orders > 1",
        "by-segment": "own.secret OR own.open",
    }.items():
        project.segments.create(name, rule=rule)
    project.labels.apply("C1", Kind.SEGMENT, "first")
    project.labels.apply("S1", Kind.SEGMENT, "secret")
    project.labels.apply("S1", Kind.FIELD, "crm.score")
    project.labels.apply("C3", Kind.DATASET, "health")
    ann = crew(node)["ann"]
    node.sign_in(ann.text)
    everything = [each for each in Permission if each not in (Permission.ADMINISTER, Permission.AUDIT)]
    node.roles.create("limited", everything, labels=["C1"])
    return node, node.users.create("lou", ["limited"])


HIDDEN = ["secret", "by-field", "by-dataset", "by-segment"]


@pytest.mark.feature("GV10")
def test_a_segment_with_a_label_that_is_not_cleared_is_not_there(labelled: tuple[Node, Token], tmp_path: Path) -> None:
    node, lou = labelled
    with signed_in(node, lou) as lous:
        project, out = lous.project(), tmp_path / "out.csv"
        assert [each.name for each in project.segments.list()] == ["first", "open"]
        assert [each.name for each in project.segments.evaluate()] == ["first", "open"]
        assert project.show()["counts"]["segments"] == 2
        assert project.profiles.show("2")["segments"] == ["first", "open"]
        assert project.profiles.show("2")["attributes"] == {"crm": {"orders": "7"}, "health": {}}
        assert project.segments.export("first", out) == 2
        for name in HIDDEN:
            for act in (
                project.segments.show,
                project.segments.members,
                project.segments.evaluate,
                project.segments.delete,
                lambda each: project.governance.check([each]),
                lambda each: project.segments.export(each, out),
                lambda each: project.segments.update(each, out),
                lambda each: project.segments.create("mine", rule=f"own.{each}"),
                lambda each: project.labels.apply("C1", Kind.SEGMENT, each),
            ):
                assert told(NotFound, act, name) == told(NotFound, act, "nothing")
        assert {each.name for each in project.segments.list()} == {"first", "open"}
        places = {str(place) for label in project.labels.list() for place in label.applied_to}
        assert places == {"segment first"}
    assert [each.name for each in node.project().segments.list()] == sorted([*HIDDEN, "first", "open"])


@pytest.mark.feature("GV10")
def test_a_rule_cannot_read_what_is_hidden(labelled: tuple[Node, Token]) -> None:
    node, lou = labelled
    with signed_in(node, lou) as lous:
        segments, conditions = lous.project().segments, lous.project().consent_policies
        for field in ("crm.score", "health.orders", "health.score", "score"):
            hidden = told(InvalidInput, lambda each: segments.create("mine", rule=f"{each} > 1"), field)
            assert hidden == told(InvalidInput, lambda each: segments.create("mine", rule=f"{each} > 1"), "crm.no")
            counted = told(InvalidInput, lambda each: conditions.preview(["first"], f"{each} > 1"), field)
            assert counted == told(InvalidInput, lambda each: conditions.preview(["first"], f"{each} > 1"), "crm.no")
        assert segments.create("mine", rule="orders > 1 AND own.first").size == 2  # the one dataset that is there
        shown = told(Refused, segments.delete, "open")
        assert "by-segment" not in str(shown)


@pytest.mark.feature("GV10")
def test_a_consent_policy_does_not_tell_who_is_in_what_is_hidden(labelled: tuple[Node, Token]) -> None:
    node, lou = labelled
    node.project().consent_policies.create("open-only", "own.open", enable=True)
    node.project().consent_policies.create("secret-only", "own.secret", label="C1", enable=True)
    for profile, member in (("2", True), ("3", False)):
        assert [each["met"] for each in node.project().consent.show(profile)["policies"]] == [member, member]
        with signed_in(node, lou) as lous:
            shown = lous.project().consent.show(profile)
            assert [each["met"] for each in shown["policies"]] == [member, None]
            assert shown["namespaces"]["email_sha256"]["may_be_shared"] is member
    node.project().consent_policies.create("scored", "crm.score > 1", enable=True)
    for profile, shared in (("2", None), ("3", False)):
        with signed_in(node, lou) as lous:
            assert lous.project().consent.show(profile)["namespaces"]["email_sha256"]["may_be_shared"] is shared


@pytest.mark.feature("GV10")
def test_a_hidden_segment_cannot_be_shared_and_hides_its_feed(idle_pair: Any, person: Any) -> None:
    pair, people = idle_pair, [person(str(each), f"p{each}@x.com") for each in range(5)]
    acme = pair.acme
    with acme.serving(), pair.globe.serving():
        pair.prepare(people, people, {"open": ["1", "2"], "secret": ["2", "3"]})
    acme.project.labels.apply("S1", Kind.SEGMENT, "secret")
    tokens = crew(acme.node)
    acme.node.sign_in(tokens["ann"].text)
    acme.node.roles.create("limited", ["view", "manage-shares"], labels=["C1"])
    lou = acme.node.users.create("lou", ["limited"])
    share = {"namespaces": [EMAIL], "partners": ["globe"]}
    acme.project.feeds.create("covert", segments=["open", "secret"], **share)
    with signed_in(acme.node, lou) as lous:
        feeds = lous.project().feeds
        hidden = told(NotFound, lambda each: feeds.create("mine", segments=[each], **share), "secret")
        assert hidden == told(NotFound, lambda each: feeds.create("mine", segments=[each], **share), "nothing")
        feeds.create("mine", segments=["open"], **share)
        assert [feed["name"] for feed in feeds.list()] == ["mine"]
        for act in (feeds.show, feeds.publish, feeds.revoke, feeds.estimate):
            assert told(NotFound, act, "covert") == told(NotFound, act, "nothing")
    with acme.node.store.read() as reading:
        assert reading.scalar(select(func.count()).select_from(tables.feeds)) == 2


@pytest.mark.feature("GV10")
def test_a_received_segment_is_hidden_by_the_label_that_came_with_it(pair: Any, person: Any, tmp_path: Path) -> None:
    people = [person(str(each), f"p{each}@x.com") for each in range(5)]
    pair.prepare(people, people, {"open": ["1", "2"], "secret": ["2", "3"]})
    pair.acme.project.labels.apply("S1", Kind.SEGMENT, "secret")
    pair.share("overt", ["open"], [EMAIL])
    pair.share("covert", ["secret"], [EMAIL])
    pair.acme.project.feeds.sync()
    globe = pair.globe
    ann = crew(globe.node)["ann"]
    with signed_in(globe.node, ann) as anns:
        anns.roles.create("limited", ["view", "manage-shares", "manage-data"], labels=["C1"])
        lou = anns.users.create("lou", ["limited"])
        assert anns.project().segments.create("all", rule="received.acme.secret").size == 2
        exporter = anns.users.create("eli", ["exporter"])
    with signed_in(globe.node, exporter) as elis:  # it is evaluated first, which is not eli's to do
        assert elis.project().segments.export("all", tmp_path / "all.csv") == 2
        with pytest.raises(PermissionDenied):
            elis.project().segments.evaluate("all")
    with signed_in(globe.node, lou) as lous:
        project = lous.project()
        assert [feed["name"] for feed in project.received.list()] == ["overt"]
        assert [each["name"] for each in project.received.segments()] == ["received.acme.open"]
        assert told(NotFound, project.received.show, "covert") == told(NotFound, project.received.show, "nothing")
        create = project.segments.create
        hidden = told(NotFound, lambda each: create("mine", rule=f"received.acme.{each}"), "secret")
        assert hidden == told(NotFound, lambda each: create("mine", rule=f"received.acme.{each}"), "nothing")
        assert create("mine", rule="received.acme.open").size == 2


@pytest.mark.feature("OP1")
def test_who_may_not_import_has_nothing_read(either_node: Node, tmp_path: Path) -> None:
    tokens = crew(either_node, bob="viewer")
    with signed_in(either_node, tokens["bob"]) as bobs:
        project = bobs.project()
        for act in (
            lambda: project.profiles.import_(tmp_path / "none.csv", dataset="crm", id_column="id", identities=[]),
            lambda: project.profiles.import_segment_match(tmp_path / "none.json", dataset="crm"),
        ):
            with pytest.raises(PermissionDenied):
                act()


@pytest.mark.feature("GV10")
def test_a_label_hides_from_when_it_is_offered(pair: Any, person: Any) -> None:
    people = [person(str(each), f"p{each}@x.com") for each in range(5)]
    pair.prepare(people, people, {"open": ["1", "2"], "other": ["2", "3"]})
    pair.share("overt", ["open"], [EMAIL])
    pair.acme.project.feeds.sync()
    globe = pair.globe
    ann = crew(globe.node)["ann"]
    with signed_in(globe.node, ann) as anns:
        anns.roles.create("limited", ["view", "manage-data"], labels=["C1"])
        lou = anns.users.create("lou", ["limited"])
    with signed_in(globe.node, lou) as lous:
        received, create = lous.project().received, lous.project().segments.create
        assert [feed["name"] for feed in received.list()] == ["overt"]
        globe.node.guard.signed_in = ITSELF  # it serves
        with globe.node.store.begin() as tx:
            connection, feed = globe.project.received.get("overt", None, tx)
            before = versions.get(tx, feed.id, 1)
            (segment,) = before.segments
            more = replace(segment, id=bytes(16), name="more", labels=())
            after = replace(before, version=2, segments=(replace(segment, labels=("s1",)), more))
            offers.offered(globe.project, tx, connection, after)
        assert globe.project.received.show("overt")["accepted_version"] == 1
        assert received.list() == received.segments() == []
        hidden = told(NotFound, lambda each: create("mine", rule=f"received.acme.{each}"), "open")
        assert hidden == told(NotFound, lambda each: create("mine", rule=f"received.acme.{each}"), "nothing")


@pytest.mark.feature("GV10")
def test_an_identity_is_hidden_by_the_labels_of_its_field(labelled: tuple[Node, Token], tmp_path: Path) -> None:
    node, lou = labelled
    file = tmp_path / "ids.csv"
    file.write_text("id,card,email\n1,card-1,z@x.com\n")
    columns = [IdentityColumn.parse("card=card"), IdentityColumn.parse("email=email_sha256:raw")]
    node.project().profiles.import_(file, dataset="cards", id_column="id", identities=columns)
    node.project().labels.apply("S1", Kind.FIELD, "cards.card")
    with signed_in(node, lou) as lous:
        shown = [each["namespace"] for each in lous.project().profiles.show("1")["identities"]]
        assert shown == [EMAIL, EMAIL]  # one of crm, which health has too under a label, and one of cards
        node.project().labels.apply("S1", Kind.FIELD, "crm.email")
        assert len(lous.project().profiles.show("1")["identities"]) == 1
    assert len(node.project().profiles.show("1")["identities"]) == 3


@pytest.mark.feature("GV10")
def test_jobs_of_others_and_alerts_that_name_are_not_there(labelled: tuple[Node, Token]) -> None:
    node, lou = labelled
    project = node.project()
    with node.store.begin() as tx:
        project.alerts.add(tx, "run_failed", "feed covert does not reach globe: nobody is there")
        project.alerts.add(tx, "connection_request", "Globe asks to connect")
    job_id = node.jobs.submit("release", {}, project)
    alert_id = next(alert.id for alert in project.alerts.list() if alert.kind == "run_failed")
    with signed_in(node, lou) as lous:
        mine = lous.jobs.submit("release", {}, lous.project())
        assert [job.id for job in lous.jobs.list()] == [job.id for job in lous.jobs.list(lous.project())] == [mine]
        assert lous.jobs.show(mine).submitted_by == "lou"
        assert told(NotFound, lous.jobs.show, job_id) == told(NotFound, lous.jobs.show, "nothing")
        alerts = lous.project().alerts
        assert [alert.kind for alert in alerts.list()] == ["connection_request"]
        assert [alert["kind"] for alert in lous.status()["alerts"]] == ["connection_request"]
        with pytest.raises(NotFound):
            alerts.acknowledge(alert_id)
        assert alerts.acknowledge(every=True) == 1
    assert {job.id for job in node.jobs.list()} == {job_id, mine}
    assert [alert.kind for alert in project.alerts.list(open_only=True)] == ["run_failed"]


def test_a_job_needs_view(node: Node) -> None:
    tokens = crew(node)
    with signed_in(node, tokens["ann"]) as anns:
        anns.roles.create("blind", ["manage-shares"])
        job_id = anns.jobs.submit("release", {}, anns.project())
        blind = anns.users.create("bo", ["blind"])
    with signed_in(node, blind) as bos, pytest.raises(NotFound):
        bos.jobs.show(job_id)


@pytest.mark.feature("GV10")
def test_a_hidden_feed_shows_in_no_count_of_what_another_model_or_a_run_does(idle_pair: Any, person: Any) -> None:
    pair, people = idle_pair, [person(str(each), f"p{each}@x.com") for each in range(5)]
    acme = pair.acme
    with acme.serving(), pair.globe.serving():
        pair.prepare(people, people, {"open": ["1", "2"], "secret": ["2", "3"]})
        pair.share("covert", ["open", "secret"], [EMAIL])
        pair.share("overt", ["open"], [EMAIL])
    acme.project.labels.apply("S1", Kind.SEGMENT, "secret")
    tokens = crew(acme.node)
    acme.node.sign_in(tokens["ann"].text)
    acme.node.roles.create("limited", ["view", "manage-governance"], labels=["C1"])
    lou = acme.node.users.create("lou", ["limited"])
    with signed_in(acme.node, lou) as lous:
        project = lous.project()
        assert [feed["name"] for feed in project.feeds.list()] == ["overt"]
        assert [feed["feed"] for feed in preview(project, "opt-in")["feeds"]] == ["overt"]
        reconcile_ = partial(reconcile, project)
        assert told(NotFound, reconcile_, "covert") == told(NotFound, reconcile_, "nothing")
    assert [feed["feed"] for feed in preview(acme.project, "opt-in")["feeds"]] == ["covert", "overt"]
