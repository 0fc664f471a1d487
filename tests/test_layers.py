"""Imports point one way: cli -> node -> protocol -> psi; and the two inner packages do no I/O."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ["psi", "protocol", "node", "cli"]
NO_IO = {"asyncio", "http", "httpx2", "os", "pathlib", "socket", "sqlite3", "ssl", "subprocess", "time", "urllib"}
ALLOWED = {"psi/kernel.py": {"os"}, "psi/_sodium.py": {"os", "pathlib"}}  # finding, loading and sizing libsodium


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize("package", ORDER)
def test_imports_point_inward(package: str) -> None:
    outer = set(ORDER[ORDER.index(package) + 1 :])
    wrong = [(path.name, name) for path in (ROOT / package).rglob("*.py") for name in imports(path) if name in outer]
    assert wrong == []


@pytest.mark.parametrize("package", ["psi", "protocol"])
def test_the_core_does_no_io(package: str) -> None:
    wrong = []
    for path in (ROOT / package).rglob("*.py"):
        where = path.relative_to(ROOT).as_posix()
        wrong += [(where, name) for name in imports(path) if name in NO_IO - ALLOWED.get(where, set())]
    assert wrong == []


@pytest.mark.parametrize("package", ORDER)
def test_imports_inside_a_package_are_relative(package: str) -> None:
    wrong = [path.name for path in (ROOT / package).rglob("*.py") if package in set(imports(path))]
    assert wrong == []
