"""How a node stands, and one project of it, each as one document."""

from sqlalchemy import ColumnElement, Table, func, select

from ..access.scope import Home, Scope
from ..feeds.prerequisites import prerequisites
from ..governance.labels import Labels
from ..governance.lineage import Place, PlaceKind
from ..governance.policies import Policies, PolicyStatus
from ..governance.visibility import Visibility
from ..operations.alerts import Alerts
from ..operations.jobs import Jobs
from ..partners.connections import ConnectionStatus
from ..partners.letters import Letters
from ..people.datasets import namespaces
from ..segments.segments import Segments
from ..storage.locks import serving
from ..storage.records import Document
from ..storage.tables import connections, datasets


def node(home: Home, *, alerts: int = 10) -> Document:
    """Return who the node is, whether it serves, its curve kernel, partners and open jobs, and the newest alerts that
    nobody has acknowledged."""
    from psi import kernel

    projects = home.scopes()
    partners = _count(home, connections, connections.c.status == ConnectionStatus.ACTIVE)
    newest = [(alert, project.name) for project in projects for alert in Alerts(project).all(open_only=True)]
    newest.sort(key=lambda each: each[0].at, reverse=True)
    return {
        "organisation": home.config.organisation,
        "home": str(home.path),
        "key": home.key.hex(),
        "address": home.config.address or None,
        "serving": serving(home.path),
        "kernel": kernel.name(),
        "projects": [
            {
                "name": each.name,
                "on_hold": each.on_hold,
                "partners": partners.get(each.id, 0),
                "open_jobs": Jobs(home).open_count(each),
                "letters_fetched": Letters(each).last_fetched(),
            }
            for each in projects
        ],
        "alerts": [
            {"id": alert.id, "at": alert.at, "project": name, "kind": alert.kind, "text": alert.text}
            for alert, name in newest[:alerts]
        ],
    }


def _count(home: Home, table: Table, condition: ColumnElement[bool]) -> dict[str, int]:
    query = select(table.c.project_id, func.count()).where(condition).group_by(table.c.project_id)
    with home.read() as tx:
        return {row.project_id: row[1] for row in tx.execute(query)}


def project(scope: Scope) -> Document:
    """Return the project as one document: what sharing needs, the terms, and how much of everything there is."""
    used = Labels(scope).in_use()
    with scope.read() as tx:
        visibility = Visibility(scope, tx)
        names = tx.scalars(select(datasets.c.name).where(datasets.c.project_id == scope.id)).all()
        partners = select(func.count()).select_from(connections).where(connections.c.project_id == scope.id)
        counts = {  # of what the caller may see
            "datasets": sum(visibility.sees(Place(kind=PlaceKind.DATASET, target=name)) for name in names),
            "connections": tx.scalar(partners),
            "labels_applied": sum(used.values()),
            "segments": len(Segments(scope).all()),
        }
        needs = prerequisites(scope, tx)
    return {
        "id": scope.id,
        "name": scope.name,
        "on_hold": scope.on_hold,
        "namespaces": namespaces(scope),
        "consent_model": scope.consent_model,
        "labels": used,
        "policies": [each.name for each in Policies(scope).all() if each.status is PolicyStatus.ENABLED],
        "prerequisites": [each.document() for each in needs],
        "terms": scope.terms.as_dict(),
        "counts": counts,
    }
