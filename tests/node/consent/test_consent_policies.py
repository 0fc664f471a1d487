"""Consent policies: the If and the Then, what is counted before one is saved, and what runs then release."""

from pathlib import Path
from typing import Any

import pytest
from pyroaring import BitMap
from sides import Pair, Person

from node.consent.consent_policies import ConsentPolicy, ConsentPolicyStatus, combine, overlap
from node.errors import AlreadyExists, InvalidInput, NotAllowed, NotFound
from node.imports.identity_columns import IdentityColumn
from node.node import Node
from node.people.snapshots import Snapshot
from node.project import Project

ROWS = [  # id, country, email_optin, share
    ("1", "GB", "true", "y"),
    ("2", "GB", "false", "y"),
    ("3", "GB", "", ""),
    ("4", "FR", "true", ""),
    ("5", "FR", "false", "p"),
    ("6", "FR", "", "y"),
]
EVERYBODY = [row[0] for row in ROWS]


def load(project: Project, folder: Path) -> None:
    path = folder / "people.csv"
    lines = ["id,country,email_optin,share,email", *(",".join((*row, f"u{row[0]}@x.com")) for row in ROWS)]
    path.write_text("\n".join(lines) + "\n")
    project.profiles.import_(
        path,
        dataset="crm",
        id_column="id",
        identities=[IdentityColumn.parse("email=email_sha256")],
        consent_column="share",
        attributes=["country", "email_optin"],
    )


@pytest.fixture
def project(either_node: Node, tmp_path: Path) -> Project:
    project = either_node.project()
    load(project, tmp_path)
    project.segments.create("british", rule="country = 'GB'")
    project.segments.create("french", rule="country = 'FR'")
    return project


def policy(label: str | None) -> ConsentPolicy:
    tree = {"field": "consent.share", "operator": "=", "value": "y"}
    return ConsentPolicy(
        name="p",
        action="segment-match",
        label=label,
        applies=None,
        applies_tree=None,
        needs="consent.share = 'y'",
        needs_tree=tree,
        status=ConsentPolicyStatus.ENABLED,
    )


@pytest.mark.feature("GV7")
def test_the_decision_on_fixtures() -> None:
    found = [(policy(None), BitMap([1, 2, 3])), (policy("C4"), BitMap([2, 3, 9]))]
    assert combine(found, set()) == BitMap([1, 2, 3])
    assert combine(found, {"C4", "C5"}) == BitMap([2, 3])
    assert combine(found[1:], {"C5"}) is None
    venn = overlap("vip", BitMap([1, 2, 7]), BitMap([2, 3, 9]))
    assert (venn.segment_only, venn.both, venn.consented_only) == (2, 1, 2)
    nobody = overlap("vip", BitMap([1, 2, 7]), None)
    assert (nobody.applies, nobody.segment_only, nobody.both, nobody.consented_only) == (False, 0, 3, 0)


@pytest.mark.feature("GV7")
@pytest.mark.parametrize(
    ("applies", "needs", "expected"),
    [
        (None, "email_optin = true", {"british": (2, 1, 1), "french": (2, 1, 1)}),
        (None, "consent.share = 'y'", {"british": (1, 2, 1), "french": (2, 1, 2)}),
        (None, "NOT consent.share IS NULL", {"british": (1, 2, 2), "french": (1, 2, 2)}),
        ("country = 'GB'", "email_optin = true", {"british": (2, 1, 3), "french": (0, 3, 1)}),
        ("own.french", "consent.share = 'y'", {"british": (0, 3, 1), "french": (2, 1, 3)}),
        (None, "consent.email_sha256 = 'y'", {"british": (3, 0, 1), "french": (2, 1, 0)}),
    ],
)
def test_the_numbers_before_it_is_saved(
    project: Project, applies: str | None, needs: str, expected: dict[str, tuple[int, int, int]]
) -> None:
    project.consent.set("4", "y", "email_sha256")
    generation = Snapshot.open(project.scope).generation
    found = project.consent_policies.preview(["british", "french"], needs, applies=applies)
    assert {each.segment: (each.segment_only, each.both, each.consented_only) for each in found} == expected
    assert all(each.size == each.segment_only + each.both for each in found)
    assert project.consent_policies.all() == []
    assert Snapshot.open(project.scope).generation == generation


@pytest.mark.feature("GV7")
def test_a_label_narrows_it_to_the_segments_that_carry_it(project: Project) -> None:
    project.labels.apply("C4", "segment", "british")
    found = project.consent_policies.preview(["british", "french"], "email_optin = true", label="c4")
    assert [(each.applies, each.both) for each in found] == [(True, 1), (False, 3)]


@pytest.mark.feature("GV7")
def test_what_a_person_may_be_shared_for_counts_the_policies(project: Project) -> None:
    project.consent.set_model("opt-out")
    policies = project.consent_policies

    def may_be_shared(profile: str) -> bool:
        found = project.consent.show(profile)["namespaces"]["email_sha256"]["may_be_shared"]
        assert found is True or found is False
        return found

    policies.create("optin", "email_optin = true")
    assert (may_be_shared("1"), may_be_shared("2")) == (True, True)
    policies.enable("optin")
    assert (may_be_shared("1"), may_be_shared("2")) == (True, False)
    policies.create("other-use", "email_optin = false", action="analytics", enable=True)
    policies.create("labelled", "country = 'FR'", label="C5", enable=True)
    assert may_be_shared("1") is True  # in segments without C5
    assert project.consent.show("1")["policies"] == [
        {"name": "labelled", "label": "C5", "met": False},
        {"name": "optin", "label": None, "met": True},
    ]
    project.consent.set("1", "n")
    assert may_be_shared("1") is False


@pytest.mark.feature("GV7")
def test_it_is_off_until_it_is_enabled_and_every_change_is_audited(project: Project) -> None:
    policies, snapshot = project.consent_policies, Snapshot.open(project.scope)
    assert policies.qualified(["british"], snapshot) == []
    assert policies.create("optin", "email_optin = true").status == "disabled"
    assert policies.qualified(["british"], snapshot) == []
    policies.enable("optin")
    assert policies.qualified(["british"], snapshot) == [BitMap([0, 3])]
    assert policies.qualified(["british"], snapshot, actions=["analytics"]) == []
    policies.disable("optin")
    assert policies.qualified(["british"], snapshot) == []
    with pytest.raises(AlreadyExists):
        policies.create("optin", "email_optin = true")
    refused: tuple[dict[str, Any], ...] = (
        {"needs": "nothing = true"},
        {"needs": "own.nobody"},
        {"needs": "email_optin = true", "applies": "DROP TABLE x"},
        {"needs": "email_optin = true", "action": "world-domination"},
        {"needs": "email_optin = true", "label": "C99"},
    )
    for words in refused:
        with pytest.raises((InvalidInput, NotFound)):
            policies.create("other", **words)
    policies.delete("optin")
    with pytest.raises(NotFound):
        policies.enable("optin")
    acts = [
        (each.act, str(each.result))
        for each in project.scope.home.audit.entries(limit=100)
        if each.act.startswith("consent-")
    ]
    assert acts.count(("consent-policy.create", "deny")) == 6
    assert {act for act, result in acts if result == "allow"} == {
        f"consent-policy.{word}" for word in ("create", "enable", "disable", "delete")
    }


@pytest.mark.feature("GV7")
def test_a_segment_in_a_condition_stays(project: Project) -> None:
    project.consent_policies.create("island", "email_optin = true", applies="own.british")
    with pytest.raises(NotAllowed, match="island"):
        project.segments.delete("british")


@pytest.mark.feature("GV7")
def test_a_second_field_of_the_name_does_not_unhinge_it(project: Project, tmp_path: Path) -> None:
    project.consent_policies.create("optin", "email_optin = true", enable=True)
    (tmp_path / "shop.csv").write_text("id,email_optin\n1,false\n")
    project.profiles.import_(
        tmp_path / "shop.csv", dataset="shop", id_column="id", identities=[], attributes=["email_optin"]
    )
    assert project.consent_policies.qualified(["british"], Snapshot.open(project.scope)) == [BitMap([0, 3])]


@pytest.mark.feature("GV7")
def test_an_export_leaves_out_who_does_not_qualify(project: Project, tmp_path: Path) -> None:
    project.consent_policies.create("optin", "email_optin = true", action="export-to-third-party", enable=True)
    assert project.files.export("british", tmp_path / "out.csv") == 1
    assert (tmp_path / "out.csv").read_text() == "id\n1\n"
    assert project.scope.home.audit.entries(act="segment.export")[0].detail["without_consent"] == 2


@pytest.mark.feature("GV7")
def test_runs_and_estimates_count_only_who_qualifies(pair: Pair, person: type[Person], tmp_path: Path) -> None:
    people = [person(row[0], f"u{row[0]}@x.com") for row in ROWS]
    pair.prepare(people, people, {})
    acme = pair.acme.project
    load(acme, tmp_path)
    for name, rule in (("british", "country = 'GB'"), ("french", "country = 'FR'")):
        acme.segments.create(name, rule=rule)
    email = "email_sha256/lc-v1"
    pair.share("summer", ["british", "french"], [email])
    acme.feeds.sync("summer")
    assert pair.globe.members("acme", "british") == {"1", "2", "3"}
    acme.consent_policies.create("optin", "email_optin = true", applies="country = 'GB'", enable=True)
    estimates = {each["segment"]: each for each in acme.feeds.estimate("summer")}
    assert (estimates["british"]["overlap"], estimates["british"]["consented"]) == (3, 1)
    assert (estimates["french"]["overlap"], estimates["french"]["consented"]) == (3, 3)
    run = acme.feeds.sync("summer")[0]
    assert (run["considered"], run["sent"], run["without_consent"]) == (6, 4, 2)
    assert pair.globe.members("acme", "british") == {"1"}
    assert pair.globe.members("acme", "french") == {"4", "5", "6"}
    acme.consent_policies.disable("optin")
    acme.feeds.sync("summer")
    assert pair.globe.members("acme", "british") == {"1", "2", "3"}


@pytest.mark.feature("GV7")
def test_one_segment_s_policy_leaves_the_other_s_members(pair: Pair, person: type[Person]) -> None:
    people = [person(each, f"u{each}@x.com") for each in "123"]
    pair.prepare(people, people, {"one": ["1", "2"], "two": ["2", "3"]})
    acme = pair.acme.project
    acme.labels.apply("C4", "segment", "one")
    acme.consent_policies.create("marked", "consent.share = 'y'", label="C4", enable=True)
    pair.share("summer", ["one", "two"], ["email_sha256/lc-v1"])
    acme.feeds.sync("summer")
    assert pair.globe.members("acme", "two") == {"2", "3"}
    assert pair.globe.members("acme", "one") == set()
