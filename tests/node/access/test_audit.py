import csv
import io
import json
from contextlib import suppress
from typing import Any

import pytest
from clock import Clock
from sqlalchemy import select

from node.access.audit import Head
from node.errors import AuditBroken, DiskFull, InvalidInput, NotAllowed
from node.node import Node
from node.project import Project
from node.storage import tables


def _act(project: Project, act: str, target: str, error: Exception | None = None) -> None:
    with project.scope.act(act, target, actor="ann@host", detail={"count": 3}) as tx:
        tx.execute(tables.projects.update().values(consent_model="opt-in"))
        if error:
            raise error


@pytest.mark.feature("OP2")
def test_an_act_and_its_row_are_kept_together(either_node: Node, clock: Clock) -> None:
    project = either_node.project()
    clock.advance(days=1)
    _act(project, "consent.model", "default")
    assert project.scope.consent_model == "opt-in"
    entry = either_node.audit.entries()[0]
    assert (entry.actor, entry.act, entry.target, entry.result) == ("ann@host", "consent.model", "default", "allow")
    assert entry.at == clock.now
    assert entry.project_id == project.id
    assert entry.detail == {"count": 3}


@pytest.mark.feature("OP2")
@pytest.mark.parametrize(
    ("error", "result", "code"),
    [
        (NotAllowed("no, because", hint="do this"), "deny", "refused"),
        (DiskFull("no space"), "fail", "disk_full"),
        (ValueError("ann@x.com"), "fail", "internal"),
    ],
)
def test_what_is_refused_or_fails_changes_nothing_but_leaves_a_row(
    either_node: Node, error: Exception, result: str, code: str
) -> None:
    project = either_node.project()
    with pytest.raises(type(error)):
        _act(project, "feed.publish", "summer", error)
    assert project.scope.consent_model is None
    entry = either_node.audit.entries()[0]
    assert (entry.act, entry.target, entry.result) == ("feed.publish", "summer", result)
    assert entry.detail["error"]["code"] == code
    assert entry.detail["count"] == 3
    assert "ann@x.com" not in json.dumps(entry.as_dict())
    either_node.audit.verify()


@pytest.mark.feature("OP2")
def test_filters_and_both_exports(either_node: Node, clock: Clock) -> None:
    project = either_node.project()
    other = either_node.create_project("other")
    start = clock.now
    for act in ("feed.create", "feed.publish", "feeder.x", "policy.enable"):
        clock.advance(days=1)
        with suppress(NotAllowed):
            _act(project, act, "=summer", NotAllowed("no") if act == "feed.publish" else None)
    _act(other, "feed.create", "winter")
    audit = either_node.audit

    def acts(**filters: Any) -> list[str]:
        return [entry.act for entry in audit.entries(**filters)]

    assert acts(act="feed", project_id=project.id) == ["feed.publish", "feed.create"]
    assert acts(act="feed.create") == ["feed.create", "feed.create"]
    assert acts(result="deny") == ["feed.publish"]
    assert acts(project_id=other.id) == ["feed.create"]
    assert acts(since=start + 2 * 86_400, until=start + 4 * 86_400) == ["feeder.x", "feed.publish"]
    assert acts(actor="nobody") == []
    assert acts(limit=1) == ["feed.create"]

    documents = json.loads(audit.export("json", project_id=project.id))
    cells = list(csv.DictReader(io.StringIO(audit.export("csv", project_id=project.id))))
    assert [each["act"] for each in documents] == ["feed.create", "feed.publish", "feeder.x", "policy.enable"]
    assert [each["act"] for each in cells] == [each["act"] for each in documents]
    assert documents[1]["result"] == "deny"
    assert documents[0]["at"] == "2027-01-16T08:00:00Z"
    assert json.loads(cells[0]["detail"]) == {"count": 3}
    assert cells[0]["target"] == "'=summer"  # a spreadsheet must not run it


@pytest.mark.feature("OP2")
def test_rows_of_a_year_ago_are_there(either_node: Node, clock: Clock) -> None:
    _act(either_node.project(), "feed.create", "old")
    clock.advance(days=365)
    _act(either_node.project(), "feed.create", "new")
    assert [entry.target for entry in either_node.audit.entries(act="feed")] == ["new", "old"]


@pytest.mark.feature("OP3")
@pytest.mark.parametrize(
    "change",
    [
        {"actor": "bob@host"},
        {"actor_kind": "user"},
        {"actor_kind": None},
        {"act": "feed.list"},
        {"target": "other"},
        {"result": "deny"},
        {"detail": {"count": 4}},
        {"at": 1},
        {"project_id": None},
        {"digest": bytes(32)},
        {"previous": bytes(32)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_row_breaks_verification(either_node: Node, change: dict[str, object]) -> None:
    audit, project = either_node.audit, either_node.project()
    for number in range(3):
        _act(project, "feed.create", f"feed-{number}")
    assert audit.verify() == audit.head()
    with either_node.home.database.begin() as tx:
        tx.execute(tables.audit.update().where(tables.audit.c.number == 3).values(**change))
    with pytest.raises(AuditBroken, match=r"row [34] "):
        audit.verify()


@pytest.mark.feature("OP3")
def test_a_removed_an_added_and_a_rewritten_row(either_node: Node) -> None:
    audit, project, rows = either_node.audit, either_node.project(), tables.audit
    for number in range(4):
        _act(project, "feed.create", f"feed-{number}")
    noted = audit.head()
    with either_node.home.database.begin() as tx:
        kept = tx.execute(select(rows).order_by(rows.c.number)).all()
        tx.execute(rows.delete().where(rows.c.number == 3))
    with pytest.raises(AuditBroken, match="row 3 "):
        audit.verify()
    with either_node.home.database.begin() as tx:  # cut off the end: the chain is whole, but a noted head is not in it
        tx.execute(rows.delete().where(rows.c.number > 2))
    audit.verify()
    with pytest.raises(AuditBroken, match="noted"):
        audit.verify(upto=noted)
    with either_node.home.database.begin() as tx:
        tx.execute(rows.insert(), [row._asdict() for row in kept[2:]])
        tx.execute(rows.insert().values(**{**kept[-1]._asdict(), "number": kept[-1].number + 1}))
    with pytest.raises(AuditBroken):
        audit.verify()


def test_a_head_is_found_again(either_node: Node) -> None:
    audit, project = either_node.audit, either_node.project()
    noted = audit.head()
    _act(project, "feed.create", "one")
    assert audit.verify(upto=noted).number == noted.number + 1
    assert Head.parse(str(noted)) == noted
    for text in ("", "1", "1:ab", f"x:{'0' * 64}", f"1:{'g' * 64}", f"1:{'0' * 64}\n"):
        with pytest.raises(InvalidInput):
            Head.parse(text)


def test_odd_text_is_kept_whole(either_node: Node) -> None:
    for target in ("nul\0", "\ud800", "x" * 1_000, "naïve ∩"):
        _act(either_node.project(), "feed.create", target)
    assert either_node.audit.entries()[0].target == "naïve ∩"
    either_node.audit.verify()
