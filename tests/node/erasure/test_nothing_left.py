"""After an erasure every file of the home, and of a backup made later, is searched for the people: nothing may be left."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from clock import Clock
from pyroaring import BitMap
from remains import forms, remains, sealed_arrays
from sides import EMAIL, PHONE, Pair, Person, Side
from sqlalchemy import select, text

from node.erasure.erasure import People
from node.errors import InvalidInput
from node.node import Node
from node.people.snapshots import Snapshot
from node.storage.tables import alerts, erasures

KILLER = str(Path(__file__).parents[2] / "support" / "killer.py")
ERASED = 4
NUMBERS = range(8)
SWEEPS = 20  # at most, of upkeep that waits for others


def customer(side: Side, number: int) -> str:
    return f"{side.name}-customer-{number}"


def email(number: int) -> str:
    return f"person.{number}@example.com"


def phone(number: int) -> str:
    return f"+44740000{number:04}"


def needles(side: Side) -> dict[str, bytes]:
    return forms([customer(side, ERASED), f"nick-{ERASED}"], [email(ERASED), phone(ERASED)])


def lived(pair: Pair, broken_off: Callable[[str], AbstractContextManager[None]] | None = None) -> None:
    """Let both sides have several datasets, generations and segments, share with each other, and estimate."""
    sides = (pair.acme, pair.globe)
    everyone = {side: [Person(customer(side, n), email(n), phone(n)) for n in NUMBERS] for side in sides}
    pair.prepare(
        everyone[pair.acme],
        everyone[pair.globe],
        {"vip": [customer(pair.acme, n) for n in NUMBERS]},
        maximum_universe=99,
    )
    for side in sides:
        file = side.folder / f"{side.name}-web.csv"
        file.write_text("id,nick\n" + "".join(f"{customer(side, n)},nick-{n}\n" for n in NUMBERS))
        side.project.profiles.import_(file, dataset="web", id_column="id", identities=[], attributes=["nick"])
        side.project.segments.create("nicks", rule="web.nick LIKE 'nick-%'")
        side.project.consent.set(customer(side, ERASED), "y", "email_sha256")
    pair.share("summer", ["vip", "nicks"])
    pair.globe.project.feeds.create("winter", segments=["nicks"], namespaces=[EMAIL, PHONE], partners=["acme"])
    pair.globe.project.feeds.publish("winter")
    pair.post()
    pair.acme.project.received.enable("winter")
    pair.post()
    for side in sides:
        side.project.feeds.sync()
    for side, feed in ((pair.acme, "summer"), (pair.globe, "winter")):
        side.project.feeds.estimate(feed)
    if broken_off is not None:  # an open exchange, and a run that was made ready
        pair.acme.project.consent.set(customer(pair.acme, 1), "n")
        with broken_off("records"):
            pair.acme.project.feeds.sync()


def number_of(side: Side) -> BitMap:
    return BitMap([Snapshot.open(side.project.scope).number(customer(side, ERASED))])


def check_nothing_left(side: Side, numbers: BitMap, backup: Path) -> None:
    home = side.node.home.path
    assert remains(home, needles(side), node=side.node, numbers=numbers) == set()
    side.node.backup(backup)
    assert remains(backup, needles(side), numbers=numbers) == set()


@pytest.mark.feature("OP11")
def test_the_home_and_a_later_backup_have_nothing_of_who_was_erased(
    pair: Pair, tmp_path: Path, broken_off: Callable[[str], AbstractContextManager[None]]
) -> None:
    lived(pair, broken_off)
    for side in (pair.acme, pair.globe):
        numbers = number_of(side)
        found = remains(side.node.home.path, needles(side), node=side.node, numbers=numbers)
        for where in (".npy", ".parquet", ".roaring", ".members", "cache own", "cache prf", "cache content"):
            assert any(where in each for each in found), where
        side.project.erasure.profiles(People(identities=[f"email_sha256={email(ERASED)}"]))
        check_nothing_left(side, numbers, tmp_path / f"{side.name}-backup")
    pair.post()
    assert customer(pair.globe, ERASED) not in pair.globe.members("acme", "vip")
    assert customer(pair.globe, 3) in pair.globe.members("acme", "vip")


@pytest.mark.feature("OP11")
def test_what_is_kept_to_tell_a_partner_goes_once_it_knows(pair: Pair) -> None:
    lived(pair)
    pair.acme.project.erasure.profiles(People(ids=[customer(pair.acme, ERASED)]))
    kept = {name.split(" ")[0] for name, key, _ in sealed_arrays(pair.acme.node)}
    assert "gone" in kept
    assert "run" not in kept
    pair.acme.node.sync()
    pair.acme.project.consent.set(customer(pair.acme, 1), "n")
    pair.acme.project.feeds.sync()
    assert "gone" not in {name.split(" ")[0] for name, *_ in sealed_arrays(pair.acme.node)}
    assert customer(pair.globe, ERASED) not in pair.globe.members("acme", "vip")


@pytest.mark.feature("OP11")
@pytest.mark.parametrize(
    "place",
    [
        "acting profile.erase 1",
        "acted profile.erase 1",
        "called node.people.drafts:remove_leftovers 1",
        "calling node.exchanges.records:end_all 1",
        "called node.feeds.receiving.erasing:sweep 1",
        "called node.feeds.sending.evaluations:forget 1",
        "called node.feeds.sending.revisions:keep_gone 1",
        "called node.feeds.sending.erasing:sweep 1",
    ],
)
def test_an_erasure_that_was_killed_is_finished_by_upkeep(pair: Pair, tmp_path: Path, clock: Clock, place: str) -> None:
    lived(pair)
    side = pair.acme
    numbers, home = number_of(side), side.node.home.path
    died = subprocess.run(
        [sys.executable, KILLER, "profile", "erase", customer(side, ERASED), "--yes", "--home", str(home)],
        env={**os.environ, "KILL": place, "CLOCK": str(clock())},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    if place.startswith("acting"):  # nothing was done: it has to be said again
        assert side.project.profiles.show(customer(side, ERASED))
        side.project.erasure.profiles(People(ids=[customer(side, ERASED)]))
    side.node.sweep()
    check_nothing_left(side, numbers, tmp_path / "backup")
    side.project.feeds.sync()
    assert customer(pair.globe, ERASED) not in pair.globe.members("acme", "vip")
    assert len(pair.globe.members("acme", "vip")) == len(NUMBERS) - 1


def test_a_run_that_began_before_keeps_nothing_of_who_was_erased_meanwhile(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run has chosen its people when one of them is erased."""
    from node.feeds.sending import preparing

    lived(pair)
    side, decided = pair.acme, preparing.decide
    numbers = number_of(side)
    side.project.consent.set(customer(side, 1), "n")

    def and_erase(*arguments: object, **options: object) -> object:
        release = decided(*arguments, **options)  # type: ignore[arg-type]
        monkeypatch.undo()
        other = Node.open(side.node.home.path, now=pair.clock)
        other.project().erasure.profiles(People(ids=[customer(side, ERASED)]))
        other.close()
        return release

    monkeypatch.setattr(preparing, "decide", and_erase)
    assert [each["status"] for each in side.project.feeds.sync()] == ["done"]  # it began again
    assert remains(side.node.home.path, needles(side), node=side.node, numbers=numbers) == set()
    assert customer(pair.globe, ERASED) not in pair.globe.members("acme", "vip")


def stored(node: Node) -> bytes:
    """Return all that the files of a node's database have of its tables, deleted rows too."""
    engine = node.home.database.engine
    if engine.dialect.name == "sqlite":
        assert engine.url.database is not None
        file = Path(engine.url.database)
        return b"".join(each.read_bytes() for each in file.parent.glob(f"{file.name}*"))
    names = "SELECT oid FROM pg_class WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace"
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CHECKPOINT"))
        found = connection.scalars(text(f"SELECT pg_read_binary_file(pg_relation_filepath(oid)) FROM ({names}) AS t"))
        return b"".join(map(bytes, found))


def unswept(node: Node) -> bool:
    """Return whether an erasure says that what it left is still to be overwritten."""
    with node.home.read() as tx:
        return tx.execute(select(erasures.c.id).where(erasures.c.swept.is_(None))).first() is not None


@pytest.mark.feature("OP11")
def test_no_row_of_either_database_names_who_was_erased(either_node: Node, tmp_path: Path) -> None:
    project, file = either_node.project(), tmp_path / "crm.csv"
    file.write_text("id,email,nick\n" + "".join(f"fern-customer-{n},{email(n)},nick-{n}\n" for n in NUMBERS))
    from node.imports.identity_columns import IdentityColumn

    columns = [IdentityColumn.parse("email=email_sha256:raw")]
    for _ in range(2):
        project.profiles.import_(file, dataset="crm", id_column="id", identities=columns, attributes=["nick"])
    person, other = f"fern-customer-{ERASED}", f"fern-customer-{ERASED - 1}"
    own = ["said-at-the-door", "said-on-the-telephone", "said-long-ago"]
    project.consent.set(person, "y", at=10, basis=own[2])
    project.consent.set(person, "n", at=20, basis=own[0])
    project.consent.set(person, "n", "email_sha256", at=20, basis=own[1])
    for each in (person, other):
        project.consent.set(each, "y", "email_sha256", at=30, basis="asked-of-both")
    project.consent.set(person, "n", "email_sha256", at=40, basis=own[1])
    found = forms([person, f"nick-{ERASED}"], [email(ERASED)]) | {each: each.encode() for each in own}
    assert {each for each in own if each.encode() in stored(either_node)} == set(own)
    project.erasure.profiles(People(ids=[person]))
    for _ in range(SWEEPS):  # other tests have snapshots of the same PostgreSQL database
        if not unswept(either_node):
            break
        either_node.sweep()
    assert remains(either_node.home.path, found, node=either_node) == set()
    project.profiles.import_(file, dataset="crm", id_column="id", identities=columns, attributes=["nick"])
    words = tmp_path / "words.csv"
    words.write_text(f"id,share,basis\n{person},y,{own[0]}\n{other},y,said-by-another\n")
    project.consent.import_(words, id_column="id", consent_column="share", basis_column="basis")
    assert remains(either_node.home.path, found, node=either_node) == set()
    assert not unswept(either_node)
    assert {name for name, needle in found.items() if needle in stored(either_node)} == set()
    assert project.consent.show(other)["basis"] == "said-by-another"
    assert project.consent.show(other)["namespaces"]["email_sha256"]["basis"] == "asked-of-both"
    assert project.profiles.count()["profiles"] == len(NUMBERS) - 1


@pytest.mark.feature("OP11")
def test_rows_that_somebody_may_still_see_are_overwritten_by_upkeep_once_nobody_can(
    either_node: Node, tmp_path: Path
) -> None:
    """A snapshot of the same database, of whatever schema, keeps deleted rows also of tables that it never looked at."""
    project, file = either_node.project(), tmp_path / "crm.csv"
    file.write_text("id\n1\n2\n")
    project.profiles.import_(file, dataset="crm", id_column="id", identities=[], attributes=[])
    project.consent.set("1", "n", at=20, basis="said-at-the-door")
    with either_node.home.database.read() as reading:
        assert reading.scalar(select(alerts.c.id)) is None
        project.erasure.profiles(People(ids=["1"]))
        assert b"said-at-the-door" in stored(either_node)
        assert unswept(either_node)
    for _ in range(SWEEPS):
        either_node.sweep()
        if not unswept(either_node):
            break
    assert not unswept(either_node)
    assert b"said-at-the-door" not in stored(either_node)


@pytest.mark.feature("OP11")
def test_the_audit_log_keeps_nothing_of_a_file_without_a_header(node: Node, tmp_path: Path) -> None:
    """Its first line is a person; who typed the command sees what it gives, so as to mend it."""
    file = tmp_path / "crm.csv"
    file.write_text(f"fern-customer-{ERASED},nick-{ERASED}\nfern-customer-5,nick-5\n")
    with pytest.raises(InvalidInput, match="no column 'id'") as refused:
        node.project().profiles.import_(file, dataset="crm", id_column="id", identities=[], attributes=["nick"])
    assert f"it gives fern-customer-{ERASED}" in refused.value.hint
    assert node.audit.entries(act="profile.import")
    assert remains(node.home.path, forms([f"fern-customer-{ERASED}", f"nick-{ERASED}"], []), node=node) == set()
