"""Documents for front ends that read several rooms: the reports of one project."""

from ..access.scope import Scope
from ..people.consent import check_model
from ..storage.records import Document, Documents


class Reports:
    """Reads over several rooms, each as one document. Nothing here writes."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def project(self) -> Document:
        """Return the project as one document: what sharing needs, the terms, and how much of everything there is."""
        from . import status

        return status.project(self._scope)

    def partners(self) -> Documents:
        """Return every partner with its status and the number of segments shared with and received from it."""
        from . import partner

        return partner.listed(self._scope)

    def partner(self, alias: str) -> Document:
        """Return how things stand with one partner; raises NotFound."""
        from . import partner

        return partner.overview(self._scope, alias)

    def partner_terms(self, alias: str) -> Document:
        """Return what is agreed with a partner, or what it asks for; raises NotFound."""
        from . import partner

        return partner.agreed(self._scope, alias)

    def reconcile(self, feed: str, partner: str | None = None) -> Document:
        """Return where the people of a feed went, ours or received; see `node.reports.reconciliation`."""
        from . import reconciliation

        return reconciliation.reconcile(self._scope, feed, partner)

    def audience(self, segment: str) -> Document:
        """Return why an Audience Manager side counts other numbers; see `node.reports.audience_reconciliation`."""
        from . import audience_reconciliation

        return audience_reconciliation.reconcile(self._scope, segment)

    def preview(self, consent_model: str) -> Document:
        """Return who would leave and who would come under another consent model; nothing changes."""
        from . import consent_model as models

        return models.preview(self._scope, check_model(consent_model))
