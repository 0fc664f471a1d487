"""What partners' labels and restrictions forbid at the receiver."""

from dataclasses import replace
from pathlib import Path

import governed
import pytest
from governed import offer, paths
from sides import EMAIL, Pair, Person

from cli.remedies import violation
from node.access.audit import Result
from node.errors import InvalidInput, NotAllowed
from node.feeds import versions
from node.feeds.receiving import offers, received_feeds
from node.feeds.sending.edits import Removal
from node.governance.violations import PolicyViolation
from node.people.snapshots import Snapshot
from psi.errors import Remedy


@pytest.fixture
def two(pair: Pair, person: type[Person]) -> Pair:
    """Acme with segments over lists and over fields of dataset "orders", and globe, who knows half of the people."""
    return governed.prepare(pair, person)


def hashes(pair: Pair, feed: str = "summer") -> set[str]:
    return {side.show(feed)["hash"] for side in (pair.acme.project.feeds, pair.globe.project.received)}


def globe_ids(pair: Pair) -> list[str]:
    return [each.decode() for each in Snapshot.open(pair.globe.project.scope).profile_ids]


@pytest.mark.feature("GV11")
def test_the_senders_labels_are_shown_inherited_and_obeyed_by_the_receiver(two: Pair, tmp_path: Path) -> None:
    two.acme.project.labels.apply("C4", "field", "orders.income")
    offer(two, "summer", "rich", "vip")
    two.acme.project.feeds.sync()
    globe = two.globe.project
    assert globe.received.show("summer")["segments"] == [
        {"name": "rich", "labels": ["C4"]},
        {"name": "vip", "labels": []},
    ]
    shown = globe.received.segment("received.acme.rich")
    assert (shown["labels"], shown["size"], "rule" in shown) == (["C4"], 2, False)
    globe.segments.create("copied", rule="received.acme.rich")
    globe.segments.create("deeper", rule="NOT own.copied")
    globe.segments.create("free", rule="received.acme.vip")
    assert {label: list(map(str, origins)) for label, origins in globe.labels.labels_of_segment("deeper").items()} == {
        "C4": ["received.acme.rich"]
    }
    assert globe.labels.labels_of_segment("free") == {}
    shown_of = {name: globe.profiles.show(name) for name in globe_ids(two)}
    assert sum("acme.rich" in each["received"] for each in shown_of.values()) == 2
    assert all(("copied" in each["segments"]) == ("acme.rich" in each["received"]) for each in shown_of.values())
    with pytest.raises(NotAllowed, match=r"inherits C4 from received\.acme\.rich") as read_only:
        globe.labels.remove("C4", "segment", "copied")
    assert read_only.value.remedy == Remedy("segment.update", {"name": "copied", "rule": "EXPR"})
    assert globe.files.export("deeper", tmp_path / "a.csv", uses=["email-targeting"]) == 4
    globe.policies.enable("restrict-email-targeting")
    with pytest.raises(PolicyViolation, match=r"C4 from received\.acme\.rich > segment copied > segment deeper"):
        globe.files.export("deeper", tmp_path / "b.csv", uses=["email-targeting"])
    with pytest.raises(PolicyViolation) as unsaid:
        globe.files.export("deeper", tmp_path / "b.csv")
    assert unsaid.value.remedy == Remedy("segment.export", {"name": "deeper", "uses": ["USE"]})
    assert globe.files.export("deeper", tmp_path / "c.csv", uses=["analytics"]) == 4
    assert globe.files.export("free", tmp_path / "d.csv") == 1
    assert not (tmp_path / "b.csv").exists()
    with pytest.raises(InvalidInput, match="no directory"):
        globe.files.export("free", tmp_path / "absent" / "d.csv")
    assert not (tmp_path / "absent").exists()
    assert [row["detail"]["uses"] for row in two.globe.acts("segment.export")] == [
        [],
        ["analytics"],
        ["email-targeting"],
    ]


@pytest.mark.feature("GV11")
@pytest.mark.parametrize("enable", [False, True], ids=["pending", "enabled"])
def test_labels_that_the_sender_changes_hold_at_once_on_both_sides(two: Pair, tmp_path: Path, enable: bool) -> None:
    acme, globe = two.acme.project, two.globe.project
    offer(two, "summer", "rich", "vip", enable=enable)
    acme.feeds.create("draft", segments=["rich"], namespaces=[EMAIL], partners=["globe"])
    acme.labels.apply("C4", "dataset", "orders")
    two.post()
    assert len(hashes(two)) == 1
    assert acme.feeds.show("draft")["segments"] == [{"name": "rich", "labels": ["C4"]}]
    assert two.acme.acts("label.apply")[0]["detail"]["feeds"] == ["draft", "summer"]
    shown = globe.received.show("summer")
    assert shown["segments"][0] == {"name": "rich", "labels": ["C4"]}
    assert (shown["accepted_version"], shown["offered_version"]) == ((2, None) if enable else (None, 2))
    if not enable:
        globe.received.enable("summer")
        two.post()
    else:
        text = "acme changed feed summer, and gives nothing new by it"
        assert text in [each.text for each in globe.alerts.all()]
    acme.feeds.sync("summer")
    assert two.globe.members("acme", "rich") == {"g3", "g4"}
    globe.segments.create("copied", rule="received.acme.rich")
    globe.policies.enable("restrict-email-targeting")
    with pytest.raises(PolicyViolation):
        globe.files.export("copied", tmp_path / "a.csv", uses=["email-targeting"])
    acme.labels.remove("C4", "dataset", "orders")
    two.post()
    assert len(hashes(two)) == 1
    assert globe.files.export("copied", tmp_path / "a.csv", uses=["email-targeting"]) == 2
    assert [partner["status"] for partner in acme.feeds.show("summer")["partners"]] == ["enabled"]
    acme.segments.update("rich", rule="income > 5 AND NOT own.vip")  # the labels are the same, so is the version
    two.post()
    assert acme.feeds.show("summer")["version"] == 3
    acme.labels.apply("C5", "segment", "vip")
    two.post()
    assert globe.labels.labels_of_segment("copied")["C5"][0].target == "acme.rich"
    acme.feeds.sync("summer")
    assert two.globe.members("acme", "rich") == {"g4"}
    assert len(hashes(two)) == 1


@pytest.mark.feature("GV11")
def test_a_label_holds_before_the_version_that_brings_it_is_accepted(two: Pair) -> None:
    """Stricter at once: also where a version waits for acceptance, since it gives something too."""
    offer(two, "summer", "rich")
    two.acme.project.feeds.sync()
    globe = two.globe.project
    globe.segments.create("copied", rule="received.acme.rich")
    with globe.scope.home.database.begin() as tx:
        connection, feed = received_feeds.get(globe.scope, tx, "summer")
        before = versions.get(tx, feed.id, 1)
        (rich,) = before.segments
        more = replace(rich, id=bytes(16), name="more", labels=("C9",))
        after = replace(before, version=2, segments=(replace(rich, labels=("c4", "theirs")), more))
        offers.offered(globe.scope, tx, connection, after)
    assert globe.received.show("summer")["accepted_version"] == 1
    assert list(globe.labels.labels_of_segment("copied")) == ["C4", "theirs"]


@pytest.mark.feature("GV8")
def test_a_restricted_use_binds_whoever_reads_the_segment(two: Pair, tmp_path: Path) -> None:
    uses = ["email-targeting", "export-to-third-party"]
    offer(two, "summer", "rich", restricted_uses=uses)
    offer(two, "winter", "vip")
    two.acme.project.feeds.sync()
    globe = two.globe.project
    globe.segments.create("copied", rule="received.acme.rich")
    globe.segments.create("deeper", rule="NOT own.copied")
    globe.segments.create("free", rule="received.acme.vip")
    file = tmp_path / "out.csv"
    for name in ("copied", "deeper"):
        for chosen in (["email-targeting"], ["analytics", "export-to-third-party"], []):
            with pytest.raises(PolicyViolation, match=r"acme's feed summer \(restricted uses\) forbids") as caught:
                globe.files.export(name, file, force=True, uses=chosen)
            refused = {violation["action"] for violation in caught.value.document()["violations"]}
            assert refused == set(uses) & set(chosen or uses)
        assert globe.files.export(name, file, force=True, uses=["analytics", "onsite-personalisation"]) > 0
        file.unlink()
    found = caught.value.document()["violations"][0]
    assert (found["feed"], found["policy"]) == ("summer", None)
    assert paths({"violations": [found]}) == ["acme.rich > copied > deeper"]
    assert violation(found)["fixes"] == ["vesica segment update copied --rule EXPR"]
    assert globe.files.export("free", file, force=True) == 1
    for action in ("email-targeting", "segment-match"):  # nothing received is shared on
        assert [each.action for each in globe.governance.check(["copied"], action=action)] == [action]
    for wrong in ("world-domination", "segment-match"):
        with pytest.raises(InvalidInput):
            globe.files.export("free", file, uses=[wrong], force=True)
    assert {row["target"] for row in two.globe.acts("segment.export", Result.DENY)} == {"copied", "deeper", "free"}
    two.acme.project.feeds.edit("summer", Removal(restricted_uses=["email-targeting"]))  # the sender lifts it: at once
    two.post()
    assert globe.files.export("copied", file, force=True, uses=["email-targeting"]) == 2
    with pytest.raises(PolicyViolation):
        globe.files.export("copied", file, force=True, uses=["export-to-third-party"])


@pytest.mark.feature("GV8")
def test_a_segment_that_comes_by_two_feeds_is_bound_by_both(two: Pair, tmp_path: Path) -> None:
    offer(two, "summer", "vip")
    offer(two, "winter", "vip", restricted_uses=["analytics"])
    two.acme.project.feeds.sync()
    globe = two.globe.project
    globe.segments.create("copied", rule="received.acme.vip")
    with pytest.raises(PolicyViolation, match="feed winter"):
        globe.files.export("copied", tmp_path / "out.csv", uses=["analytics"], force=True)
    globe.received.disable("winter")  # a pause keeps the members, and so the restriction
    with pytest.raises(PolicyViolation, match="feed winter"):
        globe.files.export("copied", tmp_path / "out.csv", uses=["analytics"], force=True)
    globe.received.decline("winter")
    assert globe.files.export("copied", tmp_path / "out.csv", uses=["analytics"], force=True) == 1


@pytest.mark.feature("GV9")
def test_c12_of_the_id_column_or_of_a_sender_blocks_every_file(two: Pair, tmp_path: Path) -> None:
    acme, globe = two.acme.project, two.globe.project
    file = tmp_path / "out.csv"
    acme.labels.apply("C12", "field", "crm.id")
    with pytest.raises(PolicyViolation, match=r"C12 from field crm\.id > segment vip"):
        acme.files.export("vip", file, force=True, uses=["analytics"])
    acme.labels.remove("C12", "field", "crm.id")
    offer(two, "summer", "vip")
    acme.feeds.sync()
    globe.segments.create("copied", rule="received.acme.vip")
    for policy in globe.policies.all():
        globe.policies.disable(policy.name)
    with globe.scope.home.database.begin() as tx:  # as from a sender that shares what it may not
        connection, feed = received_feeds.get(globe.scope, tx, "summer")
        before = versions.get(tx, feed.id, 1)
        labelled = tuple(replace(each, labels=("C12",)) for each in before.segments)
        offers.offered(globe.scope, tx, connection, replace(before, version=2, segments=labelled))
    with pytest.raises(PolicyViolation, match=r"label C12 .* C12 from received\.acme\.vip"):
        globe.files.export("copied", file, force=True, uses=["analytics"])
    assert not file.exists()
