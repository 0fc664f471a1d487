"""Attributes read for some profiles: the columns that go beside their ids."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..inputs.sql import quoted
from .snapshots import NUMBER, Snapshot


def column(snapshot: Snapshot, dataset: str, field: str, profiles: npt.NDArray[np.uint32]) -> Sequence[str]:
    """Return one attribute of some profiles, "" where there is none."""
    import duckdb

    found = np.full(snapshot.profile_count, "", object)
    with duckdb.connect(":memory:", config={"temp_directory": ""}) as connection:
        query = f"SELECT {quoted(NUMBER)}, {quoted(field)} FROM read_parquet(?) WHERE {quoted(field)} IS NOT NULL"  # noqa: S608 - quoted
        numbers, cells = connection.execute(query, [str(snapshot.attributes[dataset])]).fetchnumpy().values()
        found[np.asarray(numbers, np.uint32)] = np.asarray(cells, object)
    return [str(each) for each in found[profiles].tolist()]
