"""Data sources: whose ids and signals these are, and what may not be done with them."""

from dataclasses import replace

from sqlalchemy import select

from psi.errors import Remedy

from ..access.scope import Scope
from ..errors import AlreadyExists, NotFound
from ..inputs.normalise import rule
from ..storage.database import Tx
from ..storage.records import record
from ..storage.tables import audience_sources
from .builtin import OWN_SOURCES, SOURCES
from .numbers import note_change
from .records import Source, SourceKind, check_title


def stored(scope: Scope, tx: Tx) -> list[Source]:
    """Return all data sources of a project by number, the built-in ones too."""
    query = select(audience_sources).where(audience_sources.c.project_id == scope.id)
    found = {row.number: record(Source, row) for row in tx.execute(query)}
    return [each for _, each in sorted({**SOURCES, **found}.items())]


def by_number(scope: Scope, tx: Tx, number: int) -> Source | None:
    """Return a data source, also a built-in one; None where there is none."""
    mine = (audience_sources.c.project_id == scope.id, audience_sources.c.number == number)
    row = tx.execute(select(audience_sources).where(*mine)).first()
    return SOURCES.get(number) if row is None else record(Source, row)


def find(scope: Scope, tx: Tx, name: str) -> Source | None:
    """Return a data source by its name, also one that is hidden from the caller."""
    return next((each for each in stored(scope, tx) if each.name == name), None)


def ensure(scope: Scope, tx: Tx, name: str) -> Source:
    """Return the data source of a name; where there is none, make it, of the platform, with the next number."""
    return find(scope, tx, name) or add(scope, tx, name, SourceKind.PLATFORM)


def add(
    scope: Scope,
    tx: Tx,
    name: str,
    kind: SourceKind,
    namespace: str | None = None,
    integration_code: str | None = None,
) -> Source:
    """Make a data source with the next number; raises AlreadyExists for a name or an integration code that one has."""
    there = stored(scope, tx)
    if any(each.name == check_title(name, "data source") for each in there):
        raise AlreadyExists(f"there is a data source {name[:80]!r} already", hint="choose another name")
    if integration_code is not None:
        check_title(integration_code, "integration code")
        if any(each.integration_code == integration_code for each in there):
            raise AlreadyExists("another data source has this integration code", hint="choose another one")
    number = max([OWN_SOURCES - 1, *(each.number for each in there)]) + 1
    made = Source(
        id=scope.home.new_id(),
        number=number,
        name=name,
        kind=kind,
        namespace=_namespace(kind, number, namespace),
        integration_code=integration_code,
        controls=[],
        created=scope.home.now(),
    )
    _insert(scope, tx, made)
    return made


def set_controls(scope: Scope, tx: Tx, source: Source, controls: list[str]) -> Source:
    """Give a data source other export controls; a built-in one gets a row by that."""
    if source.id is None:
        made = replace(source, id=scope.home.new_id(), controls=controls, created=scope.home.now())
        _insert(scope, tx, made)
        return made
    tx.execute(audience_sources.update().where(audience_sources.c.id == source.id).values(controls=controls))
    return replace(source, controls=controls)


def no_source(which: str | int) -> NotFound:
    """Return the error for a data source that does not exist, or is hidden from the caller."""
    return NotFound(
        f"there is no data source {str(which)[:80]!r}",
        hint="see which there are",
        remedy=Remedy("audience.source.list"),
    )


def _namespace(kind: SourceKind, number: int, given: str | None) -> str | None:
    """Return the namespace of a source's ids: what is given, else one of its own; the platform's have no ids."""
    if given is not None:
        return rule(given).id
    return None if kind is SourceKind.PLATFORM else rule(f"dpid-{number}").id


def _insert(scope: Scope, tx: Tx, source: Source) -> None:
    values = {name: getattr(source, name) for name in Source.__dataclass_fields__}
    tx.execute(audience_sources.insert().values(**values | {"controls": list(source.controls)}, project_id=scope.id))
    note_change(scope, tx)
