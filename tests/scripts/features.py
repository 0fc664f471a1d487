"""Write tests/features.md: which tests prove which feature of tests/feature_names.txt, from pytest's own collection.

python tests/scripts/features.py            writes it
python tests/scripts/features.py --check    exits 1 if it is out of date
"""

import contextlib
import io
import sys
from collections import defaultdict
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent
TABLE = TESTS / "features.md"
NAMES = TESTS / "feature_names.txt"
HEAD = """# Features and the tests that prove them

Written by `tests/scripts/features.py`; a test compares the two. A feature without tests is not there yet, or nothing
proves it.

| feature | | tests |
| --- | --- | --- |
"""


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
    names = dict(line.split(" ", 1) for line in NAMES.read_text().splitlines())
    unknown = collected.tests.keys() - names.keys()
    if unknown:
        sys.exit(f"tests are marked with {', '.join(sorted(unknown))}: no such feature in {NAMES.name}")
    rows = (f"| {each} | {name} | {_spelled(collected.tests[each])} |\n" for each, name in names.items())
    return HEAD + "".join(rows)


def _spelled(tests: set[str]) -> str:
    return "<br>".join(f"`{test}`" for test in sorted(tests))


if __name__ == "__main__":
    text = table()
    if "--check" in sys.argv[1:]:
        if not TABLE.exists() or TABLE.read_text() != text:
            sys.exit("tests/features.md is out of date: python tests/scripts/features.py")
    else:
        TABLE.write_text(text)
