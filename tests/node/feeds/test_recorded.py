"""All that two nodes say to each other, from connecting to the second release, read as an adversary would read it.

What is recorded is every request and response as it is signed: the bodies inside TLS, the paths and the headers.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from clock import Clock
from sides import EMAIL, PHONE, Pair, Person, Side

from node.partners.connections import ConnectionStatus
from node.transport import signatures
from protocol import wire
from protocol.errors import RemoteProtocolError

SEGMENTS = {"vip-cardiology": range(5, 25), "gold-lapsed": range(15, 30)}


@dataclass
class Said:
    """One message: who signed it, when in the story, and all its bytes."""

    by: str
    act: str
    what: str  # "PUT /vesica/1/exchanges/*/tags/0", or that with "-> 200"
    body: bytes
    headers: str


@dataclass
class Record:
    names: dict[bytes, str]
    act: str = ""
    said: list[Said] = field(default_factory=list)

    def all(self, *acts: str, by: str = "") -> list[Said]:
        return [each for each in self.said if (not acts or each.act in acts) and by in ("", each.by)]

    def bytes(self, *acts: str) -> bytes:
        return b"\n".join(each.what.encode() + each.headers.encode() + each.body for each in self.all(*acts))


@pytest.fixture
def record(small_universes: None, monkeypatch: pytest.MonkeyPatch) -> Record:
    kept, sign = Record({}), signatures.sign

    def recorded(message: Any, signer: Any, to: bytes) -> None:
        sign(message, signer, to)
        request = message if isinstance(message, signatures.Request) else message.request
        path = request.url.partition("//")[2].partition("/")[2]
        what = f"{request.method} /{re.sub('[0-9a-f]{32}', '*', path)}"
        if message is not request:
            what += f" -> {message.status_code}"
        kept.said.append(
            Said(
                kept.names.get(signer.key, "?"),
                kept.act,
                what,
                message.body,
                path + str(sorted(message.headers.items())),
            )
        )

    monkeypatch.setattr(signatures, "sign", recorded)
    return kept


def tell(pair: Pair, person: type[Person], record: Record, offset: int = 0) -> None:
    """Let the story happen; `offset` moves globe's people away from acme's: at 1,000 nobody is known to both."""
    record.names = {pair.acme.node.key: "acme", pair.globe.node.key: "globe"}
    record.said.clear()
    record.act = "connect"
    acme = [person(f"a{n}", f"person{n}@example.com", f"+44740000{n:04}", "n" if n == 20 else "") for n in range(30)]
    globe = [
        person(f"g{n}", f"person{n}@example.com", f"+44740000{n:04}", "n" if n % 100 == 12 else "")
        for n in range(10 + offset, 40 + offset)
    ]
    pair.prepare(acme, globe, {name: [f"a{n}" for n in numbers] for name, numbers in SEGMENTS.items()})
    feeds = pair.acme.project.feeds
    record.act = "estimate"
    feeds.create("f", segments=list(SEGMENTS), namespaces=[EMAIL, PHONE], partners=["globe"])
    feeds.estimate("f")
    record.act = "publish"
    feeds.publish("f")
    pair.post()
    pair.globe.project.received.enable("f")
    pair.post()
    record.act = "release"
    feeds.sync("f")
    record.act = "second release"
    pair.acme.project.consent.set("a16", "n")
    pair.clock.advance(days=1)
    feeds.sync("f")
    record.act = "revoke"
    feeds.revoke("f")
    pair.post()


def needles(pair: Pair, record: Record) -> Iterator[tuple[str, bytes]]:
    """Every form in which an identity, or a hash of one, could be recognised by somebody who guesses it.

    Of a hash eight bytes are looked for, so that a cut one is found too.
    """
    public = [pair.acme.node.key, pair.globe.node.key, *(hashlib.sha256(key).digest() for key in record.names)]
    connection = pair.acme.project.partners.get("globe")
    public += [bytes.fromhex(connection.id), bytes.fromhex(pair.acme.project.id), bytes.fromhex(pair.globe.project.id)]
    public += [
        connection.agreement_digest,
        b"vesica/1",
        EMAIL.encode(),
        PHONE.encode(),
        b"email_sha256",
        b"phone_sha256",
    ]
    feed = pair.acme.project.feeds.show("f")
    public += [bytes.fromhex(feed["feed"]), bytes.fromhex(feed["hash"]), b"f"]
    public += [first + second for first, second in combinations(public, 2)]
    hashes: list[Callable[[bytes], hashlib._Hash]] = [hashlib.md5, hashlib.sha1, hashlib.sha256, hashlib.sha512]
    for number in (0, 3, 6, 10, 12, 15, 16, 20, 24, 29, 35, 39):
        for raw in (f"person{number}@example.com", f"+44740000{number:04}"):
            yield "raw", raw.removeprefix("+").encode()
            value = hashlib.sha256(raw.encode()).digest()
            for content in (raw.encode(), value, value.hex().encode(), value.hex().upper().encode()):
                derived = [hash_(content).digest() for hash_ in hashes]
                derived += [hmac.digest(key, content, "sha256") for key in public]
                derived += [hashlib.sha256(key + content).digest() for key in public]
                derived += [hashlib.sha512(key + content).digest() for key in public]
                for each in derived:
                    yield "hash", each[:8]
                    yield "hex", each.hex()[:16].encode()
            yield "base64", base64.b64encode(value)[:12]
            yield "base64url", base64.urlsafe_b64encode(value)[:12]


@pytest.mark.feature("ES3", "EX3")
def test_no_identity_nor_any_hash_of_one_is_ever_said_nor_a_segment_before_it_is_offered(
    pair: Pair, person: type[Person], record: Record
) -> None:
    tell(pair, person, record)
    said = record.bytes()
    assert len(said) > 100_000
    eights = {said[start : start + 8] for start in range(len(said) - 7)}  # of all places, found at once
    looked_for = set()
    for kind, needle in needles(pair, record):
        assert needle[:8] not in eights or needle not in said, kind
        looked_for.add(needle)
    assert b"example.com" not in said
    for name in (*SEGMENTS, "cardiology", "lapsed"):
        assert name.encode() not in record.bytes("connect", "estimate")
        assert name.encode() in record.bytes("publish")
        assert name.encode() not in b"".join(each.body for each in record.all(by="globe"))

    # The search finds what it looks for: plain, and under a hash keyed by what both know.
    value = hashlib.sha256(b"person15@example.com").digest()
    connection = bytes.fromhex(pair.acme.project.partners.get("globe").id)
    assert {value[:8], hmac.digest(connection, value, "sha256")[:8]} <= looked_for
    assert hashlib.sha256(value).hexdigest()[:16].encode() in looked_for


def shape(value: Any) -> Any:
    """Return all of a message that is not random: numbers and texts, and the lengths of bytes."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    if isinstance(value, list):
        return [shape(each) for each in value]
    if isinstance(value, bytes):
        try:
            return shape(wire.unpack(value))  # a letter holds a message
        except RemoteProtocolError:
            return ("bytes", len(value))
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{32}", value):
        return "an id"
    return value


def shown(record: Record) -> list[tuple[str, str, Any]]:
    """Return what the sender sees of the receiver from the offer on: every body and its fields, and every path."""
    seen = []
    for each in record.all("publish", "release", "second release", "revoke", by="globe"):
        if each.body:
            try:
                fields = shape(wire.unpack(each.body))
            except RemoteProtocolError:
                fields = len(each.body)
            seen.append((each.act, each.what, repr(fields)))
    return sorted(seen)


@pytest.mark.feature("EX3", "EX5")
def test_the_sender_sees_the_same_whether_people_match_or_not(
    pair_type: type[Pair], tmp_path: Path, clock: Clock, person: type[Person], record: Record
) -> None:
    """20 of 30 people match, or nobody does: what the receiver says has the same fields, numbers, lengths and order."""
    seen, members = [], []
    begun = clock.now
    for offset in (0, 1_000):
        clock.now = begun
        folder = tmp_path / str(offset)
        folder.mkdir()
        pair = pair_type(folder, clock)
        with pair.acme.serving(), pair.globe.serving():
            feeds = pair.acme.project.feeds
            tell(pair, person, record, offset)
            seen.append(shown(record))
            members.append([entry["detail"] for entry in pair.globe.acts("feed.received")])
            document = feeds.show("f")
            told = [pair.acme.acts("feed.run"), document["runs"], document["partners"]]
            assert all("member" not in str(each) and "match" not in str(each) for each in told)
    assert members[0]  # it did run
    assert seen[0] == seen[1]
    kinds = {what for _, what, _ in seen[0]}
    assert {"records", "evaluated", "receipt"} & set(re.findall("[a-z]+", " ".join(kinds)))


@pytest.mark.feature("EX3")
def test_members_are_the_plain_join_and_nobody_else(pair: Pair, person: type[Person], record: Record) -> None:
    """300 and 300 people, by e-mail or phone, in two segments: exactly the plain join, no false positive."""
    acme = [person(f"a{n}", f"person{n}@example.com", f"+44740000{n:04}") for n in range(300)]
    globe = [
        person(f"g{n}", f"person{n}@example.com" if n % 3 else "", f"+44740000{n:04}" if n % 2 else "")
        for n in range(150, 450)
    ]
    segments = {"even": range(0, 300, 2), "late": range(200, 300)}
    pair.prepare(acme, globe, {name: [f"a{n}" for n in numbers] for name, numbers in segments.items()})
    pair.share("f", list(segments))
    pair.acme.project.feeds.sync("f")
    for name, numbers in segments.items():
        expected = {f"g{n}" for n in numbers if n >= 150 and (n % 3 or n % 2)}
        assert pair.globe.members("acme", name) == expected


# Points and tags


def points_of(record: Record, acts: Sequence[str], fields: Sequence[str] = ("points",), width: int = 32) -> set[bytes]:
    """Return every point, or tag of a record, that was said in some acts."""
    found: set[bytes] = set()
    for each in record.all(*acts):
        try:
            document = wire.unpack(each.body) if each.body else {}
        except RemoteProtocolError:
            continue
        for name in fields:
            content = document.get(name)
            if isinstance(content, bytes):
                found |= {content[start : start + width] for start in range(0, len(content), width)}
    return found


@pytest.mark.feature("EX7")
def test_connections_directions_namespaces_and_epochs_share_no_point_and_feeds_no_tag(
    pair: Pair, person: type[Person], record: Record, clock: Clock
) -> None:
    people = [person(f"p{n}", f"person{n}@example.com", f"+44740000{n:04}") for n in range(20)]
    pair.prepare(people, people, {"all": [f"p{n}" for n in range(20)]}, epoch_days=2, evaluations="10")
    record.names = {pair.acme.node.key: "acme", pair.globe.node.key: "globe"}

    def run(side: Side, other: Side, feed: str, namespace: str) -> None:
        record.act = f"{feed} {namespace}"
        project = side.project
        (row,) = project.partners.rows(ConnectionStatus.ACTIVE)
        project.feeds.create(feed, segments=["all"], namespaces=[namespace], partners=[row.alias])
        project.feeds.estimate(feed)
        project.feeds.publish(feed)
        pair.post()
        other.project.received.enable(feed)
        pair.post()
        assert [each["status"] for each in project.feeds.sync(feed)] == ["done"]

    run(pair.acme, pair.globe, "first", EMAIL)
    run(pair.acme, pair.globe, "second", EMAIL)
    run(pair.acme, pair.globe, "phones", PHONE)
    pair.globe.segment("all", [f"p{n}" for n in range(20)])
    run(pair.globe, pair.acme, "back", EMAIL)
    clock.advance(days=2)
    record.act = "next epoch"
    pair.acme.project.feeds.estimate("first")
    pair.acme.project.feeds.sync("first")
    pair.acme.project.partners.disconnect("globe")
    pair.post()
    text = pair.acme.project.partners.connect_id(regenerate=True).encode()
    pair.globe.project.partners.request(pair.globe.project.partners.look_up(text), alias="again")
    (row,) = pair.acme.project.partners.rows(ConnectionStatus.REQUESTED)
    pair.acme.project.partners.accept(row.alias)
    pair.post()
    clock.advance(days=2)
    run(pair.acme, pair.globe, "reconnected", EMAIL)

    acts = [f"first {EMAIL}", f"phones {PHONE}", f"back {EMAIL}", "next epoch", f"reconnected {EMAIL}"]
    said = [points_of(record, [act]) for act in acts]
    assert [len(each) >= 128 for each in said] == [True] * len(acts)  # a universe, and what was evaluated
    for first, second in combinations(said, 2):
        assert not first & second
    tags = [
        {row[:16] for row in points_of(record, [act], ("records",), 17)}
        for act in (f"first {EMAIL}", f"second {EMAIL}", "next epoch")
    ]
    assert [len(each) for each in tags] == [20, 20, 20]
    for first, second in combinations(tags, 2):
        assert not first & second


@pytest.mark.feature("EX7")
def test_two_ad_hoc_sessions_share_no_key() -> None:
    """The parties draw keys and secrets for one session: the same person is another point in the next one."""
    from node.adhoc.session import EPSILON, Between, Party
    from protocol.agreement import Agreement, Terms
    from protocol.states import Kind
    from psi import oprf
    from psi.keys import Purpose
    from psi.values import Values

    identity, points = Values.of([hashlib.sha256(b"person").digest()]), set()
    for _ in range(2):
        dialler, listener = Party(), Party()
        agreement = Agreement(
            connection=dialler.random(16),
            requester=bytes(32),
            accepter=bytes(32),
            terms=Terms(epsilon=EPSILON),
            namespaces=(EMAIL,),
            made=0,
        )
        between = Between(agreement, listener.fingerprint, dialler.fingerprint, dialler.random(32))
        for kind in (Kind.COUNT, Kind.RELEASE):
            for purpose in Purpose:
                key = between.key(kind, EMAIL, purpose)
                points.add(oprf.blind(between.context(kind, EMAIL), identity, key).tobytes())
    assert len(points) == 16
