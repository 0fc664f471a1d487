"""A change of an agreement that one side forgets by a restore: both have the same agreement again, and it is the newest."""

from dataclasses import replace
from pathlib import Path

import pytest
from restoring import both, people, set_back
from sides import EMAIL, PHONE, Pair, Person, Side
from sqlalchemy import delete

from node.partners import agreements, held_agreements
from node.partners.agreements_in_force import KEPT
from node.partners.connections import Connection, note
from node.storage import tables
from protocol.agreement import Acceptance, Held, Proposal, Refusal
from protocol.errors import RemoteProtocolError

pytestmark = [pytest.mark.two_nodes, pytest.mark.feature("CN8"), pytest.mark.feature("OP9")]


def connection(side: Side) -> Connection:
    (found,) = side.project.partners.rows()
    return found


def sides(pair: Pair, first: str) -> tuple[Side, Side]:
    return (pair.acme, pair.globe) if first == "acme" else (pair.globe, pair.acme)


def propose(pair: Pair, side: Side) -> None:
    side.project.set_terms(minimum_universe=2)
    side.project.partners.propose(connection(side).alias)
    pair.post()


def agree(pair: Pair, side: Side) -> None:
    side.project.partners.agree(connection(side).alias)
    pair.post()


def same(pair: Pair) -> tuple[int, int]:
    """Return the version and the minimum that both have."""
    ours, theirs = connection(pair.acme), connection(pair.globe)
    assert ours.agreement == theirs.agreement
    assert ours.our_signature == theirs.their_signature
    for each in (ours, theirs):
        assert (each.our_proposal, each.their_proposal, each.our_acceptance) == (None, None, None)
    return ours.agreed.version, ours.terms.minimum_universe


@pytest.mark.parametrize("restored", ["acme", "globe"])
@pytest.mark.parametrize("proposed", ["before", "after"])
def test_what_was_signed_after_the_backup_is_taken_over(
    idle_pair: Pair, person: type[Person], tmp_path: Path, restored: str, proposed: str
) -> None:
    pair = idle_pair
    side, _ = sides(pair, restored)
    with both(pair):
        pair.prepare(people(person, "abcdef"), people(person, "cdefgh"), {})
        if proposed == "before":
            propose(pair, pair.globe)
        side.node.backup(tmp_path / "backup")
        if proposed == "after":
            propose(pair, pair.globe)
        agree(pair, pair.acme)
        assert same(pair) == (2, 2)
    set_back(pair, side, tmp_path / "backup", days=2)
    with both(pair):
        assert connection(side).agreed.version == 1
        pair.post()
        pair.post()
        assert same(pair) == (2, 2)
        assert connection(side).agreed.namespaces == (EMAIL, PHONE)
        side.project.resume()
        side.project.set_terms(minimum_universe=3)
        side.project.partners.propose(connection(side).alias)
        pair.post()
        agree(pair, sides(pair, restored)[1])
        assert same(pair) == (3, 3)


def test_nothing_older_comes_back_once_both_agreed_anew(
    idle_pair: Pair, person: type[Person], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partner that kept quiet after the restore shows a weaker agreement that was signed before it, too late."""
    pair = idle_pair
    with both(pair):
        pair.prepare(people(person, "abcdef"), people(person, "cdefgh"), {}, minimum_overlap=5)
        pair.acme.node.backup(tmp_path / "backup")
        first = connection(pair.globe)
        for minimum in (3, 1):
            for side in (pair.acme, pair.globe):
                side.project.set_terms(minimum_overlap=minimum)
            pair.globe.project.partners.propose("acme")
            pair.post()
            agree(pair, pair.acme)
        shown = connection(pair.globe)
    assert (shown.agreed.version, shown.terms.minimum_overlap) == (3, 1)
    set_back(pair, pair.acme, tmp_path / "backup", days=2)
    with both(pair), monkeypatch.context() as lying:
        lying.setattr(held_agreements, "report", lambda *_: None)
        pair.post()
        pair.acme.project.resume()
        with pair.globe.project.scope.begin() as tx:
            tx.execute(delete(tables.agreements))
            note(tx, shown, **{name: getattr(first, name) for name in KEPT})
        pair.acme.project.partners.decline_change("globe")  # its first proposal has come again
        pair.acme.project.set_terms(minimum_overlap=50)
        pair.acme.project.partners.propose("globe")
        pair.post()
        agree(pair, pair.globe)
    assert connection(pair.acme).terms.minimum_overlap == 50
    pair.clock.advance(days=300)
    with both(pair):
        with pair.globe.project.scope.begin() as tx:
            held_agreements.report(pair.globe.project.scope, tx, shown)
        pair.post()
    assert connection(pair.acme).terms.minimum_overlap == 50


@pytest.mark.parametrize("how", ["replaced", "refused"])
def test_what_was_accepted_and_came_to_nothing_is_not_taken_over(
    idle_pair: Pair, person: type[Person], tmp_path: Path, how: str
) -> None:
    """The partner keeps our signature under it, but no restore makes it valid again."""
    pair = idle_pair
    with both(pair):
        pair.prepare(people(person, "abcdef"), people(person, "cdefgh"), {})
        pair.acme.node.backup(tmp_path / "backup")
    set_back(pair, pair.acme, tmp_path / "backup", days=2)
    with both(pair):
        pair.post()
        pair.acme.project.resume()
        propose(pair, pair.globe)
    pair.acme.project.partners.agree("globe")  # globe takes it, and keeps it for itself
    ours, scope = connection(pair.acme), pair.acme.project.scope
    assert ours.their_proposal is not None
    assert ours.our_acceptance is not None
    proposal, acceptance = Proposal.decode(ours.their_proposal), Acceptance.decode(ours.our_acceptance)
    agreed = proposal.agreement(ours.agreed, acceptance.offer)
    held = Held(
        agreement=agreed,
        requester=proposal.offer,
        accepter=acceptance.offer,
        requester_signature=agreed.sign(pair.globe.node.home.sign),
        accepter_signature=acceptance.signature,
    )
    with pair.acme.node.home.begin() as tx:
        if how == "replaced":
            another = replace(proposal, offer=replace(proposal.offer, nonce=bytes(32)))
            agreements.proposed(scope, tx, ours, another)
        else:
            agreements.refused(scope, tx, ours, Refusal(proposal=proposal.digest(), reason=""))
    with pair.acme.node.home.begin() as tx, pytest.raises(RemoteProtocolError, match="come to nothing"):
        held_agreements.held(scope, tx, connection(pair.acme), held)
    assert connection(pair.acme).agreed.version == 1


def test_a_proposal_that_was_forgotten_is_not_accepted(idle_pair: Pair, person: type[Person], tmp_path: Path) -> None:
    pair = idle_pair
    with both(pair):
        pair.prepare(people(person, "abcdef"), people(person, "cdefgh"), {})
        pair.globe.node.backup(tmp_path / "backup")
        propose(pair, pair.globe)
    set_back(pair, pair.globe, tmp_path / "backup", days=2)
    with both(pair):
        agree(pair, pair.acme)
        pair.post()
        assert same(pair) == (1, 1)
