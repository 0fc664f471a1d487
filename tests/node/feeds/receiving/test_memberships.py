"""What can be done with what received feeds give: rules, exports, nothing about anybody new."""

from pathlib import Path

import pytest
from sharing import publish, sync
from sides import EMAIL, Pair, Person

from node.errors import AlreadyExists, InvalidInput, NotAllowed, NotFound
from node.people.snapshots import Snapshot


def exported(pair: Pair, name: str) -> set[str]:
    file = pair.globe.folder / f"{name}-export.csv"
    size = pair.globe.project.files.export(name, file, force=True)
    header, *ids = file.read_text().splitlines()
    assert (header, len(ids)) == ("id", size)
    return set(ids)


@pytest.mark.feature("RC4")
def test_received_segments_can_be_included_and_excluded_in_rules(shared: Pair) -> None:
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
    assert {each.name for each in segments.all()} == {"loyal", *rules}  # received ones stay in their partner's folder
    for wrong in ("received.acme.nothing", "received.other.vip"):
        with pytest.raises(NotFound):
            segments.create("wrong", rule=wrong)
    with pytest.raises((InvalidInput, AlreadyExists, NotFound, NotAllowed, ValueError)):
        segments.create("received.acme.vip", rule="own.loyal AND")


@pytest.mark.feature("RC4")
def test_the_rule_behind_a_received_segment_is_hidden(shared: Pair) -> None:
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
def test_an_export_holds_what_is_received_now_and_nothing_that_was_taken_back(shared: Pair, tmp_path: Path) -> None:
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
            shared.globe.project.files.export(name, tmp_path / "gone.csv")
    assert not (tmp_path / "gone.csv").exists()
    with pytest.raises(NotFound):
        segments.evaluate("deeper")
    segments.create("rest", rule="received.acme.new")
    assert {each.name: each.size for each in segments.evaluate_all()} == {"derived": 0, "deeper": 0, "rest": 1}


@pytest.mark.feature("RC4")
def test_a_segment_that_comes_by_two_feeds_has_the_members_of_both(pair: Pair, person: type[Person]) -> None:
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
def test_a_run_brings_no_new_identity_or_profile(shared: Pair) -> None:
    def counted() -> tuple[int, dict[str, int]]:
        snapshot = Snapshot.open(shared.globe.project.scope)
        return snapshot.profile_count, {each: len(snapshot.identities(each).values) for each in snapshot.namespaces}

    before = counted()
    assert before[0] == 6
    shared.globe.project.received.enable("summer")
    assert sync(shared) == ["done"]
    assert shared.globe.members("acme", "vip")
    assert counted() == before
