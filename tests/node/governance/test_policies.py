"""Policies: the standard catalogue, and a project's own."""

import pytest

from node.errors import AlreadyExists, InvalidInput, NotAllowed, NotFound
from node.governance.expressions import parse
from node.governance.lineage import Place, PlaceKind, Trace, Traces
from node.governance.policies import Policy, PolicyStatus
from node.governance.violations import Violation, Violations
from node.governance.violations import evaluate as evaluate_for
from node.node import Node
from node.project import Project
from node.storage import tables
from psi.errors import Remedy


def _put(*labels: str) -> Traces:
    return [
        Trace(label=label, places=(Place(kind=PlaceKind.FIELD, target=f"crm.{label.lower()}"),)) for label in labels
    ]


def evaluate(policies: list[Policy], action: str, traces: Traces, *, include_draft: bool = False) -> Violations:
    return evaluate_for(policies, action, traces, segment="mine", include_draft=include_draft)


def _lineage(violation: Violation) -> list[str]:
    return [str(trace) for trace in violation.lineage]


@pytest.mark.feature("GV3")
def test_a_fresh_project_restricts_sharing_and_nothing_else(either_node: Node) -> None:
    policies = either_node.project().policies.all()
    assert [policy.name for policy in policies if policy.status != "disabled"] == ["restrict-data-sharing"]
    assert len(policies) > 1
    for label in ("C2", "C11", "C12"):
        [violation] = evaluate(policies, "segment-match", _put(label))
        assert violation.labels == (label,)
    others = _put(*(f"C{number}" for number in range(1, 13) if number not in (2, 11, 12)), "I1", "I2", "S1", "S2")
    assert evaluate(policies, "segment-match", others) == []
    assert evaluate(policies, "email-targeting", _put("C11", "C4")) == []


@pytest.mark.feature("GV3")
def test_a_custom_label_in_a_custom_policy_blocks(either_node: Node) -> None:
    project = either_node.project()
    _segment(project, "rich")
    project.labels.create("legal-hold", "The case is open")
    project.labels.apply("legal-hold", "segment", "rich")
    assert project.governance.check(["rich"]) == []
    project.policies.create("no-legal-hold", "segment-match", "legal-hold")
    [violation] = project.governance.check(["rich"])
    assert (violation.policy, violation.reason.condition, violation.action) == (
        "no-legal-hold",
        "legal-hold",
        "segment-match",
    )
    assert _lineage(violation) == ["legal-hold from segment rich"]
    assert violation.fixes == (Remedy("label.remove", {"label": "legal-hold", "segment": "rich"}),)
    project.policies.disable("no-legal-hold")
    assert project.governance.check(["rich"]) == []
    project.policies.enable("no-legal-hold")
    assert project.governance.check(["rich"]) != []


@pytest.mark.feature("GV3")
def test_c11_blocks_until_it_is_taken_off(either_node: Node) -> None:
    project = either_node.project()
    _segment(project, "rich")
    project.labels.apply("C11", "segment", "rich")
    assert [violation.policy for violation in project.governance.check(["rich"])] == ["restrict-data-sharing"]
    project.labels.remove("C11", "segment", "rich")
    assert project.governance.check(["rich"]) == []


@pytest.mark.feature("GV4")
def test_labels_on_two_segments_do_not_combine(either_node: Node) -> None:
    project = either_node.project()
    project.policies.create("both", "segment-match", "C3 AND C7")
    for name, label in (("one", "C3"), ("two", "C7")):
        _segment(project, name)
        project.labels.apply(label, "segment", name)
        assert project.governance.check([name]) == []
    project.labels.apply("C7", "segment", "one")
    assert project.governance.check(["one"]) != []


def test_drafts_are_applied_where_asked_for(either_node: Node) -> None:
    project = either_node.project()
    _segment(project, "one")
    project.labels.apply("C3", "segment", "one")
    project.policies.create("soon", "segment-match", "C3", status=PolicyStatus.DRAFT)
    assert project.governance.check(["one"]) == []
    assert [each.policy for each in project.governance.check(["one"], include_draft=True)] == ["soon"]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("c1", "C1"),
        ("((C1))", "C1"),
        ("a and b or c and d", "(a AND b) OR (c AND d)"),
        ("a AND (b OR c) AND d", "a AND (b OR c) AND d"),
        ("a OR\n b", "a OR b"),
        ("(a)or(b)", "a OR b"),
    ],
)
def test_and_binds_tighter(either_node: Node, text: str, written: str) -> None:
    project = either_node.project()
    for name in "abcd":
        project.labels.create(name, "text")
    policy = project.policies.create("mine", "segment-match", text)
    assert policy.expression == written
    assert parse(written) == parse(text)
    assert policy in project.policies.all()


def test_what_a_policy_cannot_be(either_node: Node) -> None:
    policies = either_node.project().policies
    with pytest.raises(InvalidInput, match="marketing action"):
        policies.create("mine", "world-domination", "C1")
    with pytest.raises(NotFound, match="no label"):
        policies.create("mine", "segment-match", "C1 OR nothing")
    with pytest.raises(AlreadyExists):
        policies.create("restrict-data-sharing", "segment-match", "C1")
    with pytest.raises(NotFound):
        policies.enable("mine")
    with pytest.raises(NotFound):
        either_node.project().governance.check(["nothing"])
    for change in (lambda: policies.edit("mine", action="analytics"), lambda: policies.delete("mine")):
        with pytest.raises(NotFound):
            change()
    for standard in (
        lambda: policies.edit("restrict-data-sharing", expression="C1"),
        lambda: policies.delete("restrict-data-sharing"),
    ):
        with pytest.raises(NotAllowed, match="standard"):
            standard()
    assert [entry.result for entry in either_node.audit.entries(act="policy")] == ["deny"] * 8


@pytest.mark.feature("GV4")
def test_a_policy_is_drafted_edited_enabled_and_deleted(either_node: Node) -> None:
    project = either_node.project()
    _segment(project, "one")
    project.labels.apply("C3", "segment", "one")
    policies = project.policies
    policies.create("soon", "segment-match", "C4", status=PolicyStatus.DRAFT)
    assert policies.edit("soon", expression="c3 or C4").expression == "C3 OR C4"
    assert [each.status for each in policies.all() if each.name == "soon"] == ["draft"]
    assert project.governance.check(["one"]) == []
    policies.enable("soon")
    assert [each.policy for each in project.governance.check(["one"])] == ["soon"]
    policies.edit("soon", action="analytics")
    assert project.governance.check(["one"]) == []
    assert [each.policy for each in project.governance.check(["one"], action="analytics")] == ["soon"]
    policies.edit("soon", status=PolicyStatus.DRAFT)
    assert project.governance.check(["one"], action="analytics") == []
    assert len(project.governance.check(["one"], action="analytics", include_draft=True)) == 1
    for action, expression in ((None, "C3 AND"), ("world-domination", None), (None, "nothing")):
        with pytest.raises((InvalidInput, NotFound)):
            policies.edit("soon", action=action, expression=expression)
    policies.delete("soon")
    assert "soon" not in [each.name for each in policies.all()]
    assert [entry.act for entry in either_node.audit.entries(act="policy.delete")] == ["policy.delete"]


def test_every_standard_policy_names_known_actions_and_labels(node: Node) -> None:
    from protocol.feed import MARKETING_USES

    for policy in node.project().policies.all():
        assert policy.action in MARKETING_USES
        parse(policy.expression)


def _segment(project: Project, name: str) -> None:
    with project.scope.home.database.begin() as tx:
        tx.execute(
            tables.segments.insert().values(
                id=name, project_id=project.id, name=name, kind="members", uses=[], size=0, evaluated=1, created=1
            )
        )
