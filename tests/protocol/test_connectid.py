"""The Connect ID: one character wrong is caught before any network use."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.connectid import PREFIX, ConnectId, check_address
from protocol.errors import InvalidConnectId

Vector = dict[str, Any]
VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "connectid_texts.json").read_text())
ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
BYTES = {"key": bytes(range(32)), "project": bytes(range(16)), "secret": bytes(range(16, 32))}
SAMPLE = ConnectId(flags=1, address="vesica.example.com:7443", expires=1_800_000_000, **BYTES)


@pytest.mark.parametrize("vector", VECTORS["valid"], ids=lambda vector: vector["name"])
def test_valid_vectors(vector: Vector) -> None:
    fields = {name: bytes.fromhex(vector[name]) for name in ("key", "project", "secret")}
    expected = ConnectId(flags=vector["flags"], address=vector["address"], expires=vector["expires"], **fields)
    assert ConnectId.parse(vector["text"]) == expected
    assert expected.encode() == vector["text"]


@pytest.mark.parametrize("vector", VECTORS["invalid"], ids=lambda vector: vector["name"])
def test_invalid_vectors(vector: Vector) -> None:
    with pytest.raises(InvalidConnectId):
        ConnectId.parse(vector["text"])


@pytest.mark.feature("CN1")
def test_any_one_wrong_character_is_caught() -> None:
    text = SAMPLE.encode()
    for position, right in enumerate(text):
        for wrong in {"a", "7", "0", "A", " ", "é", ALPHABET[(ALPHABET.find(right) + 1) % 32]} - {right}:
            with pytest.raises(InvalidConnectId):
                ConnectId.parse(text[:position] + wrong + text[position + 1 :])


def test_cut_doubled_and_extended_texts_are_refused() -> None:
    text = SAMPLE.encode()
    for wrong in (*(text[:end] for end in range(len(text))), text + "a", text + text, text.upper(), text + "="):
        with pytest.raises(InvalidConnectId) as caught:
            ConnectId.parse(wrong)
        assert caught.value.hint


def test_white_space_around_it_is_ignored() -> None:
    assert ConnectId.parse(f"\n {SAMPLE.encode()}\t\n") == SAMPLE


def test_expiry_and_proxy() -> None:
    SAMPLE.check_expiry(SAMPLE.expires - 1)
    with pytest.raises(InvalidConnectId):
        SAMPLE.check_expiry(SAMPLE.expires)
    assert SAMPLE.proxy


def test_the_secret_is_not_shown() -> None:
    assert "secret" not in repr(SAMPLE)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:65535", "a-b.example:443", "localhost:80"])
def test_addresses(address: str) -> None:
    check_address(address)


@pytest.mark.parametrize("address", ["", "host", "host:", "host:0", "host:65536", "a b:1", "http://h:1", ":1", "h:1\n"])
def test_bad_addresses(address: str) -> None:
    with pytest.raises(InvalidConnectId):
        check_address(address)


@given(st.text() | st.text(ALPHABET).map(PREFIX.__add__))
def test_any_text_gives_the_one_error(text: str) -> None:
    with pytest.raises(InvalidConnectId):
        ConnectId.parse(text)


@given(st.binary(min_size=32, max_size=32), st.integers(0, 2**32 - 1), st.from_regex(r"[a-z0-9]{1,40}", fullmatch=True))
def test_round_trip(key: bytes, expires: int, host: str) -> None:
    made = ConnectId(flags=0, address=f"{host}:7443", key=key, project=key[:16], secret=key[16:], expires=expires)
    assert ConnectId.parse(made.encode()) == made
