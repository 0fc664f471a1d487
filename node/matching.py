"""Estimates: what we ask a partner before anything is shared, and what a partner may learn from us.

The answerer's order is fixed: an identical question is answered as before, a question that differs from one by a few
identities is refused, then the budget is charged, then noise, the floor, and the limits are applied to the noised value.
Refusals depend only on what the asker sent and on the ledger.
"""

import hashlib
import hmac
import json
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, Row, delete, func, insert, select, update

from protocol.agreement import Agreement, Terms
from protocol.errors import RemoteProtocolError
from protocol.estimate import CountAnswerer, CountAsker, Question, commit
from protocol.exchange import Opened, Opening, Role
from protocol.letters import Wanted
from protocol.messages import Answer, Commitment, SegmentAnswer, SignedCommitment
from protocol.states import Kind, Part
from psi import count, noise
from psi.errors import InvalidTags, VesicaError
from psi.hashing import length_prefixed
from psi.join import match
from psi.keys import Purpose
from psi.values import U8, Values

from . import decisions, epochs
from .cache import Arrays
from .data import Snapshot
from .epochs import DAY, Epoch
from .errors import Refusal, Refused
from .evaluations import Channel, cache_of, epoch_of, opened
from .exchanges import FAILED, FINISHED, ROLES, run_exchange
from .jobs import HANDLERS as JOBS
from .jobs import Progress
from .tables import answers, connections, estimates, jobs, ledger, universes

if TYPE_CHECKING:
    from .project import Project

JOB = "estimate"
WAITING = {"status": "waiting", "note": "the partner has no address: it is asked when it calls"}
FEW = 50  # a question that differs from an answered one by fewer identities looks like an attempt to subtract
DISPLAY_STEP = 10  # estimates with noise are rounded to this, since the last digit says nothing
PREFIX = 16  # bytes of a point that are kept to compare questions
COMPARED = 64  # answered questions that a new one is compared with, the newest; the default budget allows 40
SLICE = 65_536  # identities compared at once; sums of so many bits are exact in float32


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
    snapshot, row = Snapshot.open(project), project.row()
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
        return WAITING
    made: list[Asked] = []

    def role(number: int) -> Role:
        made.append(prepare(project, connection, epoch_of(project, connection, number), namespace, names, snapshot))
        return _asker(project, connection, number, namespace, made[-1])

    run_exchange(
        project,
        connection,
        {"namespace": namespace},
        Kind.COUNT,
        Part.ASKER,
        role,
        inputs=length_prefixed(
            repr((snapshot.generation, row.consent_model, row.hide_unconsented)).encode(),
            *(each.encode() for each in names),
        ),
        keep=lambda answer: _keep_answer(project, connection, namespace, made[-1], answer),
        progress=progress,
    )
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
    """Refuse a partner that shows us too many universes: each new one lets it compare us under another set.

    Those of an epoch that it ended early count on, and those of earlier connections with it.
    """
    terms = Agreement.decode(connection.agreement).terms
    now, digest = project.node.now(), commitment.universe_digest()
    with project.node.store.begin() as tx:
        since = epochs.counted_since(project, tx, connection)
        query = (
            select(universes)
            .join(connections, connections.c.id == universes.c.connection_id)
            .where(
                connections.c.project_id == project.id,
                connections.c.peer_key == connection.peer_key,
                connections.c.peer_project == connection.peer_project,
                universes.c.namespace == namespace,
                ~universes.c.ours,
            )
        )
        every = tx.execute(query).all()
        ours = [row for row in every if row.connection_id == connection.id]
        rows = [row for row in ours if row.epoch == commitment.epoch]
        if any(row.digest == digest for row in rows):
            return
        if any(row.generation == commitment.generation for row in rows):
            raise RemoteProtocolError("commitment", "the partner shows another universe under the same number")
        newest = max((row.created for row in ours if row.created >= since), default=None)
        if newest is not None and now - newest < DAY - SKEW_SECONDS:
            raise RemoteProtocolError("commitment", "the partner shows a second new universe within a day")
        if sum(row.created >= since for row in every) >= terms.generations:
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
            tx.execute(  # a kill may have come after it was kept
                delete(estimates).where(
                    estimates.c.connection_id == connection.id,
                    estimates.c.segment == name,
                    estimates.c.namespace == namespace,
                    estimates.c.at == answer.computed_at,
                )
            )
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
                    at=min(answer.computed_at, project.node.now()),  # a partner cannot make it look younger
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
        rounding = -(-DISPLAY_STEP // 2 * max(size, 1) // max(sampled, 1))
        numbers["half_width"] += rounding
        numbers["consented_half_width"] += rounding
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
        asked = _asked(project, connection, namespace, opening)
        return opened(project, opening), _asker(project, connection, opening.epoch, namespace, asked)
    return opened(project, opening), answerer(project, connection, namespace, opening)


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One universe of ours, as a partner is shown it."""

    number: int
    universe: count.Universe
    commitment: SignedCommitment


def answerer(project: "Project", connection: Row[Any], namespace: str, opening: Opening) -> Role:
    """Make the role that answers a count, from the universe generation that this exchange began with."""
    epoch = epoch_of(project, connection, opening.epoch)
    channel = Channel.of(project, connection, epoch, namespace, protocol="count", outward=False)
    cache, pin = cache_of(project, connection, epoch), _pin(opening)
    pinned = cache.load(pin)
    if pinned is not None:
        return _answerer(project, connection, channel, _generation(project, connection, channel, int(pinned["number"])))
    newest = _newest(project, connection, channel)
    cache.save(pin, number=np.array(newest.number))
    return _answerer(project, connection, channel, newest)


def _answerer(project: "Project", connection: Row[Any], channel: Channel, generation: Generation) -> Role:
    return CountAnswerer(
        context=channel.context,
        direction=channel.direction,
        epoch=channel.epoch.number,
        universe=generation.universe,
        key=channel.key(Purpose.COUNT_ANSWER),
        commitment=generation.commitment,
        sanitise=Sanitiser(project, connection, channel).answer,
    )


def _newest(project: "Project", connection: Row[Any], channel: Channel) -> Generation:
    """Return the newest generation, or a new one if our people changed and the last is a day old."""
    terms = Agreement.decode(connection.agreement).terms
    cache, now = cache_of(project, connection, channel.epoch), project.node.now()
    snapshot = Snapshot.open(project)
    rows = _generations(project, connection, channel)
    if rows:
        newest = rows[-1]
        final = now - newest.created < DAY or len(rows) >= terms.generations
        stored = cache.load(_universe_file(channel, newest.digest))
        if stored is not None and (final or int(stored["data"]) == snapshot.generation):
            return _made(newest, stored)
        if final:
            raise _lost()
    values, _ = decisions.universe(snapshot, channel.namespace)
    if len(values) < terms.minimum_universe:
        raise Refusal("below_minimum", f"this side has fewer than the {terms.minimum_universe:,} identities agreed on")
    people = _people(values)
    if rows and stored is not None and stored["people"].tobytes() == people:
        return _made(newest, stored)  # what changed was something else
    universe = count.build_universe(channel.context, values, channel.key(Purpose.COUNT_ANSWER), project.node.random)
    number = rows[-1].generation + 1 if rows else 1
    signed = commit(
        universe,
        context=channel.context,
        epoch=channel.epoch.number,
        generation=number,
        made=now,
        sign=project.node.sign,
    )
    digest = signed.commitment.universe_digest()
    cache.save(
        _universe_file(channel, digest),
        points=universe.points,
        canaries=universe.canaries,
        size=np.array(universe.size),
        data=np.array(snapshot.generation),
        people=np.frombuffer(people, np.uint8),
    )
    with project.node.store.begin() as tx:
        taken = [row for row in _generations(project, connection, channel, tx) if row.generation >= number]
        if not taken:
            tx.execute(
                insert(universes).values(
                    id=project.node.new_id(),
                    connection_id=connection.id,
                    ours=True,
                    namespace=channel.namespace,
                    epoch=channel.epoch.number,
                    generation=number,
                    digest=digest,
                    commitment=signed.encode(),
                    count=len(universe.points),
                    created=now,
                )
            )
    if taken:  # an opening beside this one was faster
        cache.drop(_universe_file(channel, digest))
        return _generation(project, connection, channel, taken[0].generation)
    return Generation(number=number, universe=universe, commitment=signed)


def _generation(project: "Project", connection: Row[Any], channel: Channel, number: int) -> Generation:
    """Return the generation of that number; refused where its points are gone."""
    for row in _generations(project, connection, channel):
        if row.generation == number:
            stored = cache_of(project, connection, channel.epoch).load(_universe_file(channel, row.digest))
            if stored is not None:
                return _made(row, stored)
    raise _lost()


def _generations(
    project: "Project", connection: Row[Any], channel: Channel, tx: Connection | None = None
) -> list[Row[Any]]:
    """Return the rows of the generations that this partner was shown in this epoch, oldest first."""
    if tx is None:
        with project.node.store.read() as reading:
            return _generations(project, connection, channel, reading)
    query = select(universes).where(
        universes.c.connection_id == connection.id,
        universes.c.ours,
        universes.c.namespace == channel.namespace,
        universes.c.epoch == channel.epoch.number,
    )
    return list(tx.execute(query.order_by(universes.c.generation)))


def _made(row: Row[Any], stored: Arrays) -> Generation:
    universe = count.Universe(
        points=stored["points"].astype(np.uint8, copy=False),
        canaries=stored["canaries"].astype(np.uint8, copy=False),
        size=int(stored["size"]),
    )
    return Generation(number=row.generation, universe=universe, commitment=SignedCommitment.decode(row.commitment))


def _lost() -> Refusal:
    return Refusal("universe_lost", "the universe of this epoch is gone; a new one is shown a day after the last")


def _universe_file(channel: Channel, digest: bytes) -> str:
    return f"universe {channel.namespace} {digest.hex()[:32]}"


def _pin(opening: Opening) -> str:
    return f"generation {opening.exchange.hex()}"


def _people(values: Values) -> bytes:
    """Return what tells two sets of identities apart (32 bytes)."""
    lengths = b"" if values.lengths is None else values.lengths.tobytes()
    return hashlib.sha256(length_prefixed(values.rows.tobytes(), lengths)).digest()


class Sanitiser:
    """Turns the true numbers of one question into what the asker may learn, and charges for it."""

    def __init__(self, project: "Project", connection: Row[Any], channel: Channel) -> None:
        self._project, self._connection, self._namespace = project, connection, channel.namespace
        self._terms = Agreement.decode(connection.agreement).terms
        self._cache = cache_of(project, connection, channel.epoch)

    def answer(self, question: Question) -> Answer:
        """Return the answer to a question; the same question gets the same numbers, free of charge.

        All that takes long happens before the transaction that charges.
        """
        project, now = self._project, self._project.node.now()
        file = f"{self._beginning(question)}{question.digest.hex()}"
        with project.node.store.read() as tx:
            known = self._known(tx, question)
        refusal = None if known is not None else self._differing(question)
        answer = self._sanitised(question, now)
        if known is None and refusal is None:
            segments = np.packbits(question.segments, axis=1)
            self._cache.save(file, points=question.points[:, :PREFIX], segments=segments)
        target = f"{self._connection.alias} {self._namespace}"
        with project.act("estimate.answer", target, actor=self._connection.alias) as tx:
            known = self._known(tx, question)
            if known is not None:  # nothing changed on either side: the numbers are as good as new
                return replace(Answer.decode(known), computed_at=now)
            if refusal is not None:
                raise refusal
            self._charge(tx, question)
            tx.execute(
                insert(answers).values(
                    id=project.node.new_id(),
                    connection_id=self._connection.id,
                    question=question.digest,
                    answer=answer.encode(),
                    points=file,
                    at=now,
                )
            )
        return answer

    def _known(self, tx: Connection, question: Question) -> bytes | None:
        query = select(answers.c.answer).where(
            answers.c.connection_id == self._connection.id, answers.c.question == question.digest
        )
        known: bytes | None = tx.scalar(query)
        return known

    def _sanitised(self, question: Question, now: int) -> Answer:
        secret = self._project.node.secrets.unwrap(self._project.row().count_secret, b"count")
        return Answer(
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
            computed_at=now,
        )

    def _beginning(self, question: Question) -> str:
        """Return how the files of questions begin that can have points in common with this one.

        An honest asker's key hangs on the universe: points asked against another one are all different.
        """
        return f"question {self._namespace} {question.universe_digest.hex()[:32]} "

    def _differing(self, question: Question) -> Refusal | None:
        """Return the refusal of a question that has a segment a few identities away from one answered before."""
        kept = (
            answers.c.connection_id == self._connection.id,
            answers.c.points.startswith(self._beginning(question), autoescape=True),
        )
        with self._project.node.store.read() as tx:
            files = tx.scalars(
                select(answers.c.points).where(*kept).order_by(answers.c.at.desc()).limit(COMPARED)
            ).all()
        asked = np.ascontiguousarray(question.points[:, :PREFIX])
        for file in files:
            stored = self._cache.load(file)
            if stored is None:
                continue
            before = stored["points"].astype(np.uint8, copy=False)
            segments = np.unpackbits(stored["segments"].astype(np.uint8, copy=False), axis=1, count=len(before))
            places, found = match(before, asked)
            common = _in_both(segments[:, places], question.segments[:, found])
            changed = segments.sum(axis=1, dtype=np.int64)[:, None] + question.sizes[None] - 2 * common
            if ((common > 0) & (changed > 0) & (changed < FEW)).any():
                return Refusal(
                    "differencing",
                    f"a segment differs from one asked before by fewer than {FEW} identities",
                    hint="the estimate from before still holds; ask again when the segment has changed more",
                )
        return None

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


def _in_both(first: decisions.Bools | U8, second: decisions.Bools) -> npt.NDArray[np.int64]:
    """Return for each row of (k, n) and each of (l, n) how many of the n are in both, as (k, l)."""
    common = np.zeros((len(first), len(second)), np.int64)
    for start in range(0, first.shape[1], SLICE):
        part = slice(start, start + SLICE)
        common += (first[:, part].astype(np.float32) @ second[:, part].astype(np.float32).T).astype(np.int64)
    return common


def sanitise(consented: int, others: int, *, size: int, terms: Terms, seeds: tuple[bytes, bytes]) -> SegmentAnswer:
    """Return what the asker may learn of two disjoint counts: noise, then the floor, the limits and the rounding."""
    if terms.epsilon is not None:
        consented += noise.discrete_laplace(terms.epsilon, noise.Stream(seeds[0]))
        others += noise.discrete_laplace(terms.epsilon, noise.Stream(seeds[1]))
    overlap = consented + others
    if overlap < terms.minimum_overlap or size < min(terms.minimum_segment, noise.SAMPLE_LIMIT):
        return SegmentAnswer(status="below_minimum")
    consented, overlap = (_shown(value, size, terms) for value in (consented, max(consented, overlap)))
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


def _asked(project: "Project", connection: Row[Any], namespace: str, opening: Opening) -> Asked:
    """Return what this exchange asks, which a partner without an address opened: fixed by our newest estimate."""
    epoch = epoch_of(project, connection, opening.epoch)
    cache, name = cache_of(project, connection, epoch), f"asked {opening.exchange.hex()}"
    stored = cache.load(name)
    if stored is not None:
        words = json.loads(stored["words"].tobytes())
        audience = decisions.Audience(
            values=_read_values(stored),
            segments=stored["segments"].astype(np.bool_, copy=False),
            consented=stored["consented"].astype(np.bool_, copy=False),
        )
        return Asked(names=words["names"], too_small=[], audience=audience, sizes=words["sizes"])
    wanted, names = _waiting(project, connection, namespace)
    asked = prepare(project, connection, epoch, namespace, names, Snapshot.open(project))
    if not asked.names:
        raise Refusal("nothing_wanted", "nothing is to be asked")
    words = json.dumps({"names": asked.names, "sizes": asked.sizes, "wanted": wanted}).encode()
    values = asked.audience.values
    arrays = {"rows": values.rows, "segments": asked.audience.segments, "consented": asked.audience.consented}
    if values.lengths is not None:
        arrays["lengths"] = values.lengths
    cache.save(name, words=np.frombuffer(words, np.uint8), **arrays)
    return asked


def _read_values(stored: Arrays) -> Values:
    lengths = stored.get("lengths")
    return Values(
        stored["rows"].astype(np.uint8, copy=False), None if lengths is None else lengths.astype(np.uint8, copy=False)
    )


def _waiting(project: "Project", connection: Row[Any], namespace: str) -> tuple[list[str], list[str]]:
    """Return the segments of our newest estimate that waits for this partner to call, and those still shared with it."""
    if not connection.peer_address:
        with project.node.store.read() as tx:
            for row in _waiting_jobs(project, tx, connection, namespace):
                shared = project.feeds.shared_with(connection.id, namespace, tx)
                names = [name for name in row.parameters["segments"] if name in shared]
                if names:
                    return row.parameters["segments"], names
    raise Refusal("nothing_wanted", "nothing is to be asked")


def _waiting_jobs(project: "Project", tx: Connection, connection: Row[Any], namespace: str) -> list[Row[Any]]:
    """Return our estimates that this partner has not called for yet, newest first."""
    query = select(jobs).where(jobs.c.project_id == project.id, jobs.c.kind == JOB, jobs.c.state == "done")
    return [
        row
        for row in tx.execute(query.order_by(jobs.c.created.desc(), jobs.c.id.desc()))
        if row.parameters["connection"] == connection.id
        and row.parameters["namespace"] == namespace
        and row.result == WAITING
    ]


def _finished(project: "Project", connection: Row[Any], opening: Opening, role: Role) -> None:
    cache = cache_of(project, connection, epoch_of(project, connection, opening.epoch))
    if opening.part is Part.ANSWERER:
        namespace = str(opening.subject["namespace"])
        assert isinstance(role, CountAsker)
        _keep_answer(project, connection, namespace, _asked(project, connection, namespace, opening), role.result)
        stored = cache.load(f"asked {opening.exchange.hex()}")
        wanted = None if stored is None else json.loads(stored["words"].tobytes())["wanted"]
        with project.node.store.begin() as tx:  # another estimate, of other segments, waits on
            for row in _waiting_jobs(project, tx, connection, namespace):
                if row.parameters["segments"] == wanted:
                    tx.execute(update(jobs).where(jobs.c.id == row.id).values(result={"status": "done"}))
        cache.drop(f"asked {opening.exchange.hex()}")
    else:
        cache.drop(_pin(opening))


def answer_wanted(project: "Project", connection: Row[Any], namespace: str, progress: Progress) -> None:
    """Call a partner that cannot call us, to let it ask; an exchange goes on only from the universe it began with."""

    def chosen(epoch: Epoch) -> tuple[Channel, Generation]:
        channel = Channel.of(project, connection, epoch, namespace, protocol="count", outward=False)
        return channel, _newest(project, connection, channel)

    def role(number: int) -> Role:
        channel, generation = (
            first if number == first[0].epoch.number else chosen(epoch_of(project, connection, number))
        )
        return _answerer(project, connection, channel, generation)

    with project.node.store.begin() as tx:
        epoch = epochs.current(project, tx, connection)
    first = chosen(epoch)
    run_exchange(
        project,
        connection,
        {"namespace": namespace},
        Kind.COUNT,
        Part.ANSWERER,
        role,
        inputs=first[1].commitment.commitment.universe_digest(),
        progress=progress,
    )


def _caught(project: "Project", tx: Connection, connection: Row[Any], opening: Opening, error: VesicaError) -> None:
    """Let a partner whose tags were wrong spend its whole budget: an honest one cannot get there, a prober gets one try."""
    terms = Agreement.decode(connection.agreement).terms
    if opening.part is Part.ASKER and error.code in (InvalidTags.code, "tags") and terms.epsilon is not None:
        tx.execute(
            insert(ledger).values(
                id=project.node.new_id(),
                project_id=project.id,
                peer_key=connection.peer_key,
                kind="epsilon_millis",
                amount=-(-1000 * terms.budget.numerator // terms.budget.denominator),
                note="tags were wrong",
                at=project.node.now(),
            )
        )


ROLES[Kind.COUNT] = _answer
FAILED[Kind.COUNT] = _caught
FINISHED[Kind.COUNT] = _finished
JOBS[JOB] = _run
