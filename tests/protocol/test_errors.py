"""An error of the protocol has a code, and for the code words that say what to do and, for some, an act."""

import pytest

from protocol.agreement import Terms
from protocol.errors import HINTS, REMEDIES, LocalProtocolError, RemoteProtocolError
from psi.errors import Remedy


def test_each_remedy_goes_with_a_hint() -> None:
    assert REMEDIES.keys() <= HINTS.keys()


@pytest.mark.parametrize("code", sorted(HINTS))
def test_a_code_brings_its_hint_and_its_remedy(code: str) -> None:
    error = RemoteProtocolError(code, "no")
    assert (error.code, error.hint, error.remedy) == (code, HINTS[code], REMEDIES.get(code))


def test_a_hint_of_its_own_stands_alone() -> None:
    error = RemoteProtocolError("manifest", "no", hint="ask again")
    assert (error.hint, error.remedy) == ("ask again", None)
    remedy = Remedy("feed.list")
    assert RemoteProtocolError("manifest", "no", hint="ask again", remedy=remedy).remedy == remedy


def test_a_remedy_of_its_own_comes_before_that_of_the_code() -> None:
    error = RemoteProtocolError("manifest", "no", remedy=Remedy("feed.show", {"name": "summer"}))
    assert (error.hint, error.remedy) == (HINTS["manifest"], Remedy("feed.show", {"name": "summer"}))


def test_a_code_of_somebody_else_has_neither() -> None:
    error = RemoteProtocolError("of_a_later_version", "no")
    assert (error.hint, error.remedy) == ("", None)


def test_terms_that_cannot_be_used_lead_to_those_that_are_set() -> None:
    with pytest.raises(LocalProtocolError) as caught:
        Terms.from_dict({"window_days": 1})
    assert caught.value.remedy == Remedy("project.terms")
