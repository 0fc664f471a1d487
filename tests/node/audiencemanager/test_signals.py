"""Which signals came, how often, from where, and which traits read them."""

import pytest
from clock import Clock
from remains import remains
from seen import ECIDS, GAIDS, add_trait, ecid, members, receive, seen

from node.access.scope import Scope
from node.audiencemanager import signals
from node.errors import InvalidInput
from node.node import Node

pytestmark = pytest.mark.feature("AM6")


@pytest.fixture
def scope(node: Node) -> Scope:
    return node.project().scope


def found(node: Node, *wanted: str, **options: int) -> list[tuple[dict[str, str], int]]:
    rows = node.project().audience.signals.search(wanted, **options)  # type: ignore[arg-type]
    return [({each["key"]: each["value"] for each in row["pairs"]}, row["count"]) for row in rows]


def test_a_search_lists_arrivals_with_when_they_came_and_who_reads_them(node: Node, scope: Scope, clock: Clock) -> None:
    reader, wider = add_trait(scope, 'segID == "X"'), add_trait(scope, 'segID == "X" AND other == "1"')
    add_trait(scope, 'other == "1"')
    first = clock()
    for times, value in ((3, "X"), (1, "Y")):
        receive(scope, *[seen(scope, ecid(1), signals=(("segID", value), ("n", str(each)))) for each in range(times)])
        clock.advance(days=1)
    receive(scope, seen(scope, ecid(2), signals=(("segID", "X"),)), source=GAIDS)
    rows = node.project().audience.signals.search(["segID"])
    assert [(row["pairs"][0]["value"], row["count"], row["source"]) for row in rows] == [
        ("X", 3, ECIDS),
        ("X", 1, GAIDS),
        ("Y", 1, ECIDS),
    ]
    assert (rows[0]["first"], rows[0]["last"], rows[0]["traits"]) == (first, first, [reader, wider])
    assert rows[0]["source_name"] == "Audience Manager device ids"
    assert rows[2]["traits"] == []
    assert found(node, "segID", unused=True) == [({"segID": "Y"}, 1)]
    assert found(node, "segID", minimum=2) == [({"segID": "X"}, 3)]
    assert found(node, "segID=X", "n=2") == [({"segID": "X", "n": "2"}, 1)]
    assert found(node, "segID=X", "n=9") == []
    assert found(node, "segID", days=2) == [({"segID": "X"}, 1), ({"segID": "Y"}, 1)]


def test_private_signals_are_read_and_kept_nowhere(node: Node, scope: Scope) -> None:
    """Neither are those that say how a call came."""
    traits = [add_trait(scope, f'{key} == "zq{key}zq"') for key in ("p_age", "d_path", "h_agent")]
    call = seen(
        scope, ecid(1), signals=(("a", "zq1zq"), *((key, f"zq{key}zq") for key in ("p_age", "d_path", "h_agent")))
    )
    receive(scope, call)
    assert [members(scope, trait) for trait in traits] == [{1}] * 3
    with scope.begin() as tx:
        tx.exec_driver_sql("DELETE FROM traits")
    needles = {key: f"zq{key}zq".encode() for key in ("p_age", "d_path", "h_agent")}
    assert remains(node.home.path / "data", needles, node=node) == set()
    assert remains(node.home.path / "data", {"a": b"zq1zq"}) != set()
    for key in needles:
        with pytest.raises(InvalidInput, match="not kept"):
            found(node, key)


def test_what_is_kept_is_bounded(node: Node, scope: Scope, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "MOST", 3)
    for each in range(5):
        receive(
            scope,
            seen(scope, ecid(1), signals=(("a", str(each)),)),
            seen(scope, ecid(1), signals=(("b" * 5_000, "1"),)),
        )
        clock.advance(seconds=1)
    assert [pairs["a"] for pairs, _ in found(node, "a")] == ["2", "3", "4"]
    assert found(node, "b" * 5_000) == []


@pytest.mark.parametrize(
    ("wanted", "options"), [((), {}), (("=1",), {}), (("a",) * 21, {}), (("a",), {"days": 0}), (("a",), {"days": 31})]
)
def test_a_search_that_cannot_be_answered_says_why(
    node: Node, wanted: tuple[str, ...], options: dict[str, int]
) -> None:
    with pytest.raises(InvalidInput):
        found(node, *wanted, **options)
