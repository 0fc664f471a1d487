"""Counts with partners: what we ask before anything is shared, and how we answer what they ask."""

import hashlib
import hmac
import json
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import Connection, Row, delete, insert, select, update

from protocol.agreement import Agreement
from protocol.errors import HINTS
from protocol.estimate import MAX_ASKED, CountAnswerer, CountAsker
from protocol.exchange import Opened, Opening, Role
from protocol.letters import Wanted
from protocol.messages import Answer, SegmentAnswer
from protocol.states import Kind, Part
from psi import noise
from psi.errors import InvalidTags, VesicaError
from psi.hashing import length_prefixed
from psi.keys import Purpose
from psi.values import Bools, Values

from ...errors import Refusal, Refused
from ...exchanges.exchanges import FAILED, FINISHED, ROLES, run_exchange
from ...operations.jobs import HANDLERS as JOBS
from ...operations.jobs import Progress
from ...partners import key_epochs
from ...partners.key_epochs import Epoch
from ...people import audiences
from ...people.data import Snapshot
from ...storage.tables import DAY, connections, estimates, jobs
from ..evaluations import Channel, cache_of, epoch_of, opened
from . import disclosure, universes

if TYPE_CHECKING:
    from ...project import Project

JOB = "estimate"
WAITING = {"status": "waiting", "note": "the partner has no address: it is asked when it calls"}


# Asking


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
    project: "Project",
    connection: Row[Any],
    epoch: Epoch,
    namespace: str,
    names: list[str],
    snapshot: Snapshot,
) -> Asked:
    """Choose what to ask: at most 65,536 identities of a segment, the same ones throughout an epoch."""
    project.check_not_on_hold()
    terms = Agreement.decode(connection.agreement).terms
    row = project.row()
    members = [project.segments.members(name, snapshot) for name in names]
    qualified = project.consent_policies.qualified(names, snapshot)
    audience = audiences.audience(snapshot, namespace, members, model=row.consent_model, qualified=qualified).as_one()
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
        epoch = key_epochs.current(project, tx, connection)
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
            hashlib.sha256(asked.audience.consented.tobytes()).digest(),  # consent policies are in no generation
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
        check_universe=lambda commitment: universes.check_shown(project, connection, namespace, commitment),
        peer_key=connection.peer_key,
    )


def _keep_answer(project: "Project", connection: Row[Any], namespace: str, asked: Asked, answer: Answer) -> None:
    epsilon = Agreement.decode(connection.agreement).terms.epsilon
    at = min(answer.computed_at, project.node.now())  # a partner cannot make it look younger
    with project.node.store.begin() as tx:
        if answer.budget_spent is not None:
            told = {"spent": answer.budget_spent, "at": project.node.now()}
            tx.execute(update(connections).where(connections.c.id == connection.id).values(budget=told))
        for index, name in enumerate(asked.names):
            numbers = _scaled(answer.segments[index], asked.sizes[index], asked.sampled(index), epsilon)
            known = (bytes.fromhex(connection.id), namespace.encode(), name.encode(), answer.encode())
            estimate_id = hashlib.sha256(length_prefixed(*known)).hexdigest()[:32]
            tx.execute(delete(estimates).where(estimates.c.id == estimate_id))  # a kill may have come after it was kept
            tx.execute(
                insert(estimates).values(
                    id=estimate_id,
                    connection_id=connection.id,
                    segment=name,
                    namespace=namespace,
                    status=answer.segments[index].status,
                    detail={
                        "size": asked.sizes[index],
                        "sampled": asked.sampled(index),
                        "epsilon": str(epsilon) if epsilon is not None else None,
                    },
                    at=at,
                    **numbers,
                )
            )


def budget(project: "Project", connection: Row[Any]) -> dict[str, Any] | None:
    """Return how much epsilon we have left with a partner in a window, by the word that came with its last answer.

    None where counts have no noise. `left` is None before the first answer of this connection.
    """
    terms = Agreement.decode(connection.agreement).terms
    if terms.epsilon is None:
        return None
    told = connection.budget or {"spent": None, "at": None}
    left = None
    if told["spent"] is not None:
        over = told["at"] + terms.window_days * DAY <= project.node.now()  # all of it has come back
        left = str(terms.budget if over else max(terms.budget - Fraction(told["spent"], 1000), 0))
    return {"left": left, "of": str(terms.budget), "window_days": terms.window_days, "at": told["at"]}


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
        rounding = -(-disclosure.DISPLAY_STEP // 2 * max(size, 1) // max(sampled, 1))
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
        raise Refusal("namespace", "this namespace was not agreed on", hint=HINTS["namespace"])
    if opening.part is Part.ANSWERER:  # they call because we have no address for them
        asked = _asked(project, connection, namespace, opening)
        return opened(project, opening), _asker(project, connection, opening.epoch, namespace, asked)
    return opened(project, opening), answerer(project, connection, namespace, opening)


def answerer(project: "Project", connection: Row[Any], namespace: str, opening: Opening) -> Role:
    """Make the role that answers a count, from the universe generation that this exchange began with."""
    epoch = epoch_of(project, connection, opening.epoch)
    channel = Channel.of(project, connection, epoch, namespace, protocol="count", outward=False)
    cache, pin = cache_of(project, connection, epoch), _pin(opening)
    pinned = cache.load(pin)
    if pinned is not None:
        return _answerer(
            project, connection, channel, universes.numbered(project, connection, channel, int(pinned["number"]))
        )
    newest = universes.newest(project, connection, channel)
    cache.save(pin, number=np.array(newest.number))
    return _answerer(project, connection, channel, newest)


def _answerer(project: "Project", connection: Row[Any], channel: Channel, generation: universes.Generation) -> Role:
    sanitiser = disclosure.Sanitiser(project, connection, channel, generation.number)
    return CountAnswerer(
        context=channel.context,
        direction=channel.direction,
        epoch=channel.epoch.number,
        universe=generation.universe,
        key=generation.key,
        commitment=generation.commitment,
        check_asker=sanitiser.check_asker,
        sanitise=sanitiser.answer,
    )


def _asked(project: "Project", connection: Row[Any], namespace: str, opening: Opening) -> Asked:
    """Return what this exchange asks, which a partner without an address opened: fixed by our newest estimate."""
    epoch = epoch_of(project, connection, opening.epoch)
    cache, name = cache_of(project, connection, epoch), f"asked {opening.exchange.hex()}"
    stored = cache.load(name)
    if stored is not None:
        words = json.loads(stored["words"].tobytes())
        audience = audiences.Audience(
            values=Values.of_arrays(stored),
            segments=stored["segments"].astype(np.bool_, copy=False),
            consented=stored["consented"].astype(np.bool_, copy=False),
        )
        return Asked(names=words["names"], too_small=[], audience=audience, sizes=words["sizes"])
    wanted, names = _waiting(project, connection, namespace)
    asked = prepare(project, connection, epoch, namespace, names, Snapshot.open(project))
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


def _waiting(project: "Project", connection: Row[Any], namespace: str) -> tuple[list[str], list[str]]:
    """Return the segments of our newest estimate that waits for this partner to call, and those still shared with it."""
    if not connection.peer_address:
        with project.node.store.read() as tx:
            for row in _waiting_jobs(project, tx, connection, namespace):
                shared = project.feeds.shared_with(connection.id, namespace, tx)
                names = [name for name in row.parameters["segments"] if name in shared]
                if names:
                    return row.parameters["segments"], names
    raise _nothing_wanted()


def _nothing_wanted() -> Refusal:
    return Refusal(
        "nothing_wanted", "nothing is to be asked", hint="who is called asks for it first: vesica feed estimate"
    )


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


def _pin(opening: Opening) -> str:
    return f"generation {opening.exchange.hex()}"


def answer_wanted(project: "Project", connection: Row[Any], namespace: str, progress: Progress) -> None:
    """Call a partner that cannot call us, to let it ask; an exchange goes on only from the universe it began with."""

    def chosen(epoch: Epoch) -> tuple[Channel, universes.Generation]:
        channel = Channel.of(project, connection, epoch, namespace, protocol="count", outward=False)
        return channel, universes.newest(project, connection, channel)

    def role(number: int) -> Role:
        channel, generation = (
            first if number == first[0].epoch.number else chosen(epoch_of(project, connection, number))
        )
        return _answerer(project, connection, channel, generation)

    with project.node.store.begin() as tx:
        epoch = key_epochs.current(project, tx, connection)
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


def _caught(project: "Project", tx: Connection, connection: Row[Any], part: Part, error: VesicaError) -> None:
    if part is Part.ANSWERER and error.code in (InvalidTags.code, "tags"):
        disclosure.caught(project, tx, connection)


ROLES[Kind.COUNT] = _answer
FAILED[Kind.COUNT] = _caught
FINISHED[Kind.COUNT] = _finished
JOBS[JOB] = _run
