"""How large the batches of an Arrow file are unpacked, read from its messages before anything is unpacked.

Source: the Arrow columnar format, "Serialization and Interprocess Communication": a message's metadata is a flatbuffer
(format/Message.fbs); each buffer of a compressed body begins with its length unpacked, or -1 where it is not packed.
"""

import struct
from collections.abc import Iterator
from typing import Any

from .expansion import CELL

_HEADER, _DATA, _NODES, _BUFFERS = 2, 1, 1, 2  # places of fields in the tables Message, DictionaryBatch and RecordBatch


def unpacked(messages: Any) -> Iterator[int]:
    """Yield the bytes of each buffer and those that its cells count as, of each message of a pyarrow MessageReader.

    Raises struct.error for metadata that is none.
    """
    for message in messages:
        if message.type == "schema":
            continue
        metadata, body = message.metadata.to_pybytes(), message.body.to_pybytes()
        batch = _table(metadata, _number("I", metadata, 0), _HEADER)
        if message.type == "dictionary":
            batch = _table(metadata, batch, _DATA)
        nodes = _table(metadata, batch, _NODES)
        for index in range(_number("I", metadata, nodes) if nodes else 0):
            yield CELL * max(0, _number("q", metadata, nodes + 4 + 16 * index))
        vector = _table(metadata, batch, _BUFFERS)
        is_packed = _field(metadata, batch, _BUFFERS + 1)
        for index in range(_number("I", metadata, vector) if vector else 0):
            start, length = struct.unpack_from("<qq", metadata, vector + 4 + 16 * index)
            yield max(length, _number("q", body, start)) if is_packed and length else length


def _number(form: str, data: bytes, place: int) -> int:
    found: int = struct.unpack_from(f"<{form}", data, place)[0]
    return found


def _field(data: bytes, table: int, index: int) -> int:
    """Return the place of a field of a flatbuffer's table, 0 where it has none."""
    layout = table - _number("i", data, table)
    inside = 4 + 2 * index
    offset = _number("H", data, layout + inside) if inside < _number("H", data, layout) else 0
    return table + offset if offset else 0


def _table(data: bytes, table: int, index: int) -> int:
    """Return the place of the table or vector that a field names, 0 where it names none."""
    place = _field(data, table, index)
    return place + _number("I", data, place) if place else 0
