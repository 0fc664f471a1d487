"""A feed's life between two nodes, from draft to revocation."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, select, update

from node.errors import AuditBroken, InvalidInput, NotFound, Refused
from node.feeds import wishes
from node.feeds.receiving import taking
from node.feeds.sending.edits import Removal
from node.governance.governance import PolicyConflict, PolicyViolation
from node.storage.tables import audit, exchanges, feed_versions, jobs, label_uses, memberships, projects, runs
from protocol.feed import MARKETING_USES, Definition
from protocol.receipt import NO_RECEIPT, PurgeStatement, SignedReceipt

PEOPLE = [(f"a{number}", f"person{number}@example.com", f"+44740000{number:04}") for number in range(40)]


def acme_people(person: Any) -> list[Any]:
    return [person(*row) for row in PEOPLE[:30]]


def globe_people(person: Any) -> list[Any]:
    return [person(f"g{row[0][1:]}", row[1], row[2]) for row in PEOPLE[10:]]


@pytest.mark.feature("FD5")
def test_a_published_feed_reaches_the_partner_and_its_members_are_the_plain_join(pair: Any, person: Any) -> None:
    pair.prepare(acme_people(person), globe_people(person), {"vip": [f"a{n}" for n in range(5, 25)]})
    pair.share("summer", ["vip"])
    runs = pair.acme.project.feeds.sync("summer")
    assert [run["status"] for run in runs] == ["done"]
    assert pair.globe.members("acme", "vip") == {f"g{n}" for n in range(10, 25)}


def test_a_receiver_without_an_address_calls_for_everything(quiet_receiver: Any, person: Any) -> None:
    pair = quiet_receiver
    pair.prepare(acme_people(person), globe_people(person), {"vip": [f"a{n}" for n in range(5, 25)]})
    pair.acme.project.feeds.create("summer", segments=["vip"], namespaces=["email_sha256"], partners=["globe"])
    pair.acme.project.feeds.estimate("summer")
    pair.post()
    (estimate,) = pair.acme.project.feeds.estimates("summer")
    assert (estimate["overlap"], estimate["consented"]) == (15, 15)
    pair.acme.project.feeds.publish("summer")
    pair.post()
    pair.globe.project.received.enable("summer")
    pair.post()
    pair.acme.project.feeds.sync("summer")
    pair.post()
    assert pair.globe.members("acme", "vip") == {f"g{n}" for n in range(10, 25)}


@pytest.mark.parametrize("other", [False, True])
def test_a_caller_that_lost_the_end_gets_the_revision_again(
    quiet_receiver: Any, person: Any, monkeypatch: pytest.MonkeyPatch, other: bool
) -> None:
    """The sender is done, has restarted and keeps no message any more: the same bytes go out under the same receipt."""
    pair = quiet_receiver
    pair.prepare(acme_people(person), globe_people(person), {"vip": [f"a{n}" for n in range(5, 25)]})
    pair.share("summer", ["vip"], ["email_sha256"])
    if other:
        pair.acme.segment("few", ["a12"])
        pair.share("winter", ["few"], ["email_sha256"])
    pair.acme.project.feeds.sync("summer")
    with monkeypatch.context() as patched:
        patched.setattr(taking, "received", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            pair.post()
    pair.globe.node.close()
    pair.globe.open()
    with pair.acme.node.store.read() as tx:
        assert tx.scalars(select(runs.c.state)).all() == ["done"]
    for side in (pair.acme, pair.globe):
        with side.node.store.begin() as tx:
            tx.execute(update(exchanges).values(state="failed"))
        shutil.rmtree(side.node.home / "spool")
    with pair.globe.node.store.begin() as tx:  # as after SIGKILL
        tx.execute(update(jobs).where(jobs.c.kind == wishes.JOB).values(state="queued", error=None))
    if other:
        pair.acme.project.feeds.sync("winter")
    pair.post()
    assert pair.globe.members("acme", "vip") == {f"g{n}" for n in range(10, 25)}


EMAIL = "email_sha256/lc-v1"


def small(pair: Any, person: Any, **terms: Any) -> None:
    """Connect acme with six people, two in a segment "vip" and three in "new", and globe, who knows the last three."""
    ours = [person(f"a{n}", f"person{n}@example.com") for n in range(6)]
    theirs = [person(f"g{n}", f"person{n}@example.com") for n in range(3, 9)]
    pair.prepare(ours, theirs, {"vip": ["a2", "a3"], "new": ["a3", "a4", "a5"]}, **terms)


def draft(pair: Any, name: str = "summer", segments: Any = ("vip",), **rest: Any) -> None:
    pair.acme.project.feeds.create(name, segments=segments, namespaces=[EMAIL], partners=["globe"], **rest)


def state(side: Any, name: str = "summer", partner: str = "globe") -> dict[str, Any]:
    (found,) = [each for each in side.project.feeds.show(name)["partners"] if each["alias"] == partner]
    return dict(found)


@pytest.mark.feature("FD2")
def test_all_ten_restricted_uses_can_be_chosen_and_both_sides_show_the_same(pair: Any, person: Any) -> None:
    small(pair, person)
    assert len(MARKETING_USES) == 10
    chosen = ["email-targeting", "analytics", "email-targeting"]
    draft(pair, restricted_uses=chosen)
    draft(pair, "all", restricted_uses=MARKETING_USES)
    with pytest.raises(InvalidInput, match="world-domination"):
        draft(pair, "more", restricted_uses=["world-domination"])
    for name, uses in (("summer", ["analytics", "email-targeting"]), ("all", sorted(MARKETING_USES))):
        assert pair.acme.project.feeds.show(name)["restricted_uses"] == uses
        pair.acme.project.feeds.publish(name)
        pair.post()
        assert pair.globe.project.received.show(name)["restricted_uses"] == uses


@pytest.mark.feature("FD3")
def test_what_was_received_cannot_be_shared_on(pair: Any, person: Any) -> None:
    small(pair, person)
    pair.share("summer", ["vip"], [EMAIL])
    pair.acme.project.feeds.sync()
    globe = pair.globe.project
    globe.segments.create("copied", rule="received.acme.vip")
    globe.segments.create("composed", rule="NOT own.copied")
    pair.globe.segment("mine", ["g3"])
    for segment in ("received.acme.vip", "copied", "composed"):
        with pytest.raises(Refused, match="first-party"):
            globe.feeds.create("back", segments=["mine", segment], namespaces=[EMAIL], partners=["acme"])
    globe.feeds.create("back", segments=["mine"], namespaces=[EMAIL], partners=["acme"])


@pytest.mark.feature("FD4")
def test_one_feed_of_two_segments_goes_to_two_partners_each_with_its_own_state(
    pair: Any, person: Any, tmp_path: Path
) -> None:
    small(pair, person)
    hooli = type(pair.globe)(tmp_path, "hooli", now=pair.clock)
    hooli.project.set_terms(minimum_universe=1, minimum_segment=1, minimum_overlap=1, epsilon="none")
    hooli.project.consent.set_model("opt-out")
    hooli.people([person(f"h{n}", f"person{n}@example.com") for n in (0, 2, 4)])
    with hooli.serving():
        acme, globe = pair.acme, pair.globe
        found = hooli.project.partners.look_up(acme.project.partners.connect_id().encode())
        hooli.project.partners.request(found, alias="acme")
        acme.project.partners.accept("hooli")
        acme.project.feeds.create(
            "summer", segments=["vip", "new"], namespaces=[EMAIL], partners=["globe", "hooli"], description="warm"
        )
        acme.project.feeds.publish("summer")
        assert acme.project.feeds.list()[0]["partners"] == {"globe": "pending", "hooli": "pending"}
        hooli.project.received.enable("summer")
        globe.project.received.decline("summer", reason="no room")
        assert acme.project.feeds.list()[0]["partners"] == {"globe": "declined", "hooli": "enabled"}
        (run,) = acme.project.feeds.sync("summer")
        assert (run["partner"], run["status"]) == ("hooli", "done")
        assert (hooli.members("acme", "vip"), hooli.members("acme", "new")) == ({"h2"}, {"h4"})
        with pytest.raises(NotFound):
            globe.members("acme", "vip")
        assert (state(acme)["reason"], state(acme, partner="hooli")["last_revision"]) == ("no room", 1)
        acme.project.feeds.unshare("summer", partner="hooli")
        assert acme.project.feeds.list()[0]["partners"] == {"globe": "declined", "hooli": "revoked"}
        with pytest.raises(NotFound):
            hooli.members("acme", "vip")
    hooli.node.close()


@pytest.mark.feature("FD5")
def test_the_receiver_sees_all_that_the_feed_says_of_itself(pair: Any, person: Any) -> None:
    small(pair, person)
    pair.acme.project.labels.apply("C5", "segment", "vip")
    draft(pair, segments=["vip", "new"], description="Our best", restricted_uses=["analytics"])
    pair.post()
    assert pair.globe.project.received.list() == []
    pair.acme.project.feeds.publish("summer")
    shown = pair.globe.project.received.show("summer")
    assert (shown["name"], shown["description"], shown["partner"]) == ("summer", "Our best", "acme")
    assert shown["segments"] == [{"name": "vip", "labels": ["C5"]}, {"name": "new", "labels": []}]
    assert (shown["restricted_uses"], shown["namespaces"]) == (["analytics"], [EMAIL])
    assert "feed_offered" in [alert.kind for alert in pair.globe.project.alerts.list()]


@pytest.mark.feature("FD8")
def test_each_version_is_immutable_and_both_nodes_hold_the_same_hash(pair: Any, person: Any) -> None:
    small(pair, person)
    draft(pair, segments=["vip", "new"])
    pair.acme.project.feeds.publish("summer")
    seen = {}

    def same() -> tuple[int, str]:
        ours, theirs = pair.acme.project.feeds.show("summer"), pair.globe.project.received.show("summer")
        assert (ours["version"], ours["hash"]) == (theirs["version"], theirs["hash"])
        for side in (pair.acme, pair.globe):  # the rows are what they were
            with side.node.store.read() as tx:
                rows = {row.version: row.definition for row in tx.execute(select(feed_versions))}
            for version, definition in rows.items():
                assert seen.setdefault(version, definition) == definition
            assert Definition.decode(rows[ours["version"]]).digest().hex() == ours["hash"]
        return ours["version"], ours["hash"]

    first = same()
    pair.globe.project.received.enable("summer")
    pair.acme.project.feeds.unshare("summer", segment="new")
    second = same()
    pair.acme.project.feeds.edit("summer", Removal(), description="other words")
    third = same()
    assert [version for version, _ in (first, second, third)] == [1, 2, 3]
    assert len({first, second, third}) == len(seen) == 3
    assert state(pair.acme)["accepted_version"] == pair.globe.project.received.show("summer")["accepted_version"] == 3


@pytest.mark.feature("FD8")
def test_an_acceptance_that_crosses_a_removal_holds_for_what_is_left(idle_pair: Any, person: Any) -> None:
    pair = idle_pair
    with pair.acme.serving(), pair.globe.serving():
        small(pair, person)
        draft(pair, segments=["vip", "new"])
        pair.acme.project.feeds.publish("summer")
    pair.globe.project.received.enable("summer")  # version 1, and nobody is there to hear it
    pair.acme.project.feeds.unshare("summer", segment="vip")
    with pair.acme.serving(), pair.globe.serving():
        pair.post()
        assert (state(pair.acme)["status"], state(pair.acme)["accepted_version"]) == ("enabled", 2)
        assert pair.globe.project.received.show("summer")["accepted_version"] == 2
        assert [run["status"] for run in pair.acme.project.feeds.sync()] == ["done"]
        assert pair.globe.members("acme", "new") == {"g3", "g4", "g5"}
        with pytest.raises(NotFound):
            pair.globe.members("acme", "vip")


# Taking back


@pytest.mark.feature("EX4")
def test_unsharing_one_segment_takes_it_from_every_profile_and_leaves_the_others(pair: Any, person: Any) -> None:
    small(pair, person)
    pair.acme.segment("old", ["a3"])
    pair.share("summer", ["vip", "new", "old"], [EMAIL])
    pair.acme.project.feeds.sync()
    globe = pair.globe.project
    pair.acme.project.feeds.unshare("summer", segment="old")
    assert globe.received.list()[0]["segments"] == {"new": 3, "vip": 1}
    globe.segments.create("from-vip", rule="received.acme.vip")
    globe.segments.create("without-vip", rule="NOT own.from-vip")
    globe.segments.create("from-new", rule="received.acme.new")
    pair.acme.project.feeds.unshare("summer", segment="vip")
    assert pair.globe.members("acme", "new") == {"g3", "g4", "g5"}
    with pytest.raises(NotFound):
        pair.globe.members("acme", "vip")
    assert globe.received.list()[0]["segments"] == {"new": 3}
    assert {each.name: each.size for each in globe.segments.list()} == {"from-vip": 0, "without-vip": 0, "from-new": 3}
    assert "segment_emptied" in [alert.kind for alert in globe.alerts.list()]
    assert list(globe.data_directory.rglob("*records*")) == []  # they still said who was in it
    pair.globe.post()
    statement = state(pair.acme)["purges"][-1]
    vip = pair.acme.project.segments.show("vip").id
    assert (statement["segments"], statement["revision"], statement["made"]) == ([vip], 1, pair.clock())
    assert [run["status"] for run in pair.acme.project.feeds.sync()] == ["done"]
    assert pair.globe.members("acme", "new") == {"g3", "g4", "g5"}
    with pytest.raises(NotFound):
        pair.globe.members("acme", "vip")


@pytest.mark.feature("EX4")
def test_unsharing_during_a_run_takes_effect_on_what_the_run_brings(
    pair: Any, person: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(pair, person)
    pair.share("summer", ["vip", "new"], [EMAIL])
    during(pair, monkeypatch, lambda: pair.acme.project.feeds.unshare("summer", segment="vip"))
    pair.acme.project.feeds.sync()
    assert pair.globe.project.received.list()[0]["segments"] == {"new": 3}


@pytest.mark.feature("EX5")
def test_a_namespace_that_is_taken_out_is_not_said_to_be_a_whole_purge(pair: Any, person: Any) -> None:
    pair.prepare(
        [person("a1", "one@example.com"), person("a2", "", "+447400000002")],
        [person("g1", "one@example.com"), person("g2", "", "+447400000002")],
        {"vip": ["a1", "a2"], "old": ["a1"]},
    )
    pair.share("summer", ["vip", "old"])
    pair.share("winter", ["old", "vip"])
    pair.acme.project.feeds.sync()
    pair.acme.project.feeds.edit("winter", Removal(namespaces=["phone_sha256"]))
    assert pair.globe.project.received.show("winter")["members"] == {"old": 1, "vip": 1}  # at once
    pair.acme.project.feeds.revoke("winter")
    pair.acme.project.feeds.unshare("summer", segment="old")
    pair.globe.post()
    assert len(state(pair.acme)["purges"][-1]["segments"]) == 1
    pair.acme.project.feeds.edit("summer", Removal(namespaces=["phone_sha256"]))
    pair.globe.post()
    assert pair.globe.project.received.show("summer")["namespaces"] == [EMAIL]
    assert pair.globe.project.received.show("summer")["members"] == {}  # until the next run tells who is left
    statement = state(pair.acme)["purges"][-1]
    assert (statement["version"], statement["segments"], statement["namespaces"]) == (3, [], ["phone_sha256/e164-v1"])
    assert [len(each["segments"]) for each in state(pair.acme)["purges"]] == [1, 0]
    assert [run["status"] for run in pair.acme.project.feeds.sync()] == ["done"]
    assert pair.globe.members("acme", "vip") == {"g1"}


@pytest.mark.feature("EX5")
def test_a_revoked_feed_is_purged_and_the_sender_holds_the_signed_word_of_it(idle_pair: Any, person: Any) -> None:
    pair = idle_pair
    with pair.acme.serving():
        with pair.globe.serving():
            small(pair, person)
            pair.share("summer", ["vip", "new"], [EMAIL])
            pair.acme.project.feeds.sync()
        folder = pair.globe.project.data_directory / "received"
        assert any(path.is_file() for path in folder.rglob("*"))
        pair.acme.project.feeds.revoke("summer", "season over")  # while the receiver is away
        assert state(pair.acme)["purges"] == []
        assert pair.globe.members("acme", "new")
        assert pair.acme.project.feeds.sync() == []
        pair.clock.advance(days=2)
        pair.globe.post()
    assert not any(path.is_file() for path in folder.rglob("*"))
    with pair.globe.node.store.read() as tx:
        assert tx.scalar(select(func.count()).select_from(memberships)) == 0
    shown = pair.globe.project.received.show("summer")
    assert (shown["status"], shown["reason"], shown["members"]) == ("revoked", "season over", {})
    assert (state(pair.acme)["status"], state(pair.acme)["reason"]) == ("revoked", "season over")
    purged = state(pair.acme)["purges"][-1]
    assert (purged["revision"], purged["made"], purged["segments"]) == (1, pair.clock(), [])
    assert set(purged) == {
        "version",
        "revision",
        "made",
        "segments",
        "namespaces",
        "signature",
    }  # and no number of people
    statement = PurgeStatement(
        connection=bytes.fromhex(pair.acme.project.partners.get("globe").id),
        feed=bytes.fromhex(pair.acme.project.feeds.get("summer").id),
        version=0,
        revision=1,
        segments=(),
        namespaces=(),
        made=pair.clock(),
    )
    statement.verify(bytes.fromhex(purged["signature"]), pair.globe.node.key)
    with pytest.raises(Refused):
        pair.acme.project.feeds.publish("summer")
    with pytest.raises(Refused):
        pair.globe.project.received.enable("summer")


def during(pair: Any, monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Let something happen when the receiver has the records of a release, and before it keeps them."""
    received, done = taking.received, []

    def late(*arguments: Any) -> None:
        if not done:
            done.append(True)
            act()
        received(*arguments)

    monkeypatch.setattr(taking, "received", late)


# Consent, labels and policies on the way out


@pytest.mark.feature("CO0")
@pytest.mark.feature("CO1")
def test_a_feed_names_what_is_missing_and_the_command_that_sets_it(pair: Any, person: Any) -> None:
    acme = pair.acme.project

    def refused(act: Callable[[], Any], what: str, command: str) -> None:
        with pytest.raises(Refused, match=what) as caught:
            act()
        assert command in caught.value.hint

    def create() -> None:
        draft(pair, "other")

    refused(create, "namespace", "vesica profile import")
    pair.acme.people([person("a1", "a@example.com")])
    refused(create, "consent model", "vesica consent model")
    acme.consent.set_model("opt-out")
    acme.policies.disable("restrict-data-sharing")
    refused(create, "sharing policy", "vesica policy enable restrict-data-sharing")
    acme.policies.enable("restrict-data-sharing")
    small(pair, person)
    draft(pair)
    with pair.acme.node.store.begin() as tx:
        tx.execute(update(projects).values(consent_model=None))
    assert [each["name"] for each in acme.show()["prerequisites"] if not each["met"]] == ["consent model"]
    for act in (create, lambda: acme.feeds.estimate("summer"), lambda: acme.feeds.publish("summer")):
        refused(act, "consent model", "vesica consent model opt-in|opt-out")


@pytest.mark.feature("CO1")
@pytest.mark.parametrize(("model", "expected"), [("opt-out", {"g3", "g4"}), ("opt-in", {"g3"})])
def test_the_model_decides_about_those_who_said_nothing(pair: Any, person: Any, model: str, expected: set[str]) -> None:
    ours = [person(f"a{n}", f"person{n}@example.com", share=share) for n, share in ((3, "y"), (4, ""), (5, "n"))]
    theirs = [person(f"g{n}", f"person{n}@example.com") for n in range(3, 9)]
    pair.prepare(ours, theirs, {"vip": ["a3", "a4", "a5"]})
    pair.acme.project.consent.set_model(model)
    pair.share("summer", ["vip"], [EMAIL])
    pair.acme.project.feeds.sync()
    assert pair.globe.members("acme", "vip") == expected


@pytest.mark.feature("CO3")
def test_who_withdraws_exits_with_the_next_run_and_is_counted(pair: Any, person: Any) -> None:
    small(pair, person)
    pair.share("summer", ["new"], [EMAIL])
    (run,) = pair.acme.project.feeds.sync()
    assert (run["sent"], run["without_consent"]) == (3, 0)
    pair.clock.advance(days=1)
    pair.acme.project.consent.set("a4", "n")
    (run,) = pair.acme.project.feeds.sync()
    assert (run["sent"], run["without_consent"]) == (2, 1)
    assert pair.globe.members("acme", "new") == {"g3", "g5"}
    statuses = pair.globe.project.memberships.statuses("summer", "new")
    ids = pair.globe.project.snapshot().profile_ids
    assert {name: {ids[each].decode() for each in found} for name, found in statuses.items()} == {
        "realized": set(),
        "existing": {"g3", "g5"},
        "exited": {"g4"},
    }
    newest = pair.acme.acts("feed.run")[0]
    assert (newest["detail"]["without_consent"], newest["detail"]["sent"]) == (1, 2)


def attributes(pair: Any) -> None:
    """Give acme a dataset with two attributes, and a segment by one of them."""
    file = pair.acme.folder / "orders.csv"
    file.write_text("id,income,colour\na3,9,red\na4,20,blue\n")
    pair.acme.project.profiles.import_(
        file, dataset="orders", id_column="id", identities=[], attributes=["income", "colour"]
    )
    pair.acme.project.segments.create("rich", rule="income > 5")


@pytest.mark.feature("GV2")
@pytest.mark.feature("GV3")
def test_a_label_blocks_what_uses_the_field_and_nothing_else(pair: Any, person: Any) -> None:
    small(pair, person)
    attributes(pair)
    labels = pair.acme.project.labels
    labels.apply("C11", "field", "orders.colour")
    draft(pair, "unused", ["rich"])
    labels.apply("C11", "field", "orders.income")
    with pytest.raises(PolicyViolation, match=r"C11 from field orders\.income"):
        draft(pair, "used", ["rich"])
    with pytest.raises(PolicyViolation):
        pair.acme.project.feeds.publish("unused")
    labels.remove("C11", "field", "orders.income")
    labels.apply("C11", "dataset", "orders")
    for kind, target in (("field", "orders.income"), ("segment", "rich")):
        with pytest.raises(Refused, match="dataset orders"):
            labels.remove("C11", kind, target)
    with pytest.raises(PolicyViolation, match="C11 from dataset orders"):
        draft(pair, "used", ["rich"])
    draft(pair, "other", ["vip"])
    labels.apply("C11", "field", "crm.email")  # what it would be carried by
    with pytest.raises(PolicyViolation, match=r"C11 from field crm\.email"):
        pair.acme.project.feeds.publish("other")
    assert pair.globe.project.received.list() == []
    assert {each["target"] for each in pair.acme.acts("feed", "deny")} == {"used", "unused", "other"}


def put_unasked(project: Any, label: str, kind: str, target: str) -> None:
    """Put a label where it came by a way that asks nobody: an import that maps a field anew, or a restored database."""
    row = {"project_id": project.id, "label": label, "kind": kind, "target": target}
    with project.node.store.begin() as tx:
        tx.execute(insert(label_uses).values(id=project.node.new_id(), **row))


@pytest.mark.feature("GV9")
def test_c12_blocks_feed_run_and_file_alike_whatever_the_policies_say(pair: Any, person: Any, tmp_path: Path) -> None:
    small(pair, person)
    attributes(pair)
    acme = pair.acme.project
    pair.share("summer", ["rich"], [EMAIL])
    acme.policies.create("own", "segment-match", "C9")
    acme.policies.disable("restrict-data-sharing")
    assert acme.segments.export("rich", tmp_path / "before.csv") == 2
    with pytest.raises(PolicyConflict, match="feed summer is published, and label C12"):
        acme.labels.apply("C12", "field", "orders.income")
    put_unasked(acme, "C12", "field", "orders.income")
    for act in (
        lambda: acme.feeds.estimate("summer"),
        lambda: draft(pair, "second", ["rich"]),
        lambda: acme.feeds.sync("summer"),
        lambda: acme.segments.export("rich", tmp_path / "after.csv"),
    ):
        with pytest.raises(Refused, match=r"C12 from field orders\.income"):
            act()
    assert not (tmp_path / "after.csv").exists()
    with pytest.raises(NotFound):
        pair.globe.members("acme", "rich")


# What both can show afterwards


@pytest.mark.feature("OP2")
def test_every_act_is_in_the_audit_of_the_side_that_did_it_and_of_the_side_it_reached(pair: Any, person: Any) -> None:
    small(pair, person)
    pair.share("summer", ["vip"], [EMAIL])
    pair.acme.project.feeds.sync()
    pair.globe.project.received.disable("summer")
    with pytest.raises(Refused):
        pair.globe.project.received.disable("summer")
    pair.acme.project.policies.create("own", "segment-match", "C9")
    pair.acme.project.feeds.revoke("summer")
    pair.globe.project.partners.disconnect("acme")
    expected = {
        pair.acme: {
            *("partner.id", "partner.requested", "partner.accept", "letter.connect.disconnect"),
            *("feed.create", "feed.publish", "letter.feed.accept", "feed.run", "letter.feed.disable", "feed.revoke"),
            *("letter.feed.purged", "policy.create", "consent.model", "project.terms", "exchange.release"),
        },
        pair.globe: {
            *("partner.request", "letter.connect.accept", "partner.disconnect", "letter.feed.publish", "feed.enable"),
            *("feed.received", "feed.disable", "letter.feed.revoke", "exchange.release", "consent.model"),
        },
    }
    for side, acts in expected.items():
        entries = side.node.audit.list(result="allow")
        assert acts <= {entry.act for entry in entries}
        assert {entry.at for entry in entries} == {pair.clock()}
        by_letter = {entry.actor for entry in entries if entry.act.startswith("letter.")}
        assert by_letter == {"globe" if side is pair.acme else "acme"}
    (denied,) = pair.globe.acts("feed.disable", "deny")
    assert (denied["target"], denied["detail"]["error"]["code"]) == ("summer", "refused")
    pair.clock.advance(days=366)
    assert len(pair.acme.acts("feed.publish")) == 1


@pytest.mark.feature("OP3")
def test_both_hold_the_same_signed_chain_of_receipts_and_a_changed_line_shows(pair: Any, person: Any) -> None:
    small(pair, person)
    pair.share("summer", ["new"], [EMAIL])
    pair.acme.project.feeds.sync()
    pair.acme.project.consent.set("a4", "n")
    pair.acme.project.feeds.sync()
    chains = []
    for side in (pair.acme, pair.globe):
        with side.node.store.read() as tx:
            chains.append(list(tx.scalars(select(runs.c.receipt).order_by(runs.c.revision))))
    assert chains[0] == chains[1]
    signed = [SignedReceipt.decode(each) for each in chains[0]]
    for each in signed:
        each.verify_both(receiver_key=pair.globe.node.key, sender_key=pair.acme.node.key)
    first, second = (each.receipt for each in signed)
    assert (first.revision, second.revision) == (1, 2)
    assert (first.previous, second.previous) == (NO_RECEIPT, first.digest())
    head = second.digest().hex()
    assert state(pair.acme)["last_receipt"] == pair.globe.project.received.show("summer")["last_receipt"] == head
    for side in (pair.acme, pair.globe):
        head = side.node.audit.head()
        assert side.node.audit.verify(upto=head) == head
        with side.node.store.begin() as tx:
            number = tx.scalar(select(audit.c.number).where(audit.c.act.in_(("feed.run", "feed.received"))).limit(1))
            tx.execute(update(audit).where(audit.c.number == number).values(target="another"))
        with pytest.raises(AuditBroken, match=f"row {number} "):
            side.node.audit.verify()
