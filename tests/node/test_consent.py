"""Consent: the decision tables, the newest word, and that changes are audited."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.consent.consent import CODES, UNDATED, Words, may_share, merge, opted_out, read_codes
from node.errors import InvalidInput, NotFound, Refused
from node.imports.importer import IdentityColumn, ImportReport
from node.imports.tcf import Needed
from node.node import Node
from node.people.data import Snapshot
from node.project import Project

LEGAL = ("LI", "CT", "CP", "VI", "PI")


@pytest.fixture
def project(node: Node, tmp_path: Path) -> Project:
    path = tmp_path / "people.csv"
    path.write_text("id,email,ecid,share\n" + "".join(f"{n},u{n}@x.com,{n:038d},{s}\n" for n, s in enumerate(
        ["y", "n", "", "y"], start=1)))  # fmt: skip
    project = node.project()
    columns = [IdentityColumn.parse("email=email_sha256"), IdentityColumn.parse("ecid=ecid")]
    project.profiles.import_(path, dataset="crm", id_column="id", identities=columns, consent_column="share")
    return project


def share(model: str, profile: str, identity: str = "") -> bool:
    return bool(may_share(model, read_codes([profile]), read_codes([identity]))[0])


@pytest.mark.feature("CO1")
def test_the_models() -> None:
    included = {model: {code for code in CODES if share(model, code)} for model in ("opt-in", "opt-out")}
    assert included["opt-in"] == {"y"}
    assert included["opt-out"] == {"", "y", "dy", "p", "u", *LEGAL}
    for model in ("opt-in", "opt-out"):
        assert not share(model, "n")
        assert not share(model, "dn")
        assert not share(model, "", "n")


@pytest.mark.feature("CO1")
def test_a_project_without_a_model_is_told_the_command(project: Project) -> None:
    with pytest.raises(Refused) as caught:
        project.consent.require_model()
    assert "vesica consent model" in caught.value.hint
    project.consent.set_model("opt-in")
    assert project.consent.require_model() == "opt-in"


@pytest.mark.feature("CO2")
def test_a_no_of_the_profile_beats_all_and_a_yes_leaves_it_to_the_identity(project: Project) -> None:
    assert share("opt-out", "y", "n") is False
    assert share("opt-in", "", "y") is True
    assert share("opt-in", "y", "p") is False
    for model in ("opt-in", "opt-out"):
        assert share(model, "n", "y") is False
        project.consent.set_model(model)
        project.consent.set("1", "n", "email_sha256")
        project.consent.set("2", "y", "ecid")
        first, second = (project.consent.show(each)["namespaces"] for each in "12")
        assert (first["ecid"]["may_be_shared"], first["email_sha256"]["may_be_shared"]) == (True, False)
        assert (second["ecid"]["may_be_shared"], second["email_sha256"]["may_be_shared"]) == (False, False)
    held = Snapshot.open(project).identities("email_sha256/lc-v1")
    assert held.consent[held.profiles == 0].tolist() == [CODES.index("n")]
    assert not held.consent[held.profiles != 0].any()


@pytest.mark.feature("CO3")
@pytest.mark.parametrize(
    ("said", "holds"),
    [
        ("y@100? n@50", "n@50"),
        ("n@50 y@100?", "n@50"),
        ("dn@100? n@50 y@200?", "n@100"),
        ("n@100? dn@50 y@200?", "n@100"),
        ("n@50 dn@100? y@200?", "n@100"),
        ("y@100? y@50", "y@50"),
        ("y@100? y@50 n@75", "n@75"),
        ("n@100 n@200? y@150", "n@200"),
        ("n@100 n@200? y@250", "y@250"),
        ("n@200? y@150", "n@200?"),
        ("n@100? y@200?", "y@200?"),
        ("y@100 n@200? y@300?", "y@300?"),
        ("y@100? y@200? n@150", "n@150"),
    ],
)
def test_what_a_profiles_file_says_is_of_no_known_time(said: str, holds: str) -> None:
    """A word, @ when it came or was said, ? from a profile's file: no order of them lifts a no that a person said."""
    kept = Words.nothing(1)
    for word in said.split():
        merge(kept, np.array([0]), word_of(word))
    (code, at, basis), (expected,) = (kept.codes[0], kept.at[0], kept.bases[0]), [word_of(holds)]
    assert (code, at, basis) == (expected.codes[0], expected.at[0], expected.bases[0])


def word_of(text: str) -> Words:
    code, _, when = text.rstrip("?").partition("@")
    words = Words.of(read_codes([code]), int(when))
    words.bases[:] = UNDATED if text.endswith("?") else 0
    return words


@pytest.mark.feature("CO5")
def test_a_receiver_drops_its_own_no_whatever_the_model() -> None:
    for code in CODES:
        assert bool(opted_out(read_codes([code]), read_codes([""]))[0]) is (code in ("n", "dn"))
        assert bool(opted_out(read_codes(["y"]), read_codes([code]))[0]) is (code in ("n", "dn"))


def test_the_newest_word_wins_and_at_the_same_time_the_stricter(project: Project) -> None:
    now = project.node.now()
    assert project.consent.set("1", "y") is False
    assert project.consent.set("1", "n", at=now - 10) is False
    assert project.consent.set("1", "n") is True
    assert project.consent.set("1", "y") is False
    kept, words = Words.nothing(2), Words.of(read_codes(["n", "y", "p", "y"]), 0)
    words.at[:] = [5, 7, 7, 1]
    assert merge(kept, np.array([0, 0, 0, 1]), words).changed == 2
    assert [CODES[code] for code in kept.codes] == ["p", "y"]
    assert kept.at.tolist() == [7, 1]


def test_a_word_said_again_is_as_new_as_the_last_time(project: Project) -> None:
    now = project.node.now()
    assert project.consent.set("3", "y", at=now - 20) is True
    assert project.consent.set("3", "y", at=now - 5) is False
    assert project.consent.set("3", "n", at=now - 10) is False
    assert project.consent.show("3")["share"] == "y"


def test_an_empty_cell_takes_nothing_back(project: Project, clock: object, tmp_path: Path) -> None:
    clock.advance(days=1)  # type: ignore[attr-defined]
    (tmp_path / "again.csv").write_text("id,share\n2,\n3,N\n")
    project.profiles.import_(
        tmp_path / "again.csv", dataset="crm", id_column="id", identities=[], consent_column="share"
    )
    assert [project.consent.show(each)["share"] for each in "123"] == ["y", "n", "n"]


def test_an_import_of_consent(project: Project, tmp_path: Path) -> None:
    path = tmp_path / "consent.csv"
    path.write_text(
        "id;share;when\n1;n;2020-01-01\n3;n;2026-05-01T10:00:00+02:00\n4;n;1750000000\nx;n;1\n2;z;1\n2;y;never\n2;y;9999-01-01\n2\n"
    )
    report = project.consent.import_(path, id_column="id", consent_column="share", time_column="when")
    assert (report.rows, report.accepted, report.changed, report.unchanged) == (8, 3, 3, 0)
    assert {reason: tally["lines"] for reason, tally in report.rejected.items()} == {
        "fewer cells than the header": [9],
        "no such profile": [5],
        "not a consent value": [6],
        "not a time, or one to come": [7, 8],
    }  # of a profile's file nobody knows how old a yes is: a no that was said before is no less
    assert project.consent.show()["profiles"] == {"n": 4}
    report = project.consent.import_(path, id_column="id", consent_column="share", namespace="email_sha256")
    assert project.consent.show()["namespaces"] == {"email_sha256": {"y": 1, "n": 3}}
    path.write_text("id,share\nnobody,y\n")
    with pytest.raises(InvalidInput):
        project.consent.import_(path, id_column="id", consent_column="share")


@pytest.mark.feature("CO1")
def test_an_import_of_consent_counts_what_was_said_too_late(project: Project, tmp_path: Path) -> None:
    path = tmp_path / "consent.csv"
    path.write_text("id,share,when\n3,n,1000\n3,y,2000\n3,p,2000\n3,p,1000\n1,y,1000\n4,n,1000\n")
    options = {"id_column": "id", "consent_column": "share", "time_column": "when"}
    project.consent.set("4", "y")
    late = {
        "older than what is known": {"count": 2, "lines": [2, 7]},
        "as old as a stricter word": {"count": 1, "lines": [3]},
    }
    report = project.consent.import_(path, **options)
    assert (report.rows, report.accepted, report.changed, report.unchanged) == (6, 3, 1, 2)
    assert report.rejected == late
    again = project.consent.import_(path, **options)
    assert (again.accepted, again.changed, again.unchanged, again.rejected) == (3, 0, 3, late)
    path.write_text("id,share,when\n4,n,1000\n")
    assert project.consent.import_(path, **options).accepted == 0
    assert project.consent.show("4")["share"] == "y"


def test_what_cannot_be_noted(project: Project) -> None:
    for arguments in (("1", "yes"), ("1", ""), ("1", "y", None, project.node.now() + 1)):
        with pytest.raises(InvalidInput):
            project.consent.set(*arguments)  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        project.consent.set("nobody", "y")
    assert {entry.result for entry in project.node.audit.list(act="consent.set")} == {"deny"}


def test_a_change_of_the_model_is_audited(project: Project) -> None:
    project.consent.set_model("opt-in")
    project.consent.set_model("opt-out")
    with pytest.raises(InvalidInput):
        project.consent.set_model("maybe")
    entries = project.node.audit.list(act="consent.model")
    assert [entry.result for entry in entries] == ["deny", "allow", "allow"]
    assert (entries[1].detail["before"], entries[1].detail["model"]) == ("opt-in", "opt-out")
    assert project.consent_model == "opt-out"
    project.node.audit.verify()


@pytest.mark.feature("CO1")
def test_the_basis_is_kept_with_the_word_that_holds(project: Project, tmp_path: Path) -> None:
    path = tmp_path / "consent.csv"
    path.write_text(
        f"id,share,when,why\n1,n,2020-01-01,GDPR-6-1-a\n3,n,2026-05-01,\n2,y,2030-01-01,x\n4,y,2020-01-01,{'b' * 121}\n"
    )
    options = {"id_column": "id", "consent_column": "share", "time_column": "when", "basis_column": "why"}
    report = project.consent.import_(path, **options, namespace="ecid")
    assert {reason: tally["lines"] for reason, tally in report.rejected.items()} == {
        "not a time, or one to come": [4],
        "a basis over 120 characters": [5],
    }
    found = project.consent.show("1")["namespaces"]["ecid"]
    assert (found["share"], found["at"], found["basis"]) == ("n", "2020-01-01T00:00:00Z", "GDPR-6-1-a")
    assert project.consent.show("3")["namespaces"]["ecid"]["basis"] is None
    now = project.node.now()
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


@pytest.mark.feature("CO1")
def test_bases_are_few(project: Project, tmp_path: Path) -> None:
    path = tmp_path / "consent.csv"
    path.write_text("id,share,why\n" + "".join(f"1,y,reason {n}\n" for n in range(1_001)))
    with pytest.raises(InvalidInput, match="1001 different bases"):
        project.consent.import_(path, id_column="id", consent_column="share", basis_column="why")


@pytest.mark.feature("CO1")
def test_tcf_strings_are_words_with_their_own_time(project: Project, tmp_path: Path) -> None:
    text = "COvFyGBOvFyGBAbAAAENAPCAAOAAAAAAAAAAAEEUACCKAAA"  # purposes 1, 2 and 3, vendors 2, 6 and 8, on 20 February 2020
    path = tmp_path / "consent.csv"
    path.write_text(f"id,tc\n1,{text}\n2,{text[:30]}\n3,{text}\n4,\n")
    options = {"id_column": "id", "tcf_column": "tc", "namespace": "ecid"}
    report = project.consent.import_(path, **options, needed=Needed(purposes=(1, 3), vendor=6))
    assert (report.accepted, report.changed) == (2, 2)
    assert {reason: tally["lines"] for reason, tally in report.rejected.items()} == {
        "a broken TCF string": [3],
        "nothing said": [5],
    }
    found = project.consent.show("1")["namespaces"]["ecid"]
    assert (found["share"], found["at"], found["basis"]) == (
        "y",
        "2020-02-20T23:57:39Z",
        "TCF purposes 1 3 vendor 6",
    )
    assert project.consent.import_(path, **options).changed == 2
    assert project.consent.show("3")["namespaces"]["ecid"]["share"] == "n"
    for wrong in ({"consent_column": "id"}, {"time_column": "id"}):
        with pytest.raises(InvalidInput):
            project.consent.import_(path, **options, **wrong)
    people = tmp_path / "people.csv"
    people.write_text(f"id,ecid,tc\n9,{9:038d},{text}\n10,{10:038d},{text}x.\n11,{11:038d},\n")
    columns = [IdentityColumn.parse("ecid=ecid")]
    imported = project.profiles.import_(people, dataset="app", id_column="id", identities=columns, tcf_column="tc")
    assert imported.rejected == {"a broken TCF string": {"count": 1, "lines": [3]}}
    assert [project.profiles.show(each)["share"] for each in ("9", "11")] == ["n", None]
    assert project.profiles.show("9")["share_basis"] == "TCF purposes 1 3 4"


@pytest.mark.feature("CO4")
def test_a_dry_run_counts_people_and_identities_and_changes_nothing(project: Project) -> None:
    project.consent.set("1", "n", "email_sha256")
    project.consent.set("3", "y", "ecid")
    generation, acts = Snapshot.open(project).generation, len(project.node.audit.list(limit=100))
    first = project.consent.preview("opt-out")
    assert first["before"] is None
    assert first["profiles"] == {"leave": 0, "come": 3, "stay": 0}
    assert project.consent_model is None
    project.consent.set_model("opt-out")
    found = project.consent.preview("opt-in")
    assert (found["before"], found["model"]) == ("opt-out", "opt-in")
    assert found["profiles"] == {"leave": 0, "come": 0, "stay": 3}  # the third by its ECID alone
    assert found["namespaces"] == {
        "email_sha256/lc-v1": {"leave": 1, "come": 0, "stay": 1},
        "ecid/digits-v1": {"leave": 0, "come": 0, "stay": 3},
    }
    assert found["feeds"] == []
    assert project.consent_model == "opt-out"
    assert Snapshot.open(project).generation == generation
    assert len(project.node.audit.list(limit=100)) == acts + 1
    with pytest.raises(InvalidInput):
        project.consent.preview("maybe")


@pytest.mark.feature("CO4")
def test_a_run_does_what_the_dry_run_said(pair: Any, person: Any) -> None:
    ours = [person(str(n), f"u{n}@x.com", share=share) for n, share in enumerate(["y", "y", "", "p", "n"], start=1)]
    pair.prepare(ours, [each._replace(share="") for each in ours], {"vip": ["1", "2", "3", "5"], "all": ["4"]})
    acme, email = pair.acme.project, "email_sha256/lc-v1"
    pair.share("summer", ["vip", "all"], [email])
    acme.feeds.sync("summer")
    assert pair.globe.members("acme", "vip") == {"1", "2", "3"}
    (feed,) = acme.consent.preview("opt-in")["feeds"]
    assert (feed["feed"], feed["partner"], feed["status"]) == ("summer", "globe", "enabled")
    assert feed["profiles"] == feed["namespaces"][email] == {"leave": 2, "come": 0, "stay": 2}
    assert acme.feeds.sync("summer")[0]["status"] == "unchanged"
    acme.consent.set_model("opt-in")
    assert acme.feeds.sync("summer")[0]["sent"] == 2
    assert pair.globe.members("acme", "vip") == {"1", "2"}
    (back,) = acme.consent.preview("opt-out")["feeds"]
    assert back["profiles"] == {"leave": 0, "come": 2, "stay": 2}
    acme.consent.set_model("opt-out")
    acme.feeds.sync("summer")
    assert pair.globe.members("acme", "vip") == {"1", "2", "3"}
    assert [each["detail"]["model"] for each in pair.acme.acts("consent.model")] == ["opt-out", "opt-in", "opt-out"]


Crm = Callable[..., ImportReport]


@pytest.fixture
def crm(project: Project, clock: Any, tmp_path: Path) -> Crm:
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
    way: str, project: Project, crm: Crm, clock: Any, tmp_path: Path
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
    before = project.node.now() - 10
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
    yesterday = project.node.now() - 10
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
def test_a_withdrawal_reaches_the_partner_with_the_next_run(pair: Any, person: Any) -> None:
    ours = [person(each, f"u{each}@x.com", share="y") for each in "123"]
    pair.prepare(ours, ours, {"vip": ["1", "2", "3"]})
    pair.share("summer", ["vip"], ["email_sha256/lc-v1"])
    pair.acme.project.feeds.sync("summer")
    pair.clock.advance(seconds=60)
    pair.acme.project.consent.set("2", "n", basis="e-mail of 3 May")
    run = pair.acme.project.feeds.sync("summer")[0]
    assert (run["considered"], run["without_consent"], run["sent"]) == (3, 1, 2)
    assert pair.globe.members("acme", "vip") == {"1", "3"}
