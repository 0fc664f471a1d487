"""What a person should look at: a connection request, a feed, a key that changed, a partner that cheats."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Connection, select

from .epochs import DAY
from .tables import alerts as rows

if TYPE_CHECKING:
    from .project import Project


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    id: str
    kind: str
    text: str
    at: int


class Alerts:
    def __init__(self, project: "Project") -> None:
        self._project = project

    def add(self, tx: Connection, kind: str, text: str) -> None:
        """Add an alert in the caller's transaction; `text` names no identity."""
        node = self._project.node
        tx.execute(
            rows.insert().values(id=node.new_id(), project_id=self._project.id, kind=kind, text=text, at=node.now())
        )

    def add_daily(self, tx: Connection, kind: str, text: str) -> bool:
        """Add an alert unless the same one was added within a day; says whether it was."""
        since = self._project.node.now() - DAY
        query = select(rows.c.id).where(
            rows.c.project_id == self._project.id, rows.c.kind == kind, rows.c.text == text, rows.c.at > since
        )
        if tx.execute(query).first() is not None:
            return False
        self.add(tx, kind, text)
        return True

    def list(self) -> list[Alert]:
        """Return the project's alerts, newest first."""
        query = select(rows).where(rows.c.project_id == self._project.id).order_by(rows.c.at.desc(), rows.c.id)
        with self._project.node.store.read() as connection:
            return [Alert(id=row.id, kind=row.kind, text=row.text, at=row.at) for row in connection.execute(query)]
