"""Two sides of an ad hoc match over real TLS, each in a thread: what each learns, and what is refused."""

import dataclasses
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from matches import columns, emails, phones
from sides import HERE

from node.adhoc import answers, dialler, listener
from node.adhoc.answers import Learned
from node.adhoc.listener import Rules
from node.adhoc.session import Columns, Party
from node.errors import Failure, InvalidInput, NotAllowed, PeerUnreachable, RefusedByPartner, RefusedToPartner
from node.exchanges.http import Answering, Answers
from node.node import Node
from node.transport import paths
from node.transport.client import Peer, PeerClient
from protocol import wire
from protocol.connectid import ConnectId
from protocol.errors import RemoteProtocolError
from protocol.estimate import commit
from protocol.messages import SignedCommitment
from psi.count import CHUNK_POINTS, Universe
from psi.errors import Remedy

pytestmark = pytest.mark.two_nodes


@dataclasses.dataclass
class Listening:
    connect_id: str
    thread: threading.Thread
    ended: "queue.Queue[Learned | Exception]"

    def outcome(self) -> Learned:
        ended = self.ended.get(timeout=30)
        self.thread.join(10)
        if isinstance(ended, Exception):
            raise ended
        return ended


@pytest.fixture
def listen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Listening]]:
    started: list[Listening] = []
    monkeypatch.setattr(dialler, "FIRST_CONTACT_SECONDS", 0.5)

    def start(read: Columns, **rules: Any) -> Listening:
        ready: queue.Queue[str] = queue.Queue()
        ended: queue.Queue[Learned | Exception] = queue.Queue()

        def run() -> None:
            try:
                ended.put(listener.listen(read, Rules(**rules), ready=lambda text, where: ready.put(text)))
            except Exception as error:
                ended.put(error)

        thread = threading.Thread(target=run)
        thread.start()
        started.append(Listening(ready.get(timeout=20), thread, ended))
        return started[-1]

    yield start
    monkeypatch.setattr(listener, "SESSION_SECONDS", 0)
    monkeypatch.setattr(listener, "PARTNER_SECONDS", 0)
    monkeypatch.setattr(listener, "LINGER_SECONDS", 0)
    for each in started:
        each.thread.join(20)
        assert not each.thread.is_alive()


def test_a_noised_count_and_what_the_listener_learned(listen: Callable[..., Listening]) -> None:
    there = listen(columns(email=emails(0, 900), phone=phones(0, 900)), minimum=100, exact=True)
    outcome = dialler.dial(there.connect_id, columns(email=emails(300, 1300), phone=phones(500, 1000)), minimum=50)
    learned = there.outcome()
    assert outcome.agreement.terms.epsilon is not None  # one side's --exact is not enough
    assert outcome.agreement.terms.minimum_overlap == 100
    truth = {"email_sha256/lc-v1": (1000, 600), "phone_sha256/e164-v1": (500, 400)}
    for counted in outcome.counted:
        ours, both = truth[counted.namespace]
        assert counted.ours == ours
        assert counted.half_width
        assert abs((counted.overlap or 0) - both) <= 6 * counted.half_width
        assert counted.theirs_at_most == 4096
        assert (learned.theirs[counted.namespace], learned.overlap[counted.namespace]) == (ours, both)


def test_below_the_minimum_there_is_no_number(listen: Callable[..., Listening]) -> None:
    there = listen(columns(email=emails(0, 300)), minimum=200, exact=True)
    outcome = dialler.dial(there.connect_id, columns(email=emails(200, 500)), minimum=100, exact=True)
    assert [(each.overlap, each.half_width) for each in outcome.counted] == [(None, None)]
    assert there.outcome().overlap == {"email_sha256/lc-v1": 100}


def test_two_sessions_share_no_point_and_show_no_hash(
    listen: Callable[..., Listening], monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies: list[list[bytes]] = []

    def recording(self: PeerClient, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        status, answer = once(self, method, path, body)
        bodies[-1] += [body, answer]
        return status, answer

    once = PeerClient.attempt
    monkeypatch.setattr(PeerClient, "attempt", recording)
    read = columns(email=emails(0, 100))
    for members in (False, False, True):
        bodies.append([])
        there = listen(read, minimum=1, allow="members")
        dialler.dial(there.connect_id, read, minimum=1, members=members)
        there.outcome()
    points = [
        {
            content[at : at + 32]
            for body in session
            if body and isinstance(content := wire.unpack(body).get("points"), bytes)
            for at in range(0, len(content), 32)
        }
        for session in bodies
    ]
    assert [len(found) for found in points] == [4096 + 100, 4096 + 100, 100 + 100]
    assert len(points[0] | points[1] | points[2]) == 4196 + 4196 + 200
    for value in read["email_sha256/lc-v1"].values.rows:
        assert not any(value.tobytes()[:8] in body for session in bodies for body in session)


def test_asking_for_more_than_allowed_is_refused_and_a_count_still_possible(listen: Callable[..., Listening]) -> None:
    there = listen(columns(email=emails(0, 100)), minimum=1, exact=True)
    read = columns(email=emails(50, 150))
    with pytest.raises(RefusedByPartner) as refused:
        dialler.dial(there.connect_id, read, members=True, minimum=1)
    assert refused.value.code == "not_allowed"
    assert "ask the other side to allow members" in refused.value.hint
    assert dialler.dial(there.connect_id, read, minimum=1, exact=True).counted[0].overlap == 50
    assert there.outcome().overlap == {"email_sha256/lc-v1": 50}


def broken_at(connect_id: str, read: Columns, step: str, *, members: bool = False) -> None:
    """Dial, and break off at a step, as Ctrl-C does."""

    def stop(what: str, done: int, total: int | None) -> None:
        if what == step and done:
            raise KeyboardInterrupt

    with pytest.raises(Failure, match="interrupted") as told:
        dialler.dial(connect_id, read, minimum=1, members=members, progress=stop)
    assert "dial again" in told.value.hint


@pytest.mark.parametrize(("step", "members"), [("universe", False), ("tags", False), ("evaluated", True)])
def test_a_session_that_broke_before_its_answer_can_be_begun_again(
    listen: Callable[..., Listening], step: str, members: bool
) -> None:
    there = listen(columns(email=emails(0, 100)), minimum=1, exact=True, allow="members")
    for _ in range(3):
        broken_at(there.connect_id, columns(email=emails(50, 150)), step, members=members)
    outcome = dialler.dial(there.connect_id, columns(email=emails(60, 160)), minimum=1, exact=True, members=members)
    learned = there.outcome()
    assert learned.theirs == {"email_sha256/lc-v1": 100}
    if members:
        assert len(outcome.found[0].indices) == 40
    else:
        assert (outcome.counted[0].overlap, learned.overlap) == (40, {"email_sha256/lc-v1": 40})


def test_a_session_that_was_given_up_leaves_the_memory(
    listen: Callable[..., Listening], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Answering] = []

    class Noted(Answering):
        def __init__(self, answers: Answers) -> None:
            super().__init__(answers)
            made.append(self)

    monkeypatch.setattr(listener, "Answering", Noted)
    there = listen(columns(email=emails(0, 100)), minimum=1)
    with monkeypatch.context() as silent:
        silent.setattr(dialler, "DONE_PATH", "/vesica/1/nothing")  # it goes away without a word
        for _ in range(3):
            broken_at(there.connect_id, columns(email=emails(50, 150)), "tags")
            assert len(made[0].in_memory()) == 1
    dialler.dial(there.connect_id, columns(email=emails(50, 150)), minimum=1)
    there.outcome()


def test_a_listener_that_shows_more_than_agreed_fills_no_memory(
    listen: Callable[..., Listening], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a universe that is larger than agreed not a point is fetched."""
    fetched: list[str] = []
    get = PeerClient.get

    def lie(universe: Universe, *, sign: Callable[[bytes], bytes], **more: Any) -> SignedCommitment:
        true = commit(universe, sign=sign, **more).commitment
        many = dataclasses.replace(true, count=400 * CHUNK_POINTS, chunks=true.chunks * 400)
        return SignedCommitment(commitment=many, signature=many.sign(sign))

    def note(self: PeerClient, path: str) -> bytes:
        fetched.append(path.split("/")[-2])
        return get(self, path)

    monkeypatch.setattr(answers, "commit", lie)
    monkeypatch.setattr(PeerClient, "get", note)
    there = listen(columns(email=emails(0, 100)), minimum=1)
    with pytest.raises(RemoteProtocolError, match="more than the 10,000,000 agreed"):
        dialler.dial(there.connect_id, columns(email=emails(0, 100)), minimum=1)
    assert fetched == ["commitment"]


@pytest.mark.parametrize(("step", "members"), [("answer", False), ("manifest", True)])
def test_a_session_that_broke_after_its_answer_is_over_at_once(
    listen: Callable[..., Listening], step: str, members: bool
) -> None:
    read = columns(email=emails(50, 150), phone=phones(50, 150))
    there = listen(columns(email=emails(0, 100), phone=phones(0, 100)), minimum=1, allow="members")
    broken_at(there.connect_id, read, step, members=members)
    with pytest.raises(Failure, match="went away before"):
        there.outcome()
    with pytest.raises(PeerUnreachable):
        dialler.dial(there.connect_id, read, minimum=1, members=members)


def test_a_connect_id_is_good_for_one_answer(listen: Callable[..., Listening], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the first dialler died without a word: who dials again is refused, and the listener ends."""
    monkeypatch.setattr(listener, "QUIET_SECONDS", -1)
    read = columns(email=emails(50, 150), phone=phones(50, 150))
    there = listen(columns(email=emails(0, 100), phone=phones(0, 100)), minimum=1)

    class Killed(Exception):
        """Stands for a kill: nothing is said to the listener."""

    def stop(what: str, done: int, total: int | None) -> None:
        if what == "answer" and done:
            monkeypatch.setattr(PeerClient, "post", lambda *_: b"")
            raise Killed

    post = PeerClient.post
    with pytest.raises(Killed):
        dialler.dial(there.connect_id, read, minimum=1, progress=stop)
    monkeypatch.setattr(PeerClient, "post", post)
    with pytest.raises(RefusedByPartner) as refused:
        dialler.dial(there.connect_id, read, minimum=1)
    assert refused.value.code == "in_use"
    with pytest.raises(Failure, match="went away before"):
        there.outcome()


def test_who_was_displaced_gets_no_second_answer(
    listen: Callable[..., Listening], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hold one Connect ID: the later call stands, and the earlier one cannot go on to an answer of its own."""
    there, read = listen(columns(email=emails(0, 100)), minimum=1, exact=True), columns(email=emails(50, 150))
    second: list[dialler.Outcome] = []

    def overtaken(what: str, done: int, total: int | None) -> None:
        if what == "tags" and done and not second:
            second.append(dialler.dial(there.connect_id, read, minimum=1, exact=True))

    with pytest.raises((RefusedByPartner, PeerUnreachable)):
        dialler.dial(there.connect_id, read, minimum=1, exact=True, progress=overtaken)
    assert second[0].counted[0].overlap == 50
    assert there.outcome().overlap == {"email_sha256/lc-v1": 50}


def test_a_dialler_has_a_fifth_more_identities_evaluated_than_the_listener_has(
    listen: Callable[..., Listening],
) -> None:
    """Who wants to match a larger list is taken by a listener who says so."""
    for size, most, fits in ((120, None, True), (121, None, False), (121, 121, True), (122, 121, False)):
        there = listen(columns(email=emails(0, 100)), minimum=1, allow="members", most=most)
        read = columns(email=emails(0, size))
        if fits:
            assert len(dialler.dial(there.connect_id, read, minimum=1, members=True).found[0].indices) == 100
            continue
        with pytest.raises(RefusedByPartner) as refused:
            dialler.dial(there.connect_id, read, minimum=1, members=True)
        assert refused.value.code == "too_many"
        assert "listen for more" in refused.value.hint
        with pytest.raises(RefusedToPartner):
            there.outcome()


def test_a_dialler_asks_each_question_once(listen: Callable[..., Listening], monkeypatch: pytest.MonkeyPatch) -> None:
    there, read = listen(columns(email=emails(0, 100)), minimum=1), columns(email=emails(50, 150))
    count = dialler.Dialling.count

    def twice(self: dialler.Dialling) -> dialler.Outcome:
        count(self)
        return count(self)

    monkeypatch.setattr(dialler.Dialling, "count", twice)
    with pytest.raises(RefusedByPartner) as refused:
        dialler.dial(there.connect_id, read, minimum=1)
    assert refused.value.code == "one_answer"


def test_a_node_that_asks_to_connect_does_not_use_a_session_up(
    listen: Callable[..., Listening], tmp_path: Path
) -> None:
    there = listen(columns(email=emails(0, 100)), minimum=1)
    node = Node.create(tmp_path / "globe", "Globe", private_addresses=True)
    try:
        with pytest.raises(InvalidInput, match="the Connect ID of a listener") as refused:
            node.project().partners.look_up(there.connect_id)
    finally:
        node.close()
    assert refused.value.remedy == Remedy("match.dial")
    dialler.dial(there.connect_id, columns(email=emails(50, 150)), minimum=1)
    there.outcome()


def test_another_secret_learns_nothing(listen: Callable[..., Listening]) -> None:
    there = listen(columns(email=emails(0, 100)), minimum=1)
    forged = dataclasses.replace(ConnectId.parse(there.connect_id), secret=bytes(16)).encode()
    with pytest.raises(RefusedByPartner) as refused:
        dialler.dial(forged, columns(email=emails(0, 100)), minimum=1)
    assert refused.value.code == "connect_id_proof"


def test_too_few_identities_are_refused_on_both_sides(listen: Callable[..., Listening]) -> None:
    there = listen(columns(email=emails(0, 100)), minimum=50)
    with pytest.raises(NotAllowed, match="minimum of 50") as few:
        dialler.dial(there.connect_id, columns(email=emails(0, 40)), minimum=1)
    assert "lower the minimum on both sides" in few.value.hint
    with pytest.raises(RefusedByPartner) as refused:
        dialler.dial(there.connect_id, columns(email=emails(0, 400)), minimum=200)
    assert refused.value.code == "too_few"


def test_a_file_with_which_nobody_could_match_is_refused_at_once() -> None:
    with pytest.raises(NotAllowed, match="nobody could match with it"):
        listener.listen(columns(email=emails(0, 100)), Rules(minimum=101), ready=lambda *_: None)


@pytest.mark.feature("ID7")
def test_different_rules_are_told_before_anything_is_matched(listen: Callable[..., Listening]) -> None:
    read = columns(email=emails(0, 100))
    there = listen(read, minimum=1)
    other = {"email_sha256/google-v3": read["email_sha256/lc-v1"]}
    with pytest.raises(NotAllowed, match="google-v3 here, lc-v1 there"):
        dialler.dial(there.connect_id, other, minimum=1)
    with pytest.raises(NotAllowed, match="no namespace in common"):
        dialler.dial(there.connect_id, columns(phone=phones(0, 100)), minimum=1)


def test_a_listener_that_has_gone_is_told(listen: Callable[..., Listening]) -> None:
    there, read = listen(columns(email=emails(0, 10)), minimum=1), columns(email=emails(0, 10))
    dialler.dial(there.connect_id, read, minimum=1)
    there.outcome()
    with pytest.raises(PeerUnreachable) as gone:
        dialler.dial(there.connect_id, read, minimum=1)
    assert "still running" in gone.value.hint


def test_a_listener_does_not_wait_for_ever(listen: Callable[..., Listening], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "SESSION_SECONDS", 0)
    with pytest.raises(Exception, match="no session took place"):
        listen(columns(email=emails(0, 10)), minimum=1).outcome()


def test_a_hostile_chunk_ends_the_session_with_an_error(
    listen: Callable[..., Listening], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = listen(columns(email=emails(0, 100)), minimum=1)
    put = PeerClient.put

    def spoiled(self: PeerClient, path: str, body: bytes, *, status: str) -> None:
        put(self, path, body[:-40] + bytes(40) if "/tags/" in path else body, status=status)

    monkeypatch.setattr(PeerClient, "put", spoiled)
    with pytest.raises(RefusedByPartner) as refused:
        dialler.dial(there.connect_id, columns(email=emails(0, 100)), minimum=1)
    assert refused.value.status == 400
    with pytest.raises(RemoteProtocolError):
        there.outcome()


def test_an_address_that_nobody_can_dial_is_refused() -> None:
    rules, nobody = Rules(minimum=1), "0.0.0.0:0"
    with pytest.raises(InvalidInput) as wrong:
        listener.listen(columns(email=emails(0, 10)), rules, bind_to=nobody, ready=lambda text, where: None)
    assert "HOST:PORT" in wrong.value.hint


def test_who_is_not_in_the_session_gets_nothing(listen: Callable[..., Listening]) -> None:
    there = ConnectId.parse(listen(columns(email=emails(0, 100)), minimum=1).connect_id)
    with PeerClient(Party(), Peer(there.address, there.key, allowed=HERE)) as stranger:
        for path in (paths.EXCHANGES, "/vesica/1/done"):
            with pytest.raises(RefusedByPartner) as refused:
                stranger.post(path, b"")
            assert refused.value.code == "unwelcome"
