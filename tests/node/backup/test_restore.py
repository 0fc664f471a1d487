"""A restored project shares and answers nothing before a person lets it go on, and what was spent stays spent."""

import hashlib
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from clock import Clock, SeededRandom
from restoring import both, forgotten, people, prepare, set_back
from sides import EMAIL, HERE, Pair, Person, Side
from sqlalchemy import select, update

from cli.main import main
from node.access.permissions import PermissionDenied
from node.backup.backup import BackupIncomplete
from node.errors import InvalidToken, NotAllowed, RefusedByPartner
from node.exchanges.http import open_at
from node.node import Node
from node.partners import key_epochs
from node.service import Schedule
from node.storage import tables
from node.storage.ids import wire_id
from node.storage.tables import DAY
from node.transport.client import Peer, PeerClient
from protocol.states import Kind, Part
from psi.errors import Remedy, VesicaError


@pytest.mark.feature("OP9")
@pytest.mark.feature("OP1")
def test_users_are_restored_without_their_tokens_and_old_connect_ids_end(
    either_node: Node, tmp_path: Path, clock: Clock, random: SeededRandom
) -> None:
    """Also in the other kind of database than the backup's; a token that was revoked since must not come back."""
    ann = either_node.users.create("ann", ["administrator"])
    either_node.home.guard.sign_in(ann.text)
    either_node.users.create("bob", ["data"])
    with either_node.home.database.begin() as tx:
        tx.execute(update(tables.projects).values(connect_secret=b"wrapped", connect_expires=clock() + DAY))
    either_node.backup(tmp_path / "backup.tar")
    document = Node.restore(tmp_path / "backup.tar", tmp_path / "new", now=clock, random=random)
    assert (document["tokens_ended"], document["on_hold"]) == (2, ["default"])
    with Node.open(tmp_path / "new", now=clock, random=random) as again:
        with pytest.raises(InvalidToken) as ended:
            again.home.guard.sign_in(ann.text)
        assert ended.value.remedy == Remedy("user.reset")
        with again.home.database.read() as tx:
            assert tx.execute(select(tables.tokens)).all() == []
            assert set(tx.execute(select(tables.projects.c.connect_secret, tables.projects.c.connect_expires))) == {
                (None, None)
            }
        again.home.guard.sign_in(again.users.reset("ann").text)
        assert {each.name: each.roles for each in again.users.all()} == {
            "ann": (("administrator", None),),
            "bob": (("data", None),),
        }


@pytest.mark.feature("OP9")
def test_users_are_restored_into_postgresql(
    postgres_urls: tuple[str, str], tmp_path: Path, clock: Clock, random: SeededRandom
) -> None:
    with Node.create(tmp_path / "first", "Fern", database=postgres_urls[0], now=clock, random=random) as node:
        node.home.guard.sign_in(node.users.create("ann", ["administrator"]).text)
        node.backup(tmp_path / "backup")
    document = Node.restore(tmp_path / "backup", tmp_path / "new", database=postgres_urls[1], now=clock, random=random)
    assert document["tokens_ended"] == 1
    with Node.open(tmp_path / "new", now=clock, random=random) as node:
        node.home.guard.sign_in(node.users.reset("ann").text)
        assert node.project().scope.on_hold


@pytest.mark.feature("OP9")
def test_after_a_restore_the_budget_counts_as_spent(idle_pair: Pair, person: type[Person], tmp_path: Path) -> None:
    pair = idle_pair
    with both(pair):
        terms = {"epsilon": "1/20", "budget": "2"}
        pair.prepare(people(person, "abcdef"), people(person, "cdefgh"), {"vip": ["pc", "pd"]}, **terms)
        feeds = pair.acme.project.feeds
        feeds.create("summer", segments=["vip"], namespaces=[EMAIL], partners=["globe"])
        assert pair.globe.project.reports.partner("acme")["their_budget"] == {"of": 2, "left": 2}
        pair.globe.node.backup(tmp_path / "backup")
        feeds.estimate("summer")
        assert pair.globe.project.reports.partner("acme")["their_budget"] == {"of": 2, "left": 1.95}
    pair.clock.advance(days=2)
    set_back(pair, pair.globe, tmp_path / "backup")
    with both(pair):
        pair.post()
        assert pair.globe.project.reports.partner("acme")["their_budget"] == {"of": 2, "left": 0}
        pair.globe.project.resume()
        pair.clock.advance(days=2)
        with pytest.raises(VesicaError) as refused:
            feeds.estimate("summer")
        assert refused.value.code == "budget"
        pair.clock.advance(days=29)
        assert feeds.estimate("summer")[0]["status"] in ("ok", "below_minimum")


@pytest.mark.feature("OP9")
def test_who_opted_out_after_the_backup_is_not_shared_again(
    idle_pair: Pair, person: type[Person], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair, acme, globe = idle_pair, idle_pair.acme, idle_pair.globe
    with forgotten(pair, person, acme, tmp_path / "backup") as report:
        acme.project.consent.set("pa", "n")
        pair.clock.advance(seconds=60)
        acme.project.feeds.sync()
        assert globe.members("acme", "vip") == {"pb", "pc", "pd"}
    assert report["on_hold"] == ["default"]
    with both(pair):
        pair.post()
        for _ in range(3):
            pair.clock.advance(days=1)
            Schedule(acme.node.home).tick()
            pair.post()
        assert [job for job in acme.node.jobs.all() if job.kind == "release" and job.state != "done"] == []
        asks: list[Callable[[], object]] = [acme.project.feeds.sync, lambda: acme.project.feeds.estimate("summer")]
        for ask in asks:
            with pytest.raises(VesicaError) as refused:
                ask()
            assert refused.value.code == "on_hold"
            assert refused.value.remedy == Remedy("project.resume", {"name": "default"})
        assert globe.members("acme", "vip") == {"pb", "pc", "pd"}
        shows_and_resumes(acme, capsys)
        assert acme.acts("project.resume")
        acme.project.partners.allow("globe")
        acme.project.consent.set("pa", "n")
        pair.clock.advance(days=1)
        Schedule(acme.node.home).tick()
        pair.post()
        assert globe.members("acme", "vip") == {"pb", "pc", "pd"}
        assert acme.project.feeds.show("summer")["partners"][0]["last_revision"] > 2
    with pytest.raises(NotAllowed):
        acme.project.resume()


def shows_and_resumes(side: Side, capsys: pytest.CaptureFixture[str]) -> None:
    def typed(*words: str) -> str:
        assert main(["--home", str(side.folder / side.name), *words]) == 0
        return str(capsys.readouterr().out)

    assert next(each.text for each in side.project.alerts.all() if each.kind == "on_hold").endswith(
        "until a person resumes project default"
    )
    assert side.project.reports.project()["on_hold"] is True
    assert side.node.status()["projects"][0]["on_hold"] is True
    assert "on hold since a restore" in typed("project", "show")
    assert "on hold" in typed("node", "status")
    assert "goes on" in typed("project", "resume")
    assert "on_hold" not in [each.kind for each in side.project.alerts.all(open_only=True)]
    assert "on hold since a restore" not in typed("project", "show")
    assert side.node.status()["projects"][0]["on_hold"] is False


@pytest.mark.feature("OP9")
def test_on_hold_nothing_is_fetched_and_no_count_is_answered(
    idle_pair: Pair, person: type[Person], tmp_path: Path
) -> None:
    pair, acme, globe = idle_pair, idle_pair.acme, idle_pair.globe
    with acme.serving():
        with globe.serving():
            prepare(pair, person)
            globe.segment("theirs", ["pa", "pb"])
            globe.project.feeds.create("winter", segments=["theirs"], namespaces=[EMAIL], partners=["acme"])
            for side in (acme, globe):
                side.node.backup(tmp_path / f"{side.name}.tar")
        set_back(pair, globe, tmp_path / "globe.tar", days=2)
        with globe.serving():
            pair.post()
            with pytest.raises(VesicaError) as refused:  # globe came from a backup, and would answer
                acme.project.feeds.estimate("summer")
            assert refused.value.code == "on_hold"
            globe.project.resume()
            pair.clock.advance(days=1)
            assert acme.project.feeds.estimate("summer")[0]["status"] == "ok"
    set_back(pair, acme, tmp_path / "acme.tar", days=2)
    with acme.node.home.database.read() as tx:
        feed_id = tx.execute(select(tables.feeds.c.id).where(tables.feeds.c.name == "summer")).scalar_one()
    with acme.node.home.database.begin() as tx:
        epoch = key_epochs.current(acme.project.scope, tx, acme.project.partners.get("globe")).number
    subject = {"feed": wire_id(feed_id), "version": 1, "revision": 1}
    with (
        acme.serving(),
        PeerClient(globe.node.home, Peer(acme.address, acme.node.key, allowed=HERE)) as client,
        pytest.raises(RefusedByPartner) as fetched,
    ):
        open_at(client, acme.opening("globe", Kind.RELEASE, Part.RECEIVER, subject=subject, epoch=epoch))
    assert fetched.value.code == "on_hold"
    assert "vesica" not in fetched.value.document()["hint"]
    assert fetched.value.remedy is None


@pytest.mark.feature("OP9")
def test_whoever_restores_is_told_what_to_do(node: Node, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    node.backup(tmp_path / "backup")
    assert main(["--home", str(tmp_path / "new"), "node", "restore", str(tmp_path / "backup")]) == 0
    said = capsys.readouterr().out
    for command in ("project resume", "partner allow NAME", "user reset NAME", "partner id"):
        assert f"vesica {command}" in said
    assert main(["--home", str(tmp_path / "other"), "node", "restore", str(tmp_path / "nothing")]) == 1
    assert "there is nothing at" in capsys.readouterr().err


@pytest.mark.feature("OP9")
def test_who_may_not_share_may_not_resume(node: Node, tmp_path: Path, clock: Clock) -> None:
    node.backup(tmp_path / "backup")
    Node.restore(tmp_path / "backup", tmp_path / "new", now=clock)
    with Node.open(tmp_path / "new", now=clock) as again:
        again.home.guard.sign_in(again.users.create("ann", ["administrator"]).text)
        data, shares = (again.users.create(name, [name]).text for name in ("data", "shares"))
        again.home.guard.sign_in(data)
        with pytest.raises(PermissionDenied):
            again.project().resume()
        again.home.guard.sign_in(shares)
        again.project().resume()
        assert not again.project().scope.on_hold


@pytest.mark.feature("EX8")
def test_after_a_restore_evaluations_count_as_spent_for_each_partner(
    idle_pair: Pair, person: type[Person], tmp_path: Path
) -> None:
    pair, acme, globe = idle_pair, idle_pair.acme, idle_pair.globe
    with forgotten(pair, person, acme, tmp_path / "backup"):
        pass
    with both(pair):
        pair.post()
        acme.project.resume()
        for _ in range(2):
            with pytest.raises(VesicaError) as spent:
                acme.project.feeds.sync()
            assert spent.value.code == "evaluations_spent"
            pair.clock.advance(days=13)
        acme.project.partners.allow("globe")
        assert acme.project.feeds.sync()[0]["status"] == "done"
        people = [person(f"q{n}", f"q{n}@example.com") for n in range(6)]
        globe.people(people, "more")
        with pytest.raises(VesicaError) as spent:  # once, not for ever
            acme.project.feeds.sync()
        assert spent.value.code == "evaluations_spent"


@pytest.mark.feature("EX8")
def test_after_a_restore_a_partner_ends_one_epoch_early_and_no_more(
    idle_pair: Pair, person: type[Person], tmp_path: Path
) -> None:
    pair, acme = idle_pair, idle_pair.acme
    with forgotten(pair, person, acme, tmp_path / "backup"):
        pass
    project = acme.project
    connection = project.partners.get("globe")

    def pulled(number: int) -> int:
        with acme.node.home.database.begin() as tx:
            return key_epochs.follow(project.scope, tx, connection, number).number

    with acme.node.home.database.begin() as tx:
        ours = key_epochs.current(project.scope, tx, connection).number
    pair.clock.advance(seconds=60)
    assert pulled(ours + 5) == ours + 5  # our number was too low
    pair.clock.advance(seconds=60)
    with pytest.raises(NotAllowed):
        pulled(ours + 6)
    pair.clock.advance(days=1)
    assert pulled(ours + 6) == ours + 6
    pair.clock.advance(seconds=60)
    with pytest.raises(NotAllowed):
        pulled(ours + 7)


ENDLESS = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT n AS number FROM r"


def twice_linked(own: sqlite3.Connection) -> None:
    """Let the pages of a table's rows be linked to once more, by the bytes of a page above them."""
    own.execute("CREATE TABLE long (a)")
    own.executemany("INSERT INTO long VALUES (?)", [("x" * 3_000,)] * 50)
    own.commit()
    (page,) = own.execute("SELECT rootpage FROM sqlite_master WHERE name = 'long'").fetchone()
    (size,) = own.execute("PRAGMA page_size").fetchone()
    (file,) = (row[2] for row in own.execute("PRAGMA database_list"))
    own.execute("PRAGMA journal_mode = delete")
    with open(file, "r+b") as raw:
        raw.seek((page - 1) * size)
        content = bytearray(raw.read(size))
        assert content[0] == 5  # the cells of such a page have links to others
        first, second = (int.from_bytes(content[place : place + 2]) for place in (12, 14))
        content[second : second + 4] = content[first : first + 4]
        raw.seek((page - 1) * size)
        raw.write(content)


@pytest.mark.feature("OP9")
@pytest.mark.parametrize(
    "odd",
    [
        "CREATE TRIGGER hold AFTER UPDATE OF restored ON projects BEGIN UPDATE projects SET resumed = 9; END",
        f"ALTER TABLE audit RENAME TO other; CREATE VIEW audit AS {ENDLESS}",
        "ALTER TABLE projects RENAME TO other; CREATE VIEW projects AS SELECT *, hex(zeroblob(90000000)) FROM other",
        "ALTER TABLE projects ADD COLUMN more AS (hex(zeroblob(90000000)))",
        f"ALTER TABLE projects ADD COLUMN more DEFAULT '{'x' * 101}'",
        "CREATE TABLE more (a CHECK (length(hex(zeroblob(90000000))) > a))",
        "CREATE INDEX more ON projects (hex(zeroblob(90000000)))",
        "CREATE VIRTUAL TABLE more USING fts5(a)",
        "UPDATE projects SET terms = '" + "[" * 100_000 + "'",
        "UPDATE projects SET terms = 'none'",
        twice_linked,
    ],
)
def test_a_backup_with_more_than_rows_in_its_tables_is_refused(
    node: Node, tmp_path: Path, odd: str | Callable[[sqlite3.Connection], None]
) -> None:
    """It would lift the hold, or have rows without end; nothing of it is there afterwards."""
    node.backup(tmp_path / "taken")
    rows = tmp_path / "taken" / "control.db"
    with closing(sqlite3.connect(rows)) as own:
        if isinstance(odd, str):
            own.executescript(odd)
        else:
            odd(own)
        own.execute("PRAGMA journal_mode = delete")
    manifest = json.loads((tmp_path / "taken" / "manifest.json").read_bytes())
    manifest["files"]["control.db"] = [rows.stat().st_size, hashlib.sha256(rows.read_bytes()).hexdigest()]
    (tmp_path / "taken" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BackupIncomplete, match=r"control\.db of .* is damaged"):
        Node.restore(tmp_path / "taken", tmp_path / "new")
    assert not list(tmp_path.glob("*new*"))
