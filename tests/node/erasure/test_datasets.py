"""Datasets are deleted, or lose a field: with what only they brought, and not while something needs it."""

from pathlib import Path

import pytest
from remains import forms, remains
from sides import EMAIL, PHONE, Pair, Person, Side

from node.erasure.erasure import People
from node.errors import NotAllowed, NotFound
from node.imports.identity_columns import IdentityColumn
from node.people.snapshots import Snapshot
from node.storage import tables

EVERYBODY = [Person(f"a{n}", f"person{n}@example.com", f"+44740000{n:04}") for n in range(6)]


def web(side: Side, ids: list[str]) -> None:
    """Import a second dataset, with a nick and an e-mail address of its own for each."""
    file: Path = side.folder / "web.csv"
    file.write_text("id,nick,mail\n" + "".join(f"{each},nick-{each},{each}@web.example\n" for each in ids))
    columns = [IdentityColumn.parse("mail=email_sha256:raw")]
    side.project.profiles.import_(file, dataset="web", id_column="id", identities=columns, attributes=["nick"])


def names(side: Side) -> list[str]:
    return [each["name"] for each in side.project.datasets.all()]


@pytest.mark.feature("OP11")
def test_a_dataset_goes_with_the_profiles_that_no_other_one_has(pair: Pair) -> None:
    acme = pair.acme
    acme.people(EVERYBODY)
    web(acme, ["a4", "a5", "w1", "w2"])
    acme.project.consent.set("w2", "n")
    assert acme.project.datasets.delete("web")["profiles"] == 1
    assert names(acme) == ["crm"]
    assert acme.project.profiles.count()["profiles"] == 7
    assert acme.project.consent.show("w2")["share"] == "n"  # a withdrawal outlasts the data
    with pytest.raises(NotFound):
        acme.project.profiles.show("w1")
    found = {
        **forms(["w1", "nick-a4", "nick-w2"], ["a4@web.example", "w2@web.example"]),
    }
    assert remains(acme.node.home.path, found, node=acme.node) == set()
    web(acme, ["w1"])  # not suppressed: it was the dataset that was deleted
    assert acme.project.profiles.show("w1")["attributes"] == {"web": {"nick": "nick-w1"}}


@pytest.mark.feature("OP11")
def test_a_dataset_of_ids_alone_has_its_people_too(pair: Pair) -> None:
    side, project = pair.acme, pair.acme.project
    for name, columns in {"idonly": "id\nz1\nz2\n", "em": "id,email\nz1,z1@x.com\n"}.items():
        (side.folder / f"{name}.csv").write_text(columns)
        identities = [IdentityColumn.parse("email=email_sha256:raw")] if name == "em" else []
        project.profiles.import_(side.folder / f"{name}.csv", dataset=name, id_column="id", identities=identities)
    assert project.datasets.delete("em")["profiles"] == 0  # the other one names z1
    assert project.profiles.count() == {"profiles": 2, "namespaces": {}}
    side.people([Person("a1", "a1@x.com")])
    project.erasure.profiles(People(ids=["z2"]))
    assert project.datasets.delete("idonly")["profiles"] == 1
    assert project.profiles.count()["profiles"] == 1


@pytest.mark.feature("OP11")
def test_of_data_from_before_datasets_noted_their_people_the_rows_say_it(pair: Pair) -> None:
    acme, rows = pair.acme, tables.manifests
    acme.people(EVERYBODY)
    web(acme, ["a4", "w1"])
    with acme.node.home.begin() as tx:
        content = dict(Snapshot.open(acme.project.scope, tx).content.document())
        assert set(content.pop("named")) == {"crm", "web"}
        tx.execute(rows.update().values(content=content))
    assert acme.project.datasets.delete("web")["profiles"] == 1
    assert acme.project.profiles.count()["profiles"] == len(EVERYBODY)


@pytest.mark.feature("OP11")
def test_partners_get_the_exit_of_whom_a_dataset_brought(pair: Pair) -> None:
    pair.prepare(EVERYBODY, [Person(f"g{n}", f"a{n}@web.example", f"+44740000{n:04}") for n in range(6)], {})
    web(pair.acme, ["a0", "a1", "a2"])
    pair.acme.segment("vip", ["a0", "a1", "a2", "a5"])
    pair.share("summer", ["vip"], [EMAIL, PHONE])
    pair.acme.project.feeds.sync()
    assert pair.globe.members("acme", "vip") == {"g0", "g1", "g2", "g5"}
    with pytest.raises(NotAllowed, match="feed summer needs"):
        pair.acme.project.datasets.drop_field("crm", "phone")
    pair.acme.project.datasets.drop_field("web", "mail")
    pair.acme.node.sync()
    assert pair.globe.members("acme", "vip") == {"g0", "g1", "g2", "g5"}  # by phone
    pair.acme.project.profiles.import_(
        pair.acme.folder / "acme-crm.csv",
        dataset="copy",
        id_column="id",
        identities=[IdentityColumn.parse(each) for each in ("phone=phone_sha256", "email=email_sha256")],
    )
    pair.acme.project.datasets.delete("crm")
    pair.acme.project.datasets.drop_field("web", "nick")
    pair.post()
    assert pair.globe.members("acme", "vip") == {"g0", "g1", "g2", "g5"}  # the copy has the phones
    assert names(pair.acme) == ["copy", "web"]


def test_what_is_needed_cannot_be_deleted_and_the_refusal_says_by_what(pair: Pair) -> None:
    acme = pair.acme
    acme.people(EVERYBODY)
    web(acme, ["a4", "a5"])
    acme.project.segments.create("nicks", rule="web.nick LIKE 'nick-%'")
    with pytest.raises(NotAllowed, match="segment nicks needs what dataset web brought"):
        acme.project.datasets.delete("web")
    with pytest.raises(NotAllowed, match=r"segment nicks needs field web\.nick"):
        acme.project.datasets.drop_field("web", "nick")
    acme.project.segments.delete("nicks")
    acme.project.consent_policies.create("nice", needs="web.nick LIKE 'nick-%'")
    with pytest.raises(NotAllowed, match="consent policy nice needs"):
        acme.project.datasets.delete("web")
    acme.project.consent_policies.delete("nice")
    acme.project.datasets.drop_field("web", "nick")
    assert "nick" not in acme.project.profiles.show("a4")["attributes"].get("web", {})
    for field in ("id", "share"):
        with pytest.raises(NotAllowed):
            acme.project.datasets.drop_field("crm", field)
    with pytest.raises(NotFound):
        acme.project.datasets.drop_field("crm", "nothing")
    with pytest.raises(NotFound):
        acme.project.datasets.delete("nothing")


def test_labels_go_with_the_dataset(pair: Pair) -> None:
    acme = pair.acme
    acme.people(EVERYBODY)
    web(acme, ["a4"])
    acme.project.labels.apply("C1", "field", "web.nick")
    acme.project.labels.apply("C3", "dataset", "web")
    acme.project.datasets.delete("web")
    assert acme.project.labels.in_use() == {}
