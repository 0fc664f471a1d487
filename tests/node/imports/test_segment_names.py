"""What segments of another product are called."""

from pathlib import Path

import pytest

from node.errors import InvalidInput
from node.imports.segment_names import Names


def test_names_of_segments(tmp_path: Path) -> None:
    path = tmp_path / "names"
    for text, expected in (
        ('{"1": "One", "2": 2}', {"1": "One"}),
        ('[{"sid": 1, "name": "One"}, 7, {"name": "x"}]', {"1": "One"}),
        ('{"list": [{"id": "a", "name": "One"}], "total": 1}', {"a": "One"}),
        ("id,name\n1,One\n2,\n", {"1": "One"}),
    ):
        path.write_text(text)
        assert Names.read(path).names == expected
    for text in ("{", "[1, 2", "a,b\n1,2\n", ""):
        path.write_text(text)
        with pytest.raises(InvalidInput):
            Names.read(path)
    names = Names(names={"1": "Same Name", "2": "same-name", "3": "Ünïque!"})
    assert names.of(["1", "2", "3", "--"]) == {
        "1": "same-name-1",
        "2": "same-name-2",
        "3": "n-que",
        "--": "segment",
    }
    assert names.of(["1"]) == {"1": "same-name-1"}
