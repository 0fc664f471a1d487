"""An isolated data space of a node, and the nouns in it."""

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, func, select

from .errors import InvalidInput, Refusal, Refused
from .storage.tables import connections, datasets, fields, label_uses, projects

if TYPE_CHECKING:
    from protocol.agreement import Terms

    from .consent.consent import Consents
    from .consent.consent_policies import ConsentPolicies
    from .feeds.receiving.memberships import Memberships
    from .feeds.receiving.received import Received
    from .feeds.sending.feeds import Feeds
    from .governance.governance import Governance
    from .governance.labels import Labels
    from .governance.policies import Policies
    from .imports.profiles import Profiles
    from .node import Node
    from .operations.alerts import Alerts
    from .partners.letters import Letters
    from .partners.partners import Partners
    from .people.data import Snapshot
    from .segments.segments import Segments


@dataclass(frozen=True, slots=True, kw_only=True)
class Prerequisite:
    """One of the things that sharing needs, and the command that sets it."""

    name: str
    met: bool
    state: str
    command: str


class Project:
    """A project by id: what can change is read when it is asked for."""

    def __init__(self, node: "Node", row: Row[Any]) -> None:
        self.node = node
        self.id: str = row.id
        self.name: str = row.name

    @contextmanager
    def act(
        self, act: str, target: str, *, actor: str | None = None, detail: MutableMapping[str, Any] | None = None
    ) -> Iterator[Connection]:
        """Hold one transaction for a change in this project and its audit row; see Node.act."""
        with self.node.act(act, target, project_id=self.id, actor=actor, detail=detail) as tx:
            yield tx

    def require(self, act: str, target: str) -> None:
        """Refuse whoever acts and lacks the permission for an act that is no change of state; see Guard.require."""
        self.node.guard.require(act, target, self.id)

    @contextmanager
    def refusals(self, act: str, target: str) -> Iterator[None]:
        """Leave an audit row where the body refuses before an act of its own began; see Node.refusals."""
        with self.node.refusals(act, target, project_id=self.id):
            yield

    def row(self, connection: Connection | None = None) -> Row[Any]:
        """Return the project's row as it is now, or as the given connection sees it."""
        query = select(projects).where(projects.c.id == self.id)
        if connection is not None:
            return connection.execute(query).one()
        with self.node.store.read() as reading:
            return reading.execute(query).one()

    def snapshot(self, connection: Connection | None = None) -> "Snapshot":
        """Pin the newest generation of the project's data, as `connection` sees it if one is given."""
        from .people.data import Snapshot

        return Snapshot.open(self, connection)

    @property
    def data_directory(self) -> Path:
        return self.node.home / "data" / self.id

    @property
    def consent_model(self) -> str | None:
        """ "opt-in", "opt-out", or None while nobody has chosen."""
        model: str | None = self.row().consent_model
        return model

    @property
    def terms(self) -> "Terms":
        """What this project asks of every new agreement; the row holds what differs from the defaults."""
        from protocol.agreement import Terms

        return Terms.from_dict(self.row().terms)

    def set_terms(self, **changes: Any) -> "Terms":
        """Change the terms of agreements to come; those made stay. Values may be text: "1/20", "none".

        Raises InvalidInput for a term that does not exist, LocalProtocolError for a value out of range.
        """
        from protocol.agreement import Terms

        defaults = Terms().as_dict()
        with self.act("project.terms", self.name, detail={name: str(value) for name, value in changes.items()}) as tx:
            read = {name: _term(name, value, defaults) for name, value in changes.items()}
            terms = Terms.from_dict({**self.row(tx).terms, **read})
            kept = {name: value for name, value in terms.as_dict().items() if value != defaults[name]}
            tx.execute(projects.update().where(projects.c.id == self.id).values(terms=kept))
        return terms

    @property
    def hide_unconsented(self) -> bool:
        """Whether people without consent are kept out of estimates altogether."""
        return bool(self.row().hide_unconsented)

    def set_hide_unconsented(self, hide: bool) -> None:
        with self.act("project.hide-unconsented", self.name, detail={"hide": hide}) as tx:
            tx.execute(projects.update().where(projects.c.id == self.id).values(hide_unconsented=hide))

    @property
    def on_hold(self) -> bool:
        """Whether it came from a backup, and nobody has said since that it goes on: who opted out since may be in it."""
        return _on_hold(self.row())

    def check_not_on_hold(self, connection: Connection | None = None) -> None:
        """Refuse what would tell a partner anything of people before a person has looked at a restored project."""
        if _on_hold(self.row(connection)):
            raise Refusal(
                "on_hold",
                "the project was restored from a backup and is on hold",
                hint="its operator imports consent again, ends what has ended since, then: vesica project resume",
                status=409,
            )

    def resume(self) -> None:
        """Let a restored project go on: its feeds run, estimates are asked for and answered.

        That is a person's decision, after what was done since the backup has been done again.
        """
        with self.act("project.resume", self.name) as tx:
            if not _on_hold(self.row(tx)):
                raise Refused(f"project {self.name} is not on hold", hint=f"vesica project show {self.name}")
            tx.execute(projects.update().where(projects.c.id == self.id).values(resumed=self.node.now()))
            self.alerts.settle(tx, "on_hold", "on hold ")

    def namespaces(self) -> list[str]:
        """Return the namespaces with rule ids that the imported identities have, sorted."""
        query = (
            select(fields.c.rule)
            .join(datasets, datasets.c.id == fields.c.dataset_id)
            .where(datasets.c.project_id == self.id, fields.c.rule.is_not(None))
            .distinct()
        )
        with self.node.store.read() as connection:
            return sorted(rule for rule in connection.scalars(query) if rule)

    def prerequisites(self) -> list[Prerequisite]:
        """Return what sharing needs: identities, a consent model, the sharing label and an enabled policy."""
        namespaces = self.namespaces()
        model = self.consent_model
        labels = self.labels.in_use()
        policies = [each for each in self.policies.list() if each.action == "segment-match"]
        guards = [each.name for each in policies if each.status == "enabled"]
        return [
            Prerequisite(
                name="namespace",
                met=bool(namespaces),
                state=", ".join(namespaces) or "none",
                command="vesica profile import FILE --dataset NAME --id COLUMN --identity COLUMN=NAMESPACE",
            ),
            Prerequisite(
                name="consent model",
                met=model is not None,
                state=model or "not chosen",
                command="vesica consent model opt-in|opt-out",
            ),
            Prerequisite(
                name="sharing label",
                met=True,  # C2, C11 and C12 are always there to be applied
                state=", ".join(f"{label} on {count}" for label, count in labels.items()) or "none applied",
                command="vesica label apply C11 --field DATASET.FIELD",
            ),
            Prerequisite(
                name="sharing policy",
                met=bool(guards),
                state=", ".join(guards) or "none enabled",
                command="vesica policy enable restrict-data-sharing",
            ),
        ]

    def show(self) -> dict[str, Any]:
        """Return the project as one document: what sharing needs, the terms, and how much of everything there is."""
        counted = {"datasets": datasets, "connections": connections, "labels_applied": label_uses}
        with self.node.store.read() as connection:
            counts = {
                name: connection.scalar(select(func.count()).select_from(table).where(table.c.project_id == self.id))
                for name, table in counted.items()
            }
        counts["segments"] = len(self.segments.list())  # those that whoever acts may see
        return {
            "id": self.id,
            "name": self.name,
            "on_hold": self.on_hold,
            "namespaces": self.namespaces(),
            "consent_model": self.consent_model,
            "labels": self.labels.in_use(),
            "policies": [each.name for each in self.policies.list() if each.status == "enabled"],
            "prerequisites": [
                {"name": each.name, "met": each.met, "state": each.state, "command": each.command}
                for each in self.prerequisites()
            ],
            "terms": self.terms.as_dict(),
            "counts": counts,
        }

    @cached_property
    def profiles(self) -> "Profiles":
        from .imports.profiles import Profiles

        return Profiles(self)

    @cached_property
    def segments(self) -> "Segments":
        from .segments.segments import Segments

        return Segments(self)

    @cached_property
    def consent(self) -> "Consents":
        from .consent.consent import Consents

        return Consents(self)

    @cached_property
    def consent_policies(self) -> "ConsentPolicies":
        from .consent.consent_policies import ConsentPolicies

        return ConsentPolicies(self)

    @cached_property
    def labels(self) -> "Labels":
        from .governance.labels import Labels

        return Labels(self)

    @cached_property
    def policies(self) -> "Policies":
        from .governance.policies import Policies

        return Policies(self)

    @cached_property
    def governance(self) -> "Governance":
        from .governance.governance import Governance

        return Governance(self)

    @cached_property
    def partners(self) -> "Partners":
        from .partners.partners import Partners

        return Partners(self)

    @cached_property
    def feeds(self) -> "Feeds":
        from .feeds.sending.feeds import Feeds

        return Feeds(self)

    @cached_property
    def letters(self) -> "Letters":
        from .partners.letters import Letters

        return Letters(self)

    @cached_property
    def received(self) -> "Received":
        from .feeds.receiving.received import Received

        return Received(self)

    @cached_property
    def memberships(self) -> "Memberships":
        from .feeds.receiving.memberships import Memberships

        return Memberships(self)

    @cached_property
    def alerts(self) -> "Alerts":
        from .operations.alerts import Alerts

        return Alerts(self)


def _on_hold(row: Row[Any]) -> bool:
    return row.restored is not None and row.resumed is None


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
