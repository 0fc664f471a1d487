"""Feeds at the receiver: pending, enabled, paused, declined; and what can be done with what they give."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from node.errors import AlreadyExists, Failure, InvalidInput, NotFound, PeerRefused, Refused
from node.feeds.receiving import taking
from node.people.data import Snapshot
from node.storage.tables import feed_partners, memberships, received_feeds
from protocol.errors import RemoteProtocolError

EMAIL = "email_sha256/lc-v1"


@pytest.fixture
def shared(pair: Any, person: Any) -> Any:
    """Two connected nodes; acme has published a feed "summer" of a2-a5 and globe, with g3-g8, has not answered."""
    ours = [person(f"a{n}", f"person{n}@example.com") for n in range(6)]
    theirs = [person(f"g{n}", f"person{n}@example.com") for n in range(3, 9)]
    pair.prepare(ours, theirs, {"vip": ["a2", "a3", "a4"], "new": ["a4", "a5"]})
    publish(pair, "summer", ["vip", "new"])
    return pair


def publish(pair: Any, name: str, segments: list[str]) -> None:
    pair.acme.project.feeds.create(name, segments=segments, namespaces=[EMAIL], partners=["globe"])
    pair.acme.project.feeds.publish(name)


def sync(pair: Any) -> list[str]:
    return [run["status"] for run in pair.acme.project.feeds.sync()]


def at_sender(pair: Any) -> dict[str, Any]:
    (state,) = pair.acme.project.feeds.show("summer")["partners"]
    return dict(state)


def force(pair: Any) -> None:
    """Let the sender act as if the receiver had enabled its feed."""
    with pair.acme.node.store.begin() as tx:
        tx.execute(update(feed_partners).values(status="enabled", accepted_version=1, universes={EMAIL: 6}))


def stored(pair: Any) -> int:
    """Count membership rows and files of received feeds at globe."""
    folder = pair.globe.project.data_directory / "received"
    with pair.globe.node.store.read() as tx:
        rows = tx.scalar(select(func.count()).select_from(memberships))
    return int(rows or 0) + sum(path.is_file() for path in folder.rglob("*"))


@pytest.mark.feature("RC1")
def test_the_same_feed_is_in_the_list_of_each_side(shared: Any) -> None:
    (ours,) = shared.acme.project.feeds.list()
    (theirs,) = shared.globe.project.received.list()
    assert (ours["name"], ours["partners"]) == ("summer", {"globe": "pending"})
    assert (theirs["name"], theirs["partner"], theirs["status"]) == ("summer", "acme", "pending")
    assert shared.globe.project.feeds.list() == shared.acme.project.received.list() == []
    shared.globe.project.received.enable("summer")
    assert shared.acme.project.feeds.list()[0]["partners"] == {"globe": "enabled"}
    assert shared.globe.project.received.list()[0]["status"] == "enabled"
    assert shared.acme.project.feeds.show("summer")["feed"] == shared.globe.project.received.show("summer")["feed"]


@pytest.mark.feature("RC2")
def test_nothing_is_stored_before_the_feed_is_enabled(shared: Any) -> None:
    assert sync(shared) == []
    assert at_sender(shared)["status"] == "pending"
    force(shared)
    with pytest.raises(PeerRefused) as refused:  # nor from a sender that does not wait
        shared.acme.project.feeds.sync()
    assert refused.value.code in ("no_feed", "not_enabled")
    publish(shared, "other", ["new"])
    shared.globe.project.received.enable("other")  # points are evaluated for this one
    force(shared)
    with pytest.raises(PeerRefused) as refused:
        shared.acme.project.feeds.sync("summer")
    assert refused.value.code == "not_enabled"
    assert stored(shared) == 0
    with pytest.raises(NotFound):
        shared.globe.members("acme", "vip")
    shared.globe.project.received.enable("summer")
    assert sync(shared) == ["done", "done"]
    assert shared.globe.members("acme", "vip") == {"g3", "g4"}
    assert stored(shared) > 0


@pytest.mark.feature("RC3")
def test_a_pause_keeps_the_data_and_stops_the_next_run(shared: Any) -> None:
    received = shared.globe.project.received
    received.enable("summer")
    assert sync(shared) == ["done"]
    received.disable("summer", reason="holidays")
    assert (at_sender(shared)["status"], at_sender(shared)["reason"]) == ("disabled", "holidays")
    shared.acme.project.consent.set("a4", "n")
    assert sync(shared) == []
    force(shared)
    with pytest.raises(PeerRefused) as refused:
        shared.acme.project.feeds.sync()
    assert refused.value.code in ("no_feed", "not_enabled")
    assert shared.globe.members("acme", "vip") == {"g3", "g4"}
    assert received.show("summer")["revision"] == 1
    received.enable("summer")
    assert sync(shared) == ["done"]
    assert shared.globe.members("acme", "vip") == {"g3"}
    assert received.list()[0]["status"] == "enabled"


def exported(pair: Any, name: str) -> set[str]:
    file = pair.globe.folder / f"{name}-export.csv"
    size = pair.globe.project.segments.export(name, file)
    header, *ids = file.read_text().splitlines()
    assert (header, len(ids)) == ("id", size)
    return set(ids)


@pytest.mark.feature("RC4")
def test_received_segments_can_be_included_and_excluded_in_rules(shared: Any) -> None:
    shared.globe.project.received.enable("summer")
    sync(shared)
    shared.globe.segment("loyal", ["g3", "g7"])
    segments = shared.globe.project.segments
    rules = {
        "both": ("received.acme.vip AND own.loyal", {"g3"}),
        "either": ("received.acme.vip OR own.loyal", {"g3", "g4", "g7"}),
        "others": ("own.loyal AND NOT received.acme.vip", {"g7"}),
        "stack": ("received.acme.new AND NOT own.both", {"g4", "g5"}),
    }
    for name, (rule, expected) in rules.items():
        made = segments.create(name, rule=rule)
        assert made.size == len(expected)
        assert exported(shared, name) == expected
    assert segments.show("both").uses == ["own.loyal", "received.acme.vip"]
    assert {each.name for each in segments.list()} == {"loyal", *rules}  # received ones stay in their partner's folder
    for wrong in ("received.acme.nothing", "received.other.vip"):
        with pytest.raises(NotFound):
            segments.create("wrong", rule=wrong)
    with pytest.raises((InvalidInput, AlreadyExists, NotFound, Refused, ValueError)):
        segments.create("received.acme.vip", rule="own.loyal AND")


@pytest.mark.feature("RC4")
def test_the_rule_behind_a_received_segment_is_hidden(shared: Any, person: Any) -> None:
    acme = shared.acme
    acme.project.segments.create("secret", rule="own.vip AND NOT own.new")
    publish(shared, "ruled", ["secret"])
    shared.globe.project.received.enable("ruled")
    shared.acme.project.feeds.sync("ruled")
    assert shared.globe.members("acme", "secret") == {"g3"}
    shown = str(shared.globe.project.received.show("ruled"))
    assert "NOT" not in shown
    assert "own." not in shown
    for each in ("secret", "received.acme.secret"):
        with pytest.raises(NotFound):  # nothing to show, and so nothing to convert into a rule of ours
            shared.globe.project.segments.show(each)


@pytest.mark.feature("RC4")
def test_an_export_holds_what_is_received_now_and_nothing_that_was_taken_back(shared: Any, tmp_path: Path) -> None:
    shared.globe.project.received.enable("summer")
    sync(shared)
    segments = shared.globe.project.segments
    segments.create("derived", rule="received.acme.vip")
    segments.create("deeper", rule="own.derived OR received.acme.new")
    assert exported(shared, "derived") == {"g3", "g4"}
    shared.acme.project.consent.set("a4", "n")
    sync(shared)
    assert exported(shared, "derived") == {"g3"}
    assert exported(shared, "deeper") == {"g3", "g5"}
    shared.acme.project.feeds.unshare("summer", segment="vip")
    for name in ("derived", "deeper"):
        with pytest.raises(NotFound, match=r"acme\.vip"):
            segments.export(name, tmp_path / "gone.csv")
    assert not (tmp_path / "gone.csv").exists()
    with pytest.raises(NotFound):
        segments.evaluate("deeper")
    segments.create("rest", rule="received.acme.new")
    assert {each.name: each.size for each in segments.evaluate()} == {"derived": 0, "deeper": 0, "rest": 1}


@pytest.mark.feature("RC4")
def test_a_segment_that_comes_by_two_feeds_has_the_members_of_both(pair: Any, person: Any) -> None:
    ours = [person("a1", "person1@example.com"), person("a2", "", "+447400000002")]
    theirs = [person("g1", "person1@example.com"), person("g2", "", "+447400000002")]
    pair.prepare(ours, theirs, {"vip": ["a1", "a2"]})
    pair.share("mails", ["vip"], [EMAIL])
    pair.share("phones", ["vip"], ["phone_sha256"])
    sync(pair)
    assert pair.globe.members("acme", "vip") == {"g1", "g2"}
    pair.globe.project.segments.create("derived", rule="received.acme.vip")
    pair.acme.project.feeds.revoke("mails")
    assert pair.globe.members("acme", "vip") == {"g2"}
    assert pair.globe.project.segments.show("derived").size == 1  # at once, since the others were purged


@pytest.mark.feature("RC5")
def test_a_run_brings_no_new_identity_or_profile(shared: Any) -> None:
    def counted() -> tuple[int, dict[str, int]]:
        snapshot = Snapshot.open(shared.globe.project)
        return snapshot.profile_count, {each: len(snapshot.identities(each).values) for each in snapshot.namespaces}

    before = counted()
    assert before[0] == 6
    shared.globe.project.received.enable("summer")
    assert sync(shared) == ["done"]
    assert shared.globe.members("acme", "vip")
    assert counted() == before


@pytest.mark.feature("RC6")
def test_a_decline_reaches_the_sender_with_its_reason(shared: Any) -> None:
    shared.globe.project.received.decline("summer", reason="no legal basis")
    assert (at_sender(shared)["status"], at_sender(shared)["reason"]) == ("declined", "no legal basis")
    assert shared.globe.project.received.list()[0]["status"] == "declined"
    assert "feed_declined" in [alert.kind for alert in shared.acme.project.alerts.list()]
    assert sync(shared) == []
    with pytest.raises(Refused):
        shared.globe.project.received.enable("summer")
    with pytest.raises(Refused):
        shared.acme.project.feeds.publish("summer")


@pytest.mark.feature("RC6")
def test_declining_what_was_enabled_purges_it(shared: Any) -> None:
    shared.globe.project.received.enable("summer")
    sync(shared)
    shared.globe.project.segments.create("derived", rule="received.acme.vip")
    shared.globe.project.received.decline("summer")
    assert stored(shared) == 0
    assert shared.globe.project.segments.show("derived").size == 0
    assert sync(shared) == []


@pytest.mark.feature("EX5")
def test_the_word_of_a_purge_leaves_when_the_files_are_gone(shared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shared.globe.project.received.enable("summer")
    sync(shared)
    with monkeypatch.context() as patched:
        patched.setattr(shared.globe.node.store, "afterwards", lambda act: None)  # as if it was killed at the commit
        patched.setattr(Path, "unlink", failing(PermissionError(1, "not permitted")))
        shared.acme.project.feeds.revoke("summer")
        shared.post()
        assert shared.globe.project.received.show("summer")["status"] == "revoked"
        assert at_sender(shared)["purges"] == []
        shared.globe.node.sweep()  # goes on with the rest
    assert stored(shared)
    shared.post()
    assert not stored(shared)
    assert len(at_sender(shared)["purges"]) == 1


@pytest.mark.feature("EX5")
def test_what_a_kill_leaves_of_a_partner_that_is_gone_is_removed(shared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shared.globe.project.received.enable("summer")
    sync(shared)
    cache = shared.globe.node.home / "cache"
    assert any(path.is_file() for path in cache.rglob("*"))
    with monkeypatch.context() as patched:
        patched.setattr(shared.globe.node.store, "afterwards", lambda act: None)
        shared.globe.project.partners.disconnect("acme")
    assert any(path.is_file() for path in cache.rglob("*"))
    shared.globe.node.sweep()
    assert not any(path.is_file() for path in cache.rglob("*"))
    assert not stored(shared)


@pytest.mark.parametrize(
    "damage", [lambda content: b"", lambda content: content[:-20] + bytes(20)], ids=["all", "the end"]
)
def test_nobody_leaves_where_what_was_evaluated_is_lost(shared: Any, damage: Callable[[bytes], bytes]) -> None:
    globe = shared.globe.project
    globe.received.enable("summer")
    sync(shared)
    members = shared.globe.members("acme", "new")
    assert members
    (path,) = (each for each in (shared.globe.node.home / "cache").rglob("*") if each.name.startswith("prf"))
    path.write_bytes(damage(path.read_bytes()))
    for _ in range(2):
        with suppress(Failure):
            globe.memberships.join_all()
        assert shared.globe.members("acme", "new") == members
    shared.acme.project.segments.update("new", ids(shared, "a3", "a4"))
    assert sync(shared) == ["done"]  # which asks for it again
    assert shared.globe.members("acme", "new") == {"g3", "g4"} != members


def ids(pair: Any, *members: str) -> Path:
    file = pair.acme.folder / "members.csv"
    file.write_text("\n".join(["id", *members]) + "\n")
    return Path(file)


def failing(error: Exception) -> Callable[..., None]:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail


@pytest.mark.feature("RC6")
@pytest.mark.parametrize("what", ["decline", "revoke", "disable"])
def test_what_happens_to_a_feed_during_a_run(shared: Any, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    shared.globe.project.received.enable("summer")
    acts: dict[str, Callable[[], None]] = {
        "decline": lambda: shared.globe.project.received.decline("summer", reason="enough"),
        "revoke": lambda: shared.acme.project.feeds.revoke("summer"),
        "disable": lambda: shared.globe.project.received.disable("summer"),
    }
    received, done = taking.received, []

    def late(*arguments: Any) -> None:
        if not done:
            done.append(True)
            acts[what]()
        received(*arguments)

    monkeypatch.setattr(taking, "received", late)
    try:
        shared.acme.project.feeds.sync()
    except (PeerRefused, RemoteProtocolError):
        assert what != "disable"
    shared.post()
    assert done
    kept = {"decline": "declined", "revoke": "revoked", "disable": "disabled"}[what]
    assert shared.globe.project.received.list()[0]["status"] == at_sender(shared)["status"] == kept
    if what == "disable":  # what is under way comes to its end, the next run does not begin
        assert shared.globe.members("acme", "vip") == {"g3", "g4"}
    else:
        assert stored(shared) == 0
        with shared.globe.node.store.read() as tx:
            assert tx.scalar(select(received_feeds.c.records)) is None
    assert sync(shared) == []
