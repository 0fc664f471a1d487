"""Two nodes whose segments rest on lists and on fields, for what labels, policies and restricted uses forbid."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sides import EMAIL, Pair, Person
from sqlalchemy import insert

from node.node import Node
from node.project import Project
from node.storage.tables import label_uses

SEGMENTS = {"vip": ["a2", "a3"], "new": ["a3", "a4", "a5"]}


def prepare(pair: Pair, person: type[Person]) -> Pair:
    """Give acme segments over lists and over fields of dataset "orders", and let globe know half of the people."""
    ours = [person(f"a{n}", f"person{n}@example.com") for n in range(6)]
    theirs = [person(f"g{n}", f"person{n}@example.com") for n in range(3, 9)]
    pair.prepare(ours, theirs, SEGMENTS)
    file = pair.acme.folder / "orders.csv"
    file.write_text("id,income,colour\na3,9,red\na4,20,blue\n")
    acme = pair.acme.project
    acme.profiles.import_(file, dataset="orders", id_column="id", identities=[], attributes=["income", "colour"])
    acme.segments.create("rich", rule="income > 5")
    acme.segments.create("richer", rule="own.rich AND income > 10")
    return pair


def put_unasked(project: Project, label: str, kind: str, target: str) -> None:
    """Put a label where it came by a way that asks nobody, as in a database from elsewhere."""
    row = {"project_id": project.id, "label": label, "kind": kind, "target": target}
    with project.scope.home.database.begin() as tx:
        tx.execute(insert(label_uses).values(id=project.scope.home.new_id(), **row))


@contextmanager
def limited(node: Node) -> Iterator[Node]:
    """Open a home once more for a user who may see the label C5 and no other."""
    ann = node.users.create("ann", ["administrator"]).text
    with node.home.guard.itself(), Node.open(node.home.path, now=node.home.now) as opened:  # it serves
        opened.sign_in(ann)
        opened.roles.create("limited", ["view", "manage-governance", "manage-data"], labels=["C5"])
        opened.sign_in(opened.users.create("lou", ["limited"]).text)
        yield opened


def offer(pair: Pair, name: str, *segments: str, enable: bool = True, **rest: Any) -> None:
    pair.acme.project.feeds.create(name, segments=segments, namespaces=[EMAIL], partners=["globe"], **rest)
    pair.acme.project.feeds.publish(name)
    pair.post()
    if enable:
        pair.globe.project.received.enable(name)
        pair.post()


def paths(document: dict[str, Any]) -> list[str]:
    """Return each lineage of a report, with what was just edited in brackets."""
    return [
        " > ".join(f"[{place['name']}]" if place["edited"] else place["name"] for place in trace["path"])
        for violation in document["violations"]
        for trace in violation["lineage"]
    ]
