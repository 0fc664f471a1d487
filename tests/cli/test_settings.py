"""Two nodes with services of their own, of which one moves, gets a passphrase, and gets another key."""

from pathlib import Path

import pytest
from homes import SHARE, Side, connect

from cli.demo import free_ports
from cli.main import main

pytestmark = pytest.mark.two_nodes


@pytest.mark.feature("OP12")
def test_settings_passphrase_and_key_change_without_a_new_connection(
    sides: tuple[Side, Side], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retailer, publisher = sides
    with publisher.serving():
        with retailer.serving():
            connect(retailer, publisher)
            retailer.run("feed", "create", "summer", "--segment", "vip", *SHARE)
            retailer.run("feed", "publish", "summer")
            publisher.until(lambda feeds: bool(feeds["received"]), "feed", "list")
            publisher.enable("summer")
            publisher.until(lambda feed: feed["members"] == {"vip": 30}, "feed", "show", "summer")
            new = f"127.0.0.1:{free_ports(1)[0]}"
            changed = retailer.run("node", "set", "--address", new, "--listen", new, "--org", "Fern")
            assert (changed["told"], changed["restart"]) == (["publisher"], True)
            assert retailer.run("node", "status")["address"] == new
            error = retailer.refused("refused", "node", "key", "rotate", "--yes", act="node.rotate-key")
            assert "kill" in error["hint"]
            publisher.until(lambda rows: rows[0]["organisation"] == "Fern", "partner", "list")
        retailer.address = new
        assert retailer.command("node", "key", "rotate", "--json")[0] == 2
        old = retailer.run("node", "status")["key"]
        rotated = retailer.run("node", "key", "rotate", "--yes")
        assert (rotated["old"], rotated["key"] != old) == (old, True)
        assert retailer.command("node", "passphrase", "--json")[0] == 2
        monkeypatch.setenv("VESICA_NEW_PASSPHRASE", "a long one")
        assert retailer.run("node", "passphrase") == {"passphrase": True}
        assert "wrong_passphrase" in retailer.command("node", "status", "--json")[1]
        monkeypatch.setenv("VESICA_PASSPHRASE", "a long one")
        assert retailer.run("node", "status")["key"] == rotated["key"]
        with retailer.serving():
            partner = publisher.until(lambda each: each["key"] == rotated["key"], "partner", "show", "retailer")
            assert partner["status"] == "active"
            publisher.until(lambda each: each["address"] == new, "partner", "show", "retailer")
            retailer.run("consent", "set", "r60", "n")
            publisher.until(lambda feed: feed["members"] == {"vip": 29}, "feed", "show", "summer")
            kinds = {each["kind"] for each in publisher.run("alert", "list")}
            assert {"key_replaced", "address_changed"} <= kinds
            assert "key_changed" not in kinds
            publisher.run("feed", "disable", "summer")
            retailer.until(lambda feeds: feeds["shared"][0]["partners"]["publisher"] == "disabled", "feed", "list")


@pytest.mark.parametrize("passphrase", [None, "wrong"])
def test_what_needs_the_passphrase_fails_without_it(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], passphrase: str | None
) -> None:
    monkeypatch.setenv("VESICA_PASSPHRASE", "right")
    monkeypatch.setenv("VESICA_HOME", str(home))
    assert main(["node", "init", "--org", "Fern"]) == 0
    assert main(["node", "sync"]) == 0
    if passphrase is None:
        monkeypatch.delenv("VESICA_PASSPHRASE")
    else:
        monkeypatch.setenv("VESICA_PASSPHRASE", passphrase)
    capsys.readouterr()
    for words in (["node", "sync"], ["feed", "sync"], ["node", "serve", "--listen", "127.0.0.1:0"]):
        assert main(words) == 1
        out, err = capsys.readouterr()
        assert out == ""
        said = [line for line in err.splitlines() if "a service runs" not in line]
        assert [line.split(": ")[1] for line in said] == ["error", "hint"]
        assert "VESICA_PASSPHRASE" in said[1]
