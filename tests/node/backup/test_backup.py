"""A home comes back from a backup whole or not at all."""

import json
import shutil
import tarfile
from pathlib import Path
from typing import IO, Any

import pytest
from clock import Clock, SeededRandom
from restoring import both, people
from sides import EMAIL, Pair, Person
from sqlalchemy import select

from node.access.permissions import PermissionDenied
from node.backup import backup
from node.backup.backup import BackupIncomplete
from node.errors import AlreadyExists, NotAllowed, WrongPassphrase
from node.imports.identity_columns import IdentityColumn
from node.node import Node
from node.people.datasets import namespaces
from node.people.snapshots import Snapshot
from node.storage import tables
from node.storage.database import Tx
from node.storage.tables import DAY


@pytest.mark.feature("OP9")
@pytest.mark.parametrize("form", ["copy", "copy.tar"])
def test_a_copied_home_is_a_working_node(
    either_node: Node, tmp_path: Path, clock: Clock, random: SeededRandom, form: str
) -> None:
    node, project = either_node, either_node.project()
    project.consent.set_model("opt-in")
    file = tmp_path / "people.csv"
    file.write_text("id,email\n1,ann@example.com\n2,bob@example.com\n")
    columns = [IdentityColumn.parse("email=email_sha256:raw")]
    project.profiles.import_(file, dataset="crm", id_column="id", identities=columns)
    assert node.backup(tmp_path / form)["keys"] == "as they are"
    clock.advance(days=1)
    home = tmp_path / "elsewhere"
    document = Node.restore(tmp_path / form, home, now=clock, random=random)
    assert document["key"] == node.key.hex()
    with Node.open(home, now=clock, random=random) as again:
        assert again.project().scope.consent_model == "opt-in"
        assert Snapshot.open(again.project().scope).profile_count == 2
        assert len(Snapshot.open(again.project().scope).identities(EMAIL)) == 2
        assert namespaces(again.project().scope) == [EMAIL]
        again.audit.verify()
        assert again.audit.entries(act="node.restore")[0].detail["made"] == clock.now - DAY
        again.create_project("other")
    assert [entry.act for entry in node.audit.entries(act="node")] == ["node.backup", "node.init"]
    private = [home, tmp_path / form, *(home / "keys").iterdir()]
    assert [path.stat().st_mode & 0o077 for path in private] == [0, 0, 0, 0]


@pytest.mark.feature("OP9")
def test_keys_under_a_passphrase_stay_under_it(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VESICA_PASSPHRASE", "open")
    with Node.create(tmp_path / "old", "Fern", now=clock) as node:
        assert node.backup(tmp_path / "copy")["keys"] == "under the passphrase"
    monkeypatch.delenv("VESICA_PASSPHRASE")
    with pytest.raises(WrongPassphrase):
        Node.restore(tmp_path / "copy", tmp_path / "new", now=clock)
    assert not (tmp_path / "new").exists()
    monkeypatch.setenv("VESICA_PASSPHRASE", "open")
    Node.restore(tmp_path / "copy", tmp_path / "new", now=clock)


@pytest.mark.feature("OP9")
@pytest.mark.parametrize("form", ["copy", "copy.tar"])
def test_a_half_written_one_is_refused_with_what_is_missing(node: Node, tmp_path: Path, form: str) -> None:
    node.backup(tmp_path / form)
    home, broken = tmp_path / "new", tmp_path / "broken"

    def refused(lacks: str) -> None:
        with pytest.raises(BackupIncomplete, match=lacks):
            Node.restore(broken if form == "copy" else packed(), home)
        assert not home.exists()
        assert not list(tmp_path.glob(".new*"))

    def packed() -> Path:
        (tmp_path / "broken.tar").unlink(missing_ok=True)
        with tarfile.open(tmp_path / "broken.tar", "w") as tar:
            for path in sorted(broken.rglob("*")):
                if path.is_file():
                    tar.add(path, path.relative_to(broken).as_posix())
        return tmp_path / "broken.tar"

    def whole() -> None:
        shutil.rmtree(broken, ignore_errors=True)
        if form == "copy":
            shutil.copytree(tmp_path / form, broken)
        else:
            with tarfile.open(tmp_path / form) as tar:
                tar.extractall(broken, filter="data")

    whole()
    (broken / "manifest.json").unlink()
    refused("manifest.json is missing")
    whole()
    (broken / "keys" / "node.key").unlink()
    refused("keys/node.key")
    whole()
    rows = (broken / "control.db").read_bytes()
    (broken / "control.db").write_bytes(rows[: len(rows) // 2])
    refused("control.db")
    whole()
    (broken / "config.json").write_bytes((broken / "config.json").read_bytes().replace(b"Fern", b"Farn"))
    refused("config.json")
    whole()
    listed = json.loads((broken / "manifest.json").read_text())
    listed["files"]["../evil"] = [1, "0" * 64]
    (broken / "manifest.json").write_text(json.dumps(listed))
    refused("damaged")
    (broken / "manifest.json").write_text("{")
    refused("damaged")


@pytest.mark.feature("OP9")
def test_nothing_is_overwritten_and_refusals_are_audited(node: Node, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(AlreadyExists):
        node.backup(tmp_path / "full")
    assert [entry.result for entry in node.audit.entries(act="node.backup")] == ["deny"]
    node.backup(tmp_path / "backup")
    with pytest.raises(AlreadyExists):
        Node.restore(tmp_path / "backup", tmp_path / "full")
    (tmp_path / "cut.tar").write_bytes(b"no tar")
    with pytest.raises(BackupIncomplete):
        Node.restore(tmp_path / "cut.tar", tmp_path / "new")


@pytest.mark.feature("OP9")
@pytest.mark.feature("OP1")
def test_who_may_not_make_one_copies_nothing(node: Node, tmp_path: Path) -> None:
    ann = node.users.create("ann", ["administrator"])
    node.home.guard.sign_in(ann.text)
    node.home.guard.sign_in(node.users.create("bob", ["data"]).text)
    for name in ("copy", "copy.tar"):
        with pytest.raises(PermissionDenied):
            node.backup(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    node.home.guard.sign_in(ann.text)
    assert [(each.actor, each.result) for each in node.audit.entries(act="node.backup")] == [("bob", "deny")] * 2


@pytest.mark.feature("OP9")
def test_what_a_strange_backup_holds_is_read_within_bounds(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.backup(tmp_path / "good")

    def refused(source: Path, lacks: str) -> None:
        with pytest.raises(BackupIncomplete, match=lacks):
            Node.restore(source, tmp_path / "new")
        assert not (tmp_path / "new").exists()

    with tarfile.open(tmp_path / "packed.tar", "w:gz") as tar:
        tar.add(tmp_path / "good", "")
    refused(tmp_path / "packed.tar", "is no backup")
    key = tmp_path / "good" / "keys" / "node.key"
    elsewhere = key.rename(tmp_path / "secret")
    key.symlink_to(elsewhere)
    refused(tmp_path / "good", "keys/node.key")
    with tarfile.open(tmp_path / "linked.tar", "w") as tar:
        tar.add(tmp_path / "good", "")
        tar.add(elsewhere, "secret")
        link = tarfile.TarInfo("keys/node.key")
        link.type, link.linkname = tarfile.LNKTYPE, "secret"
        tar.addfile(link)
    refused(tmp_path / "linked.tar", "keys/node.key")
    key.unlink()
    keys = (tmp_path / "good" / "keys").rename(tmp_path / "elsewhere")
    elsewhere.rename(keys / "node.key")
    (tmp_path / "good" / "keys").symlink_to(keys)
    refused(tmp_path / "good", "keys/node.key")
    (tmp_path / "good" / "keys").unlink()
    keys.rename(tmp_path / "good" / "keys")
    copy_file = backup.copy_file
    copied: list[tuple[int, str]] = []

    def watching(source: IO[bytes], target: Path, **options: Any) -> tuple[int, str]:
        copied.append(copy_file(source, target, **options))
        return copied[-1]

    monkeypatch.setattr(backup, "copy_file", watching)
    with (tmp_path / "good" / "keys" / "node.key").open("ab") as file:
        file.write(bytes(10 << 20))
    refused(tmp_path / "good", "keys/node.key")
    listed = json.loads((tmp_path / "good" / "manifest.json").read_text())["files"]
    assert sum(size for size, _ in copied) == sum(size for size, _ in listed.values()) + 1
    monkeypatch.setattr(backup, "MANIFEST_BYTES", 100)
    refused(tmp_path / "good", "damaged")


@pytest.mark.feature("OP9")
def test_the_secrets_of_key_epochs_are_left_out(idle_pair: Pair, person: type[Person], tmp_path: Path) -> None:
    pair = idle_pair
    with both(pair):
        pair.prepare(people(person, "abc"), people(person, "bcd"), {"vip": ["pa", "pb"]})
        pair.share("summer", ["vip"], [EMAIL])
        pair.acme.project.feeds.sync()
    with pair.acme.node.home.database.read() as tx:
        secrets = [row.secret for row in tx.execute(select(tables.epochs))]
    assert all(secrets)
    pair.acme.node.backup(tmp_path / "backup")
    pair.globe.node.backup(tmp_path / "theirs")
    held = b"".join(path.read_bytes() for path in (tmp_path / "backup").rglob("*") if path.is_file())
    assert not any(secret in held for secret in secrets)
    names = {path.relative_to(tmp_path / "theirs").parts[0] for path in (tmp_path / "theirs").rglob("*")}
    assert names == {"manifest.json", "config.json", "control.db", "keys", "data"}
    assert not list((tmp_path / "theirs").rglob("records-*"))
    assert list((tmp_path / "theirs").rglob("*.members"))


@pytest.mark.feature("OP9")
def test_rows_go_into_postgresql_and_back(
    postgres_urls: tuple[str, str], tmp_path: Path, clock: Clock, random: SeededRandom
) -> None:
    with Node.create(tmp_path / "first", "Fern", database=postgres_urls[0], now=clock, random=random) as node:
        node.create_project("other")
        node.backup(tmp_path / "backup")
    Node.restore(tmp_path / "backup", tmp_path / "second", database=postgres_urls[1], now=clock, random=random)
    with Node.open(tmp_path / "second", now=clock, random=random) as node:
        assert [project.name for project in node.projects()] == ["default", "other"]
        node.audit.verify()
    with pytest.raises(NotAllowed, match="has a node in it"):
        Node.restore(tmp_path / "backup", tmp_path / "third", database=postgres_urls[1], now=clock, random=random)
    assert not (tmp_path / "third").exists()


@pytest.mark.feature("OP9")
def test_a_backup_beside_writers_is_of_one_moment(node: Node, tmp_path: Path) -> None:
    """Data files that a writer replaces while the rows are copied stay in the backup."""
    project = node.project()
    columns = [IdentityColumn.parse("email=email_sha256:raw")]

    def load(count: int) -> None:
        file = tmp_path / "people.csv"
        file.write_text("id,email\n" + "".join(f"{each},p{each}@example.com\n" for each in range(count)))
        project.profiles.import_(file, dataset="crm", id_column="id", identities=columns)

    load(2)
    copy_rows = backup.copy_rows
    copied: list[bool] = []

    def slow(reading: Tx, tx: Tx) -> None:
        for count in range(3, 15):  # more generations than are kept
            load(count)
        copied.append(True)
        copy_rows(reading, tx)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(backup, "copy_rows", slow)
        node.backup(tmp_path / "backup")
    assert copied
    Node.restore(tmp_path / "backup", tmp_path / "new")
    with Node.open(tmp_path / "new") as again:
        assert len(Snapshot.open(again.project().scope).identities(EMAIL)) == 2
    assert len(Snapshot.open(project.scope).identities(EMAIL)) == 14


@pytest.mark.feature("OP1")
def test_who_may_not_see_everything_writes_no_backup(node: Node, tmp_path: Path) -> None:
    """It has all data and the keys: whoever can restore it sees them."""
    node.home.guard.sign_in(node.users.create("ann", ["administrator"]).text)
    node.roles.create("operator", ["administer", "view"])
    bob = node.users.create("bob", ["operator"])
    node.home.guard.sign_in(bob.text)
    with pytest.raises(NotAllowed, match="bob does not have the permission"):
        node.backup(tmp_path / "copy.tar")
    assert not (tmp_path / "copy.tar").exists()
