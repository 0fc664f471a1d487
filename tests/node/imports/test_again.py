"""A file that comes again, changed or not: what is known of its lines gives the same as reading all of it."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import duckdb
import pytest
from clock import Clock

from node.compute import scratch
from node.erasure.erasure import People
from node.errors import InvalidInput
from node.imports import people_files, recognition
from node.imports.identity_columns import IdentityColumn
from node.imports.people_rows import PeopleRows
from node.imports.recognition import Recognition
from node.inputs import physical_lines
from node.inputs.text_columns import Lines
from node.node import Node
from node.people import attributes, known_lines, numbering, splicing
from node.people.drafts import KEPT_GENERATIONS
from node.people.snapshots import Snapshot
from node.project import Project

HEADER = ("id", "email", "phone", "crm", "plan", "share")
IDENTITIES = ("email=email_sha256", "phone=phone_sha256:raw:primary", "crm=crmid")
PHONES = ("+447400123456", "07400 123457", "n/a", "", "+1 (415) 200-0000", "0", "12345")
STEPS = 10


def cell(random: Random, name: str) -> str:
    number, odd = random.randrange(50), random.random() < 0.03
    if name == "email":
        other = random.choice(("", "no address", "Ärzte@x.com", " a@b.com\t", f'"q{number}"'))
        return other if random.random() < 0.2 else f"p{number}@x.com"
    if name == "phone":
        return random.choice(PHONES)
    if name == "crm":
        return random.choice((f"0{7_400_123_000 + number}", f"0 {number}00-123")) if odd else f"k{number}"
    if name == "plan":
        return f"@{number}" if odd else random.choice(("gold", "silver", "", "x" * 40))
    if name == "share":
        return random.choice(("", "", "y", "n", "n", "dn", "p", "maybe"))
    return "" if odd else random.choice((f"c{number}", f" c{number}", f"d{random.randrange(300)}"))


def line(random: Random) -> str:
    cells = [cell(random, name) for name in HEADER]
    kind = random.random()
    if random.random() < 0.002:
        cells[1] = "a\nb@x.com"  # such a file is read whole
        kind = 0
    if kind < 0.1:
        return ",".join(f'"{each.replace(chr(34), chr(34) * 2)}"' for each in cells)
    text = ",".join(each.replace("\n", "") for each in cells)
    if kind < 0.16:
        return random.choice(("", text + ",more", f'"{text}', f'{text}"', f'a,"b"c,{text}', f'x,{text[:9]}"', " "))
    return text


def edited(random: Random, lines: list[str]) -> list[str]:
    lines = list(lines)
    for _ in range(random.choice((0, 1, 1, 2, 5))):
        place = random.randrange(len(lines) + 1)
        match random.randrange(5):
            case 0:
                lines.insert(place, line(random))
            case 1:
                lines[place : place + 1] = [line(random)]
            case 2:
                del lines[place : place + random.randrange(3)]
            case 3:
                lines.insert(place, random.choice(lines or [""]))
            case 4:
                other = random.randrange(len(lines) + 1)
                lines[place : place + 1], lines[other : other + 1] = lines[other : other + 1], lines[place : place + 1]
    return lines


def content(project: Project) -> dict[str, Any]:
    """Return all that a project's newest generation has, but for what is known of lines."""
    snapshot = Snapshot.open(project.scope)
    said = snapshot.said()
    rows = {name: snapshot.rows(name) for name in snapshot.namespaces}
    identities = {
        name: [
            [each.values[row] for row in range(len(each))],
            *(column.tolist() for column in (each.profiles, each.sources, each.ranks)),
        ]
        for name, each in rows.items()
    }
    attributes = {
        name: duckdb.execute("SELECT * FROM read_parquet(?)", [str(path)]).fetchall()
        for name, path in snapshot.attributes.items()
    }
    said_by = [column.tolist() for column in (said.codes, said.at, said.bases)]
    named = {name: list(snapshot.named(name) or ()) for name in snapshot.content.named}
    return {
        "ids": snapshot.profile_ids.tolist(),
        "order": [snapshot.profile_ids[number] for number in snapshot.profile_order],
        "erased": list(snapshot.erased),
        "identities": identities,
        "attributes": attributes,
        "said": said_by,
        "named": named,
    }


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Count the rows that are not read because they came before."""
    found: list[int] = []
    read = PeopleRows.read_changed

    def read_changed(self: PeopleRows, *arguments: Any) -> None:
        read(self, *arguments)
        found.append(len(self.again.lines))

    with monkeypatch.context() as patched:
        patched.setattr(PeopleRows, "read_changed", read_changed)
        yield found


@contextmanager
def whole(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Read all of a file, and put it in order at once."""
    with monkeypatch.context() as patched:
        for module in (people_files, known_lines, numbering):
            patched.setattr(module, "WORTH_IT", 1 << 18)
        patched.setattr(attributes, "PROFILES", 1 << 17)
        patched.setattr(people_files, "_read_changed", lambda *_: None)
        yield


def imported(project: Project, path: Path, **options: Any) -> dict[str, Any]:
    columns = [IdentityColumn.parse(text) for text in options.pop("identities", IDENTITIES)]
    arguments = {"dataset": "crm", "id_column": "id", "consent_column": "share", "attributes": ["plan"], "region": "GB"}
    try:
        return project.profiles.import_(path, identities=columns, **{**arguments, **options}).as_dict()
    except InvalidInput as error:
        return {"error": str(error)}


def as_json(lines: list[str]) -> str:
    rows = [dict(zip(HEADER, text.split(","), strict=False)) for text in lines if '"' not in text]
    return "".join(json.dumps(row) + "\n" if row.get("id") != "c1" else "{broken\n" for row in rows)


@pytest.mark.feature("ID8")
@pytest.mark.parametrize("seed", range(8))
def test_a_file_that_comes_again_gives_what_reading_all_of_it_gives(
    node: Node, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    random, path = Random(seed), tmp_path / ("people.csv" if seed % 4 else "people.json")
    monkeypatch.setattr(physical_lines, "BLOCK", random.choice((60, 1_000, 1 << 22)))
    monkeypatch.setattr(splicing, "SLICE", random.choice((4, 1 << 16)))
    sizes = Random(seed)
    monkeypatch.setattr(scratch, "IN_MEMORY_BYTES", sizes.choice((0, 500, 1 << 24)))
    for module in (people_files, known_lines, numbering):  # whether parts are put in order one after the other
        monkeypatch.setattr(module, "WORTH_IT", sizes.choice((0, 1 << 18)))
    monkeypatch.setattr(attributes, "PROFILES", sizes.choice((4, 1 << 17)))
    monkeypatch.setattr(recognition, "_WAITING", sizes.choice((2, 1 << 14)))
    ours, theirs = node.create_project("changed"), node.create_project("whole")
    for project in (ours, theirs):
        project.consent.set_model("opt-in")
    lines = [line(random) for _ in range(60)]
    kept = 0
    for step in range(STEPS):
        clock.advance(seconds=random.choice((0, 1, 100)))
        lines = edited(random, lines)
        taken = lines if step % 4 != 3 else [line(random) for _ in range(3)] + random.sample(lines, len(lines) // 8)
        text = ",".join(HEADER) + "\n" + "\n".join(taken)
        ending = random.choice(("\n", "\n", "\r\n", "\r"))
        if seed % 4:
            path.write_bytes(
                text.replace("\n", ending).encode(random.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16")))
            )
        else:
            path.write_text(as_json(taken))
        options: dict[str, Any] = {}
        if random.random() < 0.1:
            options = random.choice(({"attributes": []}, {"identities": IDENTITIES[:2]}, {"consent_column": None}))
        with counted(monkeypatch) as found:
            report = imported(ours, path, **options)
        kept += sum(found)
        with whole(monkeypatch):
            assert report == imported(theirs, path, **options)
        assert content(ours) == content(theirs)
        between(random, (ours, theirs))
        assert content(ours) == content(theirs)
    assert kept > 40


def between(random: Random, projects: tuple[Project, ...]) -> None:
    """Do something else in projects that are equal."""
    number, kind = random.randrange(25), random.randrange(9)
    snapshot = Snapshot.open(projects[0].scope)
    known = f"c{number}".encode() in snapshot.profile_ids.tolist()
    for project in projects:
        if kind < 2 and known:
            project.erasure.profiles(People(ids=[f"c{number}"]), may_return=kind == 0)
        elif kind == 2 and known:
            project.consent.set(f"c{number}", "n")
        elif kind == 3 and "crmid/opaque-v1" in snapshot.namespaces:
            project.datasets.drop_field("crm", "crm")
        elif kind == 4 and known:
            project.consent.set(f"c{number}", "y")


CSV = "id,email,share\n" + "".join(f"c{n},p{n}@x.com,{'n' if n == 7 else 'y'}\n" for n in range(40))


@pytest.fixture
def project(node: Node) -> Project:
    return node.project()


Load = Callable[..., dict[str, Any]]


@pytest.fixture
def load(project: Project, tmp_path: Path) -> Load:
    def load(text: str, name: str = "people.csv") -> dict[str, Any]:
        path = tmp_path / name
        path.write_text(text)
        return imported(project, path, identities=["email=email_sha256"], attributes=[], region=None)

    return load


@pytest.mark.feature("ID8")
def test_only_the_lines_of_profiles_with_changed_lines_are_read(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    load(CSV)
    with counted(monkeypatch) as found:
        report = load(CSV.replace("p5@", "q5@"))
    assert found == [39]
    assert (report["accepted"], report["profiles_updated"]) == (40, 40)


@pytest.mark.feature("ID8")
def test_a_no_in_a_line_that_came_before_is_said_again(load: Load, project: Project, clock: Clock) -> None:
    load(CSV)
    clock.advance(days=3)
    load(CSV)
    snapshot = Snapshot.open(project.scope)
    assert snapshot.word(snapshot.number("c7")).at == clock.now
    assert snapshot.word(snapshot.number("c8")).at == clock.now - 3 * 86_400


@pytest.mark.feature("OP11")
def test_nothing_is_known_of_the_lines_of_the_erased(load: Load, project: Project) -> None:
    load(CSV)
    number = Snapshot.open(project.scope).number("c3")
    erased = project.erasure.profiles(People(ids=["c3"]), prove=True)
    assert {"place": "lines of crm", "before": 1, "after": 0} in erased["places"]
    snapshot = Snapshot.open(project.scope)
    known = known_lines.KnownLines.open(snapshot, snapshot.content.known_lines["crm"])
    assert len(known) == 39
    assert number not in known.profiles.tolist()


@pytest.mark.feature("ID8")
def test_digests_of_lines_need_the_secret_of_the_project(load: Load, node: Node) -> None:
    load(CSV)
    lines = [each.encode() for each in CSV.splitlines()[1:]]
    keys = []
    for project in (node.project(), node.create_project("other")):
        with project.scope.read() as tx:
            keys.append(known_lines.key(project.scope, tx))
    snapshot = Snapshot.open(node.project().scope)
    known = known_lines.KnownLines.open(snapshot, snapshot.content.known_lines["crm"])
    split = Lines.split(b"\n" + b"\n".join(lines) + b"\n")
    assert (known.find(known_lines.digests(keys[0], split)) >= 0).all()
    assert (known.find(known_lines.digests(keys[1], split)) < 0).all()


@pytest.mark.feature("ID8")
def test_an_import_that_comes_in_between_makes_the_file_read_whole(
    load: Load, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(CSV)
    read = PeopleRows.read_changed

    def read_changed(self: PeopleRows, *arguments: Any) -> None:
        read(self, *arguments)
        with monkeypatch.context() as patched:
            patched.setattr(people_files, "_read_changed", lambda *_: None)
            load(CSV.replace("p5@", "q5@"), "other.csv")

    with monkeypatch.context() as patched:
        patched.setattr(PeopleRows, "read_changed", read_changed)
        load(CSV)
    assert sorted(content(project)["identities"]["email_sha256/lc-v1"][1]) == list(range(40))
    found = Snapshot.open(project.scope).identities("email_sha256/lc-v1").values
    assert sha256(b"p5@x.com").digest() in [found[row] for row in range(len(found))]
    with counted(monkeypatch) as again:
        load(CSV)
    assert again == [40]


@pytest.mark.feature("ID8")
def test_a_file_is_read_whole_where_what_is_known_of_its_lines_is_gone_meanwhile(
    load: Load, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(CSV)
    read_before = Recognition.read_before

    def gone(self: Recognition) -> Any:
        with monkeypatch.context() as patched:
            patched.setattr(people_files, "_read_changed", lambda *_: None)
            load(CSV.replace("p5@", "q5@"), "other.csv")
        for number in range(KEPT_GENERATIONS):
            project.consent.set("c1", "ny"[number % 2])
        return read_before(self)

    with monkeypatch.context() as patched:
        patched.setattr(Recognition, "read_before", gone)
        load(CSV)
    found = Snapshot.open(project.scope).identities("email_sha256/lc-v1").values
    assert sha256(b"p5@x.com").digest() in [found[row] for row in range(len(found))]


@pytest.mark.feature("ID8")
def test_a_file_that_is_replaced_while_its_lines_are_looked_for_is_read_whole(
    load: Load, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(CSV)
    look = Recognition.of

    def replaced(*arguments: Any, **options: Any) -> Recognition:
        found = look(*arguments, **options)
        (tmp_path / "new.csv").write_text(CSV.replace("p8@", "z8@"))
        (tmp_path / "new.csv").replace(tmp_path / "people.csv")
        return found

    with monkeypatch.context() as patched:
        patched.setattr(Recognition, "of", replaced)
        load(CSV.replace("p5@", "q5@"))
    found = Snapshot.open(project.scope).identities("email_sha256/lc-v1").values
    values = [found[row] for row in range(len(found))]
    assert sha256(b"z8@x.com").digest() in values
    assert sha256(b"p5@x.com").digest() in values


@pytest.mark.feature("ID8")
def test_blank_lines_cost_no_room_where_a_file_comes_again(load: Load, project: Project) -> None:
    head, *lines = CSV.splitlines()
    load("\n".join([head, *lines[:20], "\n" * 500_000, *lines[20:]]) + "\n")
    snapshot = Snapshot.open(project.scope)
    known = known_lines.KnownLines.open(snapshot, snapshot.content.known_lines["crm"])
    assert int(known.lines.max()) > 500_000
    assert len(known.by_line()) < 100_000
    assert load(CSV)["accepted"] == 40


@pytest.mark.feature("ID8")
@pytest.mark.parametrize("kind", ["digests", "profiles", "outcomes"])
@pytest.mark.parametrize("worth_it", [1, 1 << 18])
@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-9])])
def test_a_damaged_file_of_known_lines_costs_reading_all_lines(
    load: Load,
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    worth_it: int,
    damage: Callable[[Path], Any],
) -> None:
    monkeypatch.setattr(known_lines, "WORTH_IT", worth_it)
    load(CSV)
    before = Snapshot.open(project.scope)
    damage(before.directory / getattr(before.content.known_lines["crm"], kind))
    changed = CSV.replace("p5@", "q5@")
    assert load(changed)["accepted"] == 40
    found = Snapshot.open(project.scope).identities("email_sha256/lc-v1").values
    assert sha256(b"q5@x.com").digest() in [found[row] for row in range(len(found))]
    snapshot = Snapshot.open(project.scope)
    assert len(known_lines.KnownLines.open(snapshot, snapshot.content.known_lines["crm"])) == 40


@pytest.mark.feature("OP11")
def test_damaged_known_lines_do_not_keep_people_from_being_erased(load: Load, project: Project) -> None:
    load(CSV)
    before = Snapshot.open(project.scope)
    (before.directory / before.content.known_lines["crm"].outcomes).unlink()
    project.erasure.profiles(People(ids=["c3"]))
    assert Snapshot.open(project.scope).number("c4")
    assert load(CSV)["accepted"] == 39
