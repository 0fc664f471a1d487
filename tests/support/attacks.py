"""A real node that asks another one for counts as an attacker would; see tests/node/feeds/estimates/test_attacks.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
from sides import EMAIL
from sqlalchemy import func, select

from node.access.audit import Result
from node.errors import RefusedByPartner
from node.exchanges.channels import Channel, epoch_of
from node.exchanges.opening import Plan, run_exchange
from node.storage.tables import ledger
from protocol.estimate import CountAsker
from protocol.messages import Answer, Tags
from protocol.states import Kind, Part
from protocol.wire import Message
from psi import count, kernel
from psi.keys import Key, Purpose
from psi.values import U8, Values

NOISY: dict[str, Any] = {"epsilon": "1/20", "epoch_days": 60, "window_days": 60}
KNOWN = range(896)  # to globe


def values(numbers: Sequence[int]) -> Values:
    return Values.of([sha256(f"person{number}@example.com".encode()).digest() for number in numbers])


class Asker(CountAsker):
    """Asks about whoever the attacker likes, in what segments and under what key it likes."""

    def __init__(
        self,
        attack: "Attack",
        epoch: int,
        numbers: Sequence[int],
        *,
        segments: Sequence[Sequence[int]] | None = None,
        without_consent: Sequence[int] = (),
        key: Key | None = None,
        namespace: str = EMAIL,
    ) -> None:
        project, connection = attack.acme.project, attack.connection
        channel = Channel.of(
            project.scope,
            connection,
            epoch_of(project.scope, connection, epoch),
            namespace,
            protocol="count",
            outward=True,
        )
        self.epoch, self.seen = epoch, list[Message]()
        rows = [list(numbers)] if segments is None else segments
        super().__init__(
            context=channel.context,
            direction=channel.direction,
            epoch=epoch,
            values=values(numbers),
            segments=np.array([[number in set(row) for number in numbers] for row in rows], np.bool_),
            consented=np.array([number not in set(without_consent) for number in numbers], np.bool_),
            derive_key=lambda digest: key or channel.key(Purpose.COUNT_ASK, digest),
            check_universe=lambda commitment: None,
            maximum=1_000_000,
            peer_keys=connection.peer_keys,
        )

    def receive(self, step: str, chunk: int, payload: Message) -> None:
        self.seen.append(payload)
        super().receive(step, chunk, payload)

    @property
    def digest(self) -> bytes:
        return self._committed.universe_digest()

    def tag(self, points: U8) -> U8:
        context = count.tag_context(self._context, self._direction, self._epoch, self.digest)
        return kernel.digests(context, points, size=count.TAG_BYTES)

    @property
    def universe(self) -> U8:
        """The points that were shown, uint8 (n, 32)."""
        return self._universe[:]

    def honest_tags(self) -> U8:
        """Return the tag of each point of the universe, in the universe's order."""
        return self.tag(kernel.multiply(self.universe, self._derive_key(self.digest).scalar))

    def produce(self, step: str) -> Sequence[Message]:
        forged = self.forge() if step == "tags" else None
        if forged is None:
            return super().produce(step)
        public = self._derive_key(self.digest).public
        return [Tags(public=public, tags=each.tobytes()) for each in forged]

    def forge(self) -> list[U8] | None:
        """Return the chunks of tags that are sent instead of the honest ones."""
        return None


@dataclass
class Attack:
    """Two connected nodes, of which one attacks the other."""

    pair: Any
    role: Asker | None = None

    @property
    def acme(self) -> Any:
        return self.pair.acme

    @property
    def globe(self) -> Any:
        return self.pair.globe

    @property
    def connection(self) -> Any:
        (row,) = self.acme.project.partners.rows("active")
        return row

    def ask(self, *arguments: Any, kind: type[Asker] = Asker, namespace: str = EMAIL, **options: Any) -> Answer:
        """Let acme ask as an attacker would."""

        def role(epoch: int) -> Asker:
            self.role = kind(self, epoch, *arguments, namespace=namespace, **options)
            return self.role

        subject: dict[str, str | bytes | int] = {"namespace": namespace}
        plan = Plan(kind=Kind.COUNT, part=Part.ASKER, subject=subject, role=role)
        answer: Answer = run_exchange(self.acme.project.scope, self.connection, plan)
        return answer

    def refused(self, *arguments: Any, **options: Any) -> str:
        """Let acme ask, and return the code with which globe refuses."""
        with pytest.raises(RefusedByPartner) as refused:
            self.ask(*arguments, **options)
        assert self.role is not None
        assert not any(isinstance(each, Answer) for each in self.role.seen)
        return refused.value.code

    def caught(self, code: str) -> None:
        """Check that globe charged nothing, and that it has the refusal in its audit log, and an alert."""
        assert self.spent == 0
        assert [each["detail"]["error"]["code"] for each in self.globe.acts("exchange.count", Result.DENY)] == [code]
        assert [each.kind for each in self.globe.project.alerts.all() if each.kind.startswith("exchange")] == [
            f"exchange.{code}"
        ]

    @property
    def spent(self) -> int:
        """The thousandths of epsilon in globe's ledger."""
        with self.globe.node.home.database.read() as tx:
            return tx.scalar(select(func.sum(ledger.c.amount)).where(ledger.c.kind == "epsilon_millis")) or 0
