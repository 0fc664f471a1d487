"""What was proposed or accepted is taken back, or ends by itself: no partner chooses when it comes into force."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from partnering import people
from sides import Pair, Person, Side

from node.errors import NotAllowed
from node.operations.alerts import AlertKind
from node.partners import agreements, handlers
from node.partners.connections import note
from protocol.agreement import Acceptance

pytestmark = [pytest.mark.two_nodes, pytest.mark.feature("CN8")]


@pytest.fixture
def connected(pair: Pair, person: type[Person]) -> Pair:
    """Two nodes that agreed on a minimum overlap of 5."""
    pair.prepare(people(person, "a", 0, 6), people(person, "g", 4, 10), {}, minimum_overlap=5)
    return pair


@pytest.fixture
def deaf(connected: Pair, monkeypatch: pytest.MonkeyPatch) -> Pair:
    """The same, where no refusal of a change is heard: a partner that lies goes on as if there were none."""
    monkeypatch.setitem(handlers.HANDLERS, "agreement.refuse", lambda *_: None)
    return connected


@pytest.fixture
def withheld(connected: Pair, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Acme accepted a minimum of 1 that globe proposed, and globe keeps it for itself; return how it confirms at last."""
    kept: list[Any] = []
    confirm = agreements.accepted
    monkeypatch.setitem(handlers.HANDLERS, "agreement.accept", lambda *each: kept.append(each[-1]))
    lower(connected, 1)
    connected.globe.project.partners.propose("acme")
    connected.post()
    connected.acme.project.partners.agree("globe")
    connected.post()
    (accepted,) = kept
    assert isinstance(accepted, Acceptance)

    proposal = connected.globe.project.partners.get("acme").our_proposal

    def act() -> None:
        globe = connected.globe.project
        with globe.scope.begin() as tx, pytest.MonkeyPatch.context() as lying:
            lying.setattr(agreements, "OPEN_DAYS", 10_000)
            note(tx, globe.partners.get("acme"), our_proposal=proposal)
            confirm(globe.scope, tx, globe.partners.get("acme", tx), accepted)
        connected.post()

    return act


def lower(pair: Pair, minimum: int) -> None:
    for side in (pair.acme, pair.globe):
        side.project.set_terms(minimum_overlap=minimum)


def agreed(side: Side) -> tuple[int, int]:
    (partner,) = side.project.partners.rows()
    return partner.agreed.version, partner.terms.minimum_overlap


def open_alerts(side: Side) -> list[str]:
    return [alert.kind for alert in side.project.alerts.all(open_only=True)]


def test_a_proposal_is_taken_back(connected: Pair) -> None:
    pair = connected
    lower(pair, 1)
    pair.acme.project.partners.propose("globe")
    pair.post()
    assert AlertKind.AGREEMENT_PROPOSED in open_alerts(pair.globe)
    assert pair.acme.project.partners.decline_change("globe") is False
    pair.post()
    assert AlertKind.AGREEMENT_PROPOSED not in open_alerts(pair.globe)
    with pytest.raises(NotAllowed, match="nothing that waits"):
        pair.globe.project.partners.agree("acme")
    with pytest.raises(NotAllowed, match="nothing that waits"):
        pair.acme.project.partners.decline_change("globe")
    pair.acme.project.partners.propose("globe")
    pair.post()
    pair.globe.project.partners.agree("acme")
    pair.post()
    assert agreed(pair.acme) == agreed(pair.globe) == (2, 1)


def test_a_proposal_that_was_taken_back_is_accepted_no_more(deaf: Pair) -> None:
    pair = deaf
    lower(pair, 1)
    pair.acme.project.partners.propose("globe")
    pair.post()
    pair.acme.project.partners.decline_change("globe")
    pair.post()
    pair.globe.project.partners.agree("acme")
    pair.post()
    assert agreed(pair.acme) == agreed(pair.globe) == (1, 5)


def test_a_proposal_is_replaced_by_what_was_agreed_before(connected: Pair) -> None:
    pair = connected
    lower(pair, 1)
    pair.acme.project.partners.propose("globe")
    pair.acme.project.set_terms(minimum_overlap=5)
    pair.acme.project.partners.propose("globe")
    pair.post()
    pair.globe.project.partners.agree("acme")
    pair.post()
    assert agreed(pair.acme) == agreed(pair.globe) == (2, 5)


def test_a_proposal_is_accepted_for_thirty_days(connected: Pair) -> None:
    pair = connected
    lower(pair, 1)
    pair.acme.project.partners.propose("globe")
    pair.post()
    pair.clock.advance(days=30)
    assert pair.acme.project.reports.partner_terms("globe")["change"] is None
    pair.globe.project.partners.agree("acme")
    pair.post()
    assert agreed(pair.acme) == agreed(pair.globe) == (1, 5)
    assert AlertKind.AGREEMENT_DECLINED in open_alerts(pair.acme)
    assert AlertKind.AGREEMENT_DECLINED in open_alerts(pair.globe)
    pair.acme.project.partners.propose("globe")
    pair.post()
    pair.globe.project.partners.agree("acme")
    pair.post()
    assert agreed(pair.acme) == agreed(pair.globe) == (2, 1)


def test_a_proposal_of_weaker_terms_than_those_of_now_is_accepted_no_more(connected: Pair) -> None:
    pair = connected
    lower(pair, 1)
    pair.acme.project.partners.propose("globe")
    pair.post()
    pair.acme.project.set_terms(minimum_overlap=5)
    pair.globe.project.partners.agree("acme")
    pair.post()
    assert agreed(pair.acme) == agreed(pair.globe) == (1, 5)
    assert any("stricter terms" in alert.text for alert in pair.globe.project.alerts.all())


def test_an_acceptance_that_has_not_left_is_taken_back(connected: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = connected
    lower(pair, 1)
    pair.globe.project.partners.propose("acme")
    pair.post()
    with monkeypatch.context() as patched:
        patched.setattr("node.partners.letters.Letters.deliver_soon", lambda *_: None)
        patched.setattr("node.partners.letters.Letters.sync", lambda *_: None)
        pair.acme.project.partners.agree("globe")
        pair.acme.project.partners.decline_change("globe")
    pair.post()
    assert agreed(pair.acme) == agreed(pair.globe) == (1, 5)
    assert AlertKind.AGREEMENT_DECLINED in open_alerts(pair.globe)
    lower(pair, 6)
    pair.acme.project.partners.propose("globe")
    pair.post()
    pair.globe.project.partners.agree("acme")
    pair.post()
    assert agreed(pair.acme) == agreed(pair.globe) == (2, 6)


@pytest.mark.parametrize("how", ["taken back", "old", "stricter"])
def test_a_late_confirmation_waits_for_a_person(connected: Pair, withheld: Callable[[], None], how: str) -> None:
    pair, partners = connected, connected.acme.project.partners
    with pytest.raises(NotAllowed, match="not confirmed"):
        partners.propose("globe")
    if how == "taken back":
        assert partners.decline_change("globe") is False
    elif how == "old":
        pair.clock.advance(days=30)
    else:
        pair.acme.project.set_terms(minimum_overlap=50)
    withheld()
    assert agreed(pair.acme) == (1, 5)
    assert AlertKind.AGREEMENT_PROPOSED in open_alerts(pair.acme)
    change = pair.acme.project.reports.partner_terms("globe")["change"]
    assert (change["step"], change["terms"]["minimum_overlap"]) == ("accept", 1)
    partners.agree("globe", agreement=change["agreement"])
    pair.post()
    assert agreed(pair.acme) == agreed(pair.globe) == (2, 1)
    assert AlertKind.AGREEMENT_PROPOSED not in open_alerts(pair.acme)


def test_a_late_confirmation_is_declined(connected: Pair, withheld: Callable[[], None]) -> None:
    """The partner, which has it in force, hears so."""
    pair, partners = connected, connected.acme.project.partners
    partners.decline_change("globe")
    withheld()
    assert partners.decline_change("globe") is True
    pair.post()
    assert agreed(pair.acme) == (1, 5)
    with pytest.raises(NotAllowed, match="nothing that waits"):
        partners.agree("globe")
    assert any("does not take part in version 2" in alert.text for alert in pair.globe.project.alerts.all())


@pytest.mark.usefixtures("withheld")
def test_an_acceptance_that_nobody_confirms_keeps_nothing_back(connected: Pair) -> None:
    pair, partners = connected, connected.acme.project.partners
    pair.acme.project.set_terms(minimum_overlap=50)
    opening = pair.acme.opening("globe")
    partners.decline_change("globe")
    partners.propose("globe")
    pair.post()
    change = pair.globe.project.reports.partner_terms("acme")["change"]
    assert (change["step"], change["terms"]["minimum_overlap"]) == ("accept", 50)
    scope, ours = pair.acme.project.scope, partners.get("globe")
    assert ours.our_acceptance is not None
    with scope.read() as tx:
        taken_back = replace(opening, agreement=Acceptance.decode(ours.our_acceptance).agreement)
        assert not agreements.may_name(tx, ours, taken_back, pair.clock())


def test_a_partner_takes_back_what_was_accepted_before_it_heard_of_that(
    connected: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = connected
    lower(pair, 1)
    pair.globe.project.partners.propose("acme")
    pair.post()
    with monkeypatch.context() as patched:
        patched.setattr("node.partners.letters.Letters.deliver_soon", lambda *_: None)
        pair.acme.project.partners.agree("globe")
        pair.globe.project.partners.decline_change("acme")
    pair.post()
    assert agreed(pair.acme) == agreed(pair.globe) == (1, 5)
    for side in (pair.acme, pair.globe):
        (partner,) = side.project.partners.rows()
        assert (partner.our_proposal, partner.their_proposal, partner.our_acceptance) == (None, None, None)
