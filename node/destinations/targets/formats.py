"""Changes as files, a row each: CSV, JSON lines or Parquet, alike wherever they are put."""

import io
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.util import find_spec

from ...errors import InvalidInput
from ...storage.csv_text import csv_text
from ..changes import Act
from ..kinds import Batch, Setting, Settings, Unusable
from . import identity_texts, outbound_files

FORMATS = ("csv", "jsonl", "parquet", outbound_files.FORMAT)
HEADER = ("namespace", "identity", "segment", "status", "at")
STATUS = {Act.ADD: "realized", Act.REMOVE: "exited"}
_SPECIAL = re.compile(r"[\",\r]|^[^0-9A-Za-z]|^$", re.MULTILINE)  # what needs quotes in CSV, or may need more
SETTINGS = (
    Setting(
        name="format",
        text=f"csv, which is the default, jsonl, parquet, or {outbound_files.FORMAT}",
        may_change=True,
    ),
    *outbound_files.SETTINGS,
)


def checked(settings: Settings) -> dict[str, str]:
    """Return the settings of the format as they are kept; raises InvalidInput."""
    form = settings.get("format") or FORMATS[0]
    if form not in FORMATS:
        raise InvalidInput(f"there is no format {form[:20]!r}", hint=f"the formats are {', '.join(FORMATS)}")
    if form == "parquet" and find_spec("pyarrow") is None:
        raise InvalidInput(
            "Parquet files need the package pyarrow", hint="install it beside Vesica: pip install pyarrow"
        )
    return {"format": form, **outbound_files.checked(settings, form)}


def encode(batch: Batch, form: str) -> bytes:
    """Return a batch as a file; the same batch is the same bytes."""
    if form == "csv":
        return _csv(batch).encode()
    if form == "jsonl":
        return "".join(f"{json.dumps(dict(zip(header(batch), row, strict=True)))}\n" for row in rows(batch)).encode()
    return _parquet(batch)


def header(batch: Batch) -> tuple[str, ...]:
    """Return the names of the columns: those of HEADER, then the mapped fields."""
    return (*HEADER, *batch.attributes)


def rows(batch: Batch) -> Iterator[tuple[str | None, ...]]:
    """Yield the cells of each change, as `header` names them; None where a person has nothing in a field."""
    at, name = time(batch.at), identity_texts.namespace(batch.identity)
    texts = identity_texts.texts(batch.values, batch.identity)
    for text, act, *cells in zip(texts, batch.acts.tolist(), *batch.attributes.values(), strict=True):
        yield name, text, batch.segment, STATUS[Act(act)], at, *cells


def time(at: int) -> str:
    """Return Unix seconds as RFC 3339, UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _csv(batch: Batch) -> str:
    """Return what csv_text makes of the rows; where no identity needs quotes, in a tenth of the time."""
    texts = identity_texts.texts(batch.values, batch.identity)
    joined = "\n".join(texts)
    if batch.attributes or _SPECIAL.search(joined) or joined.count("\n") != len(texts) - 1:
        return csv_text(header(batch), ([cell or "" for cell in row] for row in rows(batch)))
    name, at = identity_texts.namespace(batch.identity), time(batch.at)
    ends = {act.value: csv_text(("", batch.segment, status, at), ()) for act, status in STATUS.items()}
    lines = [f"{name},{text}{ends[act]}" for text, act in zip(texts, batch.acts.tolist(), strict=True)]
    return csv_text(HEADER, ()) + "".join(lines)


def _parquet(batch: Batch) -> bytes:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise Unusable("package", "Parquet files need the package pyarrow") from error
    columns = zip(*rows(batch), strict=True)
    texts = [pa.array(column, pa.string()) for column in columns]
    at = pa.array([datetime.fromtimestamp(batch.at, UTC)] * len(batch.values), pa.timestamp("s", tz="UTC"))
    file = io.BytesIO()
    texts[HEADER.index("at")] = at
    parquet.write_table(pa.table(texts, names=header(batch)), file, compression="zstd")
    return file.getvalue()
