"""How much a partner may take here with the exchanges that it opens: so many an hour, so many at once, so many bytes."""

from functools import partial

from ..access.scope import Home
from ..errors import RefusedToPartner
from ..partners.connections import Connection
from ..partners.rates import Rate
from ..storage.database import Tx
from ..storage.spool import FileSpool
from ..storage.tables import HOUR
from . import http, records
from .records import REPLACED, ExchangeState, spool_of

OPEN_AT_MOST = 8  # exchanges of one connection; honest partners need far fewer at once
AN_HOUR = 1_200  # exchanges opened by one partner, which leave a row each; refused ones leave a row in the audit log
BYTES_FOR_EACH = 4 * 64  # of an agreed identity: points take 32 bytes there and as many back
BYTES_AT_LEAST = 1 << 28
CHECKED_BYTES = 1 << 25  # that one exchange writes before it is looked at again


class Room:
    """Keeps what partners' exchanges take within bounds: the oldest give way, finished ones first."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._openings = Rate(AN_HOUR, HOUR / AN_HOUR, now=home.now)

    def count_opening(self, connection: Connection) -> None:
        """Count an opening; raises RefusedToPartner where there were too many lately, and nothing is kept of it."""
        if not self._openings.allows(connection.id):
            raise RefusedToPartner(
                "too_many", f"more than {AN_HOUR:,} exchanges an hour are opened", hint="open one later", status=409
            )

    def make_for_another(self, connection: Connection) -> None:
        """Give up the oldest of a partner's open exchanges if it has many, and delete the messages of old ones that are done."""
        with self._home.begin() as tx:
            over = records.theirs(tx, connection, ExchangeState.OPEN, newest=OPEN_AT_MOST - 1)
            done = records.theirs(tx, connection, ExchangeState.DONE, newest=OPEN_AT_MOST, at_most=OPEN_AT_MOST)
            self._give_up(tx, over)
        self._destroy([*over, *done])

    def spool(self, connection: Connection, exchange: bytes) -> FileSpool:
        """Return the spool of an exchange that a partner opened; where all of its spools get too large, older ones go."""
        growing = partial(self._make_for_more, connection, exchange)
        return spool_of(self._home, exchange, growing=(CHECKED_BYTES, growing))

    def _make_for_more(self, connection: Connection, exchange: bytes) -> None:
        most = max(BYTES_AT_LEAST, BYTES_FOR_EACH * connection.terms.maximum_universe)
        with self._home.begin() as tx:  # none of them is finished while it is chosen
            if exchange in records.those_over(self._home, tx, [exchange]):
                raise http.over()
            done = records.theirs(tx, connection, ExchangeState.DONE, newest=0)
            others = [*reversed(done), *reversed(records.theirs(tx, connection, ExchangeState.OPEN, newest=0))]
            sizes = {each: records.size_of(self._home, each) for each in others}
            total = sum(sizes.values())
            gone = []
            for each in others:
                if total <= most:
                    break
                if each != exchange:
                    total -= sizes[each]
                    gone.append(each)
            self._give_up(tx, gone)  # what is done stays so
        self._destroy(gone)
        if total > most:
            raise RefusedToPartner("too_many", "this exchange takes more room than a partner has here", status=409)

    def _give_up(self, tx: Tx, over: list[bytes]) -> None:
        for exchange in over:
            records.give_up(self._home, tx, exchange, REPLACED)

    def _destroy(self, gone: list[bytes]) -> None:
        for exchange in gone:
            records.destroy_spool(self._home, exchange)
