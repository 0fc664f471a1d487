"""A project of a node: builds the doors of the rooms, and has its own few settings."""

from collections.abc import Mapping
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any

from psi.errors import Remedy

from .access.scope import Scope
from .errors import InvalidInput, NotAllowed
from .storage.records import Document

if TYPE_CHECKING:
    from protocol.agreement import Terms

    from .audiencemanager.audience import Audience
    from .consent.consent_policies import ConsentPolicies
    from .consent.consents import Consents
    from .destinations.connections import Connections
    from .destinations.files import Files
    from .erasure.datasets import Datasets
    from .erasure.erasure import Erasure
    from .feeds.local.sharing import Sharing
    from .feeds.receiving.memberships import Memberships
    from .feeds.receiving.received import Received
    from .feeds.sending.feeds import Feeds
    from .governance.governance import Governance
    from .governance.labels import Labels
    from .governance.policies import Policies
    from .imports.profiles import Profiles
    from .operations.alerts import Alerts
    from .operations.jobs import Progress
    from .partners.letters import Letters
    from .partners.partners import Partners
    from .people.consent import LeftOut
    from .reports.reports import Reports
    from .segments.segments import Segments


class Doors:
    """The nouns of a project: the door of each room, opened when it is first asked for."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    @cached_property
    def profiles(self) -> "Profiles":
        from .imports.profiles import Profiles

        return Profiles(self.scope)

    @cached_property
    def datasets(self) -> "Datasets":
        from .erasure.datasets import Datasets

        return Datasets(self.scope)

    @cached_property
    def erasure(self) -> "Erasure":
        from .erasure.erasure import Erasure

        return Erasure(self.scope)

    @cached_property
    def segments(self) -> "Segments":
        from .segments.segments import Segments

        return Segments(self.scope)

    @cached_property
    def consent(self) -> "Consents":
        from .consent.consents import Consents

        return Consents(self.scope)

    @cached_property
    def consent_policies(self) -> "ConsentPolicies":
        from .consent.consent_policies import ConsentPolicies

        return ConsentPolicies(self.scope)

    @cached_property
    def labels(self) -> "Labels":
        from .governance.labels import Labels

        return Labels(self.scope)

    @cached_property
    def policies(self) -> "Policies":
        from .governance.policies import Policies

        return Policies(self.scope)

    @cached_property
    def governance(self) -> "Governance":
        from .governance.governance import Governance

        return Governance(self.scope)

    @cached_property
    def partners(self) -> "Partners":
        from .partners.partners import Partners

        return Partners(self.scope)

    @cached_property
    def feeds(self) -> "Feeds":
        from .feeds.sending.feeds import Feeds

        return Feeds(self.scope)

    @cached_property
    def letters(self) -> "Letters":
        from .partners.letters import Letters

        return Letters(self.scope)

    @cached_property
    def received(self) -> "Received":
        from .feeds.receiving.received import Received

        return Received(self.scope)

    @cached_property
    def sharing(self) -> "Sharing":
        from .feeds.local.sharing import Sharing

        return Sharing(self.scope)

    @cached_property
    def audience(self) -> "Audience":
        from .audiencemanager.audience import Audience

        return Audience(self.scope)

    @cached_property
    def files(self) -> "Files":
        from .destinations.files import Files

        return Files(self.scope)

    @cached_property
    def destinations(self) -> "Connections":
        from .destinations.connections import Connections

        return Connections(self.scope)

    @cached_property
    def memberships(self) -> "Memberships":
        from .feeds.receiving.memberships import Memberships

        return Memberships(self.scope)

    @cached_property
    def reports(self) -> "Reports":
        from .reports.reports import Reports

        return Reports(self.scope)

    @cached_property
    def alerts(self) -> "Alerts":
        from .operations.alerts import Alerts

        return Alerts(self.scope)


class Project(Doors):
    """An isolated data space of a node, and the nouns in it: what can change is read when it is asked for."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self.id = scope.id
        self.name = scope.name

    @property
    def terms(self) -> "Terms":
        """What this project asks of every new agreement."""
        return self.scope.terms

    def set_terms(self, **changes: Any) -> "Terms":
        """Change the terms of agreements to come; those made stay. Values may be text: "1/20", "none".

        Raises InvalidInput for a term that does not exist, LocalProtocolError for a value out of range.
        """
        from protocol.agreement import Terms

        defaults = Terms().as_dict()
        with self.scope.act(
            "project.terms", self.name, detail={name: str(value) for name, value in changes.items()}
        ) as tx:
            terms = _changed(self.scope.row(tx).terms, changes)
            kept = {name: value for name, value in terms.as_dict().items() if value != defaults[name]}
            self.scope.change(tx, terms=kept)
        return terms

    @property
    def left_out(self) -> "LeftOut":
        """Who is left out of the estimates that this project asks for."""
        from .people.consent import LeftOut

        return LeftOut(self.scope.row().left_out)

    def leave_out(self, left_out: "LeftOut | str") -> None:
        """Choose who is left out of the estimates that this project asks for: neither their points nor their number leave."""
        from .people.consent import check_left_out

        with self.scope.act("project.leave-out", self.name, detail={"left_out": str(left_out)[:20]}) as tx:
            self.scope.change(tx, left_out=check_left_out(left_out))

    def resume(self) -> None:
        """Let a restored project go on: its feeds run, estimates are asked for and answered.

        That is a person's decision, after what was done since the backup has been done again.
        """
        from .operations.alerts import AlertKind

        with self.scope.act("project.resume", self.name) as tx:
            if not self.scope.row(tx).on_hold:
                raise NotAllowed(
                    f"project {self.name} is not on hold",
                    hint="look at it",
                    remedy=Remedy("project.show", {"name": self.name}),
                )
            self.scope.change(tx, resumed=self.scope.home.now())
            self.alerts.settle(tx, AlertKind.ON_HOLD, "on hold ")

    def sync(self, progress: "Progress | None" = None) -> Document:
        """Deliver, fetch, sweep and run what is queued in this project, unless a service does; see `wiring.sync`."""
        from .wiring import sync

        self.scope.require("feed.sync", self.name)
        return sync(self.scope.home, [self.scope], progress)


def terms_with(project: Project, **changes: Any) -> "Terms":
    """Return the terms that `set_terms` would set, for a person to look at; refused as that is."""
    project.scope.require("project.terms", project.name)
    with project.scope.refusals("project.terms", project.name):
        return _changed(project.scope.row().terms, changes)


def _changed(kept: Mapping[str, object], changes: Mapping[str, Any]) -> "Terms":
    """Return the terms of a project's row with changes in their place."""
    from protocol.agreement import Terms

    defaults = Terms().as_dict()
    return Terms.from_dict({**kept, **{name: _term(name, value, defaults) for name, value in changes.items()}})


def _term(name: str, value: Any, defaults: Mapping[str, object]) -> object:
    """Return a term as Terms.from_dict takes it: whole numbers, fractions as text, no epsilon as None."""
    if name not in defaults:
        raise InvalidInput(f"there is no term {name!r}", hint=f"the terms are {', '.join(defaults)}")
    if name == "epsilon" and value in (None, "none"):
        return None
    try:
        return int(value) if isinstance(defaults[name], int) else str(Fraction(value))
    except (ValueError, ZeroDivisionError) as error:
        raise InvalidInput(f"{str(value)[:40]!r} is no value for {name}", hint="such as 1000, 1/20 or 0.05") from error
