"""Who may do what: permissions, roles, and the permission that each act needs. Pure decisions; guard.py asks them."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from psi.errors import Remedy

from ..errors import NotAllowed


class Permission(StrEnum):
    VIEW = "view"  # the three that follow, and all else that is read
    VIEW_PROFILES = "view-profiles"
    VIEW_SEGMENTS = "view-segments"
    VIEW_DESTINATIONS = "view-destinations"
    MANAGE_CONNECTIONS = "manage-connections"
    MANAGE_SHARES = "manage-shares"
    SHARE_SEGMENTS = "share-segments"  # with other projects of the node
    MANAGE_DATA = "manage-data"
    MANAGE_GOVERNANCE = "manage-governance"
    EXPORT = "export"
    MANAGE_DESTINATIONS = "manage-destinations"
    ACTIVATE_DESTINATIONS = "activate-destinations"
    MANAGE_AUDIENCE = "manage-audience"  # sources, folders, traits and segments of the Audience Manager side
    RECEIVE_AUDIENCE = "receive-audience"  # signals that arrive there
    AUDIT = "audit"
    ADMINISTER = "administer"


VIEWS = frozenset({Permission.VIEW_PROFILES, Permission.VIEW_SEGMENTS, Permission.VIEW_DESTINATIONS})
_AUDIENCE = frozenset({Permission.MANAGE_AUDIENCE, Permission.RECEIVE_AUDIENCE})
OPENING = VIEWS | _AUDIENCE | {Permission.MANAGE_DESTINATIONS, Permission.ACTIVATE_DESTINATIONS}  # one opens a project
OF_SOURCES = _AUDIENCE | {Permission.VIEW_SEGMENTS}  # what a role may have for some data sources alone
WHOLE_SIGHT = frozenset({Permission.ADMINISTER, Permission.AUDIT})  # who has one could lift a limit, or read around it


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A set of permissions. `labels` are those that it lets a user see, None: every label; `sources` are the numbers of
    the data sources of the Audience Manager side that it is for, None: every one, as a wildcard there."""

    name: str
    permissions: frozenset[Permission]
    labels: frozenset[str] | None = None
    sources: frozenset[int] | None = None

    @property
    def wildcards(self) -> list[str]:
        """What it lets do with all data sources, in the words of Audience Manager."""
        given = _whole(self.permissions)
        return [] if self.sources is not None else [name for name, needed in WILDCARDS.items() if needed <= given]


_TO_ALL = frozenset({Permission.VIEW_SEGMENTS, Permission.MANAGE_AUDIENCE})
WILDCARDS: Mapping[str, frozenset[Permission]] = {  # as Audience Manager calls what a role gives for all data sources
    "VIEW_ALL_TRAITS": frozenset({Permission.VIEW_SEGMENTS}),
    "VIEW_ALL_SEGMENTS": frozenset({Permission.VIEW_SEGMENTS}),
    "VIEW_ALL_SIGNALS": frozenset({Permission.VIEW_SEGMENTS}),
    **dict.fromkeys(
        (f"{verb}_ALL_{noun}" for noun in ("TRAITS", "SEGMENTS") for verb in ("CREATE", "EDIT", "DELETE")), _TO_ALL
    ),
    "MAP_ALL_TO_SEGMENTS": _TO_ALL,
    "MAP_ALL_TO_DESTINATIONS": frozenset({Permission.VIEW_SEGMENTS, Permission.ACTIVATE_DESTINATIONS}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A role that a user has, in one project, or with None for the node and all its projects."""

    role: Role
    project_id: str | None


Grants = Collection[Grant]


def _role(name: str, *permissions: Permission) -> Role:
    return Role(name=name, permissions=frozenset({Permission.VIEW, *permissions}))


READY_MADE: Mapping[str, Role] = {  # the narrowest first: a refusal proposes the first that would do
    role.name: role
    for role in (
        _role("viewer"),
        _role("connections", Permission.MANAGE_CONNECTIONS),
        _role("shares", Permission.MANAGE_SHARES),
        _role("projects", Permission.SHARE_SEGMENTS),
        _role("data", Permission.MANAGE_DATA),
        _role("governance", Permission.MANAGE_GOVERNANCE),
        _role("exporter", Permission.EXPORT),
        _role("destination-manager", Permission.MANAGE_DESTINATIONS),
        _role("activator", Permission.MANAGE_DESTINATIONS, Permission.ACTIVATE_DESTINATIONS),
        _role("audience-manager", Permission.MANAGE_AUDIENCE),
        _role("audience-receiver", Permission.RECEIVE_AUDIENCE),
        _role("auditor", Permission.AUDIT),
        _role("administrator", *Permission),
    )
}

_C, _S = Permission.MANAGE_CONNECTIONS, Permission.MANAGE_SHARES
_D, _G = Permission.MANAGE_DATA, Permission.MANAGE_GOVERNANCE
_T, _A = Permission.MANAGE_DESTINATIONS, Permission.MANAGE_AUDIENCE
_ACTIVATE = VIEWS | {_T, Permission.ACTIVATE_DESTINATIONS}

# None: the node's own work, which a letter, an exchange or a job asks for. Of a set, every permission is needed.
ACTS: Mapping[str, Permission | frozenset[Permission] | None] = {
    "alert.acknowledge": Permission.VIEW,
    "audience.control": frozenset({_A, _G}),
    "audience.create-folder": _A,
    "audience.create-segment": _A,
    "audience.create-source": _A,
    "audience.create-trait": _A,
    "audience.delete-segment": _A,
    "audience.delete-trait": _A,
    "audience.edit-segment": _A,
    "audience.edit-trait": _A,
    "audience.follow": None,
    "audience.follow-import": None,
    "audience.import": frozenset({_A, _D}),
    "audience.load": Permission.RECEIVE_AUDIENCE,
    "audience.loaded": None,
    "audience.receive": Permission.RECEIVE_AUDIENCE,
    "audience.received": None,
    "audience.reconcile": VIEWS,
    "audience.remove-import": _A,
    "audience.sharing": _ACTIVATE,
    "audience.take": None,
    "audience.view": Permission.VIEW_SEGMENTS,
    "audit.export": Permission.AUDIT,
    "audit.prune": Permission.ADMINISTER,
    "audit.read": Permission.AUDIT,
    "consent-policy.create": _G,
    "consent-policy.delete": _G,
    "consent-policy.disable": _G,
    "consent-policy.enable": _G,
    "consent.import": _D,
    "consent.model": _G,
    "consent.set": _D,
    "dataset.delete": _D,
    "dataset.drop-field": _D,
    "destination.activate": _ACTIVATE,
    "destination.alerts": Permission.VIEW_DESTINATIONS,
    "destination.check": _T,
    "destination.connect": _T,
    "destination.create": _T,
    "destination.deactivate": _ACTIVATE,
    "destination.delete": _T,
    "destination.edit": _T,
    "destination.pause": _T,
    "destination.program": Permission.ADMINISTER,  # to name a program that the node runs
    "destination.preview": VIEWS,
    "destination.preview-unmasked": VIEWS | {Permission.EXPORT},
    "destination.replay": _T,
    "destination.resume": _T,
    "destination.rotate": _T,
    "destination.send": None,
    "destination.sync": _T,
    "destination.view": Permission.VIEW_DESTINATIONS,
    "estimate.answer": None,
    "feed.ask": None,
    "feed.check": None,
    "feed.create": _S,
    "feed.decline": _S,
    "feed.decline-version": _S,
    "feed.delete": _S,
    "feed.disable": _S,
    "feed.edit": _S,
    "feed.enable": _S,
    "feed.estimate": _S,
    "feed.expire": None,
    "feed.publish": _S,
    "feed.received": None,
    "feed.revoke": _S,
    "feed.run": None,
    "feed.sync": _S,
    "feed.unshare": _S,
    "label.apply": _G,
    "label.create": _G,
    "label.remove": _G,
    "node.backup": Permission.ADMINISTER,
    "node.doctor": Permission.ADMINISTER,
    "node.init": Permission.ADMINISTER,
    "node.mail": Permission.ADMINISTER,
    "node.passphrase": Permission.ADMINISTER,
    "node.rotate-key": Permission.ADMINISTER,
    "node.restore": None,  # by the operator, who has the files: nobody can have signed in
    "node.set": Permission.ADMINISTER,
    "node.shared-segments": Permission.ADMINISTER,
    "node.sync": _S,
    "partner.accept": _C,
    "partner.agree": _C,
    "partner.allow": _C,
    "partner.called": None,
    "partner.call": None,
    "partner.decline": _C,
    "partner.decline-change": _C,
    "partner.disconnect": _C,
    "partner.id": _C,
    "partner.moved": None,
    "partner.preflight": _C,
    "partner.propose": _C,
    "partner.rotated-key": None,
    "partner.request": _C,
    "partner.request_failed": _C,
    "partner.requested": None,
    "partner.rotate": _C,
    "partner.rotated": None,
    "policy.create": _G,
    "policy.delete": _G,
    "policy.disable": _G,
    "policy.edit": _G,
    "policy.enable": _G,
    "profile.erase": _D,
    "profile.import": _D,
    "profile.readmit": _D,
    "profile.take-over": _D,
    "profile.view": Permission.VIEW_PROFILES,
    "project.create": Permission.ADMINISTER,
    "project.leave-out": _G,
    "project.resume": _S,
    "project.terms": _C,
    "project.view": Permission.VIEW,
    "role.create": Permission.ADMINISTER,
    "role.delete": Permission.ADMINISTER,
    "segment.create": _D,
    "segment.delete": _D,
    "segment.evaluate": _D,
    "segment.export": Permission.EXPORT,
    "segment.follow": None,
    "segment.rename": _D,
    "segment.share": Permission.SHARE_SEGMENTS,
    "segment.shared": None,
    "segment.unshare": Permission.SHARE_SEGMENTS,
    "segment.unshared": None,
    "segment.update": _D,
    "segment.view": Permission.VIEW_SEGMENTS,
    "user.create": Permission.ADMINISTER,
    "user.deny": Permission.ADMINISTER,
    "user.grant": Permission.ADMINISTER,
    "user.list": Permission.ADMINISTER,
    "user.remove": Permission.ADMINISTER,
    "user.reset": Permission.ADMINISTER,  # or the files of the home, without a token
    "user.revoke": Permission.ADMINISTER,
    "user.sign-in": None,
    "user.token": Permission.ADMINISTER,
}
OWN_WORK = ("exchange.", "letter.")  # how the names of more acts of the node's own begin

JOBS: Mapping[str, str] = {  # the act that submitting a job of this kind is
    "destination": "destination.sync",
    "estimate": "feed.estimate",
    "mail": "node.mail",
    "release": "feed.sync",
    "wanted": "feed.run",
}


class PermissionDenied(NotAllowed):
    """A user has no roles with the permissions that an act needs; `missing` are those, and `permission` the first."""

    code = "permission_denied"

    def __init__(self, user: str, act: str, missing: Sequence[Permission], project: str | None) -> None:
        self.missing, self.permission = tuple(missing), missing[0]
        where = f"project {project}" if project else "the whole node"
        role = next(role.name for role in READY_MADE.values() if _whole(role.permissions).issuperset(missing))
        arguments = {"name": user, "role": role, **({"project": project} if project else {})}
        what = (
            f"the permission {missing[0]}"
            if len(missing) == 1
            else f"the permissions {', '.join(missing[:-1])} and {missing[-1]}"
        )
        super().__init__(
            f"{user} may not do {act}: it needs {what} for {where}",
            hint="ask an administrator for a role that has it"
            if len(missing) == 1
            else "ask an administrator for a role",
            remedy=Remedy("user.grant", arguments),
        )


def permissions_for(act: str) -> frozenset[Permission] | None:
    """Return the permissions that an act needs, None for the node's own work; an act without a row needs an administrator."""
    needed = None if act.startswith(OWN_WORK) else ACTS.get(act, Permission.ADMINISTER)
    return frozenset({needed}) if isinstance(needed, Permission) else needed


def permits(grants: Grants, permission: Permission, project_id: str | None) -> bool:
    """Return whether roles give a permission in a project; None is the node, where a role in one project gives nothing.

    Where sight is limited none gives one of WHOLE_SIGHT.
    """
    given = permission in _whole(each for grant in _there(grants, project_id) for each in grant.role.permissions)
    return given and not (permission in WHOLE_SIGHT and _is_limited(grants, project_id))


def missing(grants: Grants, needed: Iterable[Permission], project_id: str | None) -> list[Permission]:
    """Return every one of some permissions that roles do not give in a project; of VIEW only what is missing of it."""
    found = {each for each in needed if not permits(grants, each, project_id)}
    views = {each for each in VIEWS if not permits(grants, each, project_id)}
    if Permission.VIEW in found and views != VIEWS:
        found = found - {Permission.VIEW} | views
    return sorted(found)


def _whole(permissions: Iterable[Permission]) -> set[Permission]:
    """Return permissions with those that they stand for: VIEW is the same as all of VIEWS."""
    found = set(permissions)
    if Permission.VIEW in found or found >= VIEWS:
        found |= {Permission.VIEW, *VIEWS}
    return found


def without_sight(grants: Grants) -> set[tuple[Permission, str | None]]:
    """Return which permissions of WHOLE_SIGHT roles give where sight is limited, each with the project, None for the node.

    They give nothing. Nobody is given such roles together, nor left with them: users.py asks before and after.
    """
    return {
        (permission, grant.project_id)
        for grant in grants
        for permission in WHOLE_SIGHT & grant.role.permissions
        if _is_limited(grants, grant.project_id)
    }


def reaches(grants: Grants, project_id: str) -> bool:
    """Return whether there is a role in a project: to a user without one the project is not there."""
    return any(True for _ in _there(grants, project_id))


def exceeds(grants: Grants, role: Role, project_id: str | None) -> str | None:
    """Return what a role gives beyond these grants in a project, None for nothing: nobody grants more than they have."""
    for permission in sorted(role.permissions):
        if not permits(grants, permission, project_id):
            return f"the permission {permission}"
    limit = cleared(grants, project_id)
    narrower = limit is None or (role.labels is not None and role.labels <= limit)
    if not narrower and not VIEWS.isdisjoint(_whole(role.permissions)):
        return "the sight of other labels"
    for permission in sorted(OF_SOURCES & _whole(role.permissions)):
        known = sources(grants, permission, project_id)
        if known is not None and (role.sources is None or not role.sources <= known):
            return f"{permission} of other data sources"
    return None


def cleared(grants: Grants, project_id: str | None) -> frozenset[str] | None:
    """Return the labels that may be seen in a project, by the roles that let it be viewed; None: every label.

    A label has to be cleared for each of VIEWS that roles give.
    """
    views, limit = _sight(grants, project_id)
    return limit if views else frozenset()


def sources(grants: Grants, permission: Permission, project_id: str | None) -> frozenset[int] | None:
    """Return the numbers of the data sources for which roles give a permission in a project; None: every one."""
    found = [each.role.sources for each in _there(grants, project_id) if permission in _whole(each.role.permissions)]
    return None if None in found else frozenset[int]().union(*filter(None, found))


def _sight(grants: Grants, project_id: str | None) -> tuple[bool, frozenset[str] | None]:
    """Return whether roles let a project be viewed at all, and the labels that then may be seen, None for every one."""
    views, limit = False, None
    for view in VIEWS:
        labels = [grant.role.labels for grant in _there(grants, project_id) if view in _whole(grant.role.permissions)]
        views = views or bool(labels)
        if labels and None not in labels:
            cleared = frozenset[str]().union(*filter(None, labels))
            limit = cleared if limit is None else limit & cleared
    return views, limit


def _is_limited(grants: Grants, project_id: str | None) -> bool:
    """Return whether all roles that let a project be viewed show some labels or data sources only; of the node, whether
    that is so of it or of a project."""
    places = {project_id} if project_id is not None else {None, *(grant.project_id for grant in grants)}
    return any(_sight(grants, place)[1] is not None or _sees_some_sources(grants, place) for place in places)


def _sees_some_sources(grants: Grants, project_id: str | None) -> bool:
    known = sources(grants, Permission.VIEW_SEGMENTS, project_id)
    return known is not None and missing(grants, {Permission.VIEW_SEGMENTS}, project_id) == []


def clears(cleared: frozenset[str] | None, labels: Iterable[str]) -> bool:
    """Return whether something with these labels may be seen: every one of them must be cleared."""
    return cleared is None or cleared.issuperset(labels)


def _there(grants: Grants, project_id: str | None) -> Iterable[Grant]:
    return (grant for grant in grants if grant.project_id in (None, project_id))
