"""One room writes a table: no module inserts, updates or deletes rows of a table that another room owns."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

NODE = Path(__file__).parents[1] / "node"
SCHEMAS = (
    "tables",
    "partner_tables",
    "destination_tables",
    "audience_tables",
)  # modules of storage/: the comment above a table names the room that writes it
VERBS = {"insert", "update", "delete"}
EVERY = "backup"  # a restored home may need any row set right
ALLOWED = {"destinations/targets/database_tables -> ?table"}  # it is in a database of somebody else


def owners() -> dict[str, str]:
    """Return the room that writes each table."""
    text = "\n".join((NODE / "storage" / f"{each}.py").read_text() for each in SCHEMAS)
    owned = {table: room for room, table in re.findall(r"^# written by (.+)\n(\w+) = Table\(", text, re.MULTILINE)}
    assert owned.keys() == set(re.findall(r"^(\w+) = Table\(", text, re.MULTILINE)), "a comment names no room"
    return owned


@dataclass
class Writes(ast.NodeVisitor):
    """Finds the tables that a module writes, under whatever names it has for them."""

    tables: set[str]
    found: set[str] = field(default_factory=set)
    modules: set[str] = field(default_factory=set)  # names of node.storage.tables in this module
    verbs: dict[str, str] = field(default_factory=dict)  # names of SQLAlchemy's insert, update and delete
    scopes: list[dict[str, set[str]]] = field(default_factory=lambda: [{}])  # names of tables, the innermost last

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        origin = (node.module or "").split(".")
        for alias in node.names:
            name = alias.asname or alias.name
            if alias.name in SCHEMAS:
                self.modules.add(name)
            elif origin[-1] in SCHEMAS and alias.name in self.tables:
                self.scopes[-1][name] = {alias.name}
            elif origin[0] == "sqlalchemy" and alias.name in VERBS:
                self.verbs[name] = alias.name

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        self.scopes.append({each.arg: set() for each in arguments})  # an argument hides a name of the module
        self.generic_visit(node)
        self.scopes.pop()

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self._bind(target, node.value)
        self.generic_visit(node)

    def visit_For(self, node: ast.For) -> None:
        self._bind_each(node.target, node.iter)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        match node.func:
            case ast.Name(id=name) if name in self.verbs and node.args:
                self._written(node.args[0])
            case ast.Attribute(attr=verb, value=owner) if verb in VERBS:
                if node.args and ast.unparse(owner) in ("sqlalchemy", "sa", "sqlite", "postgresql"):
                    self._written(node.args[0])
                elif not node.args and not node.keywords:  # a list, a set or a dict is given something
                    self._written(owner)
        self.generic_visit(node)

    def _bind(self, target: ast.expr, value: ast.expr) -> None:
        match target, value:
            case ast.Tuple(elts=targets), ast.Tuple(elts=values) if len(targets) == len(values):
                for each, one in zip(targets, values, strict=True):
                    self._bind(each, one)
            case ast.Name(id=name), _:
                self.scopes[-1][name] = self._tables(value)
            case _:
                pass

    def _bind_each(self, target: ast.expr, values: ast.expr) -> None:
        """Give the names of a loop over a display, as of (table, condition) pairs, all tables of their place."""
        items = values.elts if isinstance(values, ast.Tuple | ast.List | ast.Set) else []
        if isinstance(target, ast.Name):
            self.scopes[-1][target.id] = set().union(*map(self._tables, items))
        elif isinstance(target, ast.Tuple):
            for place, name in enumerate(target.elts):
                if isinstance(name, ast.Name):
                    at = [each.elts[place] for each in items if isinstance(each, ast.Tuple)]
                    self.scopes[-1][name.id] = set().union(*map(self._tables, at))

    def _tables(self, value: ast.expr) -> set[str]:
        match value:
            case ast.Name(id=name):
                return next((scope[name] for scope in reversed(self.scopes) if name in scope), set())
            case ast.Attribute(attr=name) if self._is_schema(value.value) and name in self.tables:
                return {name}
            case ast.IfExp(body=body, orelse=orelse):
                return self._tables(body) | self._tables(orelse)
            case _:
                return set()

    def _is_schema(self, value: ast.expr) -> bool:
        return ast.unparse(value).split(".")[-1] in self.modules | set(SCHEMAS)

    def _written(self, value: ast.expr) -> None:
        self.found |= self._tables(value) or {f"?{ast.unparse(value)}"}


def written(source: str) -> set[str]:
    """Return the tables that a module writes; "?expression" where the test cannot tell which one it is."""
    tree, visitor = ast.parse(source), Writes(set(owners()))
    visitor.visit(tree)
    raw = re.findall(r"\b(?:INSERT INTO|DELETE FROM|UPDATE) (\w+)", source)
    return visitor.found | (set(raw) & visitor.tables)


def foreign() -> Iterator[str]:
    owned = owners()
    for path in sorted(NODE.rglob("*.py")):
        place = path.relative_to(NODE)
        room = place.parent.as_posix()
        if room != EVERY and "migrations" not in place.parts:
            for table in sorted(written(path.read_text())):
                if owned.get(table) != room:
                    yield f"{place.with_suffix('')} -> {table}"


def test_a_table_is_written_by_one_room() -> None:
    found = set(foreign())
    assert found - ALLOWED == set(), "the room that has the table does it: call it, or give it a hook"
    assert ALLOWED - found == set(), "gone: strike it from the list"


@pytest.mark.parametrize(
    "source",
    [
        "from ..storage.tables import alerts\nalerts.insert()",
        "from ..storage.tables import alerts as rows\nrows.update().where(rows.c.id == 1)",
        "from ..storage import tables\ntables.alerts.delete()",
        "from ..storage import tables as t\nfrom sqlalchemy import insert\ninsert(t.alerts)",
        "from sqlalchemy import delete as drop\nfrom ..storage.tables import alerts\ndrop(alerts)",
        "import sqlalchemy\nfrom ..storage.tables import alerts\nsqlalchemy.update(alerts)",
        "from sqlalchemy.dialects.postgresql import insert\nfrom ..storage.tables import alerts\ninsert(alerts)",
        "from ..storage import tables\ndef f():\n    jobs, rows = tables.jobs, tables.alerts\n    rows.insert()",
        "from ..storage.tables import jobs as rows\ndef f(tables):\n    rows = tables.alerts\n    rows.insert()",
        "from ..storage import tables\nfor each in (tables.alerts,):\n    each.delete()",
        "from ..storage import tables\nfor each, what in ((tables.alerts, 1),):\n    each.delete()",
        'tx.execute(text("DELETE FROM alerts"))',
    ],
)
def test_a_write_is_found_under_every_name(source: str) -> None:
    assert written(source) == {"alerts"}


def test_a_write_to_a_table_that_the_test_cannot_tell_is_found_too() -> None:
    assert written("def f(table):\n    table.delete()") == {"?table"}
    assert written("seen.update(more)\nrows.insert(0, x)\nvalues.update(a=1)") == set()


if __name__ == "__main__":
    print("\n".join(foreign()))
