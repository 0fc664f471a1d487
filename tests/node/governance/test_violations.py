"""Which policies forbid an action, by labels alone."""

import pytest

from node.governance.lineage import Place, PlaceKind, Trace, Traces
from node.governance.policies import Policy, PolicyStatus
from node.governance.violations import Violations
from node.governance.violations import evaluate as evaluate_for


def _put(*labels: str) -> Traces:
    return [
        Trace(label=label, places=(Place(kind=PlaceKind.FIELD, target=f"crm.{label.lower()}"),)) for label in labels
    ]


def evaluate(policies: list[Policy], action: str, traces: Traces, *, include_draft: bool = False) -> Violations:
    return evaluate_for(policies, action, traces, segment="mine", include_draft=include_draft)


def _policy(expression: str, status: PolicyStatus = PolicyStatus.ENABLED, action: str = "segment-match") -> Policy:
    return Policy(name="mine", action=action, expression=expression, status=status)


@pytest.mark.feature("GV4")
def test_and_or_and_drafts() -> None:
    policies = [_policy("C1 OR (C3 AND C7)")]
    assert evaluate(policies, "segment-match", _put("C3")) == []
    [violation] = evaluate(policies, "segment-match", _put("C3", "C7", "C9"))
    assert violation.labels == ("C3", "C7")
    assert [str(trace) for trace in violation.lineage] == ["C3 from field crm.c3", "C7 from field crm.c7"]
    [violation] = evaluate(policies, "segment-match", _put("C1"))
    assert violation.labels == ("C1",)
    draft = [_policy("C1", PolicyStatus.DRAFT)]
    assert evaluate(draft, "segment-match", _put("C1")) == []
    assert len(evaluate(draft, "segment-match", _put("C1"), include_draft=True)) == 1
    assert evaluate([_policy("C1", PolicyStatus.DISABLED)], "segment-match", _put("C1"), include_draft=True) == []
