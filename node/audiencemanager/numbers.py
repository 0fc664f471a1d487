"""The numbers of traits, segments and folders, and of the state that they are in: counters of the project's row."""

from sqlalchemy import select

from ..access.scope import Scope
from ..storage.database import Tx
from ..storage.tables import projects
from .builtin import NUMBERS


def next_number(scope: Scope, tx: Tx) -> int:
    """Return a number that nothing of the project has had, also what is deleted, in the transaction that uses it."""
    given = int(tx.execute(select(projects.c.audience_numbers).where(projects.c.id == scope.id)).scalar_one())
    scope.change(tx, audience_numbers=given + 1)
    return NUMBERS + given


def revision(scope: Scope, tx: Tx) -> int:
    """Return a number that is another one after each change of traits, and after each new data source: what is made
    from them is made anew then."""
    return int(tx.execute(select(projects.c.audience_revision).where(projects.c.id == scope.id)).scalar_one())


def note_change(scope: Scope, tx: Tx) -> int:
    """Note that traits or data sources have changed, and return the new `revision`, which changed traits have."""
    new = revision(scope, tx) + 1
    scope.change(tx, audience_revision=new)
    return new
