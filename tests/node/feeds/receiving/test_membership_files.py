"""The files of what was received: what they say, and that nothing stays of what was taken back."""

from pathlib import Path

import pytest
from sharing import at_sender, stored, sync
from sides import Pair


def refuse(path: Path, missing_ok: bool = False) -> None:
    """Act as a file system that lets nobody delete."""
    raise PermissionError(1, "not permitted")


@pytest.mark.feature("EX5")
def test_the_word_of_a_purge_leaves_when_the_files_are_gone(shared: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    shared.globe.project.received.enable("summer")
    sync(shared)
    with monkeypatch.context() as patched:
        # As if it was killed at the commit.
        patched.setattr(shared.globe.node.home.database, "afterwards", lambda act: None)
        patched.setattr(Path, "unlink", refuse)
        shared.acme.project.feeds.revoke("summer")
        shared.post()
        assert shared.globe.project.received.show("summer")["status"] == "revoked"
        assert at_sender(shared)["purges"] == []
        shared.globe.node.sweep()  # goes on with the rest
    assert stored(shared)
    shared.post()
    assert not stored(shared)
    assert len(at_sender(shared)["purges"]) == 1


@pytest.mark.feature("EX5")
def test_what_a_kill_leaves_of_a_partner_that_is_gone_is_removed(shared: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    shared.globe.project.received.enable("summer")
    sync(shared)
    cache = shared.globe.node.home.path / "cache"
    assert any(path.is_file() for path in cache.rglob("*"))
    with monkeypatch.context() as patched:
        patched.setattr(shared.globe.node.home.database, "afterwards", lambda act: None)
        shared.globe.project.partners.disconnect("acme")
    assert any(path.is_file() for path in cache.rglob("*"))
    shared.globe.node.sweep()
    assert not any(path.is_file() for path in cache.rglob("*"))
    assert not stored(shared)
