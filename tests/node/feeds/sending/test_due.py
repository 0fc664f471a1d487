"""Feeds that run by themselves: after a change, daily, after a failure; at the price of what changed, and no hot loop."""

from dataclasses import replace
from typing import Any

import pytest
from clock import Clock
from sides import EMAIL, Pair, Person
from sqlalchemy import select, update

from node import log
from node.access.audit import Result
from node.errors import DiskFull, NotAllowed
from node.feeds.receiving import new_people, received_feeds
from node.feeds.receiving import releases as received_releases
from node.feeds.sending.attempts import FIRST_SECONDS, LONGEST_SECONDS
from node.feeds.sending.due import Situation, candidates, due, due_at
from node.feeds.sending.recipients import Basis
from node.node import Node
from node.operations.jobs import JobState
from node.partners import key_epochs, letters
from node.service import Schedule
from node.storage.locks import service_lock
from node.storage.tables import DAY, feed_partners, runs
from node.storage.tables import epochs as epoch_rows
from node.transport import client
from node.transport.client import PeerClient

NOW = 1_800_000_000
BASIS = Basis(generation=3, model="opt-out", version=1, epoch=1, rules="")
QUIET = Situation(now=NOW, basis=BASIS, tried=BASIS, changes=[], ran=NOW - 100)


pytestmark = pytest.mark.usefixtures("small_universes")


def people(person: type[Person], side: str, numbers: Any) -> list[Any]:
    return [person(f"{side}{n}", f"person{n}@example.com") for n in numbers]


class Living:
    """Two nodes whose schedules tick when a test says so; nobody types a command to run a feed."""

    def __init__(self, pair: Pair, person: type[Person]) -> None:
        self.pair, self.acme, self.globe = pair, pair.acme, pair.globe
        self._schedules = [Schedule(side.node.home) for side in (self.acme, self.globe)]
        pair.prepare(
            people(person, "a", range(20)), people(person, "g", range(10, 30)), {"all": [f"a{n}" for n in range(20)]}
        )

    def share(self, **rest: Any) -> None:
        self.pair.share("f", ["all"], [EMAIL], **rest)

    def pass_(self, seconds: int = 0, *, days: int = 0) -> None:
        """Let time pass, and both services look once and do what they find."""
        self.pair.clock.advance(seconds=seconds, days=days)
        for _ in range(2):
            for each in self._schedules:
                each.tick()
            self.pair.post()

    def revisions(self) -> list[tuple[int, bool, int]]:
        """Return the revisions that globe took: number, whether whole, and how many records."""
        with self.globe.node.home.database.read() as tx:
            rows = tx.execute(select(runs).where(~runs.c.ours, runs.c.state == "done").order_by(runs.c.revision))
            return [(row.revision, row.report["whole"], sum(row.report["records"].values())) for row in rows]

    def members(self) -> set[int]:
        return {int(each[1:]) for each in self.globe.members("acme", "all")}


@pytest.fixture(params=["called", "calls"])
def living(request: pytest.FixtureRequest, person: type[Person]) -> Living:
    """The receiver has an address, or has none."""
    return Living(request.getfixturevalue("pair" if request.param == "called" else "quiet_receiver"), person)


@pytest.mark.feature("EX1")
@pytest.mark.parametrize(
    ("situation", "reason"),
    [
        (QUIET, None),
        (replace(QUIET, tried=None, ran=None), "changed"),
        (replace(QUIET, tried=replace(BASIS, generation=2), changes=[NOW]), None),  # more may come
        (replace(QUIET, tried=replace(BASIS, generation=2), changes=[NOW - 1]), "changed"),
        (replace(QUIET, tried=replace(BASIS, generation=2), changes=[NOW - 10, NOW]), "changed"),  # it goes on too long
        (replace(QUIET, tried=replace(BASIS, model="opt-in")), "changed"),
        (replace(QUIET, tried=replace(BASIS, version=2)), "changed"),
        (replace(QUIET, basis=replace(BASIS, epoch=0)), "changed"),
        (replace(QUIET, tried=replace(BASIS, rules="x"), next_attempt=NOW + 99, failure="policy_violation"), "changed"),
        (replace(QUIET, tried=None, under_way=True), None),
        (replace(QUIET, tried=None, letters=True), None),  # the partner hears of a new version first
        (replace(QUIET, ran=NOW - DAY), "daily"),
        (replace(QUIET, ran=NOW - DAY, next_attempt=NOW + 1), None),
        (replace(QUIET, next_attempt=NOW), "again"),
        (replace(QUIET, tried=None, next_attempt=NOW + 1, failure="unreachable"), None),
        (replace(QUIET, full=True), "full"),
        (replace(QUIET, requested=NOW, ran=NOW - 59), None),
        # Full revisions do not follow each other at once.
        (replace(QUIET, full=True, full_from=NOW + 1, requested=NOW, ran=NOW - DAY), None),
        (replace(QUIET, full=True, full_from=NOW), "full"),
        (replace(QUIET, requested=NOW, ran=NOW - 60), "requested"),
        (replace(QUIET, requested=NOW, ran=NOW - 60, requests=1), None),  # it had nobody new the last time
        (replace(QUIET, requested=NOW, ran=NOW - 120, requests=1), "requested"),
    ],
)
def test_when_a_feed_is_due(situation: Situation, reason: str | None) -> None:
    assert due(situation) == reason
    since = due_at(situation)
    if since is None:
        assert all(due(replace(situation, now=NOW + later)) is None for later in (0, 10, 3 * DAY))
    else:  # who sleeps until then comes neither late nor in vain
        assert (reason is None) == (since > NOW)
        assert due(replace(situation, now=since)) is not None
        assert due(replace(situation, now=since - 1)) is None


@pytest.mark.feature("EX1")
@pytest.mark.feature("EX10")
def test_what_changes_reaches_the_partner_without_a_command(living: Living, person: type[Person]) -> None:
    living.share()
    living.pass_()
    assert living.members() == set(range(10, 20))
    for number in (10, 11, 12):  # three small acts
        living.acme.project.consent.set(f"a{number}", "n")
        living.pass_()
        assert living.members() == set(range(10, 20))
    living.pass_(1)
    assert living.members() == set(range(13, 20))
    assert living.revisions() == [(1, True, 20), (2, False, 3)]  # one run
    living.pass_(60)
    assert len(living.revisions()) == 2
    living.acme.people(people(person, "a", [25]), "more")
    file = living.acme.folder / "acme-all.csv"
    file.write_text("id\n" + "".join(f"a{n}\n" for n in [*range(20), 25]))
    living.acme.project.segments.update("all", file)
    living.pass_(2)
    assert living.members() == {*range(13, 20), 25}
    living.acme.project.consent.set_model("opt-in")
    living.pass_()
    assert living.members() == set()


@pytest.mark.feature("EX1")
def test_a_rule_is_evaluated_and_its_members_follow(pair: Pair, person: type[Person]) -> None:
    from node.imports.identity_columns import IdentityColumn

    living = Living(pair, person)

    def tiers(gold: Any) -> None:
        file = pair.acme.folder / "tiers.csv"
        file.write_text("id,email,tier\n" + "".join(f"a{n},person{n}@example.com,{n in gold:d}\n" for n in range(20)))
        identities = [IdentityColumn.parse("email=email_sha256:raw")]
        options: Any = {"id_column": "id", "identities": identities, "attributes": ["tier"]}
        pair.acme.project.profiles.import_(file, dataset="tiers", **options)

    tiers(range(15))
    pair.acme.project.segments.create("gold", rule="tier = 1")
    pair.share("f", ["gold"], [EMAIL])
    living.pass_()
    pair.globe.project.segments.create("theirs", rule="received.acme.gold")
    assert pair.globe.project.segments.show("theirs").size == 5
    tiers(range(12))
    living.pass_(2)
    living.pass_(2)
    assert pair.acme.project.segments.show("gold").size == 12
    assert pair.globe.project.segments.show("theirs").size == 2


def test_a_revision_that_changes_nobody_evaluates_no_rule(living: Living) -> None:
    living.share()
    living.pass_()
    living.globe.project.segments.create("theirs", rule="received.acme.all")
    living.pass_(2)
    before = len(living.globe.acts("segment.evaluate"))
    for _ in range(2):
        living.pass_(days=1)
        living.pass_(60)
    assert [whole for _, whole, _ in living.revisions()] == [True, False, False]
    assert len(living.globe.acts("segment.evaluate")) == before
    living.acme.project.consent.set("a15", "n")
    living.pass_(2)
    living.pass_(2)
    assert len(living.globe.acts("segment.evaluate")) == before + 1
    assert living.globe.project.segments.show("theirs").size == 9


@pytest.mark.feature("EX1")
def test_an_unchanged_feed_says_so_once_a_day(living: Living) -> None:
    living.share()
    living.pass_()
    living.pass_(3_600)
    assert living.revisions() == [(1, True, 20)]
    for revision in (2, 3):
        living.pass_(days=1)
        living.pass_(60)
        assert living.revisions()[-1] == (revision, False, 0)
    statuses = living.globe.project.received.show("f")["statuses"]["all"]
    assert statuses == {"realized": 0, "existing": 10, "exited": 0}
    living.acme.project.consent.set("a15", "n")
    living.pass_(2)
    assert living.revisions()[-1] == (4, False, 1)
    assert living.members() == set(range(10, 20)) - {15}


@pytest.mark.feature("EX1")
def test_people_who_are_new_at_the_receiver_are_found(living: Living, person: type[Person]) -> None:
    living.share()
    living.pass_()
    living.globe.people(people(person, "g", [3, 4]), "more")
    living.pass_(61)
    living.pass_(61)
    assert living.members() == {3, 4, *range(10, 20)}
    assert len(living.revisions()) == 1  # what was sent holds them already


@pytest.mark.feature("EX1")
def test_a_receiver_that_grows_past_what_was_agreed_goes_on(living: Living, person: type[Person]) -> None:
    """It tells its new size before the evaluations are spent; the sender is alerted, and nobody types anything."""
    living.share()
    living.pass_()
    living.globe.people(people(person, "g", range(10)), "more")  # half as many again
    for _ in range(3):
        living.pass_(61)
    assert living.members() == set(range(20))
    told = [alert.text for alert in living.acme.project.alerts.all() if alert.kind == "feed_enabled"]
    assert any("30 in email_sha256" in text for text in told)
    assert len(living.revisions()) == 1  # a larger size is no reason to send everything anew


@pytest.mark.feature("EX1")
def test_a_partner_that_is_down_gets_it_when_it_is_back(
    idle_pair: Pair, person: type[Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = idle_pair
    with pair.acme.serving():
        with pair.globe.serving():
            living = Living(pair, person)
            living.share()
            living.pass_()
        living.acme.project.consent.set("a15", "n")
        tried = []
        with monkeypatch.context() as hurried, service_lock(pair.globe.node.home.path):  # globe itself fetches nothing
            hurried.setattr(client, "RETRY_SECONDS", 0.2)
            hurried.setattr(letters, "SYNC_SECONDS", 0.2)
            for seconds in (2, 1, 1, FIRST_SECONDS, 1, 2 * FIRST_SECONDS, 1):
                living.pass_(seconds)
                tried.append(len(living.acme.node.jobs.all(state=JobState.FAILED)))
        assert tried == [1, 1, 1, 2, 2, 3, 3]
        failing = living.acme.project.feeds.show("f")["partners"][0]
        assert (failing["failure"], failing["next_attempt"] > pair.clock()) == ("unreachable", True)
        assert [each.kind for each in living.acme.project.alerts.all()].count("run_failed") == 1
        with pair.globe.serving():
            living.pass_(LONGEST_SECONDS)
            assert living.members() == set(range(10, 20)) - {15}
    assert living.acme.project.feeds.show("f")["partners"][0]["failure"] is None
    assert "run_failed" not in [each.kind for each in living.acme.project.alerts.all(open_only=True)]


@pytest.mark.feature("EX1")
def test_both_sides_show_age_change_and_latency_of_a_run_and_log_one_line(
    living: Living, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[dict[str, Any]] = []
    monkeypatch.setattr(log, "info", lambda event, **values: lines.append({"event": event, **values}))
    living.share()
    living.pass_()
    living.acme.project.consent.set("a15", "n")
    changed = living.pair.clock()
    lines.clear()
    living.pass_(4)
    done = [line for line in lines if line["event"] == "run" and line["status"] == "done"]
    said = sorted((line["direction"], line["feed"], line["revision"]) for line in done)
    assert said == [("in", "f", 2), ("out", "f", 2)]
    assert "person" not in str(lines)
    living.pair.clock.advance(seconds=100)
    sent, came = living.acme.project.feeds.show("f"), living.globe.project.received.show("f")
    for last in (sent["partners"][0]["last_run"], came["last_run"]):
        assert last == {"revision": 2, "at": changed + 4, "age": 100, "changed_at": changed, "latency": 4}
    assert sent["runs"][0]["latency"] == came["runs"][0]["latency"] == 4


@pytest.mark.feature("EX1")
def test_a_change_before_a_restart_is_brought_after_it(pair: Pair, person: type[Person]) -> None:
    living = Living(pair, person)
    living.share()
    living.pass_()
    living.acme.project.consent.set("a15", "n")
    living.acme.node.close()
    living.acme.open()
    Schedule(living.acme.node.home).tick()
    assert living.acme.node.jobs.all(state=JobState.QUEUED) == []  # not yet
    pair.clock.advance(seconds=2)
    Schedule(living.acme.node.home).tick()
    Schedule(living.acme.node.home).tick()  # one job, however often it looks
    assert len(living.acme.node.jobs.all(state=JobState.QUEUED)) == 1
    pair.post()
    assert living.members() == set(range(10, 20)) - {15}


def test_a_receiver_that_asks_all_the_time_gets_a_run_a_minute(pair: Pair, person: type[Person]) -> None:
    living = Living(pair, person)
    living.share()
    living.pass_()
    row = living.globe.project.partners.get("acme")
    before = len(living.acme.node.jobs.all())
    for _ in range(61):
        new_people.ask(living.globe.project.scope, row, EMAIL)
        pair.post()
        pair.clock.advance(seconds=1)
        Schedule(living.acme.node.home).tick()
    assert len(living.acme.node.jobs.all()) - before <= 2


def test_a_receiver_that_cries_wolf_is_heard_ever_more_rarely_and_again_once_it_has_people(
    pair: Pair, person: type[Person]
) -> None:
    living = Living(pair, person)
    living.share()
    living.pass_()
    row = living.globe.project.partners.get("acme")

    def minutes(count: int) -> int:
        """Let it ask every minute; returns how many runs it got."""
        before = len(living.acme.node.jobs.all())
        for _ in range(count):
            new_people.ask(living.globe.project.scope, row, EMAIL)
            living.pass_(60)
        return len(living.acme.node.jobs.all()) - before

    assert minutes(8) == 3  # after one, two and four minutes more
    assert minutes(7) <= 1
    living.globe.people(people(person, "g", [3]), "more")
    living.pass_(DAY)
    assert 3 in living.members()
    assert minutes(3) >= 2


def test_a_receiver_that_loses_its_base_again_and_again_waits_longer_for_a_whole_revision(
    pair: Pair, person: type[Person]
) -> None:
    living = Living(pair, person)
    living.share()
    living.pass_()
    row = living.globe.project.partners.get("acme")
    with living.globe.node.home.database.read() as tx:
        _, feed = received_feeds.get(living.globe.project.scope, tx, "f")

    def wholes() -> int:
        return sum(whole for _, whole, _ in living.revisions())

    def lose(seconds: int) -> int:
        before = wholes()
        living.globe.project.received.request_full_revision(feed)
        new_people.ask(living.globe.project.scope, row, EMAIL)  # nor by this way
        living.pair.post()
        living.pass_(seconds)
        return wholes() - before

    assert lose(1) == 1  # it may be true
    assert lose(1) == 0
    living.acme.project.consent.set("a15", "n")
    living.pass_(30)
    assert wholes() == 2
    living.pass_(30)
    assert wholes() == 3
    assert living.members() == set(range(10, 20)) - {15}
    assert sum(lose(60) for _ in range(24)) <= 6
    living.pass_(days=1)
    living.pass_(days=1)
    assert lose(1) == 1


def test_a_receiver_that_refuses_all_changes_does_not_get_everything_for_each(
    pair: Pair, person: type[Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    living = Living(pair, person)
    living.share()
    living.pass_()
    monkeypatch.setattr(received_releases, "base_of", lambda _: None)
    for number in range(10, 15):
        living.acme.project.consent.set(f"a{number}", "n")
        living.pass_(2)
    assert [whole for _, whole, _ in living.revisions()] == [True, True]
    assert living.members() == set(range(11, 20))
    living.pass_(LONGEST_SECONDS)
    assert living.members() == set(range(15, 20))


def test_a_sender_cannot_say_that_its_data_is_of_tomorrow(pair: Pair, person: type[Person]) -> None:
    living = Living(pair, person)
    living.share()
    with living.acme.node.home.database.begin() as tx:  # a first run brings what is as old as the partner's yes
        tx.execute(update(feed_partners).values(changed=2**37))
    living.pass_()
    last = living.globe.project.received.show("f")["last_run"]
    assert (last["changed_at"], last["latency"]) == (pair.clock(), 0)


# Key epochs


@pytest.mark.feature("EX7")
def test_a_key_epoch_that_is_ended_on_demand_leaves_no_gap(
    living: Living, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    living.share()
    living.pass_()
    with pytest.raises(NotAllowed, match="less than a day"):
        key_epochs.rotate(living.acme.project.scope, "globe")
    assert len(living.acme.acts("partner.rotate", Result.DENY)) == 1
    living.pass_(days=1)
    with living.acme.node.home.database.read() as tx:
        secret = tx.scalar(select(epoch_rows.c.secret))
    begun = key_epochs.rotate(living.acme.project.scope, "globe")
    assert begun == {"ended": 1, "epoch": 2, "partner_has_to_allow": False}
    assert living.members() == set(range(10, 20))
    once, seen = PeerClient.attempt, []

    def watching(self: PeerClient, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        seen.append(len(living.members()))
        return once(self, method, path, body)

    monkeypatch.setattr(PeerClient, "attempt", watching)
    living.pass_(1)
    assert set(seen) == {10}
    assert living.members() == set(range(10, 20))
    assert living.revisions()[-1] == (3, True, 20)
    for side in (living.acme, living.globe):
        (folder,) = (side.node.home.path / "cache").iterdir()
        assert [each.name for each in folder.iterdir()] == ["2"]
        with side.node.home.database.read() as tx:
            first = tx.execute(select(epoch_rows).order_by(epoch_rows.c.number)).first()
        assert first is not None
        assert first.secret == b"" != secret
    assert living.globe.acts("partner.rotated")[0]["detail"] == {"epoch": 2}


def test_an_end_of_an_epoch_that_is_broken_off_leaves_its_caches(
    living: Living, monkeypatch: pytest.MonkeyPatch
) -> None:
    living.share()
    living.pass_()
    living.pass_(days=1)
    caches = sorted((living.acme.node.home.path / "cache").rglob("*"))

    def full(*_: Any, **__: Any) -> None:
        raise DiskFull("no space left", hint="make room")

    with monkeypatch.context() as patched:
        patched.setattr(living.acme.node.audit, "record", full)
        with pytest.raises(DiskFull):
            key_epochs.rotate(living.acme.project.scope, "globe")
    assert sorted((living.acme.node.home.path / "cache").rglob("*")) == caches != []
    key_epochs.rotate(living.acme.project.scope, "globe")
    assert set(caches).isdisjoint(path for path in (living.acme.node.home.path / "cache").rglob("*") if path.is_file())


def test_a_receiver_that_ends_the_epoch_waits_for_the_senders_word(pair: Pair, person: type[Person]) -> None:
    living = Living(pair, person)
    living.share()
    living.pass_()
    living.pass_(days=1)
    assert key_epochs.rotate(pair.globe.project.scope, "acme")["partner_has_to_allow"] is True
    living.pass_(61)
    living.pass_(61)
    assert len(living.revisions()) == 2
    assert living.members() == set(range(10, 20))  # nothing is lost meanwhile
    pair.acme.project.partners.allow("globe")
    living.pass_(LONGEST_SECONDS)
    assert living.revisions()[-1][1:] == (True, 20)
    assert living.members() == set(range(10, 20))


def test_the_schedule_of_a_project_without_feeds_does_nothing(node: Node) -> None:
    Schedule(node.home).tick()
    assert node.jobs.all() == []
    assert candidates(node.project().scope) == []
