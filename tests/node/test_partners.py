"""Two nodes from a Connect ID to an end, over real TLS, and what a third one that is not the partner can do."""

import base64
import hashlib
import io
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cli.main import main
from node.errors import AlreadyExists, InvalidInput, NotFound, PeerRefused, PeerUnreachable, Refused, WrongPeerKey
from node.exchanges import http
from node.imports.importer import IdentityColumn
from node.partners import letters as letters_module
from node.transport import client as client_module
from node.transport import tls
from node.transport.client import PeerClient
from node.transport.endpoint import bind
from protocol import wire
from protocol.agreement import Agreement, Offer
from protocol.connectid import ConnectId
from protocol.errors import InvalidConnectId, RemoteProtocolError
from protocol.letters import Disconnect, FeedVersion, Letter
from psi.errors import VesicaError

EMAIL = "email_sha256/lc-v1"
TERMS = {"minimum_universe": 1, "minimum_segment": 1, "minimum_overlap": 1, "epsilon": "none"}


def people(person: Any, side: str, first: int, last: int) -> list[Any]:
    return [person(f"{side}{number}", f"person{number}@example.com") for number in range(first, last)]


def prepared(pair: Any, person: Any, **terms: Any) -> None:
    """Connect, with a segment of four people on each side, two of whom the other knows."""
    vip = [f"a{n}" for n in range(2, 6)]
    pair.prepare(people(person, "a", 0, 6), people(person, "g", 4, 10), {"vip": vip}, **terms)
    pair.globe.segment("loyal", [f"g{n}" for n in range(4, 8)])


def share(sender: Any, receiver: Any, feed: str, segment: str) -> None:
    sender.project.feeds.create(feed, segments=[segment], namespaces=[EMAIL], partners=[receiver.name])
    sender.project.feeds.publish(feed)
    receiver.post()
    receiver.project.received.enable(feed)
    sender.post()
    assert [run["status"] for run in sender.project.feeds.sync(feed)] == ["done"]


def status(side: Any) -> dict[str, str]:
    return {row["alias"]: row["status"] for row in side.project.partners.list()}


def kinds(side: Any) -> list[str]:
    return [alert.kind for alert in side.project.alerts.list()]


def request(requester: Any, accepter: Any, alias: str | None = None) -> str:
    partners = requester.project.partners
    return str(partners.request(partners.look_up(accepter.project.partners.connect_id().encode()), alias=alias))


@pytest.fixture
def ready(pair: Any, person: Any) -> Any:
    """Two nodes with people and small terms, not connected."""
    pair.terms(**TERMS)
    for side, first in ((pair.acme, 0), (pair.globe, 4)):
        side.project.consent.set_model("opt-out")
        side.people(people(person, side.name[0], first, first + 6))
    return pair


@pytest.fixture
def third(tmp_path: Path, pair: Any) -> Iterator[Any]:
    """A third node, "hooli", with the terms of the others."""
    side = type(pair.acme)(tmp_path, "hooli", now=pair.clock)
    side.project.set_terms(**TERMS)
    with side.serving():
        yield side


# Connect IDs


@pytest.mark.feature("CN1")
def test_each_project_has_its_own_id_and_a_regenerated_one_replaces_it(ready: Any) -> None:
    acme, globe = ready.acme, ready.globe
    other = acme.node.create_project("other").partners.connect_id()
    old = acme.project.partners.connect_id()
    assert old.encode() == acme.project.partners.connect_id().encode()
    assert old.encode() != other.encode()
    assert old.project != other.project
    ready.connect()
    new = acme.project.partners.connect_id(regenerate=True)
    with pytest.raises(PeerRefused) as refused:
        globe.project.partners.look_up(old.encode())
    assert refused.value.code == "connect_id_proof"
    assert globe.project.partners.look_up(new.encode()).theirs.project_name == "default"
    assert globe.project.partners.look_up(other.encode()).theirs.project_name == "other"
    assert status(acme) == {"globe": "active"}
    assert status(globe) == {"acme": "active"}


@pytest.mark.feature("CN1")
@pytest.mark.parametrize("index", [0, 7, 40, -1])
def test_one_wrong_character_is_caught_before_any_network_use(
    pair: Any, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = list(pair.acme.project.partners.connect_id().encode())
    text[index] = "b" if text[index] != "b" else "c"

    def no_network(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(client_module, "PeerClient", no_network)
    with pytest.raises(InvalidConnectId):
        pair.globe.project.partners.look_up("".join(text))


@pytest.mark.feature("CN1")
def test_an_id_that_expired_or_is_ones_own_is_refused(pair: Any) -> None:
    text = pair.acme.project.partners.connect_id().encode()
    with pytest.raises(InvalidInput):
        pair.acme.project.partners.look_up(text)
    pair.clock.advance(days=30)
    with pytest.raises(InvalidConnectId, match="expired"):
        pair.globe.project.partners.look_up(text)
    fresh = pair.acme.project.partners.connect_id().encode()
    assert fresh != text
    assert ConnectId.parse(fresh).expires == pair.clock() + 30 * 86_400


# Asking, accepting, declining


class Typed(io.StringIO):
    """What a person types at a terminal."""

    def isatty(self) -> bool:
        return True


class Commands:
    """Tests that run commands on nodes whose clock is this machine's, as the commands' own is."""

    @pytest.fixture
    def clock(self) -> Callable[[], int]:
        return lambda: int(time.time())


class TestAsking(Commands):
    @pytest.mark.feature("CN2")
    def test_a_request_shows_who_and_which_terms_and_asks_first(
        self, ready: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        acme, globe = ready.acme, ready.globe
        acme.project.set_terms(minimum_segment=7)
        text = acme.project.partners.connect_id().encode()
        command = ["--home", str(globe.node.home), "partner", "request", text, "--as", "shop"]

        monkeypatch.setattr("sys.stdin", Typed("n\n"))
        assert main(command) == 1
        shown = capsys.readouterr()
        lines = dict(line.split(None, 1) for line in shown.out.splitlines() if " " in line)
        assert lines["organisation"].strip() == "Acme"
        assert lines["project"].strip() == "default"
        assert "minimum segment" in shown.out
        assert lines["minimum"]
        assert any(line.startswith("minimum segment") and line.endswith(" 7") for line in shown.out.splitlines())
        assert "Ask Acme" in shown.err
        assert (status(globe), status(acme), kinds(acme)) == ({}, {}, [])

        monkeypatch.setattr("sys.stdin", Typed("y\n"))
        assert main(command) == 0
        assert status(globe) == {"shop": "pending"}
        assert status(acme) == {"globe": "requested"}
        (alert,) = acme.project.alerts.list()
        assert alert.kind == "connection_request"
        assert "Globe" in alert.text
        assert "partner accept globe" in alert.text


@pytest.mark.feature("CN2")
def test_a_request_under_terms_that_changed_meanwhile_is_refused(ready: Any) -> None:
    found = ready.globe.project.partners.look_up(ready.acme.project.partners.connect_id().encode())
    ready.acme.project.set_terms(minimum_overlap=500)
    with pytest.raises(PeerRefused) as refused:
        ready.globe.project.partners.request(found)
    assert refused.value.code == "agreement"
    assert status(ready.acme) == {}
    assert request(ready.globe, ready.acme) == "acme"  # the failed one gives way
    assert [alert.kind for alert in ready.acme.project.alerts.list(open_only=True)] == ["connection_request"]
    ready.acme.project.partners.accept("globe")
    assert ready.acme.project.alerts.list(open_only=True) == []
    ready.post()
    assert status(ready.globe)["acme"] == "active"
    assert ready.globe.project.partners.list()[0]["terms"]["minimum_overlap"] == 500


@pytest.mark.feature("CN3")
def test_after_acceptance_both_are_active_and_either_may_share(pair: Any, person: Any) -> None:
    prepared(pair, person)
    assert status(pair.acme) == {"globe": "active"}
    assert status(pair.globe) == {"acme": "active"}
    assert "connection_accepted" in kinds(pair.globe)
    share(pair.acme, pair.globe, "summer", "vip")
    share(pair.globe, pair.acme, "winter", "loyal")
    assert pair.globe.members("acme", "vip") == {"g4", "g5"}
    assert pair.acme.members("globe", "loyal") == {"a4", "a5"}


def test_both_keep_the_evidence_of_what_was_agreed(pair: Any, person: Any) -> None:
    prepared(pair, person)
    rows = [side.project.partners.rows("active")[0] for side in (pair.acme, pair.globe)]
    for side, row, other in zip((pair.acme, pair.globe), rows, reversed(rows), strict=True):
        agreement, offer = Agreement.decode(row.agreement), Offer.decode(row.their_offer)
        assert row.agreement == other.agreement
        assert row.agreement_digest == agreement.digest()
        assert offer.key == row.peer_key
        assert offer.digest() == (agreement.requester if side is pair.acme else agreement.accepter)
        agreement.verify(row.our_signature, side.node.key)
        agreement.verify(row.their_signature, row.peer_key)


@pytest.mark.feature("CN3")
def test_a_decline_is_seen_by_both_and_no_feed_can_target_it(ready: Any) -> None:
    acme, globe = ready.acme, ready.globe
    request(globe, acme, "acme")
    for side, partner, ids in ((acme, "globe", ["a1"]), (globe, "acme", ["g5"])):
        side.segment("few", ids)
        with pytest.raises(Refused):  # neither before an answer
            side.project.feeds.create("early", segments=["few"], namespaces=[EMAIL], partners=[partner])
    acme.project.partners.decline("globe", "not this year")
    ready.post()
    assert status(acme) == {"globe": "declined"}
    assert status(globe) == {"acme": "declined"}
    assert globe.project.partners.list()[0]["reason"] == "not this year"
    assert "connection_declined" in kinds(globe)
    for side, partner in ((acme, "globe"), (globe, "acme")):
        with pytest.raises(Refused, match="declined"):
            side.project.feeds.create("late", segments=["few"], namespaces=[EMAIL], partners=[partner])
    with pytest.raises(Refused):
        acme.project.partners.accept("globe")


@pytest.mark.feature("CN3")
def test_nothing_can_be_offered_before_acceptance_or_after_the_end(ready: Any) -> None:
    acme, globe = ready.acme, ready.globe
    request(globe, acme, "acme")
    row = globe.project.partners.get("acme")
    globe.segment("few", ["g5"])
    with globe.node.store.begin() as tx:
        globe.project.partners.change(tx, row, status="active")  # it does not wait for the answer
    globe.project.feeds.create("pushed", segments=["few"], namespaces=[EMAIL], partners=["acme"])
    globe.project.feeds.publish("pushed")
    assert acme.project.received.list() == []
    (denied,) = acme.acts("letter.feed.publish", "deny")
    assert denied["detail"]["error"]["code"] == "out_of_order"
    acme.project.partners.accept("globe")
    acme.project.partners.disconnect("globe")
    definition = globe.project.feeds.definition(globe.project.feeds.get("pushed"))
    with globe.node.store.begin() as tx:
        globe.project.letters.send(tx, row.id, "feed.publish", FeedVersion(definition=definition))
    globe.project.letters.deliver(row)
    assert acme.project.received.list() == []


class TestRules(Commands):
    @pytest.mark.feature("ID7")
    def test_different_email_rules_are_told_to_both_before_any_matching(
        self, ready: Any, capsys: pytest.CaptureFixture
    ) -> None:
        acme, globe = ready.acme, ready.globe
        file = globe.folder / "other.csv"
        file.write_text("id,email\ng90,Per.Son+x@gmail.com\n")
        rule = [IdentityColumn.parse("email=email_sha256/google-v3:raw")]
        globe.project.profiles.import_(file, dataset="other", id_column="id", identities=rule)
        text = acme.project.partners.connect_id().encode()
        found = globe.project.partners.look_up(text)
        assert found.mismatches == []  # one rule is the same, and that is enough
        fresh = globe.node.create_project("fresh")
        fresh.set_terms(**TERMS)
        fresh.profiles.import_(file, dataset="other", id_column="id", identities=rule)
        (mismatch,) = fresh.partners.look_up(text).as_dict()["mismatches"]
        assert mismatch == {"namespace": "email_sha256", "ours": ["google-v3"], "theirs": ["lc-v1"]}
        command = ["--home", str(globe.node.home), "--project", "fresh", "partner", "request", text, "--yes"]
        assert main(command) == 1
        shown = capsys.readouterr()
        assert "email_sha256: we normalise by google-v3, they by lc-v1" in shown.out
        assert EMAIL in shown.err
        assert fresh.partners.list() == []

        phones = globe.folder / "phones.csv"
        phones.write_text("id,phone\ng91,+447400000001\n")
        for project, name in ((fresh, "g91"), (acme.project, "a91")):
            phones.write_text(f"id,phone\n{name},+447400000001\n")
            phone = [IdentityColumn.parse("phone=phone_sha256:raw")]
            project.profiles.import_(phones, dataset="phones", id_column="id", identities=phone)
        assert main(command) == 0
        assert "email_sha256: we normalise by google-v3" in capsys.readouterr().out
        (row,) = fresh.partners.list()
        assert row["namespaces"] == ["phone_sha256/e164-v1"]
        (alert,) = acme.project.alerts.list()
        assert "email_sha256 will not match: lc-v1 here, google-v3 there" in alert.text


# What is said on the way


class Recorder:
    """A proxy in front of a node that ends TLS with the node's own key, and keeps every byte of both directions."""

    def __init__(self, side: Any) -> None:
        self.streams: list[bytearray] = []
        self._front, side._bound = side._bound, bind("127.0.0.1:0")
        self._front.setblocking(True)
        self._front.settimeout(0.1)
        self._back = side._bound.getsockname()
        self._server = tls.server_context(side.node.secrets.signing_key, side.node.now())
        self._client = tls.client_context(side.node.key)
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        accepting = threading.Thread(target=self._accept)
        accepting.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in (accepting, *self._threads):
                thread.join(10)
                assert not thread.is_alive()
            self._front.close()

    def bodies(self) -> list[bytes]:
        """Return the bodies of all requests and answers."""
        found = []
        for stream in self.streams:
            rest = bytes(stream)
            while rest:
                head, _, rest = rest.partition(b"\r\n\r\n")
                lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                length = int(lengths[0].partition(b":")[2]) if lengths else 0
                found.append(rest[:length])
                rest = rest[length:]
        return found

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                plain, _ = self._front.accept()
            except TimeoutError:
                continue
            thread = threading.Thread(target=self._forward, args=(plain,))
            self._threads.append(thread)
            thread.start()

    def _forward(self, plain: socket.socket) -> None:
        plain.settimeout(10)
        near = self._server.wrap_socket(plain, server_side=True)
        far = self._client.wrap_socket(socket.create_connection(self._back), server_hostname="localhost")
        pumps = [threading.Thread(target=self._pump, args=each) for each in ((near, far), (far, near))]
        for pump in pumps:
            pump.start()
        for pump in pumps:
            pump.join()
        near.close()
        far.close()

    def _pump(self, source: ssl.SSLSocket, target: ssl.SSLSocket) -> None:
        kept = bytearray()
        self.streams.append(kept)
        source.settimeout(0.1)
        while not self._stop.is_set():
            try:
                piece = source.recv(65_536)
            except TimeoutError:
                continue
            except OSError:
                break
            if not piece:
                break
            kept += piece
            target.sendall(piece)
        self._shut(target)

    def _shut(self, target: ssl.SSLSocket) -> None:
        try:
            target.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


def said(body: bytes) -> Iterator[Any]:
    """Yield every key and value of a message, and of the messages inside it."""
    try:
        waiting: list[Any] = [wire.unpack(body)]
    except RemoteProtocolError:
        return
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple):
            waiting += value
        else:
            yield value
            if isinstance(value, bytes):
                yield from said(value)


@pytest.mark.feature("CN4")
def test_up_to_active_no_identity_count_or_segment_name_is_on_the_wire(idle_pair: Any, person: Any) -> None:
    pair, recorders = idle_pair, [Recorder(idle_pair.acme), Recorder(idle_pair.globe)]
    with ExitStack() as stack:
        for side, recorder in zip((pair.acme, pair.globe), recorders, strict=True):
            stack.enter_context(recorder.recording())
            stack.enter_context(side.serving())
        ours, theirs = people(person, "acme-customer-", 0, 37), people(person, "globe-customer-", 14, 67)
        pair.prepare(ours, theirs, {"vip-shoppers": [f"acme-customer-{n}" for n in range(3, 26)]})
        assert status(pair.acme) == {"globe": "active"}
        assert status(pair.globe) == {"acme": "active"}
        before = [bytes(stream) for recorder in recorders for stream in recorder.streams]
        words = [word for recorder in recorders for body in recorder.bodies() for word in said(body)]

        secrets = [b"vip-shoppers", b"customer", b"example.com"]
        for each in (*ours, *theirs):
            found = hashlib.sha256(each.email.encode())
            secrets += [found.digest(), found.hexdigest().encode(), base64.b64encode(found.digest())]
        assert len(before) >= 4
        assert {"hello", "reply", "request", "accept"} <= {word for word in words if isinstance(word, str)}
        for stream in before:
            assert not [secret for secret in secrets if secret in stream]
        assert not {37, 53, 23, 16} & {word for word in words if isinstance(word, int)}

        pair.acme.project.feeds.create("summer", segments=["vip-shoppers"], namespaces=[EMAIL], partners=["globe"])
        pair.acme.project.feeds.publish("summer")
        after = b"".join(bytes(stream) for stream in recorders[1].streams)
        assert b"vip-shoppers" in after  # or the recorder would be deaf


# The list, and the end


@pytest.mark.feature("CN5")
def test_the_list_shows_status_and_segments_shared_and_received(pair: Any, person: Any) -> None:
    prepared(pair, person)
    acme, globe = pair.acme, pair.globe

    def counts(side: Any) -> tuple[str, int, int]:
        (row,) = side.project.partners.list()
        return row["status"], row["segments_shared"], row["segments_received"]

    assert counts(acme) == counts(globe) == ("active", 0, 0)
    acme.segment("new", ["a3", "a4", "a5"])
    acme.project.feeds.create("summer", segments=["vip", "new"], namespaces=[EMAIL], partners=["globe"])
    assert counts(acme) == ("active", 0, 0)
    acme.project.feeds.publish("summer")
    assert (counts(acme), counts(globe)) == (("active", 2, 0), ("active", 0, 0))
    globe.post()
    globe.project.received.enable("summer")
    acme.project.feeds.sync()
    assert (counts(acme), counts(globe)) == (("active", 2, 0), ("active", 0, 2))
    share(acme, globe, "again", "vip")  # the same segment by a second feed
    assert (counts(acme), counts(globe)) == (("active", 2, 0), ("active", 0, 2))
    share(globe, acme, "winter", "loyal")
    assert (counts(acme), counts(globe)) == (("active", 2, 1), ("active", 1, 2))
    acme.project.feeds.unshare("summer", segment="new")
    assert (counts(acme), counts(globe)) == (("active", 1, 1), ("active", 1, 1))


def left(side: Any) -> list[str]:
    """Return the files of received feeds, caches and spools in a node's home."""
    folders = [side.project.data_directory / "received", side.node.home / "cache"]
    return [str(path) for folder in folders if folder.exists() for path in folder.rglob("*") if path.is_file()]


@pytest.mark.feature("CN6")
@pytest.mark.parametrize("who", ["acme", "globe"])
def test_a_disconnect_stops_feeds_purges_both_sides_and_tells_the_partner(pair: Any, person: Any, who: str) -> None:
    prepared(pair, person)
    share(pair.acme, pair.globe, "summer", "vip")
    share(pair.globe, pair.acme, "winter", "loyal")
    for side, rule in ((pair.globe, "received.acme.vip"), (pair.acme, "received.globe.loyal")):
        side.project.segments.create("derived", rule=rule)
        assert side.project.segments.show("derived").size == 2
        assert left(side)
    ender, other = (pair.acme, pair.globe) if who == "acme" else (pair.globe, pair.acme)
    ender.project.partners.disconnect(other.name, "budget cut")
    pair.post()
    for side, partner, segment, feed in (
        (pair.acme, "globe", "loyal", "summer"),
        (pair.globe, "acme", "vip", "winter"),
    ):
        (row,) = side.project.partners.list()
        assert (row["status"], row["reason"]) == ("disconnected", "budget cut")
        assert (row["segments_shared"], row["segments_received"]) == (0, 0)
        with pytest.raises(NotFound):
            side.members(partner, segment)
        assert side.project.segments.show("derived").size == 0
        assert not side.project.segments.members("derived")
        assert left(side) == []
        assert side.project.feeds.sync() == []
        (state,) = side.project.feeds.show(feed)["partners"]
        assert (state["status"], state["reason"]) == ("revoked", "disconnected")
        assert state["purges"]  # each signed for what it had
        with pytest.raises(Refused):
            side.project.feeds.create("more", segments=["derived"], namespaces=[EMAIL], partners=[partner])
        side.node.audit.verify()
    assert "disconnected" in kinds(other)
    with pytest.raises(PeerRefused) as refused:
        call(ender.node, other, "open", ender.project.partners.get(other.name))
    assert refused.value.code == "unwelcome"


class TestEnding(Commands):
    @pytest.mark.feature("CN6")
    def test_a_disconnect_asks_first_and_the_list_says_why_it_ended(
        self, ready: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ready.connect()
        command = ["--home", str(ready.globe.node.home), "partner"]
        monkeypatch.setattr("sys.stdin", Typed("n\n"))
        assert main([*command, "disconnect", "acme", "--reason", "budget cut"]) == 1
        assert "purged on both sides" in capsys.readouterr().err
        assert status(ready.globe) == {"acme": "active"}
        monkeypatch.setattr("sys.stdin", Typed("y\n"))
        assert main([*command, "disconnect", "acme", "--reason", "budget cut"]) == 0
        assert status(ready.acme) == {"globe": "disconnected"}
        capsys.readouterr()
        assert main([*command, "list"]) == 0
        (line,) = [line for line in capsys.readouterr().out.splitlines() if "Acme" in line]
        assert line.split() == ["acme", "Acme", "default", "disconnected", "0", "0", "budget", "cut"]


@pytest.mark.feature("CN6")
def test_a_partner_that_is_away_hears_of_the_end_later(idle_pair: Any, person: Any) -> None:
    pair = idle_pair
    with pair.acme.serving():
        with pair.globe.serving():
            prepared(pair, person)
            share(pair.acme, pair.globe, "summer", "vip")
        pair.acme.project.partners.disconnect("globe")
        assert status(pair.acme) == {"globe": "disconnected"}
        assert status(pair.globe) == {"acme": "active"}
        pair.globe.post()
        assert status(pair.globe) == {"acme": "disconnected"}
        assert left(pair.globe) == []
        (state,) = pair.acme.project.feeds.show("summer")["partners"]
        assert state["purges"][-1]["revision"] == 1


def test_a_request_that_nobody_answers_can_be_taken_back(ready: Any) -> None:
    request(ready.globe, ready.acme, "acme")
    ready.globe.project.partners.disconnect("acme")
    assert status(ready.globe) == {"acme": "disconnected"}
    assert status(ready.acme) == {"globe": "disconnected"}
    with pytest.raises(Refused):
        ready.acme.project.partners.accept("globe")


def test_a_new_connection_after_the_end_takes_the_same_alias(pair: Any, person: Any) -> None:
    prepared(pair, person, evaluations=3)  # new keys evaluate everybody again
    share(pair.acme, pair.globe, "summer", "vip")
    pair.globe.project.segments.create("derived", rule="received.acme.vip")
    pair.globe.project.partners.disconnect("acme", "budget cut")
    with pytest.raises(AlreadyExists):
        pair.globe.project.segments.create("derived", rule="received.acme.vip")
    pair.connect()
    assert status(pair.acme) == {"globe": "active", "globe-ended": "disconnected"}
    assert status(pair.globe) == {"acme": "active", "acme-ended": "disconnected"}
    reasons = {row["alias"]: row["reason"] for row in pair.globe.project.partners.list()}
    assert reasons == {"acme": None, "acme-ended": "budget cut"}
    share(pair.acme, pair.globe, "autumn", "vip")
    assert pair.globe.members("acme", "vip") == {"g4", "g5"}
    (derived,) = pair.globe.project.segments.evaluate("derived")
    assert derived.size == 2
    with pytest.raises(AlreadyExists):
        request(pair.globe, pair.acme, "second")


def test_a_connection_can_begin_anew_before_the_partner_heard_of_the_end(idle_pair: Any, person: Any) -> None:
    pair = idle_pair
    pair.terms(**TERMS)
    pair.acme.people(people(person, "a", 0, 3))
    pair.globe.people(people(person, "g", 2, 6))
    with pair.acme.serving():
        pair.connect()
    pair.globe.project.partners.disconnect("acme")
    with pair.acme.serving():
        assert status(pair.acme) == {"globe": "active"}
        assert request(pair.globe, pair.acme, "acme") == "acme"
        pair.acme.project.partners.accept("globe")
        pair.globe.post()
        assert status(pair.globe)["acme"] == "active"


def test_nobody_gets_an_alias_by_taking_the_name(ready: Any, third: Any, person: Any) -> None:
    third.people(people(person, "h", 0, 3))
    ready.connect()
    ready.acme.project.partners.disconnect("globe")
    third.node.config = type(third.node.config)(organisation="Globe", address=third.address)
    request(third, ready.acme)
    assert status(ready.acme) == {"globe": "disconnected", "globe-2": "requested"}


def test_an_alias_that_no_rule_could_name_is_refused(ready: Any) -> None:
    with pytest.raises(InvalidInput, match="dot"):
        request(ready.globe, ready.acme, "acme.co")
    assert status(ready.acme) == {}


# Keys


def call(caller: Any, at: Any, how: str, connection: Any) -> None:
    """Ask for a connection's letters, deliver one, or open an exchange."""
    end = Letter.of("connect.disconnect", Disconnect(reason=""), connection=bytes.fromhex(connection.id), number=1)
    with PeerClient(caller, at.address, at.node.key) as client:
        if how == "fetch":
            client.get(f"{letters_module.PATH}?connection={connection.id}&wait=0")
        elif how == "deliver":
            client.post(letters_module.PATH, end.encode())
        else:
            client.post(http.PATH, at.opening(connection).encode())


def alerts(side: Any, kind: str) -> list[str]:
    return [alert.text for alert in side.project.alerts.list() if alert.kind == kind]


@pytest.mark.feature("CN7")
def test_another_key_at_the_partners_address_blocks_traffic_and_alerts(
    idle_pair: Any, tmp_path: Path, person: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = idle_pair
    impostor = type(pair.acme)(tmp_path, "mallory", now=pair.clock)
    impostor._bound = pair.globe._bound
    with pair.acme.serving():
        with pair.globe.serving():
            prepared(pair, person)
            share(pair.acme, pair.globe, "summer", "vip")
            pair.acme.project.feeds.create("winter", segments=["vip"], namespaces=[EMAIL], partners=["globe"])
        heard: list[Any] = []
        monkeypatch.setattr("node.transport.endpoint._body", lambda http: heard.append(http))
        with impostor.serving():
            for _ in range(2):
                with pytest.raises(WrongPeerKey) as wrong:
                    pair.acme.project.feeds.sync()
                with pytest.raises(WrongPeerKey):
                    pair.acme.project.feeds.estimate("summer")
            assert "Connect ID" in wrong.value.hint
            pair.acme.project.feeds.publish("winter")  # kept here
            pair.acme.post()
            assert heard == []  # not one request reached it
            assert pair.acme.project.feeds.show("winter")["partners"][0]["status"] == "pending"
            (text,) = alerts(pair.acme, "key_changed")
            assert text.startswith("globe answers with another key")
            (denied,) = pair.acme.acts("partner.call", "deny")
            assert (denied["target"], denied["detail"]["error"]["code"]) == ("globe", "wrong_key")
            pair.clock.advance(days=1)
            pair.acme.post()
            assert len(alerts(pair.acme, "key_changed")) == 2
        monkeypatch.undo()
        with pair.globe.serving():  # the true one is back, and gets what waited
            pair.acme.post()
            assert [row["name"] for row in pair.globe.project.received.list()] == ["summer", "winter"]
    impostor.node.close()


@pytest.mark.feature("CN7")
@pytest.mark.parametrize("how", ["fetch", "deliver", "open"])
@pytest.mark.parametrize("known", [False, True])
def test_a_request_that_another_key_signs_for_the_connection_is_refused_and_alerts(
    ready: Any, third: Any, person: Any, how: str, known: bool
) -> None:
    ready.connect()
    acme = ready.acme
    connection = acme.project.partners.get("globe")
    if known:  # also a partner may not speak for another one
        third.people(people(person, "h", 0, 3))
        request(third, acme)
        acme.project.partners.accept("hooli")
    for _ in range(2):
        with pytest.raises(PeerRefused) as refused:
            call(third.node, acme, how, connection)
        assert refused.value.code == "unwelcome"
    assert status(acme)["globe"] == "active"
    (text,) = alerts(acme, "key_changed")
    assert text.startswith("globe calls with another key")
    (denied,) = acme.acts("partner.called", "deny")
    assert denied["target"] == "globe"
    call(ready.globe.node, acme, "fetch", connection)  # the partner itself is not kept out


@pytest.mark.feature("CN7")
def test_a_stranger_that_names_no_connection_raises_no_alert(ready: Any, third: Any) -> None:
    ready.connect()
    digest = ready.acme.project.partners.get("globe").agreement_digest
    unknown = SimpleNamespace(id="ab" * 16, agreement_digest=digest)
    for how in ("fetch", "deliver", "open"):
        with pytest.raises(PeerRefused) as refused:
            call(third.node, ready.acme, how, unknown)
        assert refused.value.code == "unwelcome"
    assert alerts(ready.acme, "key_changed") == []


def test_one_partners_failure_does_not_hold_up_the_others(
    ready: Any, third: Any, person: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme, globe = ready.acme, ready.globe
    third.people(people(person, "h", 0, 3))
    third.project.consent.set_model("opt-out")
    ready.connect()
    request(acme, third, "hooli")
    third.project.partners.accept("acme")
    acme.segment("vip", ["a4"])
    get = PeerClient.get

    def broken(error: VesicaError) -> Callable[..., bytes]:
        def fetch(self: PeerClient, path: str) -> bytes:
            if self._peer_key == globe.node.key:
                raise error
            return get(self, path)

        return fetch

    failures: list[VesicaError] = [
        RemoteProtocolError("malformed", "what is this"),
        PeerRefused("internal", "no", status=500),
        WrongPeerKey("another key"),
        PeerUnreachable("gone"),
    ]
    for number, error in enumerate(failures):
        with monkeypatch.context() as patched:
            patched.setattr(PeerClient, "get", broken(error))
            third.segment(f"s{number}", ["h1"])
            third.project.feeds.create(f"f{number}", segments=[f"s{number}"], namespaces=[EMAIL], partners=["acme"])
            with monkeypatch.context() as away:
                away.setattr(letters_module.Letters, "deliver_soon", lambda self, row: False)
                third.project.feeds.publish(f"f{number}")
            acme.node.exchange_letters()
        assert [feed["name"] for feed in acme.project.received.list()] == [f"f{each}" for each in range(number + 1)]
    assert len(alerts(acme, "key_changed")) == 1
