"""Every decoder takes whatever bytes come, and returns a message or says, in one type, what is wrong with them."""

import sys
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from fractions import Fraction
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from parties import World

from protocol import agreement, exchange, feed, handshake, heads, keychange, letters, messages, receipt, wire
from protocol.errors import LocalProtocolError, Malformed, RemoteProtocolError
from protocol.states import Kind, Part
from protocol.wire import Message

B16, B32, B64 = bytes(range(16)), bytes(range(32)), bytes(range(64))
NAMESPACE = "email_sha256/lc-v1"
OFFER = agreement.Offer(
    organisation="Müller & Söhne",
    project_name="default",
    key=B32,
    project=B16,
    address="[::1]:7443",
    proxy=True,
    terms=agreement.Terms(epsilon=None, minimum_overlap=5),
    namespaces=(NAMESPACE, "idfa/uuid-v1"),
    nonce=B32,
)
AGREEMENT = agreement.Agreement.merge(OFFER, OFFER, connection=B16, made=1_800_000_000)
HELLO = handshake.Hello(key=B32, project=B16, nonce=B32, proof=B32)
DEFINITION = feed.Definition(
    feed=B16,
    version=1,
    name="vip",
    description="",
    segments=(feed.SegmentRef(id=B16, name="gold", labels=("C3",)),),
    namespaces=(NAMESPACE,),
    restricted_uses=("data-science",),
    created=1,
)
TALLY = receipt.Tally(namespace=NAMESPACE, records=3, sha256=B32, evaluated=5, public=B32)
MANIFEST = messages.Manifest(
    feed=B16,
    version=1,
    definition=B32,
    revision=2,
    full=False,
    width=1,
    tallies=(TALLY,),
    previous=B32,
    made=3,
)
RECEIPT = MANIFEST.receipt(B16)
PURGE = receipt.PurgeStatement(connection=B16, feed=B16, version=0, revision=2, segments=(), namespaces=(), made=3)
COMMITMENT = messages.Commitment(context=B32, epoch=1, generation=1, count=4096, chunks=(B64,), made=2)
STATEMENT = messages.KeyStatement(context=B32, epoch=1, public=B32, proof=B64)
OK = messages.SegmentAnswer(status="ok", overlap=5, consented=4, half_width=1, consented_half_width=1)
FEW = messages.SegmentAnswer(status="below_minimum")
NOTICE = letters.FeedNotice(feed=B16, version=1, reason="not now")
SIGNED = receipt.SignedReceipt(receipt=RECEIPT, receiver_signature=B64, sender_signature=B64)
HEAD = heads.AuditHead(connection=B16, number=7, row=B32, made=4)
SIGNED_HEAD = heads.SignedHead(head=HEAD, signature=B64)
HELD = heads.KeptHeads(connection=B16, heads=(SIGNED_HEAD,), made=4)

CHANGE = keychange.KeyChange(old=B32, new=b"n" * 32, made=4)
SIGNED_CHANGE = keychange.SignedKeyChange(change=CHANGE, old_signature=B64, new_signature=B64)

SAMPLES: list[Message] = [
    OFFER.terms,
    OFFER,
    AGREEMENT,
    HELLO,
    handshake.Reply(offer=OFFER, proof=B32),
    handshake.Request(hello=HELLO, offer=OFFER, agreement=AGREEMENT, signature=B64, proof=B32),
    handshake.Accept(agreement=B32, signature=B64),
    handshake.Decline(agreement=B32, reason=""),
    agreement.Proposal(base=B32, offer=OFFER, made=1_800_000_000),
    agreement.Acceptance(proposal=OFFER.nonce, offer=OFFER, agreement=B32, signature=B64),
    agreement.Refusal(proposal=B32, reason="not now"),
    agreement.Held(
        agreement=AGREEMENT, requester=OFFER, accepter=OFFER, requester_signature=B64, accepter_signature=B64
    ),
    DEFINITION,
    RECEIPT,
    SIGNED,
    PURGE,
    COMMITMENT,
    messages.SignedCommitment(commitment=COMMITMENT, signature=B64),
    messages.UniversePoints(points=B32 * 2),
    messages.Tags(public=B32, tags=B16 * 3),
    messages.Questions(segments=8, points=B32, flags=b"\1\0"),
    messages.Answer(segments=(OK, FEW), computed_at=4),
    STATEMENT,
    messages.SignedKey(statement=STATEMENT, signature=B64),
    messages.Blinded(points=B32),
    messages.Evaluated(points=B32, proof=B64),
    MANIFEST,
    messages.Records(namespace=NAMESPACE, records=bytes(17)),
    messages.ReceiverReceipt(receipt=RECEIPT, signature=B64),
    messages.Countersigned(signature=B64),
    exchange.Opening(
        exchange=B16,
        kind=Kind.RELEASE,
        part=Part.SENDER,
        connection=B16,
        agreement=B32,
        epoch=1,
        subject={"feed": B16, "version": 1, "revision": 2},
        nonce=B32,
    ),
    exchange.Opened(exchange=B16, epoch=1, nonce=B32),
    exchange.Header(session=B32, step="universe", chunk=0, of=2),
    letters.Letter.of("feed.decline", NOTICE, connection=B16, number=1),
    letters.Disconnect(reason="bye"),
    letters.FeedVersion(definition=DEFINITION),
    letters.FeedAccept(feed=B16, version=1, definition=B32, universes={NAMESPACE: 7}),
    NOTICE,
    letters.Purged(statement=PURGE, signature=B64),
    letters.Wanted(kind=Kind.COUNT, subject={"namespace": NAMESPACE}),
    letters.Restored(received=7, made=4),
    letters.FeedReport(definition=DEFINITION, receipt=SIGNED),
    letters.Preflight(set=1, results={NAMESPACE: (B32, b"")}),
    HEAD,
    SIGNED_HEAD,
    HELD,
    heads.SignedHeads(held=HELD, signature=B64),
    CHANGE,
    SIGNED_CHANGE,
    keychange.KeyChanges(changes=(SIGNED_CHANGE,)),
    letters.NodeDetails(organisation="Fern", address="fern.example:8470", proxy=False),
]

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=70),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.integers(-9, 9), inner, max_size=4)
    ),
    max_leaves=12,
)


def all_messages() -> Iterator[type[Message]]:
    """Every message class that has a type; dataclasses with slots leave a twin of each class behind."""
    for each in wire.Message.__subclasses__():
        if each.TYPE and getattr(sys.modules[each.__module__], each.__name__) is each:
            yield each


def refusal(decode: Callable[[bytes], object], data: bytes) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        decode(data)
    assert caught.value.hint
    return caught.value.code


def either(decode: Callable[[bytes], Message], data: bytes) -> None:
    """Decode hostile bytes: the one error, or a message whose encoding is those very bytes."""
    try:
        message = decode(data)
    except RemoteProtocolError:
        return
    assert message.encode() == data


def test_there_is_a_sample_and_a_unique_type_of_every_message() -> None:
    assert {type(sample) for sample in SAMPLES} == set(all_messages())
    types = [sample.TYPE for sample in SAMPLES]
    assert len(set(types)) == len(types)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.TYPE)
class TestEveryMessage:
    def test_survives_the_wire(self, sample: Message) -> None:
        assert type(sample).decode(sample.encode()) == sample
        assert sample.digest() == type(sample).decode(sample.encode()).digest()

    def test_cut_or_with_trailing_bytes_is_refused(self, sample: Message) -> None:
        data = sample.encode()
        for end in range(len(data)):
            assert refusal(sample.decode, data[:end]) == "malformed"
        assert refusal(sample.decode, data + b"\0") == "malformed"
        assert refusal(sample.decode, data + data) == "malformed"

    def test_of_another_version_or_type_is_refused(self, sample: Message) -> None:
        document = wire.unpack(sample.encode())
        for version in (0, 2, "1", None, True, [1]):
            assert refusal(sample.decode, wire.pack({**document, "v": version})) == "version"
        for kind in ("nonsense", 1, None, b"offer", "x" * 1000):
            assert refusal(sample.decode, wire.pack({**document, "type": kind})) == "type"

    def test_with_a_field_too_few_or_too_many_is_refused(self, sample: Message) -> None:
        document = wire.unpack(sample.encode())
        for name in document.keys() - {"v", "type"}:
            fewer = {key: value for key, value in document.items() if key != name}
            assert refusal(sample.decode, wire.pack(fewer)) == "malformed"
        assert refusal(sample.decode, wire.pack({**document, "more": 1})) == "malformed"

    def test_too_large_is_refused_before_it_is_parsed(self, sample: Message) -> None:
        assert refusal(sample.decode, bytes(wire.MAX_BODY + 1)) == "too_large"

    def test_with_any_field_replaced_gives_the_one_error(self, sample: Message) -> None:
        document = wire.unpack(sample.encode())
        values: tuple[object, ...] = (None, True, -1, 0, 2**64 - 1, "", "\0", "x" * 70_000, b"", bytes(70_000))
        for name in document:
            for value in (*values, [], {}, [[]], {"": {}}):
                either(sample.decode, wire.pack({**document, name: value}))

    def test_is_signed_whole(self, sample: Message, world: World) -> None:
        signature = sample.sign(world.right.sign)
        sample.verify(signature, world.right.key)
        for wrong in ((bytes(64), world.right.key), (signature, world.left.key), (signature, bytes(32)), (b"", b"")):
            with pytest.raises(RemoteProtocolError) as caught:
                sample.verify(*wrong)
            assert caught.value.code == "signature"


def test_two_types_never_share_a_signature(world: World) -> None:
    accept, decline = letters.Disconnect(reason=""), handshake.Decline(agreement=B32, reason="")
    with pytest.raises(RemoteProtocolError):
        decline.verify(accept.sign(world.right.sign), world.right.key)


@given(st.sampled_from(SAMPLES), st.binary(max_size=200))
def test_any_bytes_give_the_one_error(sample: Message, data: bytes) -> None:
    either(sample.decode, data)


@given(st.sampled_from(SAMPLES), VALUES)
def test_any_msgpack_gives_the_one_error(sample: Message, value: object) -> None:
    either(sample.decode, msgpack.packb(value))


@given(st.sampled_from(SAMPLES), st.data())
def test_one_damaged_place_gives_the_one_error(sample: Message, data: st.DataObject) -> None:
    encoded = bytearray(sample.encode())
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    either(sample.decode, bytes(encoded))


@given(st.sampled_from(SAMPLES), st.data())
def test_any_value_in_any_field_gives_the_one_error(sample: Message, data: st.DataObject) -> None:
    document = wire.unpack(sample.encode())
    document[data.draw(st.sampled_from(sorted(document)))] = data.draw(VALUES)
    either(sample.decode, msgpack.packb(dict(sorted(document.items()))))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x82\xa1a\x01\xa1a\x01", id="repeated key"),
        pytest.param(b"\x82\xa1b\x01\xa1a\x01", id="unsorted keys"),
        pytest.param(b"\x81\xa1a\xcc\x01", id="long form of a number"),
        pytest.param(b"\x81\xa1a\xca\0\0\0\0", id="float"),
        pytest.param(b"\x81\xa1a\xd4\x01\x00", id="extension"),
        pytest.param(b"\x81\xa1a\xd6\xff\0\0\0\0", id="timestamp"),
        pytest.param(b"\x81\xa1a\xa1\xff", id="text that is not UTF-8"),
        pytest.param(b"\x81\x01\x01", id="key that is no text"),
        pytest.param(b"\x81\xa1a" + b"\x91" * 100 + b"\x90", id="deep"),
        pytest.param(b"\x81\xa1a" + b"\x91" * 100_000 + b"\x90", id="very deep"),
        pytest.param(b"\xdf\xff\xff\xff\xff", id="a map that claims to be huge"),
        pytest.param(b"\x81\xa1a\xdd\xff\xff\xff\xff", id="a list that claims to be huge"),
        pytest.param(b"\x81\xa1a\xc6\xff\xff\xff\xff", id="bytes that claim to be huge"),
        pytest.param(b"\xc0", id="no map"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_what_is_not_canonical_is_refused(data: bytes) -> None:
    assert refusal(wire.unpack, data) == "malformed"


@pytest.mark.parametrize(
    ("sample", "changes"),
    [
        (DEFINITION, {"segments": DEFINITION.segments * 2}),
        (DEFINITION, {"namespaces": (NAMESPACE, NAMESPACE)}),
        (DEFINITION, {"namespaces": ("Email/lc",)}),
        (DEFINITION, {"restricted_uses": ("world-domination",)}),
        (OFFER, {"namespaces": (NAMESPACE, NAMESPACE)}),
        (OFFER, {"address": "no port"}),
        (OFFER.terms, {"epsilon": Fraction(0)}),
        (COMMITMENT, {"count": 30_721}),
        (OK, {"overlap": None}),
        (FEW, {"overlap": 0}),
        (PURGE, {"made": 2**63}),
        (PURGE, {"made": -1}),
        (RECEIPT, {"tallies": ()}),
        (NOTICE, {"reason": "x" * 4097}),
        (NOTICE, {"reason": "é" * 2049}),
        (NOTICE, {"reason": "\ud800"}),
    ],
)
def test_what_the_partner_would_refuse_is_never_sent(sample: Message, changes: dict[str, Any]) -> None:
    assert is_dataclass(sample)
    with pytest.raises(LocalProtocolError):
        replace(sample, **changes).document()


def test_a_subject_fits_its_kind() -> None:
    opening = next(sample for sample in SAMPLES if isinstance(sample, exchange.Opening))
    for changes in ({"kind": Kind.COUNT}, {"part": Part.ASKER}, {"subject": {"namespace": NAMESPACE}}):
        with pytest.raises(LocalProtocolError):
            replace(opening, **changes).encode()
    assert exchange.Opening.decode(opening.encode()).subject == opening.subject


def test_a_letter_holds_a_message_of_its_kind() -> None:
    letter = letters.Letter.of("feed.decline", NOTICE, connection=B16, number=1)
    assert letters.Letter.decode(letter.encode()).open() == NOTICE
    assert (
        refusal(lambda data: letters.Letter.decode(data).open(), replace(letter, kind="feed.purged").encode()) == "type"
    )
    document = wire.unpack(letter.encode())
    assert refusal(letters.Letter.decode, wire.pack({**document, "kind": "feed.nonsense"})) == "malformed"


@pytest.mark.feature("FD8")
def test_a_definition_has_one_digest_and_every_field_counts() -> None:
    assert feed.Definition.decode(DEFINITION.encode()).digest() == DEFINITION.digest()
    changes: dict[str, Any] = {
        "version": 2,
        "name": "other",
        "description": "x",
        "segments": (),
        "namespaces": ("idfa/uuid-v1",),
        "restricted_uses": (),
        "membership_days": 7,
        "valid_until": 2,
        "created": 2,
        "feed": B16[::-1],
    }
    assert changes.keys() == {field.name for field in fields(DEFINITION)}
    digests = {replace(DEFINITION, **{name: value}).digest() for name, value in changes.items()}
    assert len(digests | {DEFINITION.digest()}) == len(changes) + 1


@pytest.mark.feature("FD2")
def test_there_are_ten_marketing_uses() -> None:
    assert set(feed.MARKETING_USES) == {
        "analytics",
        "combine-with-pii",
        "cross-site-targeting",
        "data-science",
        "email-targeting",
        "export-to-third-party",
        "onsite-advertising",
        "onsite-personalisation",
        "segment-match",
        "single-identity-personalisation",
    }


def test_errors_never_repeat_what_the_partner_sent() -> None:
    document = wire.unpack(NOTICE.encode())
    for name in document:
        for value in ("ann@example.com", {"ann@example.com": 1}, ["ann@example.com"]):
            with pytest.raises(RemoteProtocolError) as caught:
                letters.FeedNotice.decode(wire.pack({**document, name: value, "ann@example.com": 1}))
            assert "ann" not in str(caught.value)


@pytest.mark.parametrize("moment", [2**62, 253_402_300_800, -1])
def test_a_moment_is_one_that_can_be_written(moment: int) -> None:
    whole = wire.unpack(DEFINITION.encode())
    assert feed.Definition.decode(wire.pack({**whole, "valid_until": 253_402_300_799})).valid_until == 253_402_300_799
    with pytest.raises(RemoteProtocolError, match="valid_until"):
        feed.Definition.decode(wire.pack({**whole, "valid_until": moment}))


@pytest.mark.parametrize(
    "data",
    [
        msgpack.packb({"a": [[]] * 900_000}),
        msgpack.packb({"a": [{}] * 900_000}),
        msgpack.packb({"a": [{"k": 1}] * 300_000}),
        msgpack.packb({"a": [[0] * 15] * 60_000}),
        msgpack.packb({str(number): number for number in range(80_000)}),
        msgpack.packb({"a": [""] * 900_000}),
        b"\x91" * 900_000,
        b"\x81\xa1a" * 300_000,
        b"\x81\xa1a\xdd\xff\xff\xff\xff" + b"\xc0" * 900_000,
        b"\xdf\x7f\xff\xff\xff" + b"\xa0\x90" * 400_000,
        b"\x81\xa1a\x92\xd6\xff\xc6\x7f\xff\xff\xdd\x00\x0e\x00\x00"
        + b"\x80" * 917_504,  # a time that reads as a long bin
    ],
)
def test_what_a_message_holds_is_counted_before_it_is_decoded(data: bytes) -> None:
    """Decoded, each of them would take 30 to 140 times its size."""
    wire.pack({})
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError):
            wire.unpack(data)
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024
    finally:
        tracemalloc.stop()


def test_the_largest_message_of_many_values_passes() -> None:
    labels = tuple(f"l{number}" for number in range(128))
    segments = tuple(
        feed.SegmentRef(id=number.to_bytes(16), name=f"s{number}", labels=labels) for number in range(feed.MAX_SEGMENTS)
    )
    largest = replace(DEFINITION, segments=segments)
    assert feed.Definition.decode(largest.encode()) == largest
    points = messages.Blinded(points=bytes(wire.MAX_PAYLOAD))
    assert messages.Blinded.decode(points.encode()) == points


def test_a_request_to_connect_fits_into_what_a_stranger_may_send() -> None:
    namespaces = tuple(f"{'n' * 60}{number:02}/{'r' * 64}" for number in range(32))
    offer = replace(
        OFFER, organisation="o" * 255, project_name="p" * 255, address=f"{'h' * 249}:7443", namespaces=namespaces
    )
    made = agreement.Agreement.merge(offer, offer, connection=B16, made=1_800_000_000)
    request = handshake.Request(hello=HELLO, offer=offer, agreement=made, signature=B64, proof=B32)
    assert len(request.encode()) <= wire.MAX_BODY_OF_STRANGERS


def test_text_that_not_every_store_takes_is_refused() -> None:
    with pytest.raises(Malformed, match="the character 0"):
        handshake.Decline.decode(wire.pack({"v": 1, "type": "decline", "agreement": B32, "reason": "a\0b"}))
