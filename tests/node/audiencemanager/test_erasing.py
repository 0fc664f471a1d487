"""Erased people leave the visitors and their file; backups have the others, and nobody returns by a signal."""

import csv
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from pyroaring import BitMap
from remains import forms, remains
from seen import EMAILS, Id, add_trait, ecid, members, receive, seen

from node.access.scope import Scope
from node.audiencemanager import receiving
from node.audiencemanager.visitors import opened
from node.backup.backup import BackupIncomplete
from node.erasure.erasure import People
from node.errors import NotFound
from node.imports.identity_columns import IdentityColumn
from node.node import Node
from psi.values import Values

NUMBERS = range(1, 7)


def address(number: int) -> str:
    return f"visitor.{number}@example.com"


def email(number: int) -> Id:
    return EMAILS, sha256(address(number).encode()).digest()


@pytest.fixture
def scope(node: Node, tmp_path: Path) -> Scope:
    """A project that has people, each of them a visitor with a trait too, and one visitor more."""
    file = tmp_path / "crm.csv"
    with file.open("w") as out:
        csv.writer(out).writerows([("id", "email"), *((f"c{each}", address(each)) for each in NUMBERS)])
    project = node.project()
    columns = [IdentityColumn.parse("email=email_sha256:raw")]
    project.profiles.import_(file, dataset="crm", id_column="id", identities=columns, attributes=[])
    scope = project.scope
    trait = add_trait(scope, "a == 1")
    signals = (("a", "1"),)
    receive(scope, *(seen(scope, email(each), ecid(each), signals=signals) for each in NUMBERS), seen(scope, ecid(9)))
    assert members(scope, trait) == set(NUMBERS)
    return scope


def trait_of(scope: Scope) -> int:
    return opened(scope).held(1)[0].trait


def numbers_left(scope: Scope) -> BitMap:
    """Return the visitors that some row of the file has."""
    with opened(scope).file.read() as tx:
        rows = tx.execute("SELECT visitors FROM realisations").fetchall()
        return BitMap.union(opened(scope).everybody(), *(BitMap.deserialize(each) for (each,) in rows))


@pytest.mark.feature("OP11")
def test_who_is_erased_leaves_with_all_ids_and_traits_and_stays_away(node: Node, scope: Scope, tmp_path: Path) -> None:
    trait = trait_of(scope)
    receive(scope, seen(scope, ecid(8), signals=(("who", sha256(address(3).encode()).hexdigest()),)))
    needles = forms(["c3"], [address(3)]) | {"device": ecid(3)[1]}
    assert any("audience.db" in each for each in remains(node.home.path, needles))
    done = node.project().erasure.profiles(People(ids=["c3"]), prove=True)
    assert done["visitors"] == 1
    assert {each["place"]: (each["before"], each["after"]) for each in done["places"]}["visitors"] == (1, 0)
    assert (
        remains(node.home.path, {name: each for name, each in needles.items() if name != "id c3"}, node=node) == set()
    )
    assert 3 not in numbers_left(scope)
    assert members(scope, trait) == set(NUMBERS) - {3}
    for ids in ([email(3)], [ecid(3)], [email(3), ecid(77)]):
        received = receive(scope, seen(scope, *ids, realise=(trait,)))
        assert (received.left_out, received.visitors.tolist()) == (1, [0])
    receiving.receive_members(scope, trait, EMAILS, Values.of([email(3)[1], email(50)[1]]), np.array([True, True]))
    assert opened(scope).numbers(EMAILS, Values.of([email(3)[1]]), make=False).tolist() == [0]
    node.backup(tmp_path / "backup")
    needles.pop("id c3")
    assert remains(tmp_path / "backup", needles) == set()


def test_a_visitor_who_is_no_profile_can_be_erased_and_may_return(node: Node, scope: Scope) -> None:
    erasure, people = node.project().erasure, People(identities=[f"ecid={9:038}"])
    assert erasure.find(people) == {"profiles": 0, "unknown": 1, "visitors": 1}
    assert erasure.profiles(people, may_return=True)["visitors"] == 1
    with pytest.raises(NotFound):
        erasure.profiles(people)
    assert receive(scope, seen(scope, ecid(9))).made == 1
    erasure.profiles(people)
    assert receive(scope, seen(scope, ecid(9))).left_out == 1
    assert erasure.readmit(people) == 1
    assert receive(scope, seen(scope, ecid(9))).made == 1


def test_who_came_back_while_the_erasure_was_under_way_leaves_with_the_sweep(
    node: Node, scope: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And as long as somebody reads an older state of the file, the erasure is not done."""
    from node.people import removal

    taken_out = removal.take_out

    def and_seen_again(*given: object) -> None:
        taken_out(*given)  # type: ignore[arg-type]
        receive(scope, seen(scope, email(3), ecid(3)))

    monkeypatch.setattr(removal, "take_out", and_seen_again)
    with opened(scope).file.read() as reading:
        assert reading.execute("SELECT count(*) FROM ids").fetchone() == (2 * len(NUMBERS) + 1,)
        node.project().erasure.profiles(People(ids=["c3"]))
    assert len(opened(scope).everybody()) == len(NUMBERS)
    device = {"device": ecid(3)[1]}
    assert remains(node.home.path / "data", device) != set()
    node.sweep()
    assert remains(node.home.path / "data", device) == set()


def test_a_backup_has_the_visitors_and_a_restore_looks_at_them(node: Node, scope: Scope, tmp_path: Path) -> None:
    trait = trait_of(scope)
    node.backup(tmp_path / "backup")
    receive(scope, seen(scope, ecid(10), realise=(trait,)))
    Node.restore(tmp_path / "backup", tmp_path / "restored")
    with Node.open(tmp_path / "restored", now=node.home.now) as restored:
        assert members(restored.project().scope, trait) == set(NUMBERS)
        assert {each.stat().st_mode & 0o777 for each in (tmp_path / "restored").rglob("audience.db*")} == {0o600}
    with opened(scope).begin() as tx:
        tx.execute("CREATE VIEW endless AS SELECT 1")
    node.backup(tmp_path / "harmful")
    with pytest.raises(BackupIncomplete, match=r"audience\.db"):
        Node.restore(tmp_path / "harmful", tmp_path / "other")
