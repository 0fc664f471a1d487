"""The oblivious pseudorandom function F(x) = Finalize(x, s * H(x)) over whole batches (RFC 9497, section 3.3).

    receiver, values y, key r                sender, key s
    blind:    H(y)^r            --->
                                <---         evaluate: H(y)^rs
    unblind:  H(y)^s, finalize: F(y)         prf: F(x) of the sender's own values

The sender sees random-looking points and answers without learning which values they hide; the receiver learns F of
its own values and nothing of the key. One key blinds a whole batch, where the RFC draws a blind for each element:
equal values then give equal points, so a batch must not repeat a value, and hiding rests on the DDH assumption. Sort
before sending (`blind_sorted`).
"""

from . import kernel
from .errors import DuplicatePoint
from .join import arrange, first_disorder, join_order
from .kernel import Decoded, Mode
from .keys import Key
from .values import U8, Indices, Values


def blind(context: bytes, values: Values, key: Key, mode: Mode = Mode.VOPRF) -> U8:
    """Return H(context || value)^key for each value, in the same order, uint8 (n, 32). Refuses a repeated value.

    The points reveal nothing without the key.
    """
    return _distinct(kernel.hash_and_multiply(context, values, key.scalar, mode))


def blind_sorted(context: bytes, values: Values, key: Key) -> tuple[U8, Indices]:
    """Return the points of `blind` sorted by encoding, uint8 (n, 32), and of which value each is; no copy is made of them.

    Sorting is the shuffle: the points are random, so their order says nothing about the order of the values. Raises
    DuplicatePoint.
    """
    points = kernel.hash_and_multiply(context, values, key.scalar)
    order = join_order(points)
    arrange(points, order)
    if (found := first_disorder(points)) is not None:
        raise DuplicatePoint(int(order[found[0]]))
    return points, order


def evaluate(points: U8 | Decoded, key: Key) -> U8:
    """Return point^key for each point of a partner, in the same order, uint8 (n, 32).

    The answer to a point P tells the partner P^key and nothing else: it can be turned into F(x) only where P was made
    from x. Raises InvalidPoint, DuplicatePoint.
    """
    _distinct(points.points if isinstance(points, Decoded) else points)
    return kernel.multiply(points, key.scalar)


def unblind(points: U8 | Decoded, key: Key) -> U8:
    """Return point^(1/key) for each point, in the same order: what `blind` with this key did is undone.

    Verify the partner's proof first. Raises InvalidPoint.
    """
    return kernel.multiply(points, key.inverse())


def finalize(context: bytes, values: Values, points: U8) -> U8:
    """Return F(value), uint8 (n, 64), from the values and their unblinded points, which are in the same order."""
    return kernel.finalize(context, values, points)


def prf(context: bytes, values: Values, key: Key, mode: Mode = Mode.VOPRF) -> U8:
    """Return F(value), uint8 (n, 64), as the holder of the key computes it (the RFC's Evaluate)."""
    return finalize(context, values, kernel.hash_and_multiply(context, values, key.scalar, mode))


def _distinct(points: U8) -> U8:
    kernel.check_distinct(points)
    return points
