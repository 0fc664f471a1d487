"""Changing an agreement by commands: what changes is said in plain words, asked about, and declined or accepted."""

import sys
from pathlib import Path

import pytest
from homes import Side, connect
from partnering import Typed

pytestmark = [pytest.mark.two_nodes, pytest.mark.feature("CN8")]


def test_an_agreement_is_changed_by_commands(
    sides: tuple[Side, Side], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retailer, publisher = sides
    with retailer.serving(), publisher.serving():
        connect(retailer, publisher)
        before = retailer.run("partner", "terms", "publisher")
        assert (before["version"], before["change"]) == (1, None)
        assert any("An estimate needs 20 people" in sentence for sentence in before["explained"])
        retailer.refused("refused", "partner", "agree", "publisher", "--yes", act="partner.agree")  # nothing is new

        apps = tmp_path / "apps.csv"
        apps.write_text("r,device\nr1,0b2ea2a1-4d6b-4bd1-8a6a-0c3f3d3b6c11\n")
        retailer.run("profile", "import", str(apps), "--dataset", "apps", "--id", "r", "--identity", "device=gaid")
        retailer.run("project", "terms", "--minimum-universe", "30")
        assert retailer.command("partner", "agree", "publisher", "--json")[0] == 2
        monkeypatch.setattr(sys, "stdin", Typed("y\n"))
        code, out, _ = retailer.command("partner", "agree", "publisher")
        assert code == 0
        assert "An estimate needs 30 people at the side that answers, instead of 20." in out
        assert "You offer gaid/uuid-v1, the partner does not" in " ".join(out.split())
        publisher.until(lambda shown: bool(shown["change"]), "partner", "terms", "retailer")
        (alert,) = [each for each in publisher.run("alert", "list") if each["kind"] == "agreement_proposed"]
        command = f"vesica partner agree retailer --home {publisher.home}"
        assert ("change the agreement" in alert["text"], alert["command"]) == (True, command)

        code, out, _ = publisher.command("partner", "agree", "retailer", "--json")
        assert (code, "--agreement HASH" in out) == (2, True)
        assert retailer.run("partner", "agree", "publisher", "--decline")["change"] == "taken back"
        publisher.until(lambda shown: not shown["change"], "partner", "terms", "retailer")
        retailer.run("partner", "agree", "publisher", "--yes")
        publisher.until(lambda shown: bool(shown["change"]), "partner", "terms", "retailer")
        assert f"'vesica partner agree publisher --home {retailer.home} --decline' takes it back" in said(retailer)
        declined = publisher.run("partner", "agree", "retailer", "--decline", "--reason", "too strict")
        assert declined["change"] == "declined"
        retailer.until(lambda shown: not shown["change"], "partner", "terms", "publisher")
        retailer.run("partner", "agree", "publisher", "--yes")
        publisher.until(lambda shown: bool(shown["change"]), "partner", "terms", "retailer")
        monkeypatch.setattr(sys, "stdin", Typed("n\n"))
        assert publisher.command("partner", "agree", "retailer")[0] == 1
        agreement = publisher.run("partner", "terms", "retailer")["change"]["agreement"]
        monkeypatch.undo()
        publisher.refused("refused", "partner", "agree", "retailer", "--agreement", "00" * 32, act="partner.agree")
        assert publisher.run("partner", "agree", "retailer", "--agreement", agreement)["change"] == "accepted"
        publisher.until(lambda shown: shown["version"] == 2, "partner", "terms", "retailer")
        after = retailer.run("partner", "terms", "publisher")
        assert (after["version"], after["agreement"], after["terms"]["minimum_universe"]) == (2, agreement, 30)
        assert after["last_change"]["terms_before"]["minimum_universe"] == 20
        assert "An estimate needs 30 people at the side that answers, instead of 20." in said(retailer)

        # what the accepter asks for when it accepts counts, and the proposer hears of it
        publisher.run("project", "terms", "--minimum-overlap", "40")
        retailer.run("project", "terms", "--minimum-universe", "31")
        retailer.run("partner", "agree", "publisher", "--yes")
        publisher.until(lambda shown: bool(shown["change"]), "partner", "terms", "retailer")
        agreement = publisher.run("partner", "terms", "retailer")["change"]["agreement"]
        publisher.run("partner", "agree", "retailer", "--agreement", agreement)
        retailer.until(lambda shown: shown["version"] == 3, "partner", "terms", "publisher")
        (alert,) = [each["text"] for each in retailer.run("alert", "list") if "version 3" in each["text"]]
        assert "changes minimum universe from 30 to 31; minimum overlap from 20 to 40" in alert
        assert alert.endswith("publisher asked for other terms than those that you saw: minimum overlap from 20 to 40")
        assert "publisher asks for more than you: minimum overlap 40 (you asked for 20)" in said(retailer)


def said(side: Side) -> str:
    """Return what `partner terms` says of the publisher."""
    return " ".join(side.command("partner", "terms", "publisher")[1].split())
