import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import AlreadyExists, InvalidInput, NotFound, Refused
from node.governance.governance import Violations
from node.governance.governance import evaluate as evaluate_for
from node.governance.labels import Kind, Origin, Trace, Traces
from node.governance.policies import MAX_DEPTH, Policy, met_by, parse
from node.storage import tables


def _put(*labels: str) -> Traces:
    return [Trace(label=label, places=(Origin(kind=Kind.FIELD, target=f"crm.{label.lower()}"),)) for label in labels]


def evaluate(policies: list[Policy], action: str, traces: Traces, **rest: bool) -> Violations:
    return evaluate_for(policies, action, traces, segment="mine", **rest)


def _lineage(violation) -> list[str]:
    return [str(trace) for trace in violation.lineage]


def _policy(expression: str, status: str = "enabled", action: str = "segment-match") -> Policy:
    return Policy(name="mine", action=action, expression=expression, status=status)


@pytest.mark.feature("GV3")
def test_a_fresh_project_restricts_sharing_and_nothing_else(either_node):
    policies = either_node.project().policies.list()
    assert [policy.name for policy in policies if policy.status != "disabled"] == ["restrict-data-sharing"]
    assert len(policies) > 1
    for label in ("C2", "C11", "C12"):
        [violation] = evaluate(policies, "segment-match", _put(label))
        assert violation.labels == (label,)
    others = _put(*(f"C{number}" for number in range(1, 13) if number not in (2, 11, 12)), "I1", "I2", "S1", "S2")
    assert evaluate(policies, "segment-match", others) == []
    assert evaluate(policies, "email-targeting", _put("C11", "C4")) == []


@pytest.mark.feature("GV3")
def test_a_custom_label_in_a_custom_policy_blocks(either_node):
    project = either_node.project()
    _segment(project, "rich")
    project.labels.create("legal-hold", "The case is open")
    project.labels.apply("legal-hold", "segment", "rich")
    assert project.governance.check(["rich"]) == []
    project.policies.create("no-legal-hold", "segment-match", "legal-hold")
    [violation] = project.governance.check(["rich"])
    assert (violation.policy, violation.condition, violation.action) == ("no-legal-hold", "legal-hold", "segment-match")
    assert _lineage(violation) == ["legal-hold from segment rich"]
    assert violation.fixes == ("vesica label remove legal-hold --segment rich",)
    project.policies.disable("no-legal-hold")
    assert project.governance.check(["rich"]) == []
    project.policies.enable("no-legal-hold")
    assert project.governance.check(["rich"]) != []


@pytest.mark.feature("GV3")
def test_c11_blocks_until_it_is_taken_off(either_node):
    project = either_node.project()
    _segment(project, "rich")
    project.labels.apply("C11", "segment", "rich")
    assert [violation.policy for violation in project.governance.check(["rich"])] == ["restrict-data-sharing"]
    project.labels.remove("C11", "segment", "rich")
    assert project.governance.check(["rich"]) == []


@pytest.mark.feature("GV4")
def test_and_or_and_drafts():
    policies = [_policy("C1 OR (C3 AND C7)")]
    assert evaluate(policies, "segment-match", _put("C3")) == []
    [violation] = evaluate(policies, "segment-match", _put("C3", "C7", "C9"))
    assert violation.labels == ("C3", "C7")
    assert _lineage(violation) == ["C3 from field crm.c3", "C7 from field crm.c7"]
    [violation] = evaluate(policies, "segment-match", _put("C1"))
    assert violation.labels == ("C1",)
    draft = [_policy("C1", "draft")]
    assert evaluate(draft, "segment-match", _put("C1")) == []
    assert len(evaluate(draft, "segment-match", _put("C1"), include_draft=True)) == 1
    assert evaluate([_policy("C1", "disabled")], "segment-match", _put("C1"), include_draft=True) == []


@pytest.mark.feature("GV4")
def test_labels_on_two_segments_do_not_combine(either_node):
    project = either_node.project()
    project.policies.create("both", "segment-match", "C3 AND C7")
    for name, label in (("one", "C3"), ("two", "C7")):
        _segment(project, name)
        project.labels.apply(label, "segment", name)
        assert project.governance.check([name]) == []
    project.labels.apply("C7", "segment", "one")
    assert project.governance.check(["one"]) != []


def test_drafts_are_applied_where_asked_for(either_node):
    project = either_node.project()
    _segment(project, "one")
    project.labels.apply("C3", "segment", "one")
    project.policies.create("soon", "segment-match", "C3", status="draft")
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
def test_and_binds_tighter(either_node, text, written):
    project = either_node.project()
    for name in "abcd":
        project.labels.create(name, "text")
    policy = project.policies.create("mine", "segment-match", text)
    assert policy.expression == written
    assert parse(written) == parse(text)
    assert policy in project.policies.list()


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "AND",
        "C1 AND",
        "OR C1",
        "C1 C2",
        "(C1",
        "C1)",
        "()",
        "NOT C1",
        "C1 OR OR C2",
        "C1 AND (C2 OR)",
        "(" * 99 + "C1" + ")" * 99,
        "C1 OR " * 400 + "C1",
    ],
)
def test_expressions_that_make_no_sense(text):
    with pytest.raises(InvalidInput) as caught:
        parse(text)
    assert caught.value.hint


def test_deep_enough():
    assert parse("(" * MAX_DEPTH + "C1" + ")" * MAX_DEPTH) == "C1"


@given(st.text(alphabet="C12 ()ANDOR", max_size=40))
def test_any_text_parses_or_is_refused(text):
    try:
        parsed = parse(text)
    except InvalidInput:
        return
    assert met_by(parsed, []) is None


def test_what_a_policy_cannot_be(either_node):
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
        with pytest.raises(Refused, match="standard"):
            standard()
    assert [entry.result for entry in either_node.audit.list(act="policy")] == ["deny"] * 8


@pytest.mark.feature("GV4")
def test_a_policy_is_drafted_edited_enabled_and_deleted(either_node):
    project = either_node.project()
    _segment(project, "one")
    project.labels.apply("C3", "segment", "one")
    policies = project.policies
    policies.create("soon", "segment-match", "C4", status="draft")
    assert policies.edit("soon", expression="c3 or C4").expression == "C3 OR C4"
    assert [each.status for each in policies.list() if each.name == "soon"] == ["draft"]
    assert project.governance.check(["one"]) == []
    policies.enable("soon")
    assert [each.policy for each in project.governance.check(["one"])] == ["soon"]
    policies.edit("soon", action="analytics")
    assert project.governance.check(["one"]) == []
    assert [each.policy for each in project.governance.check(["one"], action="analytics")] == ["soon"]
    policies.edit("soon", status="draft")
    assert project.governance.check(["one"], action="analytics") == []
    assert len(project.governance.check(["one"], action="analytics", include_draft=True)) == 1
    for wrong in ({"expression": "C3 AND"}, {"action": "world-domination"}, {"expression": "nothing"}):
        with pytest.raises((InvalidInput, NotFound)):
            policies.edit("soon", **wrong)
    policies.delete("soon")
    assert "soon" not in [each.name for each in policies.list()]
    assert [entry.act for entry in either_node.audit.list(act="policy.delete")] == ["policy.delete"]


def test_every_standard_policy_names_known_actions_and_labels(node):
    from protocol.feed import MARKETING_USES

    for policy in node.project().policies.list():
        assert policy.action in MARKETING_USES
        parse(policy.expression)


def _segment(project, name: str) -> None:
    with project.node.store.begin() as tx:
        tx.execute(
            tables.segments.insert().values(
                id=name, project_id=project.id, name=name, kind="members", uses=[], size=0, evaluated=1, created=1
            )
        )
