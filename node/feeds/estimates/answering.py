"""Counts that partners ask us for: answered from a universe of ours, by the rules of disclosure."""

from protocol import messages
from protocol.estimate import CountAnswerer, Question, most_asked
from protocol.exchange import Opening, Role
from protocol.states import Kind, Part
from psi.errors import InvalidTags, VesicaError

from ...access.scope import Scope
from ...compute.engines import engine_of
from ...exchanges import http
from ...exchanges.channels import Channel, epoch_of, namespace_of, running_epoch
from ...exchanges.handlers import Handler, PreparedRole, Subject
from ...exchanges.opening import Plan, run_exchange
from ...operations.jobs import Progress
from ...partners import connections
from ...partners.connections import Connection
from ...storage.cache import Epoch
from ...storage.database import Tx
from . import disclosure, universes


def _answer(scope: Scope, connection: Connection, opening: Opening, inputs: bytes | None) -> PreparedRole:
    """Answer a count from the universe that this exchange began with, or the newest."""
    epoch = epoch_of(scope, connection, opening.epoch)
    channel = Channel.of(scope, connection, epoch, namespace_of(connection, opening), protocol="count", outward=False)
    if inputs is None:
        generation = universes.newest(scope, connection, channel)
    else:
        generation = universes.of_digest(scope, connection, channel, inputs)
    return PreparedRole(_answerer(scope, connection, channel, generation), generation.digest)


def _answerer(scope: Scope, connection: Connection, channel: Channel, generation: universes.Generation) -> Role:
    sanitiser = disclosure.Sanitiser(scope, connection, channel, generation.number)

    def answer(question: Question) -> messages.Answer:
        """Answer under the terms in force and from the people of today, however long ago the exchange began."""
        if connections.by_id(scope, connection.id).agreement_digest != connection.agreement_digest:
            raise http.over()
        universes.check_fresh(scope, connection, channel, generation)
        return sanitiser.answer(question)

    return CountAnswerer(
        context=channel.context,
        direction=channel.direction,
        epoch=channel.epoch.number,
        universe=generation.universe,
        key=generation.key,
        commitment=generation.commitment,
        check_asker=sanitiser.check_asker,
        sanitise=answer,
        most=most_asked(connection.terms),
        engine=engine_of(scope.home),
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
        inputs=first[1].digest,
    )
    run_exchange(scope, connection, plan, progress)


def _caught(scope: Scope, tx: Tx, connection: Connection, error: VesicaError) -> None:
    if error.code in (InvalidTags.code, "tags"):
        disclosure.caught(scope, tx, connection)


ANSWERER = Handler(answer=_answer, open=_open, failed=_caught)
