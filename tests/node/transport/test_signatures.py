"""Signed messages: what is changed, replayed, stale, or meant for another is refused."""

import dataclasses
import os

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from node.transport import signatures
from node.transport.signatures import BadSignature, Replays, Request, Response, sign, verify

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
