"""Connect IDs, requests, and the list of partners, between two nodes over real TLS."""

import socket
from typing import Any

import pytest
from partnering import TERMS, Commands, Typed, kinds, prepared, request, share, status
from sides import EMAIL, Pair, Person, Side

from cli.main import main
from node.errors import (
    InvalidInput,
    NotAllowed,
    RefusedByPartner,
)
from node.imports.identity_columns import IdentityColumn
from node.transport import client as client_module
from protocol.connectid import ConnectId
from protocol.errors import InvalidConnectId


@pytest.mark.feature("CN1")
def test_each_project_has_its_own_id_and_a_regenerated_one_replaces_it(ready: Pair) -> None:
    acme, globe = ready.acme, ready.globe
    other = acme.node.create_project("other").partners.connect_id()
    old = acme.project.partners.connect_id()
    assert old.encode() == acme.project.partners.connect_id().encode()
    assert old.encode() != other.encode()
    assert old.project != other.project
    ready.connect()
    new = acme.project.partners.connect_id(regenerate=True)
    with pytest.raises(RefusedByPartner) as refused:
        globe.project.partners.look_up(old.encode())
    assert refused.value.code == "connect_id_proof"
    assert globe.project.partners.look_up(new.encode()).theirs.project_name == "default"
    assert globe.project.partners.look_up(other.encode()).theirs.project_name == "other"
    assert status(acme) == {"globe": "active"}
    assert status(globe) == {"acme": "active"}


@pytest.mark.feature("CN1")
@pytest.mark.parametrize("index", [0, 7, 40, -1])
def test_one_wrong_character_is_caught_before_any_network_use(
    pair: Pair, index: int, monkeypatch: pytest.MonkeyPatch
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
def test_an_id_that_expired_or_is_ones_own_is_refused(pair: Pair) -> None:
    text = pair.acme.project.partners.connect_id().encode()
    with pytest.raises(InvalidInput):
        pair.acme.project.partners.look_up(text)
    pair.clock.advance(days=30)
    with pytest.raises(InvalidConnectId, match="expired"):
        pair.globe.project.partners.look_up(text)
    fresh = pair.acme.project.partners.connect_id().encode()
    assert fresh != text
    assert ConnectId.parse(fresh).expires == pair.clock() + 30 * 86_400


class TestAsking(Commands):
    @pytest.mark.feature("CN2")
    def test_a_request_shows_who_and_which_terms_and_asks_first(
        self, ready: Pair, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        acme, globe = ready.acme, ready.globe
        acme.project.set_terms(minimum_segment=7)
        text = acme.project.partners.connect_id().encode()
        command = ["--home", str(globe.node.home.path), "partner", "request", text, "--as", "shop"]

        monkeypatch.setattr("sys.stdin", Typed("n\n"))
        assert main(command) == 1
        shown = capsys.readouterr()
        lines = dict(line.split(None, 1) for line in shown.out.splitlines() if " " in line)
        assert lines["organisation"].strip() == "Acme"
        assert lines["project"].strip() == "default"
        assert "An estimate needs 7 people in the segment" in " ".join(shown.out.split())
        assert "Ask Acme" in shown.err
        assert (status(globe), status(acme), kinds(acme)) == ({}, {}, [])

        monkeypatch.setattr("sys.stdin", Typed("y\n"))
        assert main(command) == 0
        assert status(globe) == {"shop": "pending"}
        assert status(acme) == {"globe": "requested"}
        (alert,) = acme.project.alerts.all()
        assert alert.kind == "connection_request"
        assert "Globe" in alert.text
        assert "partner globe" in alert.text


class TestRules(Commands):
    @pytest.mark.feature("ID7")
    def test_different_email_rules_are_told_to_both_before_any_matching(
        self, ready: Pair, capsys: pytest.CaptureFixture[str]
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
        command = ["--home", str(globe.node.home.path), "--project", "fresh", "partner", "request", text, "--yes"]
        assert main(command) == 1
        shown = capsys.readouterr()
        assert "email_sha256: we normalise by google-v3, they by lc-v1" in shown.out
        assert EMAIL in shown.err
        assert fresh.reports.partners() == []

        phones = globe.folder / "phones.csv"
        phones.write_text("id,phone\ng91,+447400000001\n")
        for project, name in ((fresh, "g91"), (acme.project, "a91")):
            phones.write_text(f"id,phone\n{name},+447400000001\n")
            phone = [IdentityColumn.parse("phone=phone_sha256:raw")]
            project.profiles.import_(phones, dataset="phones", id_column="id", identities=phone)
        assert main(command) == 0
        assert "email_sha256: we normalise by google-v3" in capsys.readouterr().out
        (row,) = fresh.reports.partners()
        assert row["namespaces"] == ["phone_sha256/e164-v1"]
        (alert,) = acme.project.alerts.all()
        assert "email_sha256 will not match: lc-v1 here, google-v3 there" in alert.text


@pytest.mark.feature("CN5")
def test_the_list_shows_status_and_segments_shared_and_received(pair: Pair, person: type[Person]) -> None:
    prepared(pair, person)
    acme, globe = pair.acme, pair.globe

    def counts(side: Side) -> tuple[str, int, int]:
        (row,) = side.project.reports.partners()
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


class TestEnding(Commands):
    @pytest.mark.feature("CN6")
    def test_a_disconnect_asks_first_and_the_list_says_why_it_ended(
        self, ready: Pair, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ready.connect()
        command = ["--home", str(ready.globe.node.home.path), "partner"]
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


def test_an_alias_that_no_rule_could_name_is_refused(ready: Pair) -> None:
    with pytest.raises(InvalidInput, match="dot"):
        request(ready.globe, ready.acme, "acme.co")
    assert status(ready.acme) == {}


@pytest.mark.feature("CN3")
def test_a_request_that_was_replaced_since_is_not_accepted(ready: Pair) -> None:
    acme, globe = ready.acme, ready.globe
    connect_id = acme.project.partners.connect_id().encode()
    globe.project.partners.request(globe.project.partners.look_up(connect_id), alias="acme")
    seen = acme.project.partners.show_request("globe")
    globe.project.partners.disconnect("acme")
    globe.project.set_terms(minimum_overlap=9)
    globe.project.partners.request(globe.project.partners.look_up(connect_id), alias="acme")
    with pytest.raises(NotAllowed, match="not the agreement with this hash"):
        acme.project.partners.accept("globe", agreement=seen["agreement"])
    shown = acme.project.partners.show_request("globe")
    assert shown["terms"]["minimum_overlap"] == 9
    acme.project.partners.accept("globe", agreement=shown["agreement"])
    assert acme.acts("partner.accept")[0]["detail"]["agreement"] == shown["agreement"]


@pytest.mark.feature("CN2")
def test_terms_that_change_while_a_person_reads_are_not_asked_for(ready: Pair) -> None:
    partners = ready.globe.project.partners
    found = partners.look_up(ready.acme.project.partners.connect_id().encode())
    ready.globe.project.set_terms(minimum_overlap=9)
    with pytest.raises(NotAllowed, match="changed since the terms were shown"):
        partners.request(found)
    assert status(ready.globe) == {}
