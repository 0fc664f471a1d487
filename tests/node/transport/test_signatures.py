"""Signed messages: what is changed, replayed, stale, or meant for another is refused."""

import dataclasses
import datetime
import os
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from http_message_signatures import HTTPMessageSigner, algorithms

from node.transport import signatures
from node.transport.signatures import BadSignature, Replays, Request, Response, check_body, sign

NOW = 1_800_000_000


@dataclasses.dataclass
class Party:
    secret: Ed25519PrivateKey = dataclasses.field(default_factory=Ed25519PrivateKey.generate)
    time: int = NOW

    @property
    def key(self) -> bytes:
        return self.secret.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        return self.secret.sign(message)

    def now(self) -> int:
        return self.time

    def random(self, size: int) -> bytes:
        return os.urandom(size)


ann, bob = Party(), Party()


def verify(message: Request | Response, **how: Any) -> signatures.Verified:
    """Verify a message that has arrived whole."""
    verified = signatures.verify(message, **how)
    check_body(message)
    return verified


def request(**changes: object) -> Request:
    made = Request(method="PUT", url="https://h/vesica/1/exchanges/00/tags/1?x=1", body=b"points")
    sign(made, ann, bob.key)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_a_request_names_who_signed_it() -> None:
    assert verify(request(), to=bob.key, now=bob.now).key == ann.key


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "POST"},
        {"url": "https://h/vesica/1/exchanges/00/tags/2?x=1"},
        {"url": "https://h/vesica/1/exchanges/00/tags/1?x=2"},
        {"url": "https://h/vesica/1/exchanges/00/tags/1"},
        {"body": b"others"},
        {"body": b""},
        {"headers": {}},
    ],
)
def test_a_changed_request_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(BadSignature):
        verify(request(**changes), to=bob.key, now=bob.now)


@pytest.mark.parametrize("header", ["signature", "signature-input", "content-digest", "vesica-to"])
def test_a_missing_header_is_refused(header: str) -> None:
    made = request()
    del made.headers[next(name for name in made.headers if name.lower() == header)]
    with pytest.raises(BadSignature):
        verify(made, to=bob.key, now=bob.now)


def test_the_authority_may_change_behind_a_proxy() -> None:
    assert (
        verify(request(url="https://other:1/vesica/1/exchanges/00/tags/1?x=1"), to=bob.key, now=bob.now).key == ann.key
    )


def test_a_request_for_another_node_is_refused() -> None:
    with pytest.raises(BadSignature):
        verify(request(), to=Party().key, now=bob.now)


def test_a_sender_cannot_choose_to_cover_less(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Request(method="PUT", url="https://h/vesica/1/letters", body=b"points")
    monkeypatch.setattr(signatures, "REQUEST", ("@method", "content-digest"))
    sign(made, ann, bob.key)
    monkeypatch.undo()
    with pytest.raises(BadSignature):
        verify(made, to=bob.key, now=bob.now)


def freely(message: Request | Response, signer: Party, to: Party, **choices: Any) -> None:
    """Sign as `sign` does, but for what the signer chooses; every such signature is a right one by RFC 9421."""
    message.headers = {"vesica-to": to.key.hex(), "date": "Fri, 15 Jan 2027 08:00:00 GMT"}
    http = HTTPMessageSigner(signature_algorithm=algorithms.ED25519)
    usual = {
        "key_id": signer.key.hex(),
        "created": datetime.datetime.fromtimestamp(NOW, datetime.UTC),
        "nonce": "0123456789abcdef" * 2,
        "label": "vesica",
        "tag": "vesica/1",
        "covered_component_ids": signatures.REQUEST if isinstance(message, Request) else signatures.RESPONSE,
        "body": message.body,
    }
    prepared = http.prepare(message, **{**usual, **choices})
    http.apply(message, prepared, signer.sign(prepared.signature_base))


FREEDOMS: list[Any] = [
    {"label": "other"},
    {"nonce": "a"},
    {"nonce": "A" * 32},
    {"nonce": None},
    {"include_alg": False},
    {"expires": datetime.datetime.fromtimestamp(NOW + 60, datetime.UTC)},
    {"tag": "vesica/2"},
]


@pytest.mark.parametrize(
    "choices",
    [
        *FREEDOMS,
        {"covered_component_ids": [*signatures.REQUEST, "date"]},
        {"covered_component_ids": [*signatures.REQUEST, "@authority"]},
        {"covered_component_ids": [*reversed(signatures.REQUEST)]},
        {"covered_component_ids": signatures.REQUEST[1:]},
    ],
)
def test_a_request_that_is_signed_in_another_form_is_refused(choices: dict[str, Any]) -> None:
    made = Request(method="PUT", url="https://h/vesica/1/letters?x=1", body=b"points")
    freely(made, ann, bob)
    assert verify(made, to=bob.key, now=bob.now).key == ann.key
    freely(made, ann, bob, **choices)
    with pytest.raises(BadSignature):
        verify(made, to=bob.key, now=bob.now)


@pytest.mark.parametrize(
    "choices",
    [
        *FREEDOMS,
        {"covered_component_ids": [*signatures.RESPONSE, "date"]},
        {"covered_component_ids": [*reversed(signatures.RESPONSE)]},
        {"covered_component_ids": signatures.RESPONSE[1:]},
        {"covered_component_ids": [*signatures.RESPONSE, '"@query";req']},
    ],
)
def test_an_answer_that_is_signed_in_another_form_is_refused(choices: dict[str, Any]) -> None:
    made = Response(status_code=200, body=b"answer", request=request())
    freely(made, bob, ann)
    assert verify(made, to=ann.key, now=ann.now, expected=bob.key).key == bob.key
    freely(made, bob, ann, **choices)
    with pytest.raises(BadSignature):
        verify(made, to=ann.key, now=ann.now, expected=bob.key)


@pytest.mark.parametrize(
    "change",
    [
        lambda headers: headers.update({"Signature-Input": headers["Signature-Input"] + ", other=()"}),
        lambda headers: headers.update({"Signature": headers["Signature"] + f", other=:{'A' * 86}==:"}),
        lambda headers: headers.update({"Signature-Input": headers["Signature-Input"].replace(";", "; ")}),
        lambda headers: headers.update({"Content-Digest": headers["Content-Digest"] + ", sha-512=:AAAA:"}),
        lambda headers: headers.update({"signature": headers["Signature"]}),
    ],
)
def test_a_second_signature_digest_or_header_is_refused(change: Callable[[dict[str, str]], None]) -> None:
    made = request()
    change(made.headers)
    with pytest.raises(BadSignature):
        verify(made, to=bob.key, now=bob.now)


@pytest.mark.parametrize(("late", "accepted"), [(0, True), (-250, True), (850, True), (-350, False), (1000, False)])
def test_time_is_bounded_both_ways(late: int, accepted: bool) -> None:
    made = request()
    if accepted:
        verify(made, to=bob.key, now=lambda: NOW + late)
    else:
        with pytest.raises(BadSignature, match="clocks"):
            verify(made, to=bob.key, now=lambda: NOW + late)


def test_a_request_is_accepted_once() -> None:
    replays = Replays(bob.now)
    verified = verify(request(), to=bob.key, now=bob.now)
    replays.check(verified)
    with pytest.raises(BadSignature):
        replays.check(verified)
    replays.check(verify(request(), to=bob.key, now=bob.now))


def test_what_is_too_old_to_be_valid_is_forgotten() -> None:
    clock = Party()
    replays = Replays(clock.now)
    for _ in range(10):
        replays.check(verify(request(), to=bob.key, now=bob.now))
    clock.time += 10_000
    replays.check(verify(request(), to=bob.key, now=bob.now))
    assert len(replays) == 1


def test_what_was_created_before_a_restart_is_refused_but_for_the_difference_of_clocks() -> None:
    clock, made = Party(), verify(request(), to=bob.key, now=bob.now)
    Replays(clock.now).check(made)
    clock.time += signatures.SKEW_SECONDS
    Replays(clock.now).check(made)
    clock.time += 1
    after = Replays(clock.now)
    with pytest.raises(BadSignature, match="restart"):
        after.check(made)
    clock.time = NOW  # it was ahead when the process began
    after.check(made)


def answer(to: Request) -> Response:
    made = Response(status_code=200, body=b"answer", request=to)
    sign(made, bob, ann.key)
    return made


def test_a_response_is_tied_to_its_request() -> None:
    first, second = request(), request()
    made = answer(first)
    assert verify(made, to=ann.key, now=ann.now, expected=bob.key).key == bob.key
    made.request = second
    with pytest.raises(BadSignature):
        verify(made, to=ann.key, now=ann.now, expected=bob.key)


def test_a_response_of_another_status_body_or_key_is_refused() -> None:
    asked = request()
    for name, value in [("status_code", 404), ("body", b"other")]:
        made = answer(asked)
        setattr(made, name, value)
        with pytest.raises(BadSignature):
            verify(made, to=ann.key, now=ann.now, expected=bob.key)
    with pytest.raises(BadSignature):
        verify(answer(asked), to=ann.key, now=ann.now, expected=Party().key)


@pytest.mark.parametrize(
    "value", ["", "vesica=()", "vesica=1", "(", "vesica=();keyid=1", 'vesica=();keyid="zz"', "\x00"]
)
def test_hostile_headers_are_a_bad_signature_and_nothing_else(value: str) -> None:
    for header in ("signature-input", "signature", "content-digest"):
        made = request()
        made.headers[next(name for name in made.headers if name.lower() == header)] = value
        with pytest.raises(BadSignature):
            verify(made, to=bob.key, now=bob.now)
