"""What a person hears of a destination, on screen and by mail that another project's server takes."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest
import targets
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from callers import crew, signed_in
from clock import Clock
from targets import Certificate, folder_out, prepared

from cli.demo import free_ports
from node.destinations import mails, watching
from node.destinations.kinds import Later, Refused
from node.destinations.targets import folders
from node.errors import InvalidInput
from node.node import Node
from node.operations.jobs import Jobs
from node.project import Project
from node.service import Schedule
from node.storage.tables import mails as rows
from node.transport import smtp

KINDS = ["start", "success", "failure", "delay", "skips"]
HOUR = 3_600


@pytest.fixture
def project(node: Node, tmp_path: Path) -> Project:
    project = prepared(node.project(), tmp_path, 12, s="orders >= 4")
    folder_out(project, tmp_path)
    return project


def kinds(project: Project) -> list[str]:
    return sorted(each.kind.removeprefix("destination_") for each in project.alerts.all())


@pytest.mark.feature("EC11")
def test_five_alerts_of_a_stream(project: Project, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    assert project.destinations.alerts("out", on=KINDS) == {"on": sorted(KINDS), "mail": None}
    project.destinations.activate("out", ["s"])
    assert kinds(project) == ["started", "succeeded"]
    project.segments.update("s", rule="orders >= 3")
    project.destinations.sync("out")
    assert kinds(project) == ["started", "succeeded"]  # once an hour
    clock.advance(seconds=HOUR)
    project.consent.set("p2", "n")
    project.segments.update("s", rule="orders >= 2")  # p2 comes, and is left out
    project.destinations.sync("out")
    assert kinds(project) == ["skipped", "started", "succeeded"]
    clock.advance(seconds=HOUR)
    with monkeypatch.context() as patched:
        patched.setattr(folders.FolderTarget, "send", lambda *_: Refused("http_400"))
        project.segments.update("s", rule="orders >= 1")
        project.destinations.sync("out")
        assert kinds(project) == ["failed", "skipped", "started", "started", "succeeded"]
        patched.setattr(folders.FolderTarget, "send", lambda *_: Later("timeout", 3_600))
        project.consent.set("p9", "n")
        project.destinations.sync("out")
        since = clock()
        assert watching.alert_delays(project.scope) == since + 30
        clock.advance(seconds=150 * 60)
        watching.alert_delays(project.scope)
        assert "delayed" not in kinds(project)
        clock.advance(seconds=1)
        for seconds, said in ((0, 1), (30, 1), (10 * HOUR - 31, 1), (1, 2)):
            clock.advance(seconds=seconds)
            watching.alert_delays(project.scope)
            assert kinds(project).count("delayed") == said
    project.destinations.sync("out")
    assert watching.alert_delays(project.scope) is None
    texts = [each.text for each in project.alerts.all()]
    assert len(texts) == len(set(texts))
    assert not any("p9" in each or "p2" in each for each in texts)


def test_without_a_subscription_what_goes_well_is_not_on_screen(project: Project) -> None:
    project.consent.set("p4", "n")
    project.destinations.activate("out", ["s"])
    assert kinds(project) == ["skipped"]
    project.destinations.alerts("out", on=["start"])
    assert project.destinations.alerts("out", on=["delay"], off=["start"])["on"] == ["delay"]
    with pytest.raises(InvalidInput, match="no alert 'begin'"):
        project.destinations.alerts("out", on=["begin"])


@pytest.mark.parametrize("days", [-300, 300])
def test_a_clock_that_jumps_neither_loses_a_delay_nor_floods(
    project: Project, clock: Clock, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    monkeypatch.setattr(folders.FolderTarget, "send", lambda *_: Later("timeout", 3_600))
    project.destinations.activate("out", ["s"])
    clock.advance(seconds=4 * HOUR)
    watching.alert_delays(project.scope)
    clock.advance(days=days)
    for _ in range(20):
        clock.advance(seconds=30)
        watching.alert_delays(project.scope)
    assert 1 <= kinds(project).count("delayed") <= 2
    clock.advance(days=-days)
    clock.advance(seconds=11 * HOUR)
    watching.alert_delays(project.scope)
    assert 2 <= kinds(project).count("delayed") <= 3


def test_the_schedule_looks_every_thirty_seconds_while_something_waits(
    project: Project, node: Node, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders.FolderTarget, "send", lambda *_: Later("timeout", 3_600))
    project.destinations.activate("out", ["s"])
    schedule = Schedule(node.home)
    assert schedule.tick() == clock() + 30
    clock.advance(seconds=151 * 60)
    schedule.tick()
    assert "delayed" in kinds(project)


class Mailbox:
    """A server of mail that wants a password; `answer` is what it says to a recipient."""

    def __init__(self) -> None:
        self.mails: list[tuple[list[str], bytes]] = []
        self.answer = "250 OK"
        self.port = 0

    async def handle_RCPT(self, server: object, session: object, envelope: object, address: str, _o: object) -> str:
        if self.answer.startswith("250"):
            envelope.rcpt_tos.append(address)  # type: ignore[attr-defined]
        return self.answer

    async def handle_DATA(self, server: object, session: object, envelope: object) -> str:
        self.mails.append((envelope.rcpt_tos, envelope.content))  # type: ignore[attr-defined]
        return "250 OK"

    @property
    def texts(self) -> list[str]:
        parsed = [message_from_bytes(content, policy=policy.default) for _, content in self.mails]
        return [each.get_content() for each in parsed]


def _authenticate(_server: object, _session: object, _envelope: object, _mechanism: str, data: object) -> AuthResult:
    right = isinstance(data, LoginPassword) and (data.login, data.password) == (b"vesica", b"a secret")
    return AuthResult(success=right, handled=False)


@contextmanager
def mail_server(certificate: Certificate, *, implicit: bool = False) -> Iterator[Mailbox]:
    box = Mailbox()
    box.port = free_ports(1)[0]
    tls: dict[str, Any] = {"ssl_context" if implicit else "tls_context": certificate.context()}
    controller = Controller(
        box,
        hostname="127.0.0.1",
        port=box.port,
        authenticator=_authenticate,
        auth_required=not implicit,
        auth_require_tls=not implicit,
        require_starttls=not implicit,
        **tls,
    )
    controller.start()
    try:
        yield box
    finally:
        controller.stop()


def use(node: Node, box: Mailbox, certificate: Certificate, password: bytes = b"a secret\n") -> None:
    node.mail_server.set(
        f"localhost:{box.port}",
        "vesica@fern.example",
        user="vesica",
        password=password,
        authorities=str(certificate.chain),
    )


def deliver(node: Node, project: Project) -> None:
    """Do what the service does: queue what is due, and run it."""
    mails.submit_due(project.scope)
    jobs = Jobs(node.home)
    while (job := jobs.claim_next()) is not None:
        jobs.execute(job)


@pytest.mark.feature("EC11")
@pytest.mark.parametrize("implicit", [False, True])
def test_alerts_are_mailed_to_who_subscribed(
    project: Project, node: Node, certificate: Certificate, monkeypatch: pytest.MonkeyPatch, implicit: bool
) -> None:
    with mail_server(certificate, implicit=implicit) as box:
        if implicit:
            monkeypatch.setattr(smtp, "IMPLICIT_TLS", box.port)
        use(node, box, certificate)
        project.destinations.alerts("out", on=["success"], mail="ann@fern.example")
        project.destinations.activate("out", ["s"])
        assert box.mails == []  # a slow server holds up nothing
        deliver(node, project)
        deliver(node, project)
    ((recipients, content),) = box.mails
    assert recipients == ["ann@fern.example"]
    mail = message_from_bytes(content, policy=policy.default)
    assert mail["subject"].startswith("Vesica: destination out has sent all that changed")
    assert mail["from"] == "vesica@fern.example"
    assert mail["auto-submitted"] == "auto-generated"
    for each in (*(f"p{n}" for n in range(12)), "a secret", socket.gethostname()):
        assert each not in content.decode()
    kept = b"".join(each.read_bytes() for each in node.home.path.rglob("*") if each.is_file())
    assert b"a secret" not in kept
    assert "password" not in (node.mail_server.show() or {})


def test_mail_is_tried_again_and_then_given_up(
    project: Project, node: Node, certificate: Certificate, clock: Clock
) -> None:
    with mail_server(certificate) as box:
        use(node, box, certificate)
        project.destinations.alerts("out", on=["success", "start"], mail="ann@fern.example")
        box.answer = "450 later"
        project.destinations.activate("out", ["s"])
        deliver(node, project)
        assert mails.submit_due(project.scope) == clock() + 60
        box.answer = "250 OK"
        clock.advance(seconds=60)
        deliver(node, project)
        assert len(box.mails) == 2
        clock.advance(seconds=HOUR)
        box.answer = "550 p4 is unknown"
        project.segments.update("s", rule="orders >= 3")
        project.destinations.sync("out")
        deliver(node, project)
        assert mails.submit_due(project.scope) is None
    (alert,) = [each for each in project.alerts.all() if each.kind == "mail_failed"]
    assert alert.text == "mail to a subscriber of alerts was not sent: the server answered with 550"


def test_why_a_server_takes_no_mail(
    node: Node, certificate: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = targets.certificate(tmp_path, "other.example")
    with mail_server(certificate) as box:
        use(node, box, certificate)
        assert node.mail_server.test("ann@fern.example") is None
        use(node, box, certificate, b"wrong")
        assert "refuses the user" in str(node.mail_server.test("ann@fern.example"))
        use(node, box, other)
        assert "certificate" in str(node.mail_server.test("ann@fern.example"))
        assert len(box.mails) == 1
    assert "could not be reached" in str(node.mail_server.test("ann@fern.example"))
    plain = Controller(Mailbox(), hostname="127.0.0.1", port=free_ports(1)[0])
    plain.start()
    node.mail_server.set(f"localhost:{plain.port}", "vesica@fern.example")
    assert "no encryption" in str(node.mail_server.test("ann@fern.example"))
    plain.stop()
    monkeypatch.setattr(smtp, "SESSION_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_drip, args=(listening,), daemon=True).start()
        node.mail_server.set(f"localhost:{listening.getsockname()[1]}", "vesica@fern.example")
        assert "broke" in str(node.mail_server.test("ann@fern.example"))


def _drip(listening: socket.socket) -> None:
    """Greet for ever, a line at a time."""
    connection, _ = listening.accept()
    with connection:
        connection.settimeout(0.1)
        while True:
            try:
                connection.sendall(b"220-welcome\r\n")
                if connection.recv(1) == b"":
                    return
            except TimeoutError:
                continue
            except OSError:
                return


def test_few_mails_an_hour_to_one_address(project: Project, node: Node, certificate: Certificate, clock: Clock) -> None:
    with mail_server(certificate) as box:
        use(node, box, certificate)
        with project.scope.begin() as tx:
            for n in range(50):
                mails.post(project.scope, tx, "", "ann@fern.example", f"alert {n}")
        deliver(node, project)
        assert len(box.mails) == mails.MOST_AN_HOUR
        assert "not mailed" in box.texts[-1]
        for days in (-300, 600):  # a clock that jumps neither floods nor loses
            clock.advance(days=days)
            with project.scope.begin() as tx:
                for n in range(50):
                    mails.post(project.scope, tx, "", "ann@fern.example", f"alert {n}")
        deliver(node, project)
        assert mails.MOST_AN_HOUR < len(box.mails) <= 3 * mails.MOST_AN_HOUR


@pytest.mark.parametrize(
    "address",
    ["ann", "ann@", "@x.example", "a b@x.example", "ann@x.example\nBcc: eve@x.example", "<a@b.c>", "a@b, c@d"],
)
def test_what_is_no_address_is_refused(project: Project, node: Node, address: str) -> None:
    with pytest.raises(InvalidInput, match="no address for mail"):
        project.destinations.alerts("out", on=["delay"], mail=address)
    with pytest.raises(InvalidInput, match="no address for mail"):
        node.mail_server.set("localhost:25", address)


def test_no_text_becomes_a_header(project: Project) -> None:
    mail = mails.message(project.scope, "vesica@fern.example", "1", "ann@fern.example", "a\rBcc: eve@x.example\nsecond")
    assert "bcc" not in {each.lower() for each in mail}
    assert mail["subject"] == "Vesica: a Bcc: eve@x.example"


def test_who_may_see_no_destination_any_more_gets_no_mail(
    project: Project, node: Node, certificate: Certificate
) -> None:
    with mail_server(certificate) as box:
        use(node, box, certificate)
        tokens = crew(node, vi="viewer", wes="viewer")
        for name in ("vi", "wes"):
            with signed_in(node, tokens[name]) as theirs:
                theirs.project().destinations.alerts("out", on=["start"], mail=f"{name}@fern.example")
        with signed_in(node, tokens["ann"]) as anns:
            anns.project().destinations.activate("out", ["s"])
            anns.users.remove("wes")
        with node.home.guard.itself():
            deliver(node, project)
            with project.scope.read() as tx:
                assert len(tx.execute(rows.select()).all()) == 2
        assert [recipients for recipients, _ in box.mails] == [["vi@fern.example"]]
