"""What another consent model would change: counted without a change, and then so."""

from pathlib import Path

import pytest
from loading import four_people
from sides import Pair, Person

from node.errors import InvalidInput
from node.node import Node
from node.people.snapshots import Snapshot
from node.project import Project


@pytest.fixture
def project(node: Node, tmp_path: Path) -> Project:
    return four_people(node, tmp_path)


@pytest.mark.feature("CO4")
def test_a_dry_run_counts_people_and_identities_and_changes_nothing(project: Project) -> None:
    project.consent.set("1", "n", "email_sha256")
    project.consent.set("3", "y", "ecid")
    generation, acts = Snapshot.open(project.scope).generation, len(project.scope.home.audit.entries(limit=100))
    first = project.reports.preview("opt-out")
    assert first["before"] is None
    assert first["profiles"] == {"leave": 0, "come": 3, "stay": 0}
    assert project.scope.consent_model is None
    project.consent.set_model("opt-out")
    found = project.reports.preview("opt-in")
    assert (found["before"], found["model"]) == ("opt-out", "opt-in")
    assert found["profiles"] == {"leave": 0, "come": 0, "stay": 3}  # the third by its ECID alone
    assert found["namespaces"] == {
        "email_sha256/lc-v1": {"leave": 1, "come": 0, "stay": 1},
        "ecid/digits-v1": {"leave": 0, "come": 0, "stay": 3},
    }
    assert found["feeds"] == []
    assert project.scope.consent_model == "opt-out"
    assert Snapshot.open(project.scope).generation == generation
    assert len(project.scope.home.audit.entries(limit=100)) == acts + 1
    with pytest.raises(InvalidInput):
        project.reports.preview("maybe")


@pytest.mark.feature("CO4")
def test_a_run_does_what_the_dry_run_said(pair: Pair, person: type[Person]) -> None:
    ours = [person(str(n), f"u{n}@x.com", share=share) for n, share in enumerate(["y", "y", "", "p", "n"], start=1)]
    pair.prepare(ours, [each._replace(share="") for each in ours], {"vip": ["1", "2", "3", "5"], "all": ["4"]})
    acme, email = pair.acme.project, "email_sha256/lc-v1"
    pair.share("summer", ["vip", "all"], [email])
    acme.feeds.sync("summer")
    assert pair.globe.members("acme", "vip") == {"1", "2", "3"}
    (feed,) = acme.reports.preview("opt-in")["feeds"]
    assert (feed["feed"], feed["partner"], feed["status"]) == ("summer", "globe", "enabled")
    assert feed["profiles"] == feed["namespaces"][email] == {"leave": 2, "come": 0, "stay": 2}
    assert acme.feeds.sync("summer")[0]["status"] == "unchanged"
    acme.consent.set_model("opt-in")
    assert acme.feeds.sync("summer")[0]["sent"] == 2
    assert pair.globe.members("acme", "vip") == {"1", "2"}
    (back,) = acme.reports.preview("opt-out")["feeds"]
    assert back["profiles"] == {"leave": 0, "come": 2, "stay": 2}
    acme.consent.set_model("opt-out")
    acme.feeds.sync("summer")
    assert pair.globe.members("acme", "vip") == {"1", "2", "3"}
    assert [each["detail"]["model"] for each in pair.acme.acts("consent.model")] == ["opt-out", "opt-in", "opt-out"]
