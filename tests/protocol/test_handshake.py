"""From Connect ID to agreement: only who holds the secret may ask, both accept the same, the stricter side wins."""

import hmac
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from parties import Party, World

from protocol import handshake
from protocol.agreement import Agreement, Offer, Terms, mismatches, strictest
from protocol.connectid import ConnectId
from protocol.errors import LocalProtocolError, RemoteProtocolError
from psi.hashing import length_prefixed

SECRET = bytes(range(100, 116))
PROJECT = bytes(range(50, 66))


@pytest.fixture
def connect_id(world: World) -> ConnectId:
    return ConnectId(flags=0, address="b.example:7443", key=world.right.key, project=PROJECT, secret=SECRET, expires=9)


@pytest.fixture
def hello(world: World, connect_id: ConnectId) -> handshake.Hello:
    return handshake.hello(connect_id, key=world.left.key, nonce=bytes(32))


def offer(
    party: Party,
    *,
    nonce: bytes = bytes(32),
    terms: Terms | None = None,
    namespaces: tuple[str, ...] = ("email_sha256/lc-v1", "idfa/uuid-v1"),
    project: bytes = PROJECT,
) -> Offer:
    return Offer(
        organisation="Acme",
        project_name="default",
        key=party.key,
        project=project,
        address="a.example:1",
        proxy=False,
        terms=terms or Terms(),
        namespaces=namespaces,
        nonce=nonce,
    )


def their_offer(world: World, hello: handshake.Hello, *, terms: Terms | None = None) -> Offer:
    return offer(world.right, nonce=handshake.offer_nonce(hello, secret=SECRET), terms=terms)


@pytest.fixture
def request_(world: World, connect_id: ConnectId, hello: handshake.Hello) -> handshake.Request:
    ours = offer(world.left, project=bytes(16), terms=Terms(minimum_overlap=5_000))
    theirs = their_offer(world, hello)
    return handshake.request(connect_id, hello, ours, theirs, connection=bytes(16), made=7, sign=world.left.sign)


def test_the_whole_handshake(
    world: World, connect_id: ConnectId, hello: handshake.Hello, request_: handshake.Request
) -> None:
    handshake.check_hello(hello, key=world.right.key, secret=SECRET)
    reply = handshake.reply(hello, their_offer(world, hello), secret=SECRET)
    assert handshake.check_reply(reply, hello, connect_id) == their_offer(world, hello)
    agreement = handshake.check_request(request_, their_offer(world, hello), secret=SECRET)
    assert agreement.terms.minimum_overlap == 5_000
    accept = handshake.accept(agreement, sign=world.right.sign)
    handshake.check_accept(accept, agreement, keys=(world.right.key,))


@pytest.mark.feature("CN4")
def test_the_messages_say_nothing_of_data() -> None:
    said = {name for message in (handshake.Hello, handshake.Reply, Offer, Agreement) for name in message.__slots__}
    assert said == {
        *("key", "project", "nonce", "proof", "offer", "organisation", "project_name", "address", "proxy", "terms"),
        *("namespaces", "version", "connection", "requester", "accepter", "made"),
    }


def refused(expected: str, check: Callable[..., object], *arguments: object, **named: object) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        check(*arguments, **named)
    assert caught.value.code == expected


@pytest.mark.feature("CN1")
def test_a_regenerated_or_unknown_secret_is_refused(
    world: World, connect_id: ConnectId, hello: handshake.Hello, request_: handshake.Request
) -> None:
    other = {"secret": bytes(16)}
    refused("connect_id_proof", handshake.check_hello, hello, key=world.right.key, **other)
    refused("connect_id_proof", handshake.check_request, request_, their_offer(world, hello), **other)
    reply = handshake.reply(hello, their_offer(world, hello), **other)
    refused("connect_id_proof", handshake.check_reply, reply, hello, connect_id)


def test_a_proof_does_not_work_for_another_node_key_or_nonce(world: World, hello: handshake.Hello) -> None:
    for changes in ({"key": world.mallory.key}, {"nonce": b"\1" * 32}):
        forged = replace(hello, **changes)
        refused("connect_id_proof", handshake.check_hello, forged, key=world.right.key, secret=SECRET)
    refused("connect_id_proof", handshake.check_hello, hello, key=world.mallory.key, secret=SECRET)


def test_a_reply_by_another_node_or_project_is_refused(
    world: World, connect_id: ConnectId, hello: handshake.Hello
) -> None:
    for wrong in (offer(world.mallory), offer(world.right, project=bytes(16))):
        reply = handshake.reply(hello, wrong, secret=SECRET)
        expected = "agreement" if wrong.key == world.right.key else "connect_id_proof"
        refused(expected, handshake.check_reply, reply, hello, connect_id)


def test_terms_that_changed_since_the_reply_need_a_new_request(
    world: World, hello: handshake.Hello, request_: handshake.Request
) -> None:
    changed = their_offer(world, hello, terms=Terms(minimum_overlap=10))
    refused("agreement", handshake.check_request, request_, changed, secret=SECRET)


def test_an_agreement_that_does_not_follow_from_the_offers_is_refused(
    world: World, connect_id: ConnectId, hello: handshake.Hello, request_: handshake.Request
) -> None:
    ours = their_offer(world, hello)
    softer = replace(request_.agreement, terms=Terms(minimum_overlap=1))
    forged = replace(request_, agreement=softer, signature=softer.sign(world.left.sign))
    refused("connect_id_proof", handshake.check_request, forged, ours, secret=SECRET)
    parts = world.left.key, world.right.key, hello.nonce, softer.digest()
    proof = hmac.digest(SECRET, length_prefixed(b"vesica/1 connect request", *parts), "sha256")  # with the secret
    refused("agreement", handshake.check_request, replace(forged, proof=proof), ours, secret=SECRET)
    unsigned = replace(request_, signature=bytes(64))
    refused("signature", handshake.check_request, unsigned, ours, secret=SECRET)
    stranger = replace(request_, offer=offer(world.mallory))
    refused("agreement", handshake.check_request, stranger, ours, secret=SECRET)


def test_a_countersignature_by_another_or_over_another_agreement_is_refused(
    world: World, request_: handshake.Request
) -> None:
    agreement = request_.agreement
    by_mallory = handshake.accept(agreement, sign=world.mallory.sign)
    refused("signature", handshake.check_accept, by_mallory, agreement, keys=(world.right.key,))
    other = handshake.accept(replace(agreement, made=8), sign=world.right.sign)
    refused("agreement", handshake.check_accept, other, agreement, keys=(world.right.key,))


def test_the_stricter_side_wins() -> None:
    lax = Terms(
        minimum_universe=1,
        minimum_segment=1,
        minimum_overlap=1,
        epsilon=None,
        budget=Fraction(9),
        window_days=1,
        generations=99,
        evaluations=Fraction(3),
        epoch_days=90,
    )
    assert strictest(lax, Terms()) == strictest(Terms(), lax) == Terms()
    assert strictest(lax, lax) == lax
    half = Terms(epsilon=Fraction(1, 40), minimum_segment=2_000)
    assert strictest(half, Terms()) == half


def test_terms_as_json_and_back() -> None:
    for terms in (Terms(), Terms(epsilon=None, minimum_overlap=0, budget=Fraction(1, 3))):
        assert Terms.from_dict(terms.as_dict()) == terms
    assert Terms.from_dict({"epsilon": None}) == Terms(epsilon=None)


@pytest.mark.parametrize(
    "fields",
    [{"minimum_overlap": -1}, {"epsilon": "0"}, {"epsilon": "2/4"}, {"epsilon": 0.05}, {"window_days": 0}, {"more": 1}],
)
def test_terms_out_of_range_are_our_own_mistake(fields: dict[str, Any]) -> None:
    with pytest.raises(LocalProtocolError):
        Terms.from_dict(fields)


@pytest.mark.feature("ID7")
def test_differing_rules_are_named(world: World) -> None:
    ours = offer(world.left, namespaces=("email_sha256/lc-v1", "idfa/uuid-v1", "phone_sha256/e164-v1"))
    theirs = offer(world.right, namespaces=("email_sha256/google-v3", "email_sha256/uid2-v1", "idfa/uuid-v1"))
    assert mismatches(ours, theirs) == [("email_sha256", ("lc-v1",), ("google-v3", "uid2-v1"))]
    merged = Agreement.merge(ours, theirs, connection=bytes(16), made=0)
    assert merged.namespaces == ("idfa/uuid-v1",)
