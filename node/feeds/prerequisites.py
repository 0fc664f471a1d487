"""What a project needs before it can share."""

from dataclasses import dataclass

from psi.errors import Remedy

from ..access.scope import Scope
from ..errors import NotAllowed
from ..governance.labels import Labels
from ..governance.policies import SHARING, Policies, PolicyStatus
from ..people.datasets import namespaces
from ..storage.database import Tx
from ..storage.records import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class Prerequisite:
    """One of the things that sharing needs, and the act that sets it."""

    name: str
    met: bool
    state: str
    remedy: Remedy

    def document(self) -> Document:
        return {"name": self.name, "met": self.met, "state": self.state, "remedy": self.remedy.document()}


def prerequisites(scope: Scope, tx: Tx) -> list[Prerequisite]:
    """Return what sharing needs: identities, a consent model, the sharing label and an enabled policy."""
    rules = namespaces(scope, tx)
    model: str | None = scope.row(tx).consent_model
    labels = Labels(scope).in_use(tx)
    policies = [each for each in Policies(scope).all(tx) if each.action == SHARING]
    guards = [each.name for each in policies if each.status is PolicyStatus.ENABLED]
    return [
        Prerequisite(
            name="namespace",
            met=bool(rules),
            state=", ".join(rules) or "none",
            remedy=Remedy(
                "profile.import",
                {"file": "FILE", "dataset": "NAME", "id_column": "COLUMN", "identities": "COLUMN=NAMESPACE"},
            ),
        ),
        Prerequisite(
            name="consent model",
            met=model is not None,
            state=model or "not chosen",
            remedy=Remedy("consent.model"),
        ),
        Prerequisite(
            name="sharing label",
            met=True,  # C2, C11 and C12 are always there to be applied
            state=", ".join(f"{label} on {count}" for label, count in labels.items()) or "none applied",
            remedy=Remedy("label.apply", {"label": "C11", "field": "DATASET.FIELD"}),
        ),
        Prerequisite(
            name="sharing policy",
            met=bool(guards),
            state=", ".join(guards) or "none enabled",
            remedy=Remedy("policy.enable", {"name": "restrict-data-sharing"}),
        ),
    ]


def check(scope: Scope, tx: Tx) -> None:
    """Raise NotAllowed, with what to do, where something is missing that sharing needs."""
    for each in prerequisites(scope, tx):
        if not each.met:
            raise NotAllowed(f"sharing needs a {each.name} ({each.state})", hint="set it", remedy=each.remedy)
