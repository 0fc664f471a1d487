"""What is decided of changed people alone: when it is enough, and what happens where it is wrong."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sides import EMAIL, PHONE, Pair, Person
from sqlalchemy import select, update

from node.erasure.erasure import People
from node.feeds.sending import preparing
from node.feeds.sending.deciding import Decided, decide_members
from node.operations.alerts import AlertKind
from node.operations.jobs import no_progress
from node.people.snapshots import Snapshot
from node.storage.database import Tx
from node.storage.tables import DAY, feeds, runs


def people(side: str, numbers: Sequence[int]) -> list[Person]:
    return [Person(f"{side}{n}", f"person{n}@example.com") for n in numbers]


@pytest.fixture
def decided(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> list[Decided]:
    """Let acme share nine people, of whom globe knows six; return what is decided from now on."""
    found: list[Decided] = []

    def kept(*about: Any, **more: Any) -> Decided:
        found.append(decide_members(*about, **more))
        return found[-1]

    both = [f"a{n}" for n in range(9)]
    pair.prepare(people("a", range(9)), people("g", range(3, 12)), {"vip": both, "few": both[:3]}, minimum_segment=3)
    pair.share("summer", ["vip", "few"], [EMAIL])
    pair.acme.project.feeds.sync()
    monkeypatch.setattr(preparing, "decide_members", kept)
    return found


def test_a_change_of_one_person_is_decided_of_that_person(pair: Pair, decided: list[Decided]) -> None:
    pair.acme.project.consent.set("a4", "n")
    pair.acme.project.feeds.sync()
    assert pair.globe.members("acme", "vip") == {"g3", "g5", "g6", "g7", "g8"}
    first = decided[0]
    assert first.changes is not None
    assert [len(each.values) for each in first.changes.values()] == [1]
    assert (first.counts.considered, first.counts.unconsented, first.counts.sent) == (9, 1, 8)


def test_a_namespace_in_which_nobody_has_an_identity_does_not_let_everybody_be_decided_of(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Decided] = []

    def noted(*about: Any, tx: Tx) -> Decided:
        found.append(decide_members(*about, tx=tx))
        return found[-1]

    monkeypatch.setattr(preparing, "decide_members", noted)
    pair.prepare(people("a", range(5)), people("g", range(5)), {"vip": [f"a{n}" for n in range(5)]})
    pair.share("summer", ["vip"], [EMAIL, PHONE])
    for person, left in (("a1", 4), ("a2", 3)):
        pair.acme.project.feeds.sync()
        pair.acme.project.consent.set(person, "n")
        found.clear()
        pair.acme.project.feeds.sync()
        assert (found[0].last is not None, found[0].counts.sent) == (True, left)


def test_a_segment_that_becomes_too_small_or_large_enough_again_is_decided_of_everybody(
    pair: Pair, decided: list[Decided]
) -> None:
    for said, small in (("n", ["few"]), ("y", [])):
        pair.clock.advance(seconds=1)
        decided.clear()
        pair.acme.project.consent.set("a0", said)
        pair.acme.project.feeds.sync()
        assert decided[0].last is None
        assert decided[0].small_segments == small


def test_a_decision_that_is_not_that_of_everybody_is_an_alert_and_does_not_count(
    pair: Pair, decided: list[Decided]
) -> None:
    with pair.acme.project.scope.begin() as tx:
        for row in tx.execute(select(runs)).all():
            report = {**row.report, "counts": {**row.report["counts"], "considered": 100, "unconsented": 91}}
            tx.execute(update(runs).where(runs.c.id == row.id).values(report=report))
    pair.acme.project.consent.set("a4", "n")
    pair.clock.advance(seconds=DAY)
    pair.acme.project.feeds.sync()
    assert (decided[0].differs, decided[0].counts.considered) == (True, 9)
    assert AlertKind.DECISION_DIFFERS in [each.kind for each in pair.acme.project.alerts.all()]
    assert pair.globe.members("acme", "vip") == {"g3", "g5", "g6", "g7", "g8"}
    pair.acme.project.consent.set("a5", "n")
    pair.acme.project.feeds.sync()
    assert (decided[-1].differs, decided[-1].counts.considered) == (False, 9)


def test_whoever_is_erased_and_is_back_before_the_next_run_stays_with_the_partner(
    pair: Pair, decided: list[Decided]
) -> None:
    acme = pair.acme
    acme.project.erasure.profiles(People(ids=["a4"]), may_return=True)
    acme.people(people("a", [4]))
    file = acme.folder / "vip.csv"
    file.write_text("\n".join(["id", *(f"a{n}" for n in range(9))]) + "\n")
    acme.project.segments.update("vip", file)
    acme.project.feeds.sync()  # what is decided is what the partner has
    acme.project.consent.set("a5", "n")
    acme.project.feeds.sync()
    assert decided[-1].counts.sent == 8
    assert pair.globe.members("acme", "vip") == {"g3", "g4", "g6", "g7", "g8"}


def test_an_attribute_file_that_is_gone_meanwhile_lets_everybody_be_decided_of(
    pair: Pair, decided: list[Decided]
) -> None:
    project, file = pair.acme.project, pair.acme.folder / "amounts.csv"

    def spend(amounts: dict[str, int]) -> None:
        file.write_text("\n".join(["id,amount", *(f"{name},{amount}" for name, amount in amounts.items())]) + "\n")
        project.profiles.import_(file, dataset="shop", id_column="id", identities=[], attributes=["amount"])

    spend({f"a{n}": n for n in range(9)})
    project.consent_policies.create("big", needs="amount >= 4", enable=True)
    project.feeds.sync()
    before = Snapshot.open(project.scope).attributes["shop"]
    spend({"a5": 0})
    before.unlink()
    project.feeds.sync()
    assert decided[-1].last is None
    assert pair.globe.members("acme", "vip") == {"g4", "g6", "g7", "g8"}


def test_what_was_made_ready_leaves_by_the_terms_that_hold_then(pair: Pair, decided: list[Decided]) -> None:
    project, connection = pair.acme.project, pair.acme.project.partners.get("globe")
    project.consent.set("a4", "n")
    with project.scope.read() as tx:
        (feed_id,) = tx.scalars(select(feeds.c.id))
    run = preparing.prepare(preparing.decide(project.scope, connection, feed_id, evaluate=True), no_progress)
    assert run is not None
    assert preparing.may_leave(project.scope, connection, run)
    project.set_terms(minimum_segment=9)
    project.partners.propose("globe")
    pair.post()
    pair.globe.project.partners.agree("acme")
    pair.globe.post()
    assert not preparing.may_leave(project.scope, connection, run)  # though this is the connection as it was


def _content_files(pair: Pair) -> list[Path]:
    return [path for path in (pair.acme.folder / "acme" / "cache").glob("*/*/*") if path.name.startswith("content ")]


def _damage(path: Path, place: int = -40) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_where_the_last_run_is_not_what_is_kept_of_it_everybody_is_decided_of(
    pair: Pair, decided: list[Decided]
) -> None:
    acme, numbers = pair.acme.project, iter(range(4, 9))

    def run() -> None:
        decided.clear()
        acme.consent.set(f"a{next(numbers)}", "n")
        acme.feeds.sync()

    run()
    assert decided[0].last is not None
    with acme.scope.begin() as tx:  # a run of another format
        for row in tx.execute(select(runs)).all():
            tx.execute(update(runs).where(runs.c.id == row.id).values(report={**row.report, "content": "00" * 32}))
    run()
    assert decided[0].last is None
    assert pair.globe.members("acme", "vip") == {"g3", "g6", "g7", "g8"}
    for path in _content_files(pair):
        if " part " in path.name:
            _damage(path)
    run()
    assert decided[0].last is None
    assert pair.globe.members("acme", "vip") == {"g3", "g7", "g8"}
    for path in _content_files(pair):
        path.unlink()
    run()
    assert decided[0].last is None
    assert pair.globe.members("acme", "vip") == {"g3", "g8"}
    run()
    assert decided[0].last is not None
    assert pair.globe.members("acme", "vip") == {"g3"}


def test_people_are_erased_though_what_is_kept_of_a_run_is_damaged(pair: Pair, decided: list[Decided]) -> None:
    for path in _content_files(pair):
        if " part " in path.name:
            _damage(path, 60)  # of the rows
    erased = pair.acme.project.erasure.profiles(People(ids=["a4"]), prove=True)
    assert erased["places"]
    pair.acme.project.feeds.sync()
    assert pair.globe.members("acme", "vip") == {"g3", "g5", "g6", "g7", "g8"}
