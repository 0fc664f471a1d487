"""Counts that we ask partners for before anything is shared: what is asked, and what we keep of the answers."""

import hashlib
import hmac
import json
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from protocol.agreement import Terms
from protocol.estimate import MAX_ASKED, CountAsker
from protocol.exchange import Opening, Role
from protocol.letters import Wanted
from protocol.messages import Answer
from protocol.states import Kind, Part
from psi import noise
from psi.hashing import length_prefixed
from psi.keys import Purpose
from psi.values import Bools, Values

from ...access.scope import Scope
from ...consent.consent_policies import ConsentPolicies
from ...consent.consents import Consents
from ...errors import NotAllowed, RefusedToPartner
from ...exchanges import handlers, http
from ...exchanges.channels import Channel, cache_of, epoch_of, namespace_of
from ...exchanges.opening import Plan, check_active, run_exchange
from ...exchanges.records import find, inputs_in_use
from ...governance.governance import Governance
from ...operations.jobs import Job, Jobs, JobState, Progress
from ...partners import connections, windows
from ...partners.connections import Connection
from ...partners.letters import Letters
from ...people import audiences
from ...people.consent import LeftOut
from ...people.snapshots import Snapshot
from ...segments.segments import Segments
from ...storage.cache import Arrays, Cache
from ...storage.database import Tx
from ...storage.records import Document
from ...storage.tables import DAY
from .. import ledger, versions
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
    audience = audiences.audience(
        snapshot, namespace, members, model=model, qualified=qualified, left_out=left_out
    ).as_one()
    sizes = audience.segments.sum(axis=1)
    large = [index for index, size in enumerate(sizes) if size >= max(1, terms.minimum_segment)]
    chosen = np.zeros((len(large), audience.segments.shape[1]), bool)
    secret = scope.home.keys.unwrap(scope.row().count_secret, b"count")
    key = hmac.digest(secret, length_prefixed(b"vesica/1 sample key", namespace.encode(), sample.encode()), "sha256")
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
        return _asker(scope, connection, epoch_number, namespace, made[-1])

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
        peer_keys=connections.peer_keys(scope, connection),
    )


def _keep_answer(scope: Scope, connection: Connection, namespace: str, asked: Asked, answer: Answer) -> None:
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


# Where the partner calls


def _answer(scope: Scope, connection: Connection, opening: Opening, inputs: bytes | None) -> handlers.Answer:
    """Ask a partner that calls because we have no address for it: our newest estimate that waits."""
    namespace = namespace_of(connection, opening)
    cache = cache_of(scope, connection, epoch_of(scope, connection, opening.epoch))
    if inputs is None:
        arrays = _wanted(scope, connection, namespace)
        digest = _digest(arrays)
    else:
        arrays, digest = _kept(cache, inputs), inputs

    def keep() -> None:
        with scope.read() as tx:
            used = inputs_in_use(tx, connection, Kind.COUNT, Part.ASKER)
        for name in cache.names(_file(b"")):
            if name not in map(_file, used):
                cache.drop(name)
        if not cache.has(_file(digest)):
            cache.save(_file(digest), **arrays)
            if not audiences.known(Snapshot.open(scope), namespace, Values.of_arrays(arrays)).all():
                cache.drop(_file(digest))  # somebody was erased meanwhile

    role = _asker(scope, connection, opening.epoch, namespace, _asked(arrays))
    return handlers.Answer(role, digest, keep)


def _wanted(scope: Scope, connection: Connection, namespace: str) -> Arrays:
    wanted, names = _waiting(scope, connection, namespace)
    sample = sample_of(scope, connection, namespace)
    try:
        asked = prepare(scope, connection, namespace, names, Snapshot.open(scope), sample=sample)
    except NotAllowed as error:
        raise _nothing_wanted() from error
    if not asked.names:
        raise _nothing_wanted()
    words = json.dumps({"names": asked.names, "sizes": asked.sizes, "wanted": wanted}).encode()
    return {
        "words": np.frombuffer(words, np.uint8),
        **asked.audience.values.arrays(),
        "segments": asked.audience.segments,
        "consented": asked.audience.consented,
    }


def _asked(arrays: Arrays) -> Asked:
    words = _words(arrays)
    audience = audiences.Audience(
        values=Values.of_arrays(arrays),
        segments=arrays["segments"].astype(np.bool_, copy=False),
        consented=arrays["consented"].astype(np.bool_, copy=False),
    )
    return Asked(names=words["names"], too_small=[], audience=audience, sizes=words["sizes"])


def _words(arrays: Arrays) -> Document:
    words: Document = json.loads(arrays["words"].tobytes())
    return words


def _kept(cache: Cache, digest: bytes) -> Arrays:
    """Return what an exchange that is open asks, from the file that keeps it until the answer comes."""
    arrays = cache.load(_file(digest))
    if arrays is None:
        raise http.over()
    return arrays


def _digest(arrays: Arrays) -> bytes:
    return hashlib.sha256(length_prefixed(*(arrays[name].tobytes() for name in sorted(arrays)))).digest()


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


def _file(digest: bytes) -> str:
    return f"asked of a caller {digest.hex()}"


def files(cache: Cache) -> list[str]:
    """Return the files with what exchanges ask."""
    return cache.names(_file(b""))


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
    with scope.read() as tx:
        exchange = find(tx, opening.exchange)
    assert exchange is not None
    arrays = _kept(cache, exchange.inputs)
    _keep_answer(scope, connection, namespace, _asked(arrays), answer)
    with scope.begin() as tx:  # another estimate, of other segments, waits on
        for job in _waiting_jobs(scope, tx, connection, namespace):
            if job.parameters["segments"] == _words(arrays)["wanted"]:
                Jobs(scope.home).change_result(tx, job, {"status": JobState.DONE})


ASKER = handlers.Handler(answer=_answer, finished=_finished)
