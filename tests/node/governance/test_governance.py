"""What labels and policies forbid at the sender, in a report and while a feed lives."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from governed import limited, offer, paths, put_unasked
from sides import EMAIL, Pair
from sqlalchemy import event, select

from cli import output
from cli.remedies import in_words
from node.access.audit import Result
from node.errors import InvalidInput, NotAllowed, NotFound
from node.governance.lineage import Lineage, PlaceKind
from node.governance.policies import PolicyStatus
from node.governance.violations import PolicyConflict, PolicyViolation
from node.imports.identity_columns import IdentityColumn
from node.node import Node
from node.operations.jobs import JobState
from node.people.drafts import KEPT_GENERATIONS
from node.people.manifests import Manifest
from node.people.snapshots import Snapshot
from node.project import Project
from node.storage.tables import manifests
from psi.errors import Remedy

# The report


@pytest.mark.feature("GV5")
def test_a_refusal_names_every_violation_with_its_lineage_and_what_would_help(two: Pair) -> None:
    acme = two.acme.project
    acme.labels.apply("C11", "dataset", "orders")
    acme.labels.apply("C3", "field", "orders.income")
    acme.labels.apply("C12", "segment", "vip")
    acme.policies.create("own", "segment-match", "C1 OR (C3 AND C11)")
    with pytest.raises(PolicyViolation, match=r"C3 from field orders\.income > segment richer") as caught:
        acme.feeds.create("summer", segments=["richer", "vip"], namespaces=[EMAIL], partners=["globe"])
    document = in_words(caught.value.document())
    assert (document["code"], document["hint"]) == (
        "policy_violation",
        "leave the segment out, or give: vesica label remove C11 --dataset orders",
    )
    found = {(each["segment"], each["policy"]): each for each in document["violations"]}
    assert set(found) == {
        ("richer", "own"),
        ("richer", "restrict-data-sharing"),
        ("vip", "restrict-data-sharing"),
        ("vip", None),
    }
    both = found["richer", "own"]
    assert (both["condition"], both["action"], both["labels"]) == ("C1 OR (C3 AND C11)", "segment-match", ["C11", "C3"])
    assert [(trace["label"], trace["path"][0]["name"]) for trace in both["lineage"]] == [
        ("C11", "orders"),
        ("C3", "orders.income"),
    ]
    assert [place["kind"] for place in both["lineage"][0]["path"]] == ["dataset", "field", "segment"]
    assert both["fixes"] == ["vesica label remove C11 --dataset orders", "vesica label remove C3 --field orders.income"]
    assert found["vip", None]["title"] == "label C12 (no export at all)"
    assert str(caught.value).endswith("; and 3 more")


@pytest.mark.feature("GV4")
def test_a_check_takes_segments_or_feeds_an_action_and_drafts(two: Pair) -> None:
    acme = two.acme.project
    offer(two, "summer", "vip", "richer", enable=False)
    assert acme.governance.check(["vip"], feeds=["summer"]) == []
    acme.policies.create("soon", "segment-match", "C4", status=PolicyStatus.DRAFT)
    acme.labels.apply("C4", "field", "crm.email")
    acme.labels.apply("C4", "field", "orders.income")
    assert acme.governance.check(feeds=["summer"]) == []
    found = acme.governance.check(feeds=["summer"], include_draft=True)
    assert [(each.segment, each.policy) for each in found] == [("vip", "soon"), ("richer", "soon")]
    assert [str(trace) for trace in found[1].lineage] == [
        "C4 from field orders.income > segment richer > feed summer",
        f"C4 from field crm.email > namespace {EMAIL} > segment richer > feed summer",
    ]
    assert Remedy("feed.unshare", {"name": "summer", "segment": "richer"}) in found[1].fixes
    assert acme.governance.check(["richer"], action="email-targeting") == []
    acme.policies.enable("restrict-email-targeting")
    assert [each.policy for each in acme.governance.check(["richer"], action="email-targeting")] == [
        "restrict-email-targeting"
    ]
    with pytest.raises(InvalidInput):
        acme.governance.check(["vip"], action="world-domination")
    with pytest.raises(NotFound):
        acme.governance.check(["nothing"])
    with pytest.raises(NotFound):
        acme.governance.check(feeds=["nothing"])


# While a feed lives


def state(project: Project) -> Any:
    """Return all that a refused change must have left as it was."""
    return (
        [(label.name, label.applied_to) for label in project.labels.all() if label.applied_to],
        project.policies.all(),
        [(each.name, each.rule, each.size) for each in project.segments.all()],
        [(feed["name"], feed["version"]) for feed in project.feeds.all()],
    )


@pytest.mark.feature("GV6")
@pytest.mark.parametrize(
    ("change", "lineage"),
    [
        (lambda p: p.labels.apply("C11", "field", "orders.income"), "[orders.income] > richer > summer"),
        (lambda p: p.labels.apply("C2", "dataset", "orders"), "[orders] > orders.income > richer > summer"),
        (lambda p: p.labels.apply("C12", "segment", "rich"), "[rich] > richer > summer"),
        (lambda p: p.labels.apply("C11", "field", "crm.email"), f"[crm.email] > {EMAIL} > richer > summer"),
        (lambda p: p.policies.create("own", "segment-match", "C5"), "orders.income > richer > summer"),
        (lambda p: p.policies.enable("later"), "orders.income > richer > summer"),
        (lambda p: p.policies.edit("now", expression="C5"), "orders.income > richer > summer"),
        (lambda p: p.policies.edit("elsewhere", action="segment-match"), "orders.income > richer > summer"),
        (
            lambda p: p.segments.update("rich", rule="colour = 'red'"),
            "orders.colour > [rich] > richer > summer",
        ),
    ],
    ids=["field", "dataset", "C12", "identity", "create", "enable", "condition", "action", "rule"],
)
def test_what_would_make_a_published_feed_break_a_policy_is_refused(
    two: Pair, change: Callable[[Any], Any], lineage: str
) -> None:
    acme = two.acme.project
    acme.labels.apply("C5", "field", "orders.income")
    acme.labels.apply("C11", "field", "orders.colour")
    acme.policies.create("later", "segment-match", "C5", status=PolicyStatus.DRAFT)
    acme.policies.create("now", "segment-match", "C9")
    acme.policies.create("elsewhere", "analytics", "C5")
    offer(two, "summer", "richer", "vip", enable="orders.colour" in lineage)  # a pending one counts as well
    before = state(acme)
    with pytest.raises(PolicyConflict, match="feed summer is published, and") as caught:
        change(acme)
    document = in_words(caught.value.document())
    assert document["code"] == "policy_conflict"
    assert lineage in paths(document)
    assert document["violations"][0]["policy_edited"] == ("[" not in lineage)
    assert state(acme) == before
    assert two.acme.node.audit.entries(limit=1)[0].result == "deny"
    assert document["hint"].startswith(("take the segment out of the feed first", "end the feed first"))
    hint = "vesica feed unshare summer --segment richer"
    if document["hint"].endswith(hint):  # it does help
        acme.feeds.unshare("summer", segment="richer")
    else:
        assert document["hint"].endswith("vesica feed revoke summer")
        acme.feeds.revoke("summer")
    change(acme)
    assert state(acme) != before


@pytest.mark.feature("GV6")
@pytest.mark.feature("GV10")
def test_a_conflict_does_not_name_what_is_hidden_from_whoever_caused_it(two: Pair) -> None:
    node, project = two.acme.node, two.acme.project
    offer(two, "summer", "richer", "vip")
    put_unasked(project, "S1", "segment", "richer")
    with limited(node) as lous:
        mine = lous.project()
        with pytest.raises(PolicyConflict) as caught:
            mine.labels.apply("C11", "field", "orders.income")
        document = in_words(caught.value.document())
        assert document["message"] == (
            "a feed that you may not see is published, and a rule about what you may not see forbids segment-match of a "
            "segment that you may not see"
        )
        assert paths(document) == []
        for hidden in ("richer", "summer"):
            assert hidden not in json.dumps(document)
        (shown, *_) = output.violations(document["violations"])
        assert shown.endswith("forbids segment-match of a segment that you may not see")


@pytest.mark.feature("GV6")
def test_an_import_that_makes_a_labelled_field_a_namespace_of_a_published_feed_is_refused(two: Pair) -> None:
    acme, file = two.acme.project, two.acme.folder / "codes.csv"

    def load(dataset: str, code: str, **options: Any) -> None:
        file.write_text(f"id,code\na3,{code}\n")
        acme.profiles.import_(file, dataset=dataset, id_column="id", **{"identities": [], **options})

    load("codes", "17", attributes=["code"])
    acme.labels.apply("C11", "field", "codes.code")
    offer(two, "summer", "richer")
    identities = {"identities": [IdentityColumn.parse("code=email_sha256:hashed")]}
    digest = hashlib.sha256(b"person3@example.com").hexdigest()
    before = Snapshot.open(acme.scope).generation
    with pytest.raises(PolicyConflict, match="feed summer is published, and") as caught:
        load("codes", digest, **identities)
    assert paths(caught.value.document()) == [f"codes.code > {EMAIL} > richer > summer"]
    assert Snapshot.open(acme.scope).generation == before
    assert two.acme.acts("profile.import", Result.DENY)[-1]["target"] == "codes"
    for _ in range(KEPT_GENERATIONS):
        load("codes", "17", attributes=["code"])
    with pytest.raises(PolicyConflict):  # nor does it delete what the oldest generation that is kept names
        load("codes", digest, **identities)
    with two.acme.project.scope.home.database.read() as tx:
        named = {
            name
            for content in tx.scalars(select(manifests.c.content))
            for name in Manifest.from_document(content).files
        }
    assert [name for name in named if not (acme.scope.data_directory / name).exists()] == []
    load("codes", "18", attributes=["code"])
    load("others", digest, **identities)
    acme.labels.remove("C11", "field", "codes.code")
    load("codes", digest, **identities)


@pytest.mark.feature("GV2")
def test_a_column_keeps_what_its_labels_are_about(two: Pair) -> None:
    acme, file = two.acme.project, two.acme.folder / "people.csv"

    def load(email: str = "person3@example.com", **options: Any) -> None:
        file.write_text(f"id,email,key\na3,{email},k\n")
        identities = [IdentityColumn.parse(each) for each in options.pop("identities", ())]
        acme.profiles.import_(file, **{"dataset": "people", "id_column": "id", "identities": identities, **options})

    load(identities=["email=email_sha256"])
    for options, held in (
        ({"identities": ["email=email_sha256/google-v3"]}, f"'email' of dataset people had identities of {EMAIL}"),
        ({"email": "x", "attributes": ["email"]}, f"'email' of dataset people had identities of {EMAIL}"),
        ({"id_column": "key", "attributes": ["id"]}, "'id' of dataset people had profile ids"),
    ):
        with pytest.raises(NotAllowed, match=held):
            load(**options)
    load()  # which leaves it out
    load(dataset="others", id_column="email", identities=["email=email_sha256"])
    acme.labels.apply("C11", "field", "others.email")  # which is both: the ids are the hashes
    assert [trace.label for trace in acme.labels.traces(PlaceKind.NAMESPACE, EMAIL)] == ["C11"]
    with acme.scope.home.database.read() as tx:
        assert [trace.label for trace in Lineage(acme.scope, tx).traces_of_ids()] == ["C11"]


@pytest.mark.feature("GV6")
def test_what_harms_no_published_feed_is_free(two: Pair) -> None:
    acme = two.acme.project
    offer(two, "summer", "richer")
    acme.feeds.create("draft", segments=["vip"], namespaces=[EMAIL], partners=["globe"])
    acme.labels.apply("C11", "segment", "vip")  # of a draft: it cannot be published
    acme.labels.apply("C11", "field", "orders.colour")  # nobody uses it
    acme.policies.create("own", "analytics", "C5")
    acme.labels.apply("C5", "dataset", "orders")
    acme.segments.update("rich", rule="income > 6")
    with pytest.raises(PolicyViolation):
        acme.feeds.publish("draft")
    put_unasked(acme, "C11", "field", "orders.income")  # broken already: other changes go on
    acme.labels.apply("C9", "field", "orders.income")
    acme.labels.remove("C9", "field", "orders.income")
    with pytest.raises(PolicyConflict):
        acme.labels.apply("C2", "field", "orders.income")


@pytest.mark.feature("GV6")
def test_a_run_that_a_policy_forbids_leaves_an_alert(two: Pair) -> None:
    acme = two.acme.project
    offer(two, "summer", "richer")
    put_unasked(acme, "C11", "field", "orders.income")
    for _ in range(2):
        with pytest.raises(PolicyViolation):
            acme.feeds.sync("summer")
    alerts = [alert.text for alert in acme.alerts.all() if alert.kind == "policy_violation"]
    assert len(alerts) == 1
    assert "feed summer does not run to globe: policy restrict-data-sharing" in alerts[0]
    with pytest.raises(NotFound):
        two.globe.members("acme", "richer")
    (job,) = Node(acme.scope.home).jobs.all(acme.scope, state=JobState.FAILED)[:1]
    assert job.error is not None
    assert job.error["violations"][0]["policy"] == "restrict-data-sharing"


@pytest.mark.feature("FD3")
def test_a_shared_segment_cannot_be_given_a_rule_over_received_ones(two: Pair) -> None:
    globe = two.globe.project
    offer(two, "summer", "vip")
    two.acme.project.feeds.sync()
    two.globe.segment("list", ["g3"])
    globe.segments.create("base", rule="own.list")
    globe.segments.create("mine", rule="own.base")
    globe.feeds.create("back", segments=["mine"], namespaces=[EMAIL], partners=["acme"])
    globe.feeds.publish("back")
    for name in ("mine", "base"):
        with pytest.raises(NotAllowed, match="segment mine of feed back is made of received segments"):
            globe.segments.update(name, rule="received.acme.vip")
    put_unasked(globe, "S1", "segment", "mine")
    with (
        limited(Node(globe.scope.home)) as lous,
        pytest.raises(NotAllowed, match="may not see of a feed that you may not see is made"),
    ):
        lous.project().segments.update("base", rule="received.acme.vip")
    with globe.scope.home.guard.itself():
        assert globe.segments.show("base").rule == "own.list"


def statements(node: Node, act: Callable[[], Any]) -> int:
    """Return how many statements an act sends to the database."""
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    event.listen(node.home.database.engine, "before_cursor_execute", note)
    try:
        act()
    finally:
        event.remove(node.home.database.engine, "before_cursor_execute", note)
    return len(sent)


@pytest.mark.feature("GV6")
def test_a_check_reads_everything_once_however_many_segments_are_shared(two: Pair) -> None:
    acme = two.acme.project
    acme.policies.create("own", "segment-match", "C5")
    offer(two, "one", "vip", enable=False)

    def toggle() -> None:
        acme.policies.disable("own")
        acme.policies.enable("own")

    check, changes = (
        statements(Node(acme.scope.home), lambda: acme.governance.check(feeds=["one"])),
        statements(Node(acme.scope.home), toggle),
    )
    offer(two, "many", "vip", "new", "rich", "richer", enable=False)
    assert statements(Node(acme.scope.home), lambda: acme.governance.check(feeds=["many"])) == check
    # Two more: the definition of the second feed, in each of two acts.
    assert statements(Node(acme.scope.home), toggle) == changes + 2
