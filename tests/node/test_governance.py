"""What labels, policies and restricted uses forbid: at the sender, while a feed lives, and at the receiver."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, insert, select

from cli import output
from node.access.guard import ITSELF
from node.errors import InvalidInput, NotFound, Refused
from node.feeds import versions
from node.feeds.receiving import offers
from node.feeds.sending.feeds import Removal
from node.governance.governance import PolicyConflict, PolicyViolation
from node.governance.labels import Kind
from node.imports.importer import IdentityColumn
from node.node import Node
from node.people.data import KEPT_GENERATIONS, files_of
from node.storage.tables import label_uses, manifests

EMAIL = "email_sha256/lc-v1"
SEGMENTS = {"vip": ["a2", "a3"], "new": ["a3", "a4", "a5"]}


@pytest.fixture
def two(pair: Any, person: Any) -> Any:
    """Acme with segments over lists and over fields of dataset "orders", and globe, who knows half of the people."""
    ours = [person(f"a{n}", f"person{n}@example.com") for n in range(6)]
    theirs = [person(f"g{n}", f"person{n}@example.com") for n in range(3, 9)]
    pair.prepare(ours, theirs, SEGMENTS)
    file = pair.acme.folder / "orders.csv"
    file.write_text("id,income,colour\na3,9,red\na4,20,blue\n")
    acme = pair.acme.project
    acme.profiles.import_(file, dataset="orders", id_column="id", identities=[], attributes=["income", "colour"])
    acme.segments.create("rich", rule="income > 5")
    acme.segments.create("richer", rule="own.rich AND income > 10")
    return pair


def put_unasked(project: Any, label: str, kind: str, target: str) -> None:
    """Put a label where it came by a way that asks nobody, as in a database from elsewhere."""
    row = {"project_id": project.id, "label": label, "kind": kind, "target": target}
    with project.node.store.begin() as tx:
        tx.execute(insert(label_uses).values(id=project.node.new_id(), **row))


@contextmanager
def limited(node: Node) -> Iterator[Node]:
    """Open a home once more for a user who may see the label C5 and no other."""
    ann = node.users.create("ann", ["administrator"]).text
    node.guard.signed_in = ITSELF  # it serves
    with Node.open(node.home, now=node.now) as opened:
        opened.sign_in(ann)
        opened.roles.create("limited", ["view", "manage-governance", "manage-data"], labels=["C5"])
        opened.sign_in(opened.users.create("lou", ["limited"]).text)
        yield opened


def offer(pair: Any, name: str, *segments: str, enable: bool = True, **rest: Any) -> None:
    pair.acme.project.feeds.create(name, segments=segments, namespaces=[EMAIL], partners=["globe"], **rest)
    pair.acme.project.feeds.publish(name)
    pair.post()
    if enable:
        pair.globe.project.received.enable(name)
        pair.post()


def paths(document: dict[str, Any]) -> list[str]:
    """Return each lineage of a report, with what was just edited in brackets."""
    return [
        " > ".join(f"[{place['name']}]" if place["edited"] else place["name"] for place in trace["path"])
        for violation in document["violations"]
        for trace in violation["lineage"]
    ]


# The report


@pytest.mark.feature("GV5")
def test_a_refusal_names_every_violation_with_its_lineage_and_what_would_help(two: Any) -> None:
    acme = two.acme.project
    acme.labels.apply("C11", "dataset", "orders")
    acme.labels.apply("C3", "field", "orders.income")
    acme.labels.apply("C12", "segment", "vip")
    acme.policies.create("own", "segment-match", "C1 OR (C3 AND C11)")
    with pytest.raises(PolicyViolation, match=r"C3 from field orders\.income > segment richer") as caught:
        acme.feeds.create("summer", segments=["richer", "vip"], namespaces=[EMAIL], partners=["globe"])
    document = caught.value.document()
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
def test_a_check_takes_segments_or_feeds_an_action_and_drafts(two: Any) -> None:
    acme = two.acme.project
    offer(two, "summer", "vip", "richer", enable=False)
    assert acme.governance.check(["vip"], feeds=["summer"]) == []
    acme.policies.create("soon", "segment-match", "C4", status="draft")
    acme.labels.apply("C4", "field", "crm.email")
    acme.labels.apply("C4", "field", "orders.income")
    assert acme.governance.check(feeds=["summer"]) == []
    found = acme.governance.check(feeds=["summer"], include_draft=True)
    assert [(each.segment, each.policy) for each in found] == [("vip", "soon"), ("richer", "soon")]
    assert [str(trace) for trace in found[1].lineage] == [
        "C4 from field orders.income > segment richer > feed summer",
        f"C4 from field crm.email > namespace {EMAIL} > segment richer > feed summer",
    ]
    assert "vesica feed unshare summer --segment richer" in found[1].fixes
    assert acme.governance.check(["richer"], action="email-targeting") == []
    acme.policies.enable("restrict-email-targeting")
    assert [each.policy for each in acme.governance.check(["richer"], action="email-targeting")] == [
        "restrict-email-targeting"
    ]
    for wrong in (
        lambda: acme.governance.check(["vip"], action="world-domination"),
        lambda: acme.governance.check(["nothing"]),
        lambda: acme.governance.check(feeds=["nothing"]),
    ):
        with pytest.raises((InvalidInput, NotFound)):
            wrong()


# While a feed lives


def state(project: Any) -> Any:
    """Return all that a refused change must have left as it was."""
    return (
        [(label.name, label.applied_to) for label in project.labels.list() if label.applied_to],
        project.policies.list(),
        [(each.name, each.rule, each.size) for each in project.segments.list()],
        [(feed["name"], feed["version"]) for feed in project.feeds.list()],
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
    two: Any, change: Callable[[Any], Any], lineage: str
) -> None:
    acme = two.acme.project
    acme.labels.apply("C5", "field", "orders.income")
    acme.labels.apply("C11", "field", "orders.colour")
    acme.policies.create("later", "segment-match", "C5", status="draft")
    acme.policies.create("now", "segment-match", "C9")
    acme.policies.create("elsewhere", "analytics", "C5")
    offer(two, "summer", "richer", "vip", enable="orders.colour" in lineage)  # a pending one counts as well
    before = state(acme)
    with pytest.raises(PolicyConflict, match="feed summer is published, and") as caught:
        change(acme)
    document = caught.value.document()
    assert document["code"] == "policy_conflict"
    assert lineage in paths(document)
    assert document["violations"][0]["policy_edited"] == ("[" not in lineage)
    assert state(acme) == before
    assert two.acme.node.audit.list(limit=1)[0].result == "deny"
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
def test_a_conflict_does_not_name_what_is_hidden_from_whoever_caused_it(two: Any) -> None:
    node, project = two.acme.node, two.acme.project
    offer(two, "summer", "richer", "vip")
    put_unasked(project, "S1", "segment", "richer")
    with limited(node) as lous:
        mine = lous.project()
        with pytest.raises(PolicyConflict) as caught:
            mine.labels.apply("C11", "field", "orders.income")
        document = caught.value.document()
        assert document["message"].startswith("a feed that you may not see is published, and policy")
        assert "of a segment that you may not see: C11 from field orders.income" in document["message"]
        assert paths(document) == ["[orders.income] > a segment that you may not see > a feed that you may not see"]
        for hidden in ("richer", "summer"):
            assert hidden not in json.dumps(document)
        (shown, *_) = output.violations(document["violations"])
        assert shown.endswith("forbids segment-match of a segment that you may not see")


@pytest.mark.feature("GV6")
def test_an_import_that_makes_a_labelled_field_a_namespace_of_a_published_feed_is_refused(two: Any) -> None:
    acme, file = two.acme.project, two.acme.folder / "codes.csv"

    def load(dataset: str, code: str, **options: Any) -> None:
        file.write_text(f"id,code\na3,{code}\n")
        acme.profiles.import_(file, dataset=dataset, id_column="id", **{"identities": [], **options})

    load("codes", "17", attributes=["code"])
    acme.labels.apply("C11", "field", "codes.code")
    offer(two, "summer", "richer")
    identities = {"identities": [IdentityColumn.parse("code=email_sha256:hashed")]}
    digest = hashlib.sha256(b"person3@example.com").hexdigest()
    before = acme.snapshot().generation
    with pytest.raises(PolicyConflict, match="feed summer is published, and") as caught:
        load("codes", digest, **identities)
    assert paths(caught.value.document()) == [f"codes.code > {EMAIL} > richer > summer"]
    assert acme.snapshot().generation == before
    assert two.acme.acts("profile.import", "deny")[-1]["target"] == "codes"
    for _ in range(KEPT_GENERATIONS):
        load("codes", "17", attributes=["code"])
    with pytest.raises(PolicyConflict):  # nor does it delete what the oldest generation that is kept names
        load("codes", digest, **identities)
    with two.acme.node.store.read() as tx:
        named = {name for content in tx.scalars(select(manifests.c.content)) for name in files_of(content)}
    assert [name for name in named if not (acme.data_directory / name).exists()] == []
    load("codes", "18", attributes=["code"])
    load("others", digest, **identities)
    acme.labels.remove("C11", "field", "codes.code")
    load("codes", digest, **identities)


@pytest.mark.feature("GV2")
def test_a_column_keeps_what_its_labels_are_about(two: Any) -> None:
    acme, file = two.acme.project, two.acme.folder / "people.csv"

    def load(email: str = "person3@example.com", **options: Any) -> None:
        file.write_text(f"id,email,key\na3,{email},k\n")
        identities = [IdentityColumn.parse(each) for each in options.pop("identities", ())]
        acme.profiles.import_(file, **{"dataset": "people", "id_column": "id", "identities": identities, **options})

    load(identities=["email=email_sha256"])
    for options, held in (
        ({"identities": ["email=email_sha256/google-v3"]}, f"'email' of dataset people held identities of {EMAIL}"),
        ({"email": "x", "attributes": ["email"]}, f"'email' of dataset people held identities of {EMAIL}"),
        ({"id_column": "key", "attributes": ["id"]}, "'id' of dataset people held profile ids"),
    ):
        with pytest.raises(Refused, match=held):
            load(**options)
    load()  # which leaves it out
    load(dataset="others", id_column="email", identities=["email=email_sha256"])
    acme.labels.apply("C11", "field", "others.email")  # which is both: the ids are the hashes
    assert [trace.label for trace in acme.labels.traces(Kind.NAMESPACE, EMAIL)] == ["C11"]
    with acme.node.store.read() as tx:
        assert [trace.label for trace in acme.labels.traces_of_ids(tx)] == ["C11"]


@pytest.mark.feature("GV6")
def test_what_harms_no_published_feed_is_free(two: Any) -> None:
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
def test_a_run_that_a_policy_forbids_leaves_an_alert(two: Any) -> None:
    acme = two.acme.project
    offer(two, "summer", "richer")
    put_unasked(acme, "C11", "field", "orders.income")
    for _ in range(2):
        with pytest.raises(PolicyViolation):
            acme.feeds.sync("summer")
    alerts = [alert.text for alert in acme.alerts.list() if alert.kind == "policy_violation"]
    assert len(alerts) == 1
    assert "feed summer does not run to globe: policy restrict-data-sharing" in alerts[0]
    with pytest.raises(NotFound):
        two.globe.members("acme", "richer")
    (job,) = acme.node.jobs.list(acme, state="failed")[:1]
    assert job.error is not None
    assert job.error["violations"][0]["policy"] == "restrict-data-sharing"


@pytest.mark.feature("FD3")
def test_a_shared_segment_cannot_be_given_a_rule_over_received_ones(two: Any) -> None:
    globe = two.globe.project
    offer(two, "summer", "vip")
    two.acme.project.feeds.sync()
    two.globe.segment("list", ["g3"])
    globe.segments.create("base", rule="own.list")
    globe.segments.create("mine", rule="own.base")
    globe.feeds.create("back", segments=["mine"], namespaces=[EMAIL], partners=["acme"])
    globe.feeds.publish("back")
    for name in ("mine", "base"):
        with pytest.raises(Refused, match="segment mine of feed back is made of received segments"):
            globe.segments.update(name, rule="received.acme.vip")
    put_unasked(globe, "S1", "segment", "mine")
    with (
        limited(globe.node) as lous,
        pytest.raises(Refused, match="may not see of a feed that you may not see is made"),
    ):
        lous.project().segments.update("base", rule="received.acme.vip")
    assert globe.segments.show("base").rule == "own.list"


def statements(node: Node, act: Callable[[], Any]) -> int:
    """Return how many statements an act sends to the database."""
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    event.listen(node.store.engine, "before_cursor_execute", note)
    try:
        act()
    finally:
        event.remove(node.store.engine, "before_cursor_execute", note)
    return len(sent)


@pytest.mark.feature("GV6")
def test_a_check_reads_everything_once_however_many_segments_are_shared(two: Any) -> None:
    acme = two.acme.project
    acme.policies.create("own", "segment-match", "C5")
    offer(two, "one", "vip", enable=False)

    def toggle() -> None:
        acme.policies.disable("own")
        acme.policies.enable("own")

    check, changes = (
        statements(acme.node, lambda: acme.governance.check(feeds=["one"])),
        statements(acme.node, toggle),
    )
    offer(two, "many", "vip", "new", "rich", "richer", enable=False)
    assert statements(acme.node, lambda: acme.governance.check(feeds=["many"])) == check
    assert statements(acme.node, toggle) == changes + 2  # the definition of the second feed, in each of two acts


# At the receiver


def hashes(pair: Any, feed: str = "summer") -> set[str]:
    return {side.show(feed)["hash"] for side in (pair.acme.project.feeds, pair.globe.project.received)}


@pytest.mark.feature("GV11")
def test_the_senders_labels_are_shown_inherited_and_obeyed_by_the_receiver(two: Any, tmp_path: Path) -> None:
    two.acme.project.labels.apply("C4", "field", "orders.income")
    offer(two, "summer", "rich", "vip")
    two.acme.project.feeds.sync()
    globe = two.globe.project
    assert globe.received.show("summer")["segments"] == [
        {"name": "rich", "labels": ["C4"]},
        {"name": "vip", "labels": []},
    ]
    shown = globe.received.segment("received.acme.rich")
    assert (shown["labels"], shown["size"], "rule" in shown) == (["C4"], 2, False)
    globe.segments.create("copied", rule="received.acme.rich")
    globe.segments.create("deeper", rule="NOT own.copied")
    globe.segments.create("free", rule="received.acme.vip")
    assert {label: list(map(str, origins)) for label, origins in globe.labels.labels_of_segment("deeper").items()} == {
        "C4": ["received.acme.rich"]
    }
    assert globe.labels.labels_of_segment("free") == {}
    with pytest.raises(Refused, match=r"inherits C4 from received\.acme\.rich") as read_only:
        globe.labels.remove("C4", "segment", "copied")
    assert read_only.value.hint == "vesica segment update copied --rule EXPR"
    assert globe.segments.export("deeper", tmp_path / "a.csv", uses=["email-targeting"]) == 4
    globe.policies.enable("restrict-email-targeting")
    with pytest.raises(PolicyViolation, match=r"C4 from received\.acme\.rich > segment copied > segment deeper"):
        globe.segments.export("deeper", tmp_path / "b.csv", uses=["email-targeting"])
    with pytest.raises(PolicyViolation) as unsaid:
        globe.segments.export("deeper", tmp_path / "b.csv")
    assert "--use" in unsaid.value.hint
    assert globe.segments.export("deeper", tmp_path / "c.csv", uses=["analytics"]) == 4
    assert globe.segments.export("free", tmp_path / "d.csv") == 1
    assert not (tmp_path / "b.csv").exists()
    assert [row["detail"]["uses"] for row in two.globe.acts("segment.export")] == [
        [],
        ["analytics"],
        ["email-targeting"],
    ]


@pytest.mark.feature("GV11")
@pytest.mark.parametrize("enable", [False, True], ids=["pending", "enabled"])
def test_labels_that_the_sender_changes_hold_at_once_on_both_sides(two: Any, tmp_path: Path, enable: bool) -> None:
    acme, globe = two.acme.project, two.globe.project
    offer(two, "summer", "rich", "vip", enable=enable)
    acme.feeds.create("draft", segments=["rich"], namespaces=[EMAIL], partners=["globe"])
    acme.labels.apply("C4", "dataset", "orders")
    two.post()
    assert len(hashes(two)) == 1
    assert acme.feeds.show("draft")["segments"] == [{"name": "rich", "labels": ["C4"]}]
    assert two.acme.acts("label.apply")[0]["detail"]["feeds"] == ["draft", "summer"]
    shown = globe.received.show("summer")
    assert shown["segments"][0] == {"name": "rich", "labels": ["C4"]}
    assert (shown["accepted_version"], shown["offered_version"]) == ((2, None) if enable else (None, 2))
    if not enable:
        globe.received.enable("summer")
        two.post()
    else:
        text = "acme changed feed summer, and gives nothing new by it: vesica feed show summer"
        assert text in [each.text for each in globe.alerts.list()]
    acme.feeds.sync("summer")
    assert two.globe.members("acme", "rich") == {"g3", "g4"}
    globe.segments.create("copied", rule="received.acme.rich")
    globe.policies.enable("restrict-email-targeting")
    with pytest.raises(PolicyViolation):
        globe.segments.export("copied", tmp_path / "a.csv", uses=["email-targeting"])
    acme.labels.remove("C4", "dataset", "orders")
    two.post()
    assert len(hashes(two)) == 1
    assert globe.segments.export("copied", tmp_path / "a.csv", uses=["email-targeting"]) == 2
    assert [partner["status"] for partner in acme.feeds.show("summer")["partners"]] == ["enabled"]
    acme.segments.update("rich", rule="income > 5 AND NOT own.vip")  # the labels are the same, so is the version
    two.post()
    assert acme.feeds.show("summer")["version"] == 3
    acme.labels.apply("C5", "segment", "vip")
    two.post()
    assert globe.labels.labels_of_segment("copied")["C5"][0].target == "acme.rich"
    acme.feeds.sync("summer")
    assert two.globe.members("acme", "rich") == {"g4"}
    assert len(hashes(two)) == 1


@pytest.mark.feature("GV11")
def test_a_label_holds_before_the_version_that_brings_it_is_accepted(two: Any) -> None:
    """Stricter at once: also where a version waits for acceptance, since it gives something too."""
    offer(two, "summer", "rich")
    two.acme.project.feeds.sync()
    globe = two.globe.project
    globe.segments.create("copied", rule="received.acme.rich")
    with globe.node.store.begin() as tx:
        connection, feed = globe.received.get("summer", None, tx)
        before = versions.get(tx, feed.id, 1)
        (rich,) = before.segments
        more = replace(rich, id=bytes(16), name="more", labels=("C9",))
        after = replace(before, version=2, segments=(replace(rich, labels=("c4", "theirs")), more))
        offers.offered(globe, tx, connection, after)
    assert globe.received.show("summer")["accepted_version"] == 1
    assert list(globe.labels.labels_of_segment("copied")) == ["C4", "theirs"]


@pytest.mark.feature("GV8")
def test_a_restricted_use_binds_whoever_reads_the_segment(two: Any, tmp_path: Path) -> None:
    uses = ["email-targeting", "export-to-third-party"]
    offer(two, "summer", "rich", restricted_uses=uses)
    offer(two, "winter", "vip")
    two.acme.project.feeds.sync()
    globe = two.globe.project
    globe.segments.create("copied", rule="received.acme.rich")
    globe.segments.create("deeper", rule="NOT own.copied")
    globe.segments.create("free", rule="received.acme.vip")
    file = tmp_path / "out.csv"
    for name in ("copied", "deeper"):
        for chosen in (["email-targeting"], ["analytics", "export-to-third-party"], []):
            with pytest.raises(PolicyViolation, match=r"acme's feed summer \(restricted uses\) forbids") as caught:
                globe.segments.export(name, file, uses=chosen)
            refused = {violation["action"] for violation in caught.value.document()["violations"]}
            assert refused == set(uses) & set(chosen or uses)
        assert globe.segments.export(name, file, uses=["analytics", "onsite-personalisation"]) > 0
        file.unlink()
    found = caught.value.document()["violations"][0]
    assert (found["feed"], found["policy"]) == ("summer", None)
    assert paths({"violations": [found]}) == ["acme.rich > copied > deeper"]
    assert found["fixes"] == ["vesica segment update copied --rule EXPR"]
    assert globe.segments.export("free", file) == 1
    for action in ("email-targeting", "segment-match"):  # nothing received is shared on
        assert [each.action for each in globe.governance.check(["copied"], action=action)] == [action]
    for wrong in ("world-domination", "segment-match"):
        with pytest.raises(InvalidInput):
            globe.segments.export("free", file, uses=[wrong])
    assert {row["target"] for row in two.globe.acts("segment.export", "deny")} == {"copied", "deeper", "free"}
    two.acme.project.feeds.edit("summer", Removal(restricted_uses=["email-targeting"]))  # the sender lifts it: at once
    two.post()
    assert globe.segments.export("copied", file, uses=["email-targeting"]) == 2
    with pytest.raises(PolicyViolation):
        globe.segments.export("copied", file, uses=["export-to-third-party"])


@pytest.mark.feature("GV8")
def test_a_segment_that_comes_by_two_feeds_is_bound_by_both(two: Any, tmp_path: Path) -> None:
    offer(two, "summer", "vip")
    offer(two, "winter", "vip", restricted_uses=["analytics"])
    two.acme.project.feeds.sync()
    globe = two.globe.project
    globe.segments.create("copied", rule="received.acme.vip")
    with pytest.raises(PolicyViolation, match="feed winter"):
        globe.segments.export("copied", tmp_path / "out.csv", uses=["analytics"])
    globe.received.disable("winter")  # a pause keeps the members, and so the restriction
    with pytest.raises(PolicyViolation, match="feed winter"):
        globe.segments.export("copied", tmp_path / "out.csv", uses=["analytics"])
    globe.received.decline("winter")
    assert globe.segments.export("copied", tmp_path / "out.csv", uses=["analytics"]) == 1


@pytest.mark.feature("GV9")
def test_c12_of_the_id_column_or_of_a_sender_blocks_every_file(two: Any, tmp_path: Path) -> None:
    acme, globe = two.acme.project, two.globe.project
    file = tmp_path / "out.csv"
    acme.labels.apply("C12", "field", "crm.id")
    with pytest.raises(PolicyViolation, match=r"C12 from field crm\.id > segment vip"):
        acme.segments.export("vip", file, uses=["analytics"])
    acme.labels.remove("C12", "field", "crm.id")
    offer(two, "summer", "vip")
    acme.feeds.sync()
    globe.segments.create("copied", rule="received.acme.vip")
    for policy in globe.policies.list():
        globe.policies.disable(policy.name)
    with globe.node.store.begin() as tx:  # as from a sender that shares what it may not
        connection, feed = globe.received.get("summer", None, tx)
        before = versions.get(tx, feed.id, 1)
        labelled = tuple(replace(each, labels=("C12",)) for each in before.segments)
        offers.offered(globe, tx, connection, replace(before, version=2, segments=labelled))
    with pytest.raises(PolicyViolation, match=r"label C12 .* C12 from received\.acme\.vip"):
        globe.segments.export("copied", file, uses=["analytics"])
    assert not file.exists()
