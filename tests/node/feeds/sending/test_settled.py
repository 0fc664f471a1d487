"""A run that would bring nothing is short, and whatever can change what leaves makes it a whole one."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sides import EMAIL, SMALL_TERMS, Pair, Person, Side
from sqlalchemy import insert, select, update

from node.erasure.erasure import People
from node.errors import NotAllowed, RefusedToPartner
from node.feeds.sending import attempts, preparing, standing
from node.feeds.sending.deciding import decide_members
from node.feeds.sending.edits import Addition, Removal
from node.governance.violations import PolicyViolation
from node.imports.identity_columns import IdentityColumn
from node.segments import evaluation
from node.storage.tables import DAY, feed_partners, label_uses, projects, segments
from psi.errors import VesicaError

FEED = "summer"
EVERYBODY = set(range(10, 20))  # whom both know; acme shares all who spend 5 or more, and the list "red"


def bring(side: Side, dataset: str, rows: Sequence[tuple[str, int, int]]) -> None:
    """Import people: an id, the number of the person, and what they spend."""
    file = side.folder / f"{side.name}-{dataset}.csv"
    lines = [f"{name},person{number}@example.com,{amount}" for name, number, amount in rows]
    file.write_text("\n".join(["id,email,amount", *lines]) + "\n")
    side.project.profiles.import_(
        file,
        dataset=dataset,
        id_column="id",
        identities=[IdentityColumn.parse("email=email_sha256:raw")],
        attributes=["amount"],
    )


@pytest.fixture
def shared(pair: Pair) -> Pair:
    """Acme has 20 people, globe knows ten of them; both segments have reached globe."""
    pair.terms(**SMALL_TERMS)
    for side in (pair.acme, pair.globe):
        side.project.consent.set_model("opt-out")
    bring(pair.acme, "orders", [(f"a{n}", n, n) for n in range(20)])
    bring(pair.globe, "readers", [(f"g{n}", n, 0) for n in range(10, 30)])
    pair.connect()
    pair.acme.segment("red", ["a11", "a12"])
    pair.acme.project.segments.create("rich", rule="amount >= 5")
    pair.share(FEED, ["red", "rich"], [EMAIL])
    assert sync(pair) == "done"
    assert settled(pair)
    return pair


def sync(pair: Pair) -> str:
    (run,) = pair.acme.project.feeds.sync(FEED)
    return str(run["status"])


def about(pair: Pair) -> tuple[Any, Any, str]:
    project = pair.acme.project
    return project.scope, project.partners.get("globe"), project.feeds.get(FEED).id


def settled(pair: Pair) -> bool:
    return standing.settled(*about(pair)) is not None


def members(pair: Pair, segment: str = "rich") -> set[int]:
    return {int(name.removeprefix("g")) for name in pair.globe.members("acme", segment)}


def test_nothing_is_decided_or_evaluated_where_nothing_changed(shared: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a person is new at the receiver, whom the records there are opened for."""

    def not_again(*_: object, **__: object) -> None:
        raise AssertionError("it is decided again")

    shared.post()
    checks = len(shared.acme.acts("feed.check"))
    monkeypatch.setattr(preparing, "decide_members", not_again)
    monkeypatch.setattr(evaluation, "matching", not_again)
    assert sync(shared) == "unchanged"
    assert len(shared.acme.acts("feed.check")) == checks + 1
    bring(shared.globe, "more", [("g7", 7, 0)])
    assert sync(shared) == "unchanged"
    assert members(shared) == EVERYBODY | {7}
    (shown,) = shared.acme.project.feeds.show(FEED)["partners"]
    assert shown["failure"] is None


def _withdrawn(pair: Pair) -> set[int]:
    pair.acme.project.consent.set("a15", "n")
    return EVERYBODY - {15}


def _withdrawn_in_a_namespace(pair: Pair) -> set[int]:
    pair.acme.project.consent.set("a15", "n", "email_sha256")
    return EVERYBODY - {15}


def _withdrawn_in_a_household(pair: Pair) -> set[int]:
    bring(pair.acme, "others", [("b16", 16, 9)])
    sync(pair)
    pair.acme.project.consent.set("b16", "n")
    return EVERYBODY - {16}


def _model(pair: Pair) -> set[int]:
    pair.acme.project.consent.set("a15", "y")
    sync(pair)
    pair.acme.project.consent.set_model("opt-in")
    return {15}


def _erased(pair: Pair) -> set[int]:
    pair.acme.project.erasure.profiles(People(ids=["a15"]))
    return EVERYBODY - {15}


def _erased_who_comes_again(pair: Pair) -> set[int]:
    pair.acme.project.erasure.profiles(People(ids=["a15"]))
    assert sync(pair) == "done"
    bring(pair.acme, "orders", [("a15", 15, 15), ("a3", 3, 4)])
    return EVERYBODY - {15}


def _readmitted(pair: Pair) -> set[int]:
    _erased_who_comes_again(pair)
    sync(pair)
    pair.acme.project.erasure.readmit(People(ids=["a15"], identities=["email_sha256=person15@example.com"]))
    bring(pair.acme, "orders", [("a15", 15, 15)])
    return EVERYBODY


def _imported(pair: Pair) -> set[int]:
    bring(pair.acme, "orders", [("a15", 15, 1), ("a25", 25, 9)])
    return EVERYBODY - {15} | {25}


def _dataset_gone(pair: Pair) -> set[int]:
    bring(pair.acme, "others", [("c26", 26, 9)])
    pair.acme.project.segments.update("rich", rule="orders.amount >= 5 or others.amount >= 5")
    assert sync(pair) == "done"
    assert members(pair) == EVERYBODY | {26}
    pair.acme.project.segments.update("rich", rule="orders.amount >= 5")
    pair.acme.project.datasets.delete("others")
    return EVERYBODY


def _rule(pair: Pair) -> set[int]:
    pair.acme.project.segments.update("rich", rule="amount >= 18")
    return {18, 19}


def _read_by_a_rule(pair: Pair) -> set[int]:
    acme = pair.acme.project.segments
    acme.create("richest", rule="amount >= 18")
    acme.update("rich", rule="own.richest")
    assert sync(pair) == "done"
    acme.update("richest", rule="amount >= 19")
    return {19}


def _rule_alone(pair: Pair) -> set[int]:
    """Another rule that was not evaluated, as by a kill in between."""
    with pair.acme.node.home.database.begin() as tx:
        tree = tx.scalar(select(segments.c.tree).where(segments.c.name == "rich"))
        assert tree is not None
        tree = {**tree, "rules": [{**tree["rules"][0], "value": 17}]}
        tx.execute(update(segments).where(segments.c.name == "rich").values(tree=tree))
    return {17, 18, 19}


def _consent_policy(pair: Pair) -> set[int]:
    pair.acme.project.consent_policies.create("big", needs="amount >= 14", enable=True)
    return set(range(14, 20))


def _consent_policy_disabled(pair: Pair) -> set[int]:
    _consent_policy(pair)
    assert sync(pair) == "done"
    pair.acme.project.consent_policies.disable("big")
    return EVERYBODY


def _consent_policy_by_label(pair: Pair) -> set[int]:
    pair.acme.project.consent_policies.create("big", needs="amount >= 14", label="C9", enable=True)
    assert sync(pair) == "unchanged"
    pair.acme.project.labels.apply("C9", "field", "orders.amount")
    pair.post()
    return set(range(14, 20))


def _minimum(pair: Pair) -> set[int]:
    pair.acme.project.segments.update("rich", rule="amount >= 12")
    assert sync(pair) == "done"
    pair.globe.project.set_terms(minimum_segment=9)
    pair.globe.project.partners.propose("acme")
    pair.post()
    pair.acme.project.partners.agree("globe")
    pair.post()
    return set()


def _segment_taken_out(pair: Pair) -> set[int]:
    pair.acme.project.feeds.edit(FEED, Removal(segments=["red"]))
    pair.post()
    return EVERYBODY


def _segment_added(pair: Pair) -> set[int]:
    pair.acme.segment("blue", ["a13"])
    pair.acme.project.feeds.edit(FEED, addition=Addition(segments=["blue"]))
    pair.post()
    pair.globe.project.received.enable(FEED)
    pair.post()
    return EVERYBODY


def _epoch(pair: Pair) -> set[int]:
    pair.clock.advance(days=40)
    return EVERYBODY


def _day(pair: Pair) -> set[int]:
    pair.clock.advance(seconds=DAY)
    return EVERYBODY


def _asked_for_everything(pair: Pair) -> set[int]:
    scope, connection, feed = about(pair)
    with pair.acme.node.home.database.begin() as tx:
        attempts.request_full_revision(scope, tx, connection, feed)
    return EVERYBODY


@pytest.mark.parametrize(
    "change",
    [
        _withdrawn,
        _withdrawn_in_a_namespace,
        _withdrawn_in_a_household,
        _model,
        _erased,
        _erased_who_comes_again,
        _readmitted,
        _imported,
        _dataset_gone,
        _rule,
        _read_by_a_rule,
        _rule_alone,
        _consent_policy,
        _consent_policy_disabled,
        _consent_policy_by_label,
        _minimum,
        _segment_taken_out,
        _segment_added,
        _epoch,
        _day,
        _asked_for_everything,
    ],
)
def test_what_can_change_what_leaves_makes_a_whole_run(shared: Pair, change: Callable[[Pair], set[int]]) -> None:
    expected = change(shared)
    assert not settled(shared)
    sync(shared)
    assert members(shared) == expected
    assert settled(shared)
    assert sync(shared) == "unchanged"
    assert members(shared) == expected


def _label(pair: Pair) -> None:
    with pair.acme.node.home.database.begin() as tx:  # as a release before this one could have left it
        row = {"id": "0" * 32, "project_id": pair.acme.project.scope.id, "label": "C11"}
        tx.execute(insert(label_uses).values(**row, kind="field", target="orders.amount"))


def _policy(pair: Pair) -> None:
    pair.acme.project.labels.apply("C9", "field", "orders.amount")
    sync(pair)
    with pair.acme.node.home.database.begin() as tx:
        tx.execute(update(label_uses).values(label="C2"))


def _held(pair: Pair) -> None:
    with pair.acme.node.home.database.begin() as tx:
        tx.execute(update(projects).values(restored=pair.clock(), resumed=None))


def _paused(pair: Pair) -> None:
    with pair.acme.node.home.database.begin() as tx:
        tx.execute(update(feed_partners).values(status="disabled"))


@pytest.mark.parametrize(
    ("change", "error"), [(_label, PolicyViolation), (_policy, PolicyViolation), (_held, RefusedToPartner)]
)
def test_what_forbids_a_run_is_asked_each_time(
    shared: Pair, change: Callable[[Pair], None], error: type[VesicaError]
) -> None:
    change(shared)
    with pytest.raises(error):
        standing.settled(*about(shared))
    with pytest.raises(error):
        sync(shared)


def test_a_feed_that_its_receiver_paused_is_not_settled(shared: Pair) -> None:
    _paused(shared)
    with pytest.raises(NotAllowed):
        standing.settled(*about(shared))


def test_a_feed_past_its_end_is_not_settled(pair: Pair) -> None:
    pair.prepare([Person("a1", "person1@example.com")], [Person("g1", "person1@example.com")], {"red": ["a1"]})
    pair.share(FEED, ["red"], [EMAIL], valid_until=pair.clock() + 1_000)
    assert sync(pair) == "done"
    assert settled(pair)
    pair.clock.advance(seconds=1_000)
    with pytest.raises(NotAllowed, match="ended"):
        standing.settled(*about(pair))


def test_what_changes_while_a_selection_is_made_makes_the_next_run_whole(
    shared: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy that is there for a moment, and for the selection: what has left by it is not taken for what leaves now."""
    policies = shared.acme.project.consent_policies
    policies.create("big", needs="amount >= 14")

    def meanwhile(*arguments: Any, **more: Any) -> Any:
        policies.enable("big")
        try:
            return decide_members(*arguments, **more)
        finally:
            policies.disable("big")

    with monkeypatch.context() as patched:
        patched.setattr(preparing, "decide_members", meanwhile)
        shared.acme.project.consent.set("a3", "n")  # whom globe does not know
        sync(shared)
    assert members(shared) == set(range(14, 20))
    sync(shared)
    assert members(shared) == EVERYBODY
