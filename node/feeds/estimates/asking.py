"""Counts that we ask partners for before anything is shared: what is asked, and what we keep of the answers."""

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from protocol.agreement import Terms
from protocol.estimate import MAX_ASKED, Chosen, CountAsker, most_asked
from protocol.exchange import Role
from protocol.letters import Wanted
from protocol.messages import Answer
from protocol.states import Kind, Part
from psi import noise
from psi.errors import Remedy
from psi.hashing import length_prefixed
from psi.keys import Purpose
from psi.values import Bools

from ...access.scope import Scope
from ...compute.engines import engine_of
from ...consent.consent_policies import ConsentPolicies
from ...consent.consents import Consents
from ...errors import NotAllowed
from ...exchanges import http
from ...exchanges.channels import Channel, epoch_of
from ...exchanges.opening import Plan, check_active, run_exchange
from ...governance.governance import Governance
from ...operations.jobs import JobState, Progress
from ...partners import connections, windows
from ...partners.connections import Connection
from ...partners.letters import Letters
from ...people import audiences
from ...people.consent import LeftOut
from ...people.snapshots import Snapshot
from ...people.taken_values import numbers_of
from ...segments.segments import Segments
from ...storage.database import Tx
from ...storage.records import Document
from ...storage.tables import DAY
from .. import ledger
from . import records, universes
from .numbers import EstimatedNumbers, scaled
from .records import Estimate, EstimateStatus

JOB = "estimate"
WAITING = {"status": "waiting", "note": "the partner has no address: it is asked when it calls"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One question to one partner: the segments that are large enough, and the sample of each that is asked about."""

    names: list[str]
    too_small: list[str]
    audience: audiences.Audience
    sizes: list[int]

    @property
    def chosen(self) -> Chosen:
        return self.audience.values, self.audience.segments, self.audience.consented

    def sampled(self, index: int) -> int:
        return int(self.audience.segments[index].sum())


def prepare(
    scope: Scope, connection: Connection, namespace: str, names: list[str], snapshot: Snapshot, *, sample: str
) -> Asked:
    """Choose what to ask: at most 65,536 identities of a segment, the same ones as long as the `sample` is the same."""
    scope.check_not_on_hold()
    terms = connection.terms
    with scope.read() as tx:  # a question may have waited, and what forbids it may be newer
        Governance(scope).check_sharing(names, [namespace], tx)
    members = [Segments(scope).all_members(name, snapshot) for name in names]
    qualified = ConsentPolicies(scope).qualified(names, snapshot)
    model = Consents(scope).require_model()
    left_out = LeftOut(scope.row().left_out)
    audience = audiences.taken_audience(
        snapshot, namespace, members, model=model, qualified=qualified, left_out=left_out
    ).as_one()
    sizes = audience.segments.sum(axis=1)
    large = [index for index, size in enumerate(sizes) if size >= max(1, terms.minimum_segment)]
    chosen = np.zeros((len(large), audience.segments.shape[1]), bool)
    secret = scope.home.keys.unwrap(scope.row().count_secret, b"count")
    key = hmac.digest(secret, length_prefixed(b"vesica/1 sample key", namespace.encode(), sample.encode()), "sha256")
    for place, index in enumerate(large):
        candidates = numbers_of(audience.segments[index])
        chosen[place, candidates[noise.sample(audience.values.take(candidates), key, MAX_ASKED)]] = True
    asked = audiences.Audience(values=audience.values, segments=chosen, consented=audience.consented)
    chosen_any: Bools = np.asarray(chosen.any(axis=0))
    if (count := int(chosen_any.sum())) > most_asked(terms):
        raise NotAllowed(
            f"these segments have {count:,} identities of {namespace}, and one question to {connection.alias} may have "
            f"{most_asked(terms):,}: that is the agreed maximum_universe",
            hint="ask about fewer segments at once, or agree on a larger maximum",
            remedy=Remedy("project.terms"),
        )
    asked = asked.take(chosen_any)
    return Asked(
        names=[names[index] for index in large],
        too_small=[name for index, name in enumerate(names) if index not in large],
        audience=replace(asked, values=asked.values.part(slice(None))),
        sizes=[int(sizes[index]) for index in large],
    )


def sample_of(scope: Scope, connection: Connection, namespace: str) -> str:
    """Return the id of the sample that this organisation is asked about, a new one where a window has passed.

    It outlives key epochs and connections: with each new sample the partner would be asked about other people.
    """
    kind = ledger.LedgerKind.SAMPLE
    with scope.begin() as tx:
        since = scope.home.now() - windows.length(scope, tx, connection)
        found = ledger.last(tx, connection, kind, since=since, note=namespace)
        if found is None:
            found = scope.home.new_id()
            ledger.add(scope, tx, connection, ledger.Entry(kind=kind, amount=1, note=namespace, id=found))
    return found


def run(scope: Scope, parameters: Document, progress: Progress) -> Any:
    """Do the job: ask one partner about some segments in one namespace, and keep the answer."""
    connection = connections.by_id(scope, parameters["connection"])
    check_active(connection)
    namespace, names = parameters["namespace"], list(parameters["segments"])
    Segments(scope).evaluate(*names, *ConsentPolicies(scope).segments_read())
    snapshot, row = Snapshot.open(scope), scope.row()
    sample = sample_of(scope, connection, namespace)
    asked = prepare(scope, connection, namespace, names, snapshot, sample=sample)
    with scope.act("feed.estimate", f"{connection.alias} {namespace}", detail={"segments": names}) as tx:
        for name in asked.too_small:
            _keep_small(scope, tx, connection, name, namespace)
        if asked.names and not connection.peer_address:
            Letters(scope).send(
                tx, connection.id, "exchange.wanted", Wanted(kind=Kind.COUNT, subject={"namespace": namespace})
            )
    if not asked.names:
        return {"status": EstimateStatus.BELOW_MINIMUM.value}
    if not connection.peer_address:
        return WAITING
    made: list[Asked] = []

    def role(epoch_number: int) -> Role:
        made.append(prepare(scope, connection, namespace, names, snapshot, sample=sample))
        return asker(scope, connection, epoch_number, namespace, made[-1], choose_again)

    def choose_again() -> Chosen | None:
        Segments(scope).evaluate(*names, *ConsentPolicies(scope).segments_read())
        made.append(prepare(scope, connection, namespace, names, Snapshot.open(scope), sample=sample))
        if not made[-1].names:
            raise http.over()
        return made[-1].chosen

    plan = Plan(
        kind=Kind.COUNT,
        part=Part.ASKER,
        subject={"namespace": namespace},
        role=role,
        inputs=length_prefixed(
            repr((snapshot.generation, row.consent_model, row.left_out, sample)).encode(),
            hashlib.sha256(asked.audience.consented.tobytes()).digest(),  # consent policies are in no generation
            *(each.encode() for each in names),
        ),
        keep=lambda _, answer: keep_answer(scope, connection, namespace, made[-1], answer),
    )
    run_exchange(scope, connection, plan, progress)
    return {"status": JobState.DONE}


def asker(
    scope: Scope,
    connection: Connection,
    epoch_number: int,
    namespace: str,
    asked: Asked,
    choose_again: Callable[[], Chosen | None],
) -> Role:
    """Return the role that asks; before it asks `choose_again` may name others, or raise where nobody is to be asked now."""
    epoch = epoch_of(scope, connection, epoch_number)
    channel = Channel.of(scope, connection, epoch, namespace, protocol="count", outward=True)
    return CountAsker(
        context=channel.context,
        direction=channel.direction,
        epoch=epoch_number,
        values=asked.audience.values,
        segments=asked.audience.segments,
        consented=asked.audience.consented,
        derive_key=lambda digest: channel.key(Purpose.COUNT_ASK, digest),
        check_universe=lambda commitment: universes.check_shown(scope, connection, namespace, commitment),
        maximum=connection.terms.maximum_universe,
        peer_keys=connections.peer_keys(scope, connection),
        choose_again=choose_again,
        engine=engine_of(scope.home),
    )


def keep_answer(scope: Scope, connection: Connection, namespace: str, asked: Asked, answer: Answer) -> None:
    """Keep the numbers of a question, scaled to its segments."""
    epsilon = connection.terms.epsilon
    at = min(answer.computed_at, scope.home.now())  # a partner cannot make it look younger
    with scope.begin() as tx:
        if answer.budget_spent is not None:
            spent = connections.Spent(spent=answer.budget_spent, at=scope.home.now())
            connections.note(tx, connection, budget=asdict(spent))
        for index, name in enumerate(asked.names):
            known = (connection.wire_id, namespace.encode(), name.encode(), answer.encode())
            size, sampled = asked.sizes[index], asked.sampled(index)
            estimate = Estimate(
                id=hashlib.sha256(length_prefixed(*known)).hexdigest()[:32],  # the same again after a kill
                connection_id=connection.id,
                segment=name,
                namespace=namespace,
                status=EstimateStatus(answer.segments[index].status),
                detail={"size": size, "sampled": sampled, "epsilon": str(epsilon) if epsilon is not None else None},
                at=at,
                **asdict(scaled(answer.segments[index], size, sampled, epsilon)),
            )
            records.keep(tx, estimate)


def budget(scope: Scope, connection: Connection) -> Document | None:
    """Return how much epsilon we have left with a partner in a window, as its last answer said.

    None where counts have no noise. `left` is None before the first answer of this connection.
    """
    terms, last = connection.terms, connection.budget
    if terms.epsilon is None:
        return None
    at = None if last is None else last.at
    about = {"window_days": terms.window_days, "at": at}
    if last is None:
        return {**budget_document(terms, None), **about}
    over = last.at + terms.window_days * DAY <= scope.home.now()  # all of it has come back
    return {**budget_document(terms, Fraction(0) if over else Fraction(last.spent, 1000)), **about}


def budget_document(terms: Terms, spent: Fraction | None) -> Document:
    """Return what is left of a budget, as decimal numbers; None where that is not known."""
    left = None if spent is None else _decimal(max(terms.budget - spent, Fraction(0)))
    return {"left": left, "of": _decimal(terms.budget)}


def _decimal(value: Fraction) -> float:
    return round(float(value), 4)


def _keep_small(scope: Scope, tx: Tx, connection: Connection, name: str, namespace: str) -> None:
    reason = "the segment itself is below the agreed minimum, so the partner was not asked"
    estimate = Estimate(
        id=scope.home.new_id(),
        connection_id=connection.id,
        segment=name,
        namespace=namespace,
        status=EstimateStatus.BELOW_MINIMUM,
        detail={"reason": reason},
        at=scope.home.now(),
        **asdict(EstimatedNumbers()),
    )
    records.keep(tx, estimate)
