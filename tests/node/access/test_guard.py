"""Who acts, and what is refused to them: permissions, projects, jobs."""

import inspect
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from callers import crew, denied, signed_in, told
from sides import EMAIL, Pair, Person
from sqlalchemy import select

from node.access import permissions
from node.access.audit import Actor, ActorKind, Audit, Result
from node.access.guard import NOBODY, OPERATOR, Caller
from node.access.permissions import PermissionDenied
from node.access.scope import Scope
from node.errors import InvalidToken, NoCaller, NotFound, TokenNeeded
from node.governance.lineage import PlaceKind
from node.node import Node
from node.operations import jobs
from node.operations.jobs import JobState
from node.project import Project
from node.storage import tables
from node.storage.database import Tx
from psi.errors import Remedy


@pytest.mark.feature("OP1")
def test_connections_and_shares_are_two_permissions(pair: Pair, person: type[Person]) -> None:
    acme, globe = pair.acme, pair.globe
    tokens = crew(acme.node, cora="connections", sam="shares")
    with acme.node.home.guard.itself():  # it serves
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
            assert refused.value.remedy == Remedy(
                "user.grant", {"name": "sam", "role": "connections", "project": "default"}
            )
            assert acme.project.partners.get("globe").status == "requested"
            cora.partners.accept("globe")
            with pytest.raises(PermissionDenied):
                sam.partners.connect_id()  # there is one now: to read it is to hand it out

            feed: dict[str, Any] = {"segments": ["vip"], "namespaces": [EMAIL], "partners": ["globe"]}
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
def test_a_release_runs_in_the_name_of_who_asked_for_it(pair: Pair, person: type[Person]) -> None:
    people = [person(str(each), f"p{each}@x.com") for each in range(5)]
    pair.prepare(people, people, {"vip": ["1", "2", "3"]})
    pair.share("summer", ["vip"], [EMAIL])
    tokens = crew(pair.acme.node, sam="shares", vera="viewer")
    with pair.acme.node.home.guard.itself():  # it serves
        with signed_in(pair.acme.node, tokens["vera"]) as veras, pytest.raises(PermissionDenied):
            veras.project().feeds.sync("summer")
        assert pair.acme.node.jobs.all(state=JobState.QUEUED) == []
        with signed_in(pair.acme.node, tokens["sam"]) as sams:
            assert [run["status"] for run in sams.project().feeds.sync("summer")] == ["done"]
        assert pair.globe.members("acme", "vip") == {"1", "2", "3"}
        assert pair.acme.node.jobs.all()[0].submitted_by == "sam"
        assert pair.acme.acts("feed.run")[0]["actor"] == "sam"


def test_a_job_asks_for_the_permission_when_it_is_submitted_and_not_when_it_runs(
    either_node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []

    def release(scope: Scope, parameters: dict[str, Any], _progress: Any) -> None:
        with scope.act("feed.run", "summer"):
            done.append(parameters)

    monkeypatch.setitem(jobs.HANDLERS, "release", release)
    tokens = crew(either_node, sam="shares", vera="viewer")
    with signed_in(either_node, tokens["vera"]) as veras, pytest.raises(PermissionDenied):
        veras.jobs.submit("release", {}, veras.project().scope)
    with signed_in(either_node, tokens["sam"]) as sams:
        job_id = sams.jobs.submit("release", {"feed": "f"}, sams.project().scope)
    with signed_in(either_node, tokens["ann"]) as anns:
        anns.users.remove("sam")
    with either_node.home.guard.itself():
        job = either_node.jobs.claim_next()
        assert job is not None
        assert (job.id, job.submitted_by) == (job_id, "sam")
        either_node.jobs.execute(job)
        assert done == [{"feed": "f"}]
        assert either_node.jobs.show(job_id).state == "done"
        assert [entry.actor for entry in either_node.audit.entries(act="feed.run")] == ["sam"]


def test_what_has_no_row_needs_an_administrator(node: Node) -> None:
    bob = crew(node, bob="shares")["bob"]
    with signed_in(node, bob) as bobs, pytest.raises(PermissionDenied), bobs.home.act("feed.burn", "x"):
        raise AssertionError
    assert denied(node, "feed.burn") == [("bob", "permission_denied")]


@pytest.mark.feature("OP1")
def test_a_project_without_a_role_is_not_there(either_node: Node) -> None:
    either_node.create_project("loyalty")
    loyalty = either_node.project("loyalty")
    ann = crew(either_node)["ann"]
    with signed_in(either_node, ann) as anns:
        bob = anns.users.create("bob", ["shares", "data"], scope=anns.project("loyalty").scope)
    with signed_in(either_node, bob) as bobs:
        assert [each.name for each in bobs.projects()] == ["loyalty"]
        assert [each["name"] for each in bobs.status()["projects"]] == ["loyalty"]
        assert told(NotFound, bobs.project, "default") == told(NotFound, bobs.project, "nowhere")
        with pytest.raises(NotFound):
            bobs.home.scope(_row(either_node, "default").id)
        bobs.project("loyalty").segments.evaluate_all()
        with pytest.raises(PermissionDenied, match="the whole node"):
            bobs.create_project("third")
        with pytest.raises(PermissionDenied) as refused:
            bobs.audit.entries(project_id=loyalty.id)
        assert refused.value.permission == "audit"
    assert denied(either_node, "audit.read") == [("bob", "permission_denied")]


def _row(node: Node, name: str) -> Any:
    with node.home.database.read() as reading:
        return reading.execute(select(tables.projects).where(tables.projects.c.name == name)).one()


def test_reading_needs_view_and_an_auditor_reads_only_the_log_of_its_project(either_node: Node) -> None:
    ann = crew(either_node)["ann"]
    with signed_in(either_node, ann) as anns:
        anns.roles.create("blind", ["manage-shares"])
        anns.create_project("loyalty")
        blind = anns.users.create("bo", ["blind"])
        auditor = anns.users.create("cy", ["auditor"], scope=anns.project("loyalty").scope)
    with signed_in(either_node, blind) as bos:
        assert bos.projects() == []
        with pytest.raises(PermissionDenied) as refused:
            bos.project()
        assert refused.value.permission == "view"
    assert denied(either_node, "project.view") == [("bo", "permission_denied")]
    with signed_in(either_node, auditor) as cys:
        cys.audit.entries(project_id=cys.project("loyalty").id)
        for refused_act in (cys.audit.entries, cys.audit.verify):
            with pytest.raises(PermissionDenied):
                refused_act()


def test_jobs_of_other_projects_are_not_there(either_node: Node) -> None:
    ann = crew(either_node)["ann"]
    with signed_in(either_node, ann) as anns:
        job_id = anns.jobs.submit("release", {}, anns.project().scope)
        bob = anns.users.create("bob", ["viewer"], scope=anns.create_project("loyalty").scope)
    with signed_in(either_node, bob) as bobs:
        assert bobs.jobs.all() == []
        with pytest.raises(NotFound):
            bobs.jobs.show(job_id)


def test_a_job_needs_view(node: Node) -> None:
    tokens = crew(node)
    with signed_in(node, tokens["ann"]) as anns:
        anns.roles.create("blind", ["manage-shares"])
        job_id = anns.jobs.submit("release", {}, anns.project().scope)
        blind = anns.users.create("bo", ["blind"])
    with signed_in(node, blind) as bos, pytest.raises(NotFound):
        bos.jobs.show(job_id)


def test_who_acts_is_known_in_the_thread_alone_that_says_so(node: Node) -> None:
    bob = crew(node, bob="viewer")["bob"]
    with signed_in(node, bob) as bobs, bobs.home.guard.itself(Actor(ActorKind.USER, "cy")):
        assert bobs.home.guard.actor().name == "cy"
        others: list[Caller] = []
        thread = threading.Thread(target=lambda: others.append(bobs.home.guard.caller))
        thread.start()
        thread.join()
        assert others == [OPERATOR]
        with bobs.home.guard.itself():  # such as what partners ask for: it is not bob's
            assert "@" in bobs.home.guard.actor().name
        assert bobs.home.guard.actor().name == "cy"
        with pytest.raises(ZeroDivisionError), bobs.home.guard.acting_as(NOBODY):
            raise ZeroDivisionError
        assert bobs.home.guard.actor().name == "cy"
    assert bobs.home.guard.actor().name == "bob"


# In a service


@pytest.fixture
def served(node: Node) -> Node:
    """A node without users, as in a service: here the operator may do everything, but has to say so."""
    node.home.guard.expect_callers()
    return node


def _scopes(node: Node) -> list[Scope]:
    with node.home.guard.itself():
        return node.home.all_scopes()


@pytest.mark.parametrize("act", [*permissions.ACTS, "exchange.count", "letter.feed.publish", "no.such.act"])
def test_a_handler_without_a_caller_may_do_no_act(served: Node, act: str) -> None:
    def handler() -> None:
        with served.home.act(act, "x"):
            raise AssertionError

    (scope,) = _scopes(served)

    def of_a_partner() -> None:
        with scope.act(act, "x", actor="globe"):
            raise AssertionError

    for refused in (handler, of_a_partner, lambda: served.home.guard.require(act, "x", None)):
        with pytest.raises(NoCaller):
            refused()
    with served.home.guard.itself(), served.home.act(act, "x"):
        pass
    with served.home.guard.itself():
        (entry, *_) = served.home.audit.entries(act=act, result=Result.FAIL)
    assert (entry.actor, entry.detail["error"]["code"]) == ("nobody", "no_caller")


def test_a_handler_without_a_caller_may_read_nothing(served: Node) -> None:
    guard = served.home.guard
    (scope,) = _scopes(served)
    with served.home.database.read() as tx:
        for read in (
            lambda: guard.grants(tx),
            lambda: guard.cleared(tx, scope.id),
            lambda: guard.reaches(scope.id),
            lambda: guard.viewable([scope]),
        ):
            with pytest.raises(NoCaller):
                read()


def _doors() -> list[tuple[str, str]]:
    """Return every public method and property of a node, of a project, and of what hangs on them, by door and name."""
    found = []
    for owner, cls in (("node", Node), ("project", Project)):
        doors = {name: _door(value) for name, value in vars(cls).items() if isinstance(value, cached_property)}
        doors |= {"": cls, "audit": Audit} if cls is Node else {"": cls}
        for door, of in doors.items():
            found += [
                (f"{owner}.{door}".rstrip("."), name)
                for name, value in vars(of).items()
                if not name.startswith("_")
                and (inspect.isfunction(value) or isinstance(value, property))
                and not _takes_tx(value)
            ]
    return [each for each in found if each not in NO_CALLER_NEEDED]


def _takes_tx(value: object) -> bool:
    """Return whether a method needs a transaction, which is opened by an act or a read: there the caller is asked for."""
    needed = inspect.signature(value).parameters.values() if inspect.isfunction(value) else ()
    return any(each.annotation in (Tx, "Tx") for each in needed)


def _door(value: "cached_property[object]") -> type:
    """Return the class of a door, which the property imports when it is asked for."""
    made = value.func(Mock())
    return type(made)


# They read no row and change none, or say who acts.
NO_CALLER_NEEDED = {
    ("node", "close"),
    ("node", "key"),
    ("node", "audit"),
    ("node", "sign_in"),
}


def _made_up(parameter: inspect.Parameter, scope: Scope) -> Any:
    """Return an argument of the kind that a parameter's annotation names."""
    if parameter.name == "consent_model":
        return "opt-in"
    kind = re.sub(r"\b\w+\.", "", inspect.formatannotation(parameter.annotation)).strip("'")
    for begins, value in MADE_UP.items():
        if kind.startswith(begins):
            return value
    return scope if kind == "Scope" else Mock()


MADE_UP = {
    "str": "default",
    "int": 1,
    "bool": True,
    "Path": Path("/none"),
    "Sequence": ["x"],
    "Iterable": ["x"],
    "Mapping": {},
    "PlaceKind": PlaceKind.SEGMENT,
}


@pytest.mark.parametrize(("door", "name"), _doors())
def test_no_method_of_a_door_does_anything_without_a_caller(served: Node, door: str, name: str) -> None:
    (scope,) = _scopes(served)
    owner, _, rest = door.partition(".")
    at: Any = {"node": served, "project": Project(scope)}[owner]
    at = getattr(at, rest) if rest else at
    if isinstance(vars(type(at))[name], property):
        with pytest.raises(NoCaller):
            getattr(at, name)
        return
    method = getattr(at, name)
    positional, named = [], {}
    for parameter in inspect.signature(method).parameters.values():
        if parameter.default is inspect.Parameter.empty:
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                positional.append(_made_up(parameter, scope))
            elif parameter.kind is parameter.KEYWORD_ONLY:
                named[parameter.name] = _made_up(parameter, scope)
    if (door, name) == ("project.feeds", "unshare"):
        named["segment"] = "vip"
    with pytest.raises(NoCaller):
        _do(method, positional, named)


def _do(method: Any, positional: list[Any], named: dict[str, Any]) -> None:
    returned = method(*positional, **named)
    if isinstance(returned, AbstractContextManager):
        with returned:
            pass


def test_a_handler_without_a_caller_cannot_sign_for_the_operator(served: Node) -> None:
    with pytest.raises(NoCaller):
        served.users.reset("ann")
    with pytest.raises(NoCaller):
        served.jobs.submit("release", {}, _scopes(served)[0])


def test_in_a_service_each_thread_says_who_acts(served: Node) -> None:
    def projects() -> list[str]:
        return [each.name for each in served.projects()]

    with ThreadPoolExecutor(1) as pool:
        with served.home.guard.itself(), pytest.raises(NoCaller):
            pool.submit(projects).result()
        assert pool.submit(served.home.guard.as_itself(projects)).result() == ["default"]
        with pytest.raises(NoCaller):
            pool.submit(projects).result()


def test_what_a_partner_asks_for_is_done_by_the_node_itself(idle_pair: Pair) -> None:
    with idle_pair.acme.serving(), idle_pair.globe.serving():
        for side in (idle_pair.acme, idle_pair.globe):
            side.node.home.guard.expect_callers()
        with idle_pair.acme.node.home.guard.itself(), idle_pair.globe.node.home.guard.itself():
            people = [Person(str(each), f"p{each}@x.com") for each in range(5)]
            idle_pair.prepare(people, people, {"vip": ["1", "2", "3"]})
            idle_pair.share("summer", ["vip"], [EMAIL])
            assert [run["status"] for run in idle_pair.acme.project.feeds.sync("summer")] == ["done"]
            assert idle_pair.globe.members("acme", "vip") == {"1", "2", "3"}


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


def test_a_service_signs_nobody_in_for_a_whole_thread(served: Node) -> None:
    with served.home.guard.itself():
        token = served.users.create("ann", ["administrator"]).text
    with pytest.raises(NoCaller):
        served.sign_in(token)
    assert served.home.guard.actor().name == "nobody"


def test_after_a_sign_in_that_failed_nobody_is_signed_in(node: Node) -> None:
    node.sign_in(node.users.create("ann", ["administrator"]).text)
    with pytest.raises(InvalidToken):
        node.sign_in("vesica-token-nonsense")
    with pytest.raises(TokenNeeded):
        node.users.all()


@pytest.mark.feature("OP1")
def test_who_holds_a_project_that_they_may_not_view_reads_nothing_of_it(either_node: Node) -> None:
    tokens = crew(either_node)
    with signed_in(either_node, tokens["ann"]) as anns:
        other = anns.create_project("other")
        kept = anns.users.create("bob", ["viewer"], scope=anns.project().scope)
    with signed_in(either_node, kept) as bobs:
        (foreign,) = [scope for scope in bobs.home.all_scopes() if scope.id == other.id]
        project = Project(foreign)
        for read in (
            project.segments.all,
            project.profiles.count,
            project.labels.all,
            project.policies.all,
            project.consent_policies.all,
            project.consent.show,
            project.reports.project,
            project.reports.partners,
            project.alerts.all,
            lambda: project.terms,
            lambda: project.segments.create("x", rule="own.y"),
        ):
            with pytest.raises((NotFound, PermissionDenied)) as refused:
                read()
            assert "own.y" not in str(refused.value)
        assert bobs.project().segments.all() == []
