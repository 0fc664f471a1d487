"""A home comes back from a backup whole or not at all, and goes on with partners that went further meanwhile."""

import json
import shutil
import tarfile
from contextlib import contextmanager

import pytest
from sqlalchemy import select, update

from node.access.permissions import PermissionDenied
from node.backup import backup
from node.backup.backup import BackupIncomplete
from node.errors import AlreadyExists, InvalidToken, Refused, WrongPassphrase
from node.imports.importer import IdentityColumn
from node.node import Node
from node.storage import tables
from protocol.letters import Restored
from psi.errors import VesicaError

EMAIL = "email_sha256/lc-v1"
DAY = 86_400


def people(person, names):
    return [person(f"p{each}", f"{each}@example.com") for each in names]


def told(node, kind):
    return [alert.text for alert in node.project().alerts.list() if alert.kind == kind]


@contextmanager
def both(pair):
    with pair.acme.serving(), pair.globe.serving():
        yield


def set_back(pair, side, source):
    """Lose a side's home and restore it from a backup."""
    side.node.close()
    shutil.rmtree(side.folder / side.name)
    document = Node.restore(source, side.folder / side.name, now=pair.clock)
    side.open()
    return document


def go_on(side, partner):
    """Let a restored side's project go on, and its partner evaluate."""
    side.project.resume()
    if side.project.feeds.list():
        side.project.partners.allow(partner)


def replace(side, name, ids):
    file = side.folder / f"{side.name}-{name}.csv"
    file.write_text("\n".join(["id", *ids]) + "\n")
    side.project.segments.update(name, file)


@pytest.mark.feature("OP9")
@pytest.mark.parametrize("form", ["copy", "copy.tar"])
def test_a_copied_home_is_a_working_node(either_node, tmp_path, clock, random, form):
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
        assert again.project().consent_model == "opt-in"
        assert again.project().snapshot().profile_count == 2
        assert len(again.project().snapshot().identities(EMAIL)) == 2
        assert again.project().namespaces() == [EMAIL]
        again.audit.verify()
        assert again.audit.list(act="node.restore")[0].detail["made"] == clock.now - DAY
        again.create_project("other")
    assert [entry.act for entry in node.audit.list(act="node")] == ["node.backup", "node.init"]
    private = [home, tmp_path / form, *(home / "keys").iterdir()]
    assert [path.stat().st_mode & 0o077 for path in private] == [0, 0, 0, 0]


@pytest.mark.feature("OP9")
def test_keys_under_a_passphrase_stay_under_it(tmp_path, clock, monkeypatch):
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
def test_a_half_written_one_is_refused_with_what_is_missing(node, tmp_path, form):
    node.backup(tmp_path / form)
    home, broken = tmp_path / "new", tmp_path / "broken"

    def refused(lacks):
        with pytest.raises(BackupIncomplete, match=lacks):
            Node.restore(broken if form == "copy" else packed(), home)
        assert not home.exists()
        assert not list(tmp_path.glob(".new*"))

    def packed():
        (tmp_path / "broken.tar").unlink(missing_ok=True)
        with tarfile.open(tmp_path / "broken.tar", "w") as tar:
            for path in sorted(broken.rglob("*")):
                if path.is_file():
                    tar.add(path, path.relative_to(broken).as_posix())
        return tmp_path / "broken.tar"

    def whole():
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
def test_nothing_is_overwritten_and_refusals_are_audited(node, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(AlreadyExists):
        node.backup(tmp_path / "full")
    assert [entry.result for entry in node.audit.list(act="node.backup")] == ["deny"]
    node.backup(tmp_path / "backup")
    with pytest.raises(AlreadyExists):
        Node.restore(tmp_path / "backup", tmp_path / "full")
    (tmp_path / "cut.tar").write_bytes(b"no tar")
    with pytest.raises(BackupIncomplete):
        Node.restore(tmp_path / "cut.tar", tmp_path / "new")


@pytest.mark.feature("OP9")
@pytest.mark.feature("OP1")
def test_who_may_not_make_one_copies_nothing(node, tmp_path):
    ann = node.users.create("ann", ["administrator"])
    node.guard.sign_in(ann.text)
    node.guard.sign_in(node.users.create("bob", ["data"]).text)
    for name in ("copy", "copy.tar"):
        with pytest.raises(PermissionDenied):
            node.backup(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    node.guard.sign_in(ann.text)
    assert [(each.actor, each.result) for each in node.audit.list(act="node.backup")] == [("bob", "deny")] * 2


@pytest.mark.feature("OP9")
@pytest.mark.feature("OP1")
def test_users_are_restored_without_their_tokens_and_old_connect_ids_end(either_node, tmp_path, clock, random):
    """Also in the other kind of database than the backup's; a token that was revoked since must not come back."""
    ann = either_node.users.create("ann", ["administrator"])
    either_node.guard.sign_in(ann.text)
    either_node.users.create("bob", ["data"])
    with either_node.store.begin() as tx:
        tx.execute(update(tables.projects).values(connect_secret=b"wrapped", connect_expires=clock() + DAY))
    either_node.backup(tmp_path / "backup.tar")
    document = Node.restore(tmp_path / "backup.tar", tmp_path / "new", now=clock, random=random)
    assert (document["tokens_ended"], document["on_hold"]) == (2, ["default"])
    with Node.open(tmp_path / "new", now=clock, random=random) as again:
        with pytest.raises(InvalidToken):
            again.guard.sign_in(ann.text)
        with again.store.read() as tx:
            assert tx.execute(select(tables.tokens)).all() == []
            assert set(tx.execute(select(tables.projects.c.connect_secret, tables.projects.c.connect_expires))) == {
                (None, None)
            }
        again.guard.sign_in(again.users.reset("ann").text)
        assert {each.name: each.roles for each in again.users.list()} == {
            "ann": (("administrator", None),),
            "bob": (("data", None),),
        }


@pytest.mark.feature("OP9")
def test_users_are_restored_into_postgresql(postgres_urls, tmp_path, clock, random):
    with Node.create(tmp_path / "first", "Fern", database=postgres_urls[0], now=clock, random=random) as node:
        node.guard.sign_in(node.users.create("ann", ["administrator"]).text)
        node.backup(tmp_path / "backup")
    document = Node.restore(tmp_path / "backup", tmp_path / "new", database=postgres_urls[1], now=clock, random=random)
    assert document["tokens_ended"] == 1
    with Node.open(tmp_path / "new", now=clock, random=random) as node:
        node.guard.sign_in(node.users.reset("ann").text)
        assert node.project().on_hold


@pytest.mark.feature("OP9")
def test_what_a_strange_backup_holds_is_read_within_bounds(node, tmp_path, monkeypatch):
    node.backup(tmp_path / "good")

    def refused(source, lacks):
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
    copied, copy_file = [], backup.copy_file

    def watching(source, target, **options):
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
def test_the_secrets_of_key_epochs_are_left_out(idle_pair, person, tmp_path):
    pair = idle_pair
    with both(pair):
        pair.prepare(people(person, "abc"), people(person, "bcd"), {"vip": ["pa", "pb"]})
        pair.share("summer", ["vip"], [EMAIL])
        pair.acme.project.feeds.sync()
    with pair.acme.node.store.read() as tx:
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
def test_a_restored_sender_goes_on_with_a_receiver_that_went_further(idle_pair, person, tmp_path):
    """Revisions, receipts, letters, versions and epochs moved on since the backup; nobody mends anything by hand."""
    pair = idle_pair
    with both(pair):
        pair.prepare(people(person, "abcdef"), people(person, "cdefgh"), {"vip": ["pc", "pd"], "all": ["pe", "pf"]})
        pair.share("summer", ["vip", "all"], [EMAIL])
        pair.acme.project.feeds.sync()
        assert pair.globe.members("acme", "vip") == {"pc", "pd"}
        pair.acme.node.backup(tmp_path / "backup")
        for ids in (["pc"], ["pc", "pe"], ["pd"]):
            pair.clock.advance(seconds=60)
            replace(pair.acme, "vip", ids)
            pair.acme.project.feeds.sync()
        pair.globe.project.received.disable("summer")  # a letter that acme is going to forget
        pair.post()
        revision = pair.globe.project.received.show("summer")["revision"]
    pair.clock.advance(days=2)
    document = set_back(pair, pair.acme, tmp_path / "backup")
    assert document["told"] == ["globe"]
    with both(pair):
        pair.post()
        assert pair.acme.project.feeds.show("summer")["partners"][0]["status"] == "disabled"  # the letter came again
        assert pair.acme.project.feeds.show("summer")["partners"][0]["last_revision"] == revision
        assert len(told(pair.globe.node, "restored")) == 1
        pair.globe.project.received.enable("summer")
        pair.post()
        go_on(pair.acme, "globe")
        (run,) = pair.acme.project.feeds.sync()
        assert run["status"] == "done"
        assert run["revision"] > revision
        assert pair.globe.members("acme", "vip") == {"pc", "pd"}  # as the backup has it
        replace(pair.acme, "vip", ["pd", "pf"])
        pair.acme.project.feeds.sync()
        assert pair.globe.members("acme", "vip") == {"pd", "pf"}
        assert pair.globe.acts("exchange.release", "deny") == []
        ours = pair.acme.project.feeds.show("summer")["partners"][0]["last_receipt"]
        assert ours == pair.globe.project.received.show("summer")["last_receipt"]


@pytest.mark.feature("OP9")
def test_a_restored_receiver_gets_back_what_it_forgot(idle_pair, person, tmp_path):
    pair = idle_pair
    with both(pair):
        pair.prepare(people(person, "abcdef"), people(person, "cdefgh"), {"vip": ["pc", "pd"], "gone": ["pc"]})
        pair.share("summer", ["vip"], [EMAIL])
        pair.share("winter", ["gone"], [EMAIL])
        pair.acme.project.feeds.sync()
        pair.globe.node.backup(tmp_path / "backup.tar")
        pair.clock.advance(seconds=60)
        replace(pair.acme, "vip", ["pe"])
        pair.acme.project.feeds.sync()
        pair.acme.project.feeds.revoke("winter")
        pair.post()
        revision = pair.acme.project.feeds.show("summer")["partners"][0]["last_revision"]
    pair.clock.advance(days=2)
    set_back(pair, pair.globe, tmp_path / "backup.tar")
    with both(pair):
        assert pair.globe.members("acme", "vip") == {"pc", "pd"}
        assert pair.globe.members("acme", "gone") == {"pc"}
        pair.post()
        assert pair.globe.project.received.show("winter")["status"] == "revoked"  # purged once more
        assert pair.globe.project.received.show("summer")["revision"] == revision
        replace(pair.acme, "vip", ["pf"])
        with pytest.raises(VesicaError) as spent:  # all of its people are new points in a new epoch
            pair.acme.project.feeds.sync("summer")
        assert spent.value.code == "evaluations_spent"
        pair.clock.advance(seconds=60)
        pair.acme.project.partners.allow("globe")
        (run,) = pair.acme.project.feeds.sync("summer")
        assert run["status"] == "done"
        assert pair.globe.members("acme", "vip") == {"pf"}
        assert pair.acme.acts("partner.allow")


@pytest.mark.feature("OP9")
def test_an_edit_that_was_forgotten_is_not_undone_by_a_run(idle_pair, person, tmp_path):
    pair = idle_pair
    with both(pair):
        pair.prepare(people(person, "abcdef"), people(person, "cdefgh"), {"vip": ["pc"], "gone": ["pd"]})
        pair.share("summer", ["vip", "gone"], [EMAIL])
        pair.acme.project.feeds.sync()
        pair.acme.node.backup(tmp_path / "backup")
        pair.acme.project.feeds.unshare("summer", segment="gone")
        pair.post()
    pair.clock.advance(days=2)
    set_back(pair, pair.acme, tmp_path / "backup")
    with both(pair):
        pair.post()
        assert "version 2 of feed summer" in told(pair.acme.node, "feed_version_lost")[0]
        go_on(pair.acme, "globe")
        with pytest.raises(VesicaError, match="version"):
            pair.acme.project.feeds.sync()
        with pytest.raises(VesicaError):
            pair.globe.members("acme", "gone")
        pair.acme.project.feeds.unshare("summer", segment="gone")
        pair.post()
        (run,) = pair.acme.project.feeds.sync()
        assert run["status"] == "done"
        assert pair.globe.members("acme", "vip") == {"pc"}
        assert pair.globe.project.received.show("summer")["hash"] == pair.acme.project.feeds.show("summer")["hash"]


@pytest.mark.feature("OP9")
def test_after_a_restore_the_budget_counts_as_spent(idle_pair, person, tmp_path):
    pair = idle_pair
    with both(pair):
        terms = {"epsilon": "1/20", "budget": "2"}
        pair.prepare(people(person, "abcdef"), people(person, "cdefgh"), {"vip": ["pc", "pd"]}, **terms)
        feeds = pair.acme.project.feeds
        feeds.create("summer", segments=["vip"], namespaces=[EMAIL], partners=["globe"])
        assert pair.globe.project.partners.show("acme")["their_budget"] == {"of": "2", "left": "2"}
        pair.globe.node.backup(tmp_path / "backup")
        feeds.estimate("summer")
        assert pair.globe.project.partners.show("acme")["their_budget"] == {"of": "2", "left": "39/20"}
    pair.clock.advance(days=2)
    set_back(pair, pair.globe, tmp_path / "backup")
    with both(pair):
        pair.post()
        assert pair.globe.project.partners.show("acme")["their_budget"] == {"of": "2", "left": "0"}
        pair.globe.project.resume()
        pair.clock.advance(days=2)
        with pytest.raises(VesicaError) as refused:
            feeds.estimate("summer")
        assert refused.value.code == "budget"
        pair.clock.advance(days=29)
        assert feeds.estimate("summer")[0]["status"] in ("ok", "below_minimum")


@pytest.mark.feature("OP9")
def test_a_node_without_an_address_is_restored_too(tmp_path, clock, person, pair_type):
    pair = pair_type(tmp_path, clock, receiver_address=False)
    with pair.acme.serving():
        pair.prepare(people(person, "abcd"), people(person, "bcde"), {"vip": ["pb"]})
        pair.share("summer", ["vip"], [EMAIL])
        pair.globe.node.backup(tmp_path / "backup")
        pair.acme.project.feeds.revoke("summer")
        pair.post()
    clock.advance(days=2)
    set_back(pair, pair.globe, tmp_path / "backup")
    with pair.acme.serving():
        assert pair.globe.project.received.show("summer")["status"] == "enabled"
        pair.post()
        assert pair.globe.project.received.show("summer")["status"] == "revoked"


@pytest.mark.feature("OP9")
def test_a_partner_that_says_it_was_restored_again_and_again_is_put_off(idle_pair, person):
    pair = idle_pair
    with both(pair):
        pair.prepare(people(person, "ab"), people(person, "bc"), {"vip": ["pb"]})
        acme, row = pair.acme, pair.acme.project.partners.get("globe")
        for _ in range(3):
            with acme.node.store.begin() as tx:
                acme.project.letters.send(tx, row.id, "connect.restored", Restored(received=0, made=1))
            pair.post()
        waiting = acme.project.partners.show("globe")["letters_waiting"]
        assert waiting == 2
        pair.clock.advance(seconds=3_601)
        pair.post()
        assert acme.project.partners.show("globe")["letters_waiting"] == 1
        assert len(told(pair.globe.node, "restored")) == 1


@pytest.mark.feature("OP9")
def test_rows_go_into_postgresql_and_back(postgres_urls, tmp_path, clock, random):
    with Node.create(tmp_path / "first", "Fern", database=postgres_urls[0], now=clock, random=random) as node:
        node.create_project("other")
        node.backup(tmp_path / "backup")
    Node.restore(tmp_path / "backup", tmp_path / "second", database=postgres_urls[1], now=clock, random=random)
    with Node.open(tmp_path / "second", now=clock, random=random) as node:
        assert [project.name for project in node.projects()] == ["default", "other"]
        node.audit.verify()
    with pytest.raises(Refused, match="holds a node"):
        Node.restore(tmp_path / "backup", tmp_path / "third", database=postgres_urls[1], now=clock, random=random)
    assert not (tmp_path / "third").exists()


@pytest.mark.feature("OP9")
def test_a_backup_beside_writers_is_of_one_moment(node, tmp_path):
    """Data files that a writer replaces while the rows are copied stay in the backup."""
    project = node.project()
    columns = [IdentityColumn.parse("email=email_sha256:raw")]

    def load(count):
        file = tmp_path / "people.csv"
        file.write_text("id,email\n" + "".join(f"{each},p{each}@example.com\n" for each in range(count)))
        project.profiles.import_(file, dataset="crm", id_column="id", identities=columns)

    load(2)
    copied, copy_rows = [], backup.copy_rows

    def slow(reading, tx):
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
        assert len(again.project().snapshot().identities(EMAIL)) == 2
    assert len(project.snapshot().identities(EMAIL)) == 14
