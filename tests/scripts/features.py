"""Write tests/features.md: which tests prove which row of the feature list, from pytest's own collection.

python tests/scripts/features.py            writes it
python tests/scripts/features.py --check    exits 1 if it is out of date
"""

import contextlib
import io
import re
import sys
from collections import defaultdict
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent
TABLE = TESTS / "features.md"


class Collected:
    """A pytest plugin that keeps the node ids under each `feature` marker."""

    def __init__(self) -> None:
        self.tests: dict[str, set[str]] = defaultdict(set)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            for marker in item.iter_markers("feature"):
                for feature in marker.args:
                    self.tests[feature].add(item.nodeid.partition("[")[0])


def table() -> str:
    """Return the table as Markdown; raises SystemExit if the tests cannot be collected."""
    collected = Collected()
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", str(TESTS)], plugins=[collected])
    if code != pytest.ExitCode.OK:
        sys.exit(f"{said.getvalue()}\npytest could not collect the tests")
    lines = ["# Features and the tests that prove them", "", "| feature | tests |", "| --- | --- |"]
    for feature in sorted(collected.tests, key=_in_order):
        lines.append(f"| {feature} | {'<br>'.join(f'`{test}`' for test in sorted(collected.tests[feature]))} |")
    return "\n".join(lines) + "\n"


def _in_order(feature: str) -> tuple[str, int]:
    found = re.fullmatch(r"([A-Z]+)(\d+)", feature)
    if found is None:
        sys.exit(f"a test is marked with {feature!r}, which is no feature id")
    return found[1], int(found[2])


if __name__ == "__main__":
    text = table()
    if "--check" in sys.argv[1:]:
        if not TABLE.exists() or TABLE.read_text() != text:
            sys.exit("tests/features.md is out of date: python tests/scripts/features.py")
    else:
        TABLE.write_text(text)
