"""Counts that we ask partners for before anything is shared: what is asked, and what we keep of the answers."""

import hashlib
import hmac
import json
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from protocol.estimate import MAX_ASKED, CountAsker
from protocol.exchange import Opening, Role
from protocol.letters import Wanted
from protocol.messages import Answer, SegmentAnswer
from protocol.states import Kind, Part
from psi import noise
from psi.hashing import length_prefixed
from psi.keys import Purpose
from psi.values import Bools, Values

from ...access.scope import Scope
from ...consent.consent_policies import ConsentPolicies
from ...consent.consents import Consents
from ...errors import RefusedToPartner
from ...exchanges.channels import Channel, cache_of, epoch_of, namespace_of, running_epoch
from ...exchanges.handlers import Handler
from ...exchanges.opening import Plan, check_active, run_exchange
from ...operations.jobs import Job, Jobs, JobState, Progress
from ...partners import connections
from ...partners.connections import Connection
from ...partners.letters import Letters
from ...people import audiences
from ...people.snapshots import Snapshot
from ...segments.segments import Segments
from ...storage.cache import Epoch
from ...storage.database import Tx
from ...storage.ids import stored_id
from ...storage.records import Document
from ...storage.tables import DAY
from .. import versions
from . import disclosure, records, universes
from .records import Estimate, EstimatedNumbers, EstimateStatus

JOB = "estimate"
WAITING = {"status": "waiting", "note": "the partner has no address: it is asked when it calls"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One question to one partner: the segments that are large enough, and the sample of each that is asked about."""

    names: list[str]
    too_small: list[str]
    audience: audiences.Audience
    sizes: list[int]

    def sampled(self, index: int) -> int:
        return int(self.audience.segments[index].sum())


def prepare(
    scope: Scope,
    connection: Connection,
    epoch: Epoch,
    namespace: str,
    names: list[str],
    snapshot: Snapshot,
) -> Asked:
    """Choose what to ask: at most 65,536 identities of a segment, the same ones throughout an epoch."""
    scope.check_not_on_hold()
    terms = connection.terms
    row = scope.row()
    members = [Segments(scope).members(name, snapshot) for name in names]
    qualified = ConsentPolicies(scope).qualified(names, snapshot)
    model = Consents(scope).require_model()
    audience = audiences.audience(snapshot, namespace, members, model=model, qualified=qualified).as_one()
    if row.hide_unconsented:
        audience = audience.take(audience.consented)
    sizes = audience.segments.sum(axis=1)
    large = [index for index, size in enumerate(sizes) if size >= max(1, terms.minimum_segment)]
    chosen = np.zeros((len(large), audience.segments.shape[1]), bool)
    key = hmac.digest(epoch.secret, b"vesica/1 sample key" + namespace.encode(), "sha256")
    for place, index in enumerate(large):
        candidates = np.flatnonzero(audience.segments[index])
        chosen[place, candidates[noise.sample(audience.values.take(candidates), key, MAX_ASKED)]] = True
    asked = audiences.Audience(values=audience.values, segments=chosen, consented=audience.consented)
    chosen_any: Bools = np.asarray(chosen.any(axis=0))
    return Asked(
        names=[names[index] for index in large],
        too_small=[name for index, name in enumerate(names) if index not in large],
        audience=asked.take(chosen_any),
        sizes=[int(sizes[index]) for index in large],
    )


def run(scope: Scope, parameters: Document, progress: Progress) -> Any:
    """Do the job: ask one partner about some segments in one namespace, and keep the answer."""
    connection = connections.by_id(scope, parameters["connection"])
    check_active(connection)
    namespace, names = parameters["namespace"], list(parameters["segments"])
    Segments(scope).evaluate(*names)
    snapshot, row = Snapshot.open(scope), scope.row()
    epoch = running_epoch(scope, connection)
    asked = prepare(scope, connection, epoch, namespace, names, snapshot)
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
        made.append(prepare(scope, connection, epoch_of(scope, connection, epoch_number), namespace, names, snapshot))
        return _asker(scope, connection, epoch_number, namespace, made[-1])

    plan = Plan(
        kind=Kind.COUNT,
        part=Part.ASKER,
        subject={"namespace": namespace},
        role=role,
        inputs=length_prefixed(
            repr((snapshot.generation, row.consent_model, row.hide_unconsented)).encode(),
            hashlib.sha256(asked.audience.consented.tobytes()).digest(),  # consent policies are in no generation
            *(each.encode() for each in names),
        ),
        keep=lambda _, answer: _keep_answer(scope, connection, namespace, made[-1], answer),
    )
    run_exchange(scope, connection, plan, progress)
    return {"status": JobState.DONE}


def _asker(scope: Scope, connection: Connection, epoch_number: int, namespace: str, asked: Asked) -> Role:
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
        peer_key=connection.peer_key,
    )


def _keep_answer(scope: Scope, connection: Connection, namespace: str, asked: Asked, answer: Answer) -> None:
    epsilon = connection.terms.epsilon
    at = min(answer.computed_at, scope.home.now())  # a partner cannot make it look younger
    with scope.begin() as tx:
        if answer.budget_spent is not None:
            connections.note(tx, connection, budget={"spent": answer.budget_spent, "at": scope.home.now()})
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
    terms = connection.terms
    if terms.epsilon is None:
        return None
    last = connection.budget or {"spent": None, "at": None}
    left = None
    if last["spent"] is not None:
        over = last["at"] + terms.window_days * DAY <= scope.home.now()  # all of it has come back
        left = str(terms.budget if over else max(terms.budget - Fraction(last["spent"], 1000), 0))
    return {"left": left, "of": str(terms.budget), "window_days": terms.window_days, "at": last["at"]}


def scaled(answer: SegmentAnswer, size: int, sampled: int, epsilon: Fraction | None) -> EstimatedNumbers:
    """Bring a sample's numbers to the whole segment; the interval covers the noise and the sampling error."""
    if answer.overlap is None or answer.consented is None:
        return EstimatedNumbers()
    rounding = 0
    if epsilon is not None:  # the partner's rounding for display is part of the error
        rounding = -(-disclosure.DISPLAY_STEP // 2 * max(size, 1) // max(sampled, 1))

    def in_all(value: int) -> int:
        return min(size, noise.scale_up(value, size=size, sampled=sampled))

    def half(value: int, draws: int) -> int:
        return noise.half_width(epsilon=epsilon, draws=draws, size=size, sampled=sampled, hits=value) + rounding

    return EstimatedNumbers(
        overlap=in_all(answer.overlap),
        consented=in_all(answer.consented),
        half_width=half(answer.overlap, 2),
        consented_half_width=half(answer.consented, 1),
    )


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


# Where the partner calls


def _answer(scope: Scope, connection: Connection, opening: Opening) -> Role:
    """Ask a partner that calls because we have no address for it."""
    namespace = namespace_of(connection, opening)
    asked = _asked(scope, connection, namespace, opening)
    return _asker(scope, connection, opening.epoch, namespace, asked)


def _asked(scope: Scope, connection: Connection, namespace: str, opening: Opening) -> Asked:
    """Return what this exchange asks, which the partner opened because we cannot call it: our newest waiting estimate."""
    epoch = epoch_of(scope, connection, opening.epoch)
    cache, name = cache_of(scope, connection, epoch), _file(opening)
    stored = cache.load(name)
    if stored is not None:
        words = json.loads(stored["words"].tobytes())
        audience = audiences.Audience(
            values=Values.of_arrays(stored),
            segments=stored["segments"].astype(np.bool_, copy=False),
            consented=stored["consented"].astype(np.bool_, copy=False),
        )
        return Asked(names=words["names"], too_small=[], audience=audience, sizes=words["sizes"])
    wanted, names = _waiting(scope, connection, namespace)
    asked = prepare(scope, connection, epoch, namespace, names, Snapshot.open(scope))
    if not asked.names:
        raise _nothing_wanted()
    words = json.dumps({"names": asked.names, "sizes": asked.sizes, "wanted": wanted}).encode()
    cache.save(
        name,
        words=np.frombuffer(words, np.uint8),
        **asked.audience.values.arrays(),
        segments=asked.audience.segments,
        consented=asked.audience.consented,
    )
    return asked


def _waiting(scope: Scope, connection: Connection, namespace: str) -> tuple[list[str], list[str]]:
    """Return the segments of our newest estimate that waits for a call of this partner, and those still shared with it."""
    if not connection.peer_address:
        with scope.read() as tx:
            for job in _waiting_jobs(scope, tx, connection, namespace):
                shared = versions.shared_with(tx, connection.id, namespace)
                names = [name for name in job.parameters["segments"] if name in shared]
                if names:
                    return job.parameters["segments"], names
    raise _nothing_wanted()


def _file(opening: Opening) -> str:
    """Return the name of the file that keeps what an exchange asks, until the answer comes."""
    return f"asked {stored_id(opening.exchange)}"


def _nothing_wanted() -> RefusedToPartner:
    return RefusedToPartner(
        "nothing_wanted", "nothing is to be asked", hint="the side that is called first asks for an estimate of a feed"
    )


def _waiting_jobs(scope: Scope, tx: Tx, connection: Connection, namespace: str) -> list[Job]:
    """Return our estimates that this partner has not called for yet, newest first."""
    return [
        job
        for job in Jobs(scope.home).done(JOB, scope, tx)
        if job.parameters["connection"] == connection.id
        and job.parameters["namespace"] == namespace
        and job.result == WAITING
    ]


def _finished(scope: Scope, connection: Connection, opening: Opening, answer: Answer) -> None:
    cache = cache_of(scope, connection, epoch_of(scope, connection, opening.epoch))
    namespace = str(opening.subject["namespace"])
    _keep_answer(scope, connection, namespace, _asked(scope, connection, namespace, opening), answer)
    stored = cache.load(_file(opening))
    wanted = None if stored is None else json.loads(stored["words"].tobytes())["wanted"]
    with scope.begin() as tx:  # another estimate, of other segments, waits on
        for job in _waiting_jobs(scope, tx, connection, namespace):
            if job.parameters["segments"] == wanted:
                Jobs(scope.home).change_result(tx, job, {"status": JobState.DONE})
    cache.drop(_file(opening))


ASKER = Handler(answer=_answer, finished=_finished)
