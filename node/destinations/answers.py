"""How a target's answer to a message that it did not take begins, without what looks like data: people read why."""

import re

MOST = 300  # characters of an answer
LEFT_OUT = "…"
# What our own messages are made of says nothing of a person.
_OURS = frozenset(
    {"add", "at", "attributes", "batch", "connection", "data", "exited", "id", "identities", "identity", "identitymap"}
    | {"labels", "name", "profile", "profiles", "realized", "remove", "revision", "segment", "segmentmembership"}
    | {"segments", "status", "timestamp", "type", "ups"}
)
_WORD = re.compile(r"[A-Za-z]?[a-z]{0,19}|[A-Z]{1,12}")
_CHUNK = re.compile(r"[^\s{}\[\]\"',;()<>=]+")


def redacted(answer: str, body: bytes) -> str:
    """Return the beginning of an answer in plain words and short numbers: no other word stays, and none that the message
    `body` has as well."""
    said = {each.lower().decode() for each in re.findall(rb"[A-Za-z]+", body)} - _OURS
    text = "".join(each if each.isprintable() else " " for each in answer[:MOST])
    found = _CHUNK.sub(lambda chunk: _kept(chunk[0], said), text)
    # Several numbers in a row are one.
    return " ".join(re.sub(r"(?:…|\d{1,3})(?:[^\w…]+\d{1,3})+", LEFT_OUT, found).split())


def _kept(chunk: str, said: set[str]) -> str:
    core = chunk.strip(".:!?")
    parts = re.split(r"[_-]", core)
    plain = all(_is_plain(each, said) for each in parts) and len(parts) <= 4
    return chunk if not core or plain or re.fullmatch(r"\d{1,3}", core) else LEFT_OUT


def _is_plain(word: str, said: set[str]) -> bool:
    lower = word.lower()
    return lower in _OURS or (bool(word) and bool(_WORD.fullmatch(word)) and lower not in said)
