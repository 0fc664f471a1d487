"""Windows: what a partner gets of what one allows, whatever key epochs it asks for, ends early or begins anew."""

from hypothesis import example, given
from hypothesis import strategies as some

from node.partners.windows import Span, first_begun, window_began
from node.storage.tables import DAY

START = 1_800_000_000


@some.composite
def epochs_of_partners(draw: some.DrawFn) -> list[Span]:
    """Draw when the epochs of up to three connections with one organisation began, which ends each at will."""
    spans = []
    for _ in range(draw(some.integers(1, 3))):
        began = START + draw(some.integers(0, 40 * DAY))
        for length in draw(some.lists(some.integers(DAY, 40 * DAY), min_size=1, max_size=30)):
            spans.append(Span(began, began + length, refills=False))
            began += length
    return draw(some.permutations(spans))


@given(epochs_of_partners(), some.integers(1, 60), some.integers(1, 60))
def test_a_partner_gets_no_more_than_one_window_allows_in_each(spans: list[Span], ours: int, theirs: int) -> None:
    """With each epoch it takes all that it may: once for each time that our own window passes, of which a day is forgiven."""
    window = max(ours, theirs) * DAY
    moments = sorted({span.started for span in spans})
    taken: list[int] = []
    for now in moments:
        since = window_began([span for span in spans if span.started <= now], window)
        if not any(each >= since for each in taken):
            taken.append(now)
    least = ours * DAY - min(DAY, ours * DAY // 2)
    assert len(taken) <= (moments[-1] - moments[0]) // least + 1


@given(some.lists(some.tuples(some.integers(0, 119), some.integers(30, 70)), max_size=12))
@example([(day, day) for day in range(31, 60)])
def test_no_change_of_the_window_gives_more(changes: list[tuple[int, int]]) -> None:
    """A partner has epochs of a day, and agrees on other windows as time goes by, each no shorter than our own 30 days."""
    spans = [Span(START + day * DAY, None, refills=False) for day in range(120)]
    taken: list[int] = []
    for day, span in enumerate(spans):
        agreed = {30 * DAY, *(days * DAY for since, days in changes if since <= day)}
        since = first_begun(spans[: day + 1], agreed)
        if not any(each >= since for each in taken):
            taken.append(span.started)
    assert len(taken) <= 120 // 29 + 1


def test_an_epoch_of_a_window_s_length_begins_the_next_one() -> None:
    """Also where the people came late in the old one, or a clock is some hours ahead."""
    first, second = START + 30 * DAY, START + 60 * DAY - 7_200
    spans = [Span(START, first, False), Span(first, second, False), Span(second, None, False)]
    assert window_began(spans, 30 * DAY) == second
    assert window_began(spans[:2], 30 * DAY) == first


def test_an_epoch_that_we_end_begins_one_and_one_that_the_partner_ends_does_not() -> None:
    early = START + 2 * DAY
    assert window_began([Span(START, early, True), Span(early, None, False)], 30 * DAY) == early
    assert window_began([Span(START, early, False), Span(early, None, False)], 30 * DAY) == START
