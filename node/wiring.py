"""The one list of who handles what: letters, jobs, exchanges, and what the clock asks for.

Lower rooms own the tables, upper rooms have the handlers, and `wire` brings both together, once for a process. A handler's
module is imported at its first call: most commands need none of them.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, partial
from pkgutil import resolve_name
from typing import Any

from . import log
from .access.scope import Home, Scope
from .errors import Failure, NotFound
from .storage.records import Document

LETTERS = {
    "connect.accept": "partners.connecting:accepted",
    "connect.decline": "partners.connecting:declined",
    "connect.details": "partners.details:received",
    "connect.disconnect": "partners.connecting:disconnected",
    "connect.restored": "backup.restored_partners:restored",
    "agreement.propose": "partners.agreements:proposed",
    "agreement.accept": "partners.agreements:accepted",
    "agreement.confirm": "partners.agreements:confirmed",
    "agreement.refuse": "partners.agreements:refused",
    "agreement.held": "partners.held_agreements:held",
    "preflight.ask": "partners.preflight:asked",
    "preflight.answer": "partners.preflight:answered",
    "audit.head": "partners.audit_heads:received",
    "audit.held": "partners.audit_heads:confirmed",
    "exchange.wanted": "exchanges.requests:wanted",
    "feed.publish": "feeds.receiving.offers:published",
    "feed.unshare": "feeds.receiving.offers:published",
    "feed.revoke": "feeds.receiving.received:revoked",
    "feed.accept": "feeds.sending.responses:accepted",
    "feed.decline": "feeds.sending.responses:declined",
    "feed.decline-version": "feeds.sending.responses:version_declined",
    "feed.disable": "feeds.sending.responses:disabled",
    "feed.purged": "feeds.sending.responses:purged",
    "feed.held": "backup.restored_partners:reported",
}
JOBS = {
    "destination": "destinations.sending:run",
    "mail": "destinations.mails:run",
    "release": "feeds.sending.releases:run",
    "estimate": "feeds.estimates.asking:run",
    "wanted": "exchanges.requests:run",
}
PROGRAMS = {  # what programs of the operator call: who answers, and a body's most bytes
    "POST /audiences": ("audiencemanager.platform_messages:answer", 8 << 20),
    "GET /profile/{source}/{id}": ("audiencemanager.customer_data:profile", 0),
}
SIGNALS = {  # the same for what is applied in groups, in a module that has the form of its refusals
    "GET /event": ("audiencemanager.dcs:answer", 0),
    "POST /event": ("audiencemanager.dcs:answer", 32_768),
    "GET /event/s2s/{stream}": ("audiencemanager.dcs:answer", 0),
    "POST /event/s2s/{stream}": ("audiencemanager.dcs:answer", 32_768),
    "POST /stream/{stream}": ("audiencemanager.customer_data:stream", 102_400),
}
EXCHANGES = {  # by kind and our part
    ("count", "asker"): "feeds.estimates.callers:ASKER",
    ("count", "answerer"): "feeds.estimates.answering:ANSWERER",
    ("evaluate", "sender"): "feeds.sending.evaluations:HANDLER",
    ("evaluate", "receiver"): "feeds.receiving.evaluations:HANDLER",
    ("release", "sender"): "feeds.sending.releases:HANDLER",
    ("release", "receiver"): "feeds.receiving.releases:HANDLER",
}
OUTGOING = {"feed": "feeds.sending.outgoing:OutgoingFeeds"}
INCOMING = {
    "received": "feeds.receiving.references:ReceivedSegments",
    "shared": "feeds.local.references:SharedSegments",
    "trait": "audiencemanager.imported_references:ImportedTraits",
    "audience": "audiencemanager.imported_references:ImportedSegments",
}
NARROWING = {"consent-policy": "consent.consent_policies:narrowings"}
REFERENCES = {
    "segment": "segments.records:OwnSegments",
    "received": "feeds.receiving.references:ReceivedSegments",
    "shared": "feeds.local.references:SharedSegments",
    "trait": "audiencemanager.imported_references:ImportedTraits",
    "audience": "audiencemanager.imported_references:ImportedSegments",
}
RULES = {"segment": "segments.records:rules_seen", "consent policy": "consent.consent_policies:conditions"}
SEGMENT_USED_BY = {
    "consent policies": "consent.consent_policies:check_not_read",
    "destinations": "destinations.segments_sent:check_not_sent",
    "feeds": "feeds.sending.outgoing:check_not_shared",
}
SEGMENT_USED_ELSEWHERE = {"other projects": "feeds.local.uses:check_unused"}
SEGMENT_CHANGED = {"other projects": "feeds.local.cycles:check"}
SEGMENT_RENAMED = {"destinations": "destinations.segments_sent:renamed"}
SEGMENT_DELETED = {
    "other projects": "feeds.local.sharing:deleted",
    "older sharing": "destinations.older_sharing:deleted",
}
SEGMENTS_FROM_ELSEWHERE = {
    "Audience Manager side": "audiencemanager.following:follow",
    "other projects": "feeds.local.evaluations:follow",
}
AUDIENCE_MAPPED = {"destinations": "destinations.segments_sent:audience_mappings"}
NAMED = {"partner": "partners.connections:is_named"}
ENDED = (
    "feeds.sending.partner_hooks:ended",
    "feeds.receiving.partner_hooks:ended",
    "exchanges.records:ended",
    "partners.agreements:ended",
)
AGREED = (
    "exchanges.records:namespaces_changed",
    "feeds.sending.partner_hooks:namespaces_changed",
    "feeds.receiving.partner_hooks:namespaces_changed",
)
ALLOWED = ("feeds.sending.partner_hooks:allowed",)
KEY_REPLACED = ("feeds.ledger:count_under",)
REACHED = ("feeds.sending.attempts:reachable",)
TAKES = ("feeds.receiving.partner_hooks:takes",)
MAY_LEAVE = {"feed.purged": "feeds.receiving.partner_hooks:files_are_gone"}
PEOPLE_CHANGED = {
    "Audience Manager side": "audiencemanager.following:follow",
    "received feeds": "feeds.receiving.joining:join_all",
    "other projects": "feeds.local.evaluations:follow_from",
}

UPKEEP = (
    "exchanges.records:forget_old",
    "operations.jobs:forget_old",
    "partners.outbox:forget_old",
    "partners.key_epochs:remove_leftovers",
)
UPKEEP_OF_A_PROJECT = (
    "feeds.receiving.membership_files:sweep",
    "feeds.receiving.expiry:apply",  # members leave whose time is over
    "feeds.receiving.comparison:compare",
    "partners.audit_heads:send",  # partners are sent, once a day, where our audit log ends
    "partners.stuck_letters:alert_waiting",
    "audiencemanager.following:follow",
    "feeds.local.evaluations:follow",
    "people.drafts:remove_leftovers",
    "erasure.sweeping:finish",
    "feeds.sending.due:alert_overdue",
    "audiencemanager.trait_members:drop_expired",
    "destinations.upkeep:forget_old",
    "destinations.watching:alert_delays",
    "destinations.mails:forget_old",
    "destinations.mails:submit_due",
    "operations.alerts:forget_old",
)


@cache
def wire() -> None:
    """Fill the tables of handlers."""
    from .access import users
    from .audiencemanager import hooks as audience
    from .audiencemanager import routes
    from .exchanges import handlers as exchanges
    from .governance import ports
    from .governance.lineage import PlaceKind
    from .operations import jobs
    from .partners import handlers as partners
    from .people import changes
    from .segments import references

    users.NAMED.update({noun: late(name) for noun, name in NAMED.items()})
    partners.HANDLERS.update({kind: late(name) for kind, name in LETTERS.items()})
    partners.ENDED.extend(map(late, ENDED))
    partners.AGREED.extend(map(late, AGREED))
    partners.ALLOWED.extend(map(late, ALLOWED))
    partners.KEY_REPLACED.extend(map(late, KEY_REPLACED))
    partners.REACHED.extend(map(late, REACHED))
    partners.TAKES.extend(map(late, TAKES))
    partners.MAY_LEAVE.update({kind: late(name) for kind, name in MAY_LEAVE.items()})
    for path, (name, most) in PROGRAMS.items():
        routes.ROUTES[path] = routes.Route(handler=late(name), most=most)
    for path, (name, most) in SIGNALS.items():
        form = late(name.partition(":")[0] + ":refusal")
        routes.ROUTES[path] = routes.Route(prompt=late(name), most=most, refused=form)
    jobs.HANDLERS.update({kind: late(name) for kind, name in JOBS.items()})
    ports.OUTGOING.update({PlaceKind(kind): late(name) for kind, name in OUTGOING.items()})
    ports.INCOMING.update({PlaceKind(kind): late(name) for kind, name in INCOMING.items()})
    ports.NARROWING.update({PlaceKind(kind): late(name) for kind, name in NARROWING.items()})
    references.KINDS.update({PlaceKind(kind): late(name) for kind, name in REFERENCES.items()})
    references.USED_BY.update({room: late(name) for room, name in SEGMENT_USED_BY.items()})
    for table, found in (
        (references.ELSEWHERE, SEGMENT_USED_ELSEWHERE),
        (references.CHANGED, SEGMENT_CHANGED),
        (references.DELETED, SEGMENT_DELETED),
        (references.RENAMED, SEGMENT_RENAMED),
        (references.REFRESH, SEGMENTS_FROM_ELSEWHERE),
    ):
        table.update({room: late(name) for room, name in found.items()})
    audience.MAPPED.update({room: late(name) for room, name in AUDIENCE_MAPPED.items()})
    references.WITH_RULES.update({noun: late(name) for noun, name in RULES.items()})
    changes.CHANGED.update({name: late(hook) for name, hook in PEOPLE_CHANGED.items()})
    exchanges.KINDS.update({key: partial(resolve_name, f"{__package__}.{name}") for key, name in EXCHANGES.items()})


def late(name: str) -> Callable[..., Any]:
    """Return a function that does what `name` ("room.module:function") does, and is looked up when it is called."""

    def handler(*arguments: Any) -> Any:
        return resolve_name(f"{__package__}.{name}")(*arguments)

    return handler


def sweep(home: Home) -> None:
    """Do what the clock asks for, in the node and in each project, and delete what killed processes left."""
    from .storage import temporary

    home.guard.known()
    acts: list[Callable[[], object]] = []
    with suppress(Failure):
        acts += [partial(late(name), scope) for scope in home.all_scopes() for name in UPKEEP_OF_A_PROJECT]
    acts += [partial(late(name), home) for name in UPKEEP]
    acts.append(partial(temporary.remove_leftovers, home.path))
    for act in acts:
        try:
            act()
        except (Failure, OSError) as error:  # a busy database or a full disk: the next time will do
            log.warning("upkeep waits", reason=str(error))
        except Exception as error:  # its text may name anything; the other acts are due all the same
            log.error("upkeep failed", kind=type(error).__name__)


def sync(home: Home, scopes: Sequence[Scope], progress: Any = None) -> Document:
    """Do at once, for some projects, what a service does all the time: deliver and fetch letters, sweep, run queued jobs.

    Each job runs in the name of who submitted it. Returns how many letters moved, the partners out of reach and the jobs
    that ran; of these, those that the caller may not see are only counted, or not at all for one who is limited by labels.
    Where a service runs, nothing is left to do here. Raises WrongPassphrase before anything is done.
    """
    from .operations.jobs import Jobs, no_progress
    from .partners.letters import Letters
    from .storage.locks import serving

    done: Document = {"serving": serving(home.path), "letters": {"delivered": 0, "fetched": 0}}
    done |= {"out_of_reach": [], "jobs": [], "other_jobs": 0}
    if done["serving"]:
        return done
    home.keys.signing_key  # noqa: B018 - raises WrongPassphrase
    jobs, names, ran, synced = Jobs(home), {scope.id: scope.name for scope in scopes}, [], {}
    with home.guard.itself():
        sweep(home)
        for scope in scopes:
            synced[scope.id] = Letters(scope).sync_all()
        while (job := jobs.claim_next(names)) is not None:
            jobs.execute(job, progress or no_progress)
            ran.append(job)
    viewable = {scope.id for scope in home.scopes()}
    for project_id in viewable & synced.keys():
        for alias, moved in synced[project_id].items():
            done["letters"]["delivered"] += moved.delivered
            done["letters"]["fetched"] += moved.fetched
            if not moved.reached:
                done["out_of_reach"].append({"project": names[project_id], "partner": alias})
    home.undelivered.clear()  # the document says it
    with home.read() as tx:
        limited = {each for each in names if home.guard.limited(tx, each)}
    for job in ran:
        try:
            done["jobs"].append({"project": names[job.project_id], **jobs.show(job.id).as_dict()})
        except NotFound:
            done["other_jobs"] += job.project_id not in limited  # a number tells that there is work on what is hidden
    return done
