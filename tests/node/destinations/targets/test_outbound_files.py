"""Outbound files of Audience Manager: whoever reads them by their names and control files has the members."""

import gzip
import hashlib
import json
import re
from pathlib import Path

import pytest
from clock import Clock
from targets import batch

from node.destinations.kinds import NotEncoded
from node.destinations.targets import formats, outbound_files
from node.destinations.targets.outbound_files import OutboundFiles
from node.errors import InvalidInput
from node.project import Project

ABOUT = {"format": "audience-manager", "destination_id": "1234", "data_source": "2000021"}
NAME = re.compile(r"S3_1234_2000021(?:_Acme)?_(full|iter)_(\d{13})(\d{3})\.sync(\.gz)?")
SETTINGS = OutboundFiles(destination="1234", source="20914", alias="Acme", packed=False)


def _data_files(folder: Path) -> list[Path]:
    found = [(match[2], path) for path in folder.iterdir() if (match := NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]  # by the time in its name


def _check_control(folder: Path, file: Path) -> None:
    content = file.read_bytes()
    lines = gzip.decompress(content) if file.suffix == ".gz" else content
    control = json.loads((folder / f"{file.name.partition('.')[0]}.info").read_text())
    (about,) = control["Files"]
    assert about == {
        "FileByteSize": len(content),
        "FileLineCount": len(lines.splitlines()),
        "FileName": file.name,
        "FileSequenceNumber": 1,
        "md5": hashlib.md5(content).hexdigest(),
    }
    assert control["Totals"] == {
        "FileName": f"{file.name.partition('.')[0]}.sync",
        "TotalByteSize": len(content),
        "TotalNumberFiles": 1,
        "TotalNumberLines": len(lines.splitlines()),
    }


@pytest.mark.parametrize("packed", [{}, {"gzip": "yes", "alias": "Acme"}], ids=["plain", "packed"])
def test_the_first_export_is_full_and_who_reads_the_files_again_has_the_members(
    project: Project, clock: Clock, tmp_path: Path, packed: dict[str, str]
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    given = {"folder": str(folder), **ABOUT, **packed}
    project.destinations.create("aam", "file", given, uses=["analytics"])
    project.destinations.activate("aam", ["s"], audience_id="24")
    clock.advance(seconds=60)
    project.segments.update("s", rule="orders >= 6")
    project.destinations.sync("aam")
    files = _data_files(folder)
    said = [NAME.fullmatch(path.name) for path in files]
    assert [each[1] for each in said if each] == ["full", "iter"]
    assert [int(each[2]) // 1_000 for each in said if each] == [clock.now - 60, clock.now]
    first, second = (gzip.decompress(path.read_bytes()) if packed else path.read_bytes() for path in files)
    assert sorted(first.decode().splitlines()) == sorted(f"p{number}\t24" for number in range(4, 12))
    assert sorted(second.decode().splitlines()) == ["p4\t\t24", "p5\t\t24"]
    for path in files:
        _check_control(folder, path)
    called = tmp_path / "names.json"
    called.write_text(json.dumps({"24": "again"}))
    for path in files:
        project.profiles.import_audience_manager(path, dataset="aam", own_ids=True, segments=called)
    members = project.segments.show("again").size, project.segments.show("s").size
    assert members == (6, 6)


def test_a_line_is_an_id_its_segments_and_those_that_it_left() -> None:
    body = SETTINGS.encode(batch("a-1", "b-2"))
    (name, content), (control, _) = outbound_files.files(body)
    assert name == "S3_1234_20914_Acme_iter_1800000000001001.sync"
    assert control == "S3_1234_20914_Acme_iter_1800000000001001.info"
    assert content == b"a-1\ti\nb-2\t\ti\n"
    assert SETTINGS.encode(batch("a-1", "b-2")) == body  # a file that comes again is the same


@pytest.mark.parametrize("identity", ["a\tb", "a\nb", " a", "a\r"])
def test_an_id_that_would_be_another_line_costs_its_message(identity: str) -> None:
    with pytest.raises(NotEncoded):
        SETTINGS.encode(batch("ok", identity))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"format": "audience-manager"}, "need the setting destination_id"),
        ({**ABOUT, "data_source": "gaid"}, "no data_source"),
        ({**ABOUT, "alias": "a_b"}, "no alias"),
        ({**ABOUT, "gzip": "no"}, "no gzip"),
        ({"format": "csv", "alias": "Acme"}, "alias is for files of format=audience-manager"),
    ],
)
def test_what_no_name_of_a_file_can_have_is_refused(settings: dict[str, str], match: str) -> None:
    with pytest.raises(InvalidInput, match=match):
        formats.checked(settings)


def test_attributes_have_no_place_in_them(project: Project, tmp_path: Path) -> None:
    project.destinations.create("aam", "file", {"folder": str(tmp_path), **ABOUT}, uses=["analytics"])
    with pytest.raises(InvalidInput, match="does not take the field orders"):
        project.destinations.activate("aam", ["s"], mapping={"orders": "orders"})
