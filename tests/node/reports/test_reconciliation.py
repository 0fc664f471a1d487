"""Every identity of a feed is explained, and the numbers add up; the sender's view has no number of matches."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clock import Clock
from pyroaring import BitMap
from sides import EMAIL, PHONE, Pair, Person, Side
from sqlalchemy import update

from node.people.snapshots import Snapshot
from node.reports.reconciliation import Rules, decide
from node.storage.tables import policies

REASONS = ("not_carried", "consent", "label", "small", "waiting", "expired", "sent")


Document = dict[str, Any]


def explain(side: Side) -> Document:
    return side.project.reports.reconcile("summer")


def rows(document: Document) -> dict[str, Document]:
    """Return each namespace's numbers, after checking that they add up to the whole."""
    for row in (*document["namespaces"], document["total"]):
        assert sum(row[reason] for reason in REASONS) == row["identities"]
    return {row["namespace"]: {key: value for key, value in row.items() if value} for row in document["namespaces"]}


def replace(side: Side, name: str, ids: Sequence[str]) -> None:
    file = side.folder / f"{side.name}-{name}.csv"
    file.write_text("\n".join(["id", *ids]) + "\n")
    side.project.segments.update(name, file)


@pytest.fixture
def shared(pair: Pair, person: type[Person]) -> Pair:
    """Acme's vip has four people, of whom one said no and one has a phone; its tiny segment is below the minimum of 2."""
    people = [
        person("1", "ann@example.com", "+447700900001"),
        person("2", "bob@example.com"),
        person("3", "cat@example.com", share="n"),
        person("4", "dan@example.com"),
        person("5", "eve@example.com"),
    ]
    theirs = [person("a", "ann@example.com"), person("b", "bob@example.com"), person("z", "zoe@example.com")]
    opted_out = [person("d", "dan@example.com", share="n")]
    segments = {"vip": ["1", "2", "3", "4"], "tiny": ["5"]}
    pair.prepare(people, [*theirs, *opted_out], segments)
    return pair


@pytest.mark.feature("OP5")
def test_the_sender_explains_every_identity(shared: Pair) -> None:
    acme = shared.acme
    shared.share("summer", ["vip"], [EMAIL])
    (waiting,) = explain(acme)["partners"]
    assert rows(waiting) == {
        EMAIL: {"namespace": EMAIL, "identities": 4, "consent": 1, "waiting": 3},
        PHONE: {"namespace": PHONE, "identities": 1, "not_carried": 1},
    }
    acme.project.feeds.sync()
    replace(acme, "vip", ["1", "2", "3", "5"])
    (after,) = explain(acme)["partners"]
    assert rows(after)[EMAIL] == {"namespace": EMAIL, "identities": 4, "consent": 1, "waiting": 1, "sent": 2}
    acme.project.feeds.sync()
    assert rows(explain(acme)["partners"][0])[EMAIL]["sent"] == 3


@pytest.mark.feature("OP5")
def test_what_no_run_refreshed_for_a_month_has_expired(pair: Pair, person: type[Person]) -> None:
    people = [person(str(each), f"p{each}@example.com") for each in range(4)]
    pair.prepare(people, people, {"vip": ["1", "2"]}, epoch_days=90, window_days=90)
    pair.share("summer", ["vip"], [EMAIL])
    pair.acme.project.feeds.sync()
    for days, expected in ((29, "sent"), (1, "expired")):
        pair.clock.advance(days=days)
        (found,) = explain(pair.acme)["partners"]
        assert rows(found)[EMAIL] == {"namespace": EMAIL, "identities": 2, expected: 2}


@pytest.mark.feature("OP5")
def test_a_label_that_came_later_explains_what_stays(shared: Pair) -> None:
    shared.share("summer", ["vip"], [EMAIL])
    project = shared.acme.project
    with project.scope.home.database.begin() as tx:  # as from a backup: an act of ours would be refused
        off = (policies.c.project_id == project.id, policies.c.name == "restrict-data-sharing")
        tx.execute(update(policies).where(*off).values(status="disabled"))
    project.labels.apply("C11", "segment", "vip")
    with project.scope.home.database.begin() as tx:
        tx.execute(update(policies).where(*off).values(status="enabled"))
    (found,) = explain(shared.acme)["partners"]
    assert rows(found)[EMAIL] == {"namespace": EMAIL, "identities": 4, "consent": 1, "label": 3}
    assert "restrict-data-sharing" in found["forbidden"]


@pytest.mark.feature("OP5")
def test_a_small_segment_is_a_reason(pair: Pair, person: type[Person]) -> None:
    people = [person(str(each), f"p{each}@example.com") for each in range(8)]
    segments = {"large": ["0", "1", "2", "3"], "tiny": ["3", "4"]}
    pair.prepare(people, people, segments, minimum_segment=2)
    pair.share("summer", ["large", "tiny"], [EMAIL])
    pair.acme.project.consent.set("4", "n")  # one with consent is left in tiny, who is in large too
    replace(pair.acme, "large", ["0", "1", "2"])
    (found,) = explain(pair.acme)["partners"]
    assert rows(found)[EMAIL] == {"namespace": EMAIL, "identities": 5, "consent": 1, "small": 1, "waiting": 3}
    (run,) = pair.acme.project.feeds.sync()
    assert run["sent"] == 3
    assert rows(explain(pair.acme)["partners"][0])[EMAIL]["sent"] == 3


@pytest.mark.feature("OP5")
def test_the_receiver_sees_what_matched_and_the_sender_does_not(shared: Pair) -> None:
    shared.share("summer", ["vip"], [EMAIL])
    before = explain(shared.globe)
    assert not before["open"]
    shared.acme.project.feeds.sync()
    found = explain(shared.globe)
    assert found["open"]
    assert found["profiles"] == 2
    row = found["namespaces"][0]
    assert row == {
        "namespace": EMAIL,
        "identities": 4,
        "not_carried": 0,
        "opted_out": 1,
        "not_asked": 0,
        "not_matched": 1,
        "matched": 2,
        "records": 3,
        "opened": 2,
    }
    assert row["identities"] == sum(
        row[key] for key in ("not_carried", "opted_out", "not_asked", "not_matched", "matched")
    )
    assert "matched" not in json.dumps(explain(shared.acme))
    assert "opened" not in json.dumps(explain(shared.acme))


@pytest.mark.feature("OP5")
def test_the_senders_view_is_the_same_whether_people_match_or_not(
    pair_type: type[Pair], tmp_path: Path, clock: Clock, person: type[Person]
) -> None:
    views = []
    for name, theirs in (("none", "x"), ("all", "p")):
        (tmp_path / name).mkdir()
        pair = pair_type(tmp_path / name, clock)
        with pair.acme.serving(), pair.globe.serving():
            mine = [person(str(each), f"p{each}@example.com") for each in range(4)]
            other = [person(str(each), f"{theirs}{each}@example.com") for each in range(4)]
            pair.prepare(mine, other, {"vip": ["0", "1", "2"]})
            pair.share("summer", ["vip"], [EMAIL])
            pair.acme.project.feeds.sync()
            views.append(explain(pair.acme))
            assert explain(pair.globe)["total"]["matched"] == (3 if theirs == "p" else 0)
    assert views[0] == views[1]


def test_a_decision_is_a_pure_function(shared: Pair) -> None:
    shared.share("summer", ["vip"], [EMAIL])
    project = shared.acme.project
    feed = project.feeds.get("summer")
    definition, snapshot = project.feeds.definition(feed), Snapshot.open(project.scope)
    (email,) = [
        row
        for row in decide(snapshot, definition, [BitMap([0, 1, 2])], Rules(model="opt-in", minimum=1, forbidden=False))
        if row.namespace == EMAIL
    ]
    assert (email.identities, email.consent, len(email.allowed)) == (3, 3, 0)
    assert np.array_equal(email.allowed.rows, np.zeros((0, 32), np.uint8))
