"""Programs of others that take what destinations send: Singer targets, an Airbyte destination, an object store.

`tests/scripts/counterparties.py` makes them; one that is not there is skipped.
"""

import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import sqlalchemy as sa
from counterparties import COUNTERPARTIES
from sqlalchemy.engine import make_url
from targets import prepared

from node.node import Node
from node.project import Project

DESTINATION = Path(__file__).parents[3] / "support" / "airbyte_destination.py"


def program(name: str) -> Path:
    path = COUNTERPARTIES[name].path()
    if path is None:
        pytest.skip(f"{name} is not there: python tests/scripts/counterparties.py {name}")
    return path


@pytest.fixture
def project(loopback: Node, tmp_path: Path) -> Project:
    return prepared(loopback.project(), tmp_path, 8, s="orders >= 4")


def send(project: Project, path: Path, protocol: str, configuration: Mapping[str, object]) -> None:
    """Send segment s to a program, then take p5 out of it."""
    settings = {"program": str(path), "protocol": protocol}
    secret = json.dumps(configuration).encode()
    project.destinations.create("out", "command", settings, uses=["analytics"], secret=secret)
    assert project.destinations.check("out") == {"arrived": True, "code": None, "reason": None}
    mapping = {"orders": "orders"}
    assert project.destinations.activate("out", ["s"], mapping=mapping)["sent"] == 1
    project.consent.set("p5", "n")
    assert project.destinations.sync("out")["sent"] == 1
    assert project.destinations.errors("out") == []


def test_a_singer_target_writes_what_came_and_what_left(project: Project, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    send(project, program("target-jsonl"), "singer", {"destination_path": str(out), "do_timestamp_file": False})
    (file,) = out.iterdir()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(row["identity"], row["orders"], row["_sdc_deleted_at"] is None) for row in rows] == [
        *((f"p{n}", str(n), True) for n in range(4, 8)),
        ("p5", None, False),
    ]


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_meltanos_target_keeps_a_table_in_which_removals_are_marked(project: Project, database_url: str) -> None:
    path = program("target-postgres")
    url = make_url(database_url)
    schema = str(url.query["options"]).rpartition("=")[2]
    plain = url.set(drivername="postgresql+psycopg", query={}).render_as_string(hide_password=False)
    configuration = {"sqlalchemy_url": plain, "default_target_schema": schema, "load_method": "upsert"}
    send(project, path, "singer", configuration)
    engine = sa.create_engine(url.set(drivername="postgresql+psycopg"))
    with engine.connect() as connection:
        query = "SELECT identity, _sdc_deleted_at IS NULL FROM segment_members"
        rows = connection.execute(sa.text(query)).fetchall()
    engine.dispose()
    assert sorted(map(tuple, rows)) == [("p4", True), ("p5", False), ("p6", True), ("p7", True)]


def test_an_airbyte_destination_mirrors_who_is_there(project: Project, tmp_path: Path) -> None:
    python = program("airbyte")
    script = tmp_path / "destination"
    script.write_text(f"#!{python}\n{DESTINATION.read_text()}")
    script.chmod(0o755)
    send(project, script, "airbyte", {"path": str(tmp_path / "mirror.json")})
    assert json.loads((tmp_path / "mirror.json").read_text()) == {
        f'["s", "p{n}"]': {"orders": str(n), "namespace": "id"} for n in (4, 6, 7)
    }


@pytest.fixture
def s3rver(tmp_path: Path) -> Iterator[str]:
    """The address of an object store that knows one access key, with a bucket "audiences"."""
    command = [
        program("s3rver"),
        "-d",
        tmp_path / "s3",
        "-a",
        "127.0.0.1",
        "-p",
        "0",
        "--configure-bucket",
        "audiences",
    ]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = next(line for line in process.stdout if "listening" in line)
    yield f"http://127.0.0.1:{line.rpartition(':')[2].strip()}"
    process.terminate()
    process.communicate()


def test_another_object_store_takes_objects_from_whom_it_knows(project: Project, s3rver: str, tmp_path: Path) -> None:
    settings = {"url": s3rver, "bucket": "audiences", "access_key_id": "S3RVER", "prefix": "crm"}
    project.destinations.create("out", "objectstore", settings, uses=["analytics"], secret=b"S3RVER")
    assert project.destinations.check("out") == {"arrived": True, "code": None, "reason": None}
    project.destinations.activate("out", ["s"])
    project.consent.set("p5", "n")
    project.destinations.sync("out")
    files = sorted((tmp_path / "s3" / "audiences").rglob("*.csv*object"))
    assert [line.split(",")[1] for file in files for line in file.read_text().splitlines()[1:]] == [
        "p4", "p5", "p6", "p7", "p5"
    ]  # fmt: skip
    other = {**settings, "access_key_id": "another"}
    project.destinations.create("wrong", "objectstore", other, uses=["analytics"], secret=b"S3RVER")
    assert project.destinations.check("wrong")["code"] == "http_403"
