"""Files of what people said: codes and TCF strings, with times and bases."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from clock import Clock
from loading import four_people

from node.access.scope import Scope
from node.errors import InvalidInput
from node.imports.identity_columns import IdentityColumn
from node.imports.tcf import Needed
from node.node import Node
from node.project import Project
from node.storage.database import Tx


@pytest.fixture
def project(node: Node, tmp_path: Path) -> Project:
    return four_people(node, tmp_path)


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
    }
    # The file of profiles says no time for its yes, so a no counts more, however old it is.
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
    import_ = partial(project.consent.import_, id_column="id", consent_column="share", time_column="when")
    project.consent.set("4", "y")
    late = {
        "older than what is known": {"count": 2, "lines": [2, 7]},
        "as old as a stricter word": {"count": 1, "lines": [3]},
    }
    report = import_(path)
    assert (report.rows, report.accepted, report.changed, report.unchanged) == (6, 3, 1, 2)
    assert report.rejected == late
    again = import_(path)
    assert (again.accepted, again.changed, again.unchanged, again.rejected) == (3, 0, 3, late)
    path.write_text("id,share,when\n4,n,1000\n")
    assert import_(path).accepted == 0
    assert project.consent.show("4")["share"] == "y"


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
    import_ = partial(project.consent.import_, id_column="id", tcf_column="tc", namespace="ecid")
    report = import_(path, needed=Needed(purposes=(1, 3), vendor=6))
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
    assert import_(path).changed == 2
    assert project.consent.show("3")["namespaces"]["ecid"]["share"] == "n"
    with pytest.raises(InvalidInput):
        import_(path, consent_column="id")
    with pytest.raises(InvalidInput):
        import_(path, time_column="id")
    people = tmp_path / "people.csv"
    people.write_text(f"id,ecid,tc\n9,{9:038d},{text}\n10,{10:038d},{text}x.\n11,{11:038d},\n")
    columns = [IdentityColumn.parse("ecid=ecid")]
    imported = project.profiles.import_(people, dataset="app", id_column="id", identities=columns, tcf_column="tc")
    assert imported.rejected == {"a broken TCF string": {"count": 1, "lines": [3]}}
    assert [project.profiles.show(each)["share"] for each in ("9", "11")] == ["n", None]
    assert project.profiles.show("9")["share_basis"] == "TCF purposes 1 3 4"


@pytest.mark.feature("CO1")
def test_a_withdrawal_that_comes_in_while_an_import_waits_stands(
    project: Project, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "consent.csv"
    path.write_text("id,share\n1,y\n")
    act = Scope.act

    @contextmanager
    def late(self: Scope, name: str, target: str, **options: Any) -> Iterator[Tx]:
        monkeypatch.undo()
        clock.advance(seconds=1)
        project.consent.set("1", "n")
        clock.advance(seconds=1)
        with act(self, name, target, **options) as tx:
            yield tx

    monkeypatch.setattr(Scope, "act", late)
    report = project.consent.import_(path, id_column="id", consent_column="share")
    assert list(report.rejected) == ["older than what is known"]
    assert project.consent.show("1")["share"] == "n"
