"""Revisions that hold only what changed: the same members as a plain join after every step, at the price of the change."""

import random
from typing import Any

import pytest
from clock import Clock
from sides import EMAIL, Pair, Person, Side
from sqlalchemy import select, update

from node.feeds import runs as feed_runs
from node.feeds.receiving import joining
from node.storage.tables import received_feeds, runs
from node.transport.client import PeerClient
from psi import kernel

SEGMENTS = ("red", "blue")


def people(person: type[Person], side: str, numbers: Any) -> list[Any]:
    return [person(f"{side}{n}", f"person{n}@example.com", f"+44740000{n:04}") for n in numbers]


def sync(pair: Pair) -> dict[str, Any]:
    (run,) = pair.acme.project.feeds.sync("f")
    return dict(run)


def taken(pair: Pair) -> list[tuple[int, bool]]:
    """Return the revisions that globe took, and whether they were whole."""
    with pair.globe.node.home.database.read() as tx:
        rows = tx.execute(select(runs).where(~runs.c.ours, runs.c.state == "done").order_by(runs.c.revision))
        return [(row.revision, row.report["whole"]) for row in rows]


def replace(side: Side, name: str, ids: Any) -> None:
    file = side.folder / f"{side.name}-{name}.csv"
    file.write_text("\n".join(["id", *sorted(ids)]) + "\n")
    side.project.segments.update(name, file)


@pytest.fixture
def shared(pair: Pair, person: type[Person]) -> Pair:
    """Acme shares twenty people of forty, globe knows thirty of which twenty are acme's."""
    pair.prepare(
        people(person, "a", range(40)),
        people(person, "g", range(20, 50)),
        {name: [f"a{n}" for n in range(10, 30)] for name in SEGMENTS},
    )
    pair.share("f", SEGMENTS)
    assert sync(pair)["records"] == 40  # twenty people in two namespaces
    return pair


@pytest.mark.feature("EX10")
def test_after_every_change_the_members_are_those_of_a_plain_join(shared: Pair, person: type[Person]) -> None:
    """Joiners, leavers, movers, opt-outs on both sides, people who are new on either: fifteen days, seeded."""
    chance, acme, globe = random.Random(5), set(range(40)), set(range(20, 50))
    members = {name: set(range(10, 30)) for name in SEGMENTS}
    out_acme: set[int] = set()
    out_globe: set[int] = set()
    for day in range(15):
        for name in SEGMENTS:
            members[name] ^= set(chance.sample(sorted(acme), 2))
            replace(shared.acme, name, {f"a{n}" for n in members[name]})
        match day % 4:
            case 1:
                out_acme.add(one := chance.choice(sorted(acme)))
                shared.acme.project.consent.set(f"a{one}", "n")
            case 2:
                out_globe.add(one := chance.choice(sorted(globe)))
                shared.globe.project.consent.set(f"g{one}", "n")
            case 3:
                globe.add(one := chance.choice(sorted(acme)))
                shared.globe.people(people(person, "g", [one]), f"day{day}")
                acme.add(60 + day)
                shared.acme.people(people(person, "a", [60 + day]), f"day{day}")
        assert sync(shared)["status"] == "done"
        for name in SEGMENTS:
            expected = (members[name] & globe) - out_acme - out_globe
            assert shared.globe.members("acme", name) == {f"g{n}" for n in expected}, (day, name)
    assert [whole for _, whole in taken(shared)] == [True] + [False] * 15


@pytest.mark.feature("EX10")
def test_a_small_change_costs_little(pair: Pair, person: type[Person], monkeypatch: pytest.MonkeyPatch) -> None:
    """One in a hundred comes, one in a hundred goes, at 2^17 a side: at most 2 % of the curve work and of the bytes."""
    size, few = 1 << 17, (1 << 17) // 100
    spent = {"curve": 0, "bytes": 0}
    once = PeerClient.attempt

    def counting(name: str, points: int) -> None:
        work = getattr(kernel, name)

        def counted(*arguments: Any, **more: Any) -> Any:
            spent["curve"] += len(arguments[points])
            return work(*arguments, **more)

        monkeypatch.setattr(kernel, name, counted)

    def metered(self: PeerClient, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        status, answer = once(self, method, path, body)
        spent["bytes"] += len(body) + len(answer)
        return status, answer

    counting("multiply", 0)
    counting("hash_and_multiply", 1)
    counting("multi_scalar_vartime", 0)
    monkeypatch.setattr(PeerClient, "attempt", metered)

    def mail_only(side: str, numbers: Any) -> list[Any]:
        return [person(f"{side}{n}", f"person{n}@example.com") for n in numbers]

    pair.prepare(mail_only("a", range(size + few)), mail_only("g", range(size // 2, size // 2 + size)), {"all": ["a0"]})
    replace(pair.acme, "all", {f"a{n}" for n in range(size)})
    pair.share("f", ["all"], [EMAIL])
    before = dict(spent)
    sync(pair)
    first = {name: spent[name] - before[name] for name in spent}
    replace(pair.acme, "all", {f"a{n}" for n in range(few, size + few)})
    pair.globe.people(mail_only("g", range(few)), "new")
    before = dict(spent)
    assert sync(pair)["records"] == 2 * few
    second = {name: spent[name] - before[name] for name in spent}
    assert len(pair.globe.members("acme", "all")) == size // 2 + few
    assert second["curve"] <= 0.02 * first["curve"]
    assert second["bytes"] <= 0.02 * first["bytes"]


def test_a_receiver_that_lost_what_changes_are_added_to_gets_everything(shared: Pair) -> None:
    with shared.globe.node.home.database.begin() as tx:
        tx.execute(update(received_feeds).values(records=None))
    shared.acme.project.consent.set("a25", "n")
    assert sync(shared)["status"] == "done"
    assert shared.globe.members("acme", "red") == {f"g{n}" for n in range(20, 30)} - {"g25"}
    assert taken(shared) == [(1, True), (3, True)]
    assert [each.kind for side in (shared.acme, shared.globe) for each in side.project.alerts.all()].count(
        "exchange"
    ) == 0
    shared.acme.project.consent.set("a26", "n")
    sync(shared)
    assert taken(shared)[-1] == (4, False)


def test_a_caller_that_lost_what_changes_are_added_to_gets_everything(
    quiet_receiver: Pair, person: type[Person]
) -> None:
    pair = quiet_receiver
    pair.prepare(
        people(person, "a", range(40)), people(person, "g", range(20, 50)), {"red": [f"a{n}" for n in range(10, 30)]}
    )
    pair.share("f", ["red"])
    sync(pair)
    pair.post()
    pair.acme.project.consent.set("a24", "n")
    sync(pair)
    pair.post()
    assert [whole for _, whole in taken(pair)] == [True, False]
    with pair.globe.node.home.database.begin() as tx:
        tx.execute(update(received_feeds).values(records=None))
    pair.acme.project.consent.set("a25", "n")
    sync(pair)
    pair.post()
    sync(pair)
    pair.post()
    assert [whole for _, whole in taken(pair)] == [True, False, True]
    assert pair.globe.members("acme", "red") == {f"g{n}" for n in range(20, 30)} - {"g24", "g25"}


def test_a_sender_that_never_sends_everything_does_not_fill_the_receiver(
    shared: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_runs, "FULL_AFTER", 1_000)
    monkeypatch.setattr(joining, "CHANGES_AT_MOST", 3)
    for number in range(20, 25):
        shared.acme.project.consent.set(f"a{number}", "n")
        sync(shared)
    assert [whole for _, whole in taken(shared)] == [True, False, False, False, True, False]
    assert shared.globe.members("acme", "red") == {f"g{n}" for n in range(25, 30)}


@pytest.mark.parametrize("why", ["version", "epoch", "many", "much"])
def test_a_revision_is_whole_where_changes_would_not_do(
    shared: Pair, clock: Clock, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    shared.acme.project.consent.set("a25", "n")
    assert sync(shared)["records"] == 2
    match why:
        case "version":
            shared.acme.project.feeds.unshare("f", segment="blue")
            shared.post()
        case "epoch":
            clock.advance(days=40)
        case "many":
            monkeypatch.setattr(feed_runs, "FULL_AFTER", 1)
            shared.acme.project.consent.set("a26", "n")
        case "much":
            replace(shared.acme, "red", {f"a{n}" for n in range(40)})
    sync(shared)
    assert [whole for _, whole in taken(shared)] == [True, False, True]
