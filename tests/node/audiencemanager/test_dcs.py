"""Events over HTTP: the forms and error codes of Audience Manager's data collection servers."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from audiences import Audience
from programs import Programs, programs_of

from node.audiencemanager.declared_ids import Code
from node.node import Node

DEVICE = "22920112968019678612904394744954398990"
GAID = "e4fe9bde-caa0-47b6-908d-ffba3fa184f2"
PIXEL = b"GIF89a\x01\x00\x01\x00"


@pytest.fixture
def audience(node: Node) -> Audience:
    return Audience(node)


def ask(programs: Programs, query: str, **options: Any) -> tuple[list[int], dict[str, Any], str]:
    """Return the codes of an event, the document, and the header with the codes."""
    with programs.client() as client:
        answer = client.get(f"/event?d_rtbd=json&{query}", **options)
    document = answer.json()
    return [each["code"] for each in document.get("errors", [])], document, answer.headers.get("x-error", "")


def test_an_event_realises_what_its_signals_match_and_answers_as_theirs_do(
    audience: Audience, programs: Programs
) -> None:
    own = audience.source("CRM", code="crm")
    by_rule = audience.trait(own, "popstar", 'c_likes == "famous popstar"')
    outright = [audience.trait(own, f"t{each}") for each in range(2)]
    codes, document, _ = ask(
        programs, f"d_cts=2&d_uuid={DEVICE}&c_likes=famous%20popstar&d_sid={outright[0]},{outright[1]}"
    )
    assert codes == []
    assert set(document) == {"stuff", "uuid", "dcs_region", "tid", "traits", "segments"}
    assert (document["uuid"], document["traits"]) == (DEVICE, sorted([by_rule, *outright]))
    assert audience.has(by_rule, 0, DEVICE) == [True]
    form = f"d_cid=20914%01{GAID}&d_cid_ic=crm%01c1&c_likes=famous+popstar"
    with programs.client() as client:
        for kind in ("application/x-www-form-urlencoded", "application/json"):  # Adobe's own client says the latter
            answer = client.post("/event", content=form, headers={"content-type": kind})
            assert (answer.status_code, answer.headers["content-type"]) == (200, "image/gif")
            assert answer.content.startswith(PIXEL)
            assert "set-cookie" not in answer.headers
    assert audience.has(by_rule, 20914, GAID) == audience.has(by_rule, own, "c1") == [True]


def test_traits_of_other_data_sources_are_not_evaluated_where_one_is_named(
    audience: Audience, programs: Programs
) -> None:
    one, two = audience.source("One", code="ic1"), audience.source("Two", code="ic2")
    first, second = audience.trait(one, "T1", "key1 == val1"), audience.trait(two, "T2", "key2 == val2")
    for named, expected in ((f"d_tdpid={one}", [first]), ("d_tdpid_ic=ic2", [second]), ("", [first, second])):
        document = ask(programs, f"key1=val1&key2=val2&d_cts=2&d_uuid={DEVICE}&{named}")[1]
        assert document["traits"] == expected
    ask(programs, f"d_uuid={DEVICE}&d_ws=delete&key1=val1")
    assert audience.has(first, 0, DEVICE) + audience.has(second, 0, DEVICE) == [False, True]
    ask(programs, f"d_uuid={DEVICE}&d_ws=overwrite&d_tdpid={two}&key1=val1")
    assert audience.has(second, 0, DEVICE) == [False]
    assert ask(programs, f"d_uuid={DEVICE}&d_ws=overwrite&key1=val1")[0] == [Code.MALFORMED]


ERRORS = [
    ("d_uuid={}&d_orgid=nobody", [2], True),
    ("d_uuid={}&d_orgid=AB12@AdobeOrg", [], False),
    ("d_uuid={}&d_sid=one", [10], True),
    ("d_uuid={}&d_ws=merge", [10], True),
    ("d_mid=7", [101, 104], True),
    (f"d_uuid=7&d_cid=20914%01{GAID}", [102], False),
    ("c_likes=x", [104], True),
    ("d_uuid={}&d_cid=20914", [300], False),
    ("d_uuid={}&d_cid=x%01y", [300], False),
    ("d_uuid={}&d_cid_ic=nobody%01y", [300], False),
    ("d_cid=20914%01", [300, 104], True),
    ("d_uuid={}&d_cid=99%01y", [302], False),
    ("d_uuid={}&" + "&".join(f"d_cid=2000000%01{each}" for each in range(4)), [310], False),
    ("d_uuid={}&d_site=%esid!", [311], True),
    ("d_uuid={}&c_a=%ff", [311], True),
    ("d_cid=20914%01e4fe", [312], True),
    ("d_uuid={}&d_cid=20914%010%01&d_dpid=20915&d_dpuuid=x", [312, 300, 312], False),
]


def test_every_error_has_its_code(audience: Audience, programs: Programs) -> None:
    own = audience.source("CRM")
    trait = audience.trait(own, "t", 'c_seen == "1"')
    for each, (query, codes, void) in enumerate(ERRORS):
        device = f"{DEVICE[:-2]}{each:02}"
        found, document, header = ask(programs, f"{query.replace('{}', device)}&c_seen=1")
        assert found == codes, query
        assert header == ",".join(map(str, dict.fromkeys(codes)))
        assert ("stuff" not in document) == void
        assert GAID not in str(document)
        if device in query.replace("{}", device):
            assert audience.has(trait, 0, device) == [not void]


def test_ids_over_ten_are_left_out_and_named(audience: Audience, programs: Programs) -> None:
    sources = [audience.source(f"S{each}") for each in range(6)]
    trait = audience.trait(sources[0], "t", 'c_seen == "1"')
    declared = "&".join(f"d_cid={source}%01id{each}" for source in sources for each in range(2))
    assert ask(programs, f"{declared}&c_seen=1")[0] == [309, 309, 301]
    assert audience.has(trait, sources[4], "id0", "id1") == [True, True]
    assert audience.has(trait, sources[5], "id0", "id1") == [False, False]


def test_a_token_that_is_none_has_a_code_of_theirs(programs: Programs) -> None:
    programs.tokens["other"] = "vesica-token-none"
    with programs.client("other") as client:
        answer = client.get(f"/event?d_uuid={DEVICE}")
    assert (answer.status_code, answer.headers["x-error"]) == (401, "111")
    assert answer.json() == {"errors": [{"code": 111, "msg": "Invalid token received"}]}


def test_what_is_too_large_or_hostile_changes_nothing(audience: Audience, programs: Programs) -> None:
    with programs.client() as client:
        assert client.get("/event?" + "c_a=" + "x" * 8_200).status_code == 414
        body = f"d_uuid={DEVICE}&c_a=" + "x" * 32_768
        assert client.post("/event", content=body).status_code == 413
        many = f"d_uuid={DEVICE}" + "&a=1" * 2_000
        assert client.post("/event?d_rtbd=json", content=many).json()["errors"][0]["code"] == 311
        huge = f"/event?d_rtbd=json&d_cid={'9' * 400}%01x&d_cid=2000000%01{'x' * 300}"
        audience.source("CRM")
        assert [each["code"] for each in client.get(huge).json()["errors"]] == [300, 300, 104]
        for raw in (b"\x00\xff=\xfe", b"%00=%00&d_uuid=%F0%9F%92%A9", b"&&&==", b"d_cid=%01%01%01"):
            assert client.post("/event?d_rtbd=json", content=raw).status_code == 400


def test_nothing_of_a_private_signal_or_an_id_is_kept(
    audience: Audience, programs: Programs, capfd: pytest.CaptureFixture[str]
) -> None:
    own = audience.source("CRM")
    trait = audience.trait(own, "young", "p_age < 25")
    ask(programs, f"d_uuid={DEVICE}&p_age=23&p_secret={quote('hush-hush 9731')}")
    assert audience.has(trait, 0, DEVICE) == [True]
    said = capfd.readouterr()
    assert DEVICE not in said.out + said.err
    for path in Path(audience.node.home.path).rglob("*"):
        if path.is_file():
            assert b"hush-hush" not in path.read_bytes()
            assert DEVICE.encode() not in path.read_bytes() or path.name.startswith("audience.db")


def test_the_audit_log_says_how_much_came_and_of_whom_nothing(audience: Audience, node: Node) -> None:
    with programs_of(node) as programs:
        for each in range(3):
            ask(programs, f"d_uuid={DEVICE[:-1]}{each}")
    (row,) = node.audit.entries(act="audience.received")
    assert (row.actor, row.detail) == ("crm", {"requests": 3, "operations": 3})
