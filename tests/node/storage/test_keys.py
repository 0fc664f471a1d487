"""The keys of a home: under a passphrase, under another one, and replaced; killed at any moment, one of both works."""

from collections.abc import Callable
from pathlib import Path

import pytest

from node.access.audit import Result
from node.errors import AlreadyExists, Failure, InvalidInput, WrongPassphrase
from node.node import Node
from node.storage import files, keys
from node.storage.database import Database
from node.storage.keys import Keys, under_passphrase
from protocol.keychange import KeyChanges

SetPassphrase = Callable[[str | None], None]


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> SetPassphrase:
    """Give what sets the passphrase of the environment."""
    monkeypatch.setattr(keys, "_SCRYPT_COST", 1 << 4)

    def set_(passphrase: str | None) -> None:
        if passphrase is None:
            monkeypatch.delenv("VESICA_PASSPHRASE", raising=False)
        else:
            monkeypatch.setenv("VESICA_PASSPHRASE", passphrase)

    return set_


@pytest.mark.feature("OP12")
def test_a_passphrase_comes_changes_and_goes(node: Node, home: Path, given: SetPassphrase) -> None:
    public, wrapped = node.key, node.home.keys.wrap(b"secret", b"test")
    for passphrase in ("first", "second", None):
        node.set_passphrase(passphrase)
        assert node.home.keys.unwrap(wrapped, b"test") == b"secret"  # a running process goes on
        assert under_passphrase(home) is (passphrase is not None)
        given("wrong")
        if passphrase is not None:
            with pytest.raises(WrongPassphrase):
                _ = Keys(home).public
        given(passphrase)
        assert Keys(home).public == public
        assert Keys(home).unwrap(wrapped, b"test") == b"secret"
    assert len(list(node.audit.entries(act="node.passphrase"))) == 3
    node.set_passphrase("third")
    with pytest.raises(InvalidInput):
        node.set_passphrase("")
    assert under_passphrase(home)


@pytest.mark.feature("OP12")
@pytest.mark.parametrize("before_the_file", [True, False])
def test_a_kill_leaves_the_old_passphrase_or_the_new_one(
    node: Node, home: Path, given: SetPassphrase, monkeypatch: pytest.MonkeyPatch, before_the_file: bool
) -> None:
    once = files.write_atomically

    def killed(path: Path, data: bytes) -> None:
        if not before_the_file:
            once(path, data)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(keys, "write_atomically", killed)
        with pytest.raises(KeyboardInterrupt):
            node.set_passphrase("new")
    given(None if before_the_file else "new")
    assert Keys(home).public == node.key


@pytest.mark.feature("OP12")
@pytest.mark.parametrize("before_the_file", [True, False])
def test_a_kill_leaves_the_old_key_or_the_new_one_with_its_statement(
    node: Node, home: Path, monkeypatch: pytest.MonkeyPatch, before_the_file: bool
) -> None:
    old, once = node.key, files.write_atomically

    def killed(path: Path, data: bytes) -> None:
        if not before_the_file:
            once(path, data)
        raise KeyboardInterrupt

    monkeypatch.setattr(keys, "write_atomically", killed)
    with pytest.raises(KeyboardInterrupt):
        node.rotate_key()
    found = Keys(home)
    if before_the_file:
        assert (found.public, found.changes) == (old, KeyChanges())
    else:
        assert found.publics == (old, found.public)
        found.changes.changes[0].verify_both()
    assert len(list(node.audit.entries(act="node.rotate-key", result=Result.ALLOW))) == 1


def test_a_passphrase_that_cannot_be_written_is_audited_as_failed(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise Failure("no space left")

    monkeypatch.setattr(keys, "write_atomically", full)
    with pytest.raises(Failure):
        node.set_passphrase("new")
    assert len(list(node.audit.entries(act="node.passphrase", result=Result.FAIL))) == 1


@pytest.mark.feature("OP12")
def test_of_two_who_change_the_passphrase_at_once_one_is_told_that_it_was_changed(
    node: Node, home: Path, given: SetPassphrase
) -> None:
    with Node.open(home) as other:
        assert other.key == node.key  # both have opened the keys
        node.set_passphrase("first")
        with pytest.raises(WrongPassphrase):
            other.set_passphrase("second")
    given("first")
    assert Keys(home).public == node.key


def test_of_two_who_make_a_node_at_once_one_is_told_that_there_is_one(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once, others = Database.open, ["Second"]

    def open_(database: str | Path) -> Database:
        opened = once(database)
        if others:
            Node.create(home, others.pop()).close()
        return opened

    monkeypatch.setattr(Database, "open", open_)
    with pytest.raises(AlreadyExists):
        Node.create(home, "First")
    with Node.open(home) as node:
        assert node.home.config.organisation == "Second"
        assert node.home.keys.public == node.key
        assert [entry.target for entry in node.audit.entries(act="node.init")] == ["Second"]


def test_a_service_sees_settings_that_a_command_has_changed(node: Node, home: Path) -> None:
    with Node.open(home) as other:
        other.set(organisation="Fern Holding")
    assert node.home.config.organisation == "Fern Holding"
