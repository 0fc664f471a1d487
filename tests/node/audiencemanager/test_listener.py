"""What programs call is for tokens of users who may, on this machine or with TLS, and never for browsers."""

import socket
import threading
from pathlib import Path

import httpx
import pytest
from programs import Programs
from starlette.routing import Route as StarletteRoute

from node import service
from node.audiencemanager import listener
from node.audiencemanager.routes import ROUTES, Call, Route
from node.errors import InvalidInput
from node.node import Node
from node.transport import operator_endpoint
from node.transport.addresses import split_address
from node.transport.operator_endpoint import Answer, json_answer


def echo(call: Call) -> Answer:
    who = call.scope.home.guard.caller.name
    return json_answer({"user": who, "project": call.scope.name, "id": call.parameters["id"], "bytes": len(call.body)})


@pytest.fixture(autouse=True)
def _route(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROUTES, "POST /echo/{id}", Route(handler=echo, most=100))


def test_a_program_acts_as_the_user_of_its_token(programs: Programs) -> None:
    with programs.client() as client:
        assert client.post("/echo/a%2Fb", content=b"12").json() == {
            "user": "crm", "project": "default", "id": "a/b", "bytes": 2,
        }  # fmt: skip
        assert client.post("/projects/default/echo/1").json()["project"] == "default"


def test_who_has_no_token_or_no_permission_is_refused(programs: Programs) -> None:
    def status(user: str | None, path: str = "/echo/1", **headers: str) -> tuple[int, str]:
        with programs.client(user) as client:
            answer = client.post(path, headers=headers)
            return answer.status_code, answer.json()["code"]

    before = len(programs.node.audit.entries())
    assert status(None) == (401, "token_needed")
    assert status(None, authorization="Bearer vesica-token-wrong") == (401, "invalid_token")
    assert status(None, authorization="Basic Y3JtOng=") == (401, "token_needed")
    assert len(programs.node.audit.entries()) == before  # a flood of them fills nothing
    assert status("vic") == (403, "permission_denied")
    assert status("vic", "/projects/default/echo/1") == (403, "permission_denied")
    assert status("crm", "/projects/other/echo/1") == (404, "not_found")
    assert status("crm", "/echo") == (404, "not_found")
    with programs.client() as client:
        assert client.get("/echo/1").status_code == 405


def test_several_projects_have_to_be_told_apart(programs: Programs) -> None:
    programs.node.create_project("other")
    with programs.client("ann") as client:
        refused = client.post("/echo/1")
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid_input")
        assert client.post("/projects/other/echo/1").json()["project"] == "other"
    with programs.client() as client:  # who may receive in one of them
        assert client.post("/echo/1").json()["project"] == "default"
        assert client.post("/projects/other/echo/1").status_code == 404


def test_a_page_in_a_browser_is_refused(programs: Programs) -> None:
    with programs.client() as client:
        for header in ("origin", "sec-fetch-site"):
            refused = client.post("/echo/1", headers={header: "null"})
            assert (refused.status_code, refused.json()["code"]) == (403, "from_browser")
            assert not [name for name in refused.headers if name.startswith("access-control") or name == "set-cookie"]


def test_what_is_sent_is_bounded(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    with programs.client() as client:
        assert client.post("/echo/1", content=b"x" * 100).status_code == 200
        refused = client.post("/echo/1", content=b"x" * 101)
        assert (refused.status_code, refused.json()["code"]) == (413, "too_large")
        assert client.post("/echo/1", content=iter([b"x" * 60, b"x" * 60])).status_code == 413  # of unknown length
        assert client.post("/echo/1?" + "x" * 8_193).status_code == 414
        assert client.post("/echo/1", content=b"x").status_code == 200
    monkeypatch.setattr(operator_endpoint, "BODY_SECONDS", 0.1)
    with socket.create_connection(split_address(programs.address)) as slow:
        head = f"POST /echo/1 HTTP/1.1\r\nhost: here\r\nauthorization: Bearer {programs.tokens['crm']}\r\n"
        slow.sendall(head.encode() + b"content-length: 50\r\n\r\nx")
        answer = b""
        while piece := slow.recv(4096):
            answer += piece
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"connection: close" in answer.lower()


def test_other_machines_reach_it_by_tls_alone(node: Node, tmp_path: Path) -> None:
    assert listener.opened(node.home) is None  # until an address is set
    with pytest.raises(InvalidInput, match="needs TLS"):
        node.set(audience_listen="0.0.0.0:8490")
    (tmp_path / "no.pem").write_text("nothing")
    with pytest.raises(InvalidInput, match="certificate"):
        node.set(audience_listen="0.0.0.0:8490", audience_certificate=str(tmp_path / "no.pem"))
    node.set(audience_listen="127.0.0.1:0")
    programs = listener.opened(node.home)
    assert programs is not None
    assert programs.address.startswith("127.0.0.1:")
    programs.stop()


def test_a_service_answers_programs_at_their_address_alone(node: Node) -> None:
    node.set(audience_listen="127.0.0.1:0")
    opened = listener.opened(node.home)
    assert opened is not None
    thread = threading.Thread(target=opened.run, daemon=True)
    thread.start()
    try:
        with httpx.Client(base_url=f"http://{opened.address}", timeout=20) as client:
            assert client.post("/echo/1").status_code == 401
            assert client.get("/event?d_uuid=1").headers["x-error"] == "111"
    finally:
        opened.stop()
        thread.join(5)
    assert not thread.is_alive()
    partners = {route.path for route in service.answering(node.home).routes if isinstance(route, StarletteRoute)}
    programs = {path.partition(" ")[2] for path in ROUTES}
    assert partners
    assert {"/event", "/stream/{stream}", "/profile/{source}/{id}"} <= programs
    assert partners.isdisjoint(programs)
