"""Identities as rows: their order, and each once."""

import numpy as np

from node.people.identity_rows import IdentityRows
from psi.join import order_of
from psi.values import Values


def test_order_sees_past_equal_beginnings() -> None:
    rows = np.random.default_rng(1).integers(0, 2, (500, 19), np.uint8)
    values = Values(rows)
    found = values.take(order_of(values, np.zeros(500, np.uint32)))
    assert [found[row] for row in range(500)] == sorted(row.tobytes() for row in rows)


def test_order_is_by_value_then_by_columns_then_by_place() -> None:
    random = np.random.default_rng(2)
    for width in (0, 1, 8, 9, 24):
        rows, lengths = (
            random.integers(0, 2, (300, width), np.uint8),
            random.integers(0, width + 1, 300).astype(np.uint8),
        )
        rows[:, : min(width, 8)] = rows[0, : min(width, 8)] if width > 9 else rows[:, : min(width, 8)]
        rows[np.arange(width) >= lengths[:, None]] = 0
        profiles, ranks = random.integers(0, 4, 300).astype(np.uint32), random.integers(0, 2, 300).astype(np.uint16)
        values = Values(rows, lengths)
        keys = [(rows[row].tobytes(), lengths[row], profiles[row], ranks[row], row) for row in range(300)]
        assert order_of(values, profiles, ranks).tolist() == [key[-1] for key in sorted(keys)]
        given = IdentityRows(values=values, profiles=profiles, sources=np.zeros(300, np.uint16), ranks=ranks)
        found_rows = given.sorted()
        in_place = given.take(np.arange(300)).sort()[0]
        assert in_place.values.equals(found_rows.values)
        assert (in_place.profiles == found_rows.profiles).all()
        assert (in_place.ranks == found_rows.ranks).all()
        lowest = {key[:3]: key[3] for key in sorted(keys, reverse=True)}
        assert found_rows.values.lengths is not None
        found = zip(
            found_rows.values.rows, found_rows.values.lengths, found_rows.profiles, found_rows.ranks, strict=True
        )
        assert [(row.tobytes(), *rest) for row, *rest in found] == [(*key, lowest[key]) for key in sorted(lowest)]
