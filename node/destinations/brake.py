"""The brake: a run that would remove most of a segment stops until a person says yes.

It holds what a rule or a list changed, and what comes with it. What people, labels and partners take back goes on.
"""

from enum import Enum

import numpy as np

from psi.errors import Remedy
from psi.values import U8, Bools

from ..access.scope import Scope
from ..operations.alerts import AlertKind, Alerts
from ..people import suppressions
from ..people.suppressions import Suppressions
from ..storage.database import Tx
from . import changes, primaries, watching
from .changes import Act, Change, State
from .records import Activation, Destination

FEWEST = 1_000  # removals that it lets go whatever the share


class Hold(Enum):
    """What the brake does to a run."""

    OFF = "off"
    COUNT = "count"
    ON = "on"


class Brake:
    """The brake of one run."""

    def __init__(self, scope: Scope, destination: Destination, hold: Hold, may_stay: U8) -> None:
        """`may_stay` has the state that each who is at the target would have as a member, uint8 (n,); only with Hold.ON."""
        self.hold = hold
        self.removals = 0  # that it may hold
        self._identity = destination.identity
        self._erased = Suppressions.read(scope) if hold is Hold.ON else suppressions.NOBODY
        self._percent, self._there = destination.brake, 0
        self._may_stay, self._place = may_stay, 0

    def held(self, change: Change, acts: U8) -> Bools:
        """Return which acts are held, bool (n,), and count them; changes come in order."""
        nothing = np.zeros(len(acts), bool)
        if self.hold is Hold.OFF:
            return nothing
        self._there += int(changes.may_be_there(change.before).sum())
        left = (acts == Act.REMOVE) & (change.wanted == State.ABSENT) & (change.before != State.UNREMOVED)
        if self.hold is Hold.ON:
            left &= self._may_be_kept(change, left)
        self.removals += int(left.sum())
        return left | (acts == Act.ADD) if self.hold is Hold.ON else nothing

    def _may_be_kept(self, change: Change, of: Bools) -> Bools:
        """Return who has neither withdrawn nor been erased."""
        there = change.before != State.ABSENT
        states = np.zeros(len(of), np.uint8)
        states[there] = self._may_stay[self._place : self._place + int(there.sum())]
        self._place += int(there.sum())
        unknown = of & (states == State.ABSENT)
        kept = states < State.CONSENT
        kept[unknown] = ~primaries.were_erased(self._erased, self._identity, change.values.take(unknown))
        return kept

    @property
    def is_over(self) -> bool:
        return self.removals > FEWEST and self.removals * 100 > self._percent * self._there


def alert(scope: Scope, tx: Tx, destination: Destination, activation: Activation, held: int) -> None:
    """Say that removals of a segment are held, or that they are no more."""
    begins = f"destination {destination.name} would lose most of segment {activation.segment}"
    if held:
        text = f"{begins}: {held:,} removals wait until somebody says yes, and nobody new is sent"
        remedy = Remedy("destination.sync", {"name": destination.name, "yes": True})
        word = AlertKind.DESTINATION_BRAKED
        event = watching.Event(kind=watching.FAILURE, text=text, remedy=remedy, word=word, alike=begins)
        watching.alert(scope, tx, destination, event)
    elif activation.held:
        Alerts(scope).settle(tx, AlertKind.DESTINATION_BRAKED, begins)
