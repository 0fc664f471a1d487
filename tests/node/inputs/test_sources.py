"""Any text as a CSV or JSON lines file: read the same whatever the size of the reads, and every row accounted for."""

import tempfile
from pathlib import Path
from unittest.mock import patch

import pytest
from growth import is_linear
from hypothesis import example, given, settings
from hypothesis import strategies as st
from quick import examples

from node.errors import InvalidInput
from node.imports.experience_platform import Mapped, open_export
from node.inputs import sources, text_files
from node.inputs.sources import Source
from node.inputs.text_files import BLOCK

LINE = st.one_of(
    st.sampled_from(
        ["1,2,3", '1,"2",3', '"a\nb",2,3', '1,"2', '1,2,3"', '"', "", "1,2", '1,"x""y",3', '"1"2,3,4', "é,ž,ß"]
    ),
    st.text(alphabet='ab",;\n\ré\x00', max_size=12),
)


def read(path: Path, block: int) -> tuple[list[tuple[int, str, str]], dict[str, list[int]]] | str:
    with patch.object(sources, "BLOCK", block):
        try:
            source = Source.open(path, ["a", "c"])
            found = [
                (int(line), *cells)
                for batch in source.batches()
                for line, *cells in zip(batch.lines, batch.columns["a"], batch.columns["c"], strict=True)
            ]
        except InvalidInput as error:
            return str(error)
    return found, {reason: lines for reason, lines in source.rejected.items() if lines}  # type: ignore[return-value]


@settings(max_examples=examples(150), deadline=None)
@given(st.lists(LINE, max_size=30), st.integers(1, 40), st.sampled_from(["utf-8", "latin-1", "utf-16"]))
@example(['1,"2', "3,4,5"], 1, "utf-8")
def test_csv_reads_the_same_in_blocks_of_any_size(lines: list[str], block: int, encoding: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_bytes(("a,b,c\n" + "\n".join(lines)).encode(encoding, "replace"))
        whole = read(path, BLOCK)
        assert read(path, block) == whole
    if not isinstance(whole, str):
        found, rejected = whole
        numbers = [line for line, _, _ in found] + [line for each in rejected.values() for line in each]
        assert len(numbers) == len(set(numbers))
        good = [n for n, line in enumerate("\n".join(lines).split("\n"), start=2) if line == "1,2,3"]
        if not any('"' in line or "\r" in line for line in lines):
            assert set(good) <= {line for line, _, _ in found}


@settings(max_examples=examples(60), deadline=None)
@given(
    st.lists(
        st.sampled_from(['{"a":1,"c":"x"}', '{"a":2}', "{}", '{"a":', "[1]", "", '{"a":1},{"c":2}', '"a"']), max_size=20
    ),
    st.integers(1, 30),
)
def test_json_lines_read_the_same_in_blocks_of_any_size(lines: list[str], block: int) -> None:
    lines = ['{"a": "0", "c": "0"}', *lines]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.json"
        path.write_text("\n".join(lines))
        whole = read(path, BLOCK)
        if block > 20:  # the columns must show up in the first read
            assert read(path, block) == whole
    assert not isinstance(whole, str)
    found, rejected = whole
    assert len(found) + sum(map(len, rejected.values())) == sum(bool(line) for line in lines)
    assert rejected.get("not a JSON object", []) == [
        n for n, line in enumerate(lines, start=1) if line in ('{"a":', "[1]", '{"a":1},{"c":2}', '"a"')
    ]


def test_only_what_a_quote_spoils_is_rejected_around_it(tmp_path: Path) -> None:
    lines = ["1,2,3", '"4","5","6"', "1,2", '"7","8', "", "9,10,11", '1,"a""b",2', "1,2,3,4", '"12"x,13,14']
    path = tmp_path / "a.csv"
    path.write_text("a,b,c\n" + "\n".join(lines) + "\n")
    whole = read(path, BLOCK)
    assert not isinstance(whole, str)
    found, rejected = whole
    assert found == [(2, "1", "3"), (3, "4", "6"), (7, "9", "11"), (8, "1", "2")]
    assert rejected == {
        "fewer cells than the header": [4],
        "a broken or unclosed quote": [5, 10],
        "more cells than the header": [9],
    }


def test_quotes_that_never_close_cost_time_in_proportion_to_the_file(tmp_path: Path) -> None:
    def work(size: int) -> None:
        path = tmp_path / "a.csv"
        path.write_text("a,b,c\n" + "\n".join(['"1', *['","'] * 120] * (size // 121)))
        source = Source.open(path, ["a"])
        assert list(source.batches()) == []
        assert len(source.rejected["a broken or unclosed quote"]) == size // 121

    assert is_linear(work, 2_000)


def test_json_that_is_nested_too_deeply_costs_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    deep = [*range(96, 104), *range(960, 1010), 100_000]
    path.write_text("".join(f'{{"a": {"[" * depth}{"]" * depth}, "c": "x"}}\n' for depth in deep))
    whole = read(path, BLOCK)
    assert not isinstance(whole, str)
    found, rejected = whole
    assert [cell.count("[") for _, cell, _ in found] == [96, 97, 98, 99]
    assert sum(map(len, rejected.values())) == len(deep) - 4
    exported = open_export(path, Mapped.parse(attributes=["a"]), 0)
    assert len(list(exported.people)) == 4


def test_two_broken_lines_of_json_make_no_good_one(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "1"}\n{"id": "2", "x": [1\n2]}, {"id": "3"}\n{"id": "4"}\n')
    source = Source.open(path, ["id"])
    assert [each for batch in source.batches() for each in batch.columns["id"]] == ["1", "4"]
    assert source.rejected["not a JSON object"] == [2, 3]


def test_a_record_that_goes_on_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is still open is read again with each block, so it has a bound; so have the lines before the records."""
    monkeypatch.setattr(sources, "MAX_LINE", 1_000)
    monkeypatch.setattr(sources, "BLOCK", 100)
    path = tmp_path / "a.csv"
    path.write_text('id,x\n1,"' + "\n".join(["a," * 45] * 30) + '"\n2,b\n')
    with pytest.raises(InvalidInput, match="line 2 begins a record of over 1000 characters"):
        list(Source.open(path, ["id"]).batches())
    monkeypatch.setattr(text_files, "MAX_LINE", 1_000)
    path.write_text("id," + "x" * 1_000 + "\n1,b\n")
    with pytest.raises(InvalidInput, match=r"the first line of .* is over 1000 characters"):
        Source.open(path, ["id"])
