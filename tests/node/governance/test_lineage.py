"""How labels are inherited, by what was put where and what each place inherits from."""

import pytest

from node.governance.lineage import Place, PlaceKind, Trace, inherited, removals
from psi.errors import Remedy

CRM = Place(kind=PlaceKind.DATASET, target="crm")
INCOME = Place(kind=PlaceKind.FIELD, target="crm.income")
RICH = Place(kind=PlaceKind.SEGMENT, target="rich")
RICHER = Place(kind=PlaceKind.SEGMENT, target="richer")
THEIRS = Place(kind=PlaceKind.RECEIVED, target="acme.vip")

ABOVE = {RICHER: [RICH, THEIRS, INCOME], RICH: [INCOME], INCOME: [CRM]}


def traces(uses: dict[Place, list[str]], target: Place) -> list[str]:
    return [str(trace) for trace in inherited(uses.get, target, lambda place: ABOVE.get(place, []))]


def test_a_label_is_inherited_by_the_shortest_way() -> None:
    uses = {CRM: ["C3"], RICH: ["C5", "C3"], THEIRS: ["C4"]}
    assert traces(uses, CRM) == ["C3 from dataset crm"]
    assert traces(uses, RICH) == [
        "C3 from dataset crm > field crm.income > segment rich",
        "C3 from segment rich",
        "C5 from segment rich",
    ]
    assert traces(uses, RICHER) == [
        "C3 from dataset crm > field crm.income > segment richer",
        "C3 from segment rich > segment richer",
        "C4 from received.acme.vip > segment richer",
        "C5 from segment rich > segment richer",
    ]


def test_what_inherits_from_itself_ends() -> None:
    above = {RICH: [RICHER], RICHER: [RICH]}
    assert [trace.places for trace in inherited({RICHER: ["C1"]}.get, RICH, above.__getitem__)] == [(RICHER, RICH)]


@pytest.mark.parametrize(
    ("places", "remedy"),
    [
        ((INCOME, RICH), Remedy("label.remove", {"label": "C1", "field": "crm.income"})),
        ((RICH,), Remedy("label.remove", {"label": "C1", "segment": "rich"})),
        ((THEIRS, RICHER), Remedy("segment.update", {"name": "richer", "rule": "EXPR"})),
    ],
)
def test_a_label_is_removed_where_it_was_put(places: tuple[Place, ...], remedy: Remedy) -> None:
    assert removals(Trace(label="C1", places=places))[0] == remedy


def test_a_hidden_place_says_only_its_kind() -> None:
    assert str(RICH.unseen()) == "a segment that you may not see"
    assert str(THEIRS) == "received.acme.vip"
    assert str(INCOME) == "field crm.income"
