"""Any text as a CSV or JSON lines file: read the same whatever the size of the reads, and every row accounted for."""

import tempfile
from pathlib import Path
from unittest.mock import patch

from hypothesis import example, given, settings
from hypothesis import strategies as st
from quick import examples

from node.errors import InvalidInput
from node.inputs import sources
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
