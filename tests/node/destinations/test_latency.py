"""How long changes take, from when they qualified to when the target has them."""

from pathlib import Path

import pytest
from clock import Clock
from pytest_httpserver import HTTPServer
from targets import Certificate, folder_out, prepared, project_on_loopback
from werkzeug import Request, Response

from node.destinations import due, kinds, latency
from node.destinations.kinds import Delivered, Later, Pending
from node.destinations.targets import folders, webhooks
from node.node import Node
from node.project import Project
from node.transport.addresses import AllowedAddresses


@pytest.fixture
def project(node: Node, tmp_path: Path) -> Project:
    project = prepared(node.project(), tmp_path, 30, s="orders < 20", t="orders >= 20")
    folder_out(project, tmp_path)
    return project


@pytest.mark.feature("EC12")
def test_each_hour_says_how_long_its_changes_took(
    project: Project, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, send = clock(), folders.FolderTarget.send

    def slow(target: folders.FolderTarget, message: kinds.Message) -> kinds.Outcome:
        clock.advance(seconds=3)  # between the first byte and the answer
        return Later("timeout") if clock() < began + 45 else send(target, message)

    monkeypatch.setattr(folders.FolderTarget, "send", slow)
    project.destinations.activate("out", ["s"])  # tried after 0, 18 and 51 s
    for seconds in (15, 30):
        clock.advance(seconds=seconds)
        project.destinations.sync("out")
    project.destinations.activate("out", ["t"])  # 10 changes more, which take 3 s
    (row,) = project.destinations.runs("out")
    assert row["latency"] == {
        "qualified": {"count": 30, "p50": 0, "p95": 0, "last": began + 54},
        "sent": {"count": 30, "p50": 51, "p95": 51, "last": began + 54},
        "confirmed": {"count": 30, "p50": 54, "p95": 54, "last": began + 57},
        "ready": {"count": 30, "p50": 54, "p95": 54, "last": began + 57},
    }
    (of_t,) = project.destinations.runs("out", "t")
    assert (of_t["latency"]["confirmed"]["count"], of_t["latency"]["confirmed"]["p95"]) == (10, 3)
    clock.advance(seconds=3_600)
    for n in range(9):
        project.consent.set(f"p{n}", "n")
        if n != 0:
            project.destinations.sync("out")
    (newest, _) = project.destinations.runs("out")
    assert newest["latency"]["confirmed"]["count"] == 9
    assert newest["latency"]["confirmed"]["p50"] == 3


def test_a_clock_that_jumps_back_makes_nothing_negative(
    project: Project, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = folders.FolderTarget.send

    def jump(target: folders.FolderTarget, message: kinds.Message) -> kinds.Outcome:
        clock.advance(days=-1)
        return send(target, message)

    monkeypatch.setattr(folders.FolderTarget, "send", jump)
    project.destinations.activate("out", ["s"])
    (row,) = project.destinations.runs("out")
    assert row["latency"]["confirmed"]["p95"] == 0


def test_what_is_kept_of_an_hour_has_an_end() -> None:
    kept = {latency._in_three_digits(seconds) for seconds in range(0, 10**6, 7)}
    assert len(kept) < 4_000
    assert latency._in_three_digits(123_456) == 123_000


@pytest.mark.feature("EC12")
def test_a_target_that_works_on_it_is_asked_when_it_is_ready(
    tmp_path: Path, clock: Clock, web: HTTPServer, certificate: Certificate
) -> None:
    project = project_on_loopback(tmp_path / "home", clock, tmp_path)
    answers = [202, 202, 503, 200]

    def answer(request: Request) -> Response:
        return Response(status=answers.pop(0), headers={"location": "/jobs/7?a=b"})

    web.expect_request("/hook", method="POST").respond_with_handler(answer)
    web.expect_request("/jobs/7", method="GET").respond_with_handler(answer)
    settings = {"url": web.url_for("/hook"), "authorities": str(certificate.chain)}
    project.destinations.create("hook", "webhook", settings, uses=["analytics"])
    began = clock()
    project.destinations.activate("hook", ["s"])
    (row,) = project.destinations.runs("hook")
    assert (row["activated"], row["latency"]["confirmed"]["p50"], row["latency"]["ready"]) == (8, 0, None)
    assert due.submit_due(project.scope) == began + 15
    for _ in range(60):
        clock.advance(seconds=1)
        project.destinations.sync("hook")
    assert [request.method for request, _ in web.log] == ["POST", "GET", "GET", "GET"]
    assert web.log[1][0].query_string == b"a=b"
    (row,) = project.destinations.runs("hook")
    assert (row["received"], row["activated"], row["requests"]) == (8, 8, 1)
    assert row["latency"]["confirmed"] == {"count": 8, "p50": 0, "p95": 0, "last": began}
    assert row["latency"]["ready"] == {"count": 8, "p50": 60, "p95": 60, "last": began + 60}
    assert due.submit_due(project.scope) is None
    project.scope.home.close()


def test_a_target_that_does_not_say_when_it_is_ready_is_asked_once_a_turn(
    project: Project, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def poll(_target: folders.FolderTarget, handle: str, _now: int) -> kinds.Outcome:
        asked.append(handle)
        return Later("timeout")

    monkeypatch.setattr(folders.FolderTarget, "poll", poll, raising=False)
    monkeypatch.setattr(folders.FolderTarget, "send", lambda _target, message: Pending(message.id))
    project.destinations.activate("out", ["s", "t"])
    clock.advance(seconds=15)
    project.destinations.sync("out")
    assert len(asked) == 1
    assert due.submit_due(project.scope) == clock() + 15  # the other one waits as long
    clock.advance(seconds=15)
    project.destinations.sync("out")
    assert len(asked) == 2


@pytest.mark.parametrize(
    "location",
    [
        "https://elsewhere.example/1",
        "http://localhost/1",
        "https://localhost:1/1",
        "//x/1",
        "a" * 3_000,
    ],
)
def test_a_place_elsewhere_is_never_asked(web: HTTPServer, certificate: Certificate, location: str) -> None:
    web.expect_request("/hook").respond_with_response(Response(status=202, headers={"location": location}))
    settings = {"url": web.url_for("/hook"), "authorities": str(certificate.chain)}
    target = webhooks.WebhookTarget(settings, AllowedAddresses(loopback=True), bytes(32))
    message = kinds.Message(id="msg_1", segment="s", sequence=1, body=b"{}", now=1_800_000_000)
    assert target.send(message) == Delivered()
