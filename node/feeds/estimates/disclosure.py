"""What a partner may learn of a count, and what it is charged.

The order of the rules is fixed: an identical question is answered as before, one that the budget does not cover is refused,
then one that differs from an answered one by a few identities. Only then is anything counted. Noise comes before the
floor and the limits, which are applied to the noised value. Refusals depend only on what the asker sent and on the ledger.

The charge and the stored answer are one transaction, in which the budget and what was asked meanwhile are looked at again.
"""

import hmac
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from sqlalchemy import insert, select, update

from protocol.agreement import Terms
from protocol.estimate import MAX_ASKED, Question
from protocol.messages import Answer, SegmentAnswer
from psi import noise
from psi.hashing import length_prefixed
from psi.join import match
from psi.values import U8, Bools

from ...access.scope import Scope
from ...errors import RefusedToPartner
from ...exchanges.channels import Channel, cache_of
from ...partners import windows
from ...partners.connections import Connection
from ...storage.database import Tx
from ...storage.tables import answers, universes
from .. import ledger
from .numbers import DISPLAY_STEP
from .records import EstimateStatus, question_files

FEW = 50  # a question that differs from an answered one by fewer identities looks like an attempt to subtract
PREFIX = 16  # bytes of a point that are kept to compare questions
COMPARED = 64  # questions that are answered from one universe, each compared with all; the default budget allows 40
SLICE = 65_536  # identities compared at once; sums of so many bits are exact in float32


class Sanitiser:
    """Turns the true numbers of one question into what the asker may learn, and charges for it."""

    def __init__(self, scope: Scope, connection: Connection, channel: Channel, generation: int) -> None:
        """`generation` is the number of the universe that the questions are about."""
        self._scope, self._connection, self._namespace = scope, connection, channel.namespace
        self._epoch, self._generation = channel.epoch.number, generation
        self._terms = connection.terms
        self._cache = cache_of(scope, connection, channel.epoch)

    def check_asker(self, digest: bytes) -> None:
        """Refuse an asker whose tags were wrong before, or who comes to one universe with a second key or other tags.

        `digest` is over both. An honest asker derives them from the universe. Questions under several keys could not be
        compared; noise depends on what is asked, so two answers under other tags would differ by the tags alone.
        """
        universe = (
            universes.c.connection_id == self._connection.id,
            universes.c.ours,
            universes.c.namespace == self._namespace,
            universes.c.epoch == self._epoch,
            universes.c.generation == self._generation,
        )
        with self._scope.begin() as tx:
            self._check_not_caught(tx)
            tx.execute(update(universes).where(*universe, universes.c.asker.is_(None)).values(asker=digest))
            if tx.scalar(select(universes.c.asker).where(*universe)) != digest:
                raise RefusedToPartner(
                    "another_key",
                    "this universe was asked about under another key, or with other tags",
                    hint="after a restore from a copy, ask again when the partner has a new universe",
                )

    def answer(self, question: Question) -> Answer:
        """Return the answer to a question; the same question gets the same numbers, free of charge.

        All that takes long happens before the transaction that charges, and not for a question that is refused; only
        questions that came in between are compared inside it.
        """
        scope, now = self._scope, self._scope.home.now()
        file = f"{self._beginning(question)}{question.digest.hex()}"
        target = f"{self._connection.alias} {self._namespace}"
        with scope.read() as tx:
            known, before = self._known(tx, question), self._asked_before(tx, question)
            refusal = None if known is not None else self._above_limits(tx, question, before)
        answer = None
        if known is None and refusal is None:
            refusal = self._differing(question, before)
        if known is None and refusal is None:
            answer = self._sanitised(question, now)
            segments = np.packbits(question.segments, axis=1)
            self._cache.save(file, points=question.points[:, :PREFIX], segments=segments)
        with scope.act("estimate.answer", target, actor=self._connection.alias) as tx:
            known = self._known(tx, question)
            if known is not None:  # nothing changed on either side: the numbers are as good as new
                return replace(Answer.decode(known), computed_at=now, budget_spent=self._spent(tx))
            files = self._asked_before(tx, question)
            refusal = refusal or self._above_limits(tx, question, files)
            refusal = refusal or self._differing(question, [each for each in files if each not in before])
            if refusal is not None:
                self._cache.drop(file)  # or refused questions would fill the disk
                raise refusal
            assert answer is not None
            self._charge(tx, question)
            tx.execute(
                insert(answers).values(
                    id=scope.home.new_id(),
                    connection_id=self._connection.id,
                    question=question.digest,
                    answer=answer.encode(),
                    points=file,
                    sizes=question.sizes.tolist(),
                    at=now,
                )
            )
            return replace(answer, budget_spent=self._spent(tx))

    def _known(self, tx: Tx, question: Question) -> bytes | None:
        query = select(answers.c.answer).where(
            answers.c.connection_id == self._connection.id, answers.c.question == question.digest
        )
        known: bytes | None = tx.scalar(query)
        return known

    def _sanitised(self, question: Question, now: int) -> Answer:
        secret = self._scope.home.keys.unwrap(self._scope.row().count_secret, b"count")
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
        """Return how the names of the files of questions begin that can have points in common with this one.

        An honest asker's key depends on the universe: points asked against another one are all different.
        """
        return question_files(self._namespace, question.universe_digest)

    def _asked_before(self, tx: Tx, question: Question) -> list[str]:
        """Return the files of the questions that were answered from the same universe."""
        query = select(answers.c.points).where(
            answers.c.connection_id == self._connection.id,
            answers.c.points.startswith(self._beginning(question), autoescape=True),
        )
        return sorted(tx.scalars(query))

    def _differing(self, question: Question, files: list[str]) -> RefusedToPartner | None:
        """Return the refusal of a question that has a segment a few identities away from one answered before."""
        asked = np.ascontiguousarray(question.points[:, :PREFIX])
        for file in files:
            stored = self._cache.load(file)
            if stored is None:
                return RefusedToPartner(
                    "universe_lost", "what was asked before cannot be compared any more", hint="ask again in a day"
                )
            before = stored["points"].astype(np.uint8, copy=False)
            segments = np.unpackbits(stored["segments"].astype(np.uint8, copy=False), axis=1, count=len(before))
            places, found = match(before, asked)
            common = in_both(segments[:, places], question.segments[:, found])
            changed = segments.sum(axis=1, dtype=np.int64)[:, None] + question.sizes[None] - 2 * common
            if ((common > 0) & (changed > 0) & (changed < FEW)).any():
                return RefusedToPartner(
                    "differencing",
                    f"a segment differs from one asked before by fewer than {FEW} identities",
                    hint="the estimate from before still counts; ask again when the segment has changed more",
                )
        return None

    def _check_not_caught(self, tx: Tx) -> None:
        caught_at = ledger.newest(tx, self._connection, ledger.LedgerKind.WRONG_TAGS)
        if caught_at and caught_at > self._scope.home.now() - windows.length(self._scope, tx, self._connection):
            raise RefusedToPartner(
                "budget",
                "no counts for a partner that sent wrong tags",
                hint=f"counts are open again after {self._terms.window_days} days",
            )

    def _above_limits(self, tx: Tx, question: Question, files: list[str]) -> RefusedToPartner | None:
        """Return the refusal of a question that the asker may not have answered, whatever the numbers are."""
        try:
            self._check_not_caught(tx)
        except RefusedToPartner as refusal:
            return refusal
        if len(files) >= COMPARED:
            return RefusedToPartner(
                "budget",
                f"{COMPARED} questions were answered from this universe: that is all",
                hint="ask about several segments at once, or again when the partner has a new universe",
            )
        cost, spent = self._cost(question), spent_epsilon(self._scope, tx, self._connection)
        if spent + cost <= self._terms.budget or not cost:
            return None
        return RefusedToPartner(
            "budget",
            f"this question costs {float(cost):g}, which is more than is left of the budget of {float(self._terms.budget):g} "
            "that all projects of one organisation share",  # how much is left would tell one what the others spent
            hint=f"ask about fewer segments, or wait: what was spent comes back after {self._terms.window_days} days",
        )

    def _cost(self, question: Question) -> Fraction:
        """Return epsilon for each segment that one identity can be in."""
        if self._terms.epsilon is None:
            return Fraction(0)
        return self._terms.epsilon * int(question.segments.sum(axis=0).max(initial=0))

    def _charge(self, tx: Tx, question: Question) -> None:
        cost = self._cost(question)
        if not cost:
            return
        charged = ledger.Entry(
            kind=ledger.LedgerKind.EPSILON,
            amount=math.ceil(1000 * cost),
            note=self._asker,
        )
        ledger.add(self._scope, tx, self._connection, charged)

    def _spent(self, tx: Tx) -> int | None:
        """Return what the asker's project has used up, in thousandths of epsilon; None where counts have no noise.

        What other projects of its organisation used up is nothing that it should be told.
        """
        if self._terms.epsilon is None:
            return None
        return math.ceil(1000 * spent_epsilon(self._scope, tx, self._connection, asker=self._asker))

    @property
    def _asker(self) -> str:
        """Return how the ledger names the partner's project, which outlives the connection."""
        return self._connection.peer_project.hex()

    def _seeds(self, secret: bytes, question: Question, index: int) -> tuple[bytes, bytes]:
        """Return what the noise of both counts is drawn from.

        Each seed depends on the very points that are counted. The same set gets the same noise, however it is asked, so
        repeating averages nothing out; any other set gets other noise, also one that differs in a consent bit only.
        """
        epsilon = str(self._terms.epsilon).encode()
        parts = (self._connection.first_peer_key, self._namespace.encode(), question.universe_digest, epsilon)
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


def caught(scope: Scope, tx: Tx, connection: Connection) -> None:
    """Answer no more counts in this window to a partner whose tags were wrong: probing canaries gets one try."""
    ledger.add(scope, tx, connection, ledger.Entry(kind=ledger.LedgerKind.WRONG_TAGS, amount=1))


def in_both(first: Bools | U8, second: Bools) -> npt.NDArray[np.int64]:
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
    if overlap < terms.minimum_overlap or size < min(terms.minimum_segment, MAX_ASKED):
        return SegmentAnswer(status=EstimateStatus.BELOW_MINIMUM.value)
    consented, overlap = (_shown(value, size, terms) for value in (consented, max(consented, overlap)))
    return SegmentAnswer(
        status=EstimateStatus.OK.value,
        overlap=overlap,
        consented=consented,
        half_width=noise.quantile(terms.epsilon, 2) if terms.epsilon is not None else 0,
        consented_half_width=noise.quantile(terms.epsilon, 1) if terms.epsilon is not None else 0,
    )


def spent_epsilon(scope: Scope, tx: Tx, connection: Connection, *, asker: str = "") -> Fraction:
    """Return what an organisation has used up with this project in the window, whatever the connection.

    `asker`: one of its projects alone. After a restore nobody knows what was used up, so everything counts as used up.
    """
    since = scope.home.now() - windows.length(scope, tx, connection)
    if (scope.row(tx).restored or 0) > since:
        return connection.terms.budget
    return Fraction(ledger.total(tx, connection, ledger.LedgerKind.EPSILON, since=since + 1, note=asker), 1000)


def _shown(value: int, size: int, terms: Terms) -> int:
    step = DISPLAY_STEP if terms.epsilon is not None else 1
    return min(size, max(0, (value + step // 2) // step * step))
