"""The columns and keys of one side of an ad hoc match."""

import numpy as np

from node.adhoc.session import Column, Party, fingerprint
from psi.values import Values


def test_repeated_values_keep_all_their_rows() -> None:
    values = Values.of([b"a" * 16, b"b" * 16, b"a" * 16])
    column = Column.of_rows(values, np.array([1, 2, 5]))
    where = [column.values[index] for index in range(len(column.values))].index(b"a" * 16)
    assert list(column.rows_with(np.array([where]))) == [1, 5]
    assert len(column.values) == 2
    odd = Column.of_rows(Values.of([b"a", b"a\0", b"a"]), np.arange(3))
    assert len(odd.values) == 2


def test_fingerprints_tell_keys_apart() -> None:
    assert fingerprint(Party().key) != fingerprint(Party().key)
