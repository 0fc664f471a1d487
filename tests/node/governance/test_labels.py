import pytest

from node.errors import AlreadyExists, InvalidInput, InvalidName, NotAllowed, NotFound
from node.governance.lineage import Place, PlaceKind
from node.node import Node
from node.project import Project
from node.storage import tables
from psi.errors import Remedy


@pytest.fixture
def project(either_node: Node) -> Project:
    """Datasets crm (mail, income, city) and web (mail, visits); segments over them."""
    project = either_node.project()
    content = {
        "crm": {"mail": "email_sha256/lc-v1", "income": None, "city": None},
        "web": {"mail": "x/opaque-v1", "visits": None},
    }
    segments = {
        "rich": ["crm.income"],
        "local": ["crm.city"],
        "rich-local": ["own.rich", "own.local"],
        "frequent": ["web.visits"],
        "listed": [],
    }
    with either_node.home.database.begin() as tx:
        for dataset, fields in content.items():
            tx.execute(tables.datasets.insert().values(id=dataset, project_id=project.id, name=dataset, created=1))
            for field, rule in fields.items():
                kind = "identity" if rule else "attribute"
                tx.execute(
                    tables.fields.insert().values(
                        id=f"{dataset}.{field}", dataset_id=dataset, name=field, kind=kind, rule=rule
                    )
                )
        for name, uses in segments.items():
            tx.execute(
                tables.segments.insert().values(
                    id=name, project_id=project.id, name=name, kind="rule", uses=uses, size=0, evaluated=1, created=1
                )
            )
    return project


def _labels_of_field(project: Project, field: str) -> dict[str, list[Place]]:
    found: dict[str, list[Place]] = {}
    for trace in project.labels.traces(PlaceKind.FIELD, field):
        found.setdefault(trace.label, []).append(trace.origin)
    return found


def _labels(project: Project, segment: str) -> dict[str, list[str]]:
    return {
        label: [str(origin) for origin in origins]
        for label, origins in project.labels.labels_of_segment(segment).items()
    }


@pytest.mark.feature("GV1")
def test_the_catalogue(project: Project) -> None:
    names = [label.name for label in project.labels.all()]
    assert names == [*(f"C{number}" for number in range(1, 13)), "I1", "I2", "S1", "S2"]
    project.labels.create("legal-hold", "The case is open")
    assert [label.name for label in project.labels.all() if not label.standard] == ["legal-hold"]
    for name in ("legal-hold", "c11", "i1"):
        with pytest.raises(AlreadyExists):
            project.labels.create(name, "again")
    for name in ("", "Legal", "a b", "x" * 64):
        with pytest.raises(InvalidName):
            project.labels.create(name, "text")
    for text in ("", "  ", "x" * 1_001):
        with pytest.raises(InvalidInput):
            project.labels.create("other", text)
    other = Node(project.scope.home).create_project("other")
    other.labels.create("legal-hold", "another project has its own")


@pytest.mark.feature("GV2")
def test_a_dataset_label_reaches_fields_and_the_segments_that_use_them(project: Project) -> None:
    project.labels.apply("C11", PlaceKind.DATASET, "crm")
    assert _labels_of_field(project, "crm.income") == {"C11": [Place(kind=PlaceKind.DATASET, target="crm")]}
    assert _labels_of_field(project, "web.visits") == {}
    for segment in ("rich", "local", "rich-local"):
        assert _labels(project, segment) == {"C11": ["dataset crm"]}
    assert _labels(project, "frequent") == {}
    assert _labels(project, "listed") == {}


@pytest.mark.feature("GV2")
def test_an_inherited_label_is_read_only(project: Project) -> None:
    project.labels.apply("C11", PlaceKind.DATASET, "crm")
    for kind, target in (
        (PlaceKind.FIELD, "crm.income"),
        (PlaceKind.SEGMENT, "rich"),
        (PlaceKind.SEGMENT, "rich-local"),
    ):
        with pytest.raises(NotAllowed, match="dataset crm") as caught:
            project.labels.remove("C11", kind, target)
        assert caught.value.remedy == Remedy("label.remove", {"label": "C11", "dataset": "crm"})
    assert project.scope.home.audit.entries(act="label.remove")[0].result == "deny"
    project.labels.remove("C11", PlaceKind.DATASET, "crm")
    assert _labels(project, "rich-local") == {}


@pytest.mark.feature("GV2")
def test_a_label_on_an_unused_field_does_not_reach_the_segment(project: Project) -> None:
    project.labels.apply("C11", PlaceKind.FIELD, "crm.city")
    assert _labels(project, "rich") == {}
    assert _labels(project, "local") == {"C11": ["field crm.city"]}
    assert project.governance.check(["rich"]) == []
    assert [violation.policy for violation in project.governance.check(["local"])] == ["restrict-data-sharing"]


def test_every_source_is_named(project: Project) -> None:
    project.labels.apply("C3", PlaceKind.DATASET, "crm")
    project.labels.apply("C3", PlaceKind.FIELD, "crm.income")
    project.labels.apply("C3", PlaceKind.SEGMENT, "rich")
    assert _labels(project, "rich-local") == {"C3": ["dataset crm", "field crm.income", "segment rich"]}


def test_labels_of_the_identities_that_carry_a_segment(project: Project) -> None:
    project.labels.apply("C2", PlaceKind.FIELD, "crm.mail")
    project.labels.apply("I1", PlaceKind.DATASET, "web")

    def labels_of(namespace: str) -> set[str]:
        return {trace.label for trace in project.labels.traces(PlaceKind.NAMESPACE, namespace)}

    assert labels_of("email_sha256/lc-v1") == {"C2"}
    assert labels_of("x/opaque-v1") == {"I1"}
    assert labels_of("gaid/uuid-v1") == set()
    assert project.governance.check(["frequent"]) == []
    [violation] = project.governance.check(["frequent"], namespaces=["email_sha256/lc-v1"])
    assert [str(each) for each in violation.lineage] == [
        "C2 from field crm.mail > namespace email_sha256/lc-v1 > segment frequent"
    ]


def test_dots_in_names_never_lose_a_label(project: Project) -> None:
    with project.scope.home.database.begin() as tx:
        tx.execute(tables.datasets.insert().values(id="x", project_id=project.id, name="crm.eu", created=1))
        tx.execute(tables.fields.insert().values(id="x", dataset_id="x", name="home.city", kind="attribute"))
    project.labels.apply("S2", PlaceKind.DATASET, "crm.eu")
    project.labels.apply("S1", PlaceKind.FIELD, "crm.eu.home.city")
    assert list(_labels_of_field(project, "crm.eu.home.city")) == ["S1", "S2"]


def test_segments_that_use_one_another(project: Project) -> None:
    with project.scope.home.database.begin() as tx:
        for name, uses in (("a", ["own.b"]), ("b", ["own.a", "crm.city"])):
            tx.execute(
                tables.segments.insert().values(
                    id=name, project_id=project.id, name=name, kind="rule", uses=uses, size=0, evaluated=1, created=1
                )
            )
    project.labels.apply("C9", PlaceKind.FIELD, "crm.city")
    assert _labels(project, "a") == {"C9": ["field crm.city"]}


def test_what_cannot_be_labelled(project: Project) -> None:
    for kind, target in (
        (PlaceKind.DATASET, "other"),
        (PlaceKind.FIELD, "income"),
        (PlaceKind.FIELD, "crm.other"),
        (PlaceKind.SEGMENT, "other"),
    ):
        with pytest.raises(NotFound) as caught:
            project.labels.apply("C1", kind, target)
        assert caught.value.hint
    with pytest.raises(NotFound):
        project.labels.apply("C13", PlaceKind.DATASET, "crm")
    project.labels.apply("c1", PlaceKind.DATASET, "crm")
    with pytest.raises(AlreadyExists):
        project.labels.apply("C1", PlaceKind.DATASET, "crm")
    with pytest.raises(NotFound):
        project.labels.remove("C1", PlaceKind.FIELD, "web.visits")
    assert project.labels.in_use() == {"C1": 1}
    other = Node(project.scope.home).create_project("other")
    with pytest.raises(NotFound):
        other.labels.apply("C1", PlaceKind.DATASET, "crm")
