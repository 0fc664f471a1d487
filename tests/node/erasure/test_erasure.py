"""People are erased: out of every generation and cache, at partners with the next run, and not back with the next import."""

import pytest
from sides import EMAIL, Pair, Person, Side
from sqlalchemy import select

from node.access.audit import Result
from node.erasure.erasure import People
from node.errors import InvalidInput, NotFound
from node.people.snapshots import Snapshot
from node.storage import tables
from psi.errors import Remedy


def people(side: str, numbers: range) -> list[Person]:
    return [Person(f"{side}{n}", f"person{n}@example.com", f"+44740000{n:04}") for n in numbers]


def shared(pair: Pair) -> None:
    """Let acme share p0 to p5 with globe, who knows p3 to p8."""
    pair.prepare(people("a", range(6)), people("g", range(3, 9)), {"vip": [f"a{n}" for n in range(6)]})
    pair.share("summer", ["vip"], [EMAIL])
    pair.acme.project.feeds.sync()
    assert pair.globe.members("acme", "vip") == {"g3", "g4", "g5"}


def last_run(side: Side) -> dict[str, object]:
    return dict(side.project.feeds.show("summer")["runs"][0])


@pytest.mark.feature("OP11")
def test_the_partner_gets_the_exit_with_the_next_run_although_the_identity_is_gone(pair: Pair) -> None:
    shared(pair)
    done = pair.acme.project.erasure.profiles(People(ids=["a4"]))
    assert (done["profiles"], done["runs"]) == (1, ["globe"])
    pair.acme.node.sync()  # the run is queued
    assert pair.globe.members("acme", "vip") == {"g3", "g5"}
    assert last_run(pair.acme)["records"] == 1  # a change and no full revision
    pair.acme.project.feeds.sync()
    assert pair.globe.members("acme", "vip") == {"g3", "g5"}


@pytest.mark.feature("OP11")
def test_an_erased_profile_of_the_receiver_is_in_no_membership_and_is_asked_for_no_more(pair: Pair) -> None:
    shared(pair)
    pair.globe.project.erasure.profiles(People(identities=["email_sha256= Person4@Example.com "]))
    assert pair.globe.members("acme", "vip") == {"g3", "g5"}
    found = pair.globe.project.memberships.statuses("summer", "vip")
    assert 1 not in set().union(*found.values())  # the number of g4
    pair.clock.advance(days=1)
    assert [run["status"] for run in pair.acme.project.feeds.sync()] == ["done"]  # the counts of both sides agree
    assert pair.globe.members("acme", "vip") == {"g3", "g5"}


@pytest.mark.feature("OP11")
def test_the_next_file_does_not_bring_the_erased_back_unless_they_may_return(pair: Pair) -> None:
    acme, everyone = pair.acme, people("a", range(6))
    acme.people(everyone)
    acme.project.erasure.profiles(People(ids=["a4"]))
    acme.people([*everyone, Person("other", "person4@example.com")])
    assert acme.project.profiles.count()["profiles"] == 5
    with pytest.raises(InvalidInput) as caught:
        acme.people([everyone[4]])
    assert caught.value.remedy == Remedy("profile.readmit")
    with pytest.raises(InvalidInput, match="no profile id") as caught:  # they are not all that is wrong
        acme.people([everyone[4], Person("", "new@example.com")])
    assert caught.value.remedy is None
    assert acme.project.erasure.readmit(People(ids=["a4"], identities=["email_sha256=person4@example.com"])) == 2
    acme.people(everyone)  # the phone is still left out
    assert acme.project.profiles.count()["profiles"] == 5
    acme.project.erasure.readmit(People(identities=["phone_sha256=+447400000004"]))
    acme.people(everyone)
    assert acme.project.profiles.count()["profiles"] == 6
    acme.project.erasure.profiles(People(ids=["a4"]), may_return=True)
    acme.people(everyone)
    assert acme.project.profiles.count()["profiles"] == 6


def test_a_rule_that_takes_in_everybody_takes_in_nobody_who_was_erased(pair: Pair) -> None:
    acme = pair.acme
    acme.people(people("a", range(6)))
    acme.segment("some", ["a1"])
    acme.project.segments.create("rest", rule="NOT own.some")
    acme.project.erasure.profiles(People(ids=["a4", "a5"]))
    acme.project.segments.evaluate_all()
    assert acme.project.segments.show("rest").size == 3
    assert acme.project.profiles.count()["profiles"] == 4


def test_who_is_not_here_cannot_be_erased_and_the_audit_log_names_nobody(pair: Pair) -> None:
    acme = pair.acme
    acme.people(people("a", range(6)))
    with pytest.raises(NotFound):
        acme.project.erasure.profiles(People(ids=["a9"]))
    acme.project.erasure.profiles(People(ids=["a4", "a9"]), prove=True)
    (row,) = acme.acts("profile.erase")
    assert row["detail"] == {"profiles": 1, "unknown": 1, "may_return": False}
    assert row["target"] == "profiles"


def test_a_household_keeps_the_phone_that_others_have(pair: Pair) -> None:
    acme = pair.acme
    acme.people([Person("ann", "ann@x.com", "+447400000001"), Person("bob", "bob@x.com", "+447400000001")])
    acme.project.erasure.profiles(People(ids=["ann"]))
    acme.people([Person("bob", "bob@x.com", "+447400000001")])
    (phone,) = [
        each for each in acme.project.profiles.show("bob")["identities"] if each["namespace"].startswith("phone")
    ]
    assert phone


def test_a_proof_lists_where_people_were_and_that_they_are_no_more(pair: Pair) -> None:
    shared(pair)
    places = pair.acme.project.erasure.profiles(People(ids=["a4"]), prove=True)["places"]
    before = {each["place"]: each["before"] for each in places}
    assert before["profile ids"] == before["segment vip"] == before["sent for globe email_sha256/lc-v1"] == 1
    assert not any(each["after"] for each in places)
    again = pair.acme.project.erasure.profiles(People(ids=["a4"]), prove=True)
    assert (again["profiles"], again["left_out"]) == (0, True)


def test_only_one_generation_is_left_and_the_second_sweep_comes_an_hour_later(pair: Pair) -> None:
    shared(pair)
    scope = pair.acme.project.scope
    pair.acme.project.erasure.profiles(People(ids=["a4"]))
    with scope.read() as tx:
        assert len(tx.execute(select(tables.manifests)).all()) == 1
        assert len(tx.execute(select(tables.erasures)).all()) == 1
    pair.clock.advance(seconds=2 * 3600)
    pair.acme.node.sweep()
    with scope.read() as tx:
        assert not tx.execute(select(tables.erasures)).all()
    assert Snapshot.open(scope).number("a5") == 5


def test_people_are_named_by_a_file_too_and_a_wrong_name_is_not_repeated(pair: Pair) -> None:
    acme = pair.acme
    acme.people(people("a", range(6)))
    unknown = []
    for text in ("id\na1\na2\nnobody\n", "customer\na0\n", "a3\n"):
        (acme.folder / "who.csv").write_text(text)
        unknown.append(acme.project.erasure.profiles(People(file=acme.folder / "who.csv"))["unknown"])
    assert unknown == [1, 0, 0]
    assert acme.project.profiles.count()["profiles"] == 2
    assert acme.project.erasure.readmit(People(file=acme.folder / "who.csv")) == 1
    for wrong in ("ann@x.com", "ann@x.com=y", "phone_sha256=ann@x.com", "emial_sha256=ann@x.com"):
        with pytest.raises(InvalidInput) as refused:
            acme.project.erasure.profiles(People(identities=[wrong]))
        assert "ann" not in str(refused.value)
    with pytest.raises(InvalidInput):
        acme.project.erasure.profiles(People())
    assert "ann" not in str([row["detail"] for row in acme.acts("profile.erase", Result.DENY)])


def test_erasures_one_after_the_other_leave_the_rest_where_it_is(pair: Pair) -> None:
    acme = pair.acme
    acme.people(people("a", range(6)))
    for each in ("a3", "a0", "a5"):
        acme.project.erasure.profiles(People(ids=[each]), may_return=True)
    acme.people(people("a", range(5, 9)))
    snapshot = Snapshot.open(acme.project.scope)
    assert [snapshot.number(each) for each in ("a1", "a2", "a4", "a5", "a8")] == [1, 2, 4, 6, 9]
    for gone in ("a3", ""):
        with pytest.raises(NotFound):
            snapshot.number(gone)
