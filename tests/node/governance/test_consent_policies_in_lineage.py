"""What a consent policy reads counts as read by all that it narrows, for its action: who is left out tells what was read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from governed import offer, paths, put_unasked
from sides import EMAIL, Pair
from sqlalchemy import update

from node.access.scope import Scope
from node.errors import NotAllowed
from node.feeds.estimates import asking
from node.governance.lineage import Lineage
from node.governance.violations import PolicyConflict, PolicyViolation
from node.people.snapshots import Snapshot
from node.project import Project
from node.storage.tables import consent_policies
from psi.errors import Remedy, VesicaError


def put_policy(project: Project, name: str, needs: str, action: str = "segment-match") -> None:
    """Add a policy and enable it in a way that asks nobody, as in a database of before."""
    made = project.consent_policies.create(name, needs, action="analytics")
    with project.scope.home.database.begin() as tx:
        mine = (consent_policies.c.name == name, consent_policies.c.project_id == project.id)
        tx.execute(update(consent_policies).where(*mine).values(action=action, status="enabled"))
    assert made.name == name


def labels_for(scope: Scope, segment: str, action: str) -> set[str]:
    with scope.read() as tx:
        return Lineage(scope, tx).labels_for(segment, action)


@pytest.mark.feature("GV2")
@pytest.mark.feature("GV7")
def test_a_label_reaches_what_is_narrowed_for_that_action_alone(two: Pair) -> None:
    acme = two.acme.project
    acme.labels.apply("C5", "field", "orders.income")
    acme.labels.apply("C6", "segment", "new")
    acme.labels.apply("S1", "segment", "vip")
    policies = acme.consent_policies
    policies.create("thrifty", "income < 5 OR own.new", action="analytics", enable=True)
    policies.create("only-vip", "colour = 'red'", applies="own.new", label="S1", enable=True)
    policies.create("off", "own.richer")
    assert labels_for(acme.scope, "vip", "analytics") == {"C5", "C6", "S1"}
    assert labels_for(acme.scope, "vip", "segment-match") == {"C6", "S1"}
    assert labels_for(acme.scope, "new", "segment-match") == {"C6"}  # its own: it has no S1
    assert labels_for(acme.scope, "vip", "data-science") == {"S1"}
    assert acme.governance.check(["vip"], action="analytics") == []
    acme.policies.create("no-income", "analytics", "C5 AND C6")
    (found,) = acme.governance.check(["vip"], action="analytics")
    assert [str(trace) for trace in found.lineage] == [
        "C5 from field orders.income > consent-policy thrifty > segment vip",
        "C6 from segment new > consent-policy thrifty > segment vip",
    ]
    assert found.fixes == (
        Remedy("label.remove", {"label": "C5", "field": "orders.income"}),
        Remedy("consent.policy.disable", {"name": "thrifty"}),
        Remedy("label.remove", {"label": "C6", "segment": "new"}),
    )


@pytest.mark.feature("GV6")
@pytest.mark.feature("GV7")
@pytest.mark.parametrize("label", ["C11", "C12"])
def test_a_policy_that_reads_what_may_not_leave_is_refused_while_a_feed_lives(two: Pair, label: str) -> None:
    acme = two.acme.project
    offer(two, "summer", "vip")
    acme.labels.apply(label, "field", "orders.income")
    acme.consent_policies.create("thrifty", "income < 5")
    for act in (
        lambda: acme.consent_policies.enable("thrifty"),
        lambda: acme.consent_policies.create("another", "income > 5", enable=True),
    ):
        with pytest.raises(PolicyConflict, match=r"feed summer is published") as refused:
            act()
        fixes = [fix for each in refused.value.document()["violations"] for fix in each["fixes"]]
        assert {fix["act"] for fix in fixes} == {"label.remove", "feed.unshare"}  # to disable it would change nothing
    assert [(each.name, each.status) for each in acme.consent_policies.all()] == [("thrifty", "disabled")]
    acme.feeds.revoke("summer")
    acme.consent_policies.enable("thrifty")
    with pytest.raises(PolicyViolation) as draft:
        acme.feeds.create("winter", segments=["vip"], namespaces=[EMAIL], partners=["globe"])
    assert "orders.income > thrifty > vip" in paths(draft.value.document())
    acme.consent_policies.disable("thrifty")
    acme.feeds.create("winter", segments=["vip"], namespaces=[EMAIL], partners=["globe"])


@pytest.mark.feature("GV6")
@pytest.mark.feature("GV7")
def test_a_label_is_refused_on_what_an_enabled_policy_reads_and_no_fix_undoes_the_refused(two: Pair) -> None:
    acme = two.acme.project
    offer(two, "summer", "vip")
    acme.consent_policies.create("thrifty", "income < 5", enable=True)
    with pytest.raises(PolicyConflict) as refused:
        acme.labels.apply("C12", "field", "orders.income")
    document = refused.value.document()
    assert paths(document)[0] == "[orders.income] > thrifty > vip > summer"
    for violation in document["violations"]:
        assert [fix["act"] for fix in violation["fixes"]] == ["consent.policy.disable", "feed.unshare"]
    put_unasked(acme, "C11", "field", "orders.income")
    with pytest.raises(VesicaError, match="C11 from field"):
        acme.feeds.sync("summer")


@pytest.mark.feature("GV5")
def test_a_refused_label_proposes_no_label_to_take_off_that_is_not_there(two: Pair) -> None:
    acme = two.acme.project
    acme.labels.apply("C3", "field", "orders.income")
    acme.policies.create("both", "segment-match", "C3 AND C7")
    offer(two, "summer", "richer")
    with pytest.raises(PolicyConflict) as refused:
        acme.labels.apply("C7", "field", "orders.income")
    (violation,) = refused.value.violations
    assert violation.labels == ("C3", "C7")
    assert violation.fixes == (
        Remedy("label.remove", {"label": "C3", "field": "orders.income"}),
        Remedy("feed.unshare", {"name": "summer", "segment": "richer"}),
    )


@pytest.mark.feature("GV2")
@pytest.mark.feature("GV11")
def test_partners_get_the_labels_of_what_policies_read(two: Pair) -> None:
    acme, globe = two.acme.project, two.globe.project
    acme.labels.apply("C5", "field", "orders.income")
    offer(two, "summer", "vip")

    def shown() -> list[Any]:
        two.post()
        assert acme.feeds.show("summer")["hash"] == globe.received.show("summer")["hash"]
        return [each["labels"] for each in globe.received.show("summer")["segments"]]

    assert shown() == [[]]
    acme.consent_policies.create("thrifty", "income < 5", enable=True)
    assert shown() == [["C5"]]
    acme.consent_policies.disable("thrifty")
    assert shown() == [[]]
    acme.consent_policies.enable("thrifty")
    assert shown() == [["C5"]]
    acme.consent_policies.delete("thrifty")
    assert shown() == [[]]
    acme.consent_policies.create("thrifty", "income < 5", enable=True)
    acme.feeds.create("winter", segments=["vip"], namespaces=[EMAIL], partners=["globe"])
    assert acme.feeds.show("winter")["segments"] == [{"name": "vip", "labels": ["C5"]}]


@pytest.fixture
def receiving(two: Pair) -> Pair:
    """Globe has got vip of acme, and shares "mine" with acme itself."""
    offer(two, "summer", "vip", restricted_uses=["analytics"])
    two.acme.project.feeds.sync("summer")
    two.globe.segment("mine", ["g3", "g4", "g5"])
    two.globe.project.segments.create("derived", rule="received.acme.vip")
    return two


RECEIVED = ("received.acme.vip", "NOT own.derived")


@pytest.mark.feature("GV11")
@pytest.mark.parametrize("needs", RECEIVED)
def test_no_policy_on_sharing_reads_what_was_received(receiving: Pair, needs: str) -> None:
    globe = receiving.globe.project
    for enable in (False, True):
        with pytest.raises(NotAllowed, match="consent-policy known on sharing reads received") as refused:
            globe.consent_policies.create("known", needs, enable=enable)
        assert refused.value.remedy is None
    with pytest.raises(NotAllowed, match="reads received"):
        globe.consent_policies.create("known", "own.mine", applies=needs)
    assert globe.consent_policies.all() == []


@pytest.mark.feature("GV11")
def test_a_segment_that_a_policy_on_sharing_reads_is_not_made_of_received_ones(receiving: Pair) -> None:
    globe = receiving.globe.project
    globe.segments.create("ruled", rule="own.mine")
    globe.consent_policies.create("known", "own.ruled", enable=True)
    with pytest.raises(NotAllowed, match="known on sharing reads received"):
        globe.segments.update("ruled", rule="own.derived")
    globe.consent_policies.disable("known")
    globe.segments.update("ruled", rule="own.derived")
    with pytest.raises(NotAllowed, match="known on sharing reads received"):
        globe.consent_policies.enable("known")


@pytest.mark.feature("GV11")
@pytest.mark.parametrize("needs", RECEIVED)
def test_a_policy_of_before_that_reads_received_segments_stops_what_it_narrows(receiving: Pair, needs: str) -> None:
    globe, acme = receiving.globe.project, receiving.acme.project
    globe.feeds.create("back", segments=["mine"], namespaces=[EMAIL], partners=["acme"])
    globe.feeds.publish("back")
    receiving.post()
    acme.received.enable("back", "globe")
    receiving.post()
    put_policy(globe, "known", needs)
    acts: list[Callable[[], object]] = [lambda: globe.feeds.sync("back"), lambda: globe.feeds.estimate("back")]
    for act in acts:
        with pytest.raises(NotAllowed, match="known on sharing reads received") as refused:
            act()
        assert refused.value.remedy == Remedy("consent.policy.disable", {"name": "known"})
        assert "what is your own" in refused.value.hint
    globe.labels.apply("C5", "segment", "mine")  # what has nothing to do with it goes on
    globe.consent_policies.disable("known")
    globe.feeds.sync("back")
    assert receiving.acme.members("globe", "mine") == {"a3", "a4", "a5"}


@pytest.mark.feature("EX7")
@pytest.mark.parametrize("needs", RECEIVED)
def test_a_restricted_use_binds_a_file_that_a_policy_narrows(receiving: Pair, tmp_path: Path, needs: str) -> None:
    globe = receiving.globe.project
    globe.consent_policies.create("known", needs, action="analytics", enable=True)
    with pytest.raises(PolicyViolation, match="restricted uses") as refused:
        globe.files.export("mine", tmp_path / "a.csv", uses=["analytics"])
    assert Remedy("consent.policy.disable", {"name": "known"}) in refused.value.violations[0].fixes
    assert not (tmp_path / "a.csv").exists()
    with pytest.raises(PolicyViolation):
        globe.files.export("mine", tmp_path / "a.csv")
    assert globe.files.export("mine", tmp_path / "a.csv", uses=["data-science"]) == 3
    globe.consent_policies.create("others", needs, action="data-science", enable=True)
    assert globe.files.export("mine", tmp_path / "b.csv", uses=["data-science"]) < 3


@pytest.mark.feature("GV7")
def test_no_file_leaves_that_a_policy_on_it_narrows_by_what_may_never_leave(two: Pair, tmp_path: Path) -> None:
    acme = two.acme.project
    acme.consent_policies.create("thrifty", "income > 5", action="email-targeting", enable=True)
    assert acme.files.export("vip", tmp_path / "a.csv", uses=["email-targeting"]) == 1
    acme.labels.apply("C12", "field", "orders.income")
    for uses in (["email-targeting"], []):
        with pytest.raises(PolicyViolation, match="C12"):
            acme.files.export("vip", tmp_path / "b.csv", uses=uses)
    assert acme.files.export("vip", tmp_path / "c.csv", uses=["analytics"]) == 2


@pytest.mark.feature("GV4")
def test_a_question_that_waited_is_checked_when_it_is_asked(two: Pair) -> None:
    acme = two.acme.project
    acme.feeds.create("summer", segments=["richer"], namespaces=[EMAIL], partners=["globe"])
    assert acme.feeds.estimate("summer", wait=False)[0]["status"] == "queued"
    acme.labels.apply("C11", "field", "orders.income")  # no published feed forbids it
    two.post()
    (job,) = two.acme.node.jobs.all()
    assert (job.state, (job.error or {}).get("code")) == ("failed", "policy_violation")
    scope = acme.scope
    connection = acme.partners.get("globe")
    with pytest.raises(PolicyViolation):
        asking.prepare(scope, connection, EMAIL, ["richer"], Snapshot.open(scope), sample="")


@pytest.mark.feature("GV7")
def test_the_segments_that_a_policy_reads_are_evaluated_before_a_run_applies_it(two: Pair, tmp_path: Path) -> None:
    acme = two.acme.project
    offer(two, "summer", "new")
    acme.segments.create("reds", rule="colour = 'red'")
    acme.consent_policies.create("reds-only", "own.reds", enable=True)
    acme.feeds.sync("summer")
    assert two.globe.members("acme", "new") == {"g3"}
    file = tmp_path / "orders.csv"
    file.write_text("id,income,colour\na3,9,blue\na4,20,red\n")
    acme.profiles.import_(file, dataset="orders", id_column="id", identities=[], attributes=["income", "colour"])
    acme.feeds.sync("summer")
    assert two.globe.members("acme", "new") == {"g4"}
