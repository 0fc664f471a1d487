"""Users who may send reach what is of others neither by a segment's id nor by the name of a sender nor by removing."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from programs import Programs

from node.audiencemanager import builtin, listener, platform, platform_messages, visitors
from node.audiencemanager.platform import Arrival
from node.errors import InvalidInput

PERSON = "1" * 38


def message(**changes: Any) -> dict[str, Any]:
    profile = {
        "identityMap": {"ECID": [{"id": PERSON}]},
        "segmentMembership": {"ups": {"s1": {"status": "realized", "lastQualificationTime": "2026-11-22T08:00:00Z"}}},
        "segments": {"add": ["s1"], "remove": []},
        "attributes": {},
    }
    data = {"connection": "c", "revision": 1, "batch": 0, "profiles": [profile], **changes}
    return {"type": "segment.members.changed", "timestamp": "2026-11-22T08:00:00Z", "data": data}


def post(programs: Programs, user: str, labels: tuple[str, ...] = (), **headers: str) -> httpx.Response:
    body = message(segments={"s1": {"name": "vip", "labels": list(labels)}})
    headers = {"vesica-sender": "d1", **{f"vesica-{name}": value for name, value in headers.items()}}
    with programs.client(user) as client:
        return client.post("/audiences", content=json.dumps(body).encode(), headers=headers)


def limited(programs: Programs, sources: list[int]) -> str:
    node = programs.node
    node.roles.create("limited", ["view", "manage-audience", "receive-audience"], sources=sources)
    programs.tokens["lou"] = node.users.create("lou", ["limited"], scope=node.project().scope).text
    return "lou"


def test_one_user_does_not_change_what_another_one_or_this_node_has_sent(programs: Programs) -> None:
    node, project = programs.node, programs.node.project()
    programs.tokens["eve"] = node.users.create("eve", ["audience-receiver"], scope=project.scope).text
    assert post(programs, "crm", labels=("C3",), sequence="5").json()["added"] == 1
    refused = post(programs, "eve", sequence="9")
    assert (refused.status_code, refused.json()["code"]) == (403, "refused")
    (kept,) = project.audience.traits.all()
    assert project.audience.traits.show(kept["number"])["controls"] == ["pii"]
    assert (
        post(programs, "crm", labels=("C3",), sequence="6").json()["added"] == 1
    )  # a sequence of eve's counts for eve
    own = Arrival(sender="own", sequence=None, older=False, segment="own", name="own", labels=("C3",))
    number = platform.take(project.scope, own).trait
    assert post(programs, "crm", sender="d2").status_code == 200  # another node with the same token is not told apart
    assert project.audience.traits.show(kept["number"])["controls"] == []
    body = message(segments={"own": {"name": "own", "labels": []}}, profiles=[])
    with programs.client("eve") as client:
        assert client.post("/audiences", content=json.dumps(body).encode()).status_code == 403
    assert project.audience.traits.show(number)["labels"] == ["C3"]


@pytest.mark.feature("AM7")
def test_who_may_send_for_some_data_sources_removes_nothing_of_others(programs: Programs) -> None:
    project = programs.node.project()
    audience = project.audience
    mine, other = (audience.sources.create(name)["number"] for name in ("Own", "Cards"))
    secret = audience.traits.create("secret", source=other)["number"]
    user, side = limited(programs, [mine]), visitors.opened(project.scope)

    def stream(who: str, **operation: Any) -> None:
        said = {"identities": [{"dataSourceId": builtin.DEVICES, "value": PERSON}], **operation}
        with programs.client(who) as client:
            client.post("/stream/s", content=json.dumps({"ops": [said]}).encode())

    stream("ann", traitInput={"traitIds": [secret]})
    stream(user, operationType="DELETE", traitInput={"traitIds": [secret]})
    stream(user, operationType="OVERWRITE", targetDataSource=[other], traitEvaluation={"data": []})
    with programs.client(user) as client:
        client.get(f"/event?d_uuid={PERSON}&d_unsid={secret}")
        client.get(f"/event?d_uuid={PERSON}&d_ws=overwrite&d_tdpid={other}")
    assert len(side.members(secret, 0)) == 1
    assert post(programs, user).status_code == 403
    stream("ann", operationType="DELETE", traitInput={"traitIds": [secret]})
    assert len(side.members(secret, 0)) == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"segments": {f"s{n}": {"name": "a", "labels": []} for n in range(1_001)}, "profiles": []},
        {"segments": {"s1": {"name": "a", "labels": ["C3\x1b[2J"]}}},
        {"segments": {"s1": {"name": "a", "labels": ["C3"] * 129}}},
    ],
)
def test_what_would_cost_too_much_or_steer_a_terminal_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        platform_messages.read(json.dumps(message(**changes)).encode(), {})


def test_a_small_message_does_not_become_a_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform_messages, "MOST_CHANGES", 5)
    profile = message()["data"]["profiles"][0]
    many = {**profile, "identityMap": {"ECID": [{"id": "1" * 38}] * 3}, "segments": {"add": ["s1", "s2"], "remove": []}}
    named: dict[str, object] = {each: {"name": each, "labels": []} for each in ("s1", "s2")}
    with pytest.raises(InvalidInput, match="too many changes"):
        platform_messages.read(json.dumps(message(segments=named, profiles=[many])).encode(), {})


def test_labels_are_spelled_as_the_standard_has_them() -> None:
    body = message(segments={"s1": {"name": "a", "labels": ["c3", "own"]}})
    (found,), _ = platform_messages.read(json.dumps(body).encode(), {})
    assert found.labels == ("C3", "own")


def test_addresses_and_numbers_in_signals_are_evaluated_and_never_kept(programs: Programs) -> None:
    project = programs.node.project()
    source = project.audience.sources.create("Own")["number"]
    trait = project.audience.traits.create("ann", source=source, rule='email == "Ann@X.example"')["number"]
    said = "email=Ann%40X.example&to=mailto%3AAnn%2540X.example&tel=%2B44+7700+900123&p_mail=Ann%40X.example&page=shoes%2Bsocks"
    with programs.client() as client:
        assert client.get(f"/event?d_uuid={PERSON}&{said}").status_code == 200
    side = visitors.opened(project.scope)
    assert len(side.members(trait, 0)) == 1
    with side.file.read() as tx:
        assert tx.execute("SELECT pairs FROM signals").fetchall() == [('[["page","shoes+socks"]]',)]
    left = b"".join(each.read_bytes() for each in project.scope.home.path.rglob("*") if each.is_file())
    assert b"X.example" not in left.replace(b'email == "Ann@X.example"', b"").replace(b'"value": "Ann@X.example"', b"")


def test_ids_that_would_spoil_a_line_of_a_file_or_a_terminal_are_none(programs: Programs, tmp_path: Path) -> None:
    project = programs.node.project()
    source = project.audience.sources.create("Own")["number"]
    with programs.client() as client:
        for bad in ("a%09b", "a%0Ab", "a%1B%5B2J", "a%E2%80%AEb"):
            assert client.get(f"/event?d_rtbd=json&d_cid={source}%01{bad}").json()["errors"][0]["code"] == 300
    file = tmp_path / f"ftp_dpm_{source}_1.sync"
    file.write_text("a\x1b[2Jb\tx=1\nc d\tx=1\n")
    (receipt,) = project.audience.load([file])
    assert (receipt["invalid_device_ids"], receipt["no_trait_realised"]) == (1, 1)
    assert len(visitors.opened(project.scope).everybody()) == 1


def test_strangers_with_wrong_tokens_do_not_keep_out_who_had_a_right_one(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "KNOWN_SECONDS", -1.0)
    with programs.client() as client, programs.client("ann") as other:
        assert client.get(f"/event?d_uuid={PERSON}").status_code == 200
        monkeypatch.setattr(programs.listener, "_working", listener.WORK_AT_ONCE)  # as many as may wait
        assert client.get(f"/event?d_uuid={PERSON}").status_code == 200
        assert other.get(f"/event?d_uuid={PERSON}").status_code == 503
