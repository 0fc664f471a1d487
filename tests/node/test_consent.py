"""Consent: the decision tables, the newest word, and that changes are audited."""

from pathlib import Path

import numpy as np
import pytest

from node.consent import CODES, Words, may_share, merge, opted_out, read_codes
from node.data import Snapshot
from node.errors import InvalidInput, NotFound, Refused
from node.importer import IdentityColumn
from node.node import Node
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


@pytest.mark.feature("CO5")
def test_a_receiver_drops_its_own_no_whatever_the_model() -> None:
    for code in CODES:
        assert bool(opted_out(read_codes([code]), read_codes([""]))[0]) is (code in ("n", "dn"))
        assert bool(opted_out(read_codes(["y"]), read_codes([code]))[0]) is (code in ("n", "dn"))


def test_the_newest_word_wins_and_at_the_same_time_the_stricter(project: Project) -> None:
    now = project.node.now()
    assert project.consent.set("1", "n", at=now - 10) is False
    assert project.consent.set("1", "n") is True
    assert project.consent.set("1", "y") is False
    kept, words = Words.nothing(2), Words.of(read_codes(["n", "y", "p", "y"]), 0)
    words.at[:] = [5, 7, 7, 1]
    assert merge(kept, np.array([0, 0, 0, 1]), words) == 2
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
    assert (report.rows, report.accepted, report.changed) == (8, 3, 1)
    assert {reason: tally["lines"] for reason, tally in report.rejected.items()} == {
        "fewer cells than the header": [9],
        "no such profile": [5],
        "not a consent value": [6],
        "not a time, or one to come": [7, 8],
    }
    assert project.consent.show()["profiles"] == {"y": 2, "n": 2}
    report = project.consent.import_(path, id_column="id", consent_column="share", namespace="email_sha256")
    assert project.consent.show()["namespaces"] == {"email_sha256": {"y": 1, "n": 3}}
    path.write_text("id,share\nnobody,y\n")
    with pytest.raises(InvalidInput):
        project.consent.import_(path, id_column="id", consent_column="share")


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
