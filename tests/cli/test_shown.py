"""Commands that take what a partner offers show it and ask, or are told by its hash what their caller saw."""

import io
import sys

import pytest
from homes import SHARE, Side, connect

from cli.terms import fingerprint

pytestmark = pytest.mark.two_nodes


class Typing(io.StringIO):
    """A terminal at which a person types this."""

    def isatty(self) -> bool:
        return True


@pytest.mark.feature("CN3")
@pytest.mark.feature("RC2")
def test_nothing_is_taken_unseen(sides: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch) -> None:
    retailer, publisher = sides
    with retailer.serving(), publisher.serving():
        connect_id = publisher.run("partner", "id")["connect_id"]
        retailer.run("partner", "request", connect_id, "--as", "publisher", "--yes")
        code, out, _ = publisher.command("partner", "accept", "retailer", "--json")
        assert code == 2
        assert "--agreement HASH" in out
        publisher.refused("refused", "partner", "accept", "retailer", "--agreement", "00" * 32, act="partner.accept")
        shown = publisher.run("partner", "show", "retailer")
        monkeypatch.setattr(sys, "stdin", Typing("n\n"))
        code, out, err = publisher.command("partner", "accept", "retailer")
        assert (code, "nothing was done" in err) == (1, True)
        assert fingerprint(shown["key"]) in out
        assert "An estimate needs 20 people" in out
        monkeypatch.setattr(sys, "stdin", Typing("y\n"))
        assert publisher.command("partner", "accept", "retailer")[0] == 0
        retailer.until(lambda rows: rows[0]["status"] == "active", "partner", "list")

        retailer.run("feed", "create", "summer", "--segment", "vip", *SHARE)
        retailer.run("feed", "publish", "summer")
        publisher.until(lambda feeds: bool(feeds["received"]), "feed", "list")
        code, out, _ = publisher.command("feed", "enable", "summer", "--json")
        assert code == 2
        assert "--version HASH" in out
        publisher.refused("refused", "feed", "enable", "summer", "--version", "00" * 32, act="feed.enable")
        monkeypatch.setattr(sys, "stdin", Typing("y\n"))
        code, out, _ = publisher.command("feed", "enable", "summer")
        assert code == 0
        assert publisher.run("feed", "show", "summer")["hash"] in out
        assert "vip" in out
        assert "waits for an answer" not in out  # it is being given
        publisher.run("feed", "disable", "summer")
        monkeypatch.undo()
        assert publisher.run("feed", "enable", "summer")["status"] == "enabled"  # it brings nothing new


@pytest.mark.feature("RC2")
def test_what_is_replaced_while_a_person_reads_is_not_taken(
    sides: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    retailer, publisher = sides
    with retailer.serving(), publisher.serving():
        connect(retailer, publisher)
        retailer.run("feed", "create", "summer", "--segment", "vip", *SHARE)
        retailer.run("feed", "publish", "summer")
        publisher.until(lambda feeds: bool(feeds["received"]), "feed", "list")

        class Slow(Typing):
            def readline(self, size: int | None = -1) -> str:  # type: ignore[override]  # a text file reads text
                monkeypatch.undo()
                retailer.run("feed", "edit", "summer", "--add-segment", "lapsed")
                publisher.until(lambda lists: lists["received"][0]["offered_version"] == 2, "feed", "list")
                return "y\n"

        monkeypatch.setattr(sys, "stdin", Slow())
        assert publisher.command("feed", "enable", "summer")[0] == 1
        assert publisher.run("feed", "list")["received"][0]["status"] == "pending"
