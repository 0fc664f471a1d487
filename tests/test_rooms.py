"""Which room of node/ may use which (ARCHITECTURE.md): from the ground up, a room uses those before it, and its own."""

import ast
import re
from pathlib import Path

NODE = Path(__file__).parents[1] / "node"
ROOMS = [
    "storage", "access", "operations", "transport", "inputs", "compute", "people", "governance", "segments", "imports", "consent",
    "audiencemanager", "destinations", "destinations/targets", "partners", "exchanges", "feeds", "feeds/estimates",
    "feeds/receiving", "feeds/sending", "feeds/local", "adhoc", "backup", "erasure", "reports",
]  # fmt: skip
APART = ("feeds/sending", "feeds/receiving")  # neither uses the other
WITHOUT = {  # these know no home, no row and no project, though they stand above
    "transport": {"storage", "access"},
    "inputs": {"storage", "access", "operations"},
    "adhoc": {"storage", "access"},
}
GROUND = {"errors", "homes", "log"}
TOP = {"__init__", "node", "project", "service", "wiring"}  # put the house together: no room uses them
DOORS = {  # what hangs on a project or a node, and where it lives: a use through it is an import that hides
    "profiles": "imports", "segments": "segments", "consent": "consent", "consent_policies": "consent",
    "labels": "governance", "policies": "governance", "governance": "governance", "partners": "partners",
    "letters": "partners", "feeds": "feeds/sending", "received": "feeds/receiving", "memberships": "feeds/receiving",
    "audience": "audiencemanager", "files": "destinations", "destinations": "destinations", "sharing": "feeds/local",
    "erasure": "erasure", "datasets": "erasure", "alerts": "operations",
    "jobs": "operations", "users": "access", "roles": "access", "reports": "reports",
}  # fmt: skip
HIDDEN = tuple(f"{owner}.{noun}" for owner in ("project", "node") for noun in DOORS)
ALLOWED: set[str] = set()  # of upward uses: there is none


def room(path: Path) -> str:
    return path.relative_to(NODE).parent.as_posix()


def modules() -> list[Path]:
    return [path for path in sorted(NODE.rglob("*.py")) if "migrations" not in path.parts and room(path) != "."]


def used(path: Path) -> set[str]:
    """Return the rooms and top modules that a module uses; what is imported for types alone counts too."""
    here, found = list(path.relative_to(NODE).parts[:-1]), set()
    for each in ast.walk(ast.parse(path.read_text())):
        if isinstance(each, ast.ImportFrom) and each.level:
            base = here[: len(here) - each.level + 1] + (each.module.split(".") if each.module else [])
            for names in ([*base, alias.name] for alias in each.names):
                places = ("/".join(names[:size]) for size in (2, 1))
                found.add(next((place for place in places if place in ROOMS), names[0]))
        elif isinstance(each, ast.ImportFrom) and each.module and each.module.split(".")[0] in ("node", "cli"):
            found.add(each.module)
        elif isinstance(each, ast.Attribute) and ast.unparse(each).endswith(HIDDEN):
            found.add(DOORS[each.attr])
    return found


def upward() -> set[str]:
    wrong = set()
    for path in modules():
        here = room(path)
        for other in used(path) - {here, *GROUND}:
            apart = here in APART and other in APART
            barred = apart or other in WITHOUT.get(here, ())
            if other not in ROOMS or ROOMS.index(other) > ROOMS.index(here) or barred:
                wrong.add(f"{path.relative_to(NODE).with_suffix('')} -> {other}")
    return wrong


def test_every_module_is_in_a_room_or_puts_the_house_together() -> None:
    assert {path.stem for path in NODE.glob("*.py")} == TOP | GROUND
    assert {room(path) for path in modules()} <= set(ROOMS)


def test_rooms_use_only_what_is_below_them() -> None:
    found = upward()
    assert found - ALLOWED == set(), "an upward use: give the lower room a table of handlers or a port"
    assert ALLOWED - found == set(), "gone: strike it from the list"


def test_the_architecture_has_a_row_for_each_room_from_the_ground_up() -> None:
    page = (NODE.parent / "ARCHITECTURE.md").read_text()
    assert re.findall(r"^\| `([a-z/]+)/` \|", page, re.MULTILINE) == ROOMS


if __name__ == "__main__":
    print("\n".join(sorted(upward())))
