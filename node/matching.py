"""Estimates: what we ask a partner before anything is shared, and what a partner may learn from us.

The answerer's order is fixed: an identical question is answered as before, a question that differs from one by a few
identities is refused, then the budget is charged, then noise, the floor, and the limits are applied to the noised value.
Refusals depend only on what the asker sent and on the ledger.
"""

import hmac
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import Connection, Row, func, insert, select

from protocol.agreement import Agreement, Terms
from protocol.errors import RemoteProtocolError
from protocol.estimate import CountAnswerer, CountAsker, Question, commit
from protocol.exchange import Opened, Opening, Role
from protocol.letters import Wanted
from protocol.messages import Answer, Commitment, SegmentAnswer, SignedCommitment
from protocol.states import Kind, Part
from psi import count, noise
from psi.hashing import length_prefixed
from psi.join import match
from psi.keys import Purpose

from . import decisions, epochs
from .cache import Cache
from .data import Snapshot
from .endpoint import Refusal
from .epochs import DAY, Epoch
from .errors import Refused
from .evaluations import Channel, cache_of, epoch_of, opened
from .exchanges import FINISHED, ROLES, run_exchange
from .jobs import HANDLERS as JOBS
from .jobs import Progress, in_turn
from .tables import answers, estimates, exchanges, jobs, ledger, universes

if TYPE_CHECKING:
    from .project import Project

JOB = "estimate"
FEW = 50  # a question that differs from an answered one by fewer identities looks like an attempt to subtract
DISPLAY_STEP = 10  # estimates with noise are rounded to this, since the last digit says nothing
PREFIX = 16  # bytes of a point that are kept to compare questions


# Asking


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One question to one partner: the segments that are large enough, and the sample of each that is asked about."""

    names: list[str]
    too_small: list[str]
    audience: decisions.Audience
    sizes: list[int]

    def sampled(self, index: int) -> int:
        return int(self.audience.segments[index].sum())


def prepare(
    project: "Project",
    connection: Row[Any],
    epoch: Epoch,
    namespace: str,
    names: list[str],
    snapshot: Snapshot,
) -> Asked:
    """Choose what to ask: at most 65,536 identities of a segment, the same ones throughout an epoch."""
    terms = Agreement.decode(connection.agreement).terms
    row = project.row()
    members = [project.segments.members(name, snapshot) for name in names]
    audience = decisions.audience(snapshot, namespace, members, model=row.consent_model)
    if row.hide_unconsented:
        audience = audience.take(audience.consented)
    sizes = audience.segments.sum(axis=1)
    large = [index for index, size in enumerate(sizes) if size >= max(1, terms.minimum_segment)]
    chosen = np.zeros((len(large), audience.segments.shape[1]), bool)
    key = hmac.digest(epoch.secret, b"vesica/1 sample key" + namespace.encode(), "sha256")
    for place, index in enumerate(large):
        candidates = np.flatnonzero(audience.segments[index])
        chosen[place, candidates[noise.sample(audience.values.take(candidates), key)]] = True
    asked = decisions.Audience(values=audience.values, segments=chosen, consented=audience.consented)
    chosen_any: decisions.Bools = np.asarray(chosen.any(axis=0))
    return Asked(
        names=[names[index] for index in large],
        too_small=[name for index, name in enumerate(names) if index not in large],
        audience=asked.take(chosen_any),
        sizes=[int(sizes[index]) for index in large],
    )


def _run(project: "Project", parameters: dict[str, Any], progress: Progress) -> Any:
    """Do the job: ask one partner about some segments in one namespace, and keep the answer."""
    connection = project.partners.by_id(parameters["connection"])
    if connection.status != "active":
        raise Refused(f"partner {connection.alias} is {connection.status}", hint="vesica partner list")
    namespace, names = parameters["namespace"], list(parameters["segments"])
    for name in names:
        project.segments.evaluate(name)
    snapshot = Snapshot.open(project)
    with project.node.store.begin() as tx:
        epoch = epochs.current(project, tx, connection)
    asked = prepare(project, connection, epoch, namespace, names, snapshot)
    with project.act("feed.estimate", f"{connection.alias} {namespace}", detail={"segments": names}) as tx:
        for name in asked.too_small:
            _keep_small(project, tx, connection, name, namespace)
        if asked.names and not connection.peer_address:
            project.letters.send(
                tx, connection.id, "exchange.wanted", Wanted(kind=Kind.COUNT, subject={"namespace": namespace})
            )
    if not asked.names:
        return {"status": "below_minimum"}
    if not connection.peer_address:
        return {"status": "waiting", "note": f"{connection.alias} has no address: it is asked when it calls"}
    made: list[Asked] = []

    def role(number: int) -> Role:
        made.append(prepare(project, connection, epoch_of(project, connection, number), namespace, names, snapshot))
        return _asker(project, connection, number, namespace, made[-1])

    answer = run_exchange(
        project,
        connection,
        {"namespace": namespace},
        Kind.COUNT,
        Part.ASKER,
        role,
        inputs=length_prefixed(str(snapshot.generation).encode(), *(name.encode() for name in names)),
        progress=progress,
    )
    _keep_answer(project, connection, namespace, made[-1], answer)
    return {"status": "done"}


def _asker(project: "Project", connection: Row[Any], number: int, namespace: str, asked: Asked) -> Role:
    epoch = epoch_of(project, connection, number)
    channel = Channel.of(project, connection, epoch, namespace, protocol="count", outward=True)
    return CountAsker(
        context=channel.context,
        direction=channel.direction,
        epoch=number,
        values=asked.audience.values,
        segments=asked.audience.segments,
        consented=asked.audience.consented,
        derive_key=lambda digest: channel.key(Purpose.COUNT_ASK, digest),
        check_universe=lambda commitment: _check_shown(project, connection, namespace, commitment),
        peer_key=connection.peer_key,
    )


def _check_shown(project: "Project", connection: Row[Any], namespace: str, commitment: Commitment) -> None:
    """Refuse a partner that shows us too many universes: each new one lets it compare us under another set."""
    terms = Agreement.decode(connection.agreement).terms
    now, digest = project.node.now(), commitment.universe_digest()
    shown = universes.c
    with project.node.store.begin() as tx:
        query = select(universes).where(shown.connection_id == connection.id, shown.namespace == namespace, ~shown.ours)
        rows = [row for row in tx.execute(query) if row.epoch == commitment.epoch]
        if any(row.digest == digest for row in rows):
            return
        if any(row.generation == commitment.generation for row in rows):
            raise RemoteProtocolError("commitment", "the partner shows another universe under the same number")
        newest = max((row.created for row in rows), default=None)
        if newest is not None and now - newest < DAY - SKEW_SECONDS:
            raise RemoteProtocolError("commitment", "the partner shows a second new universe within a day")
        if len(rows) >= terms.generations:
            raise RemoteProtocolError(
                "commitment", f"the partner shows more than {terms.generations} universes an epoch"
            )
        tx.execute(
            insert(universes).values(
                id=project.node.new_id(),
                connection_id=connection.id,
                ours=False,
                namespace=namespace,
                epoch=commitment.epoch,
                generation=commitment.generation,
                digest=digest,
                commitment=commitment.encode(),
                count=commitment.count,
                created=now,
            )
        )


SKEW_SECONDS = 3_600  # between two nodes' clocks, when the days between universes are counted


def _keep_answer(project: "Project", connection: Row[Any], namespace: str, asked: Asked, answer: Answer) -> None:
    epsilon = Agreement.decode(connection.agreement).terms.epsilon
    with project.node.store.begin() as tx:
        for index, name in enumerate(asked.names):
            numbers = _scaled(answer.segments[index], asked.sizes[index], asked.sampled(index), epsilon)
            tx.execute(
                insert(estimates).values(
                    id=project.node.new_id(),
                    connection_id=connection.id,
                    segment=name,
                    namespace=namespace,
                    status=answer.segments[index].status,
                    detail={
                        "size": asked.sizes[index],
                        "sampled": asked.sampled(index),
                        "epsilon": str(epsilon) if epsilon is not None else None,
                    },
                    at=answer.computed_at,
                    **numbers,
                )
            )


def _scaled(answer: SegmentAnswer, size: int, sampled: int, epsilon: Fraction | None) -> dict[str, int | None]:
    """Bring a sample's numbers to the whole segment; the interval then holds the noise and the sampling error."""
    if answer.overlap is None or answer.consented is None:
        return {"overlap": None, "consented": None, "half_width": None, "consented_half_width": None}
    numbers = {}
    for name, value, draws in (("overlap", answer.overlap, 2), ("consented", answer.consented, 1)):
        numbers[name] = min(size, noise.scale_up(value, size=size, sampled=sampled))
        width = "half_width" if name == "overlap" else "consented_half_width"
        numbers[width] = noise.half_width(epsilon=epsilon, draws=draws, size=size, sampled=sampled, hits=value)
    if epsilon is not None:  # the partner's rounding for display is part of the error
        numbers["half_width"] += DISPLAY_STEP // 2
        numbers["consented_half_width"] += DISPLAY_STEP // 2
    return dict(numbers)


def _keep_small(project: "Project", tx: Connection, connection: Row[Any], name: str, namespace: str) -> None:
    tx.execute(
        insert(estimates).values(
            id=project.node.new_id(),
            connection_id=connection.id,
            segment=name,
            namespace=namespace,
            status="below_minimum",
            detail={"reason": "the segment itself is below the agreed minimum, so the partner was not asked"},
            at=project.node.now(),
        )
    )


# Answering


def _answer(project: "Project", connection: Row[Any], opening: Opening) -> tuple[Opened, Role]:
    namespace = str(opening.subject["namespace"])
    if namespace not in Agreement.decode(connection.agreement).namespaces:
        raise Refusal("namespace", "this namespace was not agreed on")
    if opening.part is Part.ANSWERER:  # they call because we have no address for them
        names = _waiting(project, connection, namespace)
        epoch = epoch_of(project, connection, opening.epoch)
        asked = prepare(project, connection, epoch, namespace, names, Snapshot.open(project))
        return opened(project, opening), _asker(project, connection, opening.epoch, namespace, asked)
    return opened(project, opening), answerer(project, connection, namespace, opening)


def answerer(project: "Project", connection: Row[Any], namespace: str, opening: Opening) -> Role:
    """Make the role that answers a count from the universe generation that this exchange began with."""
    epoch = epoch_of(project, connection, opening.epoch)
    channel = Channel.of(project, connection, epoch, namespace, protocol="count", outward=False)
    universe, signed = _universe(project, connection, channel, opening)
    return CountAnswerer(
        context=channel.context,
        direction=channel.direction,
        epoch=opening.epoch,
        universe=universe,
        key=channel.key(Purpose.COUNT_ANSWER),
        commitment=signed,
        sanitise=lambda question: Sanitiser(project, connection, namespace).answer(question),
    )


def _universe(
    project: "Project", connection: Row[Any], channel: Channel, opening: Opening
) -> tuple[count.Universe, SignedCommitment]:
    """Return the generation to answer from: the newest, or a new one if our data changed and the last is a day old."""
    terms = Agreement.decode(connection.agreement).terms
    cache, now = cache_of(project, connection, channel.epoch), project.node.now()
    snapshot = Snapshot.open(project)
    with project.node.store.read() as tx:
        began = tx.scalar(select(exchanges.c.created).where(exchanges.c.id == opening.exchange.hex())) or now
        query = (
            select(universes)
            .where(
                universes.c.connection_id == connection.id,
                universes.c.ours,
                universes.c.namespace == channel.namespace,
                universes.c.epoch == channel.epoch.number,
                universes.c.created <= began,
            )
            .order_by(universes.c.generation)
        )
        rows = tx.execute(query).all()
    if rows:
        newest = rows[-1]
        stored = cache.load(f"universe {channel.namespace} {newest.generation}")
        if stored is not None:
            same = int(stored["data"]) == snapshot.generation
            if same or now - newest.created < DAY or len(rows) >= terms.generations or began != now:
                universe = count.Universe(
                    points=stored["points"].astype(np.uint8, copy=False),
                    canaries=stored["canaries"].astype(np.uint8, copy=False),
                    size=int(stored["size"]),
                )
                return universe, SignedCommitment.decode(newest.commitment)
        if now - newest.created < DAY or len(rows) >= terms.generations:
            raise Refusal(
                "universe_lost", "the universe of this epoch is gone; a new one is shown a day after the last"
            )
    values, _ = decisions.universe(snapshot, channel.namespace)
    if len(values) < terms.minimum_universe:
        raise Refusal("below_minimum", f"this side has fewer than the {terms.minimum_universe:,} identities agreed on")
    universe = count.build_universe(channel.context, values, channel.key(Purpose.COUNT_ANSWER), project.node.random)
    generation = rows[-1].generation + 1 if rows else 1
    signed = commit(
        universe,
        context=channel.context,
        epoch=channel.epoch.number,
        generation=generation,
        made=now,
        sign=project.node.sign,
    )
    cache.save(
        f"universe {channel.namespace} {generation}",
        points=universe.points,
        canaries=universe.canaries,
        size=np.array(universe.size),
        data=np.array(snapshot.generation),
    )
    with project.node.store.begin() as tx:
        tx.execute(
            insert(universes).values(
                id=project.node.new_id(),
                connection_id=connection.id,
                ours=True,
                namespace=channel.namespace,
                epoch=channel.epoch.number,
                generation=generation,
                digest=signed.commitment.universe_digest(),
                commitment=signed.encode(),
                count=len(universe.points),
                created=now,
            )
        )
    return universe, signed


class Sanitiser:
    """Turns the true numbers of one question into what the asker may learn, and charges for it."""

    def __init__(self, project: "Project", connection: Row[Any], namespace: str) -> None:
        self._project, self._connection, self._namespace = project, connection, namespace
        self._terms = Agreement.decode(connection.agreement).terms

    def answer(self, question: Question) -> Answer:
        """Return the answer to a question; the same question gets the same answer, free of charge."""
        project = self._project
        with project.act(
            "estimate.answer", f"{self._connection.alias} {self._namespace}", actor=self._connection.alias
        ) as tx:
            query = select(answers.c.answer).where(
                answers.c.connection_id == self._connection.id, answers.c.question == question.digest
            )
            known = tx.scalar(query)
            if known is not None:
                return Answer.decode(known)
            self._refuse_differencing(tx, question)
            self._charge(tx, question)
            secret = project.row(tx).count_secret
            answer = Answer(
                segments=tuple(
                    sanitise(
                        int(question.consented_hits[index]),
                        int(question.other_hits[index]),
                        size=int(question.sizes[index]),
                        terms=self._terms,
                        seeds=self._seeds(secret, question, index),
                    )
                    for index in range(len(question.segments))
                ),
                computed_at=project.node.now(),
            )
            file = f"question {question.digest.hex()}"
            self._cache(tx).save(file, points=question.points[:, :PREFIX], segments=question.segments)
            tx.execute(
                insert(answers).values(
                    id=project.node.new_id(),
                    connection_id=self._connection.id,
                    question=question.digest,
                    answer=answer.encode(),
                    points=file,
                    at=project.node.now(),
                )
            )
            return answer

    def _refuse_differencing(self, tx: Connection, question: Question) -> None:
        cache = self._cache(tx)
        query = select(answers.c.points).where(answers.c.connection_id == self._connection.id)
        for file in tx.scalars(query):
            stored = cache.load(file)
            if stored is None:
                continue
            for then in stored["segments"]:
                before = np.ascontiguousarray(stored["points"][then]).astype(np.uint8, copy=False)
                for now in question.segments:
                    asked = np.ascontiguousarray(question.points[now][:, :PREFIX])
                    common = len(match(before, asked)[0])
                    changed = len(before) + len(asked) - 2 * common
                    if common and 0 < changed < FEW:
                        raise Refusal(
                            "differencing",
                            f"a segment differs from one asked before by fewer than {FEW} identities",
                            hint="the estimate from before still holds; ask again when the segment has changed more",
                        )

    def _charge(self, tx: Connection, question: Question) -> None:
        """Charge epsilon for each segment that one identity can be in."""
        if self._terms.epsilon is None:
            return
        cost = self._terms.epsilon * int(question.segments.sum(axis=0).max(initial=0))
        spent = spent_epsilon(self._project, tx, self._connection.peer_key, self._terms)
        if spent + cost > self._terms.budget:
            raise Refusal(
                "budget",
                f"the budget of this window is spent: {float(spent):g} of {float(self._terms.budget):g}, "
                f"this question costs {float(cost):g}",
                hint=f"ask about fewer segments, or wait: what was spent comes back after {self._terms.window_days} days",
            )
        tx.execute(
            insert(ledger).values(
                id=self._project.node.new_id(),
                project_id=self._project.id,
                peer_key=self._connection.peer_key,
                kind="epsilon_millis",
                amount=-(-1000 * cost.numerator // cost.denominator),
                note=self._namespace,
                at=self._project.node.now(),
            )
        )

    def _seeds(self, secret: bytes, question: Question, index: int) -> tuple[bytes, bytes]:
        """Return what the noise of both counts is drawn from.

        Each seed depends on the very points that are counted. The same set gets the same noise, however it is asked, so
        repeating averages nothing out; any other set gets other noise, also one that differs in a consent bit only.
        """
        epsilon = str(self._terms.epsilon).encode()
        parts = (self._connection.peer_key, self._namespace.encode(), question.universe_digest, epsilon)
        counted = (question.segments[index] & question.consented, question.segments[index] & ~question.consented)
        consented, others = (
            hmac.digest(
                secret,
                length_prefixed(b"vesica/1 noise seed", which, *parts, question.points[mask].tobytes()),
                "sha256",
            )
            for which, mask in zip((b"consented", b"others"), counted, strict=True)
        )
        return consented, others

    def _cache(self, tx: Connection) -> Cache:
        return cache_of(self._project, self._connection, epochs.current(self._project, tx, self._connection))


def sanitise(consented: int, others: int, *, size: int, terms: Terms, seeds: tuple[bytes, bytes]) -> SegmentAnswer:
    """Return what the asker may learn of two disjoint counts: noise, then the floor, the limits and the rounding."""
    if terms.epsilon is not None:
        consented += noise.discrete_laplace(terms.epsilon, noise.Stream(seeds[0]))
        others += noise.discrete_laplace(terms.epsilon, noise.Stream(seeds[1]))
    overlap = consented + others
    if overlap < terms.minimum_overlap or size < min(terms.minimum_segment, noise.SAMPLE_LIMIT):
        return SegmentAnswer(status="below_minimum")
    consented, overlap = (_shown(value, size, terms) for value in (consented, overlap))
    return SegmentAnswer(
        status="ok",
        overlap=overlap,
        consented=consented,
        half_width=noise.quantile(terms.epsilon, 2) if terms.epsilon is not None else 0,
        consented_half_width=noise.quantile(terms.epsilon, 1) if terms.epsilon is not None else 0,
    )


def spent_epsilon(project: "Project", tx: Connection, peer_key: bytes, terms: Terms) -> Fraction:
    """Return what an organisation has used up with this project in the window, whatever the connection."""
    since = project.node.now() - terms.window_days * DAY
    query = select(func.sum(ledger.c.amount)).where(
        ledger.c.project_id == project.id,
        ledger.c.peer_key == peer_key,
        ledger.c.kind == "epsilon_millis",
        ledger.c.at > since,
    )
    return Fraction(int(tx.scalar(query) or 0), 1000)


def _shown(value: int, size: int, terms: Terms) -> int:
    step = DISPLAY_STEP if terms.epsilon is not None else 1
    return min(size, max(0, (value + step // 2) // step * step))


def _waiting(project: "Project", connection: Row[Any], namespace: str) -> list[str]:
    """Return the segments of our newest estimate that waits for this partner to call."""
    with project.node.store.read() as tx:
        query = select(jobs.c.parameters).where(jobs.c.project_id == project.id, jobs.c.kind == JOB)
        for (parameters,) in tx.execute(query.order_by(jobs.c.created.desc())):
            if parameters["connection"] == connection.id and parameters["namespace"] == namespace:
                return list(parameters["segments"])
    raise Refusal("nothing_wanted", "nothing is to be asked")


def _finished(project: "Project", connection: Row[Any], opening: Opening, role: Role) -> None:
    if opening.part is Part.ANSWERER:
        namespace = str(opening.subject["namespace"])
        assert isinstance(role, CountAsker)
        epoch = epoch_of(project, connection, opening.epoch)
        names = _waiting(project, connection, namespace)
        asked = prepare(project, connection, epoch, namespace, names, Snapshot.open(project))
        _keep_answer(project, connection, namespace, asked, role.result)


def answer_wanted(project: "Project", connection: Row[Any], namespace: str, progress: Progress) -> None:
    """Call a partner that cannot call us, to let it ask."""

    def role(number: int) -> Role:
        opening = Opening(
            exchange=bytes(16),
            kind=Kind.COUNT,
            part=Part.ANSWERER,
            connection=bytes.fromhex(connection.id),
            agreement=connection.agreement_digest,
            epoch=number,
            subject={"namespace": namespace},
            nonce=bytes(32),
        )
        return answerer(project, connection, namespace, opening)

    run_exchange(project, connection, {"namespace": namespace}, Kind.COUNT, Part.ANSWERER, role, progress=progress)


ROLES[Kind.COUNT] = _answer
FINISHED[Kind.COUNT] = _finished
JOBS[JOB] = in_turn(_run)
