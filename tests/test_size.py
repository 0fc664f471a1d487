"""How large a part of node/ or cli/ may become, so that a reader takes it in whole."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINES = 400  # of a module
METHODS = 25  # of a class, the public ones, properties included
PARAMETERS = 6  # of a function; self and the keyword-only options of a command or of a door's method are not counted

Function = ast.FunctionDef | ast.AsyncFunctionDef


def modules() -> list[Path]:
    found = [path for package in ("node", "cli") for path in sorted((ROOT / package).rglob("*.py"))]
    return [path for path in found if "migrations" not in path.parts]


def too_large(source: str) -> Iterator[str]:
    """Yield what of a module's text is too large: "" for the module itself, else the name of a class or function."""
    if len(source.splitlines()) > LINES:
        yield ""
    yield from _in(ast.parse(source), "")


def _in(node: ast.AST, outer: str, *, public: bool = False) -> Iterator[str]:
    """`public`: `node` is a class, whose public methods may take options by keyword."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            methods = [each for each in child.body if isinstance(each, Function) and not each.name.startswith("_")]
            if len(methods) > METHODS:
                yield outer + child.name
            yield from _in(child, f"{outer}{child.name}.", public=True)
        elif isinstance(child, Function):
            options = _is_command(child) or (public and not child.name.startswith("_"))
            if _parameters(child, options=options) > PARAMETERS:
                yield outer + child.name
            yield from _in(child, f"{outer}{child.name}.")
        else:
            yield from _in(child, outer, public=public)


def _is_command(function: Function) -> bool:
    return any("pass_obj" in ast.unparse(decorator) for decorator in function.decorator_list)


def _parameters(function: Function, *, options: bool) -> int:
    """Return how many parameters a function takes, without its keyword-only ones if they are options."""
    taken = function.args
    named = [each.arg for each in (*taken.posonlyargs, *taken.args)]
    return len(named) - (named[:1] in (["self"], ["cls"])) + (0 if options else len(taken.kwonlyargs))


def found() -> set[str]:
    return {
        f"{path.relative_to(ROOT).as_posix()} {name}".strip()
        for path in modules()
        for name in too_large(path.read_text())
    }


def test_nothing_is_too_large() -> None:
    assert found() == set(), "split it by what its parts are about"


def test_what_is_too_large_is_found() -> None:
    seven = "a, b, c, d, e, f, g"
    methods = "".join(f"    def m{number}(self): ...\n" for number in range(METHODS + 1))
    assert list(too_large(f"def f({seven}): ...")) == ["f"]
    assert list(too_large(f"def f(*, {seven}): ...")) == ["f"]
    assert list(too_large(f"@click.pass_obj\ndef f(ctx, name, *, {seven}): ...")) == []
    assert list(too_large(f"@click.pass_obj\ndef f({seven}): ...")) == ["f"]
    assert list(too_large(f"class C:\n    def f(self, name, *, {seven}): ...")) == []
    assert list(too_large(f"class C:\n    def _f(self, name, *, {seven}): ...")) == ["C._f"]
    assert list(too_large("class C:\n    def f(self, a, b, c, d, e, f): ...")) == []
    assert list(too_large(f"def outer():\n    def f({seven}): ...")) == ["outer.f"]
    assert list(too_large(f"class C:\n{methods}")) == ["C"]
    assert list(too_large("#\n" * LINES)) == []
    assert list(too_large("#\n" * (LINES + 1))) == [""]


if __name__ == "__main__":
    print("\n".join(sorted(found())))
