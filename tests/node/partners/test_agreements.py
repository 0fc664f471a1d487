"""A change of an agreement between two nodes: proposed, looked at, accepted or refused; feeds and open exchanges go on."""

from dataclasses import replace
from typing import Any

import pytest
from partnering import people
from sides import EMAIL, PHONE, Pair, Person, Side

from node.errors import NotAllowed
from node.imports.identity_columns import IdentityColumn
from node.operations.alerts import AlertKind
from node.partners import agreements, connecting, windows
from node.partners.connections import Connection
from node.partners.outbox import outbox
from protocol.agreement import Acceptance, Proposal

IDFA = "idfa/uuid-v1"

pytestmark = [pytest.mark.two_nodes, pytest.mark.feature("CN8")]


@pytest.fixture
def connected(pair: Pair, person: type[Person]) -> Pair:
    """Two nodes that match by e-mail alone, with a feed of acme's that runs to globe."""
    pair.prepare(people(person, "a", 0, 6), people(person, "g", 4, 10), {"vip": [f"a{n}" for n in range(6)]})
    assert agreed(pair) == (1, (EMAIL, PHONE), 1)
    pair.share("f", ["vip"], [EMAIL])
    sync(pair)
    return pair


def rows(pair: Pair) -> tuple[Connection, Connection]:
    return pair.acme.project.partners.get("globe"), pair.globe.project.partners.get("acme")


def agreed(pair: Pair) -> tuple[int, tuple[str, ...], int]:
    """Return the version, the namespaces and the minimum that both sides have agreed on."""
    ours, theirs = rows(pair)
    assert ours.agreement == theirs.agreement
    return ours.agreed.version, ours.agreed.namespaces, ours.terms.minimum_universe


def sync(pair: Pair) -> str:
    (run,) = pair.acme.project.feeds.sync("f")
    return str(run["status"])


def with_devices(pair: Pair) -> None:
    for side, first in ((pair.acme, 0), (pair.globe, 4)):
        file = side.folder / f"{side.name}-devices.csv"
        lines = [f"{side.name[0]}{n},6D92078A-8246-4BA4-AE5B-76104861E7{n:02}" for n in range(first, first + 6)]
        file.write_text("\n".join(["id,device", *lines]) + "\n")
        identities = [IdentityColumn.parse("device=idfa")]
        side.project.profiles.import_(file, dataset="devices", id_column="id", identities=identities)


def alerts(side: Side) -> list[str]:
    return [alert.kind for alert in side.project.alerts.all(open_only=True)]


def propose(side: Side) -> None:
    (partner,) = side.project.partners.rows()
    side.project.partners.propose(partner.alias)


def accept(side: Side) -> None:
    (partner,) = side.project.partners.rows()
    side.project.partners.agree(partner.alias)


@pytest.mark.parametrize("first", ["acme", "globe"])
def test_a_namespace_joins_an_agreement_while_the_feed_runs(connected: Pair, person: type[Person], first: str) -> None:
    pair = connected
    with_devices(pair)
    proposer, accepter = (pair.acme, pair.globe) if first == "acme" else (pair.globe, pair.acme)
    propose(proposer)
    pair.post()
    assert AlertKind.AGREEMENT_PROPOSED in alerts(accepter)
    assert sync(pair) in ("done", "unchanged")  # nothing has changed yet
    change = accepter.project.partners.show_change(proposer.name)
    assert (change["step"], change["namespaces"]) == ("accept", [EMAIL, IDFA, PHONE])
    with pytest.raises(NotAllowed, match="does not lead"):
        accepter.project.partners.agree(proposer.name, agreement="00" * 32)
    accepter.project.partners.agree(proposer.name, agreement=change["agreement"])
    pair.post()
    assert agreed(pair) == (2, (EMAIL, IDFA, PHONE), 1)
    assert rows(pair)[0].agreement_digest.hex() == change["agreement"]
    for ours in rows(pair):
        ours.agreed.verify(ours.their_signature or b"", ours.peer_key)
    assert AlertKind.AGREEMENT_PROPOSED not in alerts(accepter)
    assert AlertKind.AGREEMENT_CHANGED in alerts(proposer)
    assert sync(pair) in ("done", "unchanged")
    pair.share("g", ["vip"], [IDFA])
    (run,) = pair.acme.project.feeds.sync("g")
    assert run["status"] == "done"
    assert pair.globe.members("acme", "vip") == {"g4", "g5"}


def test_the_stricter_side_wins_and_both_have_to_want_less(connected: Pair) -> None:
    pair = connected
    pair.globe.project.set_terms(minimum_universe=3, minimum_overlap=4)
    propose(pair.globe)
    pair.post()
    change = pair.acme.project.partners.show_change("globe")
    assert (change["terms_before"]["minimum_universe"], change["terms"]["minimum_universe"]) == (1, 3)
    pair.acme.project.partners.agree("globe")
    pair.post()
    assert agreed(pair) == (2, (EMAIL, PHONE), 3)
    pair.globe.project.set_terms(minimum_universe=2)
    propose(pair.globe)
    pair.post()
    pair.acme.project.set_terms(minimum_universe=5)  # what the accepter asks for when it accepts counts
    pair.acme.project.partners.agree("globe")
    pair.post()
    assert agreed(pair) == (3, (EMAIL, PHONE), 5)
    with pytest.raises(NotAllowed, match="what it offered"):
        propose(pair.acme)


@pytest.mark.parametrize("name", ["acme", "globe"])
def test_neither_side_of_a_new_connection_proposes_what_it_offered(connected: Pair, name: str) -> None:
    side = connected.acme if name == "acme" else connected.globe
    with pytest.raises(NotAllowed, match="what it offered when you agreed"):
        propose(side)
    side.project.set_terms(minimum_universe=2)
    propose(side)


def test_to_decline_a_change_leaves_what_was_agreed(connected: Pair) -> None:
    pair = connected
    pair.globe.project.set_terms(minimum_universe=2)
    propose(pair.globe)
    pair.post()
    pair.acme.project.partners.decline_change("globe", "not now")
    pair.post()
    assert agreed(pair) == (1, (EMAIL, PHONE), 1)
    assert AlertKind.AGREEMENT_DECLINED in alerts(pair.globe)
    assert rows(pair)[0].their_proposal is rows(pair)[1].our_proposal is None
    with pytest.raises(NotAllowed, match="nothing that waits"):
        pair.acme.project.partners.decline_change("globe")


@pytest.mark.parametrize("minimums", [(2, 3), (3, 2), (4, 4)])
def test_both_propose_and_both_accept_at_once(connected: Pair, minimums: tuple[int, int]) -> None:
    pair = connected
    for side, minimum in zip((pair.acme, pair.globe), minimums, strict=True):
        side.project.set_terms(minimum_universe=minimum)
    cross(pair, propose)
    cross(pair, accept)  # each accepts, before it hears that the other has
    pair.post()
    assert agreed(pair) == (2, (EMAIL, PHONE), max(minimums))
    for row in rows(pair):
        assert (row.our_proposal, row.their_proposal, row.our_acceptance) == (None, None, None)
    assert sync(pair) in ("done", "unchanged")


def cross(pair: Pair, act: Any) -> None:
    """Let both act before either has the other's letter."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("node.partners.letters.Letters.deliver_soon", lambda *_: True)
        act(pair.acme)
        act(pair.globe)
    pair.post()


def test_a_proposal_that_is_replaced_while_it_is_accepted(connected: Pair) -> None:
    pair = connected
    pair.globe.project.set_terms(minimum_universe=2)
    propose(pair.globe)
    pair.post()

    def act(side: Side) -> None:
        if side is pair.globe:
            side.project.set_terms(minimum_universe=3)
            letters = [row.our_proposal for row in rows(pair)]
            propose(side)
            assert rows(pair)[1].our_proposal not in letters
        else:
            side.project.partners.agree("globe")

    cross(pair, act)
    assert agreed(pair) == (1, (EMAIL, PHONE), 1)
    pair.acme.project.partners.agree("globe")  # what is proposed now
    pair.post()
    assert agreed(pair) == (2, (EMAIL, PHONE), 3)


def test_a_namespace_that_leaves_takes_along_who_matched_by_it_alone(pair: Pair, person: type[Person]) -> None:
    def both(side: str, numbers: range) -> list[Person]:
        return [person(f"{side}{n}", f"person{n}@example.com" if n % 2 else "", f"+4474000000{n:02}") for n in numbers]

    segments = {"vip": [f"a{n}" for n in range(8)]}
    pair.prepare(both("a", range(8)), both("g", range(4, 12)), segments)
    pair.share("f", ["vip"])
    assert sync(pair) == "done"
    assert pair.globe.members("acme", "vip") == {"g4", "g5", "g6", "g7"}
    with pytest.MonkeyPatch.context() as patched:  # globe has no telephone numbers any more
        patched.setattr("node.partners.connecting.namespaces", lambda *_: [EMAIL])
        propose(pair.globe)
    pair.post()
    change = pair.acme.project.partners.show_change("globe")
    assert (change["namespaces_before"], change["namespaces"]) == ([EMAIL, PHONE], [EMAIL])
    pair.acme.project.partners.agree("globe")
    pair.post()
    assert pair.globe.members("acme", "vip") == {"g5", "g7"}
    pair.post()
    assert sync(pair) == "done"
    assert pair.globe.members("acme", "vip") == {"g5", "g7"}
    assert {each["namespace"] for each in pair.acme.project.feeds.estimate("f")} == {EMAIL}


def test_what_a_project_offers_is_read_in_the_transaction_that_decides(connected: Pair) -> None:
    scope, connection = connected.acme.project.scope, rows(connected)[0]
    with scope.begin() as tx:
        scope.change(tx, terms={"minimum_overlap": 5_000})
        assert connecting.offer(scope, bytes(32), tx).terms.minimum_overlap == 5_000
        assert agreements.next_change(scope, connection, tx).ours.terms.minimum_overlap == 5_000


def test_a_change_gives_nothing_back(connected: Pair) -> None:
    """The window that was agreed on goes on counting, also where both sides have shortened it."""
    pair, day = connected, 86_400
    for side in (pair.acme, pair.globe):
        side.project.set_terms(window_days=2, epoch_days=1)
    propose(pair.globe)
    pair.post()
    pair.acme.project.partners.agree("globe")
    pair.post()

    def length() -> int:
        scope = pair.acme.project.scope
        with scope.read() as tx:
            return windows.length(scope, tx, rows(pair)[0]) // day

    assert rows(pair)[0].terms.window_days == 2
    assert length() == 30
    pair.clock.advance(days=29)
    assert length() == 30
    pair.clock.advance(days=1)
    assert length() == 2


def test_a_new_connection_gives_nothing_back(connected: Pair) -> None:
    """What was used up counts as long as under the connection that ended, also by its agreements of before."""
    pair, day = connected, 86_400
    for side in (pair.acme, pair.globe):
        side.project.set_terms(window_days=2, epoch_days=1)
    pair.globe.project.partners.disconnect("acme")
    pair.post()
    found = pair.globe.project.partners.look_up(pair.acme.project.partners.connect_id().encode())
    pair.globe.project.partners.request(found, alias="acme")
    pair.acme.project.partners.accept("globe")
    pair.post()

    def length() -> int:
        scope = pair.acme.project.scope
        with scope.read() as tx:
            return windows.length(scope, tx, rows(pair)[0]) // day

    assert (rows(pair)[0].status, rows(pair)[0].terms.window_days) == ("active", 2)
    pair.clock.advance(days=29)
    assert length() == 30
    pair.clock.advance(days=1)
    assert length() == 2


def test_exchanges_go_on_under_the_agreement_before(connected: Pair) -> None:
    pair = connected
    before = pair.acme.opening("globe")
    with_devices(pair)
    propose(pair.acme)
    pair.post()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("node.partners.letters.Letters.deliver_soon", lambda *_: True)
        accept(pair.globe)
    (letter,) = outbox(pair.globe.node.home, rows(pair)[1])
    coming = Acceptance.decode(letter.body).agreement

    def named(side: int, digest: bytes) -> bool:
        scope = (pair.acme, pair.globe)[side].project.scope
        opening = pair.acme.opening("globe")
        with scope.read() as tx:
            return agreements.may_name(tx, rows(pair)[side], replace(opening, agreement=digest), pair.clock())

    assert named(1, coming)  # which the partner may have put in force already
    assert not named(0, coming)
    pair.post()
    assert agreed(pair)[0] == 2
    assert named(0, before.agreement)
    assert named(1, before.agreement)
    assert not named(0, b"x" * 32)
    pair.clock.advance(days=2)
    assert not named(0, before.agreement)


def test_an_acceptance_that_leaves_no_namespace_is_not_in_force(connected: Pair) -> None:
    connected.acme.project.set_terms(minimum_segment=2)
    propose(connected.acme)
    connected.post()
    row = connected.globe.project.partners.get("acme")
    assert row.their_proposal is not None
    proposal = Proposal.decode(row.their_proposal)
    with connected.globe.node.home.begin() as tx:
        offer = connecting.offer(connected.globe.project.scope, proposal.digest(), tx)
        ours = replace(offer, namespaces=())  # globe lies
        change = agreements.Change(
            proposal=proposal, ours=ours, agreement=proposal.agreement(row.agreed, ours), theirs=True
        )
        agreements.accept(connected.globe.project.scope, tx, row, change)
    connected.post()
    assert connected.acme.project.partners.get("globe").agreed.version == 1
    assert sync(connected) in ("done", "unchanged")
