"""Segments: sets of profiles, imported by id or evaluated from a rule, kept as roaring bitmaps of profile numbers."""

import csv
import io
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap
from sqlalchemy import Connection, Row, select

from ..access import permissions
from ..errors import AlreadyExists, InvalidInput, NotFound, Refused, check_name
from ..governance.governance import FILE_USES
from ..governance.labels import Kind, Origin
from ..people.data import Draft, Snapshot
from ..storage import tables
from ..storage.files import write_atomically
from . import rules, trees

if TYPE_CHECKING:
    from ..project import Project

ID_HEADERS = ("id", "profile", "profile_id", "customer", "customer_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """`size` counts profiles as last evaluated; `unknown` the ids of a members file that are no profile."""

    id: str
    name: str
    kind: str  # members, rule
    rule: str | None
    tree: dict[str, Any] | None
    uses: list[str]
    size: int
    evaluated: int
    unknown: int = field(default=0)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def written(self, form: str) -> str:
        """Return the rule's tree as "json" or "yaml"; raises Refused for a list."""
        if self.tree is None:
            raise Refused(f"segment {self.name} is a list: it has no rule", hint=f"vesica segment show {self.name}")
        return trees.dumped(self.tree, form)


RuleTree = Mapping[str, Any] | Path  # a tree, or the JSON or YAML file that holds one


class Segments:
    def __init__(self, project: "Project") -> None:
        self._project = project

    def create(
        self,
        name: str,
        *,
        rule: str | None = None,
        tree: RuleTree | None = None,
        members_file: Path | str | None = None,
    ) -> Segment:
        """Make a segment from a rule, as text or as a tree, or from a file with a profile id per row; and evaluate it."""
        detail: dict[str, Any] = {}
        with self._project.act("segment.create", name, detail=detail) as tx:
            check_name(name, "segment")
            if [rule, tree, members_file].count(None) != 2:
                raise InvalidInput(
                    "a segment has a rule or members", hint="give --rule EXPR, --tree FILE or --members FILE"
                )
            if self._find(tx, name) is not None:  # also one that is hidden from whoever asks: names are unique
                raise AlreadyExists(f"there is a segment {name!r} already", hint="delete it, or choose another name")
            draft, unknown = Draft(self._project, tx), 0
            parsed = None
            if members_file is not None:
                members, unknown = self._read_members(tx, draft.base, Path(members_file))
            else:
                rule = self._text(rule, tree)
                parsed = rules.parse(rule, self._names(tx, visible=True))
                self._check_uses(tx, parsed.uses)
                members = self._evaluate(tx, draft, parsed.tree)
            segment = Segment(
                id=self._project.node.new_id(),
                name=name,
                kind="members" if parsed is None else "rule",
                rule=rule,
                tree=None if parsed is None else parsed.tree,
                uses=[] if parsed is None else parsed.uses,
                size=len(members),
                evaluated=self._project.node.now(),
                unknown=unknown,
            )
            values = {key: value for key, value in segment.as_dict().items() if key != "unknown"}
            created = self._project.node.now()
            tx.execute(tables.segments.insert().values(**values, project_id=self._project.id, created=created))
            draft.set_members(segment.id, members)
            draft.publish()
            detail |= {"kind": segment.kind, "size": segment.size}
        return segment

    def update(
        self,
        name: str,
        members_file: Path | str | None = None,
        *,
        rule: str | None = None,
        tree: RuleTree | None = None,
    ) -> Segment:
        """Replace a rule by another, or the members of a list by those of another file.

        What is composed of the segment follows at once, feeds with their next run. A rule by which a published feed
        would break a policy is refused (`node.governance`).
        """
        detail: dict[str, Any] = {}
        place = Origin(kind=Kind.SEGMENT, target=name)
        with self._project.governance.act("segment.update", name, place, detail=detail) as tx:
            row = self._get(tx, name)
            if [rule, tree, members_file].count(None) != 2:
                raise InvalidInput("nothing to change", hint="give --rule EXPR, --tree FILE or --members FILE")
            draft, unknown = Draft(self._project, tx), 0
            values: dict[str, Any] = {}
            if members_file is not None:
                if row.tree is not None:
                    raise Refused(f"segment {name} has a rule", hint=f"vesica segment update {name} --rule EXPR")
                members, unknown = self._read_members(tx, draft.base, Path(members_file))
            else:
                if row.tree is None:
                    raise Refused(f"segment {name} is a list", hint=f"vesica segment update {name} --members FILE")
                rule = self._text(rule, tree)
                parsed = rules.parse(rule, self._names(tx, visible=True))
                self._check_uses(tx, parsed.uses)
                values = {"rule": rule, "tree": parsed.tree, "uses": parsed.uses}
                self._check_apart(tx, name, parsed.uses)
                members = self._evaluate(tx, draft, parsed.tree)
            if members != draft.base.members(row.id):
                draft.set_members(row.id, members)
                draft.publish()
            rows, now = tables.segments, self._project.node.now()
            tx.execute(rows.update().where(rows.c.id == row.id).values(size=len(members), evaluated=now, **values))
            self.renew(tx, {f"own.{name}"})
            detail |= {"size": len(members)}
            row = self._get(tx, name)
        return replace(_segment(row), unknown=unknown)

    def attribute_names(self, tx: Connection) -> dict[str, rules.Field]:
        """Return what a condition may write for each attribute that is not hidden from whoever acts."""
        return self._names(tx, visible=True)

    def lists(self, tx: Connection) -> "set[str]":
        """Return the names of the segments that have members and no rule."""
        return {row.name for row in self._rows(tx) if row.tree is None}

    def check_open(self, tx: Connection, names: Iterable[str], mine: Collection[str]) -> None:
        """Raise AlreadyExists for a segment that is there and none of `mine`, or hidden from whoever acts: in one way."""
        there = {row.name for row in self._rows(tx)}
        closed = (there - set(mine)) | self.hidden(tx)
        for name in names:
            if name in closed:
                raise AlreadyExists(
                    f"there is a segment {name!r} already, which this import may not change",
                    hint=f"call it otherwise (--segments FILE), or let the import change a list of yours: --into {name}",
                )

    def lay_over(
        self, tx: Connection, draft: Draft, name: str, inside: BitMap, outside: BitMap, *, source: str
    ) -> tuple[int, bool]:
        """Let profiles be in a list or out of it, in the caller's transaction and draft; the others stay as they are.

        The list inherits the labels of the field `source` ("dataset.field"). Returns the list's size then, and whether it
        is new. Raises Refused for a segment with a rule.
        """
        row, now = self._find(tx, check_name(name, "segment")), self._project.node.now()
        if row is not None and row.tree is not None:
            raise Refused(f"segment {name} has a rule", hint="its members follow the profiles' attributes")
        segment_id = self._project.node.new_id() if row is None else row.id
        members = (draft.base.members(segment_id) - outside) | inside
        draft.set_members(segment_id, members)
        uses = sorted({source, *([] if row is None else row.uses)})
        values: dict[str, Any] = {"size": len(members), "evaluated": now, "uses": uses}
        if row is None:
            fresh = {"id": segment_id, "name": name, "kind": "members", "created": now}
            tx.execute(tables.segments.insert().values(project_id=self._project.id, **fresh, **values))
        else:
            tx.execute(tables.segments.update().where(tables.segments.c.id == segment_id).values(**values))
        return len(members), row is None

    def evaluate(self, name: str | None = None) -> list[Segment]:
        """Evaluate one segment with what it is composed of, or all that have a rule; returns them as they are then.

        Where nobody has come or gone, the project's data stays at its generation.
        """
        detail: dict[str, Any] = {}
        with self._project.act("segment.evaluate", name or "all", detail=detail) as tx:
            hidden = self.hidden(tx)
            found = {row.name: row for row in self._rows(tx) if row.name not in hidden}
            if name is not None and name not in found:
                raise _missing(name)
            draft, done, changed, gone = Draft(self._project, tx), [], False, set[str]()
            for row in _in_order(found, [name] if name is not None else sorted(found)):
                if row.tree is None:
                    continue
                members = self._evaluate(tx, draft, row.tree) if name else self._left(tx, draft, row, gone)
                if members != draft.base.members(row.id):
                    draft.set_members(row.id, members)
                    changed = True
                rows, now = tables.segments, self._project.node.now()
                tx.execute(rows.update().where(rows.c.id == row.id).values(size=len(members), evaluated=now))
                done.append(row.name)
            if changed:
                draft.publish()
            detail["segments"] = len(done)
            return [_segment(row) for row in self._rows(tx) if row.name in done or row.name == name]

    def list(self) -> "list_[Segment]":
        with self._project.node.store.read() as connection:
            hidden = self.hidden(connection)
            return [_segment(row) for row in self._rows(connection) if row.name not in hidden]

    def show(self, name: str) -> Segment:
        with self._project.node.store.read() as connection:
            return _segment(self._get(connection, name))

    def members(self, name: str, snapshot: Snapshot | None = None) -> BitMap:
        """Return the profile numbers of a segment as last evaluated, in a pinned snapshot or the newest."""
        segment = self.show(name)
        return (snapshot or Snapshot.open(self._project)).members(segment.id)

    def export(self, name: str, path: Path | str, *, uses: Iterable[str] = ()) -> int:
        """Write the ids of a segment's profiles as CSV and return how many.

        `uses` are the marketing uses that the file is for; without one it is for all of them. Who fails a consent
        policy on one of them is left out. Refused where a policy, C12, or a partner whose segment it reads forbids one.
        A segment that reads received ones is evaluated first: what a partner took back must not leave.
        """
        detail: dict[str, Any] = {"uses": sorted(set(uses))}
        with self._project.node.store.read() as reading:
            received = self.reads_received(reading, name) and name not in self.hidden(reading)
        self._project.require("segment.export", name)
        if received:
            guard = self._project.node.guard
            with guard.itself(guard.caller.name):  # it needs the permission to export alone
                self.evaluate(name)
        with self._project.act("segment.export", name, detail=detail) as tx:
            row = self._get(tx, name)
            self._project.governance.check_export(name, detail["uses"], tx)
            snapshot = Snapshot.open(self._project, tx)
            everyone = members = snapshot.members(row.id)
            actions = detail["uses"] or FILE_USES
            for qualified in self._project.consent_policies.qualified([name], snapshot, actions=actions, tx=tx):
                members = members if qualified is None else members & qualified
            if members != everyone:
                detail["without_consent"] = len(everyone - members)
            numbers = np.array(members.to_array(), np.uint32)
            file = io.StringIO(newline="")
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["id"])
            writer.writerows([each.decode()] for each in snapshot.profile_ids[numbers].tolist())
            write_atomically(Path(path), file.getvalue().encode())
            detail["size"] = len(numbers)
        return len(numbers)

    def delete(self, name: str) -> None:
        """Take a segment away; refused while another one is composed of it, or a feed shares it."""
        with self._project.act("segment.delete", name) as tx:
            row = self._get(tx, name)
            users = [each.name for each in self._rows(tx) if f"own.{name}" in each.uses]
            if users:
                shown = sorted(set(users) - self.hidden(tx)) or ["others"]
                raise Refused(f"segment {name} is used by {', '.join(shown)}", hint="delete those first")
            policies = self._project.consent_policies.using(name, tx)
            if policies:
                raise Refused(
                    f"segment {name} is a condition of consent policy {', '.join(policies)}",
                    hint=f"vesica consent policy delete {policies[0]}",
                )
            feeds = self._project.feeds.sharing(name, tx)
            if feeds:
                raise Refused(
                    f"segment {name} is shared by feed {', '.join(feeds)}",
                    hint=f"vesica feed edit {feeds[0]} --remove-segment {name}",
                )
            uses = tables.label_uses
            mine = (uses.c.project_id == self._project.id) & (uses.c.kind == "segment")
            tx.execute(uses.delete().where(mine, uses.c.target == name))
            tx.execute(tables.segments.delete().where(tables.segments.c.id == row.id))
            draft = Draft(self._project, tx)
            draft.set_members(row.id, None)
            lists = draft.content.get("lists", {})  # whoever makes one of that name again did not import it
            for dataset, names in lists.items():
                lists[dataset] = [each for each in names if each != name]
            draft.publish()

    def reads_received(self, connection: Connection, name: str) -> bool:
        """Tell whether a segment is made of a received one, directly or through segments of ours."""
        return self._project.labels.lineage(connection).reads_received(name)

    def _text(self, rule: str | None, tree: RuleTree | None) -> str:
        """Return a rule as text, the one form that the parser reads."""
        if rule is not None:
            return rule
        return trees.written(trees.read(trees.load(tree) if isinstance(tree, Path) else tree))

    def _check_apart(self, tx: Connection, name: str, uses: Iterable[str]) -> None:
        """Refuse a rule that would make a segment of itself."""
        rows = {row.name: row for row in self._rows(tx)}
        read = [use.removeprefix("own.") for use in uses if use.startswith("own.")]
        around = [row.name for row in _in_order(rows, read) if row.name == name or f"own.{name}" in row.uses]
        if around:
            raise Refused(
                f"segment {name} would be made of itself, through {around[0]}", hint=f"leave own.{around[0]} out"
            )

    def renew(self, tx: Connection, references: Iterable[str]) -> "list_[str]":
        """Evaluate again what reads one of the references ("received.acme.vip"), in the caller's transaction.

        Returns the segments that can be evaluated no more: they have no members from now on.
        """
        changed, gone, draft = set(references), set[str](), Draft(self._project, tx)
        found = {row.name: row for row in self._rows(tx)}
        touched = []
        for row in _in_order(found, sorted(found)):
            if row.tree is None or changed.isdisjoint(row.uses):
                continue
            members = self._left(tx, draft, row, gone)
            draft.set_members(row.id, members)
            rows, now = tables.segments, self._project.node.now()
            tx.execute(rows.update().where(rows.c.id == row.id).values(size=len(members), evaluated=now))
            changed.add(f"own.{row.name}")
            touched.append(row.name)
        if touched:
            draft.publish()
        return [name for name in touched if f"own.{name}" in gone]

    def _left(self, tx: Connection, draft: Draft, row: Row[Any], gone: set[str]) -> BitMap:
        """Return a rule's members; nobody where it reads a received segment that is gone, or one of `gone`: to leave
        out the one part of the rule could let in people whom it kept out."""
        from ..feeds.receiving.received import NotReceived

        if gone.isdisjoint(row.uses):
            with suppress(NotReceived):
                return self._evaluate(tx, draft, row.tree)
        gone.add(f"own.{row.name}")
        return BitMap()

    def hidden(self, connection: Connection) -> set[str]:
        """Return the segments that are not there for whoever acts, for a label that none of their roles clears."""
        cleared = self._project.node.guard.cleared(connection, self._project.id)
        if cleared is None:
            return set()
        lineage = self._project.labels.lineage(connection)
        return {
            each for each in lineage.segments if not permissions.clears(cleared, lineage.labels(Kind.SEGMENT, each))
        }

    def _get(self, connection: Connection, name: str) -> Row[Any]:
        row = self._find(connection, name)
        if row is None or name in self.hidden(connection):
            raise _missing(name)
        return row

    def _check_uses(self, connection: Connection, uses: Iterable[str]) -> None:
        """Raise for what is hidden from whoever acts the same as for a segment that does not exist."""
        cleared = self._project.node.guard.cleared(connection, self._project.id)
        if cleared is None:
            return
        for kind, _, name in (use.partition(".") for use in uses):
            if kind == "own":
                self._get(connection, name)
            if kind == "received":
                partner, _, segment = name.partition(".")
                self._project.received.check_visible(connection, partner, segment, cleared)

    def _rows(self, connection: Connection) -> "list_[Row[Any]]":
        rows = tables.segments
        query = select(rows).where(rows.c.project_id == self._project.id).order_by(rows.c.name)
        return [*connection.execute(query)]

    def _find(self, connection: Connection, name: str) -> Row[Any] | None:
        return next((row for row in self._rows(connection) if row.name == name), None)

    def _names(self, connection: Connection, *, visible: bool = False) -> dict[str, rules.Field]:
        """Return what a rule may write for each attribute: "dataset.field", and "field" where only one has it.

        With `visible`, of the attributes that are not hidden from whoever acts.
        """
        fields, datasets = tables.fields, tables.datasets
        query = (
            select(datasets.c.name.label("dataset"), fields.c.name)
            .join(datasets, datasets.c.id == fields.c.dataset_id)
            .where(datasets.c.project_id == self._project.id, fields.c.kind == "attribute")
        )
        found = [(row.dataset, row.name) for row in connection.execute(query)]
        if visible and (cleared := self._project.node.guard.cleared(connection, self._project.id)) is not None:
            labels_of = self._project.labels.labels_of_field
            found = [each for each in found if permissions.clears(cleared, labels_of(".".join(each), connection))]
        alone = [field for _, field in found]
        names = {field: (dataset, field) for dataset, field in found if alone.count(field) == 1}
        return names | {f"{dataset}.{field}": (dataset, field) for dataset, field in found}

    def _evaluate(self, tx: Connection, draft: Draft, tree: trees.Tree) -> BitMap:
        return self.matching(tx, Snapshot(draft.base.directory, draft.base.generation, draft.content), tree)

    def matching(
        self,
        tx: Connection,
        snapshot: Snapshot,
        tree: trees.Tree,
        columns: Mapping[rules.Field, npt.NDArray[Any]] | None = None,
    ) -> BitMap:
        """Return the profiles that a rule's tree takes in; `columns` are fields beside the imported attributes."""
        references = {leaf["field"] for leaf in rules.leaves(tree)}
        return rules.evaluate(
            tree,
            count=snapshot.profile_count,
            attributes=snapshot.attributes,
            fields=self._names(tx) | {f"{dataset}.{field}": (dataset, field) for dataset, field in columns or {}},
            segments={
                name: self._referred(tx, snapshot, name)
                for name in references
                if name.startswith(("own.", "received."))
            },
            columns=columns,
        )

    def check_reference(self, tx: Connection, name: str) -> None:
        """Raise NotFound if a rule's reference ("own.vip") names no segment, or one that is hidden from whoever acts."""
        self._check_uses(tx, [name])
        if name.startswith(("own.", "received.")):
            self._referred(tx, Snapshot.open(self._project, tx), name)

    def _referred(self, tx: Connection, snapshot: Snapshot, reference: str) -> BitMap:
        kind, _, name = reference.partition(".")
        if kind == "own":
            row = self._find(tx, name)
            if row is None:
                raise _missing(name)
            return snapshot.members(row.id)
        partner, _, segment = name.partition(".")
        return self._project.memberships.members(partner, segment, tx)

    def _read_members(self, tx: Connection, snapshot: Snapshot, path: Path) -> tuple[BitMap, int]:
        """Return the profiles that a file names and how many ids are none.

        The ids stand in the column that is called as the id column of a dataset (or id, profile, customer), else in the
        first; a header is not needed.
        """
        from ..inputs.sources import Source

        source = Source.open(path, [])
        datasets, fields = tables.datasets, tables.fields
        query = (
            select(fields.c.name)
            .join(datasets, datasets.c.id == fields.c.dataset_id)
            .where(datasets.c.project_id == self._project.id, fields.c.kind == "id")
        )
        known = [*tx.scalars(query), *ID_HEADERS]
        source.columns = [next((name for name in source.header if name in known), source.header[0])]
        texts = [text for batch in source.batches() for text in batch.columns[source.columns[0]]]
        ids = np.array([text.strip().encode() for text in [source.columns[0], *texts]], np.bytes_)
        numbers = snapshot.numbers(ids)
        has_header = source.kind != "CSV" or numbers[0] < 0  # the first line is a member if it is a profile's id
        if has_header:
            numbers = numbers[1:]
        found = numbers[numbers >= 0]
        if not len(found):
            raise InvalidInput(
                f"none of the {len(numbers)} ids of {path.name} is a profile's",
                hint="give the ids of the imported --id column, one per row, after the import",
            )
        return BitMap(found.astype(np.uint32)), int((numbers < 0).sum())


list_ = list  # inside the class `list` is the method


def _segment(row: Row[Any]) -> Segment:
    return Segment(
        id=row.id,
        name=row.name,
        kind=row.kind,
        rule=row.rule,
        tree=row.tree,
        uses=row.uses,
        size=row.size,
        evaluated=row.evaluated,
    )


def _missing(name: str) -> NotFound:
    if name.startswith("received."):
        return NotFound(
            f"{name[:80]!r} is no segment of ours",
            hint=f"make one of it: vesica segment create NAME --rule {name[:80]}",
        )
    return NotFound(f"there is no segment {name[:80]!r}", hint="'vesica segment list' shows them")


def _in_order(rows: dict[str, Row[Any]], names: list[str]) -> Iterator[Row[Any]]:
    """Yield the rows, each after the ones that it is composed of."""
    seen: set[str] = set()

    def walk(name: str) -> Iterator[Row[Any]]:
        if name in seen or name not in rows:
            return
        seen.add(name)
        for used in rows[name].uses:
            if used.startswith("own."):
                yield from walk(used.removeprefix("own."))
        yield rows[name]

    for name in names:
        yield from walk(name)
