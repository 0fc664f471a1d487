"""Ids are UUIDs: 32 hex digits in rows and files, 16 bytes on the wire. This is the one place that turns one into the other."""


def wire_id(stored: str) -> bytes:
    """Return the 16 bytes that a message has for an id of a row."""
    return bytes.fromhex(stored)


def stored_id(wire: bytes) -> str:
    """Return the 32 hex digits that rows and files have for an id of a message."""
    return wire.hex()
