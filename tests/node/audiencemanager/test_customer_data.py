"""Adobe's Customer Data API: streams of operations, and what a profile has."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from audiences import Audience
from clock import Clock
from programs import Programs

from node.audiencemanager import receiving, write_queue
from node.errors import Failure
from node.node import Node

GAID = "e4fe9bde-caa0-47b6-908d-ffba3fa184f2"


@pytest.fixture
def audience(node: Node) -> Audience:
    return Audience(node)


def operation(*ids: tuple[int, str], signals: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    data = [{"key": key, "value": value} for key, value in (signals or {}).items()]
    identities = [{"dataSourceId": source, "value": value} for source, value in ids]
    return {"identities": identities, "traitEvaluation": {"data": data}, **more}


def send(programs: Programs, *operations: Any, status: int = 200, **more: Any) -> Any:
    with programs.client() as client:
        answer = client.post("/stream/crm1", content=json.dumps({"ops": operations, **more}))
    assert answer.status_code == status
    return answer.json()


def codes(document: Any) -> dict[int, list[int]]:
    return {
        each.get("operationIndex", 0): [detail["errorCode"] for detail in each["details"]]
        for each in document.get("errors", [])
    }


def test_operations_append_overwrite_and_delete(audience: Audience, programs: Programs) -> None:
    own, other = audience.source("CRM", code="crm"), audience.source("Other")
    seen, typed, theirs = (
        audience.trait(own, "seen", 'segID == "8f81"'),
        audience.trait(own, "typed"),
        audience.trait(other, "theirs", 'segID == "8f81"'),
    )

    def has(who: str = "c1") -> list[bool]:
        return [audience.has(trait, own, who)[0] for trait in (seen, typed, theirs)]

    first = operation((own, "c1"), signals={"segID": "8f81"}, traitInput={"traitIds": [typed]})
    document = send(programs, first, tracing_id="x")
    assert document == {"transactionId": document["transactionId"], "tracingId": "x", "status": "SUCCESS"}
    assert has() == [True, True, True]
    send(programs, operation((own, "c1"), signals={"segID": "8f81"}, operationType="DELETE", targetDataSource=[own]))
    assert has() == [False, True, True]
    send(programs, operation((own, "c1"), signals={"segID": "8f81"}, operationType="OVERWRITE", targetDataSource=[own]))
    assert has() == [True, False, True]
    send(programs, operation((own, "c1"), operationType="OVERWRITE", targetDataSource=[other]))
    assert has() == [True, False, False]
    by_code = {**operation(signals={"segID": "8f81"}), "identities": [{"integrationCode": "crm", "value": "c2"}]}
    send(programs, by_code)
    assert has("c2") == [True, False, True]


def test_what_is_wrong_with_an_operation_costs_itself(audience: Audience, programs: Programs) -> None:
    own = audience.source("CRM")
    trait = audience.trait(own, "seen", "n == 1")
    good = operation((own, "c1"), signals={"n": 1})
    document = send(
        programs,
        operation((20914, "e4fe"), signals={"n": 1}),
        good,
        operation((99, "x")),
        operation((own, "c2"), signals={"n": 1}, operationType="MERGE"),
        operation((own, "c2"), operationType="OVERWRITE"),
        operation((own, "c2"), targetDataSource=[77]),
        operation((own, "c2"), traitInput={"traitIds": ["1"]}),
        operation((own, "c2"), signals={"n": None}),
        {"identities": "c2"},
        "nonsense",
        operation((own, "x" * 300), (own, "c3"), signals={"n": 1}),
        operation(*((own, f"c{each}") for each in range(4, 8)), signals={"n": 1}),
        operation(),
        operation((own, "\ud800")),
    )
    assert document["status"] == "PARTIAL_SUCCESS"
    assert codes(document) == {
        1: [312], 3: [302, 104], 4: [10], 5: [10], 6: [302, 10], 7: [10], 8: [10], 9: [10], 10: [10], 11: [300], 12: [310],
        13: [104], 14: [300, 104],
    }  # fmt: skip
    assert audience.has(trait, own, "c1", "c2", "c3", "c4", "c7") == [True, False, True, True, False]


def test_a_stream_that_is_none_is_refused_as_a_whole(audience: Audience, programs: Programs) -> None:
    bodies: list[Any] = [
        {},
        {"ops": []},
        {"ops": {}},
        {"ops": [{}] * 1_001},
        {"ops": [{}], "tracing_id": "x" * 256},
        [],
        "x",
    ]
    for body in bodies:
        with programs.client() as client:
            answer = client.post("/stream/crm1", json=body)
        assert (answer.status_code, answer.json()["status"]) == (400, "BAD_REQUEST")
    with programs.client() as client:
        for raw in (b"", b"{", b"\xff", b"[" * 90_000):
            assert client.post("/stream/crm1", content=raw).json()["errors"][0]["details"][0]["errorCode"] == 311
        assert client.post("/stream/a%20b", json={"ops": [{}]}).status_code == 400
        too_large = client.post("/stream/crm1", content=b"x" * 102_401)
        assert (too_large.status_code, too_large.json()["status"]) == (413, "BAD_REQUEST")
    programs.tokens["other"] = "vesica-token-none"
    with programs.client("other") as client:
        answer = client.post("/stream/crm1", json={"ops": [{}]})
        assert (answer.status_code, answer.json()["status"]) == (401, "UNAUTHORIZED")
        assert client.get("/profile/0/1").status_code == 401


def test_a_profile_shows_traits_and_segments(audience: Audience, programs: Programs, clock: Clock) -> None:
    own = audience.source("CRM", code="crm")
    seen, expired = audience.trait(own, "seen", 'segID == "8f81"'), audience.trait(own, "short", 'a == "1"', days=1)
    segment = audience.segment(own, "Seen", f"{seen}T AND NOT {expired}T")
    send(programs, operation((own, "c/1"), signals={"segID": "8f81", "a": "1"}))
    with programs.client() as client:
        profile = client.get(f"/profile/{own}/c%2F1").json()["profile"]
        assert [each["id"] for each in profile["data"]["traits"]] == [seen, expired]
        assert profile["data"]["segments"] == []
        assert profile["namespace"] == {
            "id": own, "integration code": "crm", "data provider name": "CRM", "type": "CROSS_DEVICE",
        }  # fmt: skip
        clock.advance(days=3)
        document = client.get(f"/profile/{own}/c%2F1").json()
        assert [each["id"] for each in document["profile"]["data"]["traits"]] == [seen]
        assert [each["id"] for each in document["profile"]["data"]["segments"]] == [segment]
        assert document["summaries"][0]["profileSummary"] == {
            "firstPartyTraitsCount": 1, "thirdPartyTraitsCount": 0, "segmentsCount": 1,
        }  # fmt: skip
        for path, status in ((f"{own}/nobody", 404), ("99/x", 404), ("x/x", 404), ("20914/x", 400)):
            assert client.get(f"/profile/{path}").status_code == status


def test_one_transaction_takes_what_many_have_sent_and_a_full_queue_says_when_to_come_again(
    audience: Audience, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = audience.source("CRM")
    send(programs, operation((own, "c0")))
    taken: list[int] = []
    entered, go_on = threading.Event(), threading.Event()
    receive = receiving.receive

    def slow(scope: Any, calls: Any, source: int) -> Any:
        taken.append(len(calls))
        entered.set()
        assert go_on.wait(20)
        return receive(scope, calls, source)

    monkeypatch.setattr(write_queue, "receive", slow)
    monkeypatch.setattr(write_queue, "MOST", 8)
    with ThreadPoolExecutor(12) as threads, programs.client() as client:
        first = threads.submit(send, programs, operation((own, "first")))
        assert entered.wait(20)
        others = [threads.submit(send, programs, operation((own, f"c{each}"))) for each in range(8)]
        while programs.waiting() < 8:
            entered.wait(0.01)
        refused = client.post("/stream/crm1", json={"ops": [operation((own, "late"))]})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["status"] == "INTERNAL_ERROR"
        go_on.set()
        assert [each.result()["status"] for each in (first, *others)] == ["SUCCESS"] * 9
    assert taken == [1, 8]


def test_a_store_that_fails_is_answered_and_the_next_request_works(
    audience: Audience, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = audience.source("CRM")
    with monkeypatch.context() as patched:

        def broken(*_: Any) -> Any:
            raise Failure("the disk is gone")

        patched.setattr(write_queue, "receive", broken)
        document = send(programs, operation((own, "c1")), status=503)
        assert document["status"] == "INTERNAL_ERROR"
        patched.setattr(write_queue, "receive", lambda *_: 1 / 0)
        with programs.client() as client:
            assert client.post("/stream/crm1", json={"ops": [operation((own, "c1"))]}).status_code == 500
    assert send(programs, operation((own, "c1")))["status"] == "SUCCESS"
