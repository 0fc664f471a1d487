"""Attributes that leave with the members: which may, who gets which, and that a change of one is said again."""

import csv
import json
from pathlib import Path

import pytest
from clock import Clock
from targets import Folder

from node.destinations.kinds import Delivered, Later, Message, Outcome, Refused, RequiredMapping
from node.destinations.targets import folders, webhooks
from node.errors import AlreadyExists, InvalidInput, NotAllowed
from node.governance.lineage import PlaceKind
from node.governance.violations import PolicyViolation
from node.imports.identity_columns import IdentityColumn
from node.node import Node
from node.project import Project

CITIES = {"p0": "Oslo", "p1": "Rom", "p2": "", "p3": "S\u00e3o Paulo"}


@pytest.fixture
def project(node: Node, tmp_path: Path) -> Project:
    project = node.project()
    project.consent.set_model("opt-out")
    import_cities(project, tmp_path, CITIES)
    project.segments.create("s", rule="orders >= 0")
    return project


def import_cities(project: Project, folder: Path, cities: dict[str, str]) -> None:
    rows = "".join(f'{each},{place},"{city}",{each}@x.com\n' for place, (each, city) in enumerate(cities.items()))
    (folder / "crm.csv").write_text(f"id,orders,city,email\n{rows}")
    email = IdentityColumn.parse("email=email_sha256:raw")
    project.profiles.import_(
        folder / "crm.csv", dataset="crm", id_column="id", identities=[email], attributes=["orders", "city"]
    )


def rows(folder: Folder) -> list[dict[str, str]]:
    """Return all that was said, as it came."""
    found = []
    for file in sorted(folder.path.iterdir()):
        with file.open(newline="") as lines:
            found += list(csv.DictReader(lines))
    return found


def said(folder: Folder) -> list[tuple[str, str, str]]:
    return [(row["identity"], row["status"], row["city"]) for row in rows(folder)]


def test_a_mapped_attribute_leaves_with_the_member_and_its_change_is_said_again(
    project: Project, folder: Folder, tmp_path: Path
) -> None:
    project.destinations.activate("out", ["s"], mapping={"city": "crm.city"})
    first = [(each, "realized", city) for each, city in CITIES.items()]
    assert said(folder) == first
    assert project.destinations.show("out")["segments"][0]["mapping"] == {"city": "crm.city"}
    assert project.destinations.sync("out")["sent"] == 0
    import_cities(project, tmp_path, {"p0": "Oslo", "p1": "Riga", "p2": "Bern", "p3": ""})
    project.destinations.sync("out")
    assert said(folder)[4:] == [("p1", "realized", "Riga"), ("p2", "realized", "Bern"), ("p3", "realized", "")]
    assert project.destinations.show("out")["present"] == 4
    project.datasets.drop_field("crm", "city")
    project.destinations.sync("out")
    assert said(folder)[7:] == [("p0", "realized", ""), ("p1", "realized", ""), ("p2", "realized", "")]
    project.consent.set("p1", "n")
    project.destinations.sync("out")
    assert said(folder)[10:] == [("p1", "exited", "")]


def test_what_is_kept_of_attributes_tells_nothing_and_is_kept_only_where_they_are_mapped(
    project: Project, folder: Folder, tmp_path: Path
) -> None:
    other = Folder(tmp_path / "other")
    project.destinations.create("other", "file", {"folder": str(other.path)}, uses=["analytics"])
    project.destinations.activate("other", ["s"])
    project.destinations.activate("out", ["s"], mapping={"town": "city"})
    kept = project.scope.data_directory / "destinations"
    sizes = sorted(each.stat().st_size for each in kept.iterdir() if each.is_file())
    assert sizes[1] - sizes[0] == 8 * 4
    assert not any(b"Oslo" in each.read_bytes() for each in kept.rglob("*") if each.is_file())


def test_a_segment_that_leaves_already_can_be_given_a_mapping(project: Project, folder: Folder) -> None:
    project.destinations.activate("out", ["s"])
    project.destinations.activate("out", ["s"], mapping={"city": "city"})
    assert [row.get("city") for row in rows(folder)] == [None] * 4 + list(CITIES.values())
    with pytest.raises(AlreadyExists):
        project.destinations.activate("out", ["s"], mapping={"city": "crm.city"})
    with pytest.raises(AlreadyExists):
        project.destinations.activate("out", ["s"])


def test_a_field_that_is_mapped_no_more_is_emptied(project: Project, folder: Folder) -> None:
    project.destinations.activate("out", ["s"], mapping={"town": "city", "count": "orders"})
    project.destinations.activate("out", ["s"], mapping={"count": "orders"})
    emptied = [(row["identity"], row["town"], row["count"]) for row in rows(folder)[4:]]
    assert emptied == [("p0", "", "0"), ("p1", "", "1"), ("p3", "", "3")]  # p2 had nothing there
    project.destinations.activate("out", ["s"], mapping={"town": "city"})
    assert [(row["town"], row["count"]) for row in rows(folder)[7:]] == [(city, "") for city in CITIES.values()]


def test_an_identity_of_several_has_the_attributes_of_the_first_of_them_in_the_segment(
    project: Project, tmp_path: Path
) -> None:
    (tmp_path / "more.csv").write_text("id,orders,city,email\nq,9,Lima,p0@x.com\n")
    project.profiles.import_(
        tmp_path / "more.csv",
        dataset="crm",
        id_column="id",
        identities=[IdentityColumn.parse("email=email_sha256:raw")],
        attributes=["orders", "city"],
    )
    folder = Folder(tmp_path / "hashed")
    project.destinations.create(
        "mail", "file", {"folder": str(folder.path)}, identity="email_sha256", uses=["analytics"]
    )
    project.destinations.activate("mail", ["s"], mapping={"city": "city"})
    assert sorted(each[2] for each in said(folder)) == sorted(CITIES.values())
    project.segments.update("s", rule="orders >= 1")
    project.destinations.sync("mail")
    assert [each[1:] for each in said(folder)[4:]] == [("realized", "Lima")]


def test_what_waits_says_what_an_attribute_is_when_it_leaves(
    project: Project, folder: Folder, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = folder.path.rename(tmp_path / "away")
    project.destinations.activate("out", ["s"], mapping={"city": "city"})
    import_cities(project, tmp_path, CITIES | {"p0": "Kyiv"})
    away.rename(folder.path)
    clock.advance(seconds=15)
    project.destinations.sync("out")
    assert said(folder)[0] == ("p0", "realized", "Kyiv")
    assert len(said(folder)) == 4
    # A change that failed for good leaves what the target has unknown: it is said again by a replay.
    monkeypatch.setattr(folders.FolderTarget, "send", lambda *_: Refused("http_400"))
    import_cities(project, tmp_path, CITIES | {"p0": "Lviv"})
    project.destinations.sync("out")
    monkeypatch.undo()
    project.destinations.sync("out")
    assert len(said(folder)) == 4
    project.destinations.replay("out")
    assert said(folder)[4:] == [("p0", "realized", "Lviv")]


def test_a_change_that_is_taken_back_before_it_was_tried_is_decided_from_what_the_target_has(
    project: Project, folder: Folder, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(folders.FOLDER), "limit", 1)
    project.destinations.activate("out", ["s"], mapping={"city": "city"})
    away = folder.path.rename(tmp_path / "away")
    import_cities(project, tmp_path, CITIES | {"p0": "Kyiv", "p1": "Wien"})
    project.destinations.sync("out")  # p0's is tried, p1's waits behind it
    import_cities(project, tmp_path, CITIES | {"p0": "Kyiv"})
    away.rename(folder.path)
    clock.advance(seconds=15)
    project.destinations.sync("out")
    assert said(folder)[4:] == [("p0", "realized", "Kyiv")]


@pytest.mark.feature("EC14")
def test_a_label_on_a_mapped_column_refuses_the_activation_or_ends_it(project: Project, folder: Folder) -> None:
    project.policies.enable("restrict-analytics")
    project.labels.apply("C8", PlaceKind.FIELD, "crm.city")
    with pytest.raises(PolicyViolation, match=r"C8 from field crm\.city > segment s"):
        project.destinations.activate("out", ["s"], mapping={"city": "city"})
    project.destinations.activate("out", ["s"])  # without it
    assert len(folder.look()) == 4
    project.labels.remove("C8", PlaceKind.FIELD, "crm.city")
    project.destinations.activate("out", ["s"], mapping={"city": "city"})
    project.labels.apply("C12", PlaceKind.FIELD, "crm.city")
    project.destinations.sync("out")
    assert folder.look() == set()
    assert "label" in project.destinations.show("out")["segments"][0]["stopped"]


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"city": "town"}, "no such attribute"),
        ({"city": "crm.email"}, "has identities"),
        ({"city": "p@example.com"}, "what is no name"),
        ({"c!ty": "city"}, "no field"),
        ({"identity": "city"}, "of its own"),
        ({"person": "city", "person.city": "city"}, "is within"),
        ({f"f{n}": "city" for n in range(101)}, "at most 100"),
    ],
)
def test_a_mapping_that_cannot_be_meant_is_refused_with_what_to_do(
    project: Project, folder: Folder, mapping: dict[str, str], message: str
) -> None:
    with pytest.raises((InvalidInput, NotAllowed), match=message) as refused:
        project.destinations.activate("out", ["s"], mapping=mapping)
    assert refused.value.hint
    assert "p@example.com" not in str(refused.value)
    assert project.destinations.show("out")["gets"] == []


def test_raw_addresses_in_a_column_that_an_older_release_took_never_leave(
    project: Project, folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("node.inputs.raw_values._CERTAIN", ())
        import_cities(project, tmp_path, CITIES | {"p2": "someone@example.com"})
    with pytest.raises(InvalidInput, match="raw e-mail") as refused:
        project.destinations.activate("out", ["s"], mapping={"city": "city"})
    assert "someone" not in f"{refused.value} {refused.value.hint}"


@pytest.mark.feature("EC13")
def test_a_field_that_a_kind_asks_for_has_to_be_mapped_and_who_has_nothing_in_it_does_not_leave(
    project: Project, folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = (
        RequiredMapping(destination="town", mandatory=True),
        RequiredMapping(destination="count", source="crm.orders", primary_key=True),
        RequiredMapping(destination="age", source="crm.age"),
    )
    monkeypatch.setattr(type(folders.FOLDER), "required_mappings", asked, raising=False)
    with pytest.raises(InvalidInput, match="not mapped: town"):
        project.destinations.activate("out", ["s"])
    with pytest.raises(InvalidInput, match=r"takes count from crm\.orders alone"):
        project.destinations.activate("out", ["s"], mapping={"town": "city", "count": "city"})
    monkeypatch.setattr(type(folders.FOLDER), "required_mappings_only", lambda *_: True)
    with pytest.raises(InvalidInput, match="does not take the field more"):
        project.destinations.activate("out", ["s"], mapping={"town": "city", "more": "city"})
    project.destinations.activate("out", ["s"], mapping={"town": "city"})
    found = [(row["identity"], row["town"], row["count"]) for row in rows(folder)]
    assert found == [("p0", "Oslo", "0"), ("p1", "Rom", "1"), ("p3", CITIES["p3"], "3")]
    (hour,) = project.destinations.runs("out")
    assert [(each["code"], each["count"]) for each in hour["codes"]] == [("missing_mapping", 1)]
    assert hour["codes"][0]["reason"]
    import_cities(project, tmp_path, CITIES | {"p0": "", "p2": "Bonn"})
    project.destinations.sync("out")
    assert folder.look() == {"p1", "p2", "p3"}
    with pytest.raises(InvalidInput, match="names no field"):
        RequiredMapping(destination="", source="crm.city")


@pytest.mark.feature("EC13")
def test_a_webhook_says_attributes_by_their_paths_and_asks_for_those_in_its_settings(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Message] = []

    def send(_target: object, message: Message) -> Outcome:
        sent.append(message)
        return Delivered() if len(sent) < 10 else Later("timeout")

    monkeypatch.setattr(webhooks.WebhookTarget, "send", send)
    settings = {"url": "https://localhost:1/x", "required": "person.city, person.city"}
    project.destinations.create("hook", "webhook", settings, uses=["analytics"])
    with pytest.raises(InvalidInput, match=r"not mapped: person\.city"):
        project.destinations.activate("hook", ["s"])
    project.destinations.activate("hook", ["s"], mapping={"person.city": "city", "person.n": "orders"})
    project.consent.set("p3", "n")
    project.destinations.sync("hook")
    profiles = [each for message in sent for each in json.loads(message.body)["data"]["profiles"]]
    assert [each["attributes"] for each in profiles] == [
        {"person": {"city": "Oslo", "n": "0"}},
        {"person": {"city": "Rom", "n": "1"}},
        {"person": {"city": CITIES["p3"], "n": "3"}},
        {},
    ]
    with pytest.raises(InvalidInput, match="no field"):
        project.destinations.create("two", "webhook", {**settings, "required": "a..b"})
