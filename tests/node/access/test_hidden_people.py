"""People whom only a hidden dataset names are not there for a user who is limited by labels, wherever people are counted,
named, listed or exported."""

import json
from pathlib import Path
from typing import Any

import pytest
from callers import crew, signed_in, told
from sides import EMAIL

from node.access.permissions import Permission
from node.access.users import Token
from node.erasure.erasure import People
from node.errors import AlreadyExists, NotAllowed, NotFound
from node.governance.lineage import PlaceKind
from node.imports.identity_columns import IdentityColumn, ImportReport
from node.node import Node
from node.operations.jobs import Jobs
from node.reports import status
from node.reports.consent_model import preview

HIDDEN, ABSENT = "h1", "x9"


@pytest.fixture
def parted(node: Node, tmp_path: Path) -> tuple[Node, Token]:
    """A node with v1 to v3 in a dataset that lou sees, which has a hidden field, and v3, h1 and h2 in one that is hidden."""
    bring(
        node,
        tmp_path,
        "crm",
        "id,email,work,amount\nv1,v1@x.com,+447400000001,1\nv2,v2@x.com,,2\nv3,,,\n",
        ["email", "work"],
    )
    bring(node, tmp_path, "health", "id,mail,amount\nv3,v3@x.com,3\nh1,h1@x.com,4\nh2,h2@x.com,\n", ["mail"])
    project = node.project()
    project.consent.set_model("opt-out")
    project.consent.set("h2", "n")
    project.labels.apply("S1", PlaceKind.FIELD, "crm.work")
    project.labels.apply("C3", PlaceKind.DATASET, "health")
    ann = crew(node)["ann"]
    node.sign_in(ann.text)
    everything = [each for each in Permission if each not in (Permission.ADMINISTER, Permission.AUDIT)]
    node.roles.create("limited", everything, labels=["C1"])
    return node, node.users.create("lou", ["limited"])


def bring(node: Node, folder: Path, dataset: str, text: str, columns: list[str], **more: Any) -> ImportReport:
    """Import a file; the column "work" has hashes of another namespace."""
    header = text.partition("\n")[0].split(",")
    (folder / "in.csv").write_text(text)
    spell = {"work": "work=phone_sha256:raw"}
    return node.project().profiles.import_(
        folder / "in.csv",
        dataset=dataset,
        id_column="id",
        identities=[IdentityColumn.parse(spell.get(each, f"{each}=email_sha256:raw")) for each in columns],
        attributes=[each for each in header if each == "amount"],
        **more,
    )


@pytest.mark.feature("GV10")
def test_rules_lists_and_files_have_none_of_them(parted: tuple[Node, Token], tmp_path: Path) -> None:
    node, lou = parted
    out, listed = tmp_path / "out.csv", tmp_path / "list.csv"
    with signed_in(node, lou) as lous:
        project = lous.project()
        rest = project.segments.create("rest", rule="crm.amount IS NULL")
        assert rest.size == 1
        assert project.segments.show("rest").size == project.segments.all()[0].size == 1
        assert project.segments.evaluate("rest")[0].size == 1
        assert project.segments.update("rest", rule="crm.amount > 5 OR crm.amount IS NULL").size == 1
        assert project.files.export("rest", out) == 1
        assert out.read_text().split() == ["id", "v3"]
        (venn,) = project.consent_policies.preview(["rest"], "crm.amount IS NULL")
        assert (venn.size, venn.both, venn.consented_only) == (1, 1, 0)
        listed.write_text("id\nv1\nh1\nnobody\n")
        members = project.segments.create("listed", members_file=listed)
        assert (members.size, members.unknown) == (1, 2)
    assert node.project().segments.show("rest").size == 3  # what runs take, and who sees all


@pytest.mark.feature("GV10")
def test_nobody_of_them_is_counted_or_shown(parted: tuple[Node, Token]) -> None:
    node, lou = parted
    with signed_in(node, lou) as lous:
        project = lous.project()
        assert project.profiles.count() == {
            "profiles": 3,
            "namespaces": {EMAIL: {"identities": 2, "profiles": 2}},
        }
        assert project.consent.show()["profiles"] == {"none": 3}
        assert project.profiles.show("v3")["identities"] == []
        moves = preview(project.scope, "opt-in")
        assert (moves["profiles"]["leave"], moves["namespaces"][EMAIL]["leave"]) == (2, 2)
        assert "phone_sha256/e164-v1" not in moves["namespaces"]
        for act in (
            project.profiles.show,
            project.consent.show,
            lambda each: project.consent.set(each, "n"),
        ):
            assert told(NotFound, act, HIDDEN) == told(NotFound, act, ABSENT)
    assert node.project().profiles.count()["profiles"] == 5


@pytest.mark.feature("GV10")
def test_an_import_tells_of_them_as_of_new_people(parted: tuple[Node, Token], tmp_path: Path) -> None:
    node, lou = parted
    with signed_in(node, lou) as lous:
        report = bring(lous, tmp_path, "mine", "id,amount\nv1,1\nh1,1\nnew,1\n", [])
        assert (report.profiles_added, report.profiles_updated) == (2, 1)
        # Now a dataset of theirs has h1.
        assert lous.project().profiles.show("h1")["attributes"] == {"mine": {"amount": "1"}}
        assert lous.project().datasets.delete("mine")["profiles"] == 2
    assert node.project().profiles.count()["profiles"] == 5  # for health names h1 still


@pytest.mark.feature("GV10")
def test_an_import_tells_of_what_they_said_as_of_new_people(parted: tuple[Node, Token], tmp_path: Path) -> None:
    node, lou = parted
    text, more = "id,share\nv1,y\nh2,y\nnew,y\n", {"consent_column": "share"}
    with signed_in(node, lou) as lous:
        report = bring(lous, tmp_path, "mine", text, [], **more)
        assert (report.consents_changed, report.withdrawals_kept) == (3, 0)
        export = tmp_path / "export.json"
        people = ({"crm": each, "consents": {"share": {"val": "y"}}} for each in ("h1", "v2"))
        export.write_text("\n".join(json.dumps(each) for each in people))
        assert node.project().consent.set("h1", "n")
        taken = lous.project().profiles.import_segment_match(export, dataset="theirs", id_path="crm")
        assert (taken.consents_changed, taken.withdrawals_kept) == (2, 0)
    report = bring(node, tmp_path, "mine", text, [], **more)
    assert (report.consents_changed, report.withdrawals_kept) == (0, 1)
    assert node.project().consent.show("h2")["share"] == node.project().consent.show("h1")["share"] == "n"


@pytest.mark.feature("GV10")
@pytest.mark.parametrize("given", [HIDDEN, ABSENT, "v1"])
def test_who_is_limited_erases_and_brings_back_nobody(parted: tuple[Node, Token], tmp_path: Path, given: str) -> None:
    node, lou = parted
    node.project().erasure.profiles(People(ids=["v2"]))
    with signed_in(node, lou) as lous:
        erasure = lous.project().erasure
        bring(lous, tmp_path, "mine", f"id,amount\n{given},1\n", [])
        for act in (erasure.find, erasure.profiles, erasure.readmit):
            with pytest.raises(NotAllowed, match="also where your roles do not let you see it"):
                act(People(ids=[given, "v2"], identities=[f"email_sha256={given}@x.com"]))
    kept = node.project().profiles.show("h1")["attributes"]
    assert kept["health"] == {"amount": "4"}
    assert node.project().erasure.readmit(People(ids=["v2"])) == 1


@pytest.mark.feature("GV10")
def test_nothing_is_written_into_what_is_hidden(parted: tuple[Node, Token], tmp_path: Path) -> None:
    node, lou = parted
    before = node.project().profiles.show("v1")
    with signed_in(node, lou) as lous:
        with pytest.raises(AlreadyExists, match="dataset 'health' already"):
            bring(lous, tmp_path, "health", "id,amount\nv1,9\n", [])
        with pytest.raises(AlreadyExists, match="field 'work' of dataset crm already"):
            bring(lous, tmp_path, "crm", "id,work\nv1,+447400000009\n", ["work"])
        with pytest.raises(NotAllowed, match="dataset crm has more than you may see"):
            lous.project().datasets.delete("crm")
        bring(lous, tmp_path, "crm", "id,amount\nv1,1\n", [])
    assert node.project().profiles.show("v1") == before


@pytest.mark.feature("GV10")
def test_jobs_of_others_are_not_counted(parted: tuple[Node, Token]) -> None:
    node, lou = parted
    Jobs(node.home).submit("feed.sync", {}, node.project().scope)
    assert status.node(node.home)["projects"][0]["open_jobs"] == 1
    with signed_in(node, lou) as lous:
        assert status.node(lous.home)["projects"][0]["open_jobs"] == 0
