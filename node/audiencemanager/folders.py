"""Folders of traits and segments."""

from sqlalchemy import select

from psi.errors import Remedy

from ..access.scope import Scope
from ..errors import AlreadyExists, NotAllowed, NotFound
from ..storage.database import Tx
from ..storage.records import record
from ..storage.tables import audience_folders
from .numbers import next_number
from .records import TOP, Folder, check_title

MOST = 2_000  # of a project, as Audience Manager has it
DEEPEST = 5  # folders in one another


def stored(scope: Scope, tx: Tx) -> list[Folder]:
    """Return all folders of a project by number."""
    query = select(audience_folders).where(audience_folders.c.project_id == scope.id)
    return [record(Folder, row) for row in tx.execute(query.order_by(audience_folders.c.number))]


def by_number(scope: Scope, tx: Tx, number: int) -> Folder | None:
    """Return a folder; None where there is none."""
    mine = (audience_folders.c.project_id == scope.id, audience_folders.c.number == number)
    row = tx.execute(select(audience_folders).where(*mine)).first()
    return None if row is None else record(Folder, row)


def ensure(scope: Scope, tx: Tx, name: str, parent: int = TOP) -> Folder:
    """Return the folder of a name in another one; where there is none, make it."""
    there = next((each for each in stored(scope, tx) if (each.parent, each.name) == (parent, name)), None)
    return there or add(scope, tx, name, parent)


def add(scope: Scope, tx: Tx, name: str, parent: int = TOP) -> Folder:
    """Make a folder in another one; raises AlreadyExists, or NotAllowed where it would be one too many or too deep."""
    there = {each.number: each for each in stored(scope, tx)}
    check_title(name, "folder")
    if parent != TOP and parent not in there:
        raise no_folder(parent)
    if any((each.parent, each.name) == (parent, name) for each in there.values()):
        raise AlreadyExists(f"there is a folder {name[:80]!r} already", hint="choose another name")
    if len(there) >= MOST:
        raise NotAllowed(f"a project has at most {MOST:,} folders", hint="put it into one that is there")
    if len(path(there, parent)) >= DEEPEST:
        raise NotAllowed(f"folders are at most {DEEPEST} deep", hint="make it in one that is higher up")
    made = Folder(id=scope.home.new_id(), number=next_number(scope, tx), parent=parent, name=name)
    values = {each: getattr(made, each) for each in Folder.__dataclass_fields__}
    tx.execute(audience_folders.insert().values(**values, project_id=scope.id))
    return made


def path(there: dict[int, Folder], number: int) -> list[Folder]:
    """Return a folder with those that it is in, from the top."""
    found: list[Folder] = []
    while number in there and len(found) < DEEPEST:
        found.insert(0, there[number])
        number = there[number].parent
    return found


def below(there: dict[int, Folder], number: int) -> set[int]:
    """Return the numbers of a folder and of all that are in it; of TOP every one."""
    if number == TOP:
        return {TOP, *there}
    return {each for each in there if number in (one.number for one in path(there, each))}


def no_folder(which: str | int) -> NotFound:
    """Return the error for a folder that does not exist."""
    return NotFound(
        f"there is no folder {str(which)[:80]!r}", hint="see which there are", remedy=Remedy("audience.folder.list")
    )
