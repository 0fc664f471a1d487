"""Consent: the model, single words, and that changes are audited."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from clock import Clock
from loading import four_people
from sides import Pair, Person

from node.errors import InvalidInput, NotAllowed, NotFound
from node.imports.identity_columns import ImportReport
from node.node import Node
from node.people.consent import CODES
from node.people.snapshots import Snapshot
from node.project import Project
from psi.errors import Remedy


@pytest.fixture
def project(node: Node, tmp_path: Path) -> Project:
    return four_people(node, tmp_path)


@pytest.mark.feature("CO1")
def test_a_project_without_a_model_is_told_the_command(project: Project) -> None:
    with pytest.raises(NotAllowed) as caught:
        project.consent.require_model()
    assert caught.value.remedy == Remedy("consent.model")
    project.consent.set_model("opt-in")
    assert project.consent.require_model() == "opt-in"


@pytest.mark.feature("CO2")
def test_what_one_said_is_shown_with_what_may_be_shared(project: Project) -> None:
    for model in ("opt-in", "opt-out"):
        project.consent.set_model(model)
        project.consent.set("1", "n", "email_sha256")
        project.consent.set("2", "y", "ecid")
        first, second = (project.consent.show(each)["namespaces"] for each in "12")
        assert (first["ecid"]["may_be_shared"], first["email_sha256"]["may_be_shared"]) == (True, False)
        assert (second["ecid"]["may_be_shared"], second["email_sha256"]["may_be_shared"]) == (False, False)
    found = Snapshot.open(project.scope).identities("email_sha256/lc-v1")
    assert found.consent[found.profiles == 0].tolist() == [CODES.index("n")]
    assert not found.consent[found.profiles != 0].any()


def test_the_newest_word_wins_and_at_the_same_time_the_stricter(project: Project) -> None:
    now = project.scope.home.now()
    assert project.consent.set("1", "y") is False
    assert project.consent.set("1", "n", at=now - 10) is False
    assert project.consent.set("1", "n") is True
    assert project.consent.set("1", "y") is False


def test_a_word_said_again_is_as_new_as_the_last_time(project: Project) -> None:
    now = project.scope.home.now()
    assert project.consent.set("3", "y", at=now - 20) is True
    assert project.consent.set("3", "y", at=now - 5) is False
    assert project.consent.set("3", "n", at=now - 10) is False
    assert project.consent.show("3")["share"] == "y"


def test_an_empty_cell_takes_nothing_back(project: Project, clock: Clock, tmp_path: Path) -> None:
    clock.advance(days=1)
    (tmp_path / "again.csv").write_text("id,share\n2,\n3,N\n")
    project.profiles.import_(
        tmp_path / "again.csv", dataset="crm", id_column="id", identities=[], consent_column="share"
    )
    assert [project.consent.show(each)["share"] for each in "123"] == ["y", "n", "n"]


def test_what_cannot_be_noted(project: Project) -> None:
    for arguments in (("1", "yes"), ("1", ""), ("1", "y", None, project.scope.home.now() + 1)):
        with pytest.raises(InvalidInput):
            project.consent.set(*arguments)
    with pytest.raises(NotFound):
        project.consent.set("nobody", "y")
    assert {entry.result for entry in project.scope.home.audit.entries(act="consent.set")} == {"deny"}


def test_a_change_of_the_model_is_audited(project: Project) -> None:
    project.consent.set_model("opt-in")
    project.consent.set_model("opt-out")
    with pytest.raises(InvalidInput):
        project.consent.set_model("maybe")
    entries = project.scope.home.audit.entries(act="consent.model")
    assert [entry.result for entry in entries] == ["deny", "allow", "allow"]
    assert (entries[1].detail["before"], entries[1].detail["model"]) == ("opt-in", "opt-out")
    assert project.scope.consent_model == "opt-out"
    project.scope.home.audit.verify()


@pytest.mark.feature("CO1")
def test_the_basis_is_kept_with_the_word_that_holds(project: Project, tmp_path: Path) -> None:
    path = tmp_path / "consent.csv"
    path.write_text(
        f"id,share,when,why\n1,n,2020-01-01,GDPR-6-1-a\n3,n,2026-05-01,\n2,y,2030-01-01,x\n4,y,2020-01-01,{'b' * 121}\n"
    )
    import_ = partial(
        project.consent.import_, id_column="id", consent_column="share", time_column="when", basis_column="why"
    )
    report = import_(path, namespace="ecid")
    assert {reason: tally["lines"] for reason, tally in report.rejected.items()} == {
        "not a time, or one to come": [4],
        "a basis over 120 characters": [5],
    }
    found = project.consent.show("1")["namespaces"]["ecid"]
    assert (found["share"], found["at"], found["basis"]) == ("n", "2020-01-01T00:00:00Z", "GDPR-6-1-a")
    assert project.consent.show("3")["namespaces"]["ecid"]["basis"] is None
    now = project.scope.home.now()
    assert project.consent.set("1", "y", at=now, basis=" form 7 ") is False
    assert project.consent.show("1")["basis"] == "form 7"
    assert project.consent.set("1", "n", at=now - 1, basis="older") is False
    assert project.consent.show("1")["basis"] == "form 7"
    assert project.consent.set("1", "n", at=now) is True
    assert project.consent.show("1")["basis"] is None
    assert project.consent.show()["bases"] == {"profile import": 2}
    for basis in ("b" * 121, "two\nlines", "ask ann@x.com", "profile import"):
        with pytest.raises(InvalidInput):
            project.consent.set("1", "n", basis=basis)


Crm = Callable[..., ImportReport]


@pytest.fixture
def crm(project: Project, clock: Clock, tmp_path: Path) -> Crm:
    """Import the CRM's words a day later: crm("1,y", "3,n")."""

    def crm(*rows: str) -> ImportReport:
        clock.advance(days=1)
        path = tmp_path / "crm.csv"
        path.write_text("\n".join(["id,share", *rows]) + "\n")
        return project.profiles.import_(path, dataset="crm", id_column="id", identities=[], consent_column="share")

    return crm


def word(project: Project, profile: str) -> tuple[str | None, str | None]:
    found = project.consent.show(profile)
    return found["share"], found["basis"]


@pytest.mark.feature("CO3")
@pytest.mark.parametrize("way", ["set", "set with a basis", "a file", "TCF", "TCF of a profile import"])
def test_a_profile_import_lifts_no_withdrawal_that_came_in_otherwise(
    way: str, project: Project, crm: Crm, clock: Clock, tmp_path: Path
) -> None:
    project.consent.set_model("opt-out")
    basis: str | None = None
    if way.startswith("TCF"):
        basis = "TCF purposes 1 3 4"
        path = tmp_path / "tcf.csv"
        path.write_text("id,tc\n3,COvFyGBOvFyGBAbAAAENAPCAAOAAAAAAAAAAAEEUACCKAAA\n")
        if way == "TCF":
            project.consent.import_(path, id_column="id", tcf_column="tc")
        else:
            project.profiles.import_(path, dataset="app", id_column="id", identities=[], tcf_column="tc")
    elif way == "a file":
        basis = "mail"
        path = tmp_path / "outs.csv"
        path.write_text("id,share,why\n3,n,mail\n")
        project.consent.import_(path, id_column="id", consent_column="share", basis_column="why")
    else:
        basis = "mail" if "basis" in way else None
        project.consent.set("3", "n", basis=basis or "")
    for said in ("y", "y", "n", "y", "dn", "p", "y"):  # that the CRM knows it by now, or not, makes no difference
        report = crm(f"3,{said}")
        assert (report.consents_changed, report.withdrawals_kept) == (0, said not in ("n", "dn"))
        assert word(project, "3") == ("n", basis)
    assert not project.consent.show("3")["namespaces"]["ecid"]["may_be_shared"]
    assert project.consent.set("3", "y", basis="call") is True
    assert crm("3,y").withdrawals_kept == 0
    assert word(project, "3") == ("y", "call")


@pytest.mark.feature("CO3")
def test_a_profile_import_changes_what_one_said_before(project: Project, crm: Crm) -> None:
    assert word(project, "2") == ("n", "profile import")
    assert crm("2,y").consents_changed == 1
    assert word(project, "2") == ("y", "profile import")
    project.consent.set("2", "y", basis="call")
    for said in ("n", "y"):  # its no holds against a yes of the person, and it may take it back
        report = crm(f"2,{said}")
        assert (report.consents_changed, report.withdrawals_kept) == (1, 0)
        assert word(project, "2") == (said, "profile import")


@pytest.mark.feature("CO3")
def test_a_withdrawal_that_comes_after_the_import_s_own_is_kept_too(project: Project, crm: Crm) -> None:
    before = project.scope.home.now() - 10
    for profile, basis in (("2", "mail"), ("3", "")):
        crm(f"{profile},n")
        at = project.consent.show(profile)["at"]
        assert project.consent.set(profile, "n", at=before, basis=basis) is False
        assert project.consent.show(profile)["at"] == at
        assert crm(f"{profile},y").withdrawals_kept == 1
        assert word(project, profile) == ("n", basis or None)


@pytest.mark.feature("CO3")
def test_a_profile_import_s_yes_said_again_is_no_newer_but_its_no_is(project: Project, crm: Crm) -> None:
    crm("2,n", "4,y")
    yesterday = project.scope.home.now() - 10
    assert project.consent.set("2", "y", at=yesterday) is False
    assert project.consent.set("4", "n", at=yesterday, basis="mail") is True
    assert crm("4,y").withdrawals_kept == 1


@pytest.mark.feature("CO3")
def test_a_no_by_default_is_a_withdrawal_and_a_no_may_follow(project: Project, crm: Crm) -> None:
    project.consent.set("3", "dn", basis="terms")
    assert crm("3,y").withdrawals_kept == 1
    assert word(project, "3") == ("dn", "terms")
    assert crm("3,n").consents_changed == 1
    assert crm("3,y").withdrawals_kept == 1
    assert word(project, "3") == ("n", "terms")


@pytest.mark.feature("CO3")
def test_a_withdrawal_reaches_the_partner_with_the_next_run(pair: Pair, person: type[Person]) -> None:
    ours = [person(each, f"u{each}@x.com", share="y") for each in "123"]
    pair.prepare(ours, ours, {"vip": ["1", "2", "3"]})
    pair.share("summer", ["vip"], ["email_sha256/lc-v1"])
    pair.acme.project.feeds.sync("summer")
    pair.clock.advance(seconds=60)
    pair.acme.project.consent.set("2", "n", basis="e-mail of 3 May")
    run = pair.acme.project.feeds.sync("summer")[0]
    assert (run["considered"], run["without_consent"], run["sent"]) == (3, 1, 2)
    assert pair.globe.members("acme", "vip") == {"1", "3"}


def test_a_word_that_is_none_is_not_in_the_audit_log(node: Node) -> None:
    """Arguments in the wrong order would leave an id there."""
    with pytest.raises(InvalidInput, match="that is not a consent value"):
        node.project().consent.set("y", "ann-0007")
    (entry,) = node.audit.entries(act="consent.set")
    assert "ann-0007" not in str(entry)
