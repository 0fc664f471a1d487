"""Counts that partners ask us for: answered from a universe of ours, by the rules of disclosure."""

import numpy as np

from protocol.estimate import CountAnswerer
from protocol.exchange import Opening, Role
from protocol.states import Kind, Part
from psi.errors import InvalidTags, VesicaError

from ...access.scope import Scope
from ...exchanges.channels import Channel, cache_of, epoch_of, namespace_of, running_epoch
from ...exchanges.handlers import Handler, Subject
from ...exchanges.opening import Plan, run_exchange
from ...operations.jobs import Progress
from ...partners.connections import Connection
from ...storage.cache import Epoch
from ...storage.database import Tx
from ...storage.ids import stored_id
from . import disclosure, universes


def _answer(scope: Scope, connection: Connection, opening: Opening) -> Role:
    return answerer(scope, connection, namespace_of(connection, opening), opening)


def answerer(scope: Scope, connection: Connection, namespace: str, opening: Opening) -> Role:
    """Make the role that answers a count, from the universe generation that this exchange began with."""
    epoch = epoch_of(scope, connection, opening.epoch)
    channel = Channel.of(scope, connection, epoch, namespace, protocol="count", outward=False)
    cache, pin = cache_of(scope, connection, epoch), _pin(opening)
    pinned = cache.load(pin)
    if pinned is not None:
        return _answerer(
            scope, connection, channel, universes.numbered(scope, connection, channel, int(pinned["number"]))
        )
    newest = universes.newest(scope, connection, channel)
    cache.save(pin, number=np.array(newest.number))
    return _answerer(scope, connection, channel, newest)


def _answerer(scope: Scope, connection: Connection, channel: Channel, generation: universes.Generation) -> Role:
    sanitiser = disclosure.Sanitiser(scope, connection, channel, generation.number)
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


def _open(scope: Scope, connection: Connection, subject: Subject, progress: Progress) -> None:
    """Call a partner that cannot call us, to let it ask; an exchange is resumed only with the universe it began with."""
    namespace = str(subject["namespace"])

    def chosen(epoch: Epoch) -> tuple[Channel, universes.Generation]:
        channel = Channel.of(scope, connection, epoch, namespace, protocol="count", outward=False)
        return channel, universes.newest(scope, connection, channel)

    def role(epoch_number: int) -> Role:
        channel, generation = first
        if epoch_number != channel.epoch.number:
            channel, generation = chosen(epoch_of(scope, connection, epoch_number))
        return _answerer(scope, connection, channel, generation)

    first = chosen(running_epoch(scope, connection))
    plan = Plan(
        kind=Kind.COUNT,
        part=Part.ANSWERER,
        subject={"namespace": namespace},
        role=role,
        inputs=first[1].commitment.commitment.universe_digest(),
    )
    run_exchange(scope, connection, plan, progress)


def _finished(scope: Scope, connection: Connection, opening: Opening, _: None) -> None:
    cache_of(scope, connection, epoch_of(scope, connection, opening.epoch)).drop(_pin(opening))


def _caught(scope: Scope, tx: Tx, connection: Connection, error: VesicaError) -> None:
    if error.code in (InvalidTags.code, "tags"):
        disclosure.caught(scope, tx, connection)


def _pin(opening: Opening) -> str:
    return f"generation {stored_id(opening.exchange)}"


ANSWERER = Handler(answer=_answer, open=_open, finished=_finished, failed=_caught)
