"""Raw personal data in columns that are kept as they are: what is recognised, and that looking takes linear time."""

import numpy as np
import pytest
from growth import is_linear
from hypothesis import given, settings
from hypothesis import strategies as st
from quick import examples

from node.errors import InvalidInput
from node.inputs.normalise import normalise, rule
from node.inputs.raw_values import MAX_KEPT, SAMPLE, KeptColumn, too_long

EMAILS = [
    "ann@x.com", "ann@localhost", "<ann@x.de>", "write to ann@x.de!", "ann%40x.com", "ann\uff20x.com", "ann@[10.0.0.1]",
    "a.-@x", "ann@m\u00fcller.de", '["ann@x.com"]',
]  # fmt: skip
PHONES = [
    "+44 7700 900123", "+447700900123", "call +447700900123 now", '["+447700900123"]', "tel:+44-7700-900123",
    "07700 900123", " 07700 900123 ", "0044 7700 900123", "(0171) 1234567", "0171/1234567", "030 - 12345678",
    "call +44 7700 900123.", "call +447700900123!", "+447700900123/home", "mobile+447700900123", "x=+447700900123&y",
    "+447700900123-x", "+44\u20097700\u2009900123", "+44 7700\u2013900123", "07700\u2013900123", "212\u2013555\u20130123",
    "06 12 34 56 78", "06.12.34.56.78", "(212) 555-0123", "212-555-0123", "1-212-555-0123", "tel:07700 900123",
    "0(20)7946-0958", "0 (20) 7946 0958", "(0) 7700 900123", "(0)20 7946 0958", "00(44)7700-900123", "00 (44) 7700 900123",
]  # fmt: skip
DOUBTS = ["@ann", "(@ann)", '["@ann"]', "https://m.com/@ann", "3 @ 5", '"ann" @ x', "07700900123", "00447700900123",
          "0-7700-900-123", "0 20 7946 0958", "00-44-7700-900123"]  # fmt: skip
NOTHING = [
    "", "2024-01-02", "01-02-2024", "01.02.2024", "01/02/2024", "2024-01-02 10:30", "12345-6789", "0.123456789",
    "10.0.0.1", "192.168.100.200", "1234567890", "0000012345", "UTC+01:00", "1+1", "100 200 300", "555-0123",
    "q=sale+20241130+red", "1+1234567890", "612 345 678",
    "123-45-6789", "3.14159265358", "0123 4567", "1 234 567 890", "0-10000", "0 1 0 1 0 0 1 1 1",
    "0.12.345.6789", "01234567-89ab-4def-8123-456789abcdef", "SW1A 1AA",
]  # fmt: skip


def look(*texts: str, region: str | None = None) -> dict[str, list[int]]:
    column = KeptColumn("a", region)
    column.look(texts, np.arange(2, 2 + len(texts)))
    column.end()
    return dict(column.doubts)


@pytest.mark.feature("ID4")
@pytest.mark.parametrize("text", EMAILS + PHONES)
def test_what_is_refused_names_its_line_and_not_the_value(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"\(line 4\)") as said:
        look("blue", "red\ngreen", text, "blue")
    assert text.strip() not in f"{said.value} {said.value.hint}"


def test_what_may_be_personal_data_is_counted_and_the_rest_is_not() -> None:
    for text in DOUBTS:
        assert list(look("blue", text).values()) == [[3]], text
    assert look(*NOTHING) == {}


def test_a_column_that_mostly_has_numbers_of_the_region_is_refused() -> None:
    for texts in (["07700900123"], ["07400-123456", "blue"], ["020 7946 0000"[1:], "0 20 7946 0001"]):
        with pytest.raises(InvalidInput, match="has phone numbers"):
            look(*texts, region="GB")
    assert look("7400-123456", "12345678", "87654321", region="GB") == {"that are phone numbers of GB": [2]}
    assert look("7400-123456", "12345678", "87654321") == {}


def test_a_column_of_words_with_a_few_numbers_is_kept_and_they_are_counted() -> None:
    words = [f"word {number}" for number in range(2 * SAMPLE)]
    counted = {"that are phone numbers of GB": [2]}
    assert look("7700 900124", *words, "7700 900124", region="GB") == counted
    assert look(*words, "7700 900124", region="GB") == {}
    mixed = [*words[:90], *(f"7700 9001{number:02}" for number in range(10))]
    with pytest.raises(InvalidInput, match="has phone numbers"):
        look(*mixed, region="GB")


def test_the_first_values_of_a_column_are_tried_however_they_come() -> None:
    numbers = [f"7700 9{number:05}" for number in range(SAMPLE)]
    words = [f"word {number}" for number in range(SAMPLE)]
    for batches in ([numbers + words], [numbers[:10], numbers[5:] + words], [numbers, words]):
        column = KeptColumn("a", "GB")
        for batch in batches:
            column.look(batch, np.arange(2, 2 + len(batch)))
        with pytest.raises(InvalidInput, match="has phone numbers"):
            column.end()


@settings(max_examples=examples(40), deadline=None)
@given(
    st.lists(st.sampled_from([*'a@ 0+1\n(-./"%\u00a0', "tel:", "%40", "07", "+4"]), min_size=1, max_size=4).map("".join)
)
def test_a_long_value_takes_time_in_proportion_to_its_length(unit: str) -> None:
    def work(size: int) -> None:
        for text in (f"{unit * (size // len(unit))}@", f"+{unit * (size // len(unit))}"):
            try:
                look(text)
            except InvalidInput:
                continue

    assert is_linear(work, 20_000)


def test_long_values_are_not_kept_and_long_numbers_are_none() -> None:
    assert too_long(["a" * MAX_KEPT, "a" * (MAX_KEPT + 1)]).tolist() == [False, True]

    def work(size: int) -> None:
        column = [f"x1{' ' * size}{number}" for number in range(100)]
        assert normalise(rule("phone_sha256"), column, region="GB").values.rows.shape == (100, 32)

    assert is_linear(work, 30)
