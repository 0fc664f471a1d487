"""What a release brings: statuses, consent on both sides, any identity of a profile, receipts on both ends, once."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pytest
from sides import EMAIL, PHONE, Pair, Person, Side
from sqlalchemy import select

from node.access.audit import Result
from node.errors import RefusedByPartner
from node.exchanges.channels import epoch_of
from node.exchanges.handlers import handler
from node.feeds.receiving import joining
from node.feeds.sending import evaluations, preparing
from node.imports.identity_columns import IdentityColumn
from node.partners.connections import ConnectionStatus
from node.people.snapshots import Snapshot
from node.storage.ids import wire_id
from node.storage.tables import exchanges, feed_partners, memberships, received_feeds, runs
from protocol.receipt import NO_RECEIPT, SignedReceipt
from protocol.states import Kind, Part
from psi import count

IDFA, GAID = "11111111-2222-4333-8444-555555555555", "99999999-2222-4333-8444-555555555555"


pytestmark = pytest.mark.usefixtures("small_universes")


def load(side: Side, dataset: str, header: str, rows: Sequence[str], *identities: str) -> None:
    """Import rows of a file whose first column is "id"; columns that are neither identity nor "share" are attributes."""
    file = side.folder / f"{side.name}-{dataset}.csv"
    file.write_text("\n".join([header, *rows]) + "\n")
    columns = [IdentityColumn.parse(text) for text in identities]
    names = header.split(",")[1:]
    side.project.profiles.import_(
        file,
        dataset=dataset,
        id_column="id",
        identities=columns,
        consent_column="share" if "share" in names else None,
        attributes=[name for name in names if name != "share" and name not in {each.column for each in columns}],
    )


def people(person: type[Person], side: str, numbers: Sequence[int], out: Sequence[int] = ()) -> list[Any]:
    return [
        person(f"{side}{n}", f"person{n}@example.com", f"+44740000{n:04}", "n" if n in out else "") for n in numbers
    ]


def sync(pair: Pair, feed: str = "f") -> str:
    (run,) = pair.acme.project.feeds.sync(feed)
    return str(run["status"])


def ids(side: Side, members: Any) -> set[str]:
    names = Snapshot.open(side.project.scope).profile_ids
    return {names[number].decode() for number in members}


def statuses(pair: Pair, segment: str, feed: str = "f") -> dict[str, set[str]]:
    found = pair.globe.project.memberships.statuses(feed, segment)
    return {status: ids(pair.globe, members) for status, members in found.items()}


def received(pair: Pair) -> list[Any]:
    """Return globe's rows of runs, newest last."""
    with pair.globe.node.home.database.read() as tx:
        return list(tx.execute(select(runs).where(~runs.c.ours).order_by(runs.c.revision)))


def sent(pair: Pair) -> list[Any]:
    with pair.acme.node.home.database.read() as tx:
        return list(tx.execute(select(runs).where(runs.c.ours).order_by(runs.c.revision)))


def protocol_alerts(side: Side) -> list[str]:
    return [each.kind for each in side.project.alerts.all() if each.kind.startswith("exchange")]


@pytest.mark.feature("EX2")
def test_new_members_are_realized_stayers_existing_and_leavers_exited(pair: Pair, person: type[Person]) -> None:
    both = people(person, "a", range(12)), people(person, "g", range(12))
    pair.prepare(*both, {})

    def tiers(tier: str, numbers: Sequence[int]) -> None:
        load(pair.acme, "tiers", "id,tier", [f"a{n},{tier}" for n in numbers])

    tiers("gold", range(4))
    pair.acme.project.segments.create("gold", rule="tier = 'gold'")
    pair.share("f", ["gold"])
    assert sync(pair) == "done"
    assert statuses(pair, "gold") == {"realized": {"g0", "g1", "g2", "g3"}, "existing": set(), "exited": set()}
    tiers("none", [0])
    tiers("gold", [7])
    assert sync(pair) == "done"
    assert statuses(pair, "gold") == {"realized": {"g7"}, "existing": {"g1", "g2", "g3"}, "exited": {"g0"}}
    assert sync(pair) == "unchanged"
    tiers("gold", [0])
    assert sync(pair) == "done"
    assert statuses(pair, "gold") == {"realized": {"g0"}, "existing": {"g1", "g2", "g3", "g7"}, "exited": set()}


@pytest.mark.feature("EX2")
def test_who_comes_or_goes_between_two_revisions_is_realized_or_exited_with_the_second(
    pair: Pair, person: type[Person]
) -> None:
    """The receiver computes its memberships anew whenever it has news of its own people."""
    pair.prepare(people(person, "a", range(12)), people(person, "g", range(6)), {"all": [f"a{n}" for n in range(12)]})
    pair.share("f", ["all"])
    assert sync(pair) == "done"

    def hear(side: Side, profile: str, consent: str) -> None:
        pair.clock.advance(seconds=1)
        side.project.consent.set(profile, consent)

    pair.globe.people(people(person, "g", [9]), "more")
    hear(pair.globe, "g1", "n")
    first = {"realized": {"g0", "g2", "g3", "g4", "g5"}, "existing": set(), "exited": {"g1"}}
    assert statuses(pair, "all") == first
    hear(pair.acme, "a2", "n")
    assert sync(pair) == "done"  # g9 came in when its points were evaluated, before the release
    second = {"realized": {"g9"}, "existing": {"g0", "g3", "g4", "g5"}, "exited": {"g1", "g2"}}
    assert statuses(pair, "all") == second
    hear(pair.globe, "g1", "y")
    assert statuses(pair, "all") == {**second, "realized": {"g1", "g9"}, "exited": {"g2"}}
    hear(pair.globe, "g5", "n")
    hear(pair.acme, "a4", "n")
    assert sync(pair) == "done"
    third = {"realized": {"g1"}, "existing": {"g0", "g3", "g9"}, "exited": {"g2", "g4", "g5"}}
    assert statuses(pair, "all") == third
    pair.clock.advance(days=1)
    assert sync(pair) == "done"  # a revision without a record
    assert statuses(pair, "all") == {**third, "realized": set(), "existing": {"g0", "g1", "g3", "g9"}}


@pytest.mark.feature("EX8")
@pytest.mark.parametrize("step", ["manifest", "records", "receipt", "countersigned"])
def test_a_release_that_was_broken_off_ends_in_the_same_state(
    pair: Pair, person: type[Person], broken_off: Callable[[str], AbstractContextManager[None]], step: str
) -> None:
    """Broken off before a step and run again: one revision, one receipt chain, the members, and nothing left over."""
    pair.prepare(
        people(person, "a", range(20)), people(person, "g", range(10, 30)), {"all": [f"a{n}" for n in range(20)]}
    )
    pair.share("f", ["all"])
    with broken_off(step):
        sync(pair)
    sync(pair)
    assert sync(pair) == "unchanged"
    assert pair.globe.members("acme", "all") == {f"g{n}" for n in range(10, 20)}
    assert [(row.revision, row.state) for row in sent(pair)] == [(1, "done")]
    assert [(row.revision, row.state) for row in received(pair)] == [(1, "done")]
    for side in (pair.acme, pair.globe):
        with side.node.home.database.read() as tx:
            assert "open" not in set(tx.scalars(select(exchanges.c.state)))
        assert protocol_alerts(side) == []
    with pair.globe.node.home.database.read() as tx:
        assert len(tx.execute(select(memberships)).all()) == 1
    folder = pair.globe.project.scope.data_directory / "received"
    assert sorted(path.suffix for path in folder.rglob("*.*")) == [".changes", ".members", ".npz"]
    pair.acme.project.consent.set("a15", "n")  # and the next revision follows from it
    assert sync(pair) == "done"
    assert pair.globe.members("acme", "all") == {f"g{n}" for n in range(10, 20)} - {"g15"}


@pytest.mark.feature("EX11")
def test_receipts_of_both_ends_say_the_same_are_chained_and_signed_by_both(pair: Pair, person: type[Person]) -> None:
    pair.prepare(
        people(person, "a", range(20)), people(person, "g", range(10, 30)), {"all": [f"a{n}" for n in range(20)]}
    )
    pair.share("f", ["all"])
    sync(pair)
    pair.acme.project.consent.set("a15", "n")
    sync(pair)
    theirs = [SignedReceipt.decode(row.receipt) for row in received(pair)]
    ours = [SignedReceipt.decode(row.receipt) for row in sent(pair)]
    assert ours == theirs
    for signed in ours:
        signed.verify_both(receiver_key=pair.globe.node.key, sender_key=pair.acme.node.key)
    first, second = (signed.receipt for signed in ours)
    assert (first.previous, second.previous) == (NO_RECEIPT, first.digest())
    assert (first.revision, second.revision) == (1, 2)
    assert [(tally.namespace, tally.records, tally.evaluated) for tally in first.tallies] == [
        (EMAIL, 20, 20),
        (PHONE, 20, 20),
    ]
    assert [tally.records for tally in second.tallies] == [1, 1]  # that a15 is gone
    assert {tally.sha256 for tally in first.tallies}.isdisjoint(tally.sha256 for tally in second.tallies)
    with pair.acme.node.home.database.read() as tx:
        kept = tx.scalar(select(feed_partners.c.last_receipt))
    with pair.globe.node.home.database.read() as tx:
        assert tx.scalar(select(received_feeds.c.last_receipt)) == kept == second.digest()


@pytest.mark.feature("EX11")
@pytest.mark.parametrize("lie", ["evaluated", "records", "previous"])
def test_a_receipt_that_differs_is_an_alert_and_nothing_is_stored(
    pair: Pair, person: type[Person], monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    """The sender claims one evaluation more, other records than it sends, or another chain than the receiver knows."""
    from dataclasses import replace

    pair.prepare(
        people(person, "a", range(20)), people(person, "g", range(10, 30)), {"all": [f"a{n}" for n in range(20)]}
    )
    pair.share("f", ["all"])
    make = preparing.announced

    def lying(*arguments: Any, **options: Any) -> Any:
        made = make(*arguments, **options)
        if lie == "previous":
            return replace(made, previous=b"\1" * 32)
        first, *others = made.tallies
        changed = replace(first, evaluated=21) if lie == "evaluated" else replace(first, sha256=bytes(32))
        return replace(made, tallies=(changed, *others))

    with monkeypatch.context() as patched:
        patched.setattr(preparing, "announced", lying)
        with pytest.raises(RefusedByPartner):
            sync(pair)
    code = "records" if lie == "records" else "receipt"
    assert protocol_alerts(pair.globe) == [f"exchange.{code}"]
    assert [each["detail"]["error"]["code"] for each in pair.globe.acts("exchange.release", Result.DENY)] == [code]
    with pair.globe.node.home.database.read() as tx:
        assert tx.execute(select(memberships)).all() == []
    assert sync(pair) == "done"
    assert pair.globe.members("acme", "all") == {f"g{n}" for n in range(10, 20)}


@pytest.mark.feature("EX12")
def test_a_person_who_matches_by_phone_only_or_a_second_device_is_one_member(pair: Pair) -> None:
    columns = ("email=email_sha256:raw", "phone=phone_sha256:raw", "device=idfa")
    header = "id,email,phone,device"
    device = "AAAAAAAA-2222-4333-8444-{:012}"
    pair.terms(minimum_universe=1, minimum_segment=1, minimum_overlap=1, epsilon="none")
    for side in (pair.acme, pair.globe):
        side.project.consent.set_model("opt-out")
    acme = [
        f"phone-only,other@x.com,+447400000001,{device.format(101)}",
        f"second-device,second@x.com,+447400000002,{device.format(2)}",
        f"all-three,three@x.com,+447400000003,{device.format(3)}",
        f"not-in,in@x.com,+447400000004,{device.format(4)}",
    ]
    load(pair.acme, "crm", header, acme, *columns)
    pair.acme.segment("some", ["phone-only", "second-device", "all-three"])
    globe = [
        f"g1,mine@x.com,+447400000001,{device.format(901)}",
        f"g2,g2@x.com,+447400000902,{device.format(902)}",
        f"g3,three@x.com,+447400000003,{device.format(3)}",
        f"g4,in@x.com,+447400000004,{device.format(4)}",
        "g5,nobody@x.com,,",
    ]
    load(pair.globe, "crm", header, globe, *columns)
    load(pair.globe, "tablets", "id,device", [f"g2,{device.format(2)}"], "device=idfa")
    pair.connect()
    pair.share("f", ["some"], ["email_sha256", "phone_sha256", "idfa"])
    assert sync(pair) == "done"
    assert pair.globe.members("acme", "some") == {"g1", "g2", "g3"}
    assert pair.globe.project.received.all()[0]["segments"] == {"some": 3}
    assert Snapshot.open(pair.globe.project.scope).profile_count == 5  # and nobody new


@pytest.mark.feature("ID5")
def test_the_same_string_in_two_namespaces_never_matches(pair: Pair) -> None:
    """IDFA and GAID are 16 bytes of the same form: neither an estimate nor a release takes one for the other."""
    pair.terms(minimum_universe=1, minimum_segment=1, minimum_overlap=0, epsilon="none")
    for side in (pair.acme, pair.globe):
        side.project.consent.set_model("opt-out")
    columns = ("apple=idfa", "google=gaid")
    load(pair.acme, "crm", "id,apple,google", [f"swapped,{IDFA},", f"same,,{GAID}"], *columns)
    load(pair.globe, "crm", "id,apple,google", [f"g-swapped,,{IDFA}", f"g-same,,{GAID}", f"g-x,{GAID},"], *columns)
    pair.acme.segment("all", ["swapped", "same"])
    pair.connect()
    pair.acme.project.feeds.create("f", segments=["all"], namespaces=["idfa", "gaid"], partners=["globe"])
    rows = {row["namespace"].partition("/")[0]: row["overlap"] for row in pair.acme.project.feeds.estimate("f")}
    assert rows == {"idfa": 0, "gaid": 1}
    pair.acme.project.feeds.publish("f")
    pair.post()
    pair.globe.project.received.enable("f")
    pair.post()
    sync(pair)
    assert pair.globe.members("acme", "all") == {"g-same"}


@pytest.mark.feature("CO2")
@pytest.mark.parametrize("model", ["opt-out", "opt-in"])
def test_consent_for_one_namespace_and_the_profiles_no(pair: Pair, model: str) -> None:
    """Profile y and e-mail n: the ECID is shared, the e-mail not. Profile n and ECID y: neither."""
    pair.terms(minimum_universe=1, minimum_segment=1, minimum_overlap=1, epsilon="none")
    pair.acme.project.consent.set_model(model)
    pair.globe.project.consent.set_model("opt-in")
    columns = ("email=email_sha256:raw", "ecid=ecid")

    def row(name: str, number: int, share: str) -> str:
        return f"{name},p{number}@x.com,{number:038},{share}"

    acme = [row("email-no", 1, "y"), row("all-no", 2, "n"), row("all-yes", 3, "y")]
    load(pair.acme, "crm", "id,email,ecid,share", acme, *columns)
    pair.acme.segment("all", ["email-no", "all-no", "all-yes"])
    pair.clock.advance(seconds=1)
    pair.acme.project.consent.set("email-no", "n", "email_sha256")
    pair.acme.project.consent.set("all-no", "y", "ecid")
    by_email = [f"e{number},p{number}@x.com,," for number in (1, 2, 3)]
    by_ecid = [f"c{number},,{number:038}," for number in (1, 2, 3)]
    load(pair.globe, "crm", "id,email,ecid,share", [*by_email, *by_ecid], *columns)
    pair.connect()
    pair.share("f", ["all"], ["email_sha256", "ecid"])
    estimates = {row["namespace"].partition("/")[0]: row for row in pair.acme.project.feeds.estimate("f")}
    assert {name: (row["overlap"], row["consented"]) for name, row in estimates.items()} == {
        "email_sha256": (3, 1),
        "ecid": (3, 2),
    }
    sync(pair)
    assert pair.globe.members("acme", "all") == {"c1", "e3", "c3"}
    (run,) = pair.acme.project.feeds.show("f")["runs"]
    assert (run["considered"], run["without_consent"], run["sent"]) == (6, 3, 3)


@pytest.mark.feature("CO5")
@pytest.mark.parametrize("model", ["opt-out", "opt-in"])
def test_the_receivers_own_no_never_enters_a_match(pair: Pair, person: type[Person], model: str) -> None:
    """Five of globe's people said no: their points are in no universe and no evaluation, whatever its model."""
    globe = people(person, "g", range(10, 30), out=range(10, 15))
    pair.prepare(people(person, "a", range(20)), globe, {"all": [f"a{n}" for n in range(20)]})
    pair.globe.project.consent.set_model(model)
    connection = pair.globe.project.partners.get("acme")
    built: list[int] = []
    build = count.build_universe

    def counted(*given: Any) -> Any:
        built.append(len(given[1]))
        return build(*given)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(count, "build_universe", counted)
        pair.share("f", ["all"], [EMAIL])
        assert [row["overlap"] for row in pair.acme.project.feeds.estimate("f")] == [5]
    assert built == [15]
    sync(pair)
    assert pair.globe.members("acme", "all") == {f"g{n}" for n in range(15, 20)}
    epoch = epoch_of(pair.acme.project.scope, pair.acme.project.partners.get("globe"), 1)
    (row,) = pair.acme.project.partners.rows(ConnectionStatus.ACTIVE)
    assert evaluations.evaluated(pair.acme.project.scope, row, EMAIL, epoch) == 15
    pair.clock.advance(seconds=1)
    pair.globe.project.consent.set("g16", "n", "email_sha256")  # withdrawn: out at once, without a run
    joining.join_all(pair.globe.project.scope, connection)
    assert pair.globe.members("acme", "all") == {f"g{n}" for n in (15, 17, 18, 19)}


def test_a_run_evaluates_its_rules_in_one_transaction_and_leaves_one_row(pair: Pair, person: type[Person]) -> None:
    pair.prepare(
        people(person, "a", range(20)), people(person, "g", range(10, 30)), {"all": [f"a{n}" for n in range(20)]}
    )
    segments = pair.acme.project.segments
    for name in ("one", "two", "three"):
        segments.create(name, rule="own.all")
    pair.share("f", ["one", "two", "three"])
    before = len(pair.acme.acts("segment.evaluate"))
    assert sync(pair) == "done"
    assert len(pair.acme.acts("segment.evaluate")) == before
    (row,) = pair.acme.acts("feed.check")
    assert row["detail"] == {"partner": "globe", "evaluated": ["one", "two", "three"]}
    assert sync(pair) == "unchanged"
    assert len(pair.acme.acts("feed.check")) == 2  # one for each run, none for a look


def test_a_receipt_is_kept_once(pair: Pair, person: type[Person]) -> None:
    """A kill between keeping it and closing the exchange brings it again."""
    pair.prepare(
        people(person, "a", range(20)), people(person, "g", range(10, 30)), {"all": [f"a{n}" for n in range(20)]}
    )
    pair.share("f", ["all"])
    assert sync(pair) == "done"
    acme = pair.acme
    with acme.node.home.database.read() as tx:
        run = tx.execute(select(runs).where(runs.c.ours)).one()
    receipt = SignedReceipt.decode(run.receipt)
    row = acme.project.partners.get("globe")
    subject = {"feed": wire_id(run.feed_id), "version": run.version, "revision": run.revision}
    asked = acme.opening("globe", Kind.RELEASE, Part.RECEIVER, subject=subject)
    handler(Kind.RELEASE, Part.SENDER).finished(acme.project.scope, row, asked, receipt)
    assert len(acme.acts("feed.run")) == 1
