"""Data files of Audience Manager, written here as its documentation shows them."""

import gzip
import json
from functools import partial
from pathlib import Path

import pytest
from exports import hashed, members
from growth import is_linear
from hypothesis import given, settings
from hypothesis import strategies as st
from quick import examples

from cli.remedies import spelled
from node.errors import InvalidInput
from node.imports.audience_manager_files import FileName, Line, parse
from node.imports.segment_names import Names
from node.project import Project


@pytest.mark.feature("OP10")
@pytest.mark.parametrize(
    ("name", "source", "extent", "namespace"),
    [
        ("ftp_dpm_21_1234567890.sync", "21", "changes", "dpid-21"),
        ("ftp_dpm_20914_21_1234567890.overwrite.2.gz", "20914", "people", "gaid"),
        ("ftp_dpm_20915_1234567890.sync.gz", "20915", "changes", "idfa"),
        ("s3_215_888_full_1449756724001.sync", "888", "whole", "dpid-888"),
        ("ftp_215_20914_iter_1449756724.csv.gz", "20914", "changes", "gaid"),
        ("people.txt", "", None, ""),
    ],
)
def test_a_data_file_s_name(name: str, source: str, extent: str | None, namespace: str) -> None:
    found = FileName.parse(name)
    assert (found.source, found.extent, found.namespace) == (source, extent, namespace)


@pytest.mark.feature("OP10")
def test_a_data_file_s_line() -> None:
    names = Names(codes={"crm-vip": "77"})
    assert parse("d_sid=24,d_sid=26 , d_unsid=27", names) == Line(
        segments={"24": True, "26": True, "27": False}, signals=[]
    )
    assert parse('"segID"="1001","d_sid"="5",ic=crm-vip,ic=other', names) == Line(
        segments={"1001": True, "5": True, "77": True, "ic-other": True}, signals=[]
    )
    assert parse('24,26\t30,"31"', names) == Line(
        segments={"24": True, "26": True, "30": False, "31": False}, signals=[]
    )
    assert parse('"color"="blue, dark",size==5,"a@x.com"="1"', names) == Line(
        segments={}, signals=["color", "size", "?"]
    )
    assert parse("", names) == Line(segments={}, signals=[])
    for broken in ('"open', 'd_sid="1', "ann@x.com", "d_sid=", '"a" "b"'):
        assert parse(broken, names) is None


@settings(max_examples=examples(300), deadline=None)
@given(st.text(alphabet='ab1"=,;|\t d_si', max_size=40) | st.text(max_size=40))
def test_any_line_is_read_or_broken(text: str) -> None:
    found = parse(text, Names())
    assert found is None or all(found.segments)


@pytest.mark.feature("OP10")
def test_inbound_files_add_up_and_overwrite(project: Project, tmp_path: Path) -> None:
    (tmp_path / "traits.json").write_text(
        json.dumps([{"sid": 24, "name": "Bought shoes", "integrationCode": "shoes"}, {"sid": 26, "name": "Lapsed"}])
    )
    first, second, third = (
        "97987bca-ae59-4c7d-94ba-ee4f19ab8c21",
        "97987bca-ae59-4c7d-94ba-ee4f19ab8c22",
        "not-a-device",
    )
    path = tmp_path / "ftp_dpm_20914_1500000000.sync"
    path.write_text(
        f"{first}\td_sid=24,d_sid=26\n\n{second}\tic=shoes\n{third}\td_sid=24\nno tab\n{first}\td_unsid=26\n"
        f'{second}\t"segID"="1001","colour"="blue"\n'
    )
    take = partial(project.profiles.import_audience_manager, segments=tmp_path / "traits.json", dataset="aam")
    report = take(path)
    ids = [f"gaid:{each.replace('-', '')}" for each in (first, second)]
    assert (report.records, report.accepted, report.extent) == (4, 2, "changes")
    assert {reason: tally["lines"] for reason, tally in report.rejected.items()} == {
        "no id and no identity that can be used": [4],
        "not an id, a tab and a list of traits or segments": [5],
    }
    assert {reason: tally["lines"] for reason, tally in report.dropped.items()} == {
        "gaid: not a device id": [4],
        "signal colour, which is no trait or segment": [7],
    }
    assert [(each.name, each.size) for each in report.segments] == [("1001", 1), ("bought-shoes", 2), ("lapsed", 0)]
    assert members(project, "bought-shoes") == set(ids)
    more = tmp_path / "ftp_dpm_20914_1500000001.sync"
    more.write_text(f"{first}\td_sid=26\n")
    take(more)
    assert (members(project, "bought-shoes"), members(project, "lapsed")) == (set(ids), {ids[0]})
    whole = tmp_path / "ftp_dpm_20914_1500000002.overwrite.gz"
    whole.write_bytes(gzip.compress(f"{first}\td_sid=24\n{second}\td_sid=26\n".encode(), mtime=0))
    take(whole)
    assert (members(project, "bought-shoes"), members(project, "lapsed")) == ({ids[0]}, {ids[1]})


@pytest.mark.feature("OP10")
def test_outbound_files_and_ids_of_our_own(project: Project, tmp_path: Path) -> None:
    path = tmp_path / "s3_215_888_full_1449756724001.csv"
    path.write_text("C1\t10,20\nC2\t10\nC3\t20\n")
    report = project.profiles.import_audience_manager(path, dataset="aam", own_ids=True)
    assert (report.extent, report.identities, report.accepted) == ("whole", {}, 3)
    assert (members(project, "10"), members(project, "20")) == ({"C1", "C2"}, {"C1", "C3"})
    path.write_text("C2\t20\nC4\t10\t20\n")
    project.profiles.import_audience_manager(path, dataset="aam", own_ids=True)
    assert (members(project, "10"), members(project, "20")) == ({"C4"}, {"C2"})
    more = tmp_path / "s3_215_888_iter_1449756724002.csv"
    more.write_text("C1\t10\t20\n")
    project.profiles.import_audience_manager(more, dataset="aam", own_ids=True)
    assert (members(project, "10"), members(project, "20")) == ({"C1", "C4"}, {"C2"})
    other = tmp_path / "ids.txt"
    other.write_text(f"{hashed('ann@x.com')}\t10\n")
    with pytest.raises(InvalidInput) as caught:
        project.profiles.import_audience_manager(other, dataset="aam")
    assert caught.value.remedy is not None
    command = f"vesica profile import-from audience-manager {other} --dataset NAME --namespace NAME"
    assert spelled(caught.value.remedy) == command
    report = project.profiles.import_audience_manager(other, dataset="aam", namespace="email_sha256")
    assert report.identities == {"email_sha256/lc-v1": 1}
    other.write_text(f"ann@x.com\t10\n{hashed('bob@x.com')}\t10\n")
    with pytest.raises(InvalidInput, match="1 of the ids"):
        project.profiles.import_audience_manager(other, dataset="aam", namespace="email_sha256")
    other.write_text("ann@x.com\t10\n")
    for options in ({"own_ids": True}, {"namespace": "crm"}):
        with pytest.raises(InvalidInput, match="raw personal data"):
            project.profiles.import_audience_manager(other, dataset="aam", **options)


@pytest.mark.parametrize("unit", [" ", "d_sid= ", '"', "=", "a ", "|", ' "a" '])
def test_a_long_line_takes_time_in_proportion_to_its_length(unit: str) -> None:
    names = Names()
    assert is_linear(lambda size: parse(f'{unit * size} "', names), 5_000)
