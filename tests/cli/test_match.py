"""Two files, two processes, real TLS: what each side learns equals a plain join, and nothing goes beyond."""

import csv
import dataclasses
import hashlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cli import match
from cli.main import main
from node.adhoc import dialler, listener
from node.adhoc.listener import Learned
from node.adhoc.session import Column, Columns, Party, fingerprint
from node.errors import InvalidInput, PeerRefused, PeerUnreachable, Refused
from node.exchanges import http
from node.transport.client import PeerClient
from protocol import wire
from protocol.connectid import ConnectId
from protocol.errors import RemoteProtocolError
from protocol.estimate import MAX_ASKED
from protocol.messages import SegmentAnswer
from psi.values import Values

VESICA = [sys.executable, "-c", "import sys; from cli.main import main; sys.exit(main())"]


def emails(first: int, last: int) -> list[str]:
    return [f"person.{number}@example.com" for number in range(first, last)]


def phones(first: int, last: int) -> list[str]:
    return [f"+447400{100_000 + number}" for number in range(first, last)]


def write(path: Path, header: list[str], rows: list[list[str]], delimiter: str = ",") -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows([header, *rows])
    return path


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    home = tmp_path / "nobody"
    home.mkdir()
    return {**os.environ, "HOME": str(home), "COLUMNS": "200"}


@contextmanager
def listening(environment: dict[str, str], *arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run `vesica match listen` in a process of its own; yields its Connect ID."""
    process = subprocess.Popen(
        [*VESICA, "match", "listen", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    try:
        lines = [process.stdout.readline(), process.stdout.readline()]
        assert lines[0].startswith("Connect ID: vesica1"), process.communicate()
        assert lines[1].startswith("listening on 127.0.0.1:")
        yield lines[0].removeprefix("Connect ID: ").strip(), process
    finally:
        process.terminate()
        process.communicate(timeout=20)


def dial(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*VESICA, "match", "dial", *arguments], capture_output=True, text=True, env=environment, timeout=60, check=False
    )


def test_members_are_the_plain_join_whatever_the_form(tmp_path: Path, environment: dict[str, str]) -> None:
    theirs = [[f"  {email.upper()} ", phone] for email, phone in zip(emails(0, 300), phones(0, 300), strict=True)]
    write(tmp_path / "theirs.csv", ["mail", "mobile"], theirs)
    hashes = [hashlib.sha256(email.encode()).hexdigest() for email in emails(200, 500)]
    ours = [[f"u{n}", digest, phone] for n, (digest, phone) in enumerate(zip(hashes, phones(290, 590), strict=True))]
    ours += [ours[0], ["nobody", "", ""], ["u1-again", ours[1][1].upper(), ""], ["by-phone", "", phones(5, 6)[0]]]
    write(tmp_path / "ours.csv", ["user", "hash", "tel"], ours, ";")
    expected = [row for row in ours if row[1].lower() in hashes[:100] or row[2] in phones(0, 300)]

    columns = ["--column", "mail=email_sha256", "--column", "mobile=phone_sha256"]
    start = ["--input", str(tmp_path / "theirs.csv"), *columns, "--allow", "members", "--minimum", "10"]
    with listening(environment, *start) as (connect_id, process):
        own = ["--column", "hash=email_sha256", "--column", "tel=phone_sha256", "--minimum", "50"]
        target = tmp_path / "both.csv"
        done = dial(
            environment, connect_id, "--input", str(tmp_path / "ours.csv"), *own, "--members", "--output", str(target)
        )
        assert done.returncode == 0, done.stderr
        output, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    with target.open(encoding="utf-8", newline="") as file:
        written = list(csv.reader(file, delimiter=";"))
    assert written == [["user", "hash", "tel"], *expected]
    assert f"{len(expected)} of your rows match" in done.stdout
    assert "The other side has 300 identities in email_sha256/lc-v1." in output
    assert "not how many matched" in done.stdout
    assert "Traceback" not in errors + done.stderr
    assert list(Path(environment["HOME"]).iterdir()) == []


def test_an_exact_count_in_two_processes(tmp_path: Path, environment: dict[str, str]) -> None:
    write(tmp_path / "a.csv", ["e"], [[email] for email in emails(0, 700)])
    write(tmp_path / "b.csv", ["e"], [[email] for email in emails(450, 900)])
    common = ["--column", "e=email_sha256", "--exact", "--minimum", "1"]
    with listening(environment, "--input", str(tmp_path / "a.csv"), *common) as (connect_id, process):
        done = dial(environment, "--json", connect_id, "--input", str(tmp_path / "b.csv"), *common)
        assert done.returncode == 0, done.stdout + done.stderr
        output, _ = process.communicate(timeout=20)
    document = json.loads(done.stdout)
    assert document["results"] == [
        {
            "namespace": "email_sha256/lc-v1",
            "ours": 450,
            "theirs_at_most": 4096,
            "overlap": 250,
            "interval": [250, 250],
            "status": "ok",
        }
    ]
    assert document["terms"]["epsilon"] is None
    assert any("exactly" in line for line in document["learned"]["other"])
    assert "Exactly 250 of them are in your file" in output
    assert process.returncode == 0


# In one process, each side in its own thread


def columns(**namespaces: list[str]) -> Columns:
    found = {}
    for name, texts in namespaces.items():
        values = Values.of([hashlib.sha256(text.encode()).digest() for text in texts])
        found[f"{name}_sha256/{'lc' if name == 'email' else 'e164'}-v1"] = Column.of_rows(
            values, list(range(len(texts)))
        )
    return found


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

    def start(read: Columns, **options: Any) -> Listening:
        ready: queue.Queue[str] = queue.Queue()
        ended: queue.Queue[Learned | Exception] = queue.Queue()

        def run() -> None:
            try:
                ended.put(listener.listen(read, ready=lambda text, where: ready.put(text), **options))
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

    once = PeerClient._once
    monkeypatch.setattr(PeerClient, "_once", recording)
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
    with pytest.raises(PeerRefused) as refused:
        dialler.dial(there.connect_id, read, members=True, minimum=1)
    assert refused.value.code == "not_allowed"
    assert "--allow members" in refused.value.hint
    assert dialler.dial(there.connect_id, read, minimum=1, exact=True).counted[0].overlap == 50
    assert there.outcome().overlap == {"email_sha256/lc-v1": 50}


def test_a_connect_id_is_good_for_one_session(listen: Callable[..., Listening]) -> None:
    there, read = listen(columns(email=emails(0, 100)), minimum=1), columns(email=emails(50, 150))
    stuck = threading.Event()

    def first() -> None:
        with pytest.raises(RuntimeError):
            dialler.dial(there.connect_id, read, minimum=1, progress=stop)

    def stop(what: str, done: int, total: int | None) -> None:
        if what == "tags" and done:
            stuck.set()
            raise RuntimeError

    thread = threading.Thread(target=first)
    thread.start()
    assert stuck.wait(20)
    thread.join(20)
    with pytest.raises(PeerRefused) as refused:
        dialler.dial(there.connect_id, read, minimum=1)
    assert refused.value.code == "in_use"


def test_a_dialler_asks_each_question_once(listen: Callable[..., Listening], monkeypatch: pytest.MonkeyPatch) -> None:
    there, read = listen(columns(email=emails(0, 100)), minimum=1), columns(email=emails(50, 150))
    count = dialler._Dialling.count

    def twice(self: dialler._Dialling) -> dialler.Outcome:
        count(self)
        return count(self)

    monkeypatch.setattr(dialler._Dialling, "count", twice)
    with pytest.raises(PeerRefused) as refused:
        dialler.dial(there.connect_id, read, minimum=1)
    assert refused.value.code == "one_answer"


def test_another_secret_learns_nothing(listen: Callable[..., Listening]) -> None:
    there = listen(columns(email=emails(0, 100)), minimum=1)
    forged = dataclasses.replace(ConnectId.parse(there.connect_id), secret=bytes(16)).encode()
    with pytest.raises(PeerRefused) as refused:
        dialler.dial(forged, columns(email=emails(0, 100)), minimum=1)
    assert refused.value.code == "connect_id_proof"


def test_too_few_identities_are_refused_on_both_sides(listen: Callable[..., Listening]) -> None:
    there = listen(columns(email=emails(0, 100)), minimum=50)
    with pytest.raises(Refused, match="minimum of 50") as few:
        dialler.dial(there.connect_id, columns(email=emails(0, 40)), minimum=1)
    assert "--minimum" in few.value.hint
    with pytest.raises(PeerRefused) as refused:
        dialler.dial(there.connect_id, columns(email=emails(0, 400)), minimum=200)
    assert refused.value.code == "too_few"


@pytest.mark.feature("ID7")
def test_different_rules_are_told_before_anything_is_matched(listen: Callable[..., Listening]) -> None:
    read = columns(email=emails(0, 100))
    there = listen(read, minimum=1)
    other = {"email_sha256/google-v3": read["email_sha256/lc-v1"]}
    with pytest.raises(Refused, match="google-v3 here, lc-v1 there"):
        dialler.dial(there.connect_id, other, minimum=1)
    with pytest.raises(Refused, match="no namespace in common"):
        dialler.dial(there.connect_id, columns(phone=phones(0, 100)), minimum=1)


@pytest.mark.parametrize("index", [0, 8, 60, -1])
def test_one_wrong_character_is_caught_before_any_network_use(
    index: int, listen: Callable[..., Listening], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = list(listen(columns(email=emails(0, 10)), minimum=1).connect_id)
    text[index] = "b" if text[index] != "b" else "c"
    path = write(tmp_path / "a.csv", ["e"], [["x@example.com"]])
    assert main(["match", "dial", "".join(text), "--input", str(path), "--column", "e=email_sha256"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("vesica: error: this")
    assert "vesica: hint:" in error


def test_an_expired_connect_id_is_told(listen: Callable[..., Listening], capsys: pytest.CaptureFixture[str]) -> None:
    there = ConnectId.parse(listen(columns(email=emails(0, 10)), minimum=1).connect_id)
    old = dataclasses.replace(there, expires=int(time.time()) - 1).encode()
    assert main(["match", "dial", old, "--input", "none", "--column", "e=email_sha256"]) == 1
    assert "expired" in capsys.readouterr().err


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
        listen(columns(email=emails(0, 10))).outcome()


def test_a_hostile_chunk_ends_the_session_with_an_error(
    listen: Callable[..., Listening], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = listen(columns(email=emails(0, 100)), minimum=1)
    put = PeerClient.put

    def spoiled(self: PeerClient, path: str, body: bytes, *, status: str) -> None:
        put(self, path, body[:-40] + bytes(40) if "/tags/" in path else body, status=status)

    monkeypatch.setattr(PeerClient, "put", spoiled)
    with pytest.raises(PeerRefused) as refused:
        dialler.dial(there.connect_id, columns(email=emails(0, 100)), minimum=1)
    assert refused.value.status == 400
    with pytest.raises(RemoteProtocolError):
        there.outcome()


def test_an_address_that_nobody_can_dial_is_refused() -> None:
    with pytest.raises(InvalidInput) as wrong:
        listener.listen(columns(email=emails(0, 10)), bind_to="0.0.0.0:0", ready=lambda text, where: None)
    assert "--address" in wrong.value.hint


def test_who_is_not_in_the_session_gets_nothing(listen: Callable[..., Listening]) -> None:
    there = ConnectId.parse(listen(columns(email=emails(0, 100)), minimum=1).connect_id)
    with PeerClient(Party(), there.address, there.key) as stranger:
        for path in (http.PATH, "/vesica/1/done"):
            with pytest.raises(PeerRefused) as refused:
                stranger.post(path, b"")
            assert refused.value.code == "unwelcome"


@pytest.mark.parametrize("more", [["--count", "--members"], ["--members"], ["--output", "x"]])
def test_contradictions_are_usage_errors(more: list[str]) -> None:
    assert main(["match", "dial", "vesica1x", "--input", "a", "--column", "e=email_sha256", *more]) == 2


def test_a_count_of_a_sample_is_said_to_be_one() -> None:
    told = SegmentAnswer(status="ok", overlap=30, consented=30, half_width=0, consented_half_width=0)
    for size, sampled in ((MAX_ASKED - 1, False), (MAX_ASKED, True)):
        learned = Learned(mode="count", theirs={"email": size}, overlap={"email": 30}, told={"email": told})
        document = match._listened(learned, SimpleNamespace(as_dict=dict))  # type: ignore[arg-type]
        (row,), said = document["results"], " ".join(document["learned"]["you"])
        assert row["sampled"] is sampled
        assert ("it may have more" in said, f"The other side has {size:,}" in said) == (sampled, not sampled)
        assert document["learned"]["other"][1].startswith("Of what it asked about") is sampled


def test_repeated_values_keep_all_their_rows() -> None:
    values = Values.of([b"a" * 16, b"b" * 16, b"a" * 16])
    column = Column.of_rows(values, np.array([1, 2, 5]))
    where = [column.values[index] for index in range(len(column.values))].index(b"a" * 16)
    assert list(column.rows_with(np.array([where]))) == [1, 5]
    assert len(column.values) == 2
    odd = Column.of_rows(Values.of([b"a", b"a\0", b"a"]), np.arange(3))
    assert len(odd.values) == 2


def test_fingerprints_tell_keys_apart() -> None:
    assert fingerprint(Party().key) != fingerprint(Party().key)
