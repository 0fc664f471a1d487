"""Traits: what is known of visitors, realised by signals that a rule matches, by files, or by the traits of a folder."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import Text, cast, func, select

from psi.errors import Remedy

from ..access.scope import Scope
from ..errors import AlreadyExists, InvalidInput, NotAllowed, NotFound
from ..segments.trees import Tree
from ..storage.database import Tx
from ..storage.records import record
from ..storage.tables import traits
from . import checks, trait_rules
from .numbers import next_number, note_change
from .records import MAX_DAYS, BriefTrait, NewTrait, Trait, TraitKind

MOST = 100_000  # of a project, as Audience Manager has it


def stored(scope: Scope, tx: Tx) -> list[Trait]:
    """Return all traits of a project by number, also those that are hidden from the caller."""
    query = select(traits).where(traits.c.project_id == scope.id).order_by(traits.c.number)
    return [record(Trait, row) for row in tx.execute(query)]


def brief(scope: Scope, tx: Tx, since: int = -1) -> Iterator[BriefTrait]:
    """Yield what calls need of the traits of a project that have changed since a revision, by number."""
    columns = [traits.c[name] if name != "tree" else cast(traits.c.tree, Text) for name in BriefTrait._fields]
    query = select(*columns).where(traits.c.project_id == scope.id, traits.c.revision > since)
    kinds = {str(each): each for each in TraitKind}
    for number, kind, *others in tx.execute(query.order_by(traits.c.number)):
        yield BriefTrait(number, kinds[kind], *others)


def changed(scope: Scope, tx: Tx, known: Mapping[int, BriefTrait], revision: int) -> dict[int, BriefTrait]:
    """Return all traits by number, of which those of a revision are `known`: what has changed since alone is read."""
    mine = traits.c.project_id == scope.id
    found = {**known, **{each.number: each for each in brief(scope, tx, revision)}}
    if tx.scalar(select(func.count()).select_from(traits).where(mine)) != len(found):  # some were deleted
        there = set(tx.scalars(select(traits.c.number).where(mine)))
        found = {number: trait for number, trait in found.items() if number in there}
    return found


def by_number(scope: Scope, tx: Tx, number: int) -> Trait | None:
    """Return a trait; None where there is none."""
    row = tx.execute(select(traits).where(traits.c.project_id == scope.id, traits.c.number == number)).first()
    return None if row is None else record(Trait, row)


def by_code(scope: Scope, tx: Tx, source: int, integration_code: str) -> Trait | None:
    """Return the trait that has an integration code in a data source; None where none has it."""
    mine = (traits.c.project_id == scope.id, traits.c.source == source)
    row = tx.execute(select(traits).where(*mine, traits.c.integration_code == integration_code)).first()
    return None if row is None else record(Trait, row)


def ensure(scope: Scope, tx: Tx, wanted: NewTrait) -> Trait:
    """Return the trait of a data source and an integration code; make it where there is none.

    One that is there follows in name, rule and labels, and keeps all else.
    """
    there = None if wanted.integration_code is None else by_code(scope, tx, wanted.source, wanted.integration_code)
    if there is None:
        return add(scope, tx, wanted)
    following = {each: getattr(wanted, each) for each in ("name", "rule")}
    following["labels"] = list(wanted.labels)
    return change(scope, tx, there, **following)


def add(scope: Scope, tx: Tx, wanted: NewTrait) -> Trait:
    """Make a trait; raises AlreadyExists for an integration code that one of its data source has."""
    check_days(wanted.days)
    checks.check_new(scope, tx, wanted, "trait", by_code)
    mine = (traits.c.project_id == scope.id,)
    if int(tx.scalar(select(func.count()).select_from(traits).where(*mine)) or 0) >= MOST:
        raise NotAllowed(f"a project has at most {MOST:,} traits", hint="delete one")
    made = Trait(
        id=scope.home.new_id(),
        number=next_number(scope, tx),
        created=scope.home.now(),
        tree=_tree(wanted.kind, wanted.rule),
        **asdict(wanted) | {"labels": list(wanted.labels)},
    )
    tx.execute(traits.insert().values(**asdict(made), project_id=scope.id, revision=note_change(scope, tx)))
    return made


def change(scope: Scope, tx: Tx, trait: Trait, **values: Any) -> Trait:
    """Change what is given of name, description, rule, folder and days; who has realised it keeps it."""
    changed = {name: value for name, value in values.items() if value != getattr(trait, name)}
    checks.check_changed(scope, tx, changed, "trait")
    if "days" in changed:
        check_days(changed["days"])
    if "rule" in changed:
        changed["tree"] = _tree(trait.kind, changed["rule"])
    if changed:
        changed["revision"] = note_change(scope, tx)
        tx.execute(traits.update().where(traits.c.id == trait.id).values(**changed))
    found = by_number(scope, tx, trait.number)
    assert found is not None
    return found


def remove(scope: Scope, tx: Tx, trait: Trait) -> None:
    """Take a trait's row away; its number is not given again."""
    tx.execute(traits.delete().where(traits.c.id == trait.id))
    note_change(scope, tx)


def no_trait(which: str | int) -> NotFound:
    """Return the error for a trait that does not exist, or is hidden from the caller."""
    return NotFound(
        f"there is no trait {str(which)[:80]!r}", hint="see which there are", remedy=Remedy("audience.trait.list")
    )


def check_days(days: int) -> int:
    """Return after how many days a trait expires; raises InvalidInput."""
    if not 0 <= days <= MAX_DAYS:
        raise InvalidInput(f"a trait expires after 1 to {MAX_DAYS:,} days", hint="0 days: it does not expire")
    return days


def check_name_free(scope: Scope, tx: Tx, source: int, name: str) -> None:
    """Raise AlreadyExists for a name that a trait of a data source has: those that people make are told apart by it."""
    mine = (traits.c.project_id == scope.id, traits.c.source == source, traits.c.name == name)
    if tx.execute(select(traits.c.id).where(*mine)).first() is not None:
        raise AlreadyExists(f"there is a trait {name[:80]!r} of this data source already", hint="choose another name")


def _tree(kind: TraitKind, rule: str | None) -> Tree | None:
    """Return the tree of a rule; raises InvalidInput for one that does not parse, or is none where one is needed."""
    if rule is None:
        if kind is TraitKind.RULE_BASED:
            raise InvalidInput("a rule-based trait has a rule", hint="give one, such as 'segID == \"X\"'")
        return None
    if kind is TraitKind.FOLDER:
        raise InvalidInput("a folder trait has no rule: it has those of its folder", hint="leave the rule out")
    return trait_rules.parse(rule)
