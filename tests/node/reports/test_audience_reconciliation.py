"""Why an Audience Manager side counts fewer people: the sum is exact on random data, against a count person by person."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from node.audiencemanager import builtin, receiving
from node.audiencemanager.receiving import Call
from node.governance.lineage import PlaceKind
from node.imports.identity_columns import IdentityColumn
from node.inputs.normalise import normalise, rule
from node.node import Node
from node.project import Project

NAMESPACES = ("ecid", "gaid", "crmid")
VALUES = 40  # of a namespace: several people share one


@dataclass(frozen=True)
class Person:
    name: str
    namespace: str
    value: int

    @property
    def identity(self) -> tuple[str, int]:
        return self.namespace, self.value

    @property
    def text(self) -> str:
        return {"ecid": f"{self.value:038d}", "gaid": f"{self.value:032x}", "crmid": f"c{self.value}"}[self.namespace]


class Plain:
    """What should be counted, by one person after the other."""

    def __init__(self, people: list[Person], linked: int) -> None:
        self.people, self.linked = people, linked
        self.no: set[str] = set()
        self.sent: dict[str, set[tuple[str, int]]] = {}

    def visitor(self, person: Person) -> tuple[str, int]:
        known = person.namespace == "gaid" and person.value <= self.linked
        return ("ecid", person.value) if known else person.identity

    def allowed(self, members: set[str]) -> list[Person]:
        denied = {each.identity for each in self.people if each.name in self.no}
        found = [each for each in self.people if each.name in members and each.namespace != "crmid"]
        return [each for each in found if each.identity not in denied]

    def send(self, segment: str, members: set[str]) -> None:
        self.sent[segment] = {self.visitor(each) for each in self.allowed(members)}

    def counts(self, segment: str, members: set[str]) -> dict[str, int]:
        without = sum(each.name in members and each.namespace == "crmid" for each in self.people)
        may = self.allowed(members)
        visitors = {self.visitor(each) for each in may}
        there = visitors & self.sent[segment]
        return {
            "platform": len(members),
            "counted": len(there),
            "namespace": without,
            "consent": len(members) - without - len(may),
            "merge": len(may) - len(visitors),
            "timing": len(visitors - there),
            "leaving": len(self.sent[segment] - there),
        }


def fill(project: Project, folder: Path, draw: random.Random) -> Plain:
    people = [Person(f"p{n}", draw.choice(NAMESPACES), draw.randint(1, VALUES)) for n in range(150)]
    for namespace in NAMESPACES:
        file = folder / f"{namespace}.csv"
        mine = [each for each in people if each.namespace == namespace]
        file.write_text("id,v\n" + "".join(f"{each.name},{each.text}\n" for each in mine))
        column = IdentityColumn.parse(f"v={namespace}")
        project.profiles.import_(file, dataset=namespace, id_column="id", identities=[column])
    project.consent.set_model("opt-out")
    linked, calls = 15, []  # ids that one visitor has
    for value in range(1, linked + 1):
        ids = [Person("", "ecid", value).text, Person("", "gaid", value).text]
        raw = [normalise(rule(each), [text]).values[0] for each, text in zip(NAMESPACES, ids, strict=False)]
        calls.append(Call(((builtin.DEVICES, raw[0]), (20914, raw[1])), (), (), (), project.scope.home.now()))
    receiving.receive(project.scope, calls, builtin.DEVICES)
    return Plain(people, linked)


def told(project: Project, segment: str) -> Mapping[str, int]:
    (row,) = project.reports.audience(segment)["sides"]
    assert row["platform"] == sum(row[each] for each in ("counted", "namespace", "consent", "merge", "timing"))
    return {name: count for name, count in row.items() if name != "destination"}


@pytest.mark.feature("AM5")
@pytest.mark.parametrize("seed", [1, 2])
def test_the_sum_is_exact_whatever_people_there_are(node: Node, tmp_path: Path, seed: int) -> None:
    draw, project = random.Random(seed), node.project()
    plain = fill(project, tmp_path, draw)
    project.destinations.create("aam", "audience-manager", {})
    names = [each.name for each in plain.people]
    in_segment = {}
    for segment, share in (("few", 0.1), ("half", 0.5), ("all", 1.0)):
        in_segment[segment] = {each for each in names if draw.random() < share}
        (tmp_path / f"{segment}.csv").write_text("id\n" + "".join(f"{each}\n" for each in sorted(in_segment[segment])))
        project.segments.create(segment, members_file=tmp_path / f"{segment}.csv")
        assert project.reports.audience(segment)["sides"] == []
    project.destinations.activate("aam", list(in_segment))
    for segment, members in in_segment.items():
        plain.send(segment, members)
        assert told(project, segment) == plain.counts(segment, members)
    for name in draw.sample(names, 10):
        project.consent.set(name, "n")
        plain.no.add(name)
    in_segment["half"] ^= set(draw.sample(names, 40))
    (tmp_path / "half.csv").write_text("id\n" + "".join(f"{each}\n" for each in sorted(in_segment["half"])))
    project.segments.update("half", tmp_path / "half.csv")
    for segment, members in in_segment.items():
        assert told(project, segment) == plain.counts(segment, members)
    project.labels.create("kept", "stays here")
    project.policies.create("no-analytics", "analytics", "kept")
    project.labels.apply("kept", PlaceKind.SEGMENT, "all")
    found = told(project, "all")
    assert found["consent"] == found["platform"] - found["namespace"]
