"""Label expressions: read, written, and met by labels."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import InvalidInput
from node.governance.expressions import MAX_DEPTH, met_by, parse


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "AND",
        "C1 AND",
        "OR C1",
        "C1 C2",
        "(C1",
        "C1)",
        "()",
        "NOT C1",
        "C1 OR OR C2",
        "C1 AND (C2 OR)",
        "(" * 99 + "C1" + ")" * 99,
        "C1 OR " * 400 + "C1",
    ],
)
def test_expressions_that_make_no_sense(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse(text)
    assert caught.value.hint


def test_deep_enough() -> None:
    assert parse("(" * MAX_DEPTH + "C1" + ")" * MAX_DEPTH) == "C1"


@given(st.text(alphabet="C12 ()ANDOR", max_size=40))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        parsed = parse(text)
    except InvalidInput:
        return
    assert met_by(parsed, []) is None
