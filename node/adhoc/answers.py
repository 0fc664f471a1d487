"""What a listener answers in one session: a count, or the evaluations and the release of a members session."""

from collections.abc import Callable
from dataclasses import dataclass, field

from protocol.agreement import Agreement
from protocol.estimate import CountAnswerer, Question, commit, most_asked
from protocol.evaluation import EvaluateSender, state_key
from protocol.exchange import Opening, Role
from protocol.messages import Answer, SegmentAnswer
from protocol.receipt import NO_RECEIPT
from protocol.release import ReleaseSender, manifest
from protocol.states import Kind
from psi import count, noise, oprf
from psi.keys import Key, Purpose
from psi.values import U8, Values

from ..errors import RefusedToPartner
from .session import ENGINE, EPOCH, Between, Columns, Mode, Party, members


@dataclass(frozen=True, slots=True)
class _Own:
    """F of our own identities, uint8 (n, 64), computed where rows are asked for."""

    context: bytes
    values: Values
    key: Key

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice) -> U8:
        return oprf.prf(self.context, self.values.part(rows), self.key)


@dataclass(slots=True)
class Learned:
    """What a session taught the listener: by namespace how many identities the other side has and, of a count, how many
    of them are in our file; `answered` is what the other side heard of that."""

    mode: Mode | None = None
    agreement: Agreement | None = None
    theirs: dict[str, int] = field(default_factory=dict)
    overlap: dict[str, int] = field(default_factory=dict)
    answered: dict[str, SegmentAnswer] = field(default_factory=dict)


class Answers:
    """Makes our roles in the exchanges of one session, and notes what we learn from them.

    `spend` is called before anything is answered that depends on both files; it raises where that is not ours to do any
    more. `most` identities of the other side are evaluated in a namespace; without it 1.2 times as many as we have.
    """

    def __init__(self, party: Party, columns: Columns, *, most: int | None, spend: Callable[[Between], None]) -> None:
        self._party, self._columns, self._most, self._spend = party, columns, most, spend
        self._statements: dict[str, bytes] = {}  # namespace -> s*G
        self._evaluated: dict[str, int] = {}
        self.learned = Learned()

    def evaluated(self, namespace: str, size: int) -> None:
        """Note how many identities the other side had evaluated."""
        self._evaluated[namespace] = self.learned.theirs[namespace] = size

    def role(self, opening: Opening, between: Between, peer_key: bytes) -> Role:
        """Return our role in an exchange; raises RefusedToPartner."""
        if opening.kind is Kind.RELEASE:
            return self._release(opening, between, peer_key)
        namespace = str(opening.subject["namespace"])
        if opening.kind is Kind.EVALUATE:
            return self._evaluate(namespace, between)
        return self._count(namespace, between)

    def _count(self, namespace: str, between: Between) -> Role:
        context = between.context(Kind.COUNT, namespace)
        key = between.key(Kind.COUNT, namespace, Purpose.COUNT_ANSWER)
        universe = count.build_universe(context, self._columns[namespace].values, key, self._party.random, ENGINE)
        return CountAnswerer(
            context=context,
            direction=between.direction(Kind.COUNT),
            epoch=EPOCH,
            universe=universe,
            key=key,
            commitment=commit(
                universe, context=context, epoch=EPOCH, generation=1, made=self._party.now(), sign=self._party.sign
            ),
            check_asker=lambda digest: None,
            sanitise=lambda question: self._sanitise(namespace, between, question),
            most=most_asked(between.agreement.terms),
            most_segments=1,
            engine=ENGINE,
        )

    def _sanitise(self, namespace: str, between: Between, question: Question) -> Answer:
        """Note the true number, and return the noised one: noise, floor, clamp."""
        self._spend(between)
        size, agreed = int(question.sizes[0]), between.agreement.terms
        true = int(question.consented_hits[0] + question.other_hits[0])
        if namespace not in self.learned.answered:
            noised, width = true, 0
            if agreed.epsilon is not None:
                noised += noise.discrete_laplace(agreed.epsilon, noise.Stream(self._party.random(32)))
                width = noise.half_width(epsilon=agreed.epsilon, draws=1, size=size, sampled=size, hits=0)
            if size < agreed.minimum_segment or noised < agreed.minimum_overlap:
                answer = SegmentAnswer(status="below_minimum")
            else:
                noised = min(max(noised, 0), size)
                answer = SegmentAnswer(
                    status="ok", overlap=noised, consented=noised, half_width=width, consented_half_width=width
                )
            self.learned.theirs[namespace], self.learned.overlap[namespace] = size, true
            self.learned.answered[namespace] = answer
        return Answer(segments=(self.learned.answered[namespace],), computed_at=self._party.now())

    def _evaluate(self, namespace: str, between: Between) -> Role:
        context, direction = between.context(Kind.EVALUATE, namespace), between.direction(Kind.EVALUATE)
        key = between.key(Kind.EVALUATE, namespace, Purpose.RELEASE_PRF)
        statement = state_key(
            key,
            context=context,
            direction=direction,
            epoch=EPOCH,
            random=self._party.random,
            sign=self._party.sign,
        )
        self._statements[namespace] = key.public
        charged, most = 0, self._most
        if most is None:
            most = int(between.agreement.terms.evaluations * len(self._columns[namespace].values))

        def charge(points: U8) -> None:
            nonlocal charged
            charged += len(points)
            if charged > most:
                raise RefusedToPartner(
                    "too_many",
                    f"the listener takes at most {most:,} identities in {namespace}",
                    hint="match a smaller file, or ask the other side to listen for more",
                )

        return EvaluateSender(key=key, statement=statement, charge=charge, random=self._party.random, engine=ENGINE)

    def _release(self, opening: Opening, between: Between, peer_key: bytes) -> Role:
        agreement, definition = between.agreement, between.definition()
        subject = {"feed": definition.feed, "version": definition.version, "revision": 1}
        if opening.subject != subject:
            raise RefusedToPartner("subject", "this session has one feed, one version and one revision")
        if self._evaluated.keys() != set(agreement.namespaces):
            raise RefusedToPartner("out_of_order", "every namespace is evaluated before the release", status=409)
        if min(self._evaluated.values()) < agreement.terms.minimum_universe:
            raise RefusedToPartner(
                "too_few",
                "fewer identities were asked about than the agreed minimum",
                hint="lower the minimum on both sides",
            )
        self._spend(between)
        records = {}
        for namespace in agreement.namespaces:
            values = self._columns[namespace].values
            key = between.key(Kind.EVALUATE, namespace, Purpose.RELEASE_PRF)
            prf = _Own(between.context(Kind.EVALUATE, namespace), values, key)
            records[namespace] = ENGINE.seal(
                prf, members(len(values)), feed=definition.feed, version=definition.version, revision=1
            )
        return ReleaseSender(
            connection=agreement.connection,
            manifest=manifest(
                definition,
                records,
                revision=1,
                full=True,
                evaluated=self._evaluated,
                publics=self._statements,
                previous=NO_RECEIPT,
                made=self._party.now(),
            ),
            records=records,
            peer_keys=(peer_key,),
            sign=self._party.sign,
        )
