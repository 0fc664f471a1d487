"""Excel files: the first sheet is read as a CSV file of it would be."""

import tracemalloc
import zipfile
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest

from node.errors import InvalidInput
from node.inputs import columnar, excel, expansion
from node.inputs.sources import Source

openpyxl = pytest.importorskip("openpyxl")


def workbook(path: Path, *rows: list[Any]) -> Path:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.create_sheet("other").append(["id"])
    book.save(path)
    return path


def read(path: Path, *columns: str) -> list[tuple[Any, ...]]:
    source = Source.open(path, columns)
    assert source.kind == "Excel"
    batches = list(source.batches())
    assert not any(source.rejected.values())
    return [each for batch in batches for each in zip(batch.lines.tolist(), *batch.columns.values(), strict=True)]


@pytest.mark.feature("ID8")
def test_cells_are_the_text_that_a_csv_file_has(tmp_path: Path) -> None:
    path = workbook(
        tmp_path / "people.xlsx",
        ["id", "email", None, "since", "orders", "vip"],
        [1, "ann@x.com", "note", date(2026, 1, 5), 3.0, True],
        [],
        ["A2", None, None, datetime(2026, 1, 5, 10, 30), 2.5, False, "beyond the header"],
        [447400123456],
    )
    assert read(path, "id", "email", "since", "orders", "vip") == [
        (2, "1", "ann@x.com", "2026-01-05", "3", "true"),
        (4, "A2", "", "2026-01-05T10:30:00", "2.5", "false"),
        (5, "447400123456", "", "", "", ""),
    ]
    assert Source.open(path, []).header == ["id", "email", "", "since", "orders", "vip"]


@pytest.mark.parametrize("rows", [[], [[None]], [["id", "id"], [1, 2]], [["other"], [1]]])
def test_a_sheet_without_the_columns_is_refused(tmp_path: Path, rows: list[list[Any]]) -> None:
    with pytest.raises(InvalidInput):
        Source.open(workbook(tmp_path / "a.xlsx", *rows), ["id"])


def test_what_is_no_workbook_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.xlsx"
    for content, words in ((b"\xd0\xcf\x11\xe0rest", "older format"), (b"PK\x03\x04rest", "ZIP archive")):
        path.write_bytes(content)
        with pytest.raises(InvalidInput, match=words):
            Source.open(path, ["id"])
    good = workbook(path, ["id"], [1]).read_bytes()
    for place in range(0, len(good), 97):  # damaged anywhere
        path.write_bytes(good[:place] + bytes(each ^ 0x55 for each in good[place : place + 9]) + good[place + 9 :])
        try:
            list(Source.open(path, ["id"]).batches())
        except InvalidInput:
            continue


@pytest.mark.feature("ID8")
def test_a_workbook_becomes_no_larger_than_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expansion, "FLOOR", 1 << 20)
    path = workbook(tmp_path / "a.xlsx", ["id"], *[["x" * 300]] * 10)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/more.xml", b" " * (8 << 20))
    with pytest.raises(InvalidInput, match="is over"):
        Source.open(path, ["id"])
    rows = "".join(f'<row r="{row}"><c r="XFD{row}"><v>1</v></c></row>' for row in range(2, 200))
    with pytest.raises(InvalidInput, match="is over"):
        list(Source.open(sheet(tmp_path, rows), ["id"]).batches())


def sheet(folder: Path, rows: str, header: str = '<row r="1"><c r="A1" t="str"><v>id</v></c></row>') -> Path:
    """Write a workbook whose sheet is as given: what no spreadsheet writes."""
    given = workbook(folder / "b.xlsx", ["id"], [1])
    with zipfile.ZipFile(given) as before, zipfile.ZipFile(folder / "c.xlsx", "w", zipfile.ZIP_DEFLATED) as after:
        for entry in before.namelist():
            content = before.read(entry)
            if entry == "xl/worksheets/sheet1.xml":
                start, end = content.index(b"<sheetData>") + 11, content.index(b"</sheetData>")
                content = content[:start] + (header + rows).encode() + content[end:]
            after.writestr(entry, content)
    return folder / "c.xlsx"


@pytest.mark.feature("ID8")
@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ('<row r="3000000"><c r="A3000000"><v>1</v></c></row>', "over 1,048,576 rows"),
        ('<row r="3000000"/>', "over 1,048,576 rows"),
        ('<row r="2"><c r="XFE2"><v>1</v></c></row>', "16,384 columns"),
        ('<row r="2">' + '<c r="A2"/>' * excel.MAX_HELD + "</row>", "too many cells"),
        (
            f'<row r="2"><c r="A2" t="str"><v>{"x" * (excel.MAX_TEXT + (1 << 17))}</v></c></row>',
            "text that is too long",
        ),
        (f'<row r="2" a="{"x" * (excel.MAX_TEXT + (1 << 17))}"/>', "text that is too long"),
    ],
)
def test_a_small_sheet_has_no_more_than_excel_lets_it_have(tmp_path: Path, rows: str, words: str) -> None:
    path = sheet(tmp_path, rows)
    with pytest.raises(InvalidInput, match=words):
        list(Source.open(path, ["id"]).batches())


@pytest.mark.feature("ID8")
def test_a_wide_sheet_is_read_in_parts_that_memory_can_hold(tmp_path: Path) -> None:
    header = '<row r="1"><c r="A1" t="str"><v>id</v></c><c r="XFD1" t="str"><v>z</v></c></row>'
    rows = "".join(f'<row r="{row}"><c r="A{row}"><v>{row}</v></c></row>' for row in range(2, 300))
    batches = list(Source.open(sheet(tmp_path, rows, header), ["id"]).batches())
    assert [line for batch in batches for line in batch.lines.tolist()] == list(range(2, 300))
    assert max(len(batch.lines) for batch in batches) * (1 << 14) * expansion.CELL <= columnar.PART


def test_what_a_sheet_has_beside_its_cells_takes_no_memory(tmp_path: Path) -> None:
    path = sheet(
        tmp_path, '<row r="2" ht="9"/>' * 50_000 + "<x/>" * 100_000 + '<row r="3"><c r="A3"><v>7</v></c></row>'
    )
    tracemalloc.start()
    assert read(path, "id") == [(3, "7")]
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(("part", "content"), [("styles", "<a/>"), ("sharedStrings", "<si/>"), ("theme/theme1", " ")])
def test_parts_that_are_read_whole_are_of_bounded_size(tmp_path: Path, part: str, content: str) -> None:
    path = workbook(tmp_path / "a.xlsx", ["id"], [1])
    with zipfile.ZipFile(path) as book, zipfile.ZipFile(tmp_path / "b.xlsx", "w", zipfile.ZIP_DEFLATED) as large:
        for name in book.namelist():
            if name != f"xl/{part}.xml":
                large.writestr(name, book.read(name))
        large.writestr(f"xl/{part}.xml", f"<x>{content * (excel.PART // len(content))}</x>")
    with pytest.raises(InvalidInput, match=f"xl/{part}.xml is too large"):
        Source.open(tmp_path / "b.xlsx", ["id"])
