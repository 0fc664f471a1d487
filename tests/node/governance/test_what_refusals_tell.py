"""What a user who is limited by labels is told where something hidden forbids an act: these words, and no more."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from callers import crew, signed_in
from governed import limited, offer, put_unasked
from sides import EMAIL, Pair

from node.access.permissions import WHOLE_SIGHT, Permission
from node.access.users import Token
from node.errors import NotAllowed
from node.governance.violations import ASK
from node.imports.identity_columns import IdentityColumn
from node.node import Node
from node.project import Project

UNSEEN = "a rule about what you may not see forbids {} of segment {}"


@pytest.fixture
def labelled(node: Node, tmp_path: Path) -> tuple[Node, Token]:
    """A node of which lou sees the datasets crm, but for a field, and plain, the segments open, first and alone, and C1."""
    project = node.project()
    file = tmp_path / "people.csv"
    file.write_text("id,email,orders,score\n1,a@x.com,5,1\n2,b@x.com,7,2\n3,c@x.com,1,3\n")
    for dataset in ("crm", "health", "plain"):
        project.profiles.import_(
            file,
            dataset=dataset,
            id_column="id",
            identities=[IdentityColumn.parse("email=email_sha256:raw")] if dataset != "plain" else [],
            attributes=["orders", "score"],
        )
    project.consent.set_model("opt-out")
    rules = {"open": "crm.orders > 1", "first": "crm.orders > 4", "alone": "plain.orders > 1"}
    rules |= {"zebsecret": "crm.score > 1 OR plain.score > 1 OR own.open", "zebmore": "own.open OR own.zebsecret"}
    for name, rule in rules.items():
        project.segments.create(name, rule=rule)
    project.consent_policies.create("zebonly", "crm.score > 1 AND own.alone", action="analytics", enable=True)
    for label, kind, target in (
        ("C1", "segment", "first"),
        ("S1", "field", "crm.score"),
        ("C3", "dataset", "health"),
        ("C4", "field", "health.email"),
    ):
        project.labels.apply(label, kind, target)
    for number, condition in enumerate(("C3", "C4", "C1 OR C3", "C1 AND C3")):
        project.policies.create(f"p{number}", "segment-match", condition)
    ann = crew(node)["ann"]
    node.sign_in(ann.text)
    node.roles.create("limited", [each for each in Permission if each not in WHOLE_SIGHT], labels=["C1"])
    return node, node.users.create("lou", ["limited"])


@pytest.mark.feature("GV10")
def test_a_policy_met_by_hidden_labels_is_a_rule_without_label_name_way_and_number(
    labelled: tuple[Node, Token],
) -> None:
    node, lou = labelled
    assert len(node.project().governance.check(["open"], namespaces=[EMAIL])) == 3
    with signed_in(node, lou) as lous:
        check = lous.project().governance.check
        (found,) = check(["open"], namespaces=[EMAIL])
        assert str(found) == UNSEEN.format("segment-match", "open")
        assert found.document() == {
            "title": "a rule about what you may not see",
            "policy": None,
            "policy_edited": False,
            "condition": "",
            "action": "segment-match",
            "segment": "open",
            "feed": None,
            "labels": [],
            "lineage": [],
            "fixes": [ASK],
        }
        seen, unseen = sorted(check(["first"], namespaces=[EMAIL]), key=lambda each: each.policy is None)
        assert str(seen) == "policy p2 (C1 OR C3) forbids segment-match of segment first: C1 from segment first"
        assert (seen.labels, str(unseen)) == (("C1",), UNSEEN.format("segment-match", "first"))


@pytest.mark.feature("GV10")
@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda p, out: p.segments.delete("open"), "segment open is used by others"),
        (lambda p, out: p.segments.delete("alone"), "segment alone is a condition of a consent policy"),
        (lambda p, out: p.datasets.delete("crm"), "dataset crm has more than you may see"),
        (
            lambda p, out: p.datasets.drop_field("plain", "score"),
            "segment others needs field plain.score",
        ),
        (
            lambda p, out: p.datasets.delete("plain"),
            "segment alone, others needs what dataset plain brought",
        ),
        (
            lambda p, out: p.files.export("open", out, uses=["analytics"]),
            "a consent policy that reads what you may not see narrows open for this use",
        ),
    ],
    ids=["segment", "condition", "dataset", "field", "dataset that is read", "narrowed file"],
)
def test_other_refusals_tell_that_there_is_something(
    labelled: tuple[Node, Token], tmp_path: Path, act: Callable[[Project, Path], Any], said: str
) -> None:
    node, lou = labelled
    with signed_in(node, lou) as lous, pytest.raises(NotAllowed) as refused:
        act(lous.project(), tmp_path / "out.csv")
    assert str(refused.value) == said
    for hidden in ("zeb", "health", "S1", "C3", "C4"):
        assert hidden not in str(refused.value.document())


@pytest.mark.feature("GV10")
def test_a_feed_that_is_hidden_tells_no_more(two: Pair) -> None:
    offer(two, "summer", "richer", "vip")
    offer(two, "winter", "richer", "vip")
    put_unasked(two.acme.project, "S1", "segment", "richer")
    with limited(two.acme.node) as lous:
        project = lous.project()
        with pytest.raises(NotAllowed) as refused:
            project.segments.delete("vip")
        assert str(refused.value) == "segment vip is shared by a feed that you may not see"
        with pytest.raises(NotAllowed) as refused:
            project.labels.apply("C11", "segment", "vip")
        assert str(refused.value) == (
            "a feed that you may not see is published, and policy restrict-data-sharing (C11 OR C12 OR C2) forbids "
            "segment-match of segment vip: C11 from segment vip > a feed that you may not see"
        )
