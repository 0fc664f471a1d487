"""What a role that is limited to labels does not see, in every room."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from callers import crew, signed_in, told
from sides import EMAIL, Pair, Person
from sqlalchemy import func, select

from node.access.permissions import Permission, PermissionDenied
from node.access.users import Token
from node.errors import InvalidInput, NotAllowed, NotFound
from node.feeds import versions
from node.feeds.receiving import offers, received_feeds
from node.governance.lineage import PlaceKind
from node.imports.identity_columns import IdentityColumn
from node.node import Node
from node.operations.alerts import AlertKind
from node.reports.consent_model import preview
from node.reports.reconciliation import reconcile
from node.storage import tables


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
    project.labels.apply("C1", PlaceKind.SEGMENT, "first")
    project.labels.apply("S1", PlaceKind.SEGMENT, "secret")
    project.labels.apply("S1", PlaceKind.FIELD, "crm.score")
    project.labels.apply("C3", PlaceKind.DATASET, "health")
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
        assert [each.name for each in project.segments.all()] == ["first", "open"]
        assert [each.name for each in project.segments.evaluate_all()] == ["first", "open"]
        assert project.reports.project()["counts"]["segments"] == 2
        assert project.profiles.show("2")["segments"] == ["first", "open"]
        assert project.profiles.show("2")["attributes"] == {"crm": {"orders": "7"}}
        assert project.files.export("first", out) == 2
        for name in HIDDEN:
            for act in (
                project.segments.show,
                project.segments.members,
                project.segments.evaluate,
                project.segments.delete,
                lambda each: project.governance.check([each]),
                lambda each: project.files.export(each, out, force=True),
                lambda each: project.segments.update(each, out),
                lambda each: project.segments.create("mine", rule=f"own.{each}"),
                lambda each: project.labels.apply("C1", PlaceKind.SEGMENT, each),
            ):
                assert told(NotFound, act, name) == told(NotFound, act, "nothing")
        assert {each.name for each in project.segments.all()} == {"first", "open"}
        places = {str(place) for label in project.labels.all() for place in label.applied_to}
        assert places == {"segment first"}
    assert [each.name for each in node.project().segments.all()] == sorted([*HIDDEN, "first", "open"])


@pytest.mark.feature("GV10")
def test_a_rule_cannot_read_what_is_hidden(labelled: tuple[Node, Token]) -> None:
    node, lou = labelled
    with signed_in(node, lou) as lous:
        segments, conditions = lous.project().segments, lous.project().consent_policies

        def refused(act: Callable[[str], object], field: str) -> tuple[str, str]:
            text, hint = told(InvalidInput, act, field)
            return text, re.sub(
                r"^did you mean (crm\.)?orders\? ", "", hint
            )  # by what was typed, among what is visible

        for field in ("crm.score", "health.orders", "health.score", "score"):
            for act in (
                lambda each: segments.create("mine", rule=f"{each} > 1"),
                lambda each: conditions.preview(["first"], f"{each} > 1"),
            ):
                assert refused(act, field) == refused(act, "crm.no")
        assert segments.create("mine", rule="orders > 1 AND own.first").size == 2  # the one dataset that is there
        shown = told(NotAllowed, segments.delete, "open")
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
def test_a_hidden_segment_cannot_be_shared_and_hides_its_feed(idle_pair: Pair, person: type[Person]) -> None:
    pair, people = idle_pair, [person(str(each), f"p{each}@x.com") for each in range(5)]
    acme = pair.acme
    with acme.serving(), pair.globe.serving():
        pair.prepare(people, people, {"open": ["1", "2"], "secret": ["2", "3"]})
    acme.project.labels.apply("S1", PlaceKind.SEGMENT, "secret")
    tokens = crew(acme.node)
    acme.node.sign_in(tokens["ann"].text)
    acme.node.roles.create("limited", ["view", "manage-shares"], labels=["C1"])
    lou = acme.node.users.create("lou", ["limited"])
    share: dict[str, Any] = {"namespaces": [EMAIL], "partners": ["globe"]}
    acme.project.feeds.create("covert", segments=["open", "secret"], **share)
    with signed_in(acme.node, lou) as lous:
        feeds = lous.project().feeds
        hidden = told(NotFound, lambda each: feeds.create("mine", segments=[each], **share), "secret")
        assert hidden == told(NotFound, lambda each: feeds.create("mine", segments=[each], **share), "nothing")
        feeds.create("mine", segments=["open"], **share)
        assert [feed["name"] for feed in feeds.all()] == ["mine"]
        for act in (feeds.show, feeds.publish, feeds.revoke, feeds.estimate):
            assert told(NotFound, act, "covert") == told(NotFound, act, "nothing")
    with acme.node.home.database.read() as reading:
        assert reading.scalar(select(func.count()).select_from(tables.feeds)) == 2


@pytest.mark.feature("GV10")
def test_a_received_segment_is_hidden_by_the_label_that_came_with_it(
    pair: Pair, person: type[Person], tmp_path: Path
) -> None:
    people = [person(str(each), f"p{each}@x.com") for each in range(5)]
    pair.prepare(people, people, {"open": ["1", "2"], "secret": ["2", "3"]})
    pair.acme.project.labels.apply("S1", PlaceKind.SEGMENT, "secret")
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
        assert elis.project().files.export("all", tmp_path / "all.csv") == 2
        with pytest.raises(PermissionDenied):
            elis.project().segments.evaluate("all")
    with signed_in(globe.node, lou) as lous:
        project = lous.project()
        assert [feed["name"] for feed in project.received.all()] == ["overt"]
        assert [each["name"] for each in project.received.segments()] == ["received.acme.open"]
        assert told(NotFound, project.received.show, "covert") == told(NotFound, project.received.show, "nothing")
        create = project.segments.create
        hidden = told(NotFound, lambda each: create("mine", rule=f"received.acme.{each}"), "secret")
        assert hidden == told(NotFound, lambda each: create("mine", rule=f"received.acme.{each}"), "nothing")
        assert create("mine", rule="received.acme.open").size == 2


@pytest.mark.feature("GV10")
def test_a_label_hides_from_when_it_is_offered(pair: Pair, person: type[Person]) -> None:
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
        assert [feed["name"] for feed in received.all()] == ["overt"]
        with globe.node.home.guard.itself():  # it serves
            with globe.node.home.database.begin() as tx:
                connection, feed = received_feeds.get(globe.project.scope, tx, "overt")
                before = versions.get(tx, feed.id, 1)
                (segment,) = before.segments
                more = replace(segment, id=bytes(16), name="more", labels=())
                after = replace(before, version=2, segments=(replace(segment, labels=("s1",)), more))
                offers.offered(globe.project.scope, tx, connection, after)
            assert globe.project.received.show("overt")["accepted_version"] == 1
            assert received.all() == received.segments() == []
            hidden = told(NotFound, lambda each: create("mine", rule=f"received.acme.{each}"), "open")
            assert hidden == told(NotFound, lambda each: create("mine", rule=f"received.acme.{each}"), "nothing")


@pytest.mark.feature("GV10")
def test_an_identity_is_hidden_by_the_labels_of_its_field(labelled: tuple[Node, Token], tmp_path: Path) -> None:
    node, lou = labelled
    file = tmp_path / "ids.csv"
    file.write_text("id,card,email\n1,card-1,z@x.com\n")
    columns = [IdentityColumn.parse("card=card"), IdentityColumn.parse("email=email_sha256:raw")]
    node.project().profiles.import_(file, dataset="cards", id_column="id", identities=columns)
    node.project().labels.apply("S1", PlaceKind.FIELD, "cards.card")
    with signed_in(node, lou) as lous:
        shown = [each["namespace"] for each in lous.project().profiles.show("1")["identities"]]
        assert shown == [EMAIL, EMAIL]  # one of crm, which health has too under a label, and one of cards
        node.project().labels.apply("S1", PlaceKind.FIELD, "crm.email")
        assert len(lous.project().profiles.show("1")["identities"]) == 1
    assert len(node.project().profiles.show("1")["identities"]) == 3


@pytest.mark.feature("GV10")
def test_jobs_of_others_and_alerts_that_name_are_not_there(labelled: tuple[Node, Token]) -> None:
    node, lou = labelled
    project = node.project()
    with node.home.database.begin() as tx:
        project.alerts.add(tx, AlertKind.RUN_FAILED, "feed covert does not reach globe: nobody is there")
        project.alerts.add(tx, AlertKind.CONNECTION_REQUEST, "Globe asks to connect")
    job_id = node.jobs.submit("release", {}, project.scope)
    alert_id = next(alert.id for alert in project.alerts.all() if alert.kind == "run_failed")
    with signed_in(node, lou) as lous:
        mine = lous.jobs.submit("release", {}, lous.project().scope)
        assert [job.id for job in lous.jobs.all()] == [job.id for job in lous.jobs.all(lous.project().scope)] == [mine]
        assert lous.jobs.show(mine).submitted_by == "lou"
        assert told(NotFound, lous.jobs.show, job_id) == told(NotFound, lous.jobs.show, "nothing")
        alerts = lous.project().alerts
        assert [alert.kind for alert in alerts.all()] == ["connection_request"]
        assert [alert["kind"] for alert in lous.status()["alerts"]] == ["connection_request"]
        with pytest.raises(NotFound):
            alerts.acknowledge(alert_id)
        assert alerts.acknowledge(every=True) == 1
    assert {job.id for job in node.jobs.all()} == {job_id, mine}
    assert [alert.kind for alert in project.alerts.all(open_only=True)] == ["run_failed"]


@pytest.mark.feature("GV10")
def test_a_hidden_feed_shows_in_no_count_of_what_another_model_or_a_run_does(
    idle_pair: Pair, person: type[Person]
) -> None:
    pair, people = idle_pair, [person(str(each), f"p{each}@x.com") for each in range(5)]
    acme = pair.acme
    with acme.serving(), pair.globe.serving():
        pair.prepare(people, people, {"open": ["1", "2"], "secret": ["2", "3"]})
        pair.share("covert", ["open", "secret"], [EMAIL])
        pair.share("overt", ["open"], [EMAIL])
    acme.project.labels.apply("S1", PlaceKind.SEGMENT, "secret")
    tokens = crew(acme.node)
    acme.node.sign_in(tokens["ann"].text)
    acme.node.roles.create("limited", ["view", "manage-governance"], labels=["C1"])
    lou = acme.node.users.create("lou", ["limited"])
    with signed_in(acme.node, lou) as lous:
        project = lous.project()
        assert [feed["name"] for feed in project.feeds.all()] == ["overt"]
        assert [feed["feed"] for feed in preview(project.scope, "opt-in")["feeds"]] == ["overt"]
        reconcile_ = partial(reconcile, project.scope)
        assert told(NotFound, reconcile_, "covert") == told(NotFound, reconcile_, "nothing")
    assert [feed["feed"] for feed in preview(acme.project.scope, "opt-in")["feeds"]] == ["covert", "overt"]
